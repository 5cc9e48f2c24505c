"""Queues of REST queries of one feed: snapshots of books, and all others.

A stage that queries does not wait. The answer is emitted as events and goes through the stages of
the same stream. If there is none, a `Status` with the state "request_failed" is emitted instead.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from itertools import count

import anyio
import anyio.abc
import structlog

from tapeloom._compose.plan import FeedPlan
from tapeloom._gaps.gap_fill import GapFill
from tapeloom._runtime.taps import FactName
from tapeloom.errors import FeedError, SymbolError
from tapeloom.events import Event, Gap, Status
from tapeloom.plugin import HistoryQuery, Request, Subscription
from tapeloom.plugin.bounds import reject_out_of_bounds

from .paging import paging_defect
from .rest_client import RestClient

log = structlog.get_logger()

#: The next request is sent once an answer takes this many seconds, while no more requests than these
#: wait for an answer: one that trickles must not delay the others.
_PATIENCE_SECONDS, _MAX_OPEN = 1.0, 4


class _Queue:
    """Queries and gaps, the symbols with the highest event rate first."""

    def __init__(self) -> None:
        self._items: list[tuple[float, int, HistoryQuery | GapFill]] = []
        self._count = count()
        self._not_empty = anyio.Event()

    def push(self, item: HistoryQuery | GapFill, event_rate: float) -> None:
        """Add an item."""
        heapq.heappush(self._items, (-event_rate, next(self._count), item))
        self._not_empty.set()

    async def pop(self) -> HistoryQuery | GapFill:
        """Wait for an item, remove and return it."""
        while not self._items:
            self._not_empty = anyio.Event()
            await self._not_empty.wait()
        return heapq.heappop(self._items)[-1]


class HistoryClient:
    """Answers the history queries and fills the gaps of one feed.

    Book snapshots have a queue of their own and go first in the rate limit. In each queue the symbols
    with the highest event rate come first: after a lost connection all symbols query at once, and
    they share the venue's rate limit. *resubscribe* subscribes again and returns whether a connection
    carries the subscription; *event_rate* returns its events per second.
    """

    def __init__(
        self,
        plan: FeedPlan,
        rest: RestClient,
        emit: Callable[[list[Event]], Awaitable[None]],
        *,
        resubscribe: Callable[[Subscription], bool] = lambda _: False,
        event_rate: Callable[[Subscription], float] = lambda _: 0.0,
    ) -> None:
        self._plan = plan
        self._rest = rest
        self._emit = emit
        self._resubscribe = resubscribe
        self._event_rate = event_rate
        self._queued: set[HistoryQuery] = set()
        self._snapshots, self._others = _Queue(), _Queue()
        self._emitting = anyio.Lock(fast_acquire=True)  # what was processed is emitted at once
        self._last_pages: dict[tuple[str, str], tuple[HistoryQuery, Request]] = {}
        plan.queries.listen(self._enqueue)
        plan.gaps.request, plan.gaps.enqueue = self.request, self._enqueue_fill
        plan.feed.fetch = rest.fetch

    def _enqueue(self, query: HistoryQuery) -> None:
        if query not in self._queued:
            self._queued.add(query)
            self._push(query, Subscription(query.symbol, query.channel), first=query.kind == "book")

    def _enqueue_fill(self, fill: GapFill) -> None:
        """Queue a subscription with gaps: fetch what is missing as far as possible."""
        self._push(fill, fill.subscription)

    def _push(
        self, item: HistoryQuery | GapFill, subscription: Subscription, *, first: bool = False
    ) -> None:
        queue = self._snapshots if first else self._others
        queue.push(item, self._event_rate(subscription))

    async def run(self) -> None:
        """Answer queries and fill gaps until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._serve, self._snapshots, tasks)
            await self._serve(self._others, tasks)

    async def _serve(self, queue: _Queue, tasks: anyio.abc.TaskGroup) -> None:
        """Process the items of a queue one after another, beside those that take long."""
        free = anyio.Semaphore(_MAX_OPEN)
        while True:
            await free.acquire()
            processed = anyio.Event()
            tasks.start_soon(self._process, await queue.pop(), free, processed)
            with anyio.move_on_after(_PATIENCE_SECONDS):
                await processed.wait()

    async def _process(
        self, item: HistoryQuery | GapFill, free: anyio.Semaphore, processed: anyio.Event
    ) -> None:
        if isinstance(item, HistoryQuery):
            events = await self._answer(item)
            self._queued.discard(item)
        else:
            events = await self._fill_page(item)
        with anyio.CancelScope(shield=True):  # its gaps count as filled, so it must arrive
            async with self._emitting:  # in the order of the answers, also if a consumer is slow
                if len(_failed(events)) < len(events):
                    self._plan.facts.record(self._plan.feed.clock.time_ns(), "history_emitted")
                await self._emit(events)
        if isinstance(item, GapFill):
            item.queued = bool(item.waiting)
            if item.queued:
                self._enqueue_fill(item)
        free.release()
        processed.set()

    async def _answer(self, query: HistoryQuery) -> list[Event]:
        request = self.request(query)
        if request is not None:
            events = await self._events(query, request)
            if not _failed(events):
                self._plan.facts.record(self._rest.answered_at, "answered")
            return events
        # A venue without snapshots over REST sends one after a subscribe.
        if query.kind == "book" and self._resubscribe(Subscription(query.symbol, query.channel)):
            return []
        reason = f"{self._plan.feed.venue} has no history of the kind {query.kind!r}"
        return [self._failure(query, reason)]

    async def _fill_page(self, fill: GapFill) -> list[Event]:
        """Request one page for the gaps of a subscription; return what it fills, with final Gaps."""
        query = fill.next_query()
        self._record(fill, "requested")
        request = self.request(query)
        if query is None or request is None or not self._is_subscribed(fill):
            return self.give_up(fill)
        events = await self._page(query, request)
        if (failed := _failed(events)) or not self._is_subscribed(fill):
            # Without a native name, the answer about a symbol that was removed cannot be parsed.
            return [*failed, *self.give_up(fill)]
        return self.fill(fill, events, request, self._rest.answered_at)

    def give_up(self, fill: GapFill) -> list[Event]:
        """Return the final Gaps of what was requested last: there is no answer."""
        return fill.give_up(self._record(fill, "given_up"))

    def fill(self, fill: GapFill, events: list[Event], request: Request, recv: int) -> list[Event]:
        """Return the missed ones of the *events* of an answer, and the Gaps in their final state."""
        self._record(fill, "filled")
        filled = fill.process(events, request, recv)
        self._plan.feed.counters["backfilled"] += sum(type(event) is not Gap for event in filled)
        return filled

    def _record(self, fill: GapFill, fact: FactName) -> int:
        """Record a fact about the gaps of a subscription; return the time, in ns."""
        now = self._plan.feed.clock.time_ns()
        self._plan.facts.record(now, fact, of=fill.subscription)
        return now

    async def _page(self, query: HistoryQuery, request: Request) -> list[Event]:
        """Return the events of one page, or a Status with the failure or the adapter's defect."""
        key = query.symbol, query.channel
        previous, self._last_pages[key] = self._last_pages.get(key), (query, request)
        defect = paging_defect(query, request, previous)
        if defect is not None:
            return [self._failure(query, defect)]
        return await self._events(query, request)

    def _is_subscribed(self, fill: GapFill) -> bool:
        return fill.subscription.symbol in self._plan.feed.symbols

    def request(self, query: HistoryQuery | None) -> Request | None:
        """Return the REST request for *query*; None if the venue cannot answer it."""
        history = self._plan.history
        if history is None or query is None:
            return None
        try:
            return history.request(query)
        except (SymbolError, ValueError) as error:
            log.warning("request_impossible", feed=self._plan.feed.name, reason=str(error))
            return None

    async def _events(self, query: HistoryQuery, request: Request) -> list[Event]:
        """Return the events of the answer to *request*, or a Status with the failure."""
        history = self._plan.history
        assert history is not None
        try:
            return await self._rest.read(
                request,
                lambda body: reject_out_of_bounds(
                    history.read_answer(request, body, self._rest.answered_at)
                ),
                urgent=query.kind == "book",
            )
        except (FeedError, ValueError) as error:
            return [self._failure(query, str(error))]
        except Exception as error:  # the adapter did not expect an answer of this shape
            return [self._failure(query, f"{type(error).__name__}: {error}")]

    def _failure(self, query: HistoryQuery, reason: str) -> Status:
        feed = self._plan.feed
        now = feed.clock.time_ns()
        log.warning("request_abandoned", feed=feed.name, symbol=query.symbol, reason=reason)
        return self._plan.facts.status(
            Status(feed.venue, query.symbol, now, now, "request_failed", reason, query.channel)
        )


def _failed(events: list[Event]) -> list[Status]:
    """Return the failure in place of the events of an answer, if it is one."""
    return [event for event in events if isinstance(event, Status)]
