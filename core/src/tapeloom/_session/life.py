"""The session itself: its tasks, its subscriptions, its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import anyio
import structlog

from tapeloom.errors import (
    ConnectionFailed,
    ConnectionLost,
    FeedError,
    LoginRefused,
    SubscriptionRefused,
    Throttled,
)
from tapeloom.events import Event, Reject, Status
from tapeloom.feeds import Ack, Endpoint, Frames, Link, Message, Notice, Pong, Refusal, Subscription

from .backoff import Backoff
from .holes import Holes
from .subscriptions import Subscriptions

if TYPE_CHECKING:
    from tapeloom._compose import Plan
    from tapeloom._limits import Budgets

__all__ = ["Session"]

log = structlog.get_logger()

Deliver = Callable[[list[Event]], Awaitable[None]]


class Session:
    """One endpoint and the subscriptions that go over its connection."""

    def __init__(
        self,
        plan: Plan,
        endpoint: Endpoint,
        subscriptions: Sequence[Subscription],
        deliver: Deliver,
        budgets: Budgets,
        *,
        label: str = "",
    ) -> None:
        assert plan.codec is not None
        assert plan.dial is not None
        self.endpoint = endpoint
        self.label = label or endpoint.name or plan.feed.name
        self.subscriptions = Subscriptions(subscriptions)
        self._plan = plan
        self._feed = plan.feed
        self._codec = plan.codec
        self._dial = plan.dial
        self._clock = plan.feed.clock
        self._counters = plan.feed.counters
        self._deliver = deliver
        self._dials = budgets.of(endpoint.url, "dial", endpoint.dials)
        self._messages = budgets.of(endpoint.url, "message", endpoint.host_messages)
        self._backoff = Backoff(plan.feed.random)
        self._link: Link | None = None
        self._pace: float = (
            endpoint.messages.seconds / endpoint.messages.count if endpoint.messages else 0.0
        )
        self._turn = anyio.Lock()  # to send, which is paced
        self._next_id = 1
        self._holes = Holes(plan.feed.venue)
        self._heard = 0.0  # when the last byte came
        self._blocked = False  # a consumer makes us wait: then silence is our own
        self._last_recv = 0
        self._tasks: anyio.abc.TaskGroup | None = None
        self._asking = Backoff(plan.feed.random, first=2.0)
        self._again: list[Subscription] = []  # refused for now, to be asked for once more
        self._renewed: dict[Subscription, float] = {}  # when each was last subscribed anew
        self._admitted = anyio.Event()
        self._asks = False  # the login, where there is one, is behind us
        self._opened: float | None = None
        self._worked = False  # a connection has been open
        self._ending: str | None = None
        self._failure: FeedError | None = None

    # ------------------------------------------------------------------------------------ the life

    async def run(self) -> None:
        """Keep a connection until cancelled.

        Raises FeedError where going on is pointless: the venue refuses for good.
        """
        while True:
            pause = 0.0
            try:
                if self._dials is not None:
                    await self._dials.take()
                reason = await self._live()
            except Throttled as error:
                reason, pause = str(error), error.retry_after or 0.0
                if self._dials is not None:
                    self._dials.pause(pause)
            except (ConnectionFailed, ConnectionLost) as error:
                # What has worked before is worth another try, whatever it says now.
                if not error.retryable and not self._worked:
                    raise
                reason = str(error)
            lived = 0.0 if self._opened is None else self._clock.monotonic() - self._opened
            self._backoff.lived(lived)
            if reason != _PLANNED or lived < _SETTLED:
                pause = max(pause, self._backoff.next())
            self._counters["reconnects"] += 1
            log.warning(
                "feed_reconnecting",
                feed=self._feed.name,
                connection=self.label,
                reason=reason,
                attempt=self._backoff.attempt,
                delay=round(pause, 2),
            )
            await self._tell(
                "reconnecting", f"{self.label}: {reason.rstrip('.')}; next try in {pause:.1f} s"
            )
            await self._clock.sleep(pause)

    async def _live(self) -> str:
        """Live one connection to its end; return why it ended."""
        self._begin()
        async with self._dial(self.endpoint) as link:
            self._opened = self._clock.monotonic()
            self._worked = True
            self._last_recv = self._clock.time_ns()
            self._counters["connections"] += 1
            log.info("feed_connected", feed=self._feed.name, connection=self.label)
            await self._tell("connected", self.label)
            self._heard = self._clock.monotonic()
            self._link = link
            try:
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    for task in (self._subscribe, self._beat, self._watch):
                        tasks.start_soon(self._guard, task, link)
                    await self._guard(self._read, link)
                    tasks.cancel_scope.cancel()
            finally:
                self._link = self._tasks = None
                self._blocked = False
                self._holes.cut(self._last_recv)
        if self._failure is not None:
            raise self._failure
        return self._ending or "the connection ended"

    def _begin(self) -> None:
        self._ending = self._failure = self._opened = None
        self._asking.attempt = 0
        self._again.clear()
        self.subscriptions.begin()
        self._admitted = anyio.Event()
        self._asks = False

    async def _guard(self, task: Callable[[Link], Awaitable[None]], link: Link) -> None:
        """Run one of the session's tasks; its failure ends the connection, as one exception."""
        try:
            await task(link)
        except FeedError as error:
            if link is not self._link:
                return  # it is another connection by now
            # A connection that we had ended already may well break while we leave it.
            late = self._ending is not None and isinstance(error, ConnectionLost)
            if self._failure is None and not late:
                self._failure = error
            self._end(str(error))

    def _end(self, reason: str) -> None:
        self._ending = self._ending or reason
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    async def _read(self, link: Link) -> None:
        """Read, and hand on in batches of a bounded size, for as long as the connection lives."""
        monotonic, receive, counters = self._clock.monotonic, link.receive, self._counters
        while True:
            payloads = await receive()
            self._heard = monotonic()
            if not payloads:
                continue
            self._last_recv = self._clock.time_ns()
            counters["frames"] += len(payloads)
            counters["bytes"] += sum(map(len, payloads))
            if len(payloads) <= _MOST:
                await self._take(payloads)
                continue
            for start in range(0, len(payloads), _MOST):
                await self._take(payloads[start : start + _MOST])

    async def _take(self, payloads: list[bytes]) -> None:
        """Parse, stage, deliver: the hot path."""
        recv, holes, subscriptions = self._last_recv, self._holes, self.subscriptions
        events = self._plan.parse(Frames(payloads, recv, self._aside))
        holes.seen(events, recv)
        if subscriptions.waiting:
            holes.prove(events, subscriptions.asked(), subscriptions.wanted)
        if holes.open:
            events = self._announce(events)
        events = self._plan.pipeline(events)
        if events:
            self._blocked = True
            await self._deliver(events)
            self._blocked = False
            before, self._heard = self._heard, self._clock.monotonic()
            if subscriptions.waiting:
                subscriptions.excuse(self._heard - before)

    # ------------------------------------------------------------------------------- subscriptions

    async def _subscribe(self, link: Link) -> None:
        if self.endpoint.login is not None:
            await self._send(link, [self.endpoint.login])
            await self._admitted.wait()
        self._asks = True
        await self._ask(link, self.subscriptions.wanted)

    async def _ask(self, link: Link, some: Sequence[Subscription]) -> None:
        await self._send(link, self._codec.add(some, self._next_id))

    async def _ask_again(self, link: Link) -> None:
        await self._clock.sleep(self._asking.next())
        some, self._again = self.subscriptions.still(self._again), []
        await self._ask(link, some)

    async def add(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe to more, now or, between two connections, with the next one."""
        new = self.subscriptions.add(subscriptions)
        if self._link is not None and self._asks and new:
            await self._guard(partial(self._ask, some=new), self._link)

    async def drop(self, subscriptions: Sequence[Subscription]) -> None:
        """End subscriptions, and forget them."""
        gone = self.subscriptions.still(subscriptions)
        self.subscriptions.forget(gone)
        self._holes.forget(gone)
        if self._link is not None and self._asks and gone:
            messages = self._codec.drop(gone, self._next_id)
            await self._guard(partial(self._send, messages=messages, drops=True), self._link)

    async def renew(self, one: Subscription) -> None:
        """Subscribe anew, so that the venue begins again with the whole."""
        now = self._clock.monotonic()
        turn = max(now, self._renewed.get(one, -_RENEWALS) + _RENEWALS)
        self._renewed[one] = turn
        link = self._link
        await self._clock.sleep(turn - now)
        if link is None or link is not self._link or not self._asks:
            return  # the connection that is about to be made begins with the whole
        if one in self.subscriptions.wanted:
            self._counters["renewals"] += 1
            self.subscriptions.acknowledged.discard(one)
            drop = partial(self._send, messages=self._codec.drop([one], self._next_id), drops=True)
            await self._guard(drop, link)
            await self._guard(partial(self._ask, some=[one]), link)

    async def _send(self, link: Link, messages: Sequence[Message], *, drops: bool = False) -> None:
        """Send at the pace that the venue allows."""
        self._next_id += len(messages)
        for message in messages:
            async with self._turn:  # for each message anew: a heartbeat may come in between
                await self._await_turn()
                if link is not self._link:
                    return  # the next connection asks for all that is wanted
                due = self._clock.monotonic() + self.endpoint.ack_within
                self.subscriptions.sent(message, due, drops=drops)
                if message.id is None and not drops:
                    self._holes.live.update(self.subscriptions.still(message.subscriptions))
                await link.send(message.text)
                if self._pace:
                    await self._clock.sleep(self._pace)

    async def _await_turn(self) -> None:
        if self._messages is not None:
            await self._messages.take()

    def _aside(self, frame: bytes) -> Sequence[Event]:
        """Take a frame that is not market data; return the events that stand in its place."""
        reply = self._codec.accept(frame)
        self._counters["control"] += 1
        if isinstance(reply, Ack):
            return self._acknowledge(reply)
        if isinstance(reply, Refusal):
            return self._refuse(reply)
        if isinstance(reply, Notice):
            if reply.ends:
                self._end(_PLANNED)
            return [self._status("notice", f"{reply.kind} {reply.detail}".rstrip())]
        if isinstance(reply, Pong):
            return []
        text = frame[:500].decode(errors="replace")
        return [
            Reject(self._feed.venue, "", self._last_recv, self._last_recv, "unreadable_frame", text)
        ]

    def _acknowledge(self, ack: Ack) -> list[Event]:
        login = self.endpoint.login
        if login is not None and ack.id == login.id:
            self.subscriptions.answered(login)
            self._admitted.set()
            return [self._status("logged_in", self.label)]
        new = self.subscriptions.agreed(ack)
        self._holes.live.update(new)
        self._holes.close(new)
        if not new:
            return []
        return [self._status("subscribed", f"{self.label}: {len(new)} subscriptions")]

    def _refuse(self, refusal: Refusal) -> list[Event]:
        login = self.endpoint.login
        outside = not self._admitted.is_set()
        if login is not None and outside and (refusal.id == login.id or refusal.oldest):
            return self._refuse_login(refusal)
        refused = self.subscriptions.refused(refusal)
        log.warning("subscription_refused", feed=self._feed.name, reason=refusal.reason)
        wanted = self.subscriptions.still(refused)
        if refusal.permanent:
            self.subscriptions.forget(wanted)
            self._holes.close(wanted)
            self._holes.live.difference_update(wanted)
        else:
            self._later(wanted)
        if refused and refusal.permanent and not self.subscriptions.wanted:
            self._fail(
                SubscriptionRefused(
                    self._feed.name, f"the venue refused every subscription: {refusal.reason}"
                )
            )
        return [
            self._status("refused", refusal.reason, one.symbol, one.channel) for one in refused
        ] or [self._status("refused", refusal.reason)]

    def _refuse_login(self, refusal: Refusal) -> list[Event]:
        if refusal.permanent:
            self._fail(LoginRefused(self._feed.name, refusal.reason))
        else:
            reason = f"the venue does not let us in for now: {refusal.reason}"
            self._fail(Throttled(self._feed.name, reason, 0, refusal.pause))
        return [self._status("login_refused", refusal.reason)]

    def _fail(self, failure: FeedError) -> None:
        self._failure = failure
        self._end(str(failure))

    def _later(self, subscriptions: list[Subscription]) -> None:
        """Ask again, in a while, for what was refused for now."""
        if subscriptions and not self._again and self._tasks and self._link:
            self._tasks.start_soon(self._guard, self._ask_again, self._link)
        self._again += subscriptions

    def _announce(self, events: list[Event]) -> list[Event]:
        before = len(self._holes.open)
        events = self._holes.announce(events)
        self._counters["gaps"] += before - len(self._holes.open)
        return events

    # ---------------------------------------------------------------------------------- the watches

    async def _beat(self, link: Link) -> None:
        """Send what the venue wants to hear from time to time."""
        beat = self.endpoint.heartbeat
        if beat is None:
            return
        due = self._clock.monotonic()
        while True:
            due += beat.seconds
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
            async with self._turn:
                await self._await_turn()
                if beat.message is None:
                    await link.ping()
                else:
                    await link.send(beat.message)
                if self._pace:
                    await self._clock.sleep(self._pace)

    async def _watch(self, link: Link) -> None:
        """End a connection that is silent, too old, or leaves a message unanswered."""
        opened = self._clock.monotonic()
        step = min(1.0, self.endpoint.silence / 4, self.endpoint.ack_within / 4)
        while True:
            await self._clock.sleep(step)
            now = self._clock.monotonic()
            if self.endpoint.max_age is not None and now - opened > self.endpoint.max_age:
                self._end(_PLANNED)
            if self._blocked:
                continue  # it is we who do not listen
            if now - self._heard > self.endpoint.silence:
                self._end(f"nothing was heard for {now - self._heard:.0f} s")
            late = self.subscriptions.overdue(now)
            if late is not None:
                # A login holds a secret.
                what = "the login" if late is self.endpoint.login else late.text[:120]
                self._end(f"no answer within {self.endpoint.ack_within:g} s to {what}")

    # --------------------------------------------------------------------------------------- status

    def _status(self, state: str, detail: str, symbol: str = "", channel: str = "") -> Status:
        now = self._last_recv
        return Status(self._feed.venue, symbol, now, now, state, detail, channel)

    async def _tell(self, state: str, detail: str) -> None:
        now = self._clock.time_ns()
        await self._deliver(
            self._plan.pipeline([Status(self._feed.venue, "", now, now, state, detail)])
        )


#: So many frames at most go through the stages together. Larger batches gain nothing, delay their
#: first event, and outgrow the garbage collector's youngest generation.
_MOST = 256
#: The reason of an end that we chose ourselves: it is followed by a new connection at once,
_PLANNED = "planned"
#: except after a life of less than so many seconds: a venue that sends everybody away is left alone.
_SETTLED = 1.0
#: A subscription is renewed every so many seconds at the most.
_RENEWALS = 5.0
