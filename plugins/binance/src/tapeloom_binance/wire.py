"""Binance's frames, and the parser that turns them into events.

The name of a combined stream decides which event is built, of which symbol. Which struct a frame is
decoded into, its event type `e` tells, and msgspec reads that for nothing. Two kinds of spot have no
`e`; a feed that has one of them looks up the text before the first comma instead, which names the
stream as well. A frame that is written differently is brought into the combined form first.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import Struct
from tapeloom.events import Bar, Book, Event, Quote, Reject, Side, Ticker, Trade
from tapeloom.feeds import Feed, Frames, LiveTrades, channel_parts

if TYPE_CHECKING:
    from .symbols import Names

__all__ = ["Aggregate", "Parser"]

T = TypeVar("T")
Level: TypeAlias = tuple[str, str]
Build: TypeAlias = Callable[[Any, int], Event]
#: The builder of a stream's events (None: a trade, built by the parser itself), symbol, channel,
#: and the number of its line.
Route: TypeAlias = tuple[Build | None, str, str, int]

_new: Callable[[type[Trade]], Any] = Trade.__new__


class Combined(Struct, Generic[T], gc=False):
    """What is around every event of a combined stream."""

    stream: str
    data: T


class Fill(Struct, gc=False, tag_field="e", tag="trade"):
    """``trade``. Only futures have `X`, which tells what the fill comes from."""

    t: int
    p: Decimal
    q: Decimal
    T: int
    m: bool  #: the buyer was the maker, so the taker sold
    X: str = "MARKET"


class Aggregate(Struct, gc=False, rename={"t": "a"}, tag_field="e", tag="aggTrade"):
    """``aggTrade``: the fills of one order at one price. REST has the same."""

    t: int
    p: Decimal
    q: Decimal
    T: int
    m: bool
    X: str = "MARKET"


class Best(Struct, gc=False, tag_field="e", tag="bookTicker"):
    """``bookTicker``. Spot sends neither time nor `e`."""

    u: int
    b: Decimal
    B: Decimal
    a: Decimal
    A: Decimal
    T: int = 0


class Depth(Struct, gc=False, tag_field="e", tag="depthUpdate"):
    """``depthUpdate``. Only futures have `T`, the time of the matching engine, and `pu`."""

    E: int
    U: int
    u: int
    b: list[Level]
    a: list[Level]
    T: int = 0
    pu: int | None = None


class Top(Struct, gc=False, rename={"u": "lastUpdateId", "b": "bids", "a": "asks"}):
    """A partial book of spot, with neither symbol nor time; and a snapshot over REST."""

    u: int
    b: list[Level]
    a: list[Level]
    E: int = 0
    T: int = 0


class Candle(Struct, gc=False):
    """The ``k`` of a ``kline``."""

    t: int
    o: Decimal
    c: Decimal
    h: Decimal
    l: Decimal  # noqa: E741
    v: Decimal
    n: int
    x: bool
    q: Decimal
    V: Decimal
    Q: Decimal


class Kline(Struct, gc=False, tag_field="e", tag="kline"):
    """``kline``."""

    k: Candle


class Day(Struct, gc=False, tag_field="e", tag="24hrTicker"):
    """``24hrTicker``."""

    E: int
    c: Decimal
    o: Decimal
    h: Decimal
    l: Decimal  # noqa: E741
    v: Decimal
    q: Decimal
    n: int | None = None


class Envelope(Struct):
    """As much of any frame as tells what it is."""

    stream: str = ""
    data: msgspec.Raw = msgspec.Raw()
    e: str = ""
    s: str = ""
    B: str = ""  #: a raw bookTicker of spot has this and no `e`
    k: dict[str, Any] | None = None


_envelope = msgspec.json.Decoder(Envelope).decode


def _fill(venue: str, symbol: str, channel: str, scale: int) -> Build:
    def build(fill: Fill | Aggregate, recv: int) -> Event:
        side: Side = "sell" if fill.m else "buy"
        ts = fill.T * scale
        trade = Trade(venue, symbol, ts, recv, fill.p, fill.q, side, fill.t, channel)
        if fill.X == "MARKET":
            return trade
        # A fill of the insurance fund, or a deleveraging: in no book, and in no kline.
        why = f"X={fill.X}"
        return Reject(venue, symbol, ts, recv, "not_market_trade", why, trade, channel)

    return build


def _trade(venue: str, symbol: str, channel: str, scale: int) -> None:
    """Leave it to the parser."""


def _quote(venue: str, symbol: str, channel: str, scale: int) -> Build:
    def build(best: Best, recv: int) -> Event:
        ts = best.T * scale or recv
        return Quote(venue, symbol, ts, recv, best.b, best.B, best.a, best.A, best.u, channel)

    return build


def _delta(venue: str, symbol: str, channel: str, scale: int) -> Build:
    def build(new: Depth, recv: int) -> Event:
        ids = new.U, new.u, new.pu
        ts = (new.T or new.E) * scale
        return Book(venue, symbol, ts, recv, "delta", new.b, new.a, *ids, 0, channel)

    return build


def _top(venue: str, symbol: str, channel: str, scale: int) -> Build:
    size = int(channel_parts(channel)[1])

    def build(top: Top | Depth, recv: int) -> Event:
        ids = None, top.u, None
        ts = (top.T or top.E) * scale or recv
        return Book(venue, symbol, ts, recv, "snapshot", top.b, top.a, *ids, size, channel)

    return build


def _bar(venue: str, symbol: str, channel: str, scale: int) -> Build:
    interval = channel_parts(channel)[1]

    def build(kline: Kline, recv: int) -> Event:
        k = kline.k
        place = venue, symbol, k.t * scale, recv, interval
        sums = k.v, k.q, k.V, k.Q
        return Bar(*place, k.o, k.h, k.l, k.c, *sums, k.n, k.x, True, 0, channel, "live")

    return build


def _ticker(venue: str, symbol: str, channel: str, scale: int) -> Build:
    def build(day: Day, recv: int) -> Event:
        prices = day.c, day.o, day.h, day.l
        volumes = day.v, day.q, day.n
        return Ticker(venue, symbol, day.E * scale, recv, *prices, *volumes, channel)

    return build


def _decoder(cls: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(Combined[cls]).decode


#: By kind of stream. A book of some levels is no change of one; only futures have other fills.
_READ: dict[str, tuple[Callable[[bytes], Any], Callable[[str, str, str, int], Build | None]]] = {
    "trade": (_decoder(Fill), _trade),
    "fill": (_decoder(Fill), _fill),
    "aggTrade": (_decoder(Aggregate), _trade),
    "bookTicker": (_decoder(Best), _quote),
    "depth": (_decoder(Depth), _delta),
    "partial": (_decoder(Top), _top),
    "timed partial": (_decoder(Depth), _top),
    "kline": (_decoder(Kline), _bar),
    "ticker": (_decoder(Day), _ticker),
}
_all = msgspec.json.Decoder(list[Combined[Fill | Aggregate | Best | Depth | Kline | Day]]).decode
#: From so many frames on, decoding them together pays.
_MANY = 4


class Parser:
    """Turns frames into events: pure, except that it counts what nobody asked for.

    One stream serves one channel of one symbol: the first that comes. A tape may hold a book at two
    speeds, or raw and aggregate trades; mixing them would break the order of their ids.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed = feed
        self._names = names
        self._routes: dict[str, Route] = {}  # by the stream's name
        self._keyed: dict[bytes, tuple[Callable[[bytes], Any], Build]] = {}  # by its beginning
        self._serving: dict[tuple[str, str], str] = {}
        words = [channel_parts(channel) for channel in feed.channels]
        # Futures send the time with everything, and so the event type.
        bare = any(word == "quotes" or (word == "book" and level) for word, level in words)
        self._told_apart = names.market.timed or not bare
        # A raw frame tells what it is, but not how often it comes nor how many levels it has.
        book = next((each for each in feed.channels if channel_parts(each)[0] == "book"), "book")
        book = "book" if "book" in feed.channels else book
        self._raw_depth = names.stream("", book)

    def __call__(self, frames: Frames) -> list[Event]:
        """Return the events of *frames*, in their order."""
        if self._told_apart and len(frames) >= _MANY:
            try:
                pushes = _all(b"[" + b",".join(frames) + b"]")
                if len(pushes) == len(frames):
                    return self._built(pushes, frames.recv)
            except (KeyError, ValueError, RecursionError):
                pass  # one is out of the ordinary; nothing has been done that could be done twice
        return self._one_by_one(frames)

    def _built(self, pushes: list[Any], recv: int) -> list[Event]:
        """Return the events of frames that were decoded in one go.

        Raises KeyError where a stream comes for the first time, or nobody asked for it.
        """
        routes, venue, scale, new, trade_class = (
            self._routes, self._feed.venue, self._names.scale, _new, Trade,
        )  # fmt: skip
        events = LiveTrades()
        add, number = events.append, events.lines.append
        for push in pushes:
            build, symbol, channel, line = routes[push.stream]
            wire = push.data
            if build is not None:
                add(build(wire, recv))
                continue
            # Trades come by the thousand: filling one in by hand takes half the time of calling it.
            trade = new(trade_class)
            trade.venue = venue
            trade.symbol = symbol
            trade.ts = wire.T * scale
            trade.recv = recv
            trade.price = wire.p
            trade.size = wire.q
            trade.side = "sell" if wire.m else "buy"
            trade.id = wire.t
            trade.channel = channel
            trade.origin = "live"
            add(trade)
            number(line)
        return events if len(events.lines) == len(events) else list(events)

    def _one_by_one(self, frames: Frames) -> list[Event]:
        """Return the events of frames that are few, or of which one is out of the ordinary."""
        keyed, recv = self._keyed, frames.recv
        events: list[Event] = []
        for frame in frames:
            try:
                decode, build = keyed[frame.partition(b",")[0]]
                wire = decode(frame).data
            except (KeyError, ValueError, RecursionError):
                self._unusual(frame, frames, events)
                continue
            events.append(build(wire, recv))
        return events

    def _unusual(self, frame: bytes, frames: Frames, events: list[Event]) -> None:
        """Take a frame that is written differently, that nobody asked for, or that is no data."""
        try:
            stream, text = self._look(frame)
            if stream not in self._routes and not self._open(stream):
                self._feed.counters["unasked"] += 1
                return
            decode, build = self._keyed[_key(stream)]
            wire = decode(text).data
        except (ValueError, RecursionError):
            events.extend(frames.aside(frame))
            return
        events.append(build(wire, frames.recv))

    def _look(self, frame: bytes) -> tuple[str, bytes]:
        """Return the name of a frame's stream, and the frame in the combined form.

        Raises ValueError where it is no market data.
        """
        envelope = _envelope(frame)
        stream, content = envelope.stream, bytes(envelope.data)
        if not stream:
            stream, content = self._stream_of(envelope), frame
        if "@" not in stream or not content:
            raise ValueError("no market data")
        return stream, _key(stream) + b',"data":' + content + b"}"

    def _stream_of(self, raw: Envelope) -> str:
        """Return the name of the stream that a raw event belongs to."""
        if not raw.s:
            return ""
        kind = raw.e or ("bookTicker" if raw.B else "")
        if kind == "depthUpdate":
            return raw.s.lower() + self._raw_depth
        if kind == "kline" and raw.k is not None:
            kind = f"kline_{raw.k.get('i')}"
        return f"{raw.s.lower()}@{'ticker' if kind == '24hrTicker' else kind}" if kind else ""

    def _open(self, stream: str) -> bool:
        """Make the route of a stream that comes for the first time; False if nobody asked for it."""
        read = self._names.read(stream)
        if read is None:
            return False
        native, channel, kind = read
        symbol = self._feed.listing.unified.get(native)
        if symbol is None or channel not in self._feed.channels:
            return False
        if self._serving.setdefault((symbol, channel), stream) != stream:
            return False
        if kind == "depth" and channel != "book":
            kind = "timed partial" if self._names.market.timed else "partial"
        if kind == "trade" and self._names.market.timed:
            kind = "fill"
        decode, builder = _READ[kind]
        place = self._feed.venue, symbol, channel, self._names.scale
        build = builder(*place)
        self._routes[stream] = build, symbol, channel, len(self._routes)
        self._keyed[_key(stream)] = decode, build or _fill(*place)
        return True


def _key(stream: str) -> bytes:
    """Return how a frame of this stream begins."""
    return b'{"stream":' + msgspec.json.encode(stream)
