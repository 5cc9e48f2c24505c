"""One connection: dial, log in, subscribe, read, send heartbeats, check the deadlines.

Frames come from a `Link` of `_network` and enter by a `FrameIntake`; their events go to the
supervisor's `ConnectionPair`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
import structlog
from attrs import frozen

from tapeloom._compose.plan import FeedPlan
from tapeloom._runtime.backoff import Backoff
from tapeloom._runtime.rate_limits import EndpointLimits
from tapeloom._runtime.taps import status_fields
from tapeloom.errors import ConnectionLost, FeedError, Throttled
from tapeloom.events import Event
from tapeloom.plugin import Endpoint, Link, PushLink, Subscription
from tapeloom.plugin.protocol import decode_replies
from tapeloom.plugin.transports import handshake_refused

from .frame_intake import MAX_BATCH, FeedIntake, FrameIntake
from .keep_alive import Deadlines, KeepAlive
from .replies import Replies, ReplyResult, are_recorded
from .sender import Sender, Subscriber
from .subscription_monitor import SubscriptionMonitor
from .subscriptions import Subscriptions

log = structlog.get_logger()

#: The reason of an end that we chose ourselves: it is followed by a new connection at once.
PLANNED = "planned"
#: The close codes of a connection that ended without a close frame.
_NOT_CLOSED = (None, 1006)
#: Minimum seconds of a wait for the limit of connections that is reported.
_REPORTED_SECONDS = 1.0


@frozen(eq=False)
class ConnectionSetup:
    """What a supervisor gives to all its connections."""

    plan: FeedPlan
    endpoint: Endpoint
    label: str
    wanted: list[Subscription]  #: the supervisor's own list: it and refusals by the venue change it
    intake: FeedIntake
    limits: EndpointLimits
    monitor: SubscriptionMonitor  #: told which subscriptions are live or refused
    report: Callable[[str, str], Awaitable[None]]  #: emits a Status with this state and detail
    check: Callable[[Connection], None]  #: checks for stalled subscriptions; called periodically


class Connection:
    """One connection and the subscriptions on it. It runs once.

    *on_events* is called with the events of each read, and returns an awaitable to await before the
    next. *replace* starts to replace the connection; it returns False if no second connection is
    possible beside it.
    """

    def __init__(
        self,
        setup: ConnectionSetup,
        on_events: Callable[[Connection, list[Event]], Awaitable[None]],
        replace: Callable[[Connection], bool],
    ) -> None:
        assert setup.plan.codec is not None
        endpoint, feed, heartbeat = setup.endpoint, setup.plan.feed, setup.endpoint.heartbeat
        subscriptions = self.subscriptions = Subscriptions(setup.wanted)
        self.opened_at: float | None = None  #: in monotonic seconds
        self.ended = False
        #: The reason of its end, or the error that it failed with; empty until then.
        self.outcome: str | FeedError = ""
        deadlines = Deadlines(subscriptions, heartbeat is not None and heartbeat.message is None)
        on_events_here = partial(on_events, self)
        self.intake = FrameIntake(setup.intake, self._on_control, on_events_here, deadlines)
        sender = Sender(endpoint, feed.clock, setup.limits.messages)
        self.subscriber = Subscriber(
            sender, subscriptions, setup.plan.codec, feed.clock, endpoint, setup.monitor.live,
            Backoff(feed.random, first=2.0),
        )  # fmt: skip
        self._replies = Replies(feed, setup.label, subscriptions)
        self._setup = setup
        self._replace = replace
        self._tasks: anyio.abc.TaskGroup | None = None
        self._leaving = False

    # ----------------------------------------------------------------------------------- lifecycle

    async def run(self) -> None:
        """Dial, subscribe and read until the connection ends; `outcome` then says why."""
        endpoint, limits = self._setup.endpoint, self._setup.limits
        if (seconds := limits.wait_seconds()) >= _REPORTED_SECONDS:
            detail = f"the venue's limit allows the next connection in {seconds:.0f} s"
            await self._setup.report("throttled", f"{self._setup.label}: {detail}")
        try:
            async with limits.dialled(), self._setup.plan.dial(endpoint) as link:
                await self._opened(link)
                try:
                    await self._run_tasks(link)
                finally:
                    self.subscriber.sender.link = self._tasks = None
        except FeedError as error:
            self.outcome = self._by_the_venues_rule(error)
        finally:
            self.ended = True
            self.subscriber.ready.set()
        self.outcome = self.outcome or "the connection ended"
        if isinstance(self.outcome, Throttled) and limits.dials is not None:
            limits.dials.pause(self.outcome.retry_after_seconds or 0.0)

    async def _opened(self, link: Link) -> None:
        feed, intake, label = self._setup.plan.feed, self.intake, self._setup.label
        self.opened_at = intake.deadlines.last_byte = feed.clock.monotonic()
        intake.last_recv = feed.clock.time_ns()
        feed.counters["connections"] += 1
        number = intake.connection = feed.counters["connections"]
        facts = self._setup.plan.facts
        facts.record(intake.last_recv, "opened", connection=number, label=label)
        log.info("feed_connected", feed=feed.name, connection=label)
        await self._setup.report("connected", label)
        intake.deadlines.last_byte = feed.clock.monotonic()
        self.subscriber.sender.link = link

    async def _run_tasks(self, link: Link) -> None:
        """Read until the connection ends, and subscribe, send heartbeats and check beside it."""
        setup, sender, deadlines = self._setup, self.subscriber.sender, self.intake.deadlines
        keep_alive = KeepAlive(setup.endpoint, setup.plan.feed.clock, sender, deadlines, self)
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for task in (self.subscriber.run, keep_alive.send_heartbeats, keep_alive.watch):
                tasks.start_soon(self._guard, task)
            await self._guard(partial(self._read, link))
            tasks.cancel_scope.cancel()
        if self._leaving:
            await anyio.sleep_forever()  # the supervisor cancels it after `leave`

    async def _read(self, link: Link) -> None:
        """Read until the connection ends."""
        delay, on_read = self._setup.plan.spec.max_batch_delay, self.intake.on_read
        if isinstance(link, PushLink) and not delay:
            await link.push_to(on_read)
        receive = link.receive
        while True:
            payloads = await receive()
            waiting = on_read(payloads)
            if waiting is not None:
                await waiting
            if delay and payloads and len(payloads) < MAX_BATCH:
                # Frames that arrive meanwhile form one batch.
                await self._setup.plan.feed.clock.sleep(delay)

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run one of the connection's tasks; a FeedError in it ends the connection."""
        try:
            await task()
        except FeedError as error:
            if self.subscriber.sender.link is None:
                return  # the connection has ended already
            if isinstance(error, ConnectionLost) and error.code not in _NOT_CLOSED:
                # A close frame is the last of what the venue has sent, so all of it has come.
                self.intake.deadlines.last_byte = self._setup.plan.feed.clock.monotonic()
            # A connection that we are ending may be lost meanwhile: that is no failure.
            late = self.outcome and isinstance(error, ConnectionLost)
            if not late and not isinstance(self.outcome, FeedError):
                self.outcome = error
            self.end(str(error))

    def _by_the_venues_rule(self, error: FeedError) -> FeedError:
        """Return *error*; for a refused handshake, the one that the venue's answer stands for."""
        feed, history = self._setup.plan.feed, self._setup.plan.history
        if error.http_answer is None or history is None:
            return error
        status, headers, body = error.http_answer
        rule = history.refusal_reason(status, body)
        now, url = feed.clock.time_ns(), self._setup.endpoint.url
        failure = handshake_refused(feed.name, url, status, headers, now, body, rule)
        failure.__cause__ = error.__cause__
        return failure

    # ------------------------------------------------------------------------------- how it ends

    def end(self, reason: str) -> None:
        """End the connection; the first reason counts."""
        self.outcome = self.outcome or reason
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    def retire(self) -> None:
        """Let the connection be replaced; end it where no second one is possible beside it."""
        if not self._replace(self):
            self.end(PLANNED)

    async def leave(self) -> None:
        """Stop reading, and unsubscribe if the connection is open; the supervisor then closes."""
        if self._tasks is None or self.outcome:
            return
        self._leaving = True
        self._tasks.cancel_scope.cancel()
        with contextlib.suppress(FeedError):  # the connection has ended by itself
            await self.subscriber.drop([*self.subscriptions.requested])

    # ------------------------------------------------------------------------------- subscriptions

    async def add(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe to more, unless the initial subscribe is still to come and includes them."""
        await self._guard(partial(self.subscriber.add, subscriptions))

    async def drop(self, subscriptions: Sequence[Subscription]) -> None:
        """Unsubscribe."""
        self.subscriptions.acknowledged.difference_update(subscriptions)
        await self._guard(partial(self.subscriber.drop, subscriptions))

    def check(self) -> None:
        """Check for stalled subscriptions."""
        self._setup.check(self)

    def not_read_for(self, seconds: float) -> None:
        """Do not count the last *seconds* as a stall: we did not read."""
        self._setup.monitor.not_read_for(seconds)

    async def accepted(self, subscriptions: Sequence[Subscription]) -> None:
        """Report subscriptions that have no reply, but of which events show that they are accepted."""
        self.subscriber.update_ready()
        self._setup.monitor.live(subscriptions, self._setup.plan.feed.clock.time_ns())
        text = f"{len(subscriptions)} subscriptions, shown by their events; no known reply came"
        await self._setup.report("subscribed", f"{self._setup.label}: {text}")

    def _on_control(self, frame: bytes) -> Sequence[Event]:
        """Process a frame that is not market data; return the events that stand in its place."""
        assert self._setup.plan.codec is not None
        replies = decode_replies(self._setup.plan.codec, frame)
        feed, recv = self._setup.plan.feed, self.intake.last_recv
        feed.counters["control_frames"] += 1
        if replies is not None:
            results = [self._replies.process(reply, recv) for reply in replies]
            for result in results:
                self._apply(result, recv)
            statuses = [status for result in results for status in result.events]
            if are_recorded(replies):
                self._setup.plan.facts.record(recv, "reply", of=[*map(status_fields, statuses)])
            return statuses
        return [self._setup.intake.reject(recv, frame)]

    def _apply(self, result: ReplyResult, recv: int) -> None:
        """Do what a reply that arrived at *recv*, in ns, demands."""
        monitor, subscriber = self._setup.monitor, self.subscriber
        subscriber.update_ready()
        if result.answers_heartbeat:
            self.intake.deadlines.heartbeat_due = None
        if result.answers_opening:
            subscriber.opening_answered.set()
        sender = subscriber.sender
        if result.answer is not None and sender.queue_answer(result.answer) and self._tasks:
            self._tasks.start_soon(self._guard, sender.send_answers)
        if result.live is not None:
            monitor.live(result.live, recv)
        if result.refused:
            monitor.refused(result.refused, recv)
        if subscriber.retry_later(result.to_retry) and self._tasks is not None:
            self._tasks.start_soon(self._guard, subscriber.retry)
        if result.failure is not None:
            self.outcome = result.failure
            self.end(str(result.failure))
        if result.closes_connection:
            self.retire()
