"""Candles, added up from the very trades that the streams send.

Seconds are kept for hours and minutes for weeks; every other interval is a sum of these.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tapeloom.units import duration_ns

from .server_api import Candle, Fill

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Tally", "end_of", "start_of"]

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAY = 1440 * MINUTE
_MONDAY = 4 * DAY  # 1970 began on a Thursday
_SECONDS_KEPT = 7_200
_MINUTES_KEPT = 20_160


def start_of(interval: str, ts: int) -> int:
    """Return when the candle begins in which *ts* lies; weeks begin on Monday, months on the 1st."""
    if interval.endswith("M"):
        day = datetime.fromtimestamp(ts // SECOND, UTC)
        first = day.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return int(first.timestamp()) * SECOND
    size = duration_ns(interval)
    return ts - (ts - _MONDAY) % size if interval.endswith("w") else ts - ts % size


def end_of(interval: str, start: int) -> int:
    """Return when the candle that begins at *start* ends, and the next begins."""
    if interval.endswith("M"):
        return start_of(interval, start + 32 * DAY)
    return start + duration_ns(interval)


def _absorb(whole: Candle, part: Candle) -> None:
    """Add a later candle to an earlier one."""
    whole.close = part.close
    whole.high = max(whole.high, part.high)
    whole.low = min(whole.low, part.low)
    whole.volume += part.volume
    whole.quote += part.quote
    whole.bought += part.bought
    whole.bought_quote += part.bought_quote
    whole.trades += part.trades
    whole.last = part.last


def _copy(part: Candle, start: int, end: int) -> Candle:
    # fmt: off
    return Candle(start, end, part.open, part.high, part.low, part.close, part.volume, part.quote,
                  part.bought, part.bought_quote, part.trades, part.first, part.last)
    # fmt: on


def _total(parts: Iterable[Candle], start: int, end: int) -> Candle | None:
    whole: Candle | None = None
    for part in parts:
        if whole is None:
            whole = _copy(part, start, end)
        else:
            _absorb(whole, part)
    return whole


def _place(candles: Sequence[Candle], ts: int) -> int:
    return bisect_left(candles, ts, key=lambda candle: candle.start)


class Tally:
    """The candles of one symbol. Intervals without a trade take no room."""

    def __init__(self) -> None:
        self.seconds: list[Candle] = []  #: the last one is still open
        self.minutes: list[Candle] = []  #: closed ones only

    def take(self, fills: Iterable[Fill]) -> None:
        """Add the trades that came after those already taken."""
        seconds = self.seconds
        current = seconds[-1] if seconds else None
        start = current.start if current else -SECOND
        for fill in fills:
            price, size, ts = fill.price, fill.size, fill.ts
            if current is None or ts - start >= SECOND:
                begin = ts - ts % SECOND
                if current and begin // MINUTE != start // MINUTE:
                    self._close_minute(start)
                start = begin
                current = Candle(start, start + SECOND, price, price, price, price, first=fill.id)
                seconds.append(current)
            if price > current.high:
                current.high = price
            elif price < current.low:
                current.low = price
            current.close = price
            current.volume += size
            current.quote += price * size
            if fill.buy:
                current.bought += size
                current.bought_quote += price * size
            current.trades += 1
            current.last = fill.id

    def _close_minute(self, second: int) -> None:
        start = second - second % MINUTE
        minute = _total(self.seconds[_place(self.seconds, start) :], start, start + MINUTE)
        if minute is not None:
            self.minutes.append(minute)
        if len(self.seconds) > 2 * _SECONDS_KEPT:
            del self.seconds[:-_SECONDS_KEPT]
        if len(self.minutes) > 2 * _MINUTES_KEPT:
            del self.minutes[:-_MINUTES_KEPT]

    def between(self, since: int, until: int) -> Candle | None:
        """Return the trades from *since* up to *until* as one candle, None where there are none."""
        seconds, minutes = self.seconds, self.minutes
        small = since % MINUTE or until - since < MINUTE
        if small or not minutes or minutes[-1].start < since:
            return _total(seconds[_place(seconds, since) : _place(seconds, until)], since, until)
        whole = minutes[_place(minutes, since) : _place(minutes, until)]
        rest = seconds[_place(seconds, minutes[-1].start + MINUTE) : _place(seconds, until)]
        return _total([*whole, *rest], since, until)

    def close_before(self, ts: int) -> int | None:
        """Return the last price before *ts*."""
        if place := _place(self.seconds, ts):
            return self.seconds[place - 1].close
        if place := _place(self.minutes, ts):
            return self.minutes[place - 1].close
        return None

    @property
    def first(self) -> int | None:
        """When the first candle that is remembered begins."""
        oldest = self.minutes or self.seconds
        return oldest[0].start if oldest else None

    def candle(self, interval: str, ts: int) -> Candle | None:
        """Return the candle in which *ts* lies; None before the first trade."""
        start = start_of(interval, ts)
        end = end_of(interval, start)
        whole = self.between(start, end)
        return whole if whole is not None else self.empty(start, end)

    def empty(self, start: int, end: int) -> Candle | None:
        """Return a candle without a trade; None before the first trade."""
        price = self.close_before(start)
        return None if price is None else Candle(start, end, price, price, price, price)
