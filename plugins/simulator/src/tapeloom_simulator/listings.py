"""Prices, ticks and lots of well-known symbols, and plausible defaults for any other symbol."""

from __future__ import annotations

import zlib
from decimal import Decimal

from attrs import frozen
from tapeloom.symbols import Symbol

__all__ = ["MAJORS", "Listed", "listed"]

# base: (price, digits of the price on a spot market, of the size, of the price of a swap, of its size)
_KNOWN: dict[str, tuple[str, int, int, int, int]] = {
    "BTC": ("61250", 2, 5, 1, 3),
    "ETH": ("2480", 2, 4, 2, 3),
    "SOL": ("148", 2, 3, 3, 0),
    "BNB": ("590", 2, 3, 2, 2),
    "XRP": ("0.5900", 4, 0, 4, 1),
    "ADA": ("0.3550", 4, 1, 5, 0),
    "DOGE": ("0.10500", 5, 0, 5, 0),
    "AVAX": ("27.1", 3, 2, 3, 0),
    "LINK": ("11.40", 3, 2, 3, 2),
    "LTC": ("66.00", 2, 3, 2, 3),
}
#: Twenty symbols for a full market.
MAJORS = tuple(f"{base}/USDT" for base in _KNOWN) + tuple(f"{base}/USDT:USDT" for base in _KNOWN)


@frozen(kw_only=True)
class Listed:
    """One symbol of a simulated market. `start` and `stride` are in ticks, `unit` in lots.

    Its price levels are `stride` ticks apart, and a typical order is some dozens of units.
    """

    symbol: str
    parts: Symbol
    tick: Decimal
    lot: Decimal
    start: int
    stride: int
    unit: int


def listed(
    symbol: str,
    *,
    price: Decimal | None = None,
    tick: Decimal | None = None,
    lot: Decimal | None = None,
) -> Listed:
    """Return the listing of *symbol*. Missing values get defaults that are the same in every run.

    Raises SymbolError where *symbol* is no unified symbol, ValueError where a step is no power of ten.
    """
    parts = Symbol.parse(symbol)
    known = _KNOWN.get(parts.base)
    if known is None:
        # Not hash(): it differs from run to run.
        number = zlib.crc32(parts.base.encode())
        known = (str(Decimal(100 + number % 900).scaleb(number // 900 % 5 - 2)), 4, 2, 4, 1)
    text, digits, size_digits, swap_digits, swap_size_digits = known
    if parts.settle:
        digits, size_digits = swap_digits, swap_size_digits
    price = price if price is not None else Decimal(text)
    tick = tick if tick is not None else Decimal(1).scaleb(-digits)
    lot = lot if lot is not None else Decimal(1).scaleb(-size_digits)
    for name, step in (("tick", tick), ("lot", lot)):
        if step <= 0 or step.normalize().as_tuple().digits != (1,):
            raise ValueError(
                f"the {name} of {symbol} must be a power of ten such as 0.01, not {step}"
            )
    start = int(price / tick)
    if start < 2_000:
        raise ValueError(
            f"the tick of {symbol} must be at most 1/2000 of its price {price}, not {tick}"
        )
    return Listed(
        symbol=str(parts), parts=parts, tick=tick, lot=lot, start=start,
        stride=_round(start // 100_000), unit=_round(int(Decimal(20) / (price * lot))),
    )  # fmt: skip


def _round(number: int) -> int:
    """Return the largest of 1, 2, 5, 10, 20, … that is not above *number*; at least 1."""
    best = 1
    for step in (1, 2, 5):
        while step <= number:
            best = max(best, step)
            step *= 10
    return best
