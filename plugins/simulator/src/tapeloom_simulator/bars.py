"""Bars, aggregated from the same trades that the streams send.

One-second bars are kept for hours and one-minute bars for weeks; all other intervals are sums of them.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tapeloom.units import duration_ns

from .server_api import MarketBar, MarketTrade

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["BarSeries", "end_of", "start_of"]

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAY = 1440 * MINUTE
_MONDAY = 4 * DAY  # 1970 began on a Thursday
_SECONDS_KEPT = 7_200
_MINUTES_KEPT = 20_160


def start_of(interval: str, ts: int) -> int:
    """Return when the bar that contains *ts* begins; weeks begin on Monday, months on the 1st."""
    if interval.endswith("M"):
        day = datetime.fromtimestamp(ts // SECOND, UTC)
        first = day.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return int(first.timestamp()) * SECOND
    size = duration_ns(interval)
    return ts - (ts - _MONDAY) % size if interval.endswith("w") else ts - ts % size


def end_of(interval: str, start: int) -> int:
    """Return the end of the bar that begins at *start*, which is the start of the next bar."""
    if interval.endswith("M"):
        return start_of(interval, start + 32 * DAY)
    return start + duration_ns(interval)


def _absorb(whole: MarketBar, part: MarketBar) -> None:
    """Merge the later bar *part* into *whole*."""
    whole.close = part.close
    whole.high = max(whole.high, part.high)
    whole.low = min(whole.low, part.low)
    whole.volume += part.volume
    whole.quote_volume += part.quote_volume
    whole.buy_volume += part.buy_volume
    whole.buy_quote_volume += part.buy_quote_volume
    whole.trades += part.trades
    whole.last_id = part.last_id


def _copy(part: MarketBar, start: int, end: int) -> MarketBar:
    # fmt: off
    return MarketBar(start, end, part.open, part.high, part.low, part.close, part.volume, part.quote_volume,
                  part.buy_volume, part.buy_quote_volume, part.trades, part.first_id, part.last_id)
    # fmt: on


def _total(parts: Iterable[MarketBar], start: int, end: int) -> MarketBar | None:
    whole: MarketBar | None = None
    for part in parts:
        if whole is None:
            whole = _copy(part, start, end)
        else:
            _absorb(whole, part)
    return whole


def _index(bars: Sequence[MarketBar], ts: int) -> int:
    return bisect_left(bars, ts, key=lambda bar: bar.start)


class BarSeries:
    """The bars of one symbol. Intervals without a trade are not stored."""

    def __init__(self) -> None:
        self.second_bars: list[MarketBar] = []  #: the last one is still open
        self.minute_bars: list[MarketBar] = []  #: closed ones only

    def add_trades(self, trades: Iterable[MarketTrade]) -> None:
        """Add trades that are later than all trades added before."""
        seconds = self.second_bars
        current = seconds[-1] if seconds else None
        start = current.start if current else -SECOND
        for trade in trades:
            price, size, ts = trade.price, trade.size, trade.ts
            if current is None or ts - start >= SECOND:
                begin = ts - ts % SECOND
                if current and begin // MINUTE != start // MINUTE:
                    self._close_minute(start)
                start = begin
                current = MarketBar(
                    start, start + SECOND, price, price, price, price, first_id=trade.id
                )
                seconds.append(current)
            if price > current.high:
                current.high = price
            elif price < current.low:
                current.low = price
            current.close = price
            current.volume += size
            current.quote_volume += price * size
            if trade.is_buy:
                current.buy_volume += size
                current.buy_quote_volume += price * size
            current.trades += 1
            current.last_id = trade.id

    def _close_minute(self, second: int) -> None:
        start = second - second % MINUTE
        minute = _total(self.second_bars[_index(self.second_bars, start) :], start, start + MINUTE)
        if minute is not None:
            self.minute_bars.append(minute)
        if len(self.second_bars) > 2 * _SECONDS_KEPT:
            del self.second_bars[:-_SECONDS_KEPT]
        if len(self.minute_bars) > 2 * _MINUTES_KEPT:
            del self.minute_bars[:-_MINUTES_KEPT]

    def between(self, since: int, until: int) -> MarketBar | None:
        """Return the trades from *since* up to *until* as one bar; None if there are none."""
        seconds, minutes = self.second_bars, self.minute_bars
        small = since % MINUTE or until - since < MINUTE
        if small or not minutes or minutes[-1].start < since:
            return _total(seconds[_index(seconds, since) : _index(seconds, until)], since, until)
        whole = minutes[_index(minutes, since) : _index(minutes, until)]
        rest = seconds[_index(seconds, minutes[-1].start + MINUTE) : _index(seconds, until)]
        return _total([*whole, *rest], since, until)

    def close_before(self, ts: int) -> int | None:
        """Return the last price before *ts*."""
        if place := _index(self.second_bars, ts):
            return self.second_bars[place - 1].close
        if place := _index(self.minute_bars, ts):
            return self.minute_bars[place - 1].close
        return None

    @property
    def first_start(self) -> int | None:
        """When the oldest bar in memory begins; None without bars."""
        oldest = self.minute_bars or self.second_bars
        return oldest[0].start if oldest else None

    def bar(self, interval: str, ts: int) -> MarketBar | None:
        """Return the bar that contains *ts*; None before the first trade."""
        start = start_of(interval, ts)
        end = end_of(interval, start)
        whole = self.between(start, end)
        return whole if whole is not None else self.empty_bar(start, end)

    def empty_bar(self, start: int, end: int) -> MarketBar | None:
        """Return a bar without trades; None before the first trade."""
        price = self.close_before(start)
        return None if price is None else MarketBar(start, end, price, price, price, price)
