"""What a screen gets from a `Market`: copies of one moment, which nothing changes later.

All times and durations are in ns.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal, TypeAlias

from attrs import frozen
from tapeloom.events import Gap, GapState

#: A level of an order book: price and size.
Level: TypeAlias = tuple[Decimal, Decimal]


@frozen
class SymbolRow:
    """One symbol of one venue, as a table shows it."""

    venue: str
    symbol: str
    last: Decimal | None  #: The newest price: of a trade, else of a bar or a ticker.
    direction: int  #: 1 if the last change of the price was upwards, -1 downwards, 0 without one.
    bid: Decimal | None
    ask: Decimal | None
    trades: int  #: since the market began
    events: int  #: since the market began, trades included
    trade_rate: float  #: trades a second, over the last 10 seconds
    event_rate: float  #: events a second, over the last 10 seconds
    #: From the venue's time to our read, over the last half minute; None without live events. The venue's
    #: clock is taken as far ahead as it is known to be.
    lag_p50: int | None
    lag_p99: int | None
    #: Since the newest event of each channel.
    age: Mapping[str, int]
    gaps: int  #: gaps, each counted once however often it is reported
    rejects: int

    @property
    def spread(self) -> Decimal | None:
        """The ask less the bid; None if a side is missing."""
        return None if self.bid is None or self.ask is None else self.ask - self.bid

    @property
    def staleness(self) -> int | None:
        """Time since the newest event of any channel; None before the first one."""
        return min(self.age.values(), default=None)


@frozen
class Candle:
    """One candle, from the trades of the stream, or from its bars where there are none."""

    start: int  #: The start, ns since 1970.
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    trades: int | None  #: The number of trades; None if not known.
    source: Literal["trades", "bars"] = "trades"
    #: How much is known to be missing in it: the worst state of the gaps that lie in it; "" without one.
    gap: GapState | Literal[""] = ""
    revised: bool = False  #: A bar in it was sent again with other values after it had closed.
    #: False if a bar in it says that trades are missing, or if the stream began in the midst of it.
    complete: bool = True


@frozen
class LadderView:
    """The best levels of an order book, best first."""

    channel: str
    #: "waiting": no snapshot has arrived. "stale": updates were lost since the last snapshot.
    state: Literal["waiting", "synced", "stale"]
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    recv: int  #: Our time of the last update.


@frozen
class GapEntry:
    """A gap of the ledger, as it was reported last."""

    gap: Gap
    first_reported: int  #: Our time of the first report.
    reports: int
