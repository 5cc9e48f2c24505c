"""Hyperliquid's frames, and the parser that turns them into events.

Every frame is an object of `channel` and `data`, and msgspec picks the struct by the channel. The
venue marks neither the trades from before a subscription nor the end of a candle; `tapes` has what
is concluded, from nothing but the frames and their order.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from msgspec import Struct
from tapeloom.events import Book, Event, Quote, Reject, Ticker, Trade

from .codec import About, Answer
from .symbols import INTERVALS
from .tapes import Candle, Candles, Fill, TradeTapes, trade

if TYPE_CHECKING:
    from tapeloom.plugin import Feed, Frames

    from .symbols import Names

__all__ = ["L2", "MS", "Parser", "levels"]

#: Nanoseconds in the unit of the venue's times.
MS = 1_000_000


class Level(Struct, gc=False):
    """A level as the venue wrote it."""

    px: str
    sz: str


class L2(Struct, gc=False):
    """A whole book of 20 levels a side, or 5 where it is the fast one. REST has the same."""

    coin: str
    time: int
    levels: tuple[list[Level], list[Level]]
    fast: bool | None = None


class Side(Struct, gc=False):
    """A best price."""

    px: Decimal
    sz: Decimal


class Best(Struct, gc=False):
    """The best bid and ask; a side that is empty is null."""

    coin: str
    time: int
    bbo: tuple[Side | None, Side | None]


class Context(Struct, gc=False):
    """The figures of 24 hours. Spot has no `dayBaseVlm` everywhere."""

    markPx: Decimal  # noqa: N815
    prevDayPx: Decimal  # noqa: N815
    dayNtlVlm: Decimal  # noqa: N815
    dayBaseVlm: Decimal | None = None  # noqa: N815


class Asset(Struct, gc=False):
    """A coin's figures, with no time."""

    coin: str
    ctx: Context


class Answered(Struct, tag_field="channel", tag="subscriptionResponse"):
    data: Answer


class Trades(Struct, gc=False, tag_field="channel", tag="trades"):
    data: list[Fill]


class Books(Struct, gc=False, tag_field="channel", tag="l2Book"):
    data: L2


class Bests(Struct, gc=False, tag_field="channel", tag="bbo"):
    data: Best


class Klines(Struct, gc=False, tag_field="channel", tag="candle"):
    # Documented as an array, sent as an object.
    data: Candle | list[Candle]


class PerpAssets(Struct, gc=False, tag_field="channel", tag="activeAssetCtx"):
    data: Asset


class SpotAssets(Struct, gc=False, tag_field="channel", tag="activeSpotAssetCtx"):
    data: Asset


Out: TypeAlias = list[Event]
_decode = msgspec.json.Decoder(
    Answered | Trades | Books | Bests | Klines | PerpAssets | SpotAssets
).decode
_coin = attrgetter("coin")
_ZERO = Decimal(0)
#: A side without an order: nothing at no price.
_EMPTY = Side(_ZERO, _ZERO)


def levels(some: list[Level], depth: int) -> list[tuple[str, str]]:
    """Return levels as pairs of text."""
    return [(level.px, level.sz) for level in some[:depth]]


def _repeated(trade: Trade) -> Reject:
    """Return what stands in the place of a trade that came before."""
    why = f"id {trade.id} of this time came before"
    where = trade.venue, trade.symbol, trade.ts, trade.recv
    return Reject(*where, "duplicate", why, trade, trade.channel)


class Parser:
    """Turns frames into events. What it remembers, it has from frames alone."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._names = feed, names
        self._venue, self._counters = feed.venue, feed.counters
        self._unified = feed.listing.unified
        self._tapes = TradeTapes(names.settings.remembered_trades)
        self._candles = Candles(feed, names.settings)
        self._books: dict[tuple[str, str], int] = {}  # the time of the last book
        self._has = frozenset(feed.channels)
        self._klines = {each: f"klines:{each}" for each in INTERVALS}
        self._read: dict[type, Callable[[Any, int, Out], None]] = {
            Trades: self._trades,
            Books: self._book,
            Bests: self._quote,
            Klines: self._bars,
            PerpAssets: self._ticker,
            SpotAssets: self._ticker,
        }

    def __call__(self, frames: Frames) -> Out:
        """Return the events of *frames*, in their order."""
        events: Out = []
        recv, read = frames.recv, self._read
        for frame in frames:
            try:
                message = _decode(frame)
                if type(message) is Answered:
                    self._answered(message.data)
                    events.extend(frames.on_control(frame))
                else:
                    read[type(message)](message.data, recv, events)
            except (ValueError, ArithmeticError, RecursionError):
                events.extend(frames.on_control(frame))
        return events

    def _answered(self, answer: Answer) -> None:
        """Take note of what begins anew, or ends."""
        about: About = answer.subscription
        coin, key = about.coin, (about.coin, about.interval or "")
        if answer.method == "unsubscribe":
            # Core does so, too, to what has fallen silent, and asks again: then all is still needed.
            if coin not in self._unified:
                self._tapes.forget(coin)
                self._candles.forget(key)
        elif about.type == "trades":
            self._tapes.answered(coin)
        elif about.type == "candle":
            self._candles.answered(key)
        elif about.type == "l2Book":
            # Another node of the venue may be some blocks behind.
            self._books.pop((coin, self._names.book(about.fast)), None)

    def _symbol(self, coin: str, channel: str, count: int = 1) -> str:
        """Return the symbol that was asked for under this name; else count, and return nothing."""
        symbol = self._unified.get(coin) if channel in self._has else None
        if symbol is None:
            self._counters["unrequested"] += count
            return ""
        return symbol

    def _trades(self, fills: list[Fill], recv: int, out: Out) -> None:
        if not fills:
            self._tapes.nothing()
        for coin, group in groupby(fills, _coin):
            some = list(group)
            symbol = self._symbol(coin, "trades", len(some))
            if not symbol:
                continue
            self._candles.passed(max(fill.time for fill in some), recv, out)
            venue, again = self._venue, 0
            for fill, origin in self._tapes.sorted_out(coin, some):
                if origin == "known":
                    again += 1
                elif origin == "again":
                    out.append(_repeated(trade(venue, symbol, fill, recv)))
                else:
                    out.append(trade(venue, symbol, fill, recv, origin))
            if again:
                self._counters["repeated_trades"] += again

    def _book(self, book: L2, recv: int, out: Out) -> None:
        channel = self._names.book(book.fast)
        symbol = self._symbol(book.coin, channel)
        if not symbol:
            return
        self._candles.passed(book.time, recv, out)
        depth = 5 if channel == "book:5" else 20
        sides = levels(book.levels[0], depth), levels(book.levels[1], depth)
        where = self._venue, symbol, book.time * MS, recv
        event = Book(*where, "snapshot", *sides, None, None, None, depth, channel)
        last = self._books.get((book.coin, channel), book.time)
        if book.time < last:
            why = f"time {book.time} is before that of the last book, {last}"
            out.append(Reject(*where, "backwards", why, event, channel))
            return
        self._books[book.coin, channel] = book.time
        out.append(event)

    def _quote(self, best: Best, recv: int, out: Out) -> None:
        symbol = self._symbol(best.coin, "quotes")
        if symbol:
            self._candles.passed(best.time, recv, out)
            bid, ask = best.bbo[0] or _EMPTY, best.bbo[1] or _EMPTY
            where = self._venue, symbol, best.time * MS, recv
            out.append(Quote(*where, bid.px, bid.sz, ask.px, ask.sz, None, "quotes"))

    def _bars(self, some: Candle | list[Candle], recv: int, out: Out) -> None:
        for candle in [some] if isinstance(some, Candle) else some:
            channel = self._klines.get(candle.i, "")
            symbol = self._symbol(candle.s, channel)
            if symbol:
                self._candles.take(candle, symbol, recv, out)

    def _ticker(self, asset: Asset, recv: int, out: Out) -> None:
        symbol = self._symbol(asset.coin, "ticker")
        if symbol:
            ctx = asset.ctx
            prices = ctx.markPx, ctx.prevDayPx, None, None  # it tells neither high nor low
            sums = ctx.dayBaseVlm, ctx.dayNtlVlm
            out.append(Ticker(self._venue, symbol, recv, recv, *prices, *sums, None, "ticker"))
