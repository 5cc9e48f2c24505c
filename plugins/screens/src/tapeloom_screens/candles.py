"""Candles from trades: exact, in time of the venue, whatever the order in which the trades arrive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Context, Decimal, InvalidOperation
from itertools import groupby
from operator import attrgetter

from attrs import define
from tapeloom.events import Trade

from .windows import SECOND

MINUTE = 60 * SECOND
#: For sums of sizes, which are below 10**41 with at most 40 decimals: wide enough that no digit is lost.
EXACT = Context(prec=120, traps=[InvalidOperation])

_TS = attrgetter("ts")
_TS_ID = attrgetter("ts", "id")


@define
class Sum:
    """Trades of one stretch of time, summed up.

    `first` and `last` are the positions of the trades that made open and close: time, and number where the
    venue numbers its trades.
    """

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    trades: int
    first: tuple[int, int]
    last: tuple[int, int]

    def merge(self, other: Sum) -> None:
        """Add trades that arrived later, of any time."""
        if other.first < self.first:
            self.open, self.first = other.open, other.first
        if other.last >= self.last:
            self.close, self.last = other.close, other.last
        self.high = max(self.high, other.high)
        self.low = min(self.low, other.low)
        self.volume += other.volume
        self.trades += other.trades

    def copy(self) -> Sum:
        """Return one that can be changed by itself."""
        return Sum(
            self.open, self.high, self.low, self.close, self.volume, self.trades, self.first, self.last
        )  # fmt: skip


def in_order(trades: Sequence[Trade]) -> Sequence[Trade]:
    """Return trades by the venue's time, and by number or arrival where times are equal."""
    times = [trade.ts for trade in trades]
    ids = [trade.id for trade in trades] if type(trades[0].id) is int else []
    try:
        # Nearly always they are in order, and two lists of numbers are checked faster than pairs.
        if times == sorted(times) and ids == sorted(ids):
            return trades
        if ids:
            return sorted(trades, key=_TS_ID)
    except TypeError:  # not all are numbered
        pass
    return sorted(trades, key=_TS)


def sums(trades: Sequence[Trade]) -> Iterator[tuple[int, Sum]]:
    """Yield the seconds of *trades*, which are `in_order`, and the sum of each.

    A trade with a price or size that is no finite number is left out.
    """
    if trades[0].ts // SECOND == trades[-1].ts // SECOND:
        found = _sum(trades)
        if found is not None:
            yield trades[0].ts // SECOND * SECOND, found
        return
    for second, run in groupby(trades, lambda trade: trade.ts // SECOND):
        found = _sum(list(run))
        if found is not None:
            yield second * SECOND, found


def _sum(trades: Sequence[Trade]) -> Sum | None:
    """Return the sum of trades of one second; the current decimal context is EXACT."""
    first, last = trades[0], trades[-1]
    prices = [trade.price for trade in trades]
    try:
        high, low = max(prices), min(prices)
        volume = sum([trade.size for trade in trades], Decimal())
        finite = high.is_finite() and low.is_finite() and volume.is_finite()
    except InvalidOperation:  # NaN has no order
        finite = False
    if not finite:
        good = [trade for trade in trades if trade.price.is_finite() and trade.size.is_finite()]
        return _sum(good) if good else None
    return Sum(
        prices[0], high, low, prices[-1], volume, len(prices), _position(first), _position(last)
    )  # fmt: skip


def _position(trade: Trade) -> tuple[int, int]:
    return trade.ts, trade.id if type(trade.id) is int else -1


class Series:
    """The candles of one symbol and one length of time; the newest so many are kept."""

    __slots__ = ("candles", "floor", "interval")

    def __init__(self, interval: int) -> None:
        self.interval = interval  #: in ns
        self.candles: dict[int, Sum] = {}  #: by start, in ns; not sorted
        #: What began before is not known any more, and what arrives of it is left out.
        self.floor = 0

    def add(self, ts: int, found: Sum, most: int) -> None:
        """Add the sum of trades at *ts* to its candle; keep about *most* candles."""
        start = ts - ts % self.interval
        if start < self.floor:
            return
        candle = self.candles.get(start)
        if candle is not None:
            candle.merge(found)
            return
        self.candles[start] = found.copy()
        if len(self.candles) > most + most // 4:
            self.trim(most)

    def trim(self, most: int) -> None:
        """Keep the newest *most* candles."""
        if len(self.candles) > most:
            kept = sorted(self.candles)[-most:]
            self.candles = {start: self.candles[start] for start in kept}
            self.floor = kept[0]

    def of(self, interval: int, count: int) -> dict[int, Sum]:
        """Return the last *count* candles of *interval*, a multiple of ours, by start, in order.

        One whose beginning is not known any more is left out.
        """
        found: dict[int, Sum] = {}
        starts = sorted(self.candles)
        if starts:
            since = (starts[-1] // interval - count + 1) * interval
            oldest = -(-self.floor // interval) * interval
            starts = [start for start in starts if start >= max(since, oldest)]
        for start in starts:
            key = start - start % interval
            if key in found:
                found[key].merge(self.candles[start])
            else:
                found[key] = self.candles[start].copy()
        return found
