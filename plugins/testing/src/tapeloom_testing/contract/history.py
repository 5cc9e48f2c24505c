"""Checks a venue plugin's `history` hook: its requests go to the simulated server, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import evolve
from tapeloom.events import Bar, Book, Event, Trade
from tapeloom.plugin import HistoryQuery, Request, channel_parts
from tapeloom.symbols import Symbol
from tapeloom_simulator import SimulatedMarket
from tapeloom_simulator.server_api import HttpRequest

from .declared import ContractViolation, NotApplicable
from .dialogue import NOWHERE
from .recording import bar_length
from .truth import numbered

if TYPE_CHECKING:
    from tapeloom.harness import ComposedFeed
    from tapeloom_simulator.server_api import VenueServer

    from .composed import Subject

__all__ = ["answered"]

#: One second in ns.
_SECOND = 1_000_000_000
#: Length of the simulated history in ns: more than two bars of one minute.
_SPAN = 150 * _SECOND
#: Book levels per side that are compared at most.
_LEVELS = 20


class Archive:
    """A simulated venue with a trading history, and the plugin that requests it."""

    def __init__(self, subject: Subject, simulated: str) -> None:
        self.market: Any = SimulatedMarket(subject.symbols, seed=5, rate=10.0)
        self.market.advance(self.market.epoch + _SPAN)
        side = subject.venue_server(self.market, simulated)
        if side is None:
            raise NotApplicable("the plugin has no `simulate`: there is nobody to ask")
        self.side: VenueServer = side
        given = {**subject.settings, **side.settings(NOWHERE)}
        self.plan: ComposedFeed = subject.plan(given)
        if self.plan.history is None:
            raise ContractViolation(
                "the contract declares `history`, but the plugin has no hook `history`."
            )
        self.history = self.plan.history
        self.symbol = subject.symbols[0]
        self.instrument = self.market.instruments[self.symbol]

    def get(self, request: Request | None, purpose: str) -> bytes:
        """Return the body of the simulated server's response; *purpose* names it in errors."""
        if request is None:
            raise ContractViolation(
                f"{purpose} is declared, but `history` returns no request for it."
            )
        address = urlsplit(request.url)
        call = HttpRequest(
            method="POST" if request.body else "GET",
            path=unquote(address.path),
            query=dict(parse_qsl(address.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=request.body,
        )
        answer = self.side.respond(call)
        if answer.status != 200:
            raise ContractViolation(
                f"{purpose}: the simulated server answers {request.url} with HTTP {answer.status}:"
                f" {answer.body[:200]!r}"
            )
        return answer.body.encode()

    def read(self, query: HistoryQuery) -> tuple[Request, list[Any]]:
        """Request *query*; return the request and the events read from the response."""
        request = self.history.request(query)
        body = self.get(request, f"history {query.kind!r}")
        assert request is not None
        events: list[Event] = self.history.read_answer(request, body, 7)
        for event in events:
            if event.symbol != query.symbol or event.venue != self.plan.feed.venue:
                raise ContractViolation(f"expected events of {query!r}, got {event!r}")
        return request, events

    def query(self, query: HistoryQuery) -> list[Any]:
        """Request *query* and return the events; pages one after another, as core requests them."""
        found: dict[Any, Any] = {}
        while True:
            request, events = self.read(query)
            ordered = [_order(event) for event in events]
            if request.paged and ordered != sorted(ordered):
                raise ContractViolation(
                    f"a page must have the oldest event first: {events[:2]!r} in the answer to"
                    f" {request.url}. Sort it in `read_answer`, or do not set `Request.paged`."
                )
            new = {_key(event): event for event in events if _key(event) not in found}
            found |= new
            if request.paged and not new and request.page_end is not None:
                query = evolve(query, since=request.page_end)
            elif not request.paged or not new:
                break
            else:
                last = events[-1]
                more = {"after_id": last.id} if query.after_id is not None else {}
                query = evolve(query, since=last.ts, **more)
        if not found:
            raise ContractViolation(f"`read_answer` found no event in the response to {query!r}.")
        return list(found.values())


def _key(event: Any) -> Any:
    """Return what identifies an event of one answer."""
    if type(event) is Trade:
        return event.id if event.id != "" else (event.ts, event.price, event.size, event.side)
    return type(event), event.ts


def _order(event: Any) -> tuple[int, int]:
    number = getattr(event, "id", 0)
    return event.ts, number if type(number) is int else 0


def answered(subject: Subject, kinds: Sequence[str], unit: int, simulated: str = "") -> None:
    """Check that each declared kind of history can be requested and equals the market's data."""
    archive = Archive(subject, simulated)
    for kind in kinds:
        name, interval = channel_parts(kind)
        if name == "listing":
            _listing(archive, subject)
        elif name == "trades":
            _trades(archive, unit)
        elif name == "bars":
            _bars(archive, interval or "1m")
        elif name == "book":
            _book(archive, subject)
        else:
            raise ContractViolation(
                f"history {kind!r} is unknown: expected listing, trades, bars or book."
            )


def _listing(archive: Archive, subject: Subject) -> None:
    request = archive.history.listing_request()
    listed = {
        instrument.symbol: instrument
        for instrument in archive.history.read_listing(archive.get(request, "history 'listing'"))
    }
    for symbol in subject.symbols:
        instrument, parts = listed.get(symbol), Symbol.parse(symbol)
        if instrument is None:
            raise ContractViolation(
                f"the venue lists {symbol!r}, but `read_listing` returned {sorted(listed)[:9]}"
            )
        listed_parts = (instrument.kind, instrument.base, instrument.quote)
        if listed_parts != (parts.kind, parts.base, parts.quote):
            raise ContractViolation(f"{symbol!r} is listed as {instrument!r}")
    natives = [listed[symbol].native for symbol in subject.symbols]
    if len(natives) != len(set(natives)):
        raise ContractViolation(f"two of {subject.symbols} have the same native name.")


def _trades(archive: Archive, unit: int) -> None:
    """Check the trades of every way to query them that the venue supports."""
    instrument = archive.instrument
    trades = instrument.trades(1, 1_000_000)
    # From the time of a trade on: a query that leaves its start out loses that trade.
    since, until = trades[len(trades) // 8].ts // unit * unit, trades[len(trades) // 2].ts
    queries = [
        HistoryQuery("trades", archive.symbol, channel, "", *span)
        for channel in ("trades", "agg_trades")
        for span in ((since, until, None), (None, None, 20), (None, None, None))
    ]
    supported = [query for query in queries if archive.history.request(query) is not None]
    singles = [
        (trade.price * instrument.tick, trade.size * instrument.lot, trade.ts // unit)
        for trade in trades
    ]
    aggregates = [
        (
            group[0].price * instrument.tick,
            sum(trade.size for trade in group) * instrument.lot,
            group[0].ts // unit,
        )
        for group in instrument.aggregate_trades(1, 1_000_000)
    ]
    for query in supported or queries[:1]:
        request = archive.history.request(query)
        events = archive.query(query)
        wrong = [event for event in events if type(event) is not Trade or event.origin == "live"]
        if wrong:
            raise ContractViolation(
                f"expected trades with an origin other than 'live', got {wrong[0]!r}. Set `origin`."
            )
        numbered(events)
        got = [(event.price, event.size, event.ts // unit) for event in events]
        whole = next((facts for facts in (singles, aggregates) if _within(got, facts)), None)
        if whole is None:
            raise ContractViolation(
                f"the trades are not a complete, ordered part of the market's: {events[:2]!r}"
            )
        if request is not None and request.paged:
            _whole_span(query, events, whole, unit)


def _whole_span(
    query: HistoryQuery, events: Sequence[Any], whole: Sequence[Any], unit: int
) -> None:
    """Check that pages have every trade of the span that *query* names, from the first to the last."""
    first, last = events[0], events[-1]
    if isinstance(query.after_id, int) and first.id != query.after_id + 1:
        raise ContractViolation(
            f"after the id {query.after_id} the first trade must have the next one, got {first!r}."
        )
    inside = [
        ts
        for _, _, ts in whole
        if (query.since is None or ts >= query.since // unit)
        and (query.until is None or ts < query.until // unit)
    ]
    if query.since is not None and first.ts // unit != inside[0]:
        raise ContractViolation(
            f"the first trade since {query.since} is at {inside[0] * unit}, but the first page begins"
            f" with {first!r}. `since` is included, and a page begins there."
        )
    if last.ts // unit < inside[-1]:
        raise ContractViolation(
            f"the last trade of {query!r} is at {inside[-1] * unit}, but the last page ends with"
            f" {last!r}. A page after another one begins where that ended."
        )


def _within(part: Sequence[Any], whole: Sequence[Any]) -> bool:
    """Return whether *part* is a contiguous slice of *whole*."""
    starts = [at for at, item in enumerate(whole) if part and item == part[0]]
    return any(list(whole[at : at + len(part)]) == list(part) for at in starts)


def _bars(archive: Archive, interval: str) -> None:
    market, until = archive.market, archive.market.epoch + _SPAN
    length = bar_length(f"klines:{interval}")
    _bars_since(archive, interval, market.epoch, until)
    if length and market.epoch + length < until:
        # From the start of a bar on: a query that leaves its start out loses that bar.
        _bars_since(archive, interval, market.epoch + length, until)


def _bars_since(archive: Archive, interval: str, since: int, until: int) -> None:
    instrument, market = archive.instrument, archive.market
    query = HistoryQuery(
        "bars", archive.symbol, f"klines:{interval}", interval, since=since, until=until
    )
    request, events = archive.history.request(query), archive.query(query)
    starts = [bar.ts for bar in events]
    due = [bar.start for bar in instrument.bars(interval, since, until, 1_000) if bar.end <= until]
    if request is not None and request.paged and starts[: len(due)] != due:
        raise ContractViolation(
            f"expected the bars that start at {due} for {query!r}, got those at {starts}. `since` is"
            " included, and the oldest bar comes first."
        )
    if starts != sorted(starts):
        raise ContractViolation(f"expected the oldest bar first, got those at {starts}.")
    for bar in events:
        if type(bar) is not Bar or bar.interval != interval:
            raise ContractViolation(f"expected bars of {interval}, got {bar!r}")
        candle = instrument.bar(interval, bar.ts)
        if candle is None or candle.start != bar.ts:
            raise ContractViolation(f"the market has no bar that starts at {bar.ts}: {bar!r}")
        ticks = (candle.open, candle.high, candle.low, candle.close)
        expected = (*(price * instrument.tick for price in ticks), candle.volume * instrument.lot)
        if (bar.open, bar.high, bar.low, bar.close, bar.volume) != expected:
            raise ContractViolation(f"expected {[*map(str, expected)]}, got {bar!r}")
        if bar.closed and candle.end > market.now:
            raise ContractViolation(f"this bar is closed, but its interval has not ended: {bar!r}")


def _book(archive: Archive, subject: Subject) -> None:
    instrument = archive.instrument
    channels = (name for name in subject.channels if channel_parts(name)[0] == "book")
    channel = next(channels, "book")
    events = archive.query(HistoryQuery("book", archive.symbol, channel))
    book = events[0]
    if len(events) != 1 or type(book) is not Book or book.kind != "snapshot":
        raise ContractViolation(f"expected one snapshot of a book, got {events!r}")
    ladder = instrument.book_snapshot(_LEVELS)
    for name, got, levels in (("bids", book.bids, ladder.bids), ("asks", book.asks, ladder.asks)):
        real = [(price * instrument.tick, size * instrument.lot) for price, size in levels]
        if not got or got[:_LEVELS] != real[: len(got)]:
            raise ContractViolation(f"expected the {name} {real[:3]}, got {got[:3]}.")
