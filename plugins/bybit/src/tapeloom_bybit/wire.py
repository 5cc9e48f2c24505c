"""Bybit's frames, and the parser that turns them into events.

The topic tells which events are built, of which symbol. A frame begins with it as a rule, and is
found by its text up to the first comma; one that is written differently is looked into first.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType
from tapeloom.events import Bar, Book, Event, Quote, Reject, Side, Ticker, Trade
from tapeloom.plugin import Feed, Frames, TradeBatch, channel_parts

if TYPE_CHECKING:
    from .names import Names

__all__ = ["MS", "SIDES", "ZERO", "Depth", "Level", "Parser"]

T = TypeVar("T")
Level: TypeAlias = tuple[str, str]
#: Appends the events of a push, which was read at a time.
Build: TypeAlias = Callable[[Any, int, TradeBatch], None]
MS = 1_000_000
ZERO = Decimal(0)
SIDES: dict[str, Side] = {"Buy": "buy", "Sell": "sell"}


class Push(Struct, Generic[T], gc=False):
    """What is around everything. Only books have `cts`, the time of the matching engine."""

    type: Literal["snapshot", "delta"]
    ts: int
    data: T
    cts: int = 0


class Fill(Struct, gc=False):
    """``publicTrade``. `S` is the taker's side; `BT` marks a block trade."""

    T: int
    S: Literal["Buy", "Sell"]
    v: Decimal
    p: Decimal
    i: str
    BT: bool = False


class Depth(Struct, gc=False):
    """``orderbook``. `u` counts the pushes of one topic, `seq` orders those of all depths."""

    b: list[Level]
    a: list[Level]
    u: int
    seq: int | None = None


class Candle(Struct, gc=False):
    """``kline``."""

    start: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    turnover: Decimal
    confirm: bool  #: it is closed


class Day(
    Struct,
    gc=False,
    rename={
        "last": "lastPrice", "open": "prevPrice24h", "high": "highPrice24h",
        "low": "lowPrice24h", "volume": "volume24h", "quote_volume": "turnover24h",
    },
):  # fmt: skip
    """``tickers``. A delta has only what is new."""

    last: Decimal | UnsetType = UNSET
    open: Decimal | UnsetType = UNSET
    high: Decimal | UnsetType = UNSET
    low: Decimal | UnsetType = UNSET
    volume: Decimal | UnsetType = UNSET
    quote_volume: Decimal | UnsetType = UNSET


class Envelope(Struct):
    """As much of any frame as tells what it is about."""

    topic: str = ""


class Route(Struct):
    """What is to be known for building the events of one topic."""

    feed: Feed
    names: Names
    symbol: str
    channel: str
    line: int


def _trades(route: Route) -> Build:
    venue, symbol, channel, line = route.feed.venue, route.symbol, route.channel, [route.line]
    blocks = route.names.settings.block_trades

    def build(push: Push[list[Fill]], recv: int, out: TradeBatch) -> None:
        sides, add, trades = SIDES, out.append, 0
        for fill in push.data:
            ts = fill.T * MS
            trade = Trade(
                venue, symbol, ts, recv, fill.p, fill.v, sides[fill.S], fill.i, channel
            )  # fmt: skip
            if fill.BT and not blocks:
                why = "BT=true: it was agreed on outside of the book"
                add(Reject(venue, symbol, ts, recv, "block_trade", why, trade, channel))
            else:
                add(trade)
                trades += 1
        out.subscription_ids += line * trades

    return build


def _quotes(route: Route) -> Build:
    venue, symbol, channel = route.feed.venue, route.symbol, route.channel
    counters = route.feed.counters
    seen: int | None = None

    def build(push: Push[Depth], recv: int, out: TradeBatch) -> None:
        nonlocal seen
        book = push.data
        # After three quiet seconds a quote is said again: it still stood at the time of the push.
        again = book.u == seen
        ts = (push.ts if again else push.cts or push.ts) * MS
        if push.type == "delta" or not (book.b and book.a):
            why = f"{push.type} with {len(book.b)} bids and {len(book.a)} asks"
            out.append(Reject(venue, symbol, ts, recv, "half_quote", why, None, channel))
            return
        (bid, bids), (ask, asks) = book.b[0], book.a[0]
        best = Decimal(bid), Decimal(bids), Decimal(ask), Decimal(asks)
        seen = book.u
        counters["repeats"] += again
        out.append(Quote(venue, symbol, ts, recv, *best, book.seq, channel))

    return build


def _books(route: Route) -> Build:
    venue, symbol, channel = route.feed.venue, route.symbol, route.channel
    depth = int(route.names.head(channel).partition(".")[2])
    checked = depth not in route.names.settings.unchecked

    def build(push: Push[Depth], recv: int, out: TradeBatch) -> None:
        book, ts = push.data, (push.cts or push.ts) * MS
        # The number 1 says that the venue's service began anew, and with it the book.
        whole = push.type == "snapshot" or book.u == 1
        first = book.u if checked and not whole else None
        kind: Literal["snapshot", "delta"] = "snapshot" if whole else "delta"
        ids = first, book.u, None, depth, channel
        out.append(Book(venue, symbol, ts, recv, kind, book.b, book.a, *ids))

    return build


def _klines(route: Route) -> Build:
    venue, symbol, channel = route.feed.venue, route.symbol, route.channel
    interval = channel_parts(channel)[1]

    def build(push: Push[list[Candle]], recv: int, out: TradeBatch) -> None:
        for c in push.data:
            place = venue, symbol, c.start * MS, recv, interval, c.open, c.high, c.low, c.close
            # What takers bought, and how many trades there were, the venue does not tell.
            sums = c.volume, c.turnover, None, None, None
            out.append(Bar(*place, *sums, c.confirm, True, 0, channel, "live"))

    return build


def _tickers(route: Route) -> Build:
    venue, symbol, channel = route.feed.venue, route.symbol, route.channel
    known: list[Any] = [UNSET] * 6

    def build(push: Push[Day], recv: int, out: TradeBatch) -> None:
        nonlocal known
        day, ts = push.data, push.ts * MS
        figures: list[Any] = [day.last, day.open, day.high, day.low, day.volume, day.quote_volume]
        if push.type == "delta":
            figures = [
                old if new is UNSET else new for new, old in zip(figures, known, strict=True)
            ]
        if UNSET in figures:
            why = f"{push.type} without all figures, and none before it had them"
            out.append(Reject(venue, symbol, ts, recv, "half_ticker", why, None, channel))
            return
        known = figures
        out.append(Ticker(venue, symbol, ts, recv, *figures, None, channel))  # type: ignore[call-arg]

    return build


def _decoder(cls: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(Push[cls]).decode


#: By the word of a channel.
_READ: dict[str, tuple[Callable[[bytes], Any], Callable[[Route], Build]]] = {
    "trades": (_decoder(list[Fill]), _trades),
    "quotes": (_decoder(Depth), _quotes),
    "book": (_decoder(Depth), _books),
    "klines": (_decoder(list[Candle]), _klines),
    "ticker": (_decoder(Day), _tickers),
}
_envelope = msgspec.json.Decoder(Envelope).decode
_BAD = (ValueError, ArithmeticError, RecursionError)


class Parser:
    """Turns frames into events: pure, except that it counts, and remembers tickers and quotes."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._names = feed, names
        self._routes: dict[bytes, tuple[Callable[[bytes], Any], Build]] = {}  # by the beginning

    def __call__(self, frames: Frames) -> list[Event]:
        """Return the events of *frames*, in their order."""
        routes, recv = self._routes, frames.recv
        out = TradeBatch()
        for frame in frames:
            try:
                route = routes.get(frame.partition(b",")[0]) or self._look(frame)
                if route is not None:
                    route[1](route[0](frame), recv, out)
            except _BAD:
                out.extend(frames.on_control(frame))
        return out if len(out.subscription_ids) == len(out) else list(out)

    def _look(self, frame: bytes) -> tuple[Callable[[bytes], Any], Build] | None:
        """Return the route of a frame that does not begin as usual, or comes for the first time.

        None where nobody asked for it. Raises ValueError where it is no market data.
        """
        topic = _envelope(frame).topic
        if not topic:
            raise ValueError("no market data")
        key = b'{"topic":' + msgspec.json.encode(topic)
        if key not in self._routes:
            head, _, native = topic.rpartition(".")
            symbol = self._feed.listing.unified.get(native)
            channel = self._names.channels.get(head)
            if symbol is None or channel is None:
                self._feed.counters["unrequested"] += 1
                return None
            decode, builder = _READ[channel_parts(channel)[0]]
            route = Route(self._feed, self._names, symbol, channel, len(self._routes))
            self._routes[key] = decode, builder(route)
        return self._routes[key]
