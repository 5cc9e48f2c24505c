"""`LocalBook`: the current order book of one symbol and channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from attrs import define, field

from .ladder import Ladder, PriceTooLongError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from tapeloom.events import Book, Levels

__all__ = ["LocalBook", "State"]

State: TypeAlias = Literal["waiting", "synced", "stale", "crossed"]


def _as_texts(raw: Levels) -> Sequence[Sequence[str]]:
    """Return levels as texts; levels may be pairs of texts or of Decimal."""
    if not raw or type(raw[0][0]) is str:
        return cast("Sequence[Sequence[str]]", raw)
    return [(format(price, "f"), format(size, "f")) for price, size in raw]


@define(eq=False)
class LocalBook:
    """Order book of one symbol and channel. It holds levels only while `state` is "synced".

    "waiting": no snapshot arrived yet. "stale": events were lost or could not be parsed, or the first
    snapshot is late. "crossed": the best bid was at or above the best ask for more than one event. In
    these three states the book is empty, so that nobody trades on wrong levels.
    """

    venue: str
    symbol: str
    channel: str = "book"
    top_levels: int = 0  #: number of best levels per side that are read often
    state: State = "waiting"
    sequence: int | None = None  #: last update id applied to the book
    ts: int = 0  #: venue time of that update, ns
    recv: int = 0
    updates: int = 0  #: number of deltas applied since the last snapshot
    bids: Ladder = field(init=False)
    asks: Ladder = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.bids = Ladder("bids", self.top_levels)
        self.asks = Ladder("asks", self.top_levels)

    @property
    def synced(self) -> bool:
        """Whether the book is in sync with the venue."""
        return self.state == "synced"

    @property
    def crossed(self) -> bool:
        """Whether the best bid is at or above the best ask."""
        bids, asks = self.bids.keys, self.asks.keys
        # The key of an ask is its negated price, and the sign of a floating-point sum is exact.
        return bool(bids and asks and bids[-1] + asks[-1] >= 0)

    @property
    def best_bid(self) -> tuple[Decimal, Decimal] | None:
        """The highest bid and its size."""
        return self.bids.best

    @property
    def best_ask(self) -> tuple[Decimal, Decimal] | None:
        """The lowest ask and its size."""
        return self.asks.best

    def top(
        self, count: int
    ) -> tuple[list[tuple[Decimal, Decimal]], list[tuple[Decimal, Decimal]]]:
        """Return the best *count* bids and asks, best first."""
        return self.bids.top(count), self.asks.top(count)

    def replace(self, snapshot: Book) -> None:
        """Replace all levels by those of a snapshot.

        Raises ValueError if a level cannot be parsed; the book is then stale and empty.
        """
        self.bids.clear()
        self.asks.clear()
        self._set(snapshot)
        self.updates = 0
        self.state = "synced"

    def apply(self, delta: Book) -> None:
        """Set the levels of *delta*. The caller checks that it is the next delta.

        Raises ValueError if a level cannot be parsed; the book is then stale and empty.
        """
        self._set(delta)
        self.updates += 1

    def invalidate(self, state: State) -> None:
        """Remove all levels and set `state`."""
        self.bids.clear()
        self.asks.clear()
        self.state = state

    def _set(self, event: Book) -> None:
        try:
            bids, asks = _as_texts(event.raw_bids), _as_texts(event.raw_asks)
            try:
                self.bids.apply(bids)
                self.asks.apply(asks)
            except PriceTooLongError:
                self.bids.use_decimal_keys()
                self.asks.use_decimal_keys()
                self.bids.apply(bids)  # sizes are absolute, so setting them twice is harmless
                self.asks.apply(asks)
        except (ArithmeticError, IndexError, TypeError, ValueError) as error:
            self.invalidate("stale")
            raise ValueError(f"a level cannot be read: {error}") from error
        self.sequence = event.last_id
        self.ts = event.ts
        self.recv = event.recv
