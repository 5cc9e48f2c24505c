"""One connection: open it, log in, subscribe, read, beat, watch, until it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

import anyio
import anyio.lowlevel
import structlog

from tapeloom._compose.plan import FeedPlan
from tapeloom._runtime.backoff import Backoff
from tapeloom._runtime.event_loop import DONE
from tapeloom._runtime.rate_limits import RateLimit
from tapeloom.errors import ConnectionLost, FeedError, LoginRefused, SubscriptionRefused, Throttled
from tapeloom.events import Event, Reject, Status
from tapeloom.plugin import (
    Ack,
    Endpoint,
    Frames,
    Link,
    Message,
    Notice,
    Pong,
    PushLink,
    Refusal,
    Subscription,
)

from .frame_intake import FrameIntake
from .subscriptions import Subscriptions

log = structlog.get_logger()


class Supervision(NamedTuple):
    """What a connection tells its supervisor, and asks of it."""

    #: Takes the events of one read; returns what is to be awaited before more is read.
    on_events: Callable[[Connection, list[Event]], Awaitable[None]]
    tell: Callable[[str, str], Awaitable[None]]  #: puts a Status into the stream
    #: These are live; the second argument is when the venue's reply arrived, None where none did.
    live: Callable[[Sequence[Subscription], int | None], None]
    refused: Callable[[Sequence[Subscription], int], None]  #: the venue refused these, and when
    watch: Callable[[Connection], None]  #: looks, from time to time, for what has fallen silent
    reset_deadlines: Callable[[], None]  #: we did not read: no silence counts against the venue
    #: Begins to replace the connection; False where nothing can take its place before it has ended.
    retire: Callable[[Connection], bool]


class Connection:
    """One link's life, and the subscriptions on it. It is lived once.

    *wanted* is the supervisor's own list of subscriptions, *messages* the rate limit of the host.
    """

    def __init__(
        self,
        plan: FeedPlan,
        endpoint: Endpoint,
        intake: FrameIntake,
        wanted: list[Subscription],
        label: str,
        messages: RateLimit | None,
        supervision: Supervision,
    ) -> None:
        assert plan.codec is not None
        self.subscriptions = Subscriptions(wanted)
        self.ready = anyio.Event()  #: all that is wanted was answered; or it has ended
        self.opened: float | None = None  #: when, on the clock's monotonic time
        self.ended = False
        self.last_recv = 0
        self._label = label
        self._messages = messages
        self._supervision = supervision
        self._endpoint = endpoint
        self._feed = plan.feed
        self._intake = intake
        self._parse = intake.parse
        self._hand_on = supervision.on_events
        self._taps = intake.taps
        self._number = 0
        self._codec = plan.codec
        self._dial = plan.dial
        self._clock = plan.feed.clock
        self._counters = plan.feed.counters
        self._link: Link | None = None
        self._pace: float = (
            endpoint.message_rate.seconds / endpoint.message_rate.count
            if endpoint.message_rate
            else 0.0
        )
        self._turn = anyio.Lock()  # to send, which is paced
        self._free = 0.0  # when the next message may be sent
        self._next_id = 1
        self._delay = plan.spec.max_batch_delay
        self._pings = endpoint.heartbeat is not None and endpoint.heartbeat.message is None
        self.heard = 0.0  #: when the last byte came, on that clock too
        self._answer_due: float | None = None  # when a heartbeat must have been answered
        self._blocked = False  # a consumer makes us wait: then silence is our own
        self._tasks: anyio.abc.TaskGroup | None = None
        self._leaving = False
        self._asking = Backoff(plan.feed.random, first=2.0)
        self._again: list[Subscription] = []  # refused for now, to be asked for once more
        self._admitted = anyio.Event()
        self._asks = False  # the login, where there is one, is behind us
        self._all_sent = False
        self._ending: str | None = None
        self._failure: FeedError | None = None

    # ------------------------------------------------------------------------------------ the life

    async def live(self) -> str:
        """Live from the dial to the end; return why it ended.

        Raises FeedError where it failed.
        """
        try:
            async with self._dial(self._endpoint) as link:
                await self._begin(link)
                try:
                    async with anyio.create_task_group() as tasks:
                        self._tasks = tasks
                        for task in (self._subscribe, self._beat, self._watch):
                            tasks.start_soon(self._guard, task, link)
                        await self._guard(self._read, link)
                        tasks.cancel_scope.cancel()
                    if self._leaving:
                        await anyio.sleep_forever()  # its session ends it when all is said
                finally:
                    self._link = self._tasks = None
        finally:
            self.ended = True
            self.ready.set()
        if self._failure is not None:
            raise self._failure
        return self._ending or "the connection ended"

    async def leave(self) -> None:
        """Read no more, and end what was subscribed to, where it is open; it closes with its session."""
        link, begun = self._link, list(self.subscriptions.begun)
        if link is None or self._tasks is None or self._ending is not None:
            return
        self._leaving = True
        self._tasks.cancel_scope.cancel()
        if begun:
            with contextlib.suppress(FeedError):  # it has ended by itself
                await self._send(
                    link, self._codec.encode_unsubscribe(begun, self._next_id), drops=True
                )

    async def _begin(self, link: Link) -> None:
        self.opened = self.heard = self._clock.monotonic()
        self.last_recv = self._clock.time_ns()
        self._counters["connections"] += 1
        self._number = self._counters["connections"]
        log.info("feed_connected", feed=self._feed.name, connection=self._label)
        await self._supervision.tell("connected", self._label)
        self.heard = self._clock.monotonic()
        self._link = link

    async def _guard(self, task: Callable[[Link], Awaitable[None]], link: Link) -> None:
        """Run one of the connection's tasks; its failure ends the connection, as one exception."""
        try:
            await task(link)
        except FeedError as error:
            if self._link is None:
                return  # it has ended by now
            # A connection that we had ended already may well break while we leave it.
            late = self._ending is not None and isinstance(error, ConnectionLost)
            if self._failure is None and not late:
                self._failure = error
            self.end(str(error))

    def end(self, reason: str) -> None:
        """End it; the first reason counts."""
        self._ending = self._ending or reason
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    async def _read(self, link: Link) -> None:
        """Read, for as long as the connection lives."""
        delay = self._delay
        if isinstance(link, PushLink) and not delay:
            await link.push_to(self._came)
        receive = link.receive
        while True:
            payloads = await receive()
            waiting = self._came(payloads)
            if waiting is not None:
                await waiting
            if delay and payloads and len(payloads) < _MOST:
                await self._clock.sleep(delay)  # what comes meanwhile comes together

    def _came(self, payloads: list[bytes]) -> Awaitable[None] | None:
        """Take what a read has brought, in batches of a bounded size: the hot path.

        Returns what is to be awaited before more is read, None where that is nothing.
        """
        self.heard = self._clock.monotonic()
        if not payloads:
            if self._pings:
                self._answer_due = None  # a control frame: most likely the pong
            return None
        self.last_recv = recv = self._clock.time_ns()
        size = sum(map(len, payloads))
        self._counters["frames"] += len(payloads)
        self._counters["bytes"] += size
        for tap in self._taps:
            tap.frames(self._number, recv, payloads, size)
        return self._take(payloads) if len(payloads) <= _FEW else self._take_parts(payloads)

    async def _take_parts(self, payloads: list[bytes]) -> None:
        """Take a large read part by part, in turn with all other connections of the stream.

        After each, consumers have their turn: what they are done with is gone before the garbage
        collector would look at it, and before it has left the processor's cache.
        """
        with anyio.CancelScope(shield=True):  # what has been read is delivered
            for start in range(0, len(payloads), _MOST):
                await self._intake.read_turns.acquire()
                try:
                    waiting = self._take(payloads[start : start + _MOST])
                    if waiting is None:
                        await anyio.lowlevel.checkpoint()
                finally:
                    self._intake.read_turns.release()
                if waiting is not None:
                    await waiting

    def _take(self, payloads: list[bytes]) -> Awaitable[None] | None:
        """Parse, and hand on to the session."""
        frames = _blank(Frames)  # filled in by hand it takes a third of the time
        frames += payloads
        frames.recv, frames.on_control = self.last_recv, self._aside
        events = self._parse(frames)
        if not events:
            return None
        waiting = self._hand_on(self, events)
        return None if waiting is DONE else self._wait(waiting)

    async def _wait(self, waiting: Awaitable[None]) -> None:
        """Wait for a consumer."""
        self._blocked = True
        await waiting
        self._blocked = False
        before, self.heard = self.heard, self._clock.monotonic()
        self.subscriptions.excuse(self.heard - before)

    # ------------------------------------------------------------------------------- subscriptions

    async def _subscribe(self, link: Link) -> None:
        if self._endpoint.login is not None:
            await self._send(link, [self._endpoint.login])
            await self._admitted.wait()
        self._asks = True
        await self._ask(link, self.subscriptions.wanted)
        self._all_sent = True
        self._see_ready()

    async def _ask(self, link: Link, some: Sequence[Subscription]) -> None:
        await self._send(link, self._codec.encode_subscribe(some, self._next_id))

    async def _ask_again(self, link: Link) -> None:
        await self._clock.sleep(self._asking.next())
        some, self._again = self.subscriptions.still(self._again), []
        await self._ask(link, some)

    async def add(self, some: Sequence[Subscription]) -> None:
        """Ask for more of what is wanted, unless that is still to be asked for anyway."""
        if self._link is not None and self._asks and some:
            await self._guard(partial(self._ask, some=some), self._link)

    async def drop(self, some: Sequence[Subscription]) -> None:
        """End subscriptions."""
        self.subscriptions.acknowledged.difference_update(some)
        if self._link is not None and self._asks and some:
            messages = self._codec.encode_unsubscribe(some, self._next_id)
            await self._guard(partial(self._send, messages=messages, drops=True), self._link)

    async def _send(self, link: Link, messages: Sequence[Message], *, drops: bool = False) -> None:
        """Send at the pace that the venue allows."""
        self._next_id += len(messages)
        for message in messages:
            async with self._turn:  # for each message anew: a heartbeat may come in between
                await self._await_turn()
                if link is not self._link:
                    return
                due = self._clock.monotonic() + self._endpoint.ack_timeout_seconds
                self.subscriptions.sent(message, due, drops=drops)
                if message.id is None and not drops:
                    self._supervision.live(self.subscriptions.still(message.subscriptions), None)
                await link.send(message.text)
                if not self._leaving:
                    await self._keep_pace()

    async def _await_turn(self) -> None:
        """Wait until something may be sent, and count it as sent."""
        await self._keep_pace()  # where the one before us has given up waiting
        if self._messages is not None:
            await self._messages.take()
        self._free = self._clock.monotonic() + self._pace

    async def _keep_pace(self) -> None:
        while (wait := self._free - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait)

    def _see_ready(self) -> None:
        if self._all_sent and not self.subscriptions.waiting:
            self.ready.set()

    # ------------------------------------------------------------------------- what the venue says

    def _aside(self, frame: bytes) -> Sequence[Event]:
        """Take a frame that is not market data; return the events that stand in its place."""
        reply = self._codec.decode_reply(frame)
        self._counters["control_frames"] += 1
        if isinstance(reply, Ack):
            return self._acknowledge(reply)
        if isinstance(reply, Refusal):
            return self._refuse(reply)
        if isinstance(reply, Notice):
            if reply.closes_connection and not self._supervision.retire(self):
                self.end(PLANNED)
            return [self._status("notice", f"{reply.kind} {reply.detail}".rstrip())]
        if isinstance(reply, Pong):
            self._answer_due = None
            return []
        recv, text = self.last_recv, frame[:500].decode(errors="replace")
        self._intake.unreadable(recv, frame, "unreadable_frame")
        return [Reject(self._feed.venue, "", recv, recv, "unreadable_frame", text)]

    def _acknowledge(self, ack: Ack) -> list[Event]:
        login = self._endpoint.login
        if login is not None and ack.id == login.id:
            self.subscriptions.answered(login)
            self._admitted.set()
            return [self._status("logged_in", self._label)]
        new = self.subscriptions.agreed(ack)
        self._see_ready()
        self._supervision.live(new, self.last_recv)
        if not new:
            return []
        return [self._status("subscribed", f"{self._label}: {len(new)} subscriptions")]

    def _refuse(self, refusal: Refusal) -> list[Event]:
        login = self._endpoint.login
        outside = not self._admitted.is_set()
        if login is not None and outside and (refusal.id == login.id or refusal.oldest_pending):
            return self._refuse_login(refusal)
        refused = self.subscriptions.refused(refusal)
        self._see_ready()
        log.warning("subscription_refused", feed=self._feed.name, reason=refusal.reason)
        wanted = self.subscriptions.still(refused)
        if refusal.permanent:
            self.subscriptions.forget(wanted)
            self._supervision.refused(wanted, self.last_recv)
        else:
            self._later(wanted)
        if refused and refusal.permanent and not self.subscriptions.wanted:
            reason = f"the venue refused every subscription: {refusal.reason}"
            self._fail(SubscriptionRefused(self._feed.name, reason))
        return [
            self._status("refused", refusal.reason, one.symbol, one.channel) for one in refused
        ] or [self._status("refused", refusal.reason)]

    def _refuse_login(self, refusal: Refusal) -> list[Event]:
        if refusal.permanent:
            self._fail(LoginRefused(self._feed.name, refusal.reason))
        else:
            reason = f"the venue does not let us in for now: {refusal.reason}"
            self._fail(Throttled(self._feed.name, reason, 0, refusal.retry_after_seconds))
        return [self._status("login_refused", refusal.reason)]

    def _fail(self, failure: FeedError) -> None:
        self._failure = failure
        self.end(str(failure))

    def _later(self, subscriptions: list[Subscription]) -> None:
        """Ask again, in a while, for what was refused for now."""
        if subscriptions and not self._again and self._tasks and self._link:
            self._tasks.start_soon(self._guard, self._ask_again, self._link)
        self._again += subscriptions

    def _status(self, state: str, detail: str, symbol: str = "", channel: str = "") -> Status:
        now = self.last_recv
        return Status(self._feed.venue, symbol, now, now, state, detail, channel)

    # ---------------------------------------------------------------------------------- the watches

    async def _beat(self, link: Link) -> None:
        """Send what the venue wants to hear from time to time."""
        beat = self._endpoint.heartbeat
        if beat is None:
            return
        due = self._clock.monotonic()
        while True:
            due += beat.interval_seconds
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
            async with self._turn:
                await self._await_turn()
                if beat.message is None:
                    await link.ping()
                else:
                    await link.send(beat.message)
                if beat.reply_timeout_seconds is not None and self._answer_due is None:
                    self._answer_due = self._clock.monotonic() + beat.reply_timeout_seconds
                await self._keep_pace()

    async def _watch(self, link: Link) -> None:
        """End a connection that is silent or leaves a message unanswered; have an old one replaced."""
        opened, endpoint = self._clock.monotonic(), self._endpoint
        step = min(1.0, endpoint.silence_timeout_seconds / 4, endpoint.ack_timeout_seconds / 4)
        old = False
        before = opened
        while True:
            await self._clock.sleep(step)
            now = self._clock.monotonic()
            if now - before > step + _LATE:  # nobody ran meanwhile: somebody has blocked the loop
                self._supervision.reset_deadlines()
                self.subscriptions.excuse(now - before - step)
                self.heard = now
            before = now
            if (
                endpoint.max_age_seconds is not None
                and now - opened > endpoint.max_age_seconds
                and not old
            ):
                old = True
                if not self._supervision.retire(self):
                    self.end(PLANNED)
            if self._blocked:
                self._supervision.reset_deadlines()
                continue
            self._supervision.watch(self)
            if now - self.heard > endpoint.silence_timeout_seconds:
                self.end(f"nothing was heard for {now - self.heard:.0f} s")
            if self._answer_due is not None and now > self._answer_due:
                self.end("the venue does not answer heartbeats")
            late = self.subscriptions.overdue(now)
            if late is not None:
                # A login holds a secret.
                what = "the login" if late is endpoint.login else late.text[:120]
                self.end(f"no answer within {endpoint.ack_timeout_seconds:g} s to {what}")


_blank: Callable[[type[Frames]], Frames] = Frames.__new__
#: So many frames at most go through the stages together. Larger batches gain nothing, delay their
#: first event, and outgrow the garbage collector's youngest generation.
_MOST = 256
#: So many are taken in the turn in which they were read.
_FEW = 64
#: What is this many seconds late to look has been kept from it.
_LATE = 1.0
#: The reason of an end that we chose ourselves: it is followed by a new connection at once.
PLANNED = "planned"
