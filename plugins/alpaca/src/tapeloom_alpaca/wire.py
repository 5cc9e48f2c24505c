"""Alpaca's messages, and the parser that turns them into events.

A frame is an array of items of any kinds; `T` tells which. Numbers are JSON numbers, and become
`Decimal` from their own text. REST has the same items without `T` and `S`.
"""

from __future__ import annotations

import re
from collections import defaultdict
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

__all__ = ["Best", "Build", "Candle", "Depth", "Fill", "Parser", "nanoseconds", "rfc3339"]

_SIDES: dict[str, Side] = {"B": "buy", "S": "sell"}
#: What REST says of a trade that did not stand; a corrected one is there once more, as it stands.
_VOID = frozenset({"canceled", "cancelled", "incorrect"})


class _Item(Struct, gc=False, tag_field="T"):
    """What every item has."""

    t: str
    S: str = ""


class Fill(_Item, tag="t", kw_only=True):
    """A trade. Stocks have `x`, the exchange; crypto has `tks`, the taker's side."""

    i: int
    p: Decimal
    s: Decimal
    x: str = ""
    tks: str = ""
    u: str = ""  #: over REST: what has become of it


class Best(_Item, tag="q", rename={"az": "as"}, kw_only=True):
    """A quote. A price of 0 means that the side is empty."""

    bp: Decimal
    bs: Decimal
    ap: Decimal
    az: Decimal


class Candle(_Item, tag="b", kw_only=True):
    """A bar of a minute that has ended. `t` is its start."""

    o: Decimal
    h: Decimal
    l: Decimal  # noqa: E741
    c: Decimal
    v: Decimal
    n: int | None = None
    vw: Decimal | None = None


class Updated(Candle, tag="u"):
    """The same bar again, after a late trade."""


class Daily(Candle, tag="d"):
    """The bar of this day so far."""


class Level(Struct, gc=False):
    """One level of a book; a size of 0 takes it away."""

    p: Decimal
    s: Decimal


class Depth(_Item, tag="o", kw_only=True):
    """A crypto book: the whole of it where `r`, else what has changed."""

    b: list[Level] = []
    a: list[Level] = []
    r: bool = False


class Correction(_Item, tag="c", kw_only=True):
    """A trade that was reported wrongly, as it was and as it is."""

    oi: int
    op: Decimal
    os: Decimal
    ci: int
    cp: Decimal
    cs: Decimal
    x: str = ""


class Cancel(_Item, tag="x", kw_only=True):
    """A trade that does not stand: cancelled (`a` is C) or an error (E)."""

    i: int
    p: Decimal
    s: Decimal
    x: str = ""
    a: str = ""


class Halt(_Item, tag="s", kw_only=True):
    """The trading status of a stock, and the reason."""

    sc: str = ""
    sm: str = ""
    rc: str = ""
    rm: str = ""


class Band(_Item, tag="l", kw_only=True):
    """Limit up, limit down."""

    u: Decimal | None = None
    d: Decimal | None = None
    i: str = ""


class Imbalance(_Item, tag="i"):
    """What an auction lacks; there is no channel for it."""


# -------------------------------------------------------------------------------------------- time


class _Seconds(dict[str, int]):
    """ns since 1970 by the first 19 characters of a time. Most times share theirs with others."""

    def __missing__(self, text: str) -> int:
        if len(self) > 4096:
            self.clear()
        found = int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * 1_000_000_000
        self[text] = found
        return found


_seconds = _Seconds()
_SCALES: list[int] = [10 ** (9 - digits) for digits in range(10)]
_OFFSET = re.compile(r"(.{19})(?:\.(\d+))?([+-]\d\d:\d\d)", re.ASCII)


def nanoseconds(text: str) -> int:
    """Read an RFC 3339 time with any number of digits; those below the nanosecond are cut off.

    Raises ValueError where *text* is none.
    """
    if text[-1:] != "Z":
        match = _OFFSET.fullmatch(text)
        if match is None:
            raise ValueError(f"expected a time such as '2021-02-22T15:51:44.208Z', got {text!r}")
        at = int(datetime.fromisoformat(match[1] + match[3]).timestamp()) * 1_000_000_000
        return at + _part((match[2] or "0")[:9])
    return _seconds[text[:19]] + _part(text[20:-1][:9] if text[19] == "." else text[19:-1] or "0")


def _part(digits: str) -> int:
    if not digits.isdecimal():
        raise ValueError(f"expected the digits of a fraction of a second, got {digits!r}")
    return int(digits) * _SCALES[len(digits)]


def rfc3339(ts: int) -> str:
    """Write a time with all nine digits."""
    return f"{utc(ts):%Y-%m-%dT%H:%M:%S}.{ts % 1_000_000_000:09d}Z"


# ------------------------------------------------------------------------------------------ events


class Build:
    """Makes events of the venue's items. Each raises ValueError where the item's time is none."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._venue = feed.venue
        self._unit = 1 if names.crypto else names.settings.quote_unit

    def trade(self, one: Fill, symbol: str, recv: int, origin: Origin = "live") -> Event:
        """Return a Trade, or a Reject where REST says that the trade did not stand."""
        side, name = _SIDES.get(one.tks), trade_id(one.x, one.i)
        ts = nanoseconds(one.t)
        trade = Trade(self._venue, symbol, ts, recv, one.p, one.s, side, name, "trades", origin)
        if one.u in _VOID:
            return Reject(self._venue, symbol, ts, recv, "trade_void", one.u, trade, "trades")
        return trade

    def quote(self, one: Best, symbol: str, recv: int) -> Event:
        """Return a Quote."""
        ts, bid, ask, unit = nanoseconds(one.t), one.bs, one.az, self._unit
        if unit != 1:
            bid, ask = bid * unit, ask * unit
        return Quote(self._venue, symbol, ts, recv, one.bp, bid, one.ap, ask, None, "quotes")

    def bar(
        self,
        one: Candle,
        symbol: str,
        recv: int,
        interval: str = "1m",
        *,
        closed: bool = True,
        revision: int = 0,
        origin: Origin = "live",
    ) -> Event:
        """Return a Bar. What takers bought the venue does not tell."""
        place = self._venue, symbol, nanoseconds(one.t), recv, interval
        figures = one.o, one.h, one.l, one.c, one.v
        quote_volume = None if one.vw is None else one.v * one.vw
        on = f"klines:{interval}"
        return Bar(
            *place, *figures, quote_volume, None, None, one.n, closed, True, revision, on, origin
        )

    def book(self, one: Depth, symbol: str, recv: int, *, whole: bool, origin: Origin) -> Event:
        """Return a Book, which has no ids."""
        bids = [(level.p, level.s) for level in one.b]
        asks = [(level.p, level.s) for level in one.a]
        ts = nanoseconds(one.t)
        return Book(
            self._venue, symbol, ts, recv, "snapshot" if whole else "delta", bids, asks,
            origin=origin,
        )  # fmt: skip

    def status(self, one: _Item, symbol: str, recv: int, state: str, text: str, on: str) -> Event:
        """Return a Status."""
        return Status(self._venue, symbol, nanoseconds(one.t), recv, state, text, on)


def trade_id(exchange: str, number: int) -> str:
    """Name a trade: numbers of stocks are unique on one exchange only."""
    return f"{exchange}:{number}" if exchange else str(number)


# ------------------------------------------------------------------------------------------ parser

_Any = (
    Fill | Best | Candle | Updated | Daily | Depth | Correction | Cancel | Halt | Band | Imbalance
)
_items = msgspec.json.Decoder(list[_Any]).decode
_item = msgspec.json.Decoder(_Any).decode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
#: So many bars of a symbol are remembered, to count how often each is sent again.
_BARS = 64


class Parser:
    """Turns frames into events.

    It remembers how often a bar was sent again, and when a book was last whole.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._build = feed, Build(feed, names)
        self._revisions: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._resync = names.settings.book_resync
        self._whole: dict[str, int] = {}
        makers: dict[str, dict[type[_Item], Callable[[Any, str, int], Event]]] = {
            "trades": {Fill: self._build.trade, Correction: self._correction, Cancel: self._cancel},
            "quotes": {Best: self._build.quote},
            "klines:1m": {Candle: self._build.bar, Updated: self._updated},
            "klines:1d": {Daily: self._daily},
            "book": {Depth: self._depth},
            "x-statuses": {Halt: self._halt},
            "x-lulds": {Band: self._band},
        }
        self._make = {
            kind: make for on in feed.channels for kind, make in makers.get(on, {}).items()
        }

    def __call__(self, frames: Frames) -> list[Event]:
        """Return the events of *frames*, in their order."""
        events: list[Event] = []
        unified, make, recv = self._feed.listing.unified, self._make, frames.recv
        for frame in frames:
            try:
                items = _items(frame)
            except (ValueError, RecursionError):
                items = None
            if not items:
                self._unusual(frame, frames, events)
                continue
            for item in items:
                try:
                    events.append(make[type(item)](item, unified[item.S], recv))
                except KeyError:
                    kind = "unsupported" if type(item) is Imbalance else "unrequested"
                    self._feed.counters[kind] += 1
                except (
                    ValueError,
                    IndexError,
                    OverflowError,
                    ArithmeticError,
                ):  # its time, or its sums
                    events.extend(frames.on_control(msgspec.json.encode([item])))
        return events

    def _unusual(self, frame: bytes, frames: Frames, events: list[Event]) -> None:
        """Take a frame with an item that is no market data, or that cannot be read."""
        try:
            raws = _raws(frame)
        except (ValueError, RecursionError):
            raws = []
        if len(raws) < 2:
            events.extend(frames.on_control(frame))
            return
        for raw in raws:
            text = b"[" + bytes(raw) + b"]"
            try:
                _item(raw)
            except (ValueError, RecursionError):
                events.extend(frames.on_control(text))
                continue
            alone = Frames([text], frames.recv, frames.on_control)
            events.extend(self(alone))

    def _updated(self, one: Updated, symbol: str, recv: int) -> Event:
        sent = self._revisions[symbol]
        revision = sent.get(one.t, 0) + 1
        bar = self._build.bar(one, symbol, recv, revision=revision)
        sent[one.t] = revision
        if len(sent) > _BARS:
            del sent[min(sent)]
        return bar

    def _daily(self, one: Daily, symbol: str, recv: int) -> Event:
        return self._build.bar(one, symbol, recv, "1d", closed=False)

    def _depth(self, one: Depth, symbol: str, recv: int) -> Event:
        if one.r:
            self._whole[symbol] = recv
        elif self._resync and recv - self._whole.setdefault(symbol, recv) >= self._resync:
            self._whole[symbol] = recv
            self._feed.query_history(HistoryQuery("book", symbol, "book"))
        return self._build.book(one, symbol, recv, whole=one.r, origin="live")

    def _correction(self, one: Correction, symbol: str, recv: int) -> Event:
        text = (
            f"id={trade_id(one.x, one.oi)} price={one.op} size={one.os}"
            f" is now id={trade_id(one.x, one.ci)} price={one.cp} size={one.cs}"
        )
        return self._build.status(one, symbol, recv, "trade_corrected", text, "trades")

    def _cancel(self, one: Cancel, symbol: str, recv: int) -> Event:
        text = f"id={trade_id(one.x, one.i)} price={one.p} size={one.s} action={one.a}"
        return self._build.status(one, symbol, recv, "trade_cancelled", text, "trades")

    def _halt(self, one: Halt, symbol: str, recv: int) -> Event:
        text = f"{one.sc} {one.sm}; {one.rc} {one.rm}".strip("; ")
        return self._build.status(one, symbol, recv, "trading_status", text, "x-statuses")

    def _band(self, one: Band, symbol: str, recv: int) -> Event:
        text = f"down={one.d} up={one.u} indicator={one.i}"
        return self._build.status(one, symbol, recv, "price_band", text, "x-lulds")
