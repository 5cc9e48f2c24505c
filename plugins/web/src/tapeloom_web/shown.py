"""What the page shows: the market of the sink that serves it now."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from attrs import define
from tapeloom.plugin import StreamState
from tapeloom_screens import Candle, Market

__all__ = ["NOTHING", "Shown"]

#: Seconds after which the stream is asked again what it says of itself.
_REFRESH_SECONDS = 1.0


@define
class Shown:
    """A market, the stream that feeds it, and the store of its past."""

    market: Market
    state: Callable[[], StreamState]
    #: Returns older candles of a venue's symbol: for an interval in ns, before a time in ns.
    stored: Callable[[str, str, int, int], Sequence[Candle]] = lambda *_: ()
    _refreshed: float = float("-inf")

    def refresh(self) -> None:
        """Ask the stream what it says of itself, if that is due; from the thread of the page."""
        now = time.monotonic()
        if now - self._refreshed >= _REFRESH_SECONDS:
            self._refreshed = now
            self.market.refresh(self.state())

    def candles(self, venue: str, symbol: str, interval: int, count: int) -> list[Candle]:
        """Return the last candles: those of the stream, and of its past before them."""
        live = self.market.candles(venue, symbol, interval, count)
        if len(live) >= count:
            return live
        # The first candle of the stream has only a part of its trades; the past has all.
        first = live[0].start if live else 1 << 62
        return [*self.stored(venue, symbol, interval, first), *live][-count:]


NOTHING = Shown(Market(), lambda: StreamState(0))
