"""Checks a venue plugin's `history` hook: its requests go to the simulated server, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tapeloom.events import Bar, Book, Event, Trade
from tapeloom.plugin import HistoryQuery, Request, channel_parts
from tapeloom.symbols import Symbol
from tapeloom_simulator import SimulatedMarket
from tapeloom_simulator.server_api import HttpRequest

from .declared import ContractViolation, NotApplicable
from .dialogue import NOWHERE

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

    def query(self, query: HistoryQuery) -> list[Any]:
        """Request *query* and return the events read from the response."""
        request = self.history.request(query)
        body = self.get(request, f"history {query.kind!r}")
        assert request is not None
        events: list[Event] = self.history.read_answer(request, body, 7)
        if not events:
            raise ContractViolation(
                f"`read_answer` found no event in the response to {request.url}: {body[:200]!r}"
            )
        for event in events:
            if event.symbol != query.symbol or event.venue != self.plan.feed.venue:
                raise ContractViolation(f"expected events of {query!r}, got {event!r}")
        return events


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
    instrument, epoch = archive.instrument, archive.market.epoch
    since, until = epoch + 20 * _SECOND, epoch + 100 * _SECOND
    queries = [
        HistoryQuery("trades", archive.symbol, channel, "", *span)
        for channel in ("trades", "agg_trades")
        for span in ((since, until, None), (None, None, 20), (None, None, None))
    ]
    supported = [query for query in queries if archive.history.request(query) is not None]
    events = archive.query(supported[0] if supported else queries[0])
    real = [
        (trade.price * instrument.tick, trade.size * instrument.lot, trade.ts // unit)
        for trade in instrument.trades(1, 1_000_000)
    ]
    aggregates = [
        (
            group[0].price * instrument.tick,
            sum(trade.size for trade in group) * instrument.lot,
            group[0].ts // unit,
        )
        for group in instrument.aggregate_trades(1, 1_000_000)
    ]
    got = [(event.price, event.size, event.ts // unit) for event in events if type(event) is Trade]
    if not any(_within(got, facts) for facts in (real, aggregates)):
        raise ContractViolation(
            f"the trades are not a complete, ordered part of the market's: {events[:2]!r}"
        )
    if wrong := [event for event in events if type(event) is not Trade or event.origin == "live"]:
        raise ContractViolation(
            f"expected trades with an origin other than 'live', got {wrong[0]!r}. Set `origin`."
        )


def _within(part: Sequence[Any], whole: Sequence[Any]) -> bool:
    """Return whether *part* is a contiguous slice of *whole*."""
    starts = [at for at, item in enumerate(whole) if part and item == part[0]]
    return any(list(whole[at : at + len(part)]) == list(part) for at in starts)


def _bars(archive: Archive, interval: str) -> None:
    instrument, market = archive.instrument, archive.market
    events = archive.query(
        HistoryQuery(
            "bars", archive.symbol, f"klines:{interval}", interval,
            since=market.epoch, until=market.epoch + _SPAN,
        )
    )  # fmt: skip
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
