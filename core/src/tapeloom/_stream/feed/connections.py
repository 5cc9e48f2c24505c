"""The connections of one feed: opens them, gives them subscriptions, and ends them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

import anyio
import structlog

from tapeloom._compose.plan import FeedPlan, too_many_connections
from tapeloom._connection.frame_intake import FeedIntake
from tapeloom._connection.supervisor import Supervisor
from tapeloom._runtime.rate_limits import RateLimits
from tapeloom.errors import FeedError, StageFailed
from tapeloom.events import Event, Status
from tapeloom.plugin import ConnectionState, Endpoint, Subscription

log = structlog.get_logger()

#: Seconds that unsubscribing may take at the end: closing the connection ends the other subscriptions.
_UNSUBSCRIBE_SECONDS = 2.0


class Connections:
    """The connections of a feed, each with its supervisor. The last one that ends, ends the feed."""

    def __init__(
        self,
        plan: FeedPlan,
        intake: FeedIntake,
        emit: Callable[[list[Event]], Awaitable[None]],
        rate_limits: RateLimits,
    ) -> None:
        self.error: Exception | None = None  #: what ended the feed
        self._plan = plan
        self._intake = intake
        self._emit = emit
        self._rate_limits = rate_limits
        self._supervisors: list[Supervisor] = []
        self._tasks: anyio.abc.TaskGroup | None = None

    def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Open the connections of all symbols of the feed, in *tasks*."""
        self._tasks = tasks
        for endpoint, subscriptions in self._plan.connections(self._plan.feed.symbols):
            self._connect(endpoint, subscriptions)

    def ended(self) -> None:
        """Note that the tasks have ended: a symbol that is added now is not subscribed to."""
        self._tasks = None

    def state(self) -> tuple[ConnectionState, ...]:
        """Return what the connections say of themselves, from any thread."""
        return tuple(supervisor.state() for supervisor in self._supervisors.copy())

    def _connect(self, endpoint: Endpoint, subscriptions: Sequence[Subscription]) -> None:
        assert self._tasks is not None
        label = f"{endpoint.name or self._plan.feed.name}#{len(self._supervisors) + 1}"
        supervisor = Supervisor(
            self._plan,
            endpoint,
            subscriptions,
            self._intake,
            self._emit,
            self._rate_limits,
            label=label,
        )
        self._supervisors.append(supervisor)
        self._tasks.start_soon(self._supervise, supervisor)

    async def _supervise(self, supervisor: Supervisor) -> None:
        """Run a connection; end the feed when the last one is abandoned."""
        assert self._tasks is not None
        try:
            await supervisor.run()
        except StageFailed as error:
            self.error = error
            self._tasks.cancel_scope.cancel()
        except FeedError as error:
            if supervisor not in self._supervisors:
                return  # it carries nothing any more
            self._supervisors.remove(supervisor)
            log.error("connection_abandoned", connection=supervisor.label, reason=str(error))
            if not self._supervisors:
                self.error = error
                self._tasks.cancel_scope.cancel()
                return
            await self._report_abandoned(supervisor, str(error))

    async def _report_abandoned(self, supervisor: Supervisor, reason: str) -> None:
        """Emit a Status for each subscription of a connection that has ended for good."""
        venue, now = self._plan.feed.venue, self._plan.feed.clock.time_ns()
        statuses: list[Event] = [
            self._plan.facts.status(
                Status(venue, lost.symbol, now, now, "abandoned", reason, lost.channel)
            )
            for lost in supervisor.wanted
        ]
        await self._emit(statuses)

    def resubscribe(self, subscription: Subscription) -> bool:
        """Start to subscribe again; return False if no connection has the subscription."""
        for supervisor in self._supervisors:
            if subscription in supervisor.wanted and self._tasks is not None:
                self._tasks.start_soon(supervisor.resubscribe, [subscription])
                return True
        return False

    def event_rate(self, subscription: Subscription) -> float:
        """Return the events per second of a subscription, 0.0 if unknown."""
        rates = [supervisor.event_rate(subscription) for supervisor in self._supervisors]
        return max(rates, default=0.0)

    # ----------------------------------------------------------------------------- while they run

    def are_live(self, symbols: Collection[str]) -> bool:
        """Return whether the venue has answered all subscriptions of *symbols*."""
        live = self._plan.gaps.live
        return self._tasks is not None and all(
            wanted in live
            for supervisor in self._supervisors
            for wanted in supervisor.wanted
            if wanted.symbol in symbols
        )

    def check_room(self, symbols: Sequence[str]) -> None:
        """Raise ConfigError if the venue does not allow enough connections for *symbols*."""
        for index, subscriptions in self._plan.subscriptions(symbols).items():
            endpoint = self._plan.endpoints[index]
            if endpoint.max_connections is not None and self._tasks is not None:
                supervisors = [s for s in self._supervisors if s.endpoint == endpoint]
                loads = [len(supervisor.wanted) for supervisor in supervisors]
                connections = max(endpoint.max_connections, len(loads))
                room = connections * endpoint.max_subscriptions - sum(loads)
                if len(subscriptions) > room:
                    raise too_many_connections(self._plan.feed.venue, endpoint)

    async def add(self, symbols: Sequence[str]) -> None:
        """Subscribe to *symbols*, but not before `start`, which subscribes to them too, nor at the end."""
        if self._tasks is not None:
            for index, subscriptions in self._plan.subscriptions(symbols).items():
                await self._distribute(self._plan.endpoints[index], subscriptions)

    async def _distribute(self, endpoint: Endpoint, subscriptions: list[Subscription]) -> None:
        """Add subscriptions to the connections that have room, and open new ones for the rest."""
        for supervisor in self._supervisors:
            room = endpoint.max_subscriptions - len(supervisor.wanted)
            if supervisor.endpoint == endpoint and room > 0 and subscriptions:
                await supervisor.add(subscriptions[:room])
                subscriptions = subscriptions[room:]
        while subscriptions:
            self._connect(endpoint, subscriptions[: endpoint.max_subscriptions])
            subscriptions = subscriptions[endpoint.max_subscriptions :]

    async def drop(self, symbols: Collection[str]) -> None:
        """Unsubscribe from *symbols*, and close the connections that carry nothing any more."""
        for supervisor in self._supervisors:
            await supervisor.drop([sub for sub in supervisor.wanted if sub.symbol in symbols])
        empty = [supervisor for supervisor in self._supervisors if not supervisor.wanted]
        self._supervisors = [kept for kept in self._supervisors if kept not in empty]
        for supervisor in empty:
            await supervisor.leave()

    async def leave(self) -> None:
        """Unsubscribe on all connections within the venue's rate limits, until the deadline."""

        async def unsubscribe_all() -> None:
            async with anyio.create_task_group() as tasks:
                for supervisor in self._supervisors:
                    tasks.start_soon(supervisor.leave)
            deadline.cancel_scope.cancel()

        async with anyio.create_task_group() as deadline:
            deadline.start_soon(unsubscribe_all)
            await self._plan.feed.clock.sleep(_UNSUBSCRIBE_SECONDS)
            deadline.cancel_scope.cancel()
