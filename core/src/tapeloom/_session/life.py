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
    SubscriptionRefused,
    Throttled,
)
from tapeloom.events import Event, Reject, Status
from tapeloom.feeds import Ack, Endpoint, Frames, Link, Message, Notice, Pong, Refusal, Subscription

from .backoff import Backoff
from .holes import Holes

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
        self.wanted: list[Subscription] = list(subscriptions)
        self.acknowledged: set[Subscription] = set()
        self._plan = plan
        self._feed = plan.feed
        self._codec = plan.codec
        self._dial = plan.dial
        self._clock = plan.feed.clock
        self._counters = plan.feed.counters
        self._deliver = deliver
        self._dials = budgets.of(endpoint.url, "dial", endpoint.dials)
        self._backoff = Backoff(plan.feed.random)
        self._link: Link | None = None
        self._pace: float = (
            endpoint.messages.seconds / endpoint.messages.count if endpoint.messages else 0.0
        )
        self._turn = anyio.Lock()  # to send, which is paced
        self._next_id = 1
        self._sent: dict[int | str, tuple[Message, float]] = {}
        self._holes = Holes(plan.feed.venue)
        self._heard = 0.0  # when the last byte came
        self._blocked = False  # a consumer makes us wait: then silence is our own
        self._last_recv = 0
        self._tasks: anyio.abc.TaskGroup | None = None
        self._asking = Backoff(plan.feed.random, first=2.0)
        self._again: list[Subscription] = []  # refused for now, to be asked for once more
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
        self._sent.clear()
        self.acknowledged.clear()

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
        recv, holes = self._last_recv, self._holes
        events = self._plan.parse(Frames(payloads, recv, self._aside))
        holes.seen(events, recv)
        if self._sent:
            holes.prove(events, self._asked(), self.wanted)
        if holes.open:
            events = self._announce(events)
        events = self._plan.pipeline(events)
        if events:
            self._blocked = True
            await self._deliver(events)
            self._blocked = False
            before, self._heard = self._heard, self._clock.monotonic()
            if self._sent:
                self._excuse(self._heard - before)

    # ------------------------------------------------------------------------------- subscriptions

    async def _subscribe(self, link: Link) -> None:
        await self._send(link, self._codec.add(self.wanted, self._next_id))

    async def _ask_again(self, link: Link) -> None:
        await self._clock.sleep(self._asking.next())
        some, self._again = self._still(self._again), []
        await self._send(link, self._codec.add(some, self._next_id))

    async def add(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe to more, now or, between two connections, with the next one."""
        known = set(self.wanted)
        new = [one for one in dict.fromkeys(subscriptions) if one not in known]
        self.wanted += new
        if self._link is not None and new:
            messages = self._codec.add(new, self._next_id)
            await self._guard(partial(self._send, messages=messages), self._link)

    async def drop(self, subscriptions: Sequence[Subscription]) -> None:
        """End subscriptions, and forget them."""
        gone = self._still(subscriptions)
        self._forget(gone)
        self._holes.forget(gone)
        self.acknowledged.difference_update(gone)
        if self._link is not None and gone:
            messages = self._codec.drop(gone, self._next_id)
            await self._guard(partial(self._send, messages=messages), self._link)

    async def _send(self, link: Link, messages: Sequence[Message]) -> None:
        """Send at the pace that the venue allows."""
        self._next_id += len(messages)
        for message in messages:
            async with self._turn:  # for each message anew: a heartbeat may come in between
                if link is not self._link:
                    return  # the next connection asks for all that is wanted
                if message.id is not None:
                    due = self._clock.monotonic() + self.endpoint.ack_within
                    self._sent[message.id] = message, due
                else:
                    self._holes.live.update(self._still(message.subscriptions))
                await link.send(message.text)
                if self._pace:
                    await self._clock.sleep(self._pace)

    def _aside(self, frame: bytes) -> Sequence[Event]:
        """Take a frame that is not market data; return the events that stand in its place."""
        reply = self._codec.accept(frame)
        self._counters["control"] += 1
        if isinstance(reply, Ack):
            return self._acknowledge(self._settle(reply.id, reply.subscriptions))
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

    def _settle(
        self, id: int | str | None, subscriptions: tuple[Subscription, ...]
    ) -> tuple[Subscription, ...]:
        if id is not None and id in self._sent:
            return self._sent.pop(id)[0].subscriptions
        return subscriptions

    def _acknowledge(self, subscriptions: Sequence[Subscription]) -> list[Event]:
        wanted = self._still(subscriptions)
        self.acknowledged.update(wanted)
        self._holes.live.update(wanted)
        self._holes.close(wanted)
        if not wanted:
            return []
        return [self._status("subscribed", f"{self.label}: {len(wanted)} subscriptions")]

    def _refuse(self, refusal: Refusal) -> list[Event]:
        refused = self._settle(refusal.id, refusal.subscriptions)
        log.warning("subscription_refused", feed=self._feed.name, reason=refusal.reason)
        wanted = self._still(refused)
        if refusal.permanent:
            self._forget(wanted)
            self._holes.close(wanted)
            self._holes.live.difference_update(wanted)
        else:
            self._later(wanted)
        if refused and refusal.permanent and not self.wanted:
            failure = SubscriptionRefused(
                self._feed.name, f"the venue refused every subscription: {refusal.reason}"
            )
            self._failure = failure
            self._end(str(failure))
        return [
            self._status("refused", refusal.reason, one.symbol, one.channel) for one in refused
        ] or [self._status("refused", refusal.reason)]

    def _later(self, subscriptions: list[Subscription]) -> None:
        """Ask again, in a while, for what was refused for now."""
        if subscriptions and not self._again and self._tasks and self._link:
            self._tasks.start_soon(self._guard, self._ask_again, self._link)
        self._again += subscriptions

    def _still(self, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        wanted = set(self.wanted)
        return [one for one in subscriptions if one in wanted]

    def _forget(self, subscriptions: Sequence[Subscription]) -> None:
        gone = set(subscriptions)
        self.wanted = [one for one in self.wanted if one not in gone]

    def _asked(self) -> list[Subscription]:
        """Return what was asked for and not answered."""
        return [one for message, _ in self._sent.values() for one in message.subscriptions]

    def _excuse(self, seconds: float) -> None:
        """Give the venue more time to answer: we did not listen for so long."""
        self._sent = {key: (message, due + seconds) for key, (message, due) in self._sent.items()}

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
            for message, due in self._sent.values():
                if now > due:
                    self._end(
                        f"no answer within {self.endpoint.ack_within:g} s to {message.text[:120]}"
                    )
                    break

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
