"""Alpaca's message structs, and the parser that returns events for frames.

A frame is an array of items; `T` is the type of an item. JSON numbers are decoded to `Decimal` from
their text. REST sends the same items without `T` and `S`; `history` and `poll` use the structs too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from tapeloom.events import Bar, Book, Event, Origin, Quote, Reject, Side, Status, Trade, utc
from tapeloom.plugin import Feed, Frames, HistoryQuery

if TYPE_CHECKING:
    from .names import Names

__all__ = [
    "BarMessage",
    "BookMessage",
    "EventBuilder",
    "Parser",
    "QuoteMessage",
    "TradeMessage",
    "format_time",
    "parse_time",
]

#: The taker's side by the venue's letter.
_SIDES: dict[str, Side] = {"B": "buy", "S": "sell"}
#: What REST sends in `u` for a trade that was withdrawn. A corrected trade is sent once more.
_VOID = frozenset({"canceled", "cancelled", "incorrect"})
#: Number of times that are cached, to bound the memory.
_MAX_CACHED_TIMES = 4096
#: Number of items of a frame that may be impossible to parse; the rest of the frame is rejected then, so
#: that a frame of a megabyte does not become half a million events.
_MAX_BAD_ITEMS = 100
#: Nanoseconds in a unit of the last digit, by the number of digits of a fraction of a second.
_SCALES: list[int] = [10 ** (9 - digits) for digits in range(10)]
#: A time with an offset other than Z: date and time of day, fraction of a second, offset.
_OFFSET_TIME = re.compile(r"(.{19})(?:\.(\d+))?([+-]\d\d:\d\d)", re.ASCII)


class _ItemMessage(Struct, gc=False, tag_field="T"):
    """The fields of every item: `t` is its time, `S` the venue's name of the symbol."""

    t: str
    S: str = ""


#: {"T":"t","i":96921,"S":"AAPL","x":"D","p":126.55,"s":1,"t":"2021-02-22T15:51:44.208Z",
#: "c":["@","I"],"z":"C"}
class TradeMessage(_ItemMessage, tag="t", kw_only=True):
    """A trade. Stocks have `x`, the exchange; crypto has `tks`, the taker's side."""

    i: int
    p: Decimal
    s: Decimal
    x: str = ""
    tks: str = ""
    u: str = ""  #: REST only: what has become of the trade, such as "canceled"


#: {"T":"q","S":"AMD","bx":"U","bp":87.66,"bs":1,"ax":"Q","ap":87.68,"as":4,
#: "t":"2021-02-22T15:51:45.335689322Z","c":["R"],"z":"C"}
class QuoteMessage(_ItemMessage, tag="q", rename={"az": "as"}, kw_only=True):
    """A quote. Price 0 means an empty side."""

    bp: Decimal
    bs: Decimal
    ap: Decimal
    az: Decimal


#: {"T":"b","S":"SPY","o":388.985,"h":389.13,"l":388.975,"c":389.12,"v":49378,"n":461,
#: "vw":389.062639,"t":"2021-02-22T19:15:00Z"}
class BarMessage(_ItemMessage, tag="b", kw_only=True):
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
class BookMessage(_ItemMessage, tag="o", kw_only=True):
    """A crypto book: a snapshot if `r`, else a delta."""

    b: list[LevelMessage] = []
    a: list[LevelMessage] = []
    r: bool = False


#: {"T":"c","S":"EEM","x":"M","oi":52983525033527,"op":39.1582,"os":440000,"oc":[" ","7"],
#: "ci":52983525034326,"cp":39.1809,"cs":440000,"cc":[" ","7"],"z":"B",
#: "t":"2023-04-06T14:25:06.542305024Z"}
class CorrectionMessage(_ItemMessage, tag="c", kw_only=True):
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
class CancelMessage(_ItemMessage, tag="x", kw_only=True):
    """A withdrawn trade: it was cancelled (`a` is C) or an error (E)."""

    i: int
    p: Decimal
    s: Decimal
    x: str = ""
    a: str = ""


#: {"T":"s","S":"AAPL","sc":"H","sm":"Trading Halt","rc":"T12","rm":"Trading Halted; For
#:  information requested by NASDAQ","t":"2021-02-22T19:15:00Z","z":"C"}
class TradingStatusMessage(_ItemMessage, tag="s", kw_only=True):
    """The trading status of a stock, and the reason for it."""

    sc: str = ""
    sm: str = ""
    rc: str = ""
    rm: str = ""


#: {"T":"l","S":"IONM","u":3.24,"d":2.65,"i":"B","t":"2023-04-06T13:34:45.565004401Z","z":"C"}
class PriceBandMessage(_ItemMessage, tag="l", kw_only=True):
    """The price band of a stock: limit up and limit down (LULD)."""

    u: Decimal | None = None
    d: Decimal | None = None
    i: str = ""


#: {"T":"i","S":"INAQU","p":9.12,"z":"C","t":"2024-12-13T19:58:09.242138635Z"}
class ImbalanceMessage(_ItemMessage, tag="i"):
    """An auction imbalance. It comes with other channels; tapeloom has no channel for it."""


# -------------------------------------------------------------------------------------------- time


class _SecondsCache(dict[str, int]):
    """Times in ns since 1970, by their first 19 characters, which most times share with others."""

    def __missing__(self, text: str) -> int:
        if len(self) > _MAX_CACHED_TIMES:
            self.clear()
        seconds_ns = int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * 1_000_000_000
        self[text] = seconds_ns
        return seconds_ns


_seconds = _SecondsCache()


def parse_time(text: str) -> int:
    """Return an RFC 3339 time as ns since 1970. Digits below the nanosecond are cut off.

    Raises ValueError if *text* is not such a time.
    """
    if text[-1:] != "Z":
        match = _OFFSET_TIME.fullmatch(text)
        if match is None:
            raise ValueError(f"expected a time such as '2021-02-22T15:51:44.208Z', got {text!r}")
        seconds = int(datetime.fromisoformat(match[1] + match[3]).timestamp())
        return seconds * 1_000_000_000 + _parse_fraction((match[2] or "0")[:9])
    seconds_ns = _seconds[text[:19]]
    digits = text[20:-1][:9] if text[19] == "." else text[19:-1] or "0"
    return seconds_ns + _parse_fraction(digits)


def _parse_fraction(digits: str) -> int:
    """Return the ns of the digits of a fraction of a second."""
    if not digits.isdecimal():
        raise ValueError(f"expected the digits of a fraction of a second, got {digits!r}")
    return int(digits) * _SCALES[len(digits)]


def format_time(ts: int) -> str:
    """Return ns since 1970 as an RFC 3339 time with nine digits of the second."""
    return f"{utc(ts):%Y-%m-%dT%H:%M:%S}.{ts % 1_000_000_000:09d}Z"


# ------------------------------------------------------------------------------------------ events


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
        self, message: _ItemMessage, symbol: str, recv: int, state: str, text: str, channel: str
    ) -> Event:
        """Return a Status."""
        return Status(self._venue, symbol, parse_time(message.t), recv, state, text, channel)


def trade_id(exchange: str, number: int) -> str:
    """Return the id of a trade: for stocks with the exchange, as numbers are unique on one only."""
    return f"{exchange}:{number}" if exchange else str(number)


# ------------------------------------------------------------------------------------------ parser

_AnyItem = (
    TradeMessage
    | QuoteMessage
    | BarMessage
    | UpdatedBarMessage
    | DailyBarMessage
    | BookMessage
    | CorrectionMessage
    | CancelMessage
    | TradingStatusMessage
    | PriceBandMessage
    | ImbalanceMessage
)
_decode_items = msgspec.json.Decoder(list[_AnyItem]).decode
_decode_item = msgspec.json.Decoder(_AnyItem).decode
_split_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Parser:
    """Parses frames into events.

    Its state is the time of the last book snapshot.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._build = feed, EventBuilder(feed, names)
        self._resync = names.settings.book_resync
        #: Time of the last snapshot by symbol, in ns.
        self._snapshots: dict[str, int] = {}
        parsers: dict[str, dict[type[_ItemMessage], Callable[[Any, str, int], Event]]] = {
            "trades": {
                TradeMessage: self._build.trade,
                CorrectionMessage: self._correction,
                CancelMessage: self._cancel,
            },
            "quotes": {QuoteMessage: self._build.quote},
            "klines:1m": {BarMessage: self._build.bar, UpdatedBarMessage: self._updated_bar},
            "klines:1d": {DailyBarMessage: self._daily_bar},
            "book": {BookMessage: self._book},
            "x-statuses": {TradingStatusMessage: self._trading_status},
            "x-lulds": {PriceBandMessage: self._price_band},
        }
        self._parsers = {
            message: parser
            for channel in feed.channels
            for message, parser in parsers.get(channel, {}).items()
        }

    def __call__(self, frames: Frames) -> list[Event]:
        """Return the events of *frames*, in their order."""
        events: list[Event] = []
        unified, parsers, recv = self._feed.listing.unified, self._parsers, frames.recv
        for frame in frames:
            try:
                items = _decode_items(frame)
            except (ValueError, RecursionError):
                items = None
            if not items:
                self._parse_item_by_item(frame, frames, events)
                continue
            bad = 0
            for item in items:
                try:
                    events.append(parsers[type(item)](item, unified[item.S], recv))
                except KeyError:
                    if item.S:
                        unsupported = type(item) is ImbalanceMessage
                        self._feed.counters["unsupported" if unsupported else "unrequested"] += 1
                        continue
                    # Nobody can tell whose trade is lost with it.
                except (ValueError, IndexError, OverflowError, ArithmeticError):
                    pass  # Its time cannot be parsed, or its sums cannot be computed.
                else:
                    continue
                bad += 1
                events.extend(frames.on_control(msgspec.json.encode([item])))
                if bad == _MAX_BAD_ITEMS:
                    events.extend(frames.on_control(_rest(frame)))
                    break
        return events

    def _parse_item_by_item(self, frame: bytes, frames: Frames, events: list[Event]) -> None:
        """Parse a frame with an item that is not market data or cannot be decoded."""
        try:
            raw_items = _split_items(frame)
        except (ValueError, RecursionError):
            raw_items = []
        if len(raw_items) < 2:
            events.extend(frames.on_control(frame))
            return
        bad = 0
        for raw in raw_items:
            if bad >= _MAX_BAD_ITEMS:
                events.extend(frames.on_control(_rest(frame)))
                return
            text = b"[" + bytes(raw) + b"]"
            try:
                _decode_item(raw)
            except (ValueError, RecursionError):
                bad += 1
                events.extend(frames.on_control(text))
                continue
            single = Frames([text], frames.recv, frames.on_control, frames.connection)
            parsed = self(single)
            bad += any(type(event) is Reject for event in parsed)
            events.extend(parsed)

    def _updated_bar(self, message: UpdatedBarMessage, symbol: str, recv: int) -> Event:
        return self._build.bar(message, symbol, recv, revision=1)  # core numbers further ones

    def _daily_bar(self, message: DailyBarMessage, symbol: str, recv: int) -> Event:
        return self._build.bar(message, symbol, recv, "1d", closed=False)

    def _book(self, message: BookMessage, symbol: str, recv: int) -> Event:
        if message.r:
            self._snapshots[symbol] = recv
        elif self._resync and recv - self._snapshots.setdefault(symbol, recv) >= self._resync:
            self._snapshots[symbol] = recv
            self._feed.query_history(HistoryQuery("book", symbol, "book"))
        return self._build.book(message, symbol, recv, snapshot=message.r, origin="live")

    def _correction(self, message: CorrectionMessage, symbol: str, recv: int) -> Event:
        m = message
        text = (
            f"id={trade_id(m.x, m.oi)} price={m.op} size={m.os}"
            f" is now id={trade_id(m.x, m.ci)} price={m.cp} size={m.cs}"
        )
        return self._build.status(m, symbol, recv, "trade_corrected", text, "trades")

    def _cancel(self, message: CancelMessage, symbol: str, recv: int) -> Event:
        m = message
        text = f"id={trade_id(m.x, m.i)} price={m.p} size={m.s} action={m.a}"
        return self._build.status(m, symbol, recv, "trade_cancelled", text, "trades")

    def _trading_status(self, message: TradingStatusMessage, symbol: str, recv: int) -> Event:
        m = message
        text = f"{m.sc} {m.sm}; {m.rc} {m.rm}".strip("; ")
        return self._build.status(m, symbol, recv, "trading_status", text, "x-statuses")

    def _price_band(self, message: PriceBandMessage, symbol: str, recv: int) -> Event:
        text = f"down={message.d} up={message.u} indicator={message.i}"
        return self._build.status(message, symbol, recv, "price_band", text, "x-lulds")


def _rest(frame: bytes) -> bytes:
    """Return what stands for the rest of a frame with too many items that cannot be parsed."""
    return b"the rest of a frame with %d such items: " % _MAX_BAD_ITEMS + frame[:200]
