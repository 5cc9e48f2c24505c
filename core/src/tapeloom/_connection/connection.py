"""One connection: dial, log in, subscribe, read, send heartbeats, check the deadlines.

Frames come from a `Link` of `_network`, are parsed by the feed's `FrameIntake`, and their events go
to the `Supervisor`.
"""

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
from tapeloom._runtime.taps import status_fields
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
    Unrequested,
)
from tapeloom.plugin.transports import handshake_refused

from .frame_intake import FrameIntake
from .subscriptions import Subscriptions

log = structlog.get_logger()

#: Maximum number of frames parsed and processed together. Larger batches gain nothing, delay their
#: first event, and outgrow the garbage collector's youngest generation.
_MAX_BATCH = 256
#: Maximum number of frames parsed within the read callback; a larger read is parsed in parts.
_MAX_INLINE = 64
#: If the watchdog runs this many seconds late, the event loop was blocked; that time is not counted
#: as silence of the venue.
_BLOCKED_SECONDS = 1.0
#: The reason of an end that we chose ourselves: it is followed by a new connection at once.
PLANNED = "planned"

_new: Callable[[type[Frames]], Frames] = Frames.__new__


class Supervision(NamedTuple):
    """The callbacks by which a connection reports to its supervisor."""

    #: Processes the events of one read; returns an awaitable to await before the next read.
    on_events: Callable[[Connection, list[Event]], Awaitable[None]]
    report: Callable[[str, str], Awaitable[None]]  #: emits a Status with this state and detail
    #: These are live; the second argument is when the reply arrived in ns, None if there was none.
    on_live: Callable[[Sequence[Subscription], int | None], None]
    #: The venue refused these; the second argument is when the reply arrived in ns.
    on_refused: Callable[[Sequence[Subscription], int], None]
    check: Callable[[Connection], None]  #: checks for stalled subscriptions; called periodically
    reset_deadlines: Callable[[], None]  #: we did not read: do not count that time as silence
    #: Starts to replace the connection; False if no second connection is possible beside it.
    replace: Callable[[Connection], bool]


class Connection:
    """One connection and the subscriptions on it. It runs once.

    *wanted* is the supervisor's own list of subscriptions, *host_limit* the message rate limit
    shared by all connections to the host.
    """

    def __init__(
        self,
        plan: FeedPlan,
        endpoint: Endpoint,
        intake: FrameIntake,
        wanted: list[Subscription],
        label: str,
        host_limit: RateLimit | None,
        supervision: Supervision,
    ) -> None:
        assert plan.codec is not None
        self.subscriptions = Subscriptions(wanted)
        self.ready = anyio.Event()  #: set once all subscriptions were answered, or at the end
        self.opened_at: float | None = None  #: in monotonic seconds
        self.ended = False
        self.number = 0  #: the number of the feed's connection, from 1
        self.last_recv = 0
        self._label = label
        self._supervision = supervision
        self._endpoint = endpoint
        self._feed = plan.feed
        self._intake = intake
        self._parse = intake.parse
        self._on_events = supervision.on_events
        self._taps = intake.taps
        self._codec = plan.codec
        self._history = plan.history
        self._dial = plan.dial
        self._clock = plan.feed.clock
        self._counters = plan.feed.counters
        self._facts = plan.facts
        self._link: Link | None = None
        rate = endpoint.message_rate
        self._send_limit = RateLimit(rate, self._clock, host_limit) if rate else host_limit
        self._send_lock = anyio.Lock()
        self._next_id = 1
        self._delay = plan.spec.max_batch_delay
        self._pings = endpoint.heartbeat is not None and endpoint.heartbeat.message is None
        self.last_byte = 0.0  #: when the last byte arrived, in monotonic seconds
        self.reads = 0  #: number of reads, or parts of large reads, that had events
        self._heartbeat_due: float | None = None  # when the reply to a heartbeat is due
        self._blocked = False  # waiting for a consumer: the venue is not silent, we do not read
        self._tasks: anyio.abc.TaskGroup | None = None
        self._leaving = False
        self._retry_backoff = Backoff(plan.feed.random, first=2.0)
        self._to_retry: list[Subscription] = []  # refused, but not permanently
        self._logged_in = anyio.Event()
        self._may_subscribe = False  # the login, if any, was accepted
        self._all_sent = False
        self._end_reason: str | None = None
        self._failure: FeedError | None = None

    # ----------------------------------------------------------------------------------- lifecycle

    async def run(self) -> str:
        """Dial, subscribe and read until the connection ends; return the reason.

        Raises FeedError if it failed.
        """
        try:
            async with self._dial(self._endpoint) as link:
                await self._opened(link)
                try:
                    async with anyio.create_task_group() as tasks:
                        self._tasks = tasks
                        for task in (self._subscribe, self._send_heartbeats, self._watchdog):
                            tasks.start_soon(self._guard, task, link)
                        await self._guard(self._read, link)
                        tasks.cancel_scope.cancel()
                    if self._leaving:
                        await anyio.sleep_forever()  # the supervisor cancels it after `leave`
                finally:
                    self._link = self._tasks = None
        except FeedError as error:
            raise self._by_the_venues_rule(error) from error.__cause__
        finally:
            self.ended = True
            self.ready.set()
        if self._failure is not None:
            raise self._failure
        return self._end_reason or "the connection ended"

    def _by_the_venues_rule(self, error: FeedError) -> FeedError:
        """Return *error*; for a refused handshake, the one that the venue's answer stands for."""
        if error.http_answer is None or self._history is None:
            return error
        rule = self._history.refusal_reason(error.http_answer[0], error.http_answer[2])
        status, headers, body = error.http_answer
        now, url = self._clock.time_ns(), self._endpoint.url
        return handshake_refused(self._feed.name, url, status, headers, now, body, rule)

    async def leave(self) -> None:
        """Stop reading, and unsubscribe if the connection is open; the supervisor then closes."""
        link, requested = self._link, list(self.subscriptions.requested)
        if link is None or self._tasks is None or self._end_reason is not None:
            return
        self._leaving = True
        self._tasks.cancel_scope.cancel()
        if requested:
            with contextlib.suppress(FeedError):  # the connection has ended by itself
                messages = self._codec.encode_unsubscribe(requested, self._next_id)
                await self._send(link, messages, unsubscribes=True)

    async def _opened(self, link: Link) -> None:
        self.opened_at = self.last_byte = self._clock.monotonic()
        self.last_recv = self._clock.time_ns()
        self._counters["connections"] += 1
        self.number = self._counters["connections"]
        self._facts.record(self.last_recv, "opened", connection=self.number, label=self._label)
        log.info("feed_connected", feed=self._feed.name, connection=self._label)
        await self._supervision.report("connected", self._label)
        self.last_byte = self._clock.monotonic()
        self._link = link

    async def _guard(self, task: Callable[[Link], Awaitable[None]], link: Link) -> None:
        """Run one of the connection's tasks; a FeedError in it ends the connection."""
        try:
            await task(link)
        except FeedError as error:
            if self._link is None:
                return  # the connection has ended already
            # A connection that we are ending may be lost meanwhile: that is no failure.
            late = self._end_reason is not None and isinstance(error, ConnectionLost)
            if self._failure is None and not late:
                self._failure = error
            self.end(str(error))

    def end(self, reason: str) -> None:
        """End the connection; the first reason counts."""
        self._end_reason = self._end_reason or reason
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    # ------------------------------------------------------------------------------------- reading

    async def _read(self, link: Link) -> None:
        """Read until the connection ends."""
        delay = self._delay
        if isinstance(link, PushLink) and not delay:
            await link.push_to(self._on_read)
        receive = link.receive
        while True:
            payloads = await receive()
            waiting = self._on_read(payloads)
            if waiting is not None:
                await waiting
            if delay and payloads and len(payloads) < _MAX_BATCH:
                await self._clock.sleep(delay)  # frames that arrive meanwhile form one batch

    def _on_read(self, payloads: list[bytes]) -> Awaitable[None] | None:
        """Parse and deliver the frames of one read (hot path).

        A large read is parsed in parts, by the awaitable that is returned. It must be awaited before
        the next read; None: nothing is left to do.
        """
        self.last_byte = self._clock.monotonic()
        if not payloads:
            if self._pings:
                self._heartbeat_due = None  # a control frame: most likely the pong
            return None
        self.last_recv = self._clock.time_ns()
        self._counters["frames"] += len(payloads)
        return self._push(payloads) if len(payloads) <= _MAX_INLINE else self._push_parts(payloads)

    async def _push_parts(self, payloads: list[bytes]) -> None:
        """Parse and deliver a large read in parts, alternating with the stream's other connections.

        After each part the consumers run: they release its events before the garbage collector
        visits them, and while they are still in the processor's cache.
        """
        with anyio.CancelScope(shield=True):  # what was read is delivered
            for start in range(0, len(payloads), _MAX_BATCH):
                await self._intake.read_turns.acquire()
                try:
                    waiting = self._push(payloads[start : start + _MAX_BATCH])
                    if waiting is None:
                        await anyio.lowlevel.checkpoint()
                finally:
                    self._intake.read_turns.release()
                if waiting is not None:
                    await waiting

    def _push(self, payloads: list[bytes]) -> Awaitable[None] | None:
        """Parse frames and push their events to the supervisor."""
        frames = _new(Frames)  # setting the attributes here takes a third of the time of __init__
        frames += payloads
        frames.recv, frames.on_control = self.last_recv, self._on_control
        frames.connection = self.number
        events = self._parse(frames)
        size = sum(map(len, payloads))
        self._counters["bytes"] += size
        for tap in self._taps:  # after the facts that result from parsing
            tap.frames(self.number, self.last_recv, payloads, size)
        if not events:
            return None
        self.reads += 1
        if self.subscriptions.has_pending:
            self.subscriptions.process(events)
        waiting = self._on_events(self, events)
        return None if waiting is DONE else self._wait_for_consumer(waiting)

    async def _wait_for_consumer(self, waiting: Awaitable[None]) -> None:
        self._blocked = True
        await waiting
        self._blocked = False
        before, self.last_byte = self.last_byte, self._clock.monotonic()
        self.subscriptions.extend_deadlines(self.last_byte - before)

    # ------------------------------------------------------------------------------- subscriptions

    async def _subscribe(self, link: Link) -> None:
        if self._endpoint.login is not None:
            await self._send(link, [self._endpoint.login])
            await self._logged_in.wait()
        self._may_subscribe = True
        await self._request(link, self.subscriptions.wanted)
        self._all_sent = True
        self._update_ready()

    async def _request(self, link: Link, subscriptions: Sequence[Subscription]) -> None:
        await self._send(link, self._codec.encode_subscribe(subscriptions, self._next_id))

    async def _retry_refused(self, link: Link) -> None:
        await self._clock.sleep(self._retry_backoff.next())
        refused, self._to_retry = self.subscriptions.still_wanted(self._to_retry), []
        await self._request(link, refused)

    async def add(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe to more, unless the initial subscribe is still to come and includes them."""
        if self._link is not None and self._may_subscribe and subscriptions:
            await self._guard(partial(self._request, subscriptions=subscriptions), self._link)

    async def drop(self, subscriptions: Sequence[Subscription]) -> None:
        """Unsubscribe."""
        self.subscriptions.acknowledged.difference_update(subscriptions)
        if self._link is not None and self._may_subscribe and subscriptions:
            messages = self._codec.encode_unsubscribe(subscriptions, self._next_id)
            await self._guard(partial(self._send, messages=messages, unsubscribes=True), self._link)

    async def _send(
        self, link: Link, messages: Sequence[Message], *, unsubscribes: bool = False
    ) -> None:
        """Send messages within the venue's rate limits."""
        self._next_id += len(messages)
        for message in messages:
            if self._send_limit is not None:
                await self._send_limit.acquire(reserve=self._heartbeat_reserve)
            async with self._send_lock:
                if link is not self._link:
                    return
                due = self._clock.monotonic() + self._endpoint.ack_timeout_seconds
                self.subscriptions.sent(message, due, unsubscribes=unsubscribes)
                if message.id is None and not unsubscribes:
                    wanted = self.subscriptions.still_wanted(message.subscriptions)
                    self._supervision.on_live(wanted, None)
                await link.send(message.text)

    @property
    def _heartbeat_reserve(self) -> int:
        """The part of the message limit to leave for heartbeats, where its window lasts long."""
        rate, heartbeat = self._endpoint.message_rate, self._endpoint.heartbeat
        if rate is None or heartbeat is None or rate.seconds < 2 * heartbeat.interval_seconds:
            return 0
        return min(int(rate.seconds / heartbeat.interval_seconds) + 1, rate.count - 1)

    def _update_ready(self) -> None:
        if self._all_sent and not self.subscriptions.has_pending:
            self.ready.set()

    # ------------------------------------------------------------------------- the venue's replies

    def _on_control(self, frame: bytes) -> Sequence[Event]:
        """Process a frame that is not market data; return the events that stand in its place."""
        reply = self._codec.decode_reply(frame)
        self._counters["control_frames"] += 1
        if isinstance(reply, Ack):
            return self._recorded(self._on_ack(reply))
        if isinstance(reply, Refusal):
            return self._recorded(self._on_refusal(reply))
        if isinstance(reply, Notice):
            if reply.closes_connection and not self._supervision.replace(self):
                self.end(PLANNED)
            return self._recorded([self._status("notice", f"{reply.kind} {reply.detail}".rstrip())])
        if isinstance(reply, Pong):
            self._heartbeat_due = None
            return []
        if isinstance(reply, Unrequested):
            self._counters["unrequested"] += 1
            return []
        recv, text = self.last_recv, frame[:500].decode(errors="replace")
        self._intake.unreadable(recv, frame, "unreadable_frame")
        return [Reject(self._feed.venue, "", recv, recv, "unreadable_frame", text)]

    def _recorded(self, statuses: list[Status]) -> list[Status]:
        """Record the statuses that stand in the place of a reply, and return them."""
        self._facts.record(self.last_recv, "reply", of=[*map(status_fields, statuses)])
        return statuses

    def _on_ack(self, ack: Ack) -> list[Status]:
        login = self._endpoint.login
        if login is not None and ack.id == login.id:
            self.subscriptions.settle(login)
            self._logged_in.set()
            return [self._status("logged_in", self._label)]
        new = self.subscriptions.acknowledge(ack)
        self._update_ready()
        self._supervision.on_live(new, self.last_recv)
        if not new:
            return []
        return [self._status("subscribed", f"{self._label}: {len(new)} subscriptions")]

    async def _accepted_by_events(self, accepted: list[Subscription]) -> None:
        """Report subscriptions that have no reply, but of which events show that they are accepted."""
        self._update_ready()
        self._supervision.on_live(accepted, self._clock.time_ns())
        text = f"{len(accepted)} subscriptions, shown by their events; no known reply came"
        await self._supervision.report("subscribed", f"{self._label}: {text}")

    def _on_refusal(self, refusal: Refusal) -> list[Status]:
        # `oldest_pending` marks a refusal without an id: it answers the oldest message, first the login.
        login = self._endpoint.login
        before_login = not self._logged_in.is_set()
        if (
            login is not None
            and before_login
            and (refusal.id == login.id or refusal.oldest_pending)
        ):
            return self._on_login_refused(refusal)
        refused = self.subscriptions.refuse(refusal)
        self._update_ready()
        log.warning("subscription_refused", feed=self._feed.name, reason=refusal.reason)
        wanted = self.subscriptions.still_wanted(refused)
        if refusal.permanent:
            self.subscriptions.remove(wanted)
            self._supervision.on_refused(wanted, self.last_recv)
        else:
            self._retry_later(wanted)
        if refused and refusal.permanent and not self.subscriptions.wanted:
            reason = f"the venue refused every subscription: {refusal.reason}"
            self._fail(SubscriptionRefused(self._feed.name, reason))
        named = refused or [Subscription("", "")]  # one Status even if it names no subscription
        return [self._status("refused", refusal.reason, key.symbol, key.channel) for key in named]

    def _on_login_refused(self, refusal: Refusal) -> list[Status]:
        if refusal.permanent:
            self._fail(LoginRefused(self._feed.name, refusal.reason))
        else:
            reason = f"the venue refused the login for now: {refusal.reason}"
            self._fail(Throttled(self._feed.name, reason, 0, refusal.retry_after_seconds))
        return [self._status("login_refused", refusal.reason)]

    def _fail(self, failure: FeedError) -> None:
        self._failure = failure
        self.end(str(failure))

    def _retry_later(self, subscriptions: list[Subscription]) -> None:
        """Request subscriptions again after a pause: the refusal was not permanent."""
        if subscriptions and not self._to_retry and self._tasks and self._link:
            self._tasks.start_soon(self._guard, self._retry_refused, self._link)
        self._to_retry += subscriptions

    def _status(self, state: str, detail: str, symbol: str = "", channel: str = "") -> Status:
        now = self.last_recv
        return Status(self._feed.venue, symbol, now, now, state, detail, channel)

    # ----------------------------------------------------------------------- heartbeat and watchdog

    async def _send_heartbeats(self, link: Link) -> None:
        """Send the endpoint's heartbeat at its interval."""
        heartbeat = self._endpoint.heartbeat
        if heartbeat is None:
            return
        due = self._clock.monotonic()
        while True:
            due += heartbeat.interval_seconds
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
            if self._send_limit is not None:
                await self._send_limit.acquire(urgent=True)
            async with self._send_lock:
                if heartbeat.message is None:
                    await link.ping()
                else:
                    await link.send(heartbeat.message)
                if heartbeat.reply_timeout_seconds is not None and self._heartbeat_due is None:
                    self._heartbeat_due = self._clock.monotonic() + heartbeat.reply_timeout_seconds

    async def _watchdog(self, link: Link) -> None:
        """End a connection that is silent or has an overdue reply; replace one that is too old."""
        opened_at, endpoint = self._clock.monotonic(), self._endpoint
        max_age = endpoint.max_age_seconds
        step = min(1.0, endpoint.silence_timeout_seconds / 4, endpoint.ack_timeout_seconds / 4)
        too_old = False
        last_check = opened_at
        while True:
            await self._clock.sleep(step)
            now = self._clock.monotonic()
            if now - last_check > step + _BLOCKED_SECONDS:  # the event loop was blocked meanwhile
                self._supervision.reset_deadlines()
                self.subscriptions.extend_deadlines(now - last_check - step)
                self.last_byte = now
            last_check = now
            if max_age is not None and now - opened_at > max_age and not too_old:
                too_old = True
                if not self._supervision.replace(self):
                    self.end(PLANNED)
            if self._blocked:
                self._supervision.reset_deadlines()
                continue
            self._supervision.check(self)
            if now - self.last_byte > endpoint.silence_timeout_seconds:
                self.end(f"no byte was received for {now - self.last_byte:.0f} s")
            if self._heartbeat_due is not None and now > self._heartbeat_due:
                self.end("the venue does not answer heartbeats")
            if accepted := self.subscriptions.accept_by_events(now):
                await self._accepted_by_events(accepted)
            overdue = self.subscriptions.overdue(now)
            if overdue is not None:
                # The text of a login holds a secret.
                text = "the login" if overdue is endpoint.login else overdue.text[:120]
                self.end(f"no answer within {endpoint.ack_timeout_seconds:g} s to {text}")
