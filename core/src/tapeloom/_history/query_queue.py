"""What is asked over REST: listings, snapshots, trades and bars, one after another within the budget.

Whoever wants something does not wait for it. The answer comes as events, through the stages, in the
same stream; where it cannot be had, a `Status` with the state "request_failed" comes instead.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from itertools import count

import anyio
import structlog
from attrs import evolve

from tapeloom._compose.plan import FeedPlan
from tapeloom._gaps.gap_fill import GapFill, kind_of
from tapeloom._gaps.gap_tracker import Known
from tapeloom.errors import FeedError, SymbolError
from tapeloom.events import Event, Gap, Status
from tapeloom.plugin import HistoryQuery, Request, Subscription

from .rest_client import RestClient

log = structlog.get_logger()


class HistoryClient:
    """Answers what is asked of one feed's history, one request after another.

    Books come first, then what concerns the most active symbols: after a lost connection all ask at
    once, and the venue's budget is for all of them.
    """

    def __init__(
        self,
        plan: FeedPlan,
        rest: RestClient,
        emit: Callable[[list[Event]], Awaitable[None]],
        *,
        renew: Callable[[Subscription], bool] = lambda _: False,
        activity: Callable[[Subscription], float] = lambda _: 0.0,
    ) -> None:
        self._plan = plan
        self._rest = rest
        self._emit = emit
        self._renew = renew
        self._activity = activity
        self._waiting: set[HistoryQuery] = set()
        self._turns: list[tuple[int, float, int, HistoryQuery | GapFill]] = []
        self._count = count()
        self._more = anyio.Event()
        plan.queries.listen(self._ask)
        plan.feed.fetch = rest.fetch

    def _ask(self, want: HistoryQuery) -> None:
        if want.before_id is not None:
            self.fill(self._hole(want))
        elif want not in self._waiting:
            self._waiting.add(want)
            self._enter(want, Subscription(want.symbol, want.channel), first=want.kind == "book")

    def fill(self, fill: GapFill) -> None:
        """Fetch what was missed in a hole, as far as it is to be had, and say how it stands then."""
        self._enter(fill, Subscription(fill.gap.symbol, fill.gap.channel))

    def missed(self, gap: Gap, before: Event | None, after: Event | None, known: Known) -> Gap:
        """Take a hole that is about to be announced; return the Gap with what is known of it by now."""
        fill = GapFill(gap, before, after, known) if kind_of(gap.channel) else None
        if fill is not None and fill.numbered and fill.missing == 0:
            return fill.verdict(gap.recv)  # nothing was sold meanwhile
        if fill is None or self._request(fill.wants()) is None:
            return evolve(gap, missing=fill.missing if fill else None, state="unrecoverable")
        self.fill(fill)
        return evolve(gap, missing=fill.missing)

    def _hole(self, want: HistoryQuery) -> GapFill:
        """Return the hole that a stage has found in the ids, and has told already."""
        feed = self._plan.feed
        now = feed.clock.time_ns()
        since, until = want.since or 0, want.until or now
        gap = Gap(
            feed.venue, want.symbol, until, now, since, until, "sequence", channel=want.channel
        )
        return GapFill(gap).between(want.after_id, want.before_id)

    def _enter(
        self, what: HistoryQuery | GapFill, one: Subscription, *, first: bool = False
    ) -> None:
        turn = (not first, -self._activity(one), next(self._count), what)
        heapq.heappush(self._turns, turn)
        self._more.set()

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            while self._turns:
                *_, what = heapq.heappop(self._turns)
                if isinstance(what, HistoryQuery):
                    events = await self._answer(what)
                    self._waiting.discard(what)
                else:
                    events = await self._filled(what)
                await self._emit(events)
            self._more = anyio.Event()
            await self._more.wait()

    async def _answer(self, want: HistoryQuery) -> list[Event]:
        request = self._request(want)
        if request is not None:
            return await self._events(want, request)
        # A venue without snapshots over REST sends one to whoever subscribes anew.
        if want.kind == "book" and self._renew(Subscription(want.symbol, want.channel)):
            return []
        return [self._failed(want, f"{self._plan.feed.venue} has no history of that kind")]

    async def _filled(self, fill: GapFill) -> list[Event]:
        """Fetch one page for a hole; return what was missed, or, at the end, the verdict."""
        want = fill.wants()
        request = self._request(want)
        if want is not None and request is not None and self._wanted(fill):
            events = await self._events(want, request)
            if not self._wanted(fill):
                events = []  # what was answered nobody could name any more: that is no empty answer
            elif not any(isinstance(event, Status) for event in events):
                fresh = fill.take(events, request)
                self._plan.feed.counters["backfilled"] += len(fresh)
                self.fill(fill)
                return fresh
            return [*events, fill.verdict(self._plan.feed.clock.time_ns())]
        return [fill.verdict(self._plan.feed.clock.time_ns())]

    def _wanted(self, fill: GapFill) -> bool:
        return fill.gap.symbol in self._plan.feed.symbols

    def _request(self, want: HistoryQuery | None) -> Request | None:
        """Return what to ask the venue for; None where it cannot be asked."""
        history = self._plan.history
        if history is None or want is None:
            return None
        try:
            return history.request(want)
        except (SymbolError, ValueError) as error:
            log.warning("request_impossible", feed=self._plan.feed.name, reason=str(error))
            return None

    async def _events(self, want: HistoryQuery, request: Request) -> list[Event]:
        """Return the answer to *request*, or a Status that says why there is none."""
        history, clock = self._plan.history, self._plan.feed.clock
        assert history is not None
        try:
            return await self._rest.read(
                request, lambda body: history.read_answer(request, body, clock.time_ns())
            )
        except (FeedError, ValueError) as error:
            return [self._failed(want, str(error))]
        except Exception as error:  # an answer in a shape that its adapter did not foresee
            return [self._failed(want, f"{type(error).__name__}: {error}")]

    def _failed(self, want: HistoryQuery, reason: str) -> Status:
        feed = self._plan.feed
        now = feed.clock.time_ns()
        log.warning("request_abandoned", feed=feed.name, symbol=want.symbol, reason=reason)
        return Status(feed.venue, want.symbol, now, now, "request_failed", reason, want.channel)
