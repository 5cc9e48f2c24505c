"""Exact sums of trades.

`TradeSum` sums trades that arrived in order. `BarAccumulator` sums the trades of one bar.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, getcontext, setcontext
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tapeloom.events import Trade

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = [
    "EMPTY_SUM",
    "ZERO",
    "BarAccumulator",
    "TradeSum",
    "finite_value",
    "is_earlier",
    "without_rounding",
]

P = ParamSpec("P")
T = TypeVar("T")

ZERO = Decimal(0)

#: Decimal context that does not round sums. The default context rounds to 28 digits, and sums of
#: price times size over a busy day need more. 100 digits hold any sum of products of two numbers of 18
#: decimals, and cost nothing where they are not needed. Without traps every comparison with a NaN is
#: false, so a single range check also finds a NaN.
_EXACT = Context(prec=100, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
_add, _multiply = _EXACT.add, _EXACT.multiply


def without_rounding(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call *function* with `_EXACT` as the current decimal context and return its result.

    For many operations this is faster than one call of `_add` for each.
    """
    saved = getcontext()
    setcontext(_EXACT)
    try:
        return function(*args, **kwargs)
    finally:
        setcontext(saved)


def is_earlier(ts: int, trade_id: int | str, other_ts: int, other_id: int | str) -> bool:
    """Return whether a trade was made before another (`other_ts`, `other_id`) that arrived earlier.

    Trades are ordered by time, then by id if both ids are numbers, else by arrival.
    """
    if ts != other_ts:
        return ts < other_ts
    return type(trade_id) is int and type(other_id) is int and trade_id < other_id


def finite_value(trade: Trade) -> Decimal | None:
    """Return price times size, or None if it is not finite; such a trade cannot be part of a bar."""
    value = _multiply(trade.price, trade.size)
    return value if value.is_finite() else None


class TradeSum:
    """Sum of trades. `open` and `close` are the prices of the first and the last trade by (ts, id).

    It stores numbers, not `Trade` objects: freeing an old object costs more than adding a new trade.
    The hot loop in `_stage` updates the attributes directly.
    """

    __slots__ = (
        "buy_quote_volume",
        "buy_volume",
        "close",
        "first_id",
        "first_ts",
        "has_side",
        "high",
        "last_id",
        "last_ts",
        "low",
        "open",
        "sell_quote_volume",
        "sell_volume",
        "trades",
    )

    def __init__(self, trade: Trade, value: Decimal) -> None:
        self.trades = 1
        self.open = self.high = self.low = self.close = trade.price
        self.first_ts = self.last_ts = trade.ts  #: time of the last trade, ns
        self.first_id = self.last_id = trade.id
        self.has_side = trade.side is not None  #: whether the first trade names its taker side
        self.buy_volume = self.buy_quote_volume = self.sell_volume = self.sell_quote_volume = ZERO
        if trade.side == "buy":
            self.buy_volume, self.buy_quote_volume = trade.size, value
        else:
            self.sell_volume, self.sell_quote_volume = trade.size, value

    def add(self, trade: Trade, value: Decimal) -> None:
        """Add a trade whose `ts` is not before `last_ts`; *value* is its price times size."""
        price = trade.price
        if price is not self.close:
            if price > self.high:
                self.high = price
            elif price < self.low:
                self.low = price
        if trade.side == "buy":
            self.buy_volume = _add(self.buy_volume, trade.size)
            self.buy_quote_volume = _add(self.buy_quote_volume, value)
        else:
            self.sell_volume = _add(self.sell_volume, trade.size)
            self.sell_quote_volume = _add(self.sell_quote_volume, value)
        self.trades += 1
        if trade.ts != self.last_ts:
            self.last_ts, self.close, self.last_id = trade.ts, price, trade.id
        else:
            self.update_first_and_last(trade)

    def update_first_and_last(self, trade: Trade) -> None:
        """Update the first and last trade after adding a trade whose `ts` equals `last_ts`."""
        ts, trade_id = trade.ts, trade.id
        if not is_earlier(ts, trade_id, ts, self.last_id):
            self.close, self.last_id = trade.price, trade_id
        if ts == self.first_ts and is_earlier(ts, trade_id, ts, self.first_id):
            self.open, self.first_id = trade.price, trade_id
            self.has_side = trade.side is not None


#: Placeholder for "no running sum"; no trade is ever added to it.
EMPTY_SUM = TradeSum(Trade("", "", 0, 0, ZERO, ZERO), ZERO)


class BarAccumulator(TradeSum):
    """Sum of the trades of one bar, which covers `start` <= ts < `end`.

    `complete` is the value in the bar event sent last, None before the first one. All prices are
    *price* until a trade is merged.
    """

    __slots__ = ("complete", "end", "has_bad_trade", "revision", "start")

    def __init__(self, start: int, end: int, price: Decimal = ZERO) -> None:
        self.start = start
        self.end = end
        self.trades = 0
        self.open = self.high = self.low = self.close = price
        self.buy_volume = self.buy_quote_volume = self.sell_volume = self.sell_quote_volume = ZERO
        self.has_side = True
        self.revision = 0
        self.has_bad_trade = False  #: a trade of this bar was rejected
        self.complete: bool | None = None

    def merge(self, added: TradeSum) -> None:
        """Add trades that arrived after all trades added so far."""
        if not self.trades:
            self._copy(added)
            return
        if added.high > self.high:
            self.high = added.high
        if added.low < self.low:
            self.low = added.low
        if is_earlier(added.first_ts, added.first_id, self.first_ts, self.first_id):
            self.first_ts, self.first_id = added.first_ts, added.first_id
            self.open, self.has_side = added.open, added.has_side
        if not is_earlier(added.last_ts, added.last_id, self.last_ts, self.last_id):
            self.last_ts, self.last_id, self.close = added.last_ts, added.last_id, added.close
        self.trades += added.trades
        self.buy_volume = _add(self.buy_volume, added.buy_volume)
        self.buy_quote_volume = _add(self.buy_quote_volume, added.buy_quote_volume)
        self.sell_volume = _add(self.sell_volume, added.sell_volume)
        self.sell_quote_volume = _add(self.sell_quote_volume, added.sell_quote_volume)

    def _copy(self, added: TradeSum) -> None:
        self.trades, self.has_side = added.trades, added.has_side
        self.first_ts, self.first_id, self.open = added.first_ts, added.first_id, added.open
        self.last_ts, self.last_id, self.close = added.last_ts, added.last_id, added.close
        self.high, self.low = added.high, added.low
        self.buy_volume, self.buy_quote_volume = added.buy_volume, added.buy_quote_volume
        self.sell_volume, self.sell_quote_volume = added.sell_volume, added.sell_quote_volume

    @property
    def volume(self) -> Decimal:
        """Sum of the sizes, in the base currency."""
        return _add(self.buy_volume, self.sell_volume)

    @property
    def quote_volume(self) -> Decimal:
        """Sum of price times size, in the quote currency."""
        return _add(self.buy_quote_volume, self.sell_quote_volume)
