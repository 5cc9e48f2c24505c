"""What flows through tapeloom: trades, quotes, books, bars, and everything that went wrong.

Times are whole nanoseconds since 1970 UTC: `ts` is the venue's time, `recv` is ours, one stamp for
each read of a socket. Prices and sizes are `Decimal`, made from the venue's own text.

Events are frozen for the reader and for the type checker. At run time they are plain classes with
slots, because a frozen one costs four times as much to make. Positional arguments are part of the
promise: a parser that makes a million events a second does not pay for keywords.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import ClassVar, Literal, TypeAlias

from .base import Timed, frozen, utc

Side = Literal["buy", "sell"]
Origin = Literal["live", "history", "backfill", "built_from_book", "built_from_trades", "empty"]
GapState = Literal["open", "filled", "partial", "unrecoverable"]
Levels: TypeAlias = Sequence[Sequence[str] | Sequence[Decimal]]


@frozen
class Trade(Timed):
    """A fill. `side` is the taker's side, None where the venue does not tell.

    An `id` that is an `int` is one of a series in which the venue numbers the trades of one symbol
    and channel without a hole, so that a hole means a lost trade. A `str` names the trade and says
    nothing of its neighbours.
    """

    type: ClassVar[str] = "trade"

    venue: str
    symbol: str
    ts: int
    recv: int
    price: Decimal
    size: Decimal
    side: Side | None = None
    id: int | str = ""
    channel: str = "trades"
    origin: Origin = "live"


@frozen
class Quote(Timed):
    """The best bid and ask, with their sizes.

    `sequence` orders the quotes of a symbol where the venue numbers them, and is None elsewhere.
    `origin` is "built_from_book" for a quote that was read off a book we keep.
    """

    type: ClassVar[str] = "quote"

    venue: str
    symbol: str
    ts: int
    recv: int
    bid: Decimal
    bid_size: Decimal
    ask: Decimal
    ask_size: Decimal
    sequence: int | None = None
    channel: str = "quotes"
    origin: Origin = "live"


@frozen
class Book(Timed):
    """Levels of an order book: all of them (`snapshot`) or those that changed (`delta`).

    `raw_bids` and `raw_asks` are pairs of price and size as the venue wrote them, `bids` and `asks`
    the same in `Decimal`, made when they are read. A size is absolute; a delta's size of zero
    takes the level away. `first_id` and `last_id` are the update ids that the event spans; `previous_id` is
    the `last_id` of the event before it where the venue tells, else None. `depth` is how many levels
    a side the snapshot was asked for, 0 for all.
    """

    type: ClassVar[str] = "book"

    venue: str
    symbol: str
    ts: int
    recv: int
    kind: Literal["snapshot", "delta"]
    raw_bids: Levels
    raw_asks: Levels
    first_id: int | None = None
    last_id: int | None = None
    previous_id: int | None = None
    depth: int = 0
    channel: str = "book"
    origin: Origin = "live"

    @property
    def bids(self) -> list[tuple[Decimal, Decimal]]:
        """Bids as pairs of price and size, in the order of the venue (snapshots: best first)."""
        return [(Decimal(price), Decimal(size)) for price, size in self.raw_bids]

    @property
    def asks(self) -> list[tuple[Decimal, Decimal]]:
        """Asks as pairs of price and size, in the order of the venue (snapshots: best first)."""
        return [(Decimal(price), Decimal(size)) for price, size in self.raw_asks]


@frozen
class Bar(Timed):
    """An OHLCV bar. `ts` is its start; `interval` is spelled like "1s", "1m", "4h", "1d".

    `closed` is false for a bar that is still forming. `complete` is false for a bar of which we
    know that trades are missing: it began before we listened, ended after, or had a gap within.
    `revision` counts how often the bar was sent again after it had closed.
    `quote_volume` is the sum of price times size (on an inverse market, which counts in contracts,
    what the venue says: an amount of base); `buy_volume` and `buy_quote_volume` are the parts where
    the taker bought. These three and `trades` are None where the venue does not tell. `origin` is "built_from_trades" for bars that we built, "live" for the
    venue's own, "empty" for one that stands for an interval without a trade.
    """

    type: ClassVar[str] = "bar"

    venue: str
    symbol: str
    ts: int
    recv: int
    interval: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal | None
    buy_volume: Decimal | None
    buy_quote_volume: Decimal | None
    trades: int | None
    closed: bool = True
    complete: bool = True
    revision: int = 0
    channel: str = "bars"
    origin: Origin = "built_from_trades"

    @property
    def timestamp(self) -> datetime:
        """The start of the bar, aware, UTC."""
        return utc(self.ts)

    @property
    def vwap(self) -> Decimal | None:
        """The volume-weighted average price, None for a bar without a trade, or where nobody tells."""
        return self.quote_volume / self.volume if self.volume and self.quote_volume else None


@frozen
class Ticker(Timed):
    """A venue's rolling statistics of the last 24 hours. What it does not tell is None."""

    type: ClassVar[str] = "ticker"

    venue: str
    symbol: str
    ts: int
    recv: int
    last: Decimal
    open: Decimal | None
    high: Decimal | None
    low: Decimal | None
    volume: Decimal | None
    quote_volume: Decimal | None
    trades: int | None = None
    channel: str = "ticker"
    origin: Origin = "live"
