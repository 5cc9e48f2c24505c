"""`BarAggregator`: makes time bars of the guide's ticks, with the stage of tapeloom-bars."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tapeloom import Bar

from ._stages import make_stage
from .bar import OHLCVBar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tapeloom import Event

__all__ = ["BarAggregator"]


class BarAggregator:
    """Makes bars of *window_seconds* from ticks or shorter bars, for any number of symbols.

    Bars start at multiples of their length since 1970 UTC. A tick on the boundary belongs to the
    new bar. A tick that comes after its bar has closed revises the bar: it is returned again with
    `revision` above 0. A tick that is more than ten bars late is ignored.
    """

    def __init__(self, window_seconds: float = 60) -> None:
        self.window_seconds = window_seconds
        milliseconds = round(window_seconds * 1000)
        self._stage: Any = make_stage("bars", "aggregate", every=f"{milliseconds}ms", lateness=0)
        self._closed: deque[dict[str, Any]] = deque()

    def add_tick(self, tick: OHLCVBar) -> dict[str, Any] | None:
        """Add a tick; return the bar that it completes or revises, else None.

        The bar is a dict: `symbol`, `open`, `high`, `low`, `close`, `volume`, `start_time`,
        `complete` (false for the first bar of a symbol, which may lack earlier ticks), `revision`.
        """
        self._add(self._stage(list(tick.trades())))
        return self._closed.popleft() if self._closed else None

    def flush(self) -> list[dict[str, Any]]:
        """Return the open bars, at the end of the ticks; none of them is complete."""
        self._add(self._stage.flush())
        bars, self._closed = list(self._closed), deque()
        return bars

    def _add(self, events: Iterable[Event]) -> None:
        self._closed.extend(_as_dict(event) for event in events if isinstance(event, Bar))


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
