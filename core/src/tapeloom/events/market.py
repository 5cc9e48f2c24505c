"""The market events: trades, quotes, order books, bars and tickers.

Times are whole nanoseconds since 1970 UTC: `ts` is the venue's time, `recv` is ours, one timestamp per
read of a socket. Prices and sizes are `Decimal`, made from the venue's own text.

Treat events as immutable: type checkers enforce it. At run time they are plain classes with slots,
because creating a frozen one takes four times as long. The order of the positional arguments is part of
the public interface: a parser that creates a million events a second cannot afford keyword arguments.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import ClassVar, Literal, TypeAlias

from attrs import field

from .base import BaseEvent, event_class, utc
from .closed_sets import Origin, Side

#: Levels of one side of an order book: pairs of price and size, as texts of the venue or as `Decimal`.
Levels: TypeAlias = Sequence[Sequence[str] | Sequence[Decimal]]

#: Marks a field as a product of price and size: an exact column needs the decimals of both.
PRODUCT = {"tapeloom": "product"}


@event_class
class Trade(BaseEvent):
    """A trade between two market participants."""

    type: ClassVar[str] = "trade"

    venue: str  #: The venue as named in the stack.
    symbol: str  #: The unified symbol.
    ts: int  #: The venue's time of the trade, in ns.
    recv: int  #: Our time of the read, in ns.
    price: Decimal  #: The price, in the quote currency.
    size: Decimal  #: The size as the venue counts it, usually in the base currency.
    side: Side | None = None  #: The taker's side; None if the venue does not send it.
    #: An `int` if the venue numbers the trades of a symbol and channel without gaps, so that a missing
    #: number is a lost trade; a `str` is a unique name that says nothing about neighbouring trades.
    id: int | str = ""
    channel: str = "trades"  #: The channel, with its parameter: `trades` or `agg_trades`.
    origin: Origin = "live"  #: Where the event comes from.

    def _content(self) -> Hashable:
        return self.id or (self.price, self.size, self.side)


@event_class
class Quote(BaseEvent):
    """The best bid and ask with their sizes.

    A side without an order has no price and no size: both are None. There is no other sign of an empty
    side: venues write null, 0 or -1, and their parsers convert it.
    """

    type: ClassVar[str] = "quote"

    venue: str  #: The venue as named in the stack.
    symbol: str  #: The unified symbol.
    ts: int  #: The venue's time of the quote, in ns.
    recv: int  #: Our time of the read, in ns.
    bid: Decimal | None  #: The highest price of a buy order; None if there is none.
    bid_size: Decimal | None  #: The size at the best bid; None if there is no bid.
    ask: Decimal | None  #: The lowest price of a sell order; None if there is none.
    ask_size: Decimal | None  #: The size at the best ask; None if there is no ask.
    #: The venue's number, which only grows; None if it numbers no quotes.
    sequence: int | None = None
    channel: str = "quotes"  #: The channel: `quotes`, or `book` if derived from an order book.
    #: Where the event comes from: "built_from_book" if derived from a book.
    origin: Origin = "live"

    @property
    def is_state(self) -> bool:
        """True: the next quote replaces it."""
        return True

    def _content(self) -> Hashable:
        if self.sequence is not None:
            return self.sequence
        return self.bid, self.bid_size, self.ask, self.ask_size


@event_class
class Book(BaseEvent):
    """Levels of an order book: all of them (`snapshot`) or the changed ones (`delta`).

    A size is absolute; in a delta, a size of zero removes the level. `bids` and `asks` convert the raw
    levels to `Decimal` each time they are read.
    """

    type: ClassVar[str] = "book"

    venue: str  #: The venue as named in the stack.
    symbol: str  #: The unified symbol.
    ts: int  #: The venue's time of the update, in ns.
    recv: int  #: Our time of the read, in ns.
    kind: Literal["snapshot", "delta"]  #: Whether it holds all levels or only the changed ones.
    raw_bids: Levels  #: Bids as pairs of price and size, as the venue wrote them.
    raw_asks: Levels  #: Asks as pairs of price and size, as the venue wrote them.
    first_id: int | None = None  #: The first update id that the event covers; None without ids.
    last_id: int | None = None  #: The last update id that the event covers; None without ids.
    previous_id: int | None = None  #: `last_id` of the event before; None if the venue sends none.
    depth: int = 0  #: How many levels per side the snapshot was requested with; 0 for all.
    channel: str = "book"  #: The channel: `book`, or `book:10` for the best 10 levels.
    origin: Origin = "live"  #: Where the event comes from.

    @property
    def is_state(self) -> bool:
        """Whether it is a snapshot: a delta says only what has changed."""
        return self.kind == "snapshot"

    def _content(self) -> Hashable:
        if self.last_id is not None:
            return self.kind, self.last_id
        return self.kind, str(self.raw_bids), str(self.raw_asks)

    @property
    def bids(self) -> list[tuple[Decimal, Decimal]]:
        """Bids as pairs of price and size, in the venue's order (snapshots: best first)."""
        return [(Decimal(price), Decimal(size)) for price, size in self.raw_bids]

    @property
    def asks(self) -> list[tuple[Decimal, Decimal]]:
        """Asks as pairs of price and size, in the venue's order (snapshots: best first)."""
        return [(Decimal(price), Decimal(size)) for price, size in self.raw_asks]


@event_class
class Bar(BaseEvent):
    """An OHLCV bar (candle). `ts` is its start."""

    type: ClassVar[str] = "bar"

    venue: str  #: The venue as named in the stack.
    symbol: str  #: The unified symbol.
    ts: int  #: The start of the bar, in ns.
    recv: int  #: Our time of the event that closed or changed the bar, in ns.
    interval: str  #: The length, spelled like "1s", "1m", "4h", "1d".
    open: Decimal  #: The first price.
    high: Decimal  #: The highest price.
    low: Decimal  #: The lowest price.
    close: Decimal  #: The last price.
    volume: Decimal  #: The sum of the sizes.
    #: The sum of price times size; on an inverse market, whose sizes are contracts, the amount of base
    #: currency that the venue sends. None if not known.
    quote_volume: Decimal | None = field(metadata=PRODUCT)
    buy_volume: Decimal | None  #: The part of `volume` where the taker bought; None if not known.
    #: The part of `quote_volume` where the taker bought, or None.
    buy_quote_volume: Decimal | None = field(metadata=PRODUCT)
    trades: int | None  #: The number of trades; None if not known.
    closed: bool = True  #: False for a bar that is still forming.
    #: False if trades are known to be missing: a gap, or a late or early end.
    complete: bool = True
    revision: int = 0  #: How often the bar was sent again with other values after it had closed.
    channel: str = "bars"  #: The channel: `bars` if built from trades, `klines:1m` from the venue.
    #: Where the event comes from: "live" if the venue built it.
    origin: Origin = "built_from_trades"

    def _content(self) -> Hashable:
        # A forming bar comes again and again, and not every venue counts how often.
        return self.interval, self.closed, self.close, self.volume, self.trades

    @property
    def timestamp(self) -> datetime:
        """The start of the bar as an aware UTC datetime."""
        return utc(self.ts)

    @property
    def vwap(self) -> Decimal | None:
        """The volume-weighted average price; None without trades or without a quote volume."""
        return self.quote_volume / self.volume if self.volume and self.quote_volume else None


@event_class
class Ticker(BaseEvent):
    """A venue's rolling statistics of the last 24 hours."""

    type: ClassVar[str] = "ticker"

    venue: str  #: The venue as named in the stack.
    symbol: str  #: The unified symbol.
    ts: int  #: The venue's time of the statistics, in ns.
    recv: int  #: Our time of the read, in ns.
    last: Decimal | None  #: The price of the last trade; None if the venue does not send it.
    open: Decimal | None  #: The price 24 hours ago; None if the venue does not send it.
    high: Decimal | None  #: The highest price; None if the venue does not send it.
    low: Decimal | None  #: The lowest price; None if the venue does not send it.
    volume: Decimal | None  #: The sum of the sizes; None if the venue does not send it.
    #: The sum of price times size; None if the venue does not send it.
    quote_volume: Decimal | None = field(metadata=PRODUCT)
    trades: int | None = None  #: The number of trades; None if the venue does not send it.
    channel: str = "ticker"  #: The channel: `ticker`.
    origin: Origin = "live"  #: Where the event comes from.

    @property
    def is_state(self) -> bool:
        """True: the next ticker replaces it."""
        return True

    def _content(self) -> Hashable:
        return self.last, self.volume
