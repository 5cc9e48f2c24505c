"""The bars of one symbol, as the stream has them: for candles where there are no trades, and for marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext

from attrs import define
from tapeloom.events import Bar
from tapeloom.units import duration_ns

from .candles import EXACT
from .views import Candle

#: Intervals kept of one symbol; a stack that has more is not known.
_INTERVALS = 8


@define
class Marks:
    """What the bars in a candle say of it."""

    revised: bool = False
    complete: bool = True


class BarStore:
    """The newest bars of one symbol, by interval and start."""

    __slots__ = ("bars", "last")

    def __init__(self) -> None:
        self.bars: dict[int, dict[int, Bar]] = {}  # interval in ns → start → the latest bar
        self.last: Bar | None = None

    def add(self, events: Sequence[Bar], most: int) -> None:
        """Keep the latest of each bar, and about *most* bars of each interval."""
        for bar in events:
            try:
                interval = duration_ns(bar.interval)
            except ValueError:  # such as a month, whose length is no fixed time
                continue
            series = self.bars.get(interval)
            if series is None:
                if len(self.bars) == _INTERVALS or interval <= 0:
                    continue
                series = self.bars[interval] = {}
            series[bar.ts] = bar
            if self.last is None or bar.ts >= self.last.ts:
                self.last = bar
            if len(series) > most + most // 4:
                self._trim(interval, most)

    def trim(self, most: int) -> None:
        """Keep the newest *most* bars of each interval."""
        for interval in [*self.bars]:
            self._trim(interval, most)

    def _trim(self, interval: int, most: int) -> None:
        series = self.bars[interval]
        self.bars[interval] = {start: series[start] for start in sorted(series)[-most:]}

    def candles(self, interval: int, count: int) -> dict[int, Candle]:
        """Return the last *count* candles of *interval*, in ns, by start, in order.

        They are made of the longest bars of which a whole number fits in.
        """
        lengths = [length for length in self.bars if interval % length == 0]
        if not lengths:
            return {}
        length = max(lengths)
        series = self.bars[length]
        starts = sorted(series)
        since = (starts[-1] // interval - count + 1) * interval
        whole = -(-starts[0] // interval) * interval if length < interval else since
        found: dict[int, list[Bar]] = {}
        for start in starts:
            if start >= max(since, whole):
                found.setdefault(start - start % interval, []).append(series[start])
        return {start: _candle(start, bars) for start, bars in found.items()}

    def marks(self, interval: int, since: int) -> dict[int, Marks]:
        """Return the marks of candles of *interval*, from *since* on, by start; only those that say something."""
        found: dict[int, Marks] = {}
        for length, series in self.bars.items():
            if length > interval:
                continue
            for start, bar in series.items():
                if start >= since and (bar.revision or not bar.complete):
                    marks = found.setdefault(start - start % interval, Marks())
                    marks.revised |= bar.revision > 0
                    marks.complete &= bar.complete
        return found


def _candle(start: int, bars: Sequence[Bar]) -> Candle:
    with localcontext(EXACT):
        volume = sum((bar.volume for bar in bars), Decimal())
    return Candle(
        start,
        bars[0].open,
        max(bar.high for bar in bars),
        min(bar.low for bar in bars),
        bars[-1].close,
        volume,
        _total(bar.trades for bar in bars),
        "bars",
        revised=any(bar.revision for bar in bars),
        complete=all(bar.complete for bar in bars),
    )


def _total(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
