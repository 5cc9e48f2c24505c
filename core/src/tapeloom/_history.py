"""What is asked over REST: listings, snapshots, trades and bars, one after another within the budget.

Whoever wants something does not wait for it. The answer comes as events, through the stages, in the
same stream; where it cannot be had, a `Status` with the state "request_failed" comes instead.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

import anyio
import httpx
import structlog
from attrs import evolve

from ._backfill import Fill, kind_of
from ._compose import Plan
from ._limits import Budget, Budgets
from ._session import Backoff, Known
from .dialling import asks_for_pause, check_headers, explain, throttled
from .errors import ConnectionFailed, FeedError, RequestFailed, SymbolError, Throttled, nearest
from .events import Event, Gap, Status
from .feeds import Subscription
from .history import Denied, Request, Want
from .symbols import Instrument

__all__ = ["HistoryDesk", "check_symbols"]

log = structlog.get_logger()

T = TypeVar("T")

_ATTEMPTS = 5
#: How many seconds a stream waits for the venue's list of symbols before it starts without.
_PATIENCE = 10.0


class HistoryDesk:
    """Answers what is asked of one feed's history, one request after another.

    Books come first, then what concerns the most active symbols: after a lost connection all ask at
    once, and the venue's budget is for all of them.
    """

    def __init__(
        self,
        plan: Plan,
        client: httpx.AsyncClient,
        budgets: Budgets,
        deliver: Callable[[list[Event]], Awaitable[None]],
        *,
        renew: Callable[[Subscription], bool] = lambda _: False,
        activity: Callable[[Subscription], float] = lambda _: 0.0,
    ) -> None:
        self._plan = plan
        self._client = client
        self._budgets = budgets
        self._deliver = deliver
        self._renew = renew
        self._activity = activity
        self._waiting: set[Want] = set()
        self._turns: list[tuple[int, float, int, Want | Fill]] = []
        self._count = count()
        self._more = anyio.Event()
        plan.wants.listen(self._ask)
        plan.feed.fetch = self.fetch

    def _ask(self, want: Want) -> None:
        if want.before is not None:
            self.fill(self._hole(want))
        elif want not in self._waiting:
            self._waiting.add(want)
            self._enter(want, Subscription(want.symbol, want.channel), first=want.kind == "book")

    def fill(self, fill: Fill) -> None:
        """Fetch what was missed in a hole, as far as it is to be had, and say how it stands then."""
        self._enter(fill, Subscription(fill.gap.symbol, fill.gap.channel))

    def missed(self, gap: Gap, before: Event | None, after: Event | None, known: Known) -> Gap:
        """Take a hole that is about to be announced; return the Gap with what is known of it by now."""
        fill = Fill(gap, before, after, known) if kind_of(gap.channel) else None
        if fill is not None and fill.numbered and fill.missing == 0:
            return fill.verdict(gap.recv)  # nothing was sold meanwhile
        if fill is None or self._request(fill.wants()) is None:
            return evolve(gap, missing=fill.missing if fill else None, verdict="unrecoverable")
        self.fill(fill)
        return evolve(gap, missing=fill.missing)

    def _hole(self, want: Want) -> Fill:
        """Return the hole that a stage has found in the ids, and has told already."""
        feed = self._plan.feed
        now = feed.clock.time_ns()
        since, until = want.since or 0, want.until or now
        gap = Gap(
            feed.venue, want.symbol, until, now, since, until, "sequence", channel=want.channel
        )
        return Fill(gap).between(want.after, want.before)

    def _enter(self, what: Want | Fill, one: Subscription, *, first: bool = False) -> None:
        turn = (not first, -self._activity(one), next(self._count), what)
        heapq.heappush(self._turns, turn)
        self._more.set()

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            while self._turns:
                *_, what = heapq.heappop(self._turns)
                if isinstance(what, Want):
                    events = await self._answer(what)
                    self._waiting.discard(what)
                else:
                    events = await self._filled(what)
                events = self._plan.pipeline(events)
                if events:
                    await self._deliver(events)
            self._more = anyio.Event()
            await self._more.wait()

    async def _answer(self, want: Want) -> list[Event]:
        request = self._request(want)
        if request is not None:
            return await self._events(want, request)
        # A venue without snapshots over REST sends one to whoever subscribes anew.
        if want.kind == "book" and self._renew(Subscription(want.symbol, want.channel)):
            return []
        return [self._failed(want, f"{self._plan.feed.venue} has no history of that kind")]

    async def _filled(self, fill: Fill) -> list[Event]:
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

    def _wanted(self, fill: Fill) -> bool:
        return fill.gap.symbol in self._plan.feed.symbols

    def _request(self, want: Want | None) -> Request | None:
        """Return what to ask the venue for; None where it cannot be asked."""
        history = self._plan.history
        if history is None or want is None:
            return None
        try:
            return history.request(want)
        except (SymbolError, ValueError) as error:
            log.warning("request_impossible", feed=self._plan.feed.name, reason=str(error))
            return None

    async def _events(self, want: Want, request: Request) -> list[Event]:
        """Return the answer to *request*, or a Status that says why there is none."""
        history, clock = self._plan.history, self._plan.feed.clock
        assert history is not None
        try:
            return await self._read(
                request, lambda body: history.answer(request, body, clock.time_ns())
            )
        except (FeedError, ValueError) as error:
            return [self._failed(want, str(error))]
        except Exception as error:  # an answer in a shape that its adapter did not foresee
            return [self._failed(want, f"{type(error).__name__}: {error}")]

    async def _read(
        self, request: Request, read: Callable[[bytes], list[T]], patience: float = math.inf
    ) -> list[T]:
        """Return what *read* makes of the answer, asking again where the venue says that it may help.

        Raises Denied, another ValueError, or what `fetch` raises.
        """
        clock, budget = self._plan.feed.clock, self._budget(request)
        last = clock.monotonic() + patience
        for attempt in range(1, _ATTEMPTS + 1):
            body = await self.fetch(request, patience=last - clock.monotonic())
            try:
                return read(body)
            except Denied as denied:
                pause = denied.pause
                if attempt == _ATTEMPTS or pause is None or clock.monotonic() + pause > last:
                    raise
                log.warning("request_failed", feed=self._plan.feed.name, reason=denied.reason)
                if budget is not None:
                    budget.pause(pause)
                else:
                    await clock.sleep(pause)
        raise AssertionError("unreachable")

    async def listing(self, patience: float) -> list[Instrument]:
        """Return what the venue lists; nothing where it has no such list.

        Raises FeedError or ValueError where it cannot be had within *patience* seconds.
        """
        history = self._plan.history
        request = history.listing() if history is not None else None
        if history is None or request is None:
            return []
        return await self._read(request, history.instruments, patience)

    def _budget(self, request: Request) -> Budget | None:
        return self._budgets.of(request.url, "rest", request.rate)

    async def fetch(self, request: Request, *, patience: float = math.inf) -> bytes:
        """Return the answer to *request*, trying again where that may help.

        Nothing is tried again that would begin more than *patience* seconds from now.

        Raises RequestFailed, Throttled or ConnectionFailed.
        """
        clock = self._plan.feed.clock
        last = clock.monotonic() + patience
        backoff = Backoff(self._plan.feed.random)
        budget = self._budget(request)
        for attempt in range(1, _ATTEMPTS + 1):
            if budget is not None:
                await budget.take(request.weight)
            try:
                body = await self._get(request)
            except FeedError as error:
                pause = backoff.next()
                if isinstance(error, Throttled):
                    pause = max(pause, error.retry_after or 1.0)
                    if budget is not None:
                        budget.pause(pause)
                late = clock.monotonic() + pause > last
                if attempt == _ATTEMPTS or late or not error.retryable:
                    raise
                log.warning("request_failed", feed=self._plan.feed.name, reason=str(error))
                await clock.sleep(pause)
                continue
            for tap in self._plan.taps:
                tap.answer(clock.time_ns(), request, body)
            return body
        raise AssertionError("unreachable")

    async def _get(self, request: Request) -> bytes:
        name = self._plan.feed.name
        check_headers(name, request.url, request.headers)
        try:
            response = await self._client.request(
                "POST" if request.body else "GET",
                request.url,
                headers=({"content-type": "application/json"} if request.body else {})
                | dict(request.headers),
                content=request.body or None,
            )
        except (httpx.HTTPError, OSError) as error:
            raise explain(name, request.url, error) from error
        except httpx.InvalidURL as error:
            failed = ConnectionFailed(name, f"{request.url!r} is no address: {error}")
            failed.retryable = False
            raise failed from error
        self._plan.feed.counters["requests"] += 1
        if response.status_code != 200:
            raise self._refused(request.url, response)
        return response.content

    def _refused(self, url: str, response: httpx.Response) -> RequestFailed:
        """Return the error for an answer that is none, in the venue's own words where it has some."""
        name, status, history = self._plan.feed.name, response.status_code, self._plan.history
        words = history.refusal(status, response.content) if history is not None else ""
        if isinstance(words, Denied):
            if words.pause is not None:
                return Throttled(name, f"{url}: {words.reason}", status, words.pause)
            words = words.reason
        if asks_for_pause(status, response.headers):
            now = self._plan.feed.clock.time_ns()
            return throttled(name, url, status, response.headers, now, words)
        path = httpx.URL(url).path
        return RequestFailed(
            name, f"{path} answered HTTP {status}{': ' + words if words else ''}", status
        )

    def _failed(self, want: Want, reason: str) -> Status:
        feed = self._plan.feed
        now = feed.clock.time_ns()
        log.warning("request_given_up", feed=feed.name, symbol=want.symbol, reason=reason)
        return Status(feed.venue, want.symbol, now, now, "request_failed", reason, want.channel)


async def check_symbols(desk: HistoryDesk, plan: Plan) -> None:
    """Hold the feed's symbols against what the venue lists.

    A venue that cannot be asked is no reason not to stream: the names made by rule then stand.

    Raises SymbolError for a symbol that the venue does not list, with the nearest that it does.
    """
    try:
        listed = await desk.listing(_PATIENCE)
    except Exception as error:
        if isinstance(error, ConnectionFailed) and not error.retryable:
            raise
        log.warning("symbols_unchecked", feed=plan.feed.name, reason=str(error))
        return
    if not listed:
        return
    enter(plan, listed)
    known = plan.feed.listing.instruments
    where = f"{plan.feed.venue} {plan.feed.market}".rstrip()
    unknown = [symbol for symbol in plan.feed.symbols if symbol not in known]
    if unknown:
        raise SymbolError(
            f"feed {plan.feed.name!r}: "
            + " ".join(
                f"{where} does not list {symbol!r}.{nearest(symbol, known)}" for symbol in unknown
            )
        )


def enter(plan: Plan, listed: list[Instrument]) -> None:
    """Enter what the venue lists; its own names replace those made by rule."""
    listing = plan.feed.listing
    for instrument in listed:
        listing.instruments[instrument.symbol] = instrument
        if instrument.symbol in listing.native:
            listing.add(instrument.symbol, instrument.native)
