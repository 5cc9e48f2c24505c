"""Parsers of ccxt's structures: one per symbol and channel, which remembers its last events.

A parser is called with what a watch call returned and with the local time, and returns the new
events. `reset` is called after an interruption: data may have been missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any, Literal, Protocol

from tapeloom.events import Bar, Book, Event, Quote, Reject, Side, Ticker, Trade
from tapeloom.plugin import Feed, channel_parts
from tapeloom.plugin.bounds import MAX_ID_LENGTH

from .exchange import decimal_text, to_decimal

__all__ = ["ChannelParser", "CrossedError", "make_parser"]

#: Nanoseconds in a millisecond, the unit of ccxt's times.
MS = 1_000_000
ZERO = Decimal(0)
#: Least number of trade ids per symbol that are remembered, to recognise duplicates.
_MAX_IDS = 10_000
#: Number of closed bars that are remembered, to recognise revisions.
_MAX_CLOSED_BARS = 10
#: Number of items of one call that may be unreadable; the rest of them is rejected together then.
_MAX_BAD_ITEMS = 100
#: How far the start of a bar may be ahead of our clock, in ns: a day.
_MAX_AHEAD_NS = 86_400_000_000_000
#: The fields of a ticker that make it a new one.
_STATISTICS = ("timestamp", "last", "open", "high", "low", "baseVolume", "quoteVolume")
_SIDES: dict[Any, Side] = {"buy": "buy", "sell": "sell"}
#: What parsing raises for a structure that lacks a value, or has one of another type.
_UNREADABLE = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip


class CrossedError(Exception):
    """The best bid of a book stays at or above its best ask: ccxt has missed an update."""


class ChannelParser(Protocol):
    """Parses what the watch calls of one symbol and channel return."""

    def __call__(self, data: Any, recv: int, /) -> list[Event]:
        """Return the new events in *data*."""
        ...

    def reset(self) -> None:
        """Forget the last events, because data may have been missed."""
        ...


def make_parser(
    feed: Feed, symbol: str, channel: str, *, numbered: bool, snapshot_every: float
) -> ChannelParser:
    """Return the parser of *channel* of *symbol*."""
    name, parameter = channel_parts(channel)
    match name:
        case "trades":
            return TradeParser(feed, symbol, channel, numbered)
        case "book":
            if parameter:
                return TopLevelsParser(feed, symbol, channel, int(parameter))
            return FullBookParser(feed, symbol, channel, int(snapshot_every * 1_000_000_000))
        case "klines":
            return BarParser(feed, symbol, channel, parameter)
        case "ticker":
            return TickerParser(feed, symbol, channel)
    return QuoteParser(feed, symbol, channel)


def _side(price: Any, size: Any) -> tuple[Decimal, Decimal] | tuple[None, None]:
    """Return price and size of one side of a quote; the size is zero if the exchange does not send it.

    Exchanges send nothing or price 0 for an empty side.
    """
    number = None if price is None else to_decimal(price)
    return (number, _optional(size) or ZERO) if number else (None, None)


def _optional(value: Any) -> Decimal | None:
    """Return a number, or None if the exchange does not send it."""
    return None if value is None else to_decimal(value)


class _Parser:
    """The common part of all parsers."""

    def __init__(self, feed: Feed, symbol: str, channel: str) -> None:
        self._feed, self._symbol, self._channel = feed, symbol, channel

    def __call__(self, data: Any, recv: int) -> list[Event]:
        """Return the new events in *data*; a Reject for data that cannot be read."""
        try:
            return self._parse(data, recv)
        except _UNREADABLE:
            return [self._reject("incomplete", data, recv)]

    def _parse(self, data: Any, recv: int) -> list[Event]:
        """Return the new events in *data*; raises one of `_UNREADABLE`, and then changes no state."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget the last events, because data may have been missed."""

    def _reject(self, rule: str, data: Any, recv: int, event: Event | None = None) -> Reject:
        try:
            evidence = str(data.get("info") or data if isinstance(data, Mapping) else data)[:300]
        except (RecursionError, ValueError):  # it is too deep, or has an integer of too many digits
            evidence = f"a {type(data).__name__} that cannot be shown"
        return Reject(
            self._feed.venue, self._symbol, recv, recv, rule, evidence, event, self._channel
        )


def _ns(time_ms: Any) -> int:
    """Return a time in ms as ns. `to_decimal` raises for 1E+999999, with which `int` takes minutes."""
    return int(to_decimal(time_ms)) * MS


def _ts(data: Mapping[str, Any], recv: int) -> int:
    """Return the exchange's time in ns, or the local time if it sends none."""
    time_ms = data.get("timestamp")
    return _ns(time_ms) if time_ms else recv


class TradeParser(_Parser):
    """Parses trades without duplicates. Trades without an id are all taken as new.

    If *numbered*, ids that are decimal numbers become integers. The ids of past trades are held in
    two sets: when the newer one is full, it replaces the older one.
    """

    def __init__(self, feed: Feed, symbol: str, channel: str, numbered: bool) -> None:
        super().__init__(feed, symbol, channel)
        self._numbered = numbered
        self._recent: set[str] = set()
        self._older: set[str] = set()

    def _parse(self, data: Sequence[Mapping[str, Any]], recv: int) -> list[Event]:
        """Return the trades, with a Reject in place of each duplicate."""
        events: list[Event] = []
        bad = 0
        for trade in data:
            event = self._event(trade, recv)
            events.append(event)
            if type(event) is Reject and event.event is None:
                bad += 1
                if bad == _MAX_BAD_ITEMS:
                    events.append(self._reject("incomplete", f"the rest of {len(data)}", recv))
                    break
        return events

    def _event(self, data: Mapping[str, Any], recv: int) -> Event:
        try:
            trade_id = str(data["id"]) if data.get("id") is not None else ""
            trade = Trade(
                self._feed.venue,
                self._symbol,
                _ts(data, recv),
                recv,
                to_decimal(data["price"]),
                to_decimal(data["amount"]),
                _SIDES.get(data.get("side")),
                int(trade_id) if self._numbered and trade_id.isdecimal() else trade_id,
                self._channel,
            )
        except _UNREADABLE:
            return self._reject("incomplete", data, recv)
        if 0 < len(trade_id) <= MAX_ID_LENGTH:  # core rejects longer ones
            if trade_id in self._recent or trade_id in self._older:
                return self._reject("duplicate", data, recv, trade)
            self._recent.add(trade_id)
            if len(self._recent) >= _MAX_IDS:
                self._older, self._recent = self._recent, set()
        return trade


#: Sizes by price, with the types of ccxt.
Levels = dict[Any, Any]


class _BookParser(_Parser):
    """Parses a book, which is ccxt's own object and changes later: it is copied at once."""

    def __init__(self, feed: Feed, symbol: str, channel: str) -> None:
        super().__init__(feed, symbol, channel)
        self._last: tuple[Levels, Levels] | None = None
        self._crossed = False

    def reset(self) -> None:
        """Forget the last book, because data may have been missed: the next one is a snapshot."""
        self._last, self._crossed = None, False

    def _sides(self, data: Mapping[str, Any], depth: int | None = None) -> tuple[Levels, Levels]:
        """Return both sides.

        Raises CrossedError if they are crossed for the second time in a row.
        """
        bids, asks = data["bids"], data["asks"]
        crossed = bool(bids and asks and bids[0][0] >= asks[0][0])
        if crossed and self._crossed:
            raise CrossedError(f"bid {bids[0][0]} at or above ask {asks[0][0]}")
        self._crossed = crossed
        # Some exchanges add a third value to each level.
        bid_levels = {level[0]: level[1] for level in bids[:depth]}
        return bid_levels, {level[0]: level[1] for level in asks[:depth]}

    def _book(
        self, kind: Literal["snapshot", "delta"], data: Any, recv: int, sides: Any, depth: int
    ) -> Book:
        bids, asks = (
            [(decimal_text(price), decimal_text(size)) for price, size in side] for side in sides
        )
        nonce = data.get("nonce")
        last = nonce if isinstance(nonce, int) else None
        return Book(
            self._feed.venue, self._symbol, _ts(data, recv), recv, kind, bids, asks,
            None, last, None, depth, self._channel,
        )  # fmt: skip


class FullBookParser(_BookParser):
    """Parses all levels that ccxt keeps: a snapshot, then deltas, and a snapshot at intervals."""

    def __init__(self, feed: Feed, symbol: str, channel: str, snapshot_interval: int) -> None:
        super().__init__(feed, symbol, channel)
        #: Interval and time of the last snapshot, in ns.
        self._interval, self._snapshot_at = snapshot_interval, 0

    def _parse(self, data: Mapping[str, Any], recv: int) -> list[Event]:
        """Return a snapshot, or the changes if there are any."""
        sides, last = self._sides(data), self._last
        books: list[Event] = []
        if last is None or recv - self._snapshot_at >= self._interval:
            books = [self._book("snapshot", data, recv, [side.items() for side in sides], 0)]
            self._snapshot_at = recv
        else:
            changes = [_changes(*pair) for pair in zip(last, sides, strict=True)]
            books = [self._book("delta", data, recv, changes, 0)] if any(changes) else []
        self._last = sides
        return books


def _changes(before: Levels, now: Levels) -> list[tuple[Any, Any]]:
    """Return the levels that have changed; size 0 for those that were removed."""
    changed = [level for level in now.items() if before.get(level[0], "") != level[1]]
    return changed + [(price, "0") for price in before if price not in now]


class TopLevelsParser(_BookParser):
    """Parses the best levels: a snapshot each time that one of them changes."""

    def __init__(self, feed: Feed, symbol: str, channel: str, depth: int) -> None:
        super().__init__(feed, symbol, channel)
        self._depth = depth

    def _parse(self, data: Mapping[str, Any], recv: int) -> list[Event]:
        """Return the best levels if they have changed."""
        sides = self._sides(data, self._depth)
        if sides == self._last:
            return []
        book = self._book("snapshot", data, recv, [side.items() for side in sides], self._depth)
        self._last = sides
        return [book]


class BarParser(_Parser):
    """Parses bars. ccxt does not mark closed bars: a bar is closed when a later one comes."""

    def __init__(self, feed: Feed, symbol: str, channel: str, interval: str) -> None:
        super().__init__(feed, symbol, channel)
        self._interval = interval
        self._open: tuple[Any, ...] | None = None  # the row of the open bar
        self._closed: dict[int, tuple[Any, ...]] = {}  # rows by start
        self._last_closed = -1  # start of the last closed bar, in ms
        self._first_call = True

    def reset(self) -> None:
        """Forget the open bar, because data may have been missed; it is never closed."""
        self._open, self._first_call = None, True

    def _parse(self, data: Sequence[Sequence[Any]], recv: int) -> list[Event]:
        """Return the bars that have closed, the revised closed bars, and the open one if it changed."""
        out: list[Event] = []
        rows: list[tuple[Any, ...]] = []
        for row in data:
            try:
                start = int(to_decimal(row[0]))
                if start * MS > recv + _MAX_AHEAD_NS:
                    # All bars after it would be taken for revisions.
                    out.append(self._reject("ahead", row, recv))
                else:
                    rows.append((start, *row[1:]))
            except _UNREADABLE:
                out.append(self._reject("incomplete", row, recv))
            if len(out) == _MAX_BAD_ITEMS:
                out.append(self._reject("incomplete", f"the rest of {len(data)}", recv))
                break
        first_call, self._first_call = self._first_call, self._first_call and not rows
        before = self._open
        for row in sorted(rows, key=itemgetter(0)):
            if row[0] <= self._last_closed:
                self._revise(row, recv, out)
                continue
            if self._open is not None and row[0] > self._open[0]:
                self._close(self._open, recv, out, past=first_call)
            self._open = row
        if self._open is not None and self._open != before:
            self._emit(self._open, recv, out, closed=False)
        return out

    def _close(self, row: tuple[Any, ...], recv: int, out: list[Event], *, past: bool) -> None:
        self._last_closed = row[0]
        self._closed[row[0]] = row
        if len(self._closed) > _MAX_CLOSED_BARS:
            del self._closed[next(iter(self._closed))]
        self._emit(row, recv, out, past=past)

    def _revise(self, row: tuple[Any, ...], recv: int, out: list[Event]) -> None:
        known = self._closed.get(row[0])
        if known is not None and known != row:
            self._closed[row[0]] = row
            self._emit(row, recv, out, revision=1)  # core numbers further ones

    def _emit(
        self,
        row: tuple[Any, ...],
        recv: int,
        out: list[Event],
        *,
        closed: bool = True,
        revision: int = 0,
        past: bool = False,
    ) -> None:
        try:
            ts, (o, h, l, c, volume) = _ns(row[0]), map(to_decimal, row[1:6])  # noqa: E741
        except (TypeError, ValueError):
            out.append(self._reject("incomplete", row, recv))
            return
        out.append(
            Bar(
                self._feed.venue, self._symbol, ts, recv, self._interval, o, h, l, c, volume,
                None, None, None, None, closed, True, revision, self._channel,
                "history" if past else "live",
            )
        )  # fmt: skip


class TickerParser(_Parser):
    """Parses statistics of 24 hours. Fields that the exchange does not send are None."""

    _last: tuple[Any, ...] = ()

    def _parse(self, data: Mapping[str, Any], recv: int) -> list[Event]:
        """Return the ticker if it has changed."""
        values = tuple(map(data.get, _STATISTICS))
        if values == self._last:
            return []
        self._last = values
        try:
            last, opened, high, low, volume, quote_volume = (
                to_decimal(values[1]),
                *map(_optional, values[2:]),
            )
            return [
                Ticker(
                    self._feed.venue, self._symbol, _ts(data, recv), recv,
                    last, opened, high, low, volume, quote_volume, None, self._channel,
                )
            ]  # fmt: skip
        except ValueError:
            return [self._reject("incomplete", data, recv)]


class QuoteParser(_Parser):
    """Parses the best bid and ask. ccxt keeps only the latest between two watch calls."""

    _last: tuple[Any, ...] = ()

    def _parse(self, data: Mapping[str, Mapping[str, Any]], recv: int) -> list[Event]:
        """Return the quote of this symbol if it is in *data* and has changed."""
        out: list[Event] = []
        for symbol, quote in data.items():
            if symbol.upper() == self._symbol:
                values = tuple(map(quote.get, ("bid", "bidVolume", "ask", "askVolume")))
                if values != self._last:
                    self._last = values
                    out.append(self._event(quote, values, recv))
        return out

    def _event(self, data: Mapping[str, Any], values: tuple[Any, ...], recv: int) -> Event:
        try:
            (bid, bid_size), (ask, ask_size) = _side(*values[:2]), _side(*values[2:])
            sides = bid, bid_size, ask, ask_size
            fields = self._feed.venue, self._symbol, _ts(data, recv), recv
            return Quote(*fields, *sides, None, self._channel)
        except ValueError:  # a price or size is no number
            return self._reject("incomplete", data, recv)
