"""The newest trades and bars of a hub in memory: bounded, for clients that ask for what was."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from tapeloom import Bar, Event, Trade

from .selection import Key, Selection

__all__ = ["Candle", "Series", "Window"]

#: How many times as many bars as trades are kept: a bar takes less memory here.
_BARS_PER_TRADE = 5

#: Venue, symbol and interval of bars.
Series: TypeAlias = tuple[str, str, str]


class Candle(NamedTuple):
    """A bar, as charts want it: the start in seconds since 1970, and floats."""

    time: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class Window:
    """The newest trades and bars. *size* is the number of trades; there are five times as many bars."""

    def __init__(self, size: int) -> None:
        self._trades: deque[Trade] = deque(maxlen=size)
        self._max_bars = size * _BARS_PER_TRADE
        self._series: dict[Series, dict[int, Candle]] = {}
        self._order: dict[tuple[Series, int], None] = {}  # all bars, the oldest first

    def add(self, events: Sequence[Event], by_key: dict[Key, list[int]]) -> None:
        """Take over a batch; *by_key* has the indices of its events by key."""
        for key, indices in by_key.items():
            if key[0] == "trade":
                self._trades.extend(events[index] for index in indices)  # type: ignore[misc]
            elif key[0] == "bar":
                for index in indices:
                    self._add_bar(events[index])

    def _add_bar(self, bar: Event) -> None:
        if type(bar) is not Bar:
            return
        series, start = (bar.venue, bar.symbol, bar.interval), bar.ts // 1_000_000_000
        values = map(float, (bar.open, bar.high, bar.low, bar.close, bar.volume))
        self._series.setdefault(series, {})[start] = Candle(start, *values)
        self._order.setdefault((series, start))
        if len(self._order) > self._max_bars:
            oldest, time = next(iter(self._order))
            del self._order[oldest, time]
            del self._series[oldest][time]
            if not self._series[oldest]:
                del self._series[oldest]

    @property
    def series(self) -> list[Series]:
        """The series of which there are bars, sorted."""
        return sorted(self._series)

    def trades(self, selection: Selection) -> list[Trade]:
        """Return the trades of a selection, in the order of the stream."""
        return [
            trade
            for trade in self._trades
            if selection.selects((trade.type, trade.venue, trade.symbol, trade.channel))
        ]

    def candles(self, series: Series, since: int = 0, until: int = 1 << 62) -> list[Candle]:
        """Return the bars of a series that start from *since* up to, and without, *until*, in seconds."""
        found = self._series.get(series, {})
        return [found[start] for start in sorted(found) if since <= start < until]
