"""Queue of REST queries of one feed: snapshots, trades and bars, sent one after another.

A stage that queries does not wait. The answer is emitted as events and goes through the stages of
the same stream. If there is none, a `Status` with the state "request_failed" is emitted instead.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from itertools import count

import anyio
import structlog
from attrs import evolve

from tapeloom._compose.plan import FeedPlan
from tapeloom._gaps.gap_fill import GapFill, fill_kind
from tapeloom._gaps.gap_tracker import KnownIds
from tapeloom.errors import FeedError, SymbolError
from tapeloom.events import Event, Gap, Status
from tapeloom.plugin import HistoryQuery, Request, Subscription
from tapeloom.plugin.bounds import reject_out_of_bounds

from .rest_client import RestClient

log = structlog.get_logger()


class HistoryClient:
    """Answers the history queries and fills the gaps of one feed, one request after another.

    Book snapshots come first, then the symbols with the highest event rate: after a lost connection
    all symbols query at once, and they share the venue's rate limit. *resubscribe* subscribes again
    and returns whether a connection carries the subscription; *event_rate* returns its events per
    second.
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
        self._queue: list[tuple[int, float, int, HistoryQuery | GapFill]] = []
        self._count = count()
        self._not_empty = anyio.Event()
        plan.queries.listen(self._enqueue)
        plan.feed.fetch = rest.fetch

    def _enqueue(self, query: HistoryQuery) -> None:
        if query.before_id is not None:
            self.fill(self._gap_fill(query))
        elif query not in self._queued:
            self._queued.add(query)
            self._push(query, Subscription(query.symbol, query.channel), first=query.kind == "book")

    def fill(self, fill: GapFill) -> None:
        """Queue a gap: fetch its missed events as far as possible, then emit its final state."""
        self._push(fill, Subscription(fill.gap.symbol, fill.gap.channel))

    def on_gap(self, gap: Gap, before: Event | None, after: Event | None, known: KnownIds) -> Gap:
        """Return the Gap to report for a gap that ends, and queue it if it can be filled."""
        fill = GapFill(gap, before, after, known) if fill_kind(gap.channel) else None
        if fill is not None and fill.has_numeric_ids and fill.missing == 0:
            return fill.report(gap.recv)  # the ids show that nothing was missed
        if fill is None or self._request(fill.next_query()) is None:
            return evolve(gap, missing=fill.missing if fill else None, state="unrecoverable")
        self.fill(fill)
        return evolve(gap, missing=fill.missing)

    def _gap_fill(self, query: HistoryQuery) -> GapFill:
        """Return the gap that a stage has found in the ids and has reported already."""
        feed = self._plan.feed
        now = feed.clock.time_ns()
        since, until = query.since or 0, query.until or now
        gap = Gap(
            feed.venue, query.symbol, until, now, since, until, "sequence", channel=query.channel
        )
        return GapFill(gap).set_ids(query.after_id, query.before_id)

    def _push(
        self, item: HistoryQuery | GapFill, subscription: Subscription, *, first: bool = False
    ) -> None:
        entry = (not first, -self._event_rate(subscription), next(self._count), item)
        heapq.heappush(self._queue, entry)
        self._not_empty.set()

    async def run(self) -> None:
        """Answer queries and fill gaps until cancelled."""
        while True:
            while self._queue:
                *_, item = heapq.heappop(self._queue)
                if isinstance(item, HistoryQuery):
                    events = await self._answer(item)
                    self._queued.discard(item)
                else:
                    events = await self._fill_page(item)
                await self._emit(events)
            self._not_empty = anyio.Event()
            await self._not_empty.wait()

    async def _answer(self, query: HistoryQuery) -> list[Event]:
        request = self._request(query)
        if request is not None:
            return await self._events(query, request)
        # A venue without snapshots over REST sends one after a subscribe.
        if query.kind == "book" and self._resubscribe(Subscription(query.symbol, query.channel)):
            return []
        reason = f"{self._plan.feed.venue} has no history of the kind {query.kind!r}"
        return [self._failed(query, reason)]

    async def _fill_page(self, fill: GapFill) -> list[Event]:
        """Request one page for a gap; return its missed events, or, at the end, the final Gap."""
        query = fill.next_query()
        request = self._request(query)
        if query is not None and request is not None and self._is_subscribed(fill):
            events = await self._events(query, request)
            if not self._is_subscribed(fill):
                events = []  # its symbol has no native name any more, so the answer was not parsed
            elif not any(isinstance(event, Status) for event in events):
                missed = fill.process(events, request)
                self._plan.feed.counters["backfilled"] += len(missed)
                self.fill(fill)
                return missed
            return [*events, fill.report(self._plan.feed.clock.time_ns())]
        return [fill.report(self._plan.feed.clock.time_ns())]

    def _is_subscribed(self, fill: GapFill) -> bool:
        return fill.gap.symbol in self._plan.feed.symbols

    def _request(self, query: HistoryQuery | None) -> Request | None:
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
        history, clock = self._plan.history, self._plan.feed.clock
        assert history is not None
        try:
            return await self._rest.read(
                request,
                lambda body: reject_out_of_bounds(
                    history.read_answer(request, body, clock.time_ns())
                ),
            )
        except (FeedError, ValueError) as error:
            return [self._failed(query, str(error))]
        except Exception as error:  # the adapter did not expect an answer of this shape
            return [self._failed(query, f"{type(error).__name__}: {error}")]

    def _failed(self, query: HistoryQuery, reason: str) -> Status:
        feed = self._plan.feed
        now = feed.clock.time_ns()
        log.warning("request_abandoned", feed=feed.name, symbol=query.symbol, reason=reason)
        return Status(feed.venue, query.symbol, now, now, "request_failed", reason, query.channel)
