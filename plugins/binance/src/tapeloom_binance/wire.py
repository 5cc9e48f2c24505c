"""Binance's frames, and the parser that turns them into events.

Each struct is a message of the venue and makes the event of it. The name of a stream tells which one
comes, and of which symbol. Many frames at a time are decoded in one go, told apart by their event
type `e`; a lone one by the name of its stream, and so are all where spot's two kinds without `e` come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from attrs import define
from msgspec import Raw, Struct, field
from msgspec.json import Decoder, encode
from tapeloom.events import Bar, Book, Event, Origin, Quote, Reject, Side, Ticker, Trade
from tapeloom.plugin import Feed, Frames, TradeBatch, channel_parts

if TYPE_CHECKING:
    from .symbols import Names

__all__ = ["Aggregate", "Parser", "Past", "Place", "Row", "Top"]

T = TypeVar("T")
_ZERO = Decimal(0)
Level: TypeAlias = tuple[str, str]
Decode: TypeAlias = Callable[[bytes], Any]


@define
class Place:
    """What the events of one stream, or of one answer, have in common."""

    venue: str
    symbol: str
    channel: str
    scale: int  #: ns in the unit of the venue's times
    parameter: str = ""  #: the interval of bars, the number of levels of a book
    origin: Origin = "live"
    line: int | None = None  #: its number among those of plain trades
    text: str = ""  #: the last price of a trade, as it was written
    price: Decimal = _ZERO  #: the same as a number

    def read(self, text: str) -> Decimal:
        """Return a price; the very object of the last one where it is written the same.

        Two trades of three are at the price of the one before, and whoever compares is done at once.
        """
        if text != self.text:
            self.price, self.text = Decimal(text), text
        return self.price


class _Deal(Struct, gc=False, kw_only=True):
    """What all trades tell. Only raw ones of futures have `X`: what they come from."""

    t: int
    p: str
    q: str
    T: int
    m: bool  #: the buyer was the maker, so the taker sold
    X: str = "MARKET"

    def event(self, at: Place, recv: int) -> Event:
        venue, symbol, channel, ts = at.venue, at.symbol, at.channel, self.T * at.scale
        price, size = at.read(self.p), Decimal(self.q)
        side: Side = "sell" if self.m else "buy"
        trade = Trade(venue, symbol, ts, recv, price, size, side, self.t, channel, at.origin)
        if self.X == "MARKET":
            return trade
        # A fill of the insurance fund, or a deleveraging: in no book, and in no kline.
        why = f"X={self.X}"
        return Reject(venue, symbol, ts, recv, "not_market_trade", why, trade, channel)


class Fill(_Deal, gc=False, kw_only=True, tag_field="e", tag="trade"):
    """``trade``."""


class Aggregate(_Deal, gc=False, kw_only=True, tag_field="e", tag="aggTrade"):
    """``aggTrade``: the fills of one order at one price. REST has the same."""

    t: int = field(name="a")


class Past(_Deal, gc=False, kw_only=True):
    """A row of ``historicalTrades``."""

    p: str = field(name="price")
    q: str = field(name="qty")
    T: int = field(name="time")
    m: bool = field(name="isBuyerMaker")
    t: int = field(name="id")


class Best(Struct, gc=False, tag_field="e", tag="bookTicker"):
    """``bookTicker``. Spot sends neither time nor `e`."""

    u: int
    b: Decimal
    B: Decimal
    a: Decimal
    A: Decimal
    T: int = 0

    def event(self, at: Place, recv: int) -> Event:
        ts = self.T * at.scale or recv
        best = self.b, self.B, self.a, self.A, self.u
        return Quote(at.venue, at.symbol, ts, recv, *best, at.channel)


class Depth(Struct, gc=False, tag_field="e", tag="depthUpdate"):
    """``depthUpdate``: changes, or the best levels. `T` and `pu` are of futures; `T` is exact."""

    E: int
    U: int
    u: int
    b: list[Level]
    a: list[Level]
    T: int = 0
    pu: int | None = None

    def event(self, at: Place, recv: int) -> Event:
        if at.parameter:
            return Top(self.u, self.b, self.a, self.T).event(at, recv)
        place = at.venue, at.symbol, (self.T or self.E) * at.scale, recv
        return Book(*place, "delta", self.b, self.a, self.U, self.u, self.pu, 0, at.channel)


class Top(Struct, gc=False):
    """A partial book of spot, with neither symbol nor time; and a snapshot over REST."""

    u: int = field(name="lastUpdateId")
    b: list[Level] = field(name="bids")
    a: list[Level] = field(name="asks")
    T: int = 0

    def event(self, at: Place, recv: int) -> Event:
        """Return the book."""
        depth = int(at.parameter) or max(len(self.b), len(self.a))
        place = at.venue, at.symbol, self.T * at.scale or recv, recv
        ids = None, self.u, None
        return Book(*place, "snapshot", self.b, self.a, *ids, depth, at.channel, at.origin)


class Row(Struct, array_like=True, gc=False):
    """A row of ``klines``; `T` is the last moment that belongs to it."""

    t: int
    o: Decimal
    h: Decimal
    l: Decimal  # noqa: E741
    c: Decimal
    v: Decimal
    T: int
    q: Decimal
    n: int
    V: Decimal
    Q: Decimal

    def bar(self, at: Place, recv: int, *, closed: bool) -> Event:
        """Return the bar."""
        place = at.venue, at.symbol, self.t * at.scale, recv, at.parameter
        prices, sums = (self.o, self.h, self.l, self.c), (self.v, self.q, self.V, self.Q)
        more = True, 0, at.channel, at.origin
        return Bar(*place, *prices, *sums, self.n, closed, *more)


class Candle(Row, array_like=False, gc=False):
    """The ``k`` of a ``kline``; `x`: it is closed."""

    x: bool


class Kline(Struct, gc=False, tag_field="e", tag="kline"):
    """``kline``."""

    k: Candle

    def event(self, at: Place, recv: int) -> Event:
        return self.k.bar(at, recv, closed=self.k.x)


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

    def event(self, at: Place, recv: int) -> Event:
        figures = self.c, self.o, self.h, self.l, self.v, self.q, self.n
        return Ticker(at.venue, at.symbol, self.E * at.scale, recv, *figures, at.channel)


class _Push(Struct, Generic[T], gc=False):
    """What is around every event of a combined stream."""

    stream: str
    data: T


class _Type(Struct):
    """1 is USD-M and 2 COIN-M: since June 2026 the hosts of either may send both."""

    st: Any = None


_envelope, _type = Decoder(_Push[Raw]).decode, Decoder(_Type).decode
_all = Decoder(list[_Push[Fill | Aggregate | Best | Depth | Kline | Day]]).decode
_DECODE: dict[str, Decode] = {
    "trade": Decoder(_Push[Fill]).decode,
    "aggTrade": Decoder(_Push[Aggregate]).decode,
    "bookTicker": Decoder(_Push[Best]).decode,
    "depth": Decoder(_Push[Depth]).decode,
    "partial": Decoder(_Push[Top]).decode,
    "kline": Decoder(_Push[Kline]).decode,
    "ticker": Decoder(_Push[Day]).decode,
}
_new: Callable[[type[Trade]], Any] = Trade.__new__
_OUT_OF_THE_ORDINARY = (KeyError, ValueError, ArithmeticError, RecursionError)
#: From so many frames on, decoding them together pays.
_MANY = 4


class Parser:
    """Turns frames into events: pure, except that it counts what nobody asked for.

    One stream serves one channel of one symbol: the first that comes. A tape may hold a book at two
    speeds, or raw and aggregate trades; mixing them would break the order of their ids.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._names = feed, names
        self._places: dict[str, Place] = {}  # by the stream's name
        self._keyed: dict[bytes, tuple[Decode, Place]] = {}  # by how its frames begin
        self._serving: dict[tuple[str, str], str] = {}
        # Futures send the time with everything, and so the event type.
        bare = any(name == "quotes" or name.startswith("book:") for name in feed.channels)
        self._told_apart = bool(names.market.settled) or not bare

    def __call__(self, frames: Frames) -> list[Event]:
        """Return the events of *frames*, in their order."""
        if self._told_apart and len(frames) >= _MANY:
            try:
                pushes = _all(b"[" + b",".join(frames) + b"]")
                if len(pushes) == len(frames):
                    try:
                        return self._built(pushes, frames.recv)
                    except KeyError:
                        if self._meet(frames, pushes):
                            return self._built(pushes, frames.recv)
            except _OUT_OF_THE_ORDINARY:
                pass  # one is out of the ordinary; nothing has been done that could be done twice
        return self._one_by_one(frames)

    def _built(self, pushes: list[Any], recv: int) -> list[Event]:
        """Return the events of frames that were decoded in one go.

        Raises KeyError for a stream that has not been opened, ArithmeticError for a price that is no
        number.
        """
        places, venue, scale, new, trade_class, number_of = (
            self._places, self._feed.venue, self._names.scale, _new, Trade, Decimal,
        )  # fmt: skip
        events = TradeBatch()
        add, number = events.append, events.subscription_ids.append
        for push in pushes:
            at = places[push.stream]
            wire = push.data
            line = at.line
            if line is None:
                add(wire.event(at, recv))
                continue
            # Trades come by the thousand: filling one in by hand takes half the time of calling it.
            trade = new(trade_class)
            trade.venue = venue
            trade.symbol = at.symbol
            trade.ts = wire.T * scale
            trade.recv = recv
            text = wire.p  # as `at.read` does, without a call
            if text == at.text:
                trade.price = at.price
            else:
                trade.price = at.price = number_of(text)
                at.text = text
            trade.size = number_of(wire.q)
            trade.side = "sell" if wire.m else "buy"
            trade.id = wire.t
            trade.channel = at.channel
            trade.origin = "live"
            add(trade)
            number(line)
        return events if len(events.subscription_ids) == len(events) else list(events)

    def _meet(self, frames: Frames, pushes: list[Any]) -> bool:
        """Open the streams that come for the first time; False where one was not asked for."""
        return all(
            push.stream in self._places or self._open(_envelope(frame))
            for frame, push in zip(frames, pushes, strict=True)
        )

    def _one_by_one(self, frames: Frames) -> list[Event]:
        """Return the events of frames that are few, or of which one is out of the ordinary."""
        keyed, recv = self._keyed, frames.recv
        events: list[Event] = []
        for frame in frames:
            try:
                decode, at = keyed[frame.partition(b",")[0]]
                event = decode(frame).data.event(at, recv)
            except _OUT_OF_THE_ORDINARY:
                events += self._unusual(frame, frames)
                continue
            events.append(event)
        return events

    def _unusual(self, frame: bytes, frames: Frames) -> Sequence[Event]:
        """Take a frame that is written differently, that nobody asked for, or that is no data."""
        try:
            push = _envelope(frame)
            if push.stream not in self._places and not self._open(push):
                self._feed.counters["unrequested"] += 1
                return ()
            key = _key(push.stream)
            decode, at = self._keyed[key]
            wire = decode(key + b',"data":' + bytes(push.data) + b"}").data
            return (wire.event(at, frames.recv),)
        except _OUT_OF_THE_ORDINARY:
            return frames.on_control(frame)

    def _open(self, push: _Push[Raw]) -> bool:
        """Make the route of a stream that comes for the first time; False if nobody asked for it.

        Raises ValueError where this is no market data.
        """
        stream, market = push.stream, self._names.market
        if "@" not in stream:
            raise ValueError("no market data")
        native, kind, channel = self._names.read(stream)
        symbol = self._feed.listing.unified.get(native)
        if symbol is None or not channel or _type(push.data).st not in (None, market.type):
            return False
        if self._serving.setdefault((symbol, channel), stream) != stream:
            return False
        parameter = channel_parts(channel)[1]
        if kind == "depth" and parameter and not market.settled:
            kind = "partial"
        # Of futures, raw trades have fills among them that stood in no book.
        plain = kind == "aggTrade" or (kind == "trade" and not market.settled)
        at = Place(self._feed.venue, symbol, channel, self._names.scale, parameter)
        if plain:
            at.line = len(self._places)
        self._places[stream] = at
        self._keyed[_key(stream)] = _DECODE[kind], at
        return True


def _key(stream: str) -> bytes:
    """Return how a frame of this stream begins."""
    return b'{"stream":' + encode(stream)
