"""`OHLCVBar`, the guide's bar, and how it comes from tapeloom's events and goes back."""

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
    """A bar as the guide has it: the first seven fields are its own.

    `timestamp` is the start of the bar, aware, UTC. `interval` is spelled like "1m", and empty for a
    single trade. `complete` is false where trades of the bar are known to be missing, as in the
    first one after a subscription.
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
        """Return a bar of tapeloom as one of the guide's, a trade as a bar of its one price."""
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
        """Yield trades that give this bar: its four prices, and at the last one its volume."""
        ts, last = self.ts, self.close
        if not self.open == self.high == self.low == last:
            for price in (self.open, self.high, self.low):
                yield Trade(self.venue, self.symbol, ts, ts, price, _ZERO)
        yield Trade(self.venue, self.symbol, ts, ts, last, self.volume)

    def bar(self) -> Bar:
        """Return this bar as one of tapeloom's; what the guide's does not know is 0."""
        return Bar(
            self.venue, self.symbol, self.ts, self.ts, self.interval,
            self.open, self.high, self.low, self.close, self.volume,
            _ZERO, _ZERO, _ZERO, 0, complete=self.complete,
        )  # fmt: skip


def market_data(bar: OHLCVBar, asset: str = "") -> dict[str, Any]:
    """Return *bar* as the dict that RustyBT's `DataFeed` reads from a broker.

    `asset` is the name that the caller has for the symbol. `DataFeed` hands the time on as a
    `pandas.Timestamp` and takes nothing else; whoever runs it has imported pandas.
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
