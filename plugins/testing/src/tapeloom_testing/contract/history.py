"""The client's REST language against the venue's, without a network."""

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

_SECOND = 1_000_000_000
_SPAN = 150 * _SECOND
_LEVELS = 20


class Library:
    """A venue with a past, and a client that asks about it."""

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
                "the contract says that REST answers, and there is no hook `history`."
            )
        self.history = self.plan.history
        self.symbol = subject.symbols[0]
        self.pit = self.market.instruments[self.symbol]

    def get(self, request: Request | None, what: str) -> bytes:
        """Return what the venue's side answers."""
        if request is None:
            raise ContractViolation(f"{what} is declared, and `history` gives no request for it.")
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
                f"{what}: the venue's side answers {request.url} with HTTP {answer.status}:"
                f" {answer.body[:200]!r}"
            )
        return answer.body.encode()

    def ask(self, want: HistoryQuery) -> list[Any]:
        """Return the events that answer *want*."""
        request = self.history.request(want)
        body = self.get(request, f"history {want.kind!r}")
        assert request is not None
        events: list[Event] = self.history.read_answer(request, body, 7)
        if not events:
            raise ContractViolation(
                f"nothing came of {request.url}, to which the venue said {body[:200]!r}"
            )
        for event in events:
            if event.symbol != want.symbol or event.venue != self.plan.feed.venue:
                raise ContractViolation(f"{want!r} was asked for, and this came: {event!r}")
        return events


def answered(subject: Subject, kinds: Sequence[str], unit: int, simulated: str = "") -> None:
    """Hold that REST answers what is declared, and that what it answers is true."""
    library = Library(subject, simulated)
    for kind in kinds:
        word, interval = channel_parts(kind)
        if word == "listing":
            _listing(library, subject)
        elif word == "trades":
            _trades(library, unit)
        elif word == "bars":
            _bars(library, interval or "1m")
        elif word == "book":
            _book(library, subject)
        else:
            raise ContractViolation(f"history {kind!r} is none of listing, trades, bars, book.")


def _listing(library: Library, subject: Subject) -> None:
    request = library.history.listing_request()
    listed = {
        one.symbol: one
        for one in library.history.read_listing(library.get(request, "history 'listing'"))
    }
    for symbol in subject.symbols:
        one, parts = listed.get(symbol), Symbol.parse(symbol)
        if one is None:
            raise ContractViolation(
                f"the venue lists {symbol!r}, and `instruments` has {sorted(listed)[:9]}"
            )
        if (one.kind, one.base, one.quote) != (parts.kind, parts.base, parts.quote):
            raise ContractViolation(f"{symbol!r} is listed as {one!r}")
    natives = [one.native for one in listed.values()]
    if len(natives) != len(set(natives)):
        raise ContractViolation("two symbols of the list have one native name.")


def _trades(library: Library, unit: int) -> None:
    pit, epoch = library.pit, library.market.epoch
    since, until = epoch + 20 * _SECOND, epoch + 100 * _SECOND
    wants = [
        HistoryQuery("trades", library.symbol, channel, "", *span)
        for channel in ("trades", "agg_trades")
        for span in ((since, until, None), (None, None, 20), (None, None, None))
    ]
    given = [want for want in wants if library.history.request(want) is not None]
    events = library.ask(given[0] if given else wants[0])
    real = [
        (fill.price * pit.tick, fill.size * pit.lot, fill.ts // unit)
        for fill in pit.trades(1, 1_000_000)
    ]
    joined = [
        (some[0].price * pit.tick, sum(one.size for one in some) * pit.lot, some[0].ts // unit)
        for some in pit.aggregate_trades(1, 1_000_000)
    ]
    got = [(one.price, one.size, one.ts // unit) for one in events if type(one) is Trade]
    if not any(_within(got, facts) for facts in (real, joined)):
        raise ContractViolation(
            f"the trades that came are not the market's, in order: {events[:2]!r}"
        )
    if wrong := [one for one in events if type(one) is not Trade or one.origin == "live"]:
        raise ContractViolation(f"past trades are not live: {wrong[0]!r}. Set `origin`.")


def _within(part: Sequence[Any], whole: Sequence[Any]) -> bool:
    """Say whether *part* stands in *whole*, without a hole."""
    starts = [at for at, one in enumerate(whole) if part and one == part[0]]
    return any(list(whole[at : at + len(part)]) == list(part) for at in starts)


def _bars(library: Library, interval: str) -> None:
    pit, market = library.pit, library.market
    events = library.ask(
        HistoryQuery(
            "bars", library.symbol, f"klines:{interval}", interval,
            since=market.epoch, until=market.epoch + _SPAN,
        )
    )  # fmt: skip
    for bar in events:
        if type(bar) is not Bar or bar.interval != interval:
            raise ContractViolation(f"bars of {interval} were asked for, and this came: {bar!r}")
        candle = pit.bar(interval, bar.ts)
        if candle is None or candle.start != bar.ts:
            raise ContractViolation(f"the market has no bar that starts at {bar.ts}: {bar!r}")
        ticks = (candle.open, candle.high, candle.low, candle.close)
        expected = (*(price * pit.tick for price in ticks), candle.volume * pit.lot)
        if (bar.open, bar.high, bar.low, bar.close, bar.volume) != expected:
            raise ContractViolation(f"expected {[*map(str, expected)]}, came {bar!r}")
        if bar.closed and candle.end > market.now:
            raise ContractViolation(f"a bar that has not ended is said to be closed: {bar!r}")


def _book(library: Library, subject: Subject) -> None:
    pit = library.pit
    channel = next((one for one in subject.channels if channel_parts(one)[0] == "book"), "book")
    events = library.ask(HistoryQuery("book", library.symbol, channel))
    book = events[0]
    if len(events) != 1 or type(book) is not Book or book.kind != "snapshot":
        raise ContractViolation(f"one snapshot of a book was asked for, and this came: {events!r}")
    ladder = pit.book_snapshot(_LEVELS)
    for name, mine, theirs in (("bids", book.bids, ladder.bids), ("asks", book.asks, ladder.asks)):
        real = [(price * pit.tick, size * pit.lot) for price, size in theirs]
        if not mine or mine[:_LEVELS] != real[: len(mine)]:
            raise ContractViolation(f"the {name} are {mine[:3]}, the market's {real[:3]}.")
