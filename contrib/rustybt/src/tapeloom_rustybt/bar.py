"""`OHLCVBar`, the guide's bar, and its conversion from and to tapeloom's events."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tapeloom import Bar, Trade

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OHLCVBar", "market_data"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ZERO = Decimal(0)


@dataclass(frozen=True)
class OHLCVBar:
    """The guide's bar; it has the first seven fields in the guide too.

    `timestamp` is the start of the bar, with the time zone UTC. `interval` is text such as "1m", and
    empty for a single trade. `complete` is false if trades of the bar are known to be missing, as in
    the first bar after a subscription.
    """

    symbol: str
    timestamp: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    interval: str = ""
    complete: bool = True
    venue: str = ""

    @classmethod
    def of(cls, event: Bar | Trade) -> OHLCVBar:
        """Return the guide's bar for a Bar; a Trade becomes a bar with one price."""
        if isinstance(event, Trade):
            price = event.price
            return cls(
                event.symbol, event.time, price, price, price, price, event.size, venue=event.venue
            )
        return cls(
            event.symbol, event.timestamp, event.open, event.high, event.low, event.close,
            event.volume, event.interval, event.complete, event.venue,
        )  # fmt: skip

    @property
    def ts(self) -> int:
        """Nanoseconds since 1970 UTC; a `timestamp` without a zone is taken as UTC."""
        aware = self.timestamp if self.timestamp.tzinfo else self.timestamp.replace(tzinfo=UTC)
        return (aware - _EPOCH) // timedelta(microseconds=1) * 1000

    def trades(self) -> Iterator[Trade]:
        """Yield trades whose aggregate is this bar: its four prices, the last one with the volume."""
        ts, last = self.ts, self.close
        if not self.open == self.high == self.low == last:
            for price in (self.open, self.high, self.low):
                yield Trade(self.venue, self.symbol, ts, ts, price, _ZERO)
        yield Trade(self.venue, self.symbol, ts, ts, last, self.volume)

    def bar(self) -> Bar:
        """Return this bar as a Bar event; fields that the guide's bar lacks are 0."""
        return Bar(
            self.venue, self.symbol, self.ts, self.ts, self.interval,
            self.open, self.high, self.low, self.close, self.volume,
            _ZERO, _ZERO, _ZERO, 0, complete=self.complete,
        )  # fmt: skip


def market_data(bar: OHLCVBar, asset: str = "") -> dict[str, Any]:
    """Return *bar* as the dict that RustyBT's `DataFeed` reads from a broker.

    `asset` is the caller's name of the symbol. `DataFeed` requires the time as a `pandas.Timestamp`;
    a program that uses it has imported pandas.
    """
    pandas = sys.modules.get("pandas")
    return {
        "asset": asset or bar.symbol,
        "open": bar.open,
        "high": bar.high,
        "low": bar.low,
        "close": bar.close,
        "volume": bar.volume,
        "timestamp": bar.timestamp if pandas is None else pandas.Timestamp(bar.timestamp),
    }
