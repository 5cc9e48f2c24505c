"""ccxt's structures as events: one reader for each symbol and channel, which remembers what it told.

A reader is called with what a watch call returned and with our time, and returns the events that are
news. `renew` is called when the stream has been interrupted: nothing joins what went before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, Protocol

from tapeloom.events import Bar, Book, Event, Quote, Reject, Side, Ticker, Trade
from tapeloom.plugin import Feed, channel_parts

from .exchange import exact, text

__all__ = ["CrossedError", "Reader", "reader"]

MS = 1_000_000
ZERO = Decimal(0)
_IDS = 10_000  #: how many trade ids of a symbol are remembered, at the least
_REVISIONS = 10  #: how many closed bars are remembered
_SIDES: dict[Any, Side] = {"buy": "buy", "sell": "sell"}


class CrossedError(Exception):
    """A book whose best bid stays at or above its best ask: ccxt has missed something."""


class Reader(Protocol):
    """Reads what the watch calls of one symbol and channel return."""

    def __call__(self, got: Any, recv: int, /) -> list[Event]:
        """Return what is new in *got*."""
        ...

    def renew(self) -> None:
        """Take note that something may have been missed."""
        ...


def reader(
    feed: Feed, symbol: str, channel: str, *, numbered: bool, snapshot_every: float
) -> Reader:
    """Return the reader of *channel* of *symbol*."""
    word, parameter = channel_parts(channel)
    match word:
        case "trades":
            return Trades(feed, symbol, channel, numbered)
        case "book":
            if parameter:
                return TopOfBook(feed, symbol, channel, int(parameter))
            return WholeBook(feed, symbol, channel, int(snapshot_every * 1_000_000_000))
        case "klines":
            return Bars(feed, symbol, channel, parameter)
        case "ticker":
            return Tickers(feed, symbol, channel)
    return Quotes(feed, symbol, channel)


def _size(value: Any) -> Decimal:
    """Return the size of a level, or zero where the exchange does not tell."""
    return ZERO if value is None else exact(value)


def _told(value: Any) -> Decimal | None:
    """Return a figure, or None where the exchange does not tell."""
    return None if value is None else exact(value)


class _Reads:
    """What all readers have in common."""

    def __init__(self, feed: Feed, symbol: str, channel: str) -> None:
        self._feed, self._symbol, self._channel = feed, symbol, channel

    def renew(self) -> None:
        """Take note that something may have been missed."""

    def _reject(self, rule: str, got: Any, recv: int, event: Event | None = None) -> Reject:
        evidence = str(got.get("info") or got if isinstance(got, Mapping) else got)[:300]
        return Reject(
            self._feed.venue, self._symbol, recv, recv, rule, evidence, event, self._channel
        )


def _ts(got: Mapping[str, Any], recv: int) -> int:
    """Return the exchange's time, or ours where it tells none."""
    stamp = got.get("timestamp")
    return int(stamp) * MS if stamp else recv


class Trades(_Reads):
    """Trades, each once. One without an id cannot be told from its twin, and passes."""

    def __init__(self, feed: Feed, symbol: str, channel: str, numbered: bool) -> None:
        super().__init__(feed, symbol, channel)
        self._numbered = numbered
        self._recent: set[str] = set()
        self._older: set[str] = set()

    def __call__(self, got: Sequence[Mapping[str, Any]], recv: int) -> list[Event]:
        """Return the trades that have not come before; in place of the others, a Reject."""
        return [self._read(one, recv) for one in got]

    def _read(self, got: Mapping[str, Any], recv: int) -> Event:
        name = str(got["id"]) if got.get("id") is not None else ""
        try:
            trade = Trade(
                self._feed.venue,
                self._symbol,
                _ts(got, recv),
                recv,
                exact(got["price"]),
                exact(got["amount"]),
                _SIDES.get(got.get("side")),
                int(name) if self._numbered and name.isdecimal() else name,
                self._channel,
            )
        except (KeyError, TypeError, ValueError):
            return self._reject("incomplete", got, recv)
        if name:
            if name in self._recent or name in self._older:
                return self._reject("duplicate", got, recv, trade)
            self._recent.add(name)
            if len(self._recent) >= _IDS:
                self._older, self._recent = self._recent, set()
        return trade


Levels = dict[Any, Any]  # price → size, as ccxt keeps them


class _Booked(_Reads):
    """A book is ccxt's own object, which changes while it is held: it is read at once."""

    def __init__(self, feed: Feed, symbol: str, channel: str) -> None:
        super().__init__(feed, symbol, channel)
        self._told: tuple[Levels, Levels] | None = None
        self._crossed = False

    def renew(self) -> None:
        """Take note that something may have been missed: the next is told whole."""
        self._told, self._crossed = None, False

    def _sides(self, got: Mapping[str, Any], depth: int | None = None) -> tuple[Levels, Levels]:
        """Return both sides.

        Raises CrossedError where they are crossed for the second time in a row.
        """
        bids, asks = got["bids"], got["asks"]
        crossed = bool(bids and asks and bids[0][0] >= asks[0][0])
        if crossed and self._crossed:
            raise CrossedError(f"bid {bids[0][0]} at or above ask {asks[0][0]}")
        self._crossed = crossed
        # Some exchanges add a third value to each level.
        return {one[0]: one[1] for one in bids[:depth]}, {one[0]: one[1] for one in asks[:depth]}

    def _book(
        self, kind: Literal["snapshot", "delta"], got: Any, recv: int, sides: Any, depth: int
    ) -> Book:
        bids, asks = ([(text(price), text(size)) for price, size in side] for side in sides)
        nonce = got.get("nonce")
        last = nonce if isinstance(nonce, int) else None
        return Book(
            self._feed.venue, self._symbol, _ts(got, recv), recv, kind, bids, asks,
            None, last, None, depth, self._channel,
        )  # fmt: skip


class WholeBook(_Booked):
    """All levels that ccxt keeps: first whole, then what changed, and whole again from time to time."""

    def __init__(self, feed: Feed, symbol: str, channel: str, every: int) -> None:
        super().__init__(feed, symbol, channel)
        self._every, self._whole_at = every, 0

    def __call__(self, got: Mapping[str, Any], recv: int) -> list[Event]:
        """Return the book, or its changes, if there are any."""
        sides, told = self._sides(got), self._told
        self._told = sides
        if told is None or recv - self._whole_at >= self._every:
            self._whole_at = recv
            return [self._book("snapshot", got, recv, [side.items() for side in sides], 0)]
        changes = [_changes(*pair) for pair in zip(told, sides, strict=True)]
        return [self._book("delta", got, recv, changes, 0)] if any(changes) else []


def _changes(before: Levels, now: Levels) -> list[tuple[Any, Any]]:
    changed = [level for level in now.items() if before.get(level[0]) != level[1]]
    return changed + [(price, "0") for price in before if price not in now]


class TopOfBook(_Booked):
    """The best levels, whole each time that one of them changes."""

    def __init__(self, feed: Feed, symbol: str, channel: str, depth: int) -> None:
        super().__init__(feed, symbol, channel)
        self._depth = depth

    def __call__(self, got: Mapping[str, Any], recv: int) -> list[Event]:
        """Return the best levels, if they have changed."""
        sides = self._sides(got, self._depth)
        if sides == self._told:
            return []
        self._told = sides
        return [self._book("snapshot", got, recv, [side.items() for side in sides], self._depth)]


class Bars(_Reads):
    """The exchange's bars. ccxt does not tell which are closed: one is when a later one comes."""

    def __init__(self, feed: Feed, symbol: str, channel: str, interval: str) -> None:
        super().__init__(feed, symbol, channel)
        self._interval = interval
        self._forming: tuple[Any, ...] | None = None
        self._closed: dict[int, tuple[tuple[Any, ...], int]] = {}  # start → row, revision
        self._last = -1  # start of the last that closed
        self._first = True

    def renew(self) -> None:
        """Take note that something may have been missed: what was forming never closes by itself."""
        self._forming, self._first = None, True

    def __call__(self, got: Sequence[Sequence[Any]], recv: int) -> list[Event]:
        """Return each bar that has closed, those closed before and revised, and the forming one."""
        out: list[Event] = []
        began, self._first = self._first, False
        before = self._forming
        for row in map(tuple, sorted(got, key=lambda one: one[0])):
            if row[0] <= self._last:
                self._revise(row, recv, out)
                continue
            forming = self._forming
            if forming is not None and row[0] > forming[0]:
                self._close(forming, recv, out, past=began)
            self._forming = row
        if self._forming is not None and self._forming != before:
            self._tell(self._forming, recv, out, closed=False)
        return out

    def _close(self, row: tuple[Any, ...], recv: int, out: list[Event], *, past: bool) -> None:
        self._last = row[0]
        self._closed[row[0]] = row, 0
        if len(self._closed) > _REVISIONS:
            del self._closed[next(iter(self._closed))]
        self._tell(row, recv, out, past=past)

    def _revise(self, row: tuple[Any, ...], recv: int, out: list[Event]) -> None:
        known = self._closed.get(row[0])
        if known is not None and known[0] != row:
            self._closed[row[0]] = row, known[1] + 1
            self._tell(row, recv, out, revision=known[1] + 1)

    def _tell(
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
            ts, (o, h, l, c, volume) = int(row[0]) * MS, map(exact, row[1:6])  # noqa: E741
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


_STATISTICS = ("timestamp", "last", "open", "high", "low", "baseVolume", "quoteVolume")


class Tickers(_Reads):
    """Statistics of 24 hours. What the exchange does not tell is None."""

    _told: tuple[Any, ...] = ()

    def __call__(self, got: Mapping[str, Any], recv: int) -> list[Event]:
        """Return the ticker, if it is another than the last one."""
        values = tuple(map(got.get, _STATISTICS))
        if values == self._told:
            return []
        self._told = values
        try:
            last, opened, high, low, volume, quote_volume = (
                exact(values[1]),
                *map(_told, values[2:]),
            )
            return [
                Ticker(
                    self._feed.venue, self._symbol, _ts(got, recv), recv,
                    last, opened, high, low, volume, quote_volume, None, self._channel,
                )
            ]  # fmt: skip
        except ValueError:
            return [self._reject("incomplete", got, recv)]


class Quotes(_Reads):
    """The best bid and ask. Between two calls of ours, only the latest is kept by ccxt."""

    _told: tuple[Any, ...] = ()

    def __call__(self, got: Mapping[str, Mapping[str, Any]], recv: int) -> list[Event]:
        """Return the quote of this symbol, if it is in *got* and has changed."""
        out: list[Event] = []
        for symbol, one in got.items():
            if symbol.upper() == self._symbol:
                values = tuple(map(one.get, ("bid", "bidVolume", "ask", "askVolume")))
                if values != self._told:
                    self._told = values
                    out.append(self._read(one, values, recv))
        return out

    def _read(self, got: Mapping[str, Any], values: tuple[Any, ...], recv: int) -> Event:
        bid, bid_size, ask, ask_size = values
        try:
            return Quote(
                self._feed.venue, self._symbol, _ts(got, recv), recv,
                exact(bid), _size(bid_size), exact(ask), _size(ask_size), None, self._channel,
            )  # fmt: skip
        except ValueError:  # a side is empty
            return self._reject("incomplete", got, recv)
