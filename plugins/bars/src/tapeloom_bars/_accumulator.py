"""Adding up trades, exactly.

`TradeSum` is trades that arrived in order, `BarAccumulator` what belongs to one bar.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, getcontext, setcontext
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tapeloom.events import Trade

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["NOTHING", "ZERO", "BarAccumulator", "TradeSum", "before", "exactly", "worth"]

P = ParamSpec("P")
T = TypeVar("T")

ZERO = Decimal(0)

# The default context rounds to 28 digits: sums of price times size over a busy day need more. A
# hundred digits hold any sum of products of two 18-decimal numbers, and cost nothing where they are
# not needed. Without traps a NaN compares as false, so that one comparison finds it.
_EXACT = Context(prec=100, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
_add, _multiply = _EXACT.add, _EXACT.multiply


def exactly(act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call *act* with a decimal context that does not round: many operations cost less than by `_add`."""
    before = getcontext()
    setcontext(_EXACT)
    try:
        return act(*args, **kwargs)
    finally:
        setcontext(before)


def before(ts: int, name: int | str, other_ts: int, other: int | str) -> bool:
    """Whether a trade of that time and id comes before another one that arrived earlier.

    Times decide. Between equal times ids decide where both are numbers; else arrival does.
    """
    if ts != other_ts:
        return ts < other_ts
    return type(name) is int and type(other) is int and name < other


def worth(trade: Trade) -> Decimal | None:
    """Return price times size; None where that is no finite number, and the trade fits in no bar."""
    value = _multiply(trade.price, trade.size)
    return value if value.is_finite() else None


class TradeSum:
    """Some trades, added up. `open` and `close` are the prices of the first and the last by (ts, id).

    It keeps no trade: to let go of one that came long ago takes longer than to add the next.
    The hot loop in `_stage` adds to it by itself.
    """

    __slots__ = (
        "bought",
        "bought_quote",
        "close",
        "first_id",
        "first_ts",
        "high",
        "last_id",
        "low",
        "open",
        "sided",
        "sold",
        "sold_quote",
        "trades",
        "ts",
    )

    def __init__(self, trade: Trade, value: Decimal) -> None:
        self.trades = 1
        self.open = self.high = self.low = self.close = trade.price
        self.first_ts = self.ts = trade.ts  #: `ts` is the time of the last one
        self.first_id = self.last_id = trade.id
        self.sided = trade.side is not None  #: the first one tells its taker
        self.bought = self.bought_quote = self.sold = self.sold_quote = ZERO
        if trade.side == "buy":
            self.bought, self.bought_quote = trade.size, value
        else:
            self.sold, self.sold_quote = trade.size, value

    def add(self, trade: Trade, value: Decimal) -> None:
        """Add a trade of that `worth` which is no earlier than `ts`."""
        price = trade.price
        if price is not self.close:
            if price > self.high:
                self.high = price
            elif price < self.low:
                self.low = price
        if trade.side == "buy":
            self.bought = _add(self.bought, trade.size)
            self.bought_quote = _add(self.bought_quote, value)
        else:
            self.sold = _add(self.sold, trade.size)
            self.sold_quote = _add(self.sold_quote, value)
        self.trades += 1
        if trade.ts != self.ts:
            self.ts, self.close, self.last_id = trade.ts, price, trade.id
        else:
            self.tie(trade)

    def tie(self, trade: Trade) -> None:
        """Take note of a trade that has been added and is as late as the last one."""
        ts, name = trade.ts, trade.id
        if not before(ts, name, ts, self.last_id):
            self.close, self.last_id = trade.price, name
        if ts == self.first_ts and before(ts, name, ts, self.first_id):
            self.open, self.first_id = trade.price, name
            self.sided = trade.side is not None


#: Stands for no running sum; nothing is ever added to it.
NOTHING = TradeSum(Trade("", "", 0, 0, ZERO, ZERO), ZERO)


class BarAccumulator(TradeSum):
    """The trades of one bar, from `start` to `end`. `complete` is what was last sent of it, None before that.

    As long as there is none, all prices are *price*.
    """

    __slots__ = ("complete", "end", "flawed", "revision", "start")

    def __init__(self, start: int, end: int, price: Decimal = ZERO) -> None:
        self.start = start
        self.end = end
        self.trades = 0
        self.open = self.high = self.low = self.close = price
        self.bought = self.bought_quote = self.sold = self.sold_quote = ZERO
        self.sided = True
        self.revision = 0
        self.flawed = False  #: a trade of it was unusable
        self.complete: bool | None = None

    def merge(self, more: TradeSum) -> None:
        """Add trades that arrived after all that are in here."""
        if not self.trades:
            self._begin(more)
            return
        if more.high > self.high:
            self.high = more.high
        if more.low < self.low:
            self.low = more.low
        if before(more.first_ts, more.first_id, self.first_ts, self.first_id):
            self.first_ts, self.first_id = more.first_ts, more.first_id
            self.open, self.sided = more.open, more.sided
        if not before(more.ts, more.last_id, self.ts, self.last_id):
            self.ts, self.last_id, self.close = more.ts, more.last_id, more.close
        self.trades += more.trades
        self.bought = _add(self.bought, more.bought)
        self.bought_quote = _add(self.bought_quote, more.bought_quote)
        self.sold = _add(self.sold, more.sold)
        self.sold_quote = _add(self.sold_quote, more.sold_quote)

    def _begin(self, more: TradeSum) -> None:
        self.trades, self.sided = more.trades, more.sided
        self.first_ts, self.first_id, self.open = more.first_ts, more.first_id, more.open
        self.ts, self.last_id, self.close = more.ts, more.last_id, more.close
        self.high, self.low = more.high, more.low
        self.bought, self.bought_quote = more.bought, more.bought_quote
        self.sold, self.sold_quote = more.sold, more.sold_quote

    @property
    def volume(self) -> Decimal:
        """What was traded."""
        return _add(self.bought, self.sold)

    @property
    def quote_volume(self) -> Decimal:
        """What it was worth."""
        return _add(self.bought_quote, self.sold_quote)
