"""One order book, kept up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from attrs import define, field

from .ladder import Ladder, TooWideError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from tapeloom.events import Book, Levels

__all__ = ["LocalBook", "State"]

State: TypeAlias = Literal["waiting", "synced", "stale", "crossed"]


def _spelled(raw: Levels) -> Sequence[Sequence[str]]:
    """Return levels as texts, whether they came as texts or as Decimal."""
    if not raw or type(raw[0][0]) is str:
        return cast("Sequence[Sequence[str]]", raw)
    return [(format(price, "f"), format(size, "f")) for price, size in raw]


@define(eq=False)
class LocalBook:
    """The book of one symbol and channel. It holds levels only while `state` is "synced".

    "waiting": no snapshot came yet. "stale": events were lost, or could not be read. "crossed":
    bids stood at or above asks for more than one event. In these three it is empty, so that nobody
    trades on a book that is known to be wrong.
    """

    venue: str
    symbol: str
    channel: str = "book"
    kept: int = 0  #: how many levels a side are read often
    state: State = "waiting"
    sequence: int | None = None  #: the last update id that is in the book
    ts: int = 0  #: the venue's time of that update
    recv: int = 0
    updates: int = 0  #: how many deltas were applied since the last snapshot
    bids: Ladder = field(init=False)
    asks: Ladder = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.bids = Ladder("bids", self.kept)
        self.asks = Ladder("asks", self.kept)

    @property
    def synced(self) -> bool:
        """Whether the book can be relied on."""
        return self.state == "synced"

    @property
    def crossed(self) -> bool:
        """Whether the best bid is at or above the best ask."""
        bids, asks = self.bids.keys, self.asks.keys
        # An ask's name is its price negated, and the sign of a sum is exact.
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
        """Take over a snapshot: what stood here before is gone.

        Raises ValueError where a level cannot be read; the book is then stale and empty.
        """
        self.bids.clear()
        self.asks.clear()
        self._set(snapshot)
        self.updates = 0
        self.state = "synced"

    def apply(self, delta: Book) -> None:
        """Change the levels that *delta* names. Whether its turn has come is for the caller to know.

        Raises ValueError where a level cannot be read; the book is then stale and empty.
        """
        self._set(delta)
        self.updates += 1

    def lose(self, state: State) -> None:
        """Empty the book and say why."""
        self.bids.clear()
        self.asks.clear()
        self.state = state

    def _set(self, event: Book) -> None:
        try:
            bids, asks = _spelled(event.raw_bids), _spelled(event.raw_asks)
            try:
                self.bids.apply(bids)
                self.asks.apply(asks)
            except TooWideError:
                self.bids.widen()
                self.asks.widen()
                self.bids.apply(bids)  # sizes are absolute: to set them twice does no harm
                self.asks.apply(asks)
        except (ArithmeticError, IndexError, TypeError, ValueError) as error:
            self.lose("stale")
            raise ValueError(f"a level cannot be read: {error}") from error
        self.sequence = event.last_id
        self.ts = event.ts
        self.recv = event.recv
