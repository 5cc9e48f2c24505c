"""Binance's market-data messages, and the parser that turns WebSocket frames into events.

Data flow: the transport pushes frames, `Parser` decodes them with the structs below, and the structs
build the events. `history` decodes REST answers with some of the same structs.

The `#:` lines above a struct are one sample payload (recorded, or from the venue's documentation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeAlias, TypeVar

from attrs import define
from msgspec import Meta, Raw, Struct, ValidationError, field
from msgspec.json import Decoder, encode
from tapeloom.events import Bar, Book, Event, Origin, Quote, Reject, Side, Ticker, Trade
from tapeloom.plugin import Feed, Frames, TradeBatch, channel_parts
from tapeloom.plugin.bounds import INT_LIMIT, number, reject_out_of_bounds

if TYPE_CHECKING:
    from .symbols import Names

__all__ = ["AggregateTrade", "DepthSnapshot", "HistoricalTrade", "KlineRow", "Parser", "Route"]

T = TypeVar("T")
Level: TypeAlias = tuple[str, str]
Decode: TypeAlias = Callable[[bytes], Any]
#: A time or an id. msgspec accepts longer integers where there is no limit.
Int64: TypeAlias = Annotated[int, Meta(ge=0, le=INT_LIMIT - 1)]

#: What is read as the size of a message that is no trade, in a batch.
_NO_SIZE = "0"
#: The price of a route before its first trade.
_ZERO = Decimal(0)
#: The number of frames from which decoding them together is faster than one by one.
_BATCH_MIN_FRAMES = 4
#: What decoding or building an event raises for a frame that is not usable market data.
_PARSE_ERRORS = (KeyError, ValueError, ArithmeticError, RecursionError)
#: Creates a trade without calling `Trade.__init__`: see `Parser._parse_batch`.
_new_trade: Callable[[type[Trade]], Any] = Trade.__new__


@define
class Route:
    """The fields that all events of one stream, or of one REST answer, have in common."""

    venue: str
    symbol: str
    channel: str
    time_unit_ns: int  #: ns in one unit of the venue's times
    parameter: str = ""  #: the interval of bars, the number of levels of a book
    origin: Origin = "live"
    subscription_id: int | None = None  #: set only where every event of the stream is a plain trade
    last_price_text: str = ""  #: the last trade's price as the venue wrote it
    last_price: Decimal = _ZERO  #: `last_price_text` as a number

    def parse_price(self, text: str) -> Decimal:
        """Return the price as a Decimal; reuse the last one if the text is the same.

        Two trades of three have the price of the trade before; comparing identical objects is fast.
        """
        if text != self.last_price_text:
            price = number(text)
            if not price.is_finite():
                raise ValueError(f"expected a finite number, got {text[:80]!r}")
            self.last_price, self.last_price_text = price, text
        return self.last_price


class TradeMessage(Struct, gc=False, kw_only=True):
    """The fields of every trade. Only raw trades of futures have `X`, the kind of the trade."""

    t: Int64
    p: str
    q: str
    T: Int64
    m: bool  #: the buyer was the maker, so the taker sold
    X: str = "MARKET"

    def to_event(self, route: Route, recv: int) -> Event:
        venue, symbol, channel = route.venue, route.symbol, route.channel
        ts = self.T * route.time_unit_ns
        price, size = route.parse_price(self.p), number(self.q)
        if ts >= INT_LIMIT or not size.is_finite():
            raise ValueError(f"expected a time before 2262 and a size, got {self.T} and {size}")
        side: Side = "sell" if self.m else "buy"
        trade = Trade(venue, symbol, ts, recv, price, size, side, self.t, channel, route.origin)
        if self.X == "MARKET":
            return trade
        # Trades of the insurance fund and deleveraging never stood in the book or in a kline.
        evidence = f"X={self.X}"
        return Reject(venue, symbol, ts, recv, "not_market_trade", evidence, trade, channel)


#: {"e":"trade","E":1721347022956,"T":1721347022956,"s":"BTCUSDT","t":5182005737,"p":"63943.90",
#: "q":"0.003","X":"MARKET","m":true}
class RawTrade(TradeMessage, gc=False, kw_only=True, tag_field="e", tag="trade"):
    """A message of the ``trade`` stream."""


#: {"e":"aggTrade","E":1633998523963,"s":"NKNUSDT","a":15683430,"p":"0.35280000","q":"58.00000000",
#: "f":19862790,"l":19862790,"T":1633998523963,"m":false,"M":true}
class AggregateTrade(TradeMessage, gc=False, kw_only=True, tag_field="e", tag="aggTrade"):
    """A message of the ``aggTrade`` stream, or a row of REST ``aggTrades``.

    It merges the trades of one taker order at one price.
    """

    t: Int64 = field(name="a")


#: {"id":28457,"price":"4.00000100","qty":"12.00000000","quoteQty":"48.000012","time":1499865549590,
#: "isBuyerMaker":true,"isBestMatch":true}
class HistoricalTrade(TradeMessage, gc=False, kw_only=True):
    """A row of REST ``historicalTrades``."""

    p: str = field(name="price")
    q: str = field(name="qty")
    T: Int64 = field(name="time")
    m: bool = field(name="isBuyerMaker")
    t: Int64 = field(name="id")


#: {"e":"bookTicker","u":4984028370881,"s":"BTCUSDT","b":"63943.90","B":"46.371","a":"63944.00",
#: "A":"0.095","T":1721347022507,"E":1721347022507}
class BookTicker(Struct, gc=False, tag_field="e", tag="bookTicker"):
    """A message of the ``bookTicker`` stream. Spot sends neither `T` nor `e`.

    An empty side has price and size 0.
    """

    q: ClassVar[str] = _NO_SIZE
    u: int
    b: Decimal
    B: Decimal
    a: Decimal
    A: Decimal
    T: int = 0

    def to_event(self, route: Route, recv: int) -> Event:
        ts = self.T * route.time_unit_ns or recv
        bid, ask = self.b, self.a
        sides = (
            (bid, self.B, ask, self.A)
            if bid and ask
            else (bid or None, self.B if bid else None, ask or None, self.A if ask else None)
        )
        return Quote(route.venue, route.symbol, ts, recv, *sides, self.u, route.channel)


#: {"e":"depthUpdate","E":1626992741037,"T":1626992741024,"s":"SUSHIUSDT","U":600859599090,
#: "u":600859600917,"pu":600859598061,"b":[["7.5040","813"],["7.6090","0"],["7.6110","2"]],
#: "a":[["7.6150","1563"],["7.6220","3284"]]}
class DepthUpdate(Struct, gc=False, tag_field="e", tag="depthUpdate"):
    """A message of the ``depth`` streams: a delta, or the best levels of a partial book on futures.

    Only futures send `T` (the time of the matching engine) and `pu`.
    """

    q: ClassVar[str] = _NO_SIZE
    E: int
    U: int
    u: int
    b: list[Level]
    a: list[Level]
    T: int = 0
    pu: int | None = None

    def to_event(self, route: Route, recv: int) -> Event:
        if route.parameter:
            return DepthSnapshot(self.u, self.b, self.a, self.T).to_event(route, recv)
        common = route.venue, route.symbol, (self.T or self.E) * route.time_unit_ns, recv
        ids = self.U, self.u, self.pu
        return Book(*common, "delta", self.b, self.a, *ids, 0, route.channel)


#: {"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100"]]}
class DepthSnapshot(Struct, gc=False):
    """A message of spot's partial depth stream, or a REST answer with a book of any market.

    The stream sends neither symbol nor time; the symbol is known from the stream's name. Only REST
    answers of futures have the time `T`.
    """

    u: int = field(name="lastUpdateId")
    b: list[Level] = field(name="bids")
    a: list[Level] = field(name="asks")
    T: int = 0

    def to_event(self, route: Route, recv: int) -> Event:
        """Return the book."""
        depth = int(route.parameter) or max(len(self.b), len(self.a))
        common = route.venue, route.symbol, self.T * route.time_unit_ns or recv, recv
        ids = None, self.u, None
        channel, origin = route.channel, route.origin
        return Book(*common, "snapshot", self.b, self.a, *ids, depth, channel, origin)


#: [1499040000000,"0.01634790","0.80000000","0.01575800","0.01577100","148976.11427815",
#: 1499644799999,"2434.19055334",308,"1756.87402397","28.46694368","0"]
class KlineRow(Struct, array_like=True, gc=False):
    """A row of REST ``klines``. `T` is the last moment of the interval."""

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

    def to_bar(self, route: Route, recv: int, *, closed: bool) -> Event:
        """Return the bar."""
        ts, interval = self.t * route.time_unit_ns, route.parameter
        common = route.venue, route.symbol, ts, recv, interval
        prices, sums = (self.o, self.h, self.l, self.c), (self.v, self.q, self.V, self.Q)
        complete_and_source = True, 0, route.channel, route.origin
        return Bar(*common, *prices, *sums, self.n, closed, *complete_and_source)


#: {"t":1633998480000,"T":1633998539999,"s":"NKNUSDT","i":"1m","f":19862761,"L":19862790,
#: "o":"0.35270000","c":"0.35280000","h":"0.35280000","l":"0.35220000","v":"25877.00000000","n":30,
#: "x":false,"q":"9116.04600000","V":"58.00000000","Q":"20.46240000","B":"0"}
class StreamKline(KlineRow, array_like=False, gc=False):
    """The field ``k`` of a ``kline`` message. `x` is true if the bar is closed."""

    x: bool


#: {"e":"kline","E":1633998523963,"s":"NKNUSDT","k":{"t":1633998480000,"T":1633998539999,
#: "s":"NKNUSDT","i":"1m","f":19862761,"L":19862790,"o":"0.35270000","c":"0.35280000",
#: "h":"0.35280000","l":"0.35220000","v":"25877.00000000","n":30,"x":false,"q":"9116.04600000",
#: "V":"58.00000000","Q":"20.46240000","B":"0"}}
class KlineMessage(Struct, gc=False, tag_field="e", tag="kline"):
    """A message of the ``kline`` streams."""

    q: ClassVar[str] = _NO_SIZE
    k: StreamKline

    def to_event(self, route: Route, recv: int) -> Event:
        return self.k.to_bar(route, recv, closed=self.k.x)


#: {"e":"24hrTicker","E":1672515782136,"s":"BNBBTC","p":"0.0015","P":"250.00","w":"0.0018",
#: "x":"0.0009","c":"0.0025","Q":"10","b":"0.0024","B":"10","a":"0.0026","A":"100","o":"0.0010",
#: "h":"0.0025","l":"0.0010","v":"10000","q":"18","O":0,"C":86400000,"F":0,"L":18150,"n":18151}
class Ticker24h(Struct, gc=False, tag_field="e", tag="24hrTicker"):
    """A message of the ``ticker`` stream: statistics of the last 24 hours."""

    E: int
    c: Decimal
    o: Decimal
    h: Decimal
    l: Decimal  # noqa: E741
    v: Decimal
    q: Decimal
    n: int | None = None

    def to_event(self, route: Route, recv: int) -> Event:
        ts = self.E * route.time_unit_ns
        figures = self.c, self.o, self.h, self.l, self.v, self.q, self.n
        return Ticker(route.venue, route.symbol, ts, recv, *figures, route.channel)


#: {"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,
#: "p":"61837.63000000","q":"0.02000000","T":1723161255342,"m":true,"M":true}}
class _StreamEnvelope(Struct, Generic[T], gc=False):
    """A frame of a combined stream: the name of the stream and its message."""

    stream: str
    data: T


#: {"e":"aggTrade","E":123456789,"s":"BTCUSDT","a":5933014,"p":"0.001","q":"100","nq":"100","f":100,
#: "l":105,"T":123456785,"m":true,"st":1}
class _FuturesType(Struct):
    """The field `st` of a message: 1 is USD-M, 2 is COIN-M.

    Since June 2026 the hosts of either market may send the streams of both.
    """

    st: Any = None


#: {"i":"1m"}
class _Interval(Struct):
    """The interval of a bar."""

    i: str


#: {"e":"kline","E":1633998523963,"s":"NKNUSDT","k":{"t":1633998480000,"T":1633998539999,"i":"1m"}}
class _RawMessage(Struct):
    """A message of a raw stream, which has no envelope: tapes of other programs have them."""

    s: str
    e: str = "bookTicker"  # spot's bookTicker has no event type
    k: _Interval | None = None


_decode_envelope = Decoder(_StreamEnvelope[Raw]).decode
_decode_raw_message = Decoder(_RawMessage).decode
#: The kind of the stream that has messages of an event type.
_KINDS = {
    "trade": "trade", "aggTrade": "aggTrade", "bookTicker": "bookTicker", "depthUpdate": "depth",
    "kline": "kline", "24hrTicker": "ticker",
}  # fmt: skip
_decode_futures_type = Decoder(_FuturesType).decode
#: Decodes many frames together, as the items of one JSON list, by their event type `e`.
_decode_batch = Decoder(
    list[
        _StreamEnvelope[
            RawTrade | AggregateTrade | BookTicker | DepthUpdate | KlineMessage | Ticker24h
        ]
    ]
).decode
#: Decodes one frame, by the kind of its stream ("partial" is a partial book of spot).
_DECODERS: dict[str, Decode] = {
    "trade": Decoder(_StreamEnvelope[RawTrade]).decode,
    "aggTrade": Decoder(_StreamEnvelope[AggregateTrade]).decode,
    "bookTicker": Decoder(_StreamEnvelope[BookTicker]).decode,
    "depth": Decoder(_StreamEnvelope[DepthUpdate]).decode,
    "partial": Decoder(_StreamEnvelope[DepthSnapshot]).decode,
    "kline": Decoder(_StreamEnvelope[KlineMessage]).decode,
    "ticker": Decoder(_StreamEnvelope[Ticker24h]).decode,
}


class Parser:
    """Parses frames into events. Its only side effect is that it counts unrequested frames.

    It makes sure itself that all values are within the bounds: trades are checked as they are made.

    One stream serves one channel of one symbol: the first stream that arrives. A tape may hold a book
    at two speeds, or raw and aggregate trades; mixing them would break the order of their ids.

    Many frames are decoded together by their event type `e`. Few frames are decoded singly by the
    name of their stream, and so is every frame of a feed with streams that have no `e` (spot's
    bookTicker and partial books).
    """

    within_bounds = True

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._names = feed, names
        self._routes: dict[str, Route] = {}  # by the name of the stream
        self._by_prefix: dict[bytes, tuple[Decode, Route]] = {}  # by the frame's bytes before ","
        self._stream_by_channel: dict[tuple[str, str], str] = {}  # by symbol and channel
        # Messages of futures always have the event type `e`; these two channels of spot do not.
        has_untyped = any(name == "quotes" or name.startswith("book:") for name in feed.channels)
        self._is_batchable = bool(names.market.settled_in) or not has_untyped

    def __call__(self, frames: Frames) -> list[Event]:
        """Return the events of *frames*, in the order of the frames."""
        if self._is_batchable and len(frames) >= _BATCH_MIN_FRAMES:
            try:
                envelopes = _decode_batch(b"[" + b",".join(frames) + b"]")
                if len(envelopes) == len(frames):
                    try:
                        return self._parse_batch(envelopes, frames.recv)
                    except KeyError:
                        if self._open_streams(frames, envelopes):
                            return self._parse_batch(envelopes, frames.recv)
            except _PARSE_ERRORS:
                pass  # Parse the frames singly instead. Nothing was counted or delivered so far.
        return self._parse_singly(frames)

    def _parse_batch(self, envelopes: list[Any], recv: int) -> list[Event]:
        """Return the events of frames that were decoded together.

        Raises KeyError for a stream that is not open yet, ValueError or ArithmeticError for a value that
        is not within the bounds.
        """
        routes, venue, time_unit_ns, new_trade, trade_class, to_decimal = (
            self._routes, self._feed.venue, self._names.time_unit_ns, _new_trade, Trade, number,
        )  # fmt: skip
        limit, is_finite = INT_LIMIT, Decimal.is_finite
        events = TradeBatch()
        add_event, add_subscription_id = events.append, events.subscription_ids.append
        # Numbers are converted and checked together: in the loop it takes a twentieth more.
        sizes = list(map(to_decimal, [envelope.data.q for envelope in envelopes]))
        if not all(map(is_finite, sizes)):
            raise ValueError("a size is not finite")
        for envelope, size in zip(envelopes, sizes, strict=True):
            route = routes[envelope.stream]
            message = envelope.data
            subscription_id = route.subscription_id
            if subscription_id is None:
                add_event(message.to_event(route, recv))
                continue
            # Setting the fields of a trade takes half the time of calling the class.
            trade = new_trade(trade_class)
            trade.venue = venue
            trade.symbol = route.symbol
            trade.ts = ts = message.T * time_unit_ns
            trade.recv = recv
            text = message.p  # the same as `Route.parse_price`, without a call
            if text == route.last_price_text:
                trade.price = route.last_price
            else:
                trade.price = price = to_decimal(text)
                if not is_finite(price):
                    raise ValueError("a price is not finite")
                route.last_price, route.last_price_text = price, text
            trade.size = size
            if ts >= limit:
                raise ValueError("a time is too late")
            trade.side = "sell" if message.m else "buy"
            trade.id = message.t
            trade.channel = route.channel
            trade.origin = "live"
            add_event(trade)
            add_subscription_id(subscription_id)
        if len(events.subscription_ids) != len(events):
            return reject_out_of_bounds(list(events))
        return events

    def _open_streams(self, frames: Frames, envelopes: list[Any]) -> bool:
        """Open the streams that are new; return False if one of them was not requested."""
        return all(
            envelope.stream in self._routes or self._open_stream(_decode_envelope(frame))
            for frame, envelope in zip(frames, envelopes, strict=True)
        )

    def _parse_singly(self, frames: Frames) -> list[Event]:
        """Return the events of *frames*, decoding each by itself."""
        by_prefix, recv = self._by_prefix, frames.recv
        events: list[Event] = []
        has_only_trades = True
        for frame in frames:
            try:
                decode, route = by_prefix[frame.partition(b",")[0]]
                event = decode(frame).data.to_event(route, recv)
            except _PARSE_ERRORS:
                events += self._parse_unusual(frame, frames)
                has_only_trades = False
                continue
            events.append(event)
            if route.subscription_id is None:
                has_only_trades = False
        return events if has_only_trades else reject_out_of_bounds(events)

    def _parse_unusual(self, frame: bytes, frames: Frames) -> Sequence[Event]:
        """Return the events of a frame whose prefix is unknown or whose message does not decode.

        Its keys may stand in another order, its stream may be new or not requested, or it is no
        market data: then `Frames.on_control` decides.
        """
        try:
            try:
                envelope = _decode_envelope(frame)
            except ValidationError:
                envelope = _decode_envelope(_enveloped(frame))
            if envelope.stream not in self._routes and not self._open_stream(envelope):
                self._feed.counters["unrequested"] += 1
                return ()
            prefix = _frame_prefix(envelope.stream)
            decode, route = self._by_prefix[prefix]
            message = decode(prefix + b',"data":' + bytes(envelope.data) + b"}").data
            return (message.to_event(route, frames.recv),)
        except _PARSE_ERRORS:
            return frames.on_control(frame)

    def _open_stream(self, envelope: _StreamEnvelope[Raw]) -> bool:
        """Make the route of a new stream; return False if the stream was not requested.

        Raises ValueError if the frame is no market data.
        """
        stream, market = envelope.stream, self._names.market
        if "@" not in stream:
            raise ValueError("no market data")
        native, kind, channel = self._names.parse_stream(stream)
        symbol = self._feed.listing.unified.get(native)
        if symbol is None or not channel:
            return False
        if _decode_futures_type(envelope.data).st not in (None, market.futures_type):
            return False
        if self._stream_by_channel.setdefault((symbol, channel), stream) != stream:
            return False
        parameter = channel_parts(channel)[1]
        if kind == "depth" and parameter and not market.settled_in:
            kind = "partial"
        # Raw trades of futures may become rejects, so their stream does not have only plain trades.
        is_plain_trade = kind == "aggTrade" or (kind == "trade" and not market.settled_in)
        route = Route(self._feed.venue, symbol, channel, self._names.time_unit_ns, parameter)
        if is_plain_trade:
            route.subscription_id = len(self._routes)
        self._routes[stream] = route
        self._by_prefix[_frame_prefix(stream)] = _DECODERS[kind], route
        return True


def _enveloped(frame: bytes) -> bytes:
    """Return a message of a raw stream in the envelope of its combined stream.

    Raises ValueError or KeyError if it is no such message.
    """
    message = _decode_raw_message(frame)
    kind = _KINDS[message.e] + (f"_{message.k.i}" if message.k is not None else "")
    return _frame_prefix(f"{message.s.lower()}@{kind}") + b',"data":' + frame + b"}"


def _frame_prefix(stream: str) -> bytes:
    """Return the bytes before the first comma of a frame of this stream, as the venue writes it."""
    return b'{"stream":' + encode(stream)
