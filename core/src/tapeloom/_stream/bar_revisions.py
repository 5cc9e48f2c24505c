"""Numbers the revisions of the bars that a venue sends, and drops repeats: the same for all venues."""

from __future__ import annotations

from collections import Counter

from attrs import evolve

from tapeloom.events import Bar, Event
from tapeloom.plugin import TradeBatch

#: Closed bars that are remembered per symbol and channel. Venues revise only the latest ones.
_MAX_BARS = 10


class BarRevisions:
    """Compares each closed bar with the one of the same symbol, channel and start that came before.

    With other values it is a revision, and gets the next number. With the same values it is a repeat:
    it keeps the number, and is dropped if it is live.
    """

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._closed: dict[tuple[str, str], dict[int, Bar]] = {}  # by start

    def __call__(self, events: list[Event]) -> list[Event]:
        """Return the batch with numbered revisions, without repeats."""
        if type(events) is TradeBatch or not any(type(event) is Bar for event in events):
            return events
        numbered = (self._number(event) if type(event) is Bar else event for event in events)
        return [event for event in numbered if event is not None]

    def _number(self, bar: Bar) -> Bar | None:
        """Return a bar with its revision; None for a repeat. Bars that still form have none."""
        if not bar.closed:
            return bar
        closed = self._closed.setdefault((bar.symbol, bar.channel), {})
        before = closed.get(bar.ts)
        if before is not None:
            same = _values(before) == _values(bar)
            if same and bar.origin == "live":
                self._counters["repeats"] += 1
                return None
            bar = evolve(bar, revision=max(bar.revision, before.revision + (not same)))
        closed[bar.ts] = bar
        if len(closed) > _MAX_BARS:
            del closed[min(closed)]
        return bar


def _values(bar: Bar) -> tuple[object, ...]:
    """Return what a revision changes. Invalid numbers, which cannot be compared, are texts here."""
    prices = bar.open, bar.high, bar.low, bar.close, bar.volume
    sums = bar.quote_volume, bar.buy_volume, bar.buy_quote_volume
    numbers = [str(n) if n is not None and n.is_nan() else n for n in (*prices, *sums)]
    return *numbers, bar.trades, bar.complete
