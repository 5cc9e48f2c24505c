"""`BarAggregator`: the guide's ticks to time bars, by the rules of tapeloom-bars."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tapeloom import Bar

from ._stages import alone
from .bar import OHLCVBar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tapeloom import Event

__all__ = ["BarAggregator"]


class BarAggregator:
    """Makes bars of *window_seconds* from ticks, or from shorter bars, of any number of symbols.

    Bars begin at whole multiples of their length since 1970 UTC. A tick on the boundary belongs to
    the new bar. A tick that comes after its bar has closed gives that bar once more, with a
    `revision` above 0; one that is more than ten bars late is in none.
    """

    def __init__(self, window_seconds: float = 60) -> None:
        self.window_seconds = window_seconds
        milliseconds = round(window_seconds * 1000)
        self._stage: Any = alone("bars", "aggregate", every=f"{milliseconds}ms", lateness=0)
        self._done: deque[dict[str, Any]] = deque()

    def add_tick(self, tick: OHLCVBar) -> dict[str, Any] | None:
        """Add a tick; return the bar that it completes or revises, else None.

        The bar is a dict: `symbol`, `open`, `high`, `low`, `close`, `volume`, `start_time`,
        `complete` (false for the first bar of a symbol: what came before is not known), `revision`.
        """
        self._take(self._stage(list(tick.trades())))
        return self._done.popleft() if self._done else None

    def flush(self) -> list[dict[str, Any]]:
        """Return the bars that are still forming, at the end of the ticks; none is complete."""
        self._take(self._stage.flush())
        done, self._done = list(self._done), deque()
        return done

    def _take(self, events: Iterable[Event]) -> None:
        self._done.extend(_as_dict(event) for event in events if isinstance(event, Bar))


def _as_dict(bar: Bar) -> dict[str, Any]:
    return {
        "symbol": bar.symbol,
        "open": bar.open,
        "high": bar.high,
        "low": bar.low,
        "close": bar.close,
        "volume": bar.volume,
        "start_time": bar.timestamp,
        "complete": bar.complete,
        "revision": bar.revision,
    }
