"""Alpaca's message structs, and the builder of events from them.

JSON numbers are decoded to `Decimal` from their text. REST sends the same items as the WebSocket without
`T` and `S`: `parser`, `history` and `poll` use the structs.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec import Struct
from tapeloom.events import Bar, Book, Event, Origin, Quote, Reject, Side, Status, Trade
from tapeloom.plugin import Feed

from .times import parse_time

if TYPE_CHECKING:
    from .names import Names

__all__ = ["BarMessage", "BookMessage", "EventBuilder", "QuoteMessage", "TradeMessage"]

#: The taker's side by the venue's letter.
_SIDES: dict[str, Side] = {"B": "buy", "S": "sell"}
#: What REST sends in `u` for a trade that was withdrawn. A corrected trade is sent once more.
_VOID = frozenset({"canceled", "cancelled", "incorrect"})


class ItemMessage(Struct, gc=False, tag_field="T"):
    """The fields of every item: `t` is its time, `S` the venue's name of the symbol."""

    t: str
    S: str = ""


#: {"T":"t","i":96921,"S":"AAPL","x":"D","p":126.55,"s":1,"t":"2021-02-22T15:51:44.208Z",
#: "c":["@","I"],"z":"C"}
class TradeMessage(ItemMessage, tag="t", kw_only=True):
    """A trade. Stocks have `x`, the exchange; crypto has `tks`, the taker's side."""

    i: int
    p: Decimal
    s: Decimal
    x: str = ""
    tks: str = ""
    u: str = ""  #: REST only: what has become of the trade, such as "canceled"


#: {"T":"q","S":"AMD","bx":"U","bp":87.66,"bs":1,"ax":"Q","ap":87.68,"as":4,
#: "t":"2021-02-22T15:51:45.335689322Z","c":["R"],"z":"C"}
class QuoteMessage(ItemMessage, tag="q", rename={"az": "as"}, kw_only=True):
    """A quote. Price 0 means an empty side."""

    bp: Decimal
    bs: Decimal
    ap: Decimal
    az: Decimal


#: {"T":"b","S":"SPY","o":388.985,"h":389.13,"l":388.975,"c":389.12,"v":49378,"n":461,
#: "vw":389.062639,"t":"2021-02-22T19:15:00Z"}
class BarMessage(ItemMessage, tag="b", kw_only=True):
    """The bar of a minute that has ended. `t` is its start, `vw` the volume-weighted mean price."""

    o: Decimal
    h: Decimal
    l: Decimal  # noqa: E741
    c: Decimal
    v: Decimal
    n: int | None = None
    vw: Decimal | None = None


# The fields of `u` and `d` are documented as those of `b`; the figures are those of its sample.
#: {"T":"u","S":"SPY","o":388.985,"h":389.13,"l":388.975,"c":389.12,"v":49390,"n":462,
#: "vw":389.062639,"t":"2021-02-22T19:15:00Z"}
class UpdatedBarMessage(BarMessage, tag="u"):
    """A revised bar: sent after a late trade, with the fields of the first message."""


#: {"T":"d","S":"SPY","o":388.985,"h":389.13,"l":388.975,"c":389.12,"v":49378,"n":461,
#: "vw":389.062639,"t":"2021-02-22T05:00:00Z"}
class DailyBarMessage(BarMessage, tag="d"):
    """The bar of the current day so far."""


#: {"p":71859.53,"s":0.27994}
class LevelMessage(Struct, gc=False):
    """A level of a book; size 0 removes it."""

    p: Decimal
    s: Decimal


#: {"T":"o","S":"BTC/USD","t":"2024-03-12T10:38:50.79613221Z","b":[{"p":71859.53,"s":0.27994}],
#: "a":[{"p":71939.7,"s":0.83953}],"r":true}
class BookMessage(ItemMessage, tag="o", kw_only=True):
    """A crypto book: a snapshot if `r`, else a delta."""

    b: list[LevelMessage] = []
    a: list[LevelMessage] = []
    r: bool = False


#: {"T":"c","S":"EEM","x":"M","oi":52983525033527,"op":39.1582,"os":440000,"oc":[" ","7"],
#: "ci":52983525034326,"cp":39.1809,"cs":440000,"cc":[" ","7"],"z":"B",
#: "t":"2023-04-06T14:25:06.542305024Z"}
class CorrectionMessage(ItemMessage, tag="c", kw_only=True):
    """A corrected trade: `o…` are id, price and size as first reported, `c…` the corrected ones."""

    oi: int
    op: Decimal
    os: Decimal
    ci: int
    cp: Decimal
    cs: Decimal
    x: str = ""


#: {"T":"x","S":"GOOGL","i":465,"x":"D","p":105.31,"s":300,"a":"C","z":"C",
#: "t":"2023-04-06T13:15:42.83540958Z"}
class CancelMessage(ItemMessage, tag="x", kw_only=True):
    """A withdrawn trade: it was cancelled (`a` is C) or an error (E)."""

    i: int
    p: Decimal
    s: Decimal
    x: str = ""
    a: str = ""


#: {"T":"s","S":"AAPL","sc":"H","sm":"Trading Halt","rc":"T12","rm":"Trading Halted; For
#:  information requested by NASDAQ","t":"2021-02-22T19:15:00Z","z":"C"}
class TradingStatusMessage(ItemMessage, tag="s", kw_only=True):
    """The trading status of a stock, and the reason for it."""

    sc: str = ""
    sm: str = ""
    rc: str = ""
    rm: str = ""


#: {"T":"l","S":"IONM","u":3.24,"d":2.65,"i":"B","t":"2023-04-06T13:34:45.565004401Z","z":"C"}
class PriceBandMessage(ItemMessage, tag="l", kw_only=True):
    """The price band of a stock: limit up and limit down (LULD)."""

    u: Decimal | None = None
    d: Decimal | None = None
    i: str = ""


#: {"T":"i","S":"INAQU","p":9.12,"z":"C","t":"2024-12-13T19:58:09.242138635Z"}
class ImbalanceMessage(ItemMessage, tag="i"):
    """An auction imbalance. It comes with other channels; tapeloom has no channel for it."""


class EventBuilder:
    """Builds events from messages. Each method raises ValueError if the time cannot be parsed."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._venue = feed.venue
        self._unit = 1 if names.crypto else names.settings.quote_unit

    def trade(
        self, message: TradeMessage, symbol: str, recv: int, origin: Origin = "live"
    ) -> Event:
        """Return a Trade, or a Reject if REST marks the trade as withdrawn."""
        m, ts = message, parse_time(message.t)
        side, id_text = _SIDES.get(m.tks), trade_id(m.x, m.i)
        trade = Trade(self._venue, symbol, ts, recv, m.p, m.s, side, id_text, "trades", origin)
        if m.u in _VOID:
            return Reject(self._venue, symbol, ts, recv, "trade_void", m.u, trade, "trades")
        return trade

    def quote(self, message: QuoteMessage, symbol: str, recv: int) -> Event:
        """Return a Quote."""
        m, ts, unit = message, parse_time(message.t), self._unit
        bid, bid_size = (m.bp, m.bs * unit if unit != 1 else m.bs) if m.bp else (None, None)
        ask, ask_size = (m.ap, m.az * unit if unit != 1 else m.az) if m.ap else (None, None)
        sides = bid, bid_size, ask, ask_size
        return Quote(self._venue, symbol, ts, recv, *sides, None, "quotes")

    def bar(
        self,
        message: BarMessage,
        symbol: str,
        recv: int,
        interval: str = "1m",
        *,
        closed: bool = True,
        revision: int = 0,
        origin: Origin = "live",
    ) -> Event:
        """Return a Bar. The venue does not send the volume that takers bought."""
        m, ts = message, parse_time(message.t)
        fields = self._venue, symbol, ts, recv, interval, m.o, m.h, m.l, m.c, m.v
        quote_volume = None if m.vw is None else m.v * m.vw
        channel = f"klines:{interval}"
        return Bar(*fields, quote_volume, None, None, m.n, closed, True, revision, channel, origin)

    def book(
        self, message: BookMessage, symbol: str, recv: int, *, snapshot: bool, origin: Origin
    ) -> Event:
        """Return a Book, which has no ids."""
        bids = [(level.p, level.s) for level in message.b]
        asks = [(level.p, level.s) for level in message.a]
        ts = parse_time(message.t)
        return Book(
            self._venue, symbol, ts, recv, "snapshot" if snapshot else "delta", bids, asks,
            origin=origin,
        )  # fmt: skip

    def status(
        self, message: ItemMessage, symbol: str, recv: int, state: str, text: str, channel: str
    ) -> Event:
        """Return a Status."""
        return Status(self._venue, symbol, parse_time(message.t), recv, state, text, channel)


def trade_id(exchange: str, number: int) -> str:
    """Return the id of a trade: for stocks with the exchange, as numbers are unique on one only."""
    return f"{exchange}:{number}" if exchange else str(number)
