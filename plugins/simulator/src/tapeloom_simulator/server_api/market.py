"""The simulated market, as the server side of a venue reads it: its events, its instruments, its time.

Prices are whole numbers of ticks, sizes of lots; times are ns on the market's own clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from attrs import define

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from tapeloom.symbols import Symbol

__all__ = [
    "BookSnapshot",
    "Market",
    "MarketBar",
    "MarketStep",
    "MarketTrade",
    "SimulatedInstrument",
    "TopOfBook",
]

# ---------------------------------------------------------------------------------- market events


@define(weakref_slot=False)
class MarketTrade:
    """One trade. In each symbol, trade ids and aggregate ids run 1, 2, 3, ….

    Trades of one taker order at one price share an `aggregate_id`. `is_buy`: the taker bought.
    """

    id: int
    price: int
    size: int
    is_buy: bool
    ts: int
    aggregate_id: int


class TopOfBook(NamedTuple):
    """The best bid and ask."""

    bid: int
    bid_size: int
    ask: int
    ask_size: int


@define(weakref_slot=False)
class MarketStep:
    """What one taker order, and the makers' changes around it, did to one symbol.

    `first_id` and `last_id` are the ids of the book updates; there are none if
    ``last_id < first_id``. `top_of_book` is None if the best bid and ask did not change.
    """

    symbol: str
    ts: int
    trades: list[MarketTrade]
    first_id: int
    last_id: int
    top_of_book: TopOfBook | None


@define(weakref_slot=False)
class MarketBar:
    """An OHLCV bar. `quote_volume` sums price times size; the two `buy_` sums count takers' buys.

    `first_id` and `last_id` are trade ids, -1 if there was no trade; all prices are then the last
    price before. `start` is when the bar begins, `end` when the next one does.
    """

    start: int
    end: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    quote_volume: int = 0
    buy_volume: int = 0
    buy_quote_volume: int = 0
    trades: int = 0
    first_id: int = -1
    last_id: int = -1


class BookSnapshot(NamedTuple):
    """A book as pairs of price and size, best first, as it was after the update `last_id`."""

    last_id: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


# ------------------------------------------------------------------------------------ the market


class SimulatedInstrument(Protocol):
    """One symbol of the market: its book, its trades, its bars."""

    @property
    def symbol(self) -> str:
        """The unified symbol."""
        ...

    @property
    def parsed_symbol(self) -> Symbol:
        """The symbol, parsed into base, quote, settlement and expiry."""
        ...

    @property
    def tick(self) -> Decimal:
        """The tick size: the smallest price increment, a power of ten."""
        ...

    @property
    def lot(self) -> Decimal:
        """The lot size: the smallest size increment, a power of ten."""
        ...

    @property
    def last_update_id(self) -> int:
        """The id of the last book update. Every change of one level has an id of its own."""
        ...

    @property
    def last_trade(self) -> MarketTrade | None:
        """The last trade; None before the first."""
        ...

    def top_of_book(self) -> TopOfBook:
        """Return the best bid and ask."""
        ...

    def book_snapshot(self, depth: int, lag: int = 0) -> BookSnapshot:
        """Return *depth* levels a side, as they were *lag* updates ago.

        A lag beyond the remembered updates returns the oldest book that is known.
        """
        ...

    def changes_since(self, since: int) -> tuple[dict[int, int], dict[int, int]]:
        """Return the bids and asks that changed after the update *since*: price to size (0: none)."""
        ...

    def trades(self, first: int, limit: int) -> list[MarketTrade]:
        """Return up to *limit* trades from the id *first* on. Old trades are not remembered."""
        ...

    def aggregate_trades(self, first: int, limit: int) -> list[list[MarketTrade]]:
        """Return the trades of up to *limit* aggregates from the aggregate id *first* on."""
        ...

    def first_trade_since(self, ts: int) -> MarketTrade | None:
        """Return the first remembered trade at or after *ts*, in ns; None if there is none."""
        ...

    def bar(self, interval: str, ts: int) -> MarketBar | None:
        """Return the bar that contains *ts*; None before the first trade."""
        ...

    def bars(self, interval: str, since: int, until: int, limit: int) -> list[MarketBar]:
        """Return the first *limit* bars that start from *since* to *until*."""
        ...

    def last_24h(self, now: int) -> MarketBar | None:
        """Return the 24 hours before *now* as one bar; None before the first trade."""
        ...


class Market(Protocol):
    """One market for all symbols. The simulator alone advances its time."""

    @property
    def now(self) -> int:
        """The market's time."""
        ...

    @property
    def venue_clock(self) -> int:
        """The time on the venue's clock: `now` plus the error that a fault has added."""
        ...

    @property
    def epoch(self) -> int:
        """When the market opened."""
        ...

    @property
    def instruments(self) -> Mapping[str, SimulatedInstrument]:
        """The instruments by unified symbol, in the order of their listing."""
        ...
