"""Unified symbols: the same spelling for every venue, which is that of CCXT.

``BTC/USDT`` spot · ``BTC/USDT:USDT`` perpetual swap (settled in USDT) · ``BTC/USD:BTC`` inverse ·
``BTC/USDT:USDT-261225`` dated future.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal

import attrs

from .errors import SymbolError

__all__ = ["Instrument", "Kind", "Symbol", "resolve"]

#: What is traded.
#: spot: The asset itself.
#: swap: A perpetual swap.
#: future: A dated future.
Kind = Literal["spot", "swap", "future"]

#: A part is neither of dots only nor has a backslash, because symbols become parts of file names.
_PART = r"(?!\.+(?![^/:\s-]))[^/:\s\\-]+"
_UNIFIED = re.compile(
    rf"(?P<base>{_PART})/(?P<quote>{_PART})(:(?P<settle>{_PART})(-(?P<expiry>\d{{6}}))?)?"
)
_ALIAS = re.compile(rf"(?P<base>{_PART})-(PERP|SWAP)", re.IGNORECASE)
#: A symbol as venues and brokers write it, such as ``BTCUSDT``, ``BTC-USD`` or ``AAPL``.
_NATIVE = re.compile(r"(?P<base>[A-Z0-9.]{1,15}?)[-_]?(?P<quote>USDT|USDC|USD|EUR|GBP|BTC|ETH)?")


@attrs.frozen
class Symbol:
    """The parts of a unified symbol. `str(symbol)` joins them again."""

    base: str  #: The currency that is traded.
    quote: str  #: The currency of the price.
    settle: str = ""  #: The currency of settlement; empty for spot.
    expiry: str = ""  #: The date of expiry as YYMMDD; empty if it does not expire.

    @classmethod
    def parse(cls, text: str) -> Symbol:
        """Parse a unified symbol; case is ignored.

        Raises SymbolError if *text* is not a unified symbol.
        """
        match = _UNIFIED.fullmatch(text.upper())
        if match is None or not text.isprintable():
            raise SymbolError(f"{text!r} is not a unified symbol. {_remedy(text)}")
        return cls(**{name: part or "" for name, part in match.groupdict().items()})

    @property
    def kind(self) -> Kind:
        """What is traded: "spot", "swap" or "future"."""
        if not self.settle:
            return "spot"
        return "future" if self.expiry else "swap"

    def __str__(self) -> str:
        settle = f":{self.settle}" if self.settle else ""
        expiry = f"-{self.expiry}" if self.expiry else ""
        return f"{self.base}/{self.quote}{settle}{expiry}"


def _remedy(text: str) -> str:
    """Return how to write *text* as a unified symbol, as far as it shows what is meant."""
    match = _NATIVE.fullmatch(text.upper())
    if match is None:
        return "Write BASE/QUOTE for spot, BASE/QUOTE:SETTLE for a perpetual swap, as in 'BTC/USDT:USDT'."
    base, quote = match["base"], match["quote"]
    if not quote:
        return f"The currency of its price is missing: write {base + '/USD'!r} if that is the US dollar."
    spot = f"{base}/{quote}"
    return f"Write {spot!r} for spot, {f'{spot}:{quote}'!r} for a perpetual swap."


@attrs.frozen
class Instrument:
    """An instrument as a venue lists it."""

    symbol: str  #: The unified symbol.
    native: str  #: The venue's own name.
    kind: Kind  #: What is traded.
    base: str  #: The currency that is traded.
    quote: str  #: The currency of the price.
    settle: str = ""  #: The currency of settlement; empty for spot.
    tick: Decimal | None = None  #: The smallest step of the price; None if not known.
    lot: Decimal | None = None  #: The smallest step of the size; None if not known.
    #: False once it is delisted or expired, so that no more data comes; a halt does not count.
    active: bool = True
    contract_size: Decimal | None = None  #: The worth of one contract, if sizes count contracts.
    #: Whether trading is halted, so that no data comes until it is resumed.
    halted: bool = False


def resolve(text: str, *, stablecoin: str = "USDT") -> str:
    """Return the unified symbol for a unified symbol in any case, or for an alias.

    The alias ``BTC-PERP`` is the perpetual swap that is quoted and settled in *stablecoin*.

    Raises SymbolError if *text* is neither.
    """
    if (match := _ALIAS.fullmatch(text)) and text.isprintable():
        return str(Symbol(match["base"].upper(), stablecoin, stablecoin))
    return str(Symbol.parse(text))
