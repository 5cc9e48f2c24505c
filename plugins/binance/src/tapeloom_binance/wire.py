"""Binance's market-data messages, which build the events.

`parser` decodes WebSocket frames with the structs below, `history` REST answers with some of them.

The `#:` lines above a struct are one sample payload (recorded, or from the venue's documentation).
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, ClassVar, TypeAlias

from attrs import define
from msgspec import Meta, Struct, field
from tapeloom.events import Bar, Book, Event, Origin, Quote, Reject, Ticker, Trade
from tapeloom.plugin.bounds import INT_LIMIT, number

__all__ = ["AggregateTrade", "DepthSnapshot", "HistoricalTrade", "KlineRow", "Route"]

Level: TypeAlias = tuple[str, str]
#: A time or an id. msgspec accepts longer integers where there is no limit.
Int64: TypeAlias = Annotated[int, Meta(ge=0, le=INT_LIMIT - 1)]

#: Creates a trade without calling `Trade.__init__`; all of its fields must be set.
new_trade: Callable[[type[Trade]], Any] = Trade.__new__
#: What is read as the size of a message that is no trade, in a batch.
_NO_SIZE = "0"
#: The price of a route before its first trade.
_ZERO = Decimal(0)


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
        # Setting the fields of a trade takes half the time of calling the class.
        trade = new_trade(Trade)
        trade.ts = ts = self.T * route.time_unit_ns
        trade.price = route.parse_price(self.p)
        trade.size = size = number(self.q)
        if ts >= INT_LIMIT or not size.is_finite():
            raise ValueError(f"expected a time before 2262 and a size, got {self.T} and {size}")
        trade.venue, trade.symbol, trade.recv = route.venue, route.symbol, recv
        trade.side = "sell" if self.m else "buy"
        trade.id = self.t
        trade.channel, trade.origin = route.channel, route.origin
        if self.X == "MARKET":
            return trade  # type: ignore[no-any-return]  # `new_trade` has no type of its own
        # Trades of the insurance fund and deleveraging never stood in the book or in a kline.
        return Reject(
            route.venue,
            route.symbol,
            ts,
            recv,
            "not_market_trade",
            f"X={self.X}",
            trade,
            route.channel,
        )


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
