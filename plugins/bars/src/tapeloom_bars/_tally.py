"""Adding up trades, exactly.

`Sum` is trades that arrived in order, `Tally` what belongs to one bar. Both are to be used inside
`exactly`.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, getcontext, setcontext
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tapeloom.events import Trade

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["NOTHING", "ZERO", "Sum", "Tally", "before", "exactly", "unusable"]

P = ParamSpec("P")
T = TypeVar("T")

ZERO = Decimal(0)

# The default context rounds to 28 digits: sums of price times size over a busy day need more. A
# hundred digits hold any sum of products of two 18-decimal numbers, and cost nothing where they are
# not needed. Without traps a NaN compares as false, so that one comparison finds it.
_EXACT = Context(prec=100, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


def exactly(act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call *act* with a decimal context that does not round."""
    before = getcontext()
    setcontext(_EXACT)
    try:
        return act(*args, **kwargs)
    finally:
        setcontext(before)


def before(one: Trade, other: Trade) -> bool:
    """Whether *one*, which arrived later, comes before *other* nevertheless.

    Times decide. Between equal times ids decide where both are numbers; else arrival does.
    """
    if one.ts != other.ts:
        return one.ts < other.ts
    return type(one.id) is int and type(other.id) is int and one.id < other.id


def unusable(trade: Trade) -> bool:
    """Whether price or size is no finite number, or their product is too large to be one."""
    return not (trade.price * trade.size).is_finite()


class Sum:
    """Some trades, added up. `first` and `last` are those in order of (ts, id).

    The hot loop in `_stage` adds to it by itself.
    """

    __slots__ = (
        "bought",
        "bought_quote",
        "first",
        "high",
        "last",
        "low",
        "sold",
        "sold_quote",
        "trades",
    )

    def __init__(self, trade: Trade) -> None:
        price, size = trade.price, trade.size
        self.trades = 1
        self.high = self.low = price
        self.first = self.last = trade
        self.bought = self.bought_quote = self.sold = self.sold_quote = ZERO
        if trade.side == "buy":
            self.bought, self.bought_quote = size, price * size
        else:
            self.sold, self.sold_quote = size, price * size

    def add(self, trade: Trade) -> None:
        """Add a trade that is not before `last`."""
        price, size = trade.price, trade.size
        if price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        if trade.side == "buy":
            self.bought += size
            self.bought_quote += price * size
        else:
            self.sold += size
            self.sold_quote += price * size
        self.trades += 1
        if trade.ts != self.last.ts:
            self.last = trade
        else:
            self.tie(trade)

    def tie(self, trade: Trade) -> None:
        """Take note of a trade that has been added and is as late as `last`."""
        if not before(trade, self.last):
            self.last = trade
        if before(trade, self.first):
            self.first = trade


#: Stands for no running sum; nothing is ever added to it.
NOTHING = Sum(Trade("", "", 0, 0, ZERO, ZERO))


class Tally:
    """What belongs to one bar. `complete` is what was last sent of it, None before that."""

    __slots__ = (
        "buy_quote_volume",
        "buy_volume",
        "close",
        "complete",
        "end",
        "first",
        "flawed",
        "high",
        "last",
        "low",
        "open",
        "quote_volume",
        "revision",
        "start",
        "trades",
        "volume",
    )

    def __init__(self, start: int, end: int, price: Decimal = ZERO) -> None:
        self.start = start
        self.end = end
        self.trades = 0
        self.open = self.high = self.low = self.close = price
        self.volume = self.quote_volume = self.buy_volume = self.buy_quote_volume = ZERO
        self.first: Trade | None = None
        self.last: Trade | None = None
        self.revision = 0
        self.flawed = False  #: a trade of it was unusable
        self.complete: bool | None = None

    def add(self, more: Sum) -> None:
        """Add trades that arrived after all that are in here."""
        if self.first is None or self.last is None:
            self._begin(more)
            return
        self.trades += more.trades
        if more.high > self.high:
            self.high = more.high
        if more.low < self.low:
            self.low = more.low
        self._volumes(more)
        if before(more.first, self.first):
            self.first = more.first
            self.open = more.first.price
        if not before(more.last, self.last):
            self.last = more.last
            self.close = more.last.price

    def _begin(self, more: Sum) -> None:
        self.first, self.last = more.first, more.last
        self.open, self.close = more.first.price, more.last.price
        self.trades, self.high, self.low = more.trades, more.high, more.low
        self._volumes(more)

    def _volumes(self, more: Sum) -> None:
        self.volume += more.bought + more.sold
        self.quote_volume += more.bought_quote + more.sold_quote
        self.buy_volume += more.bought
        self.buy_quote_volume += more.bought_quote
