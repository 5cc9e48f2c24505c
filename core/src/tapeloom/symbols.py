"""Unified symbols: one spelling for every venue.

The spelling is the one that users of CCXT know:
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

Kind = Literal["spot", "swap", "future"]

_PART = r"[^/:\s-]+"
_UNIFIED = re.compile(
    rf"(?P<base>{_PART})/(?P<quote>{_PART})(:(?P<settle>{_PART})(-(?P<expiry>\d{{6}}))?)?"
)
_ALIAS = re.compile(rf"(?P<base>{_PART})-(PERP|SWAP)", re.IGNORECASE)


@attrs.frozen
class Symbol:
    """A unified symbol taken apart. `str(symbol)` puts it together again."""

    base: str
    quote: str
    settle: str = ""  #: empty for spot
    expiry: str = ""  #: YYMMDD, empty where nothing expires

    @classmethod
    def parse(cls, text: str) -> Symbol:
        """Read a unified symbol; upper and lower case are the same.

        Raises SymbolError where *text* is none.
        """
        match = _UNIFIED.fullmatch(text.upper())
        if match is None:
            raise SymbolError(
                f"{text!r} is no unified symbol."
                " Write 'BTC/USDT' for spot, 'BTC/USDT:USDT' for a perpetual swap."
            )
        return cls(**{name: part or "" for name, part in match.groupdict().items()})

    @property
    def kind(self) -> Kind:
        """What is traded."""
        if not self.settle:
            return "spot"
        return "future" if self.expiry else "swap"

    def __str__(self) -> str:
        settle = f":{self.settle}" if self.settle else ""
        expiry = f"-{self.expiry}" if self.expiry else ""
        return f"{self.base}/{self.quote}{settle}{expiry}"


@attrs.frozen
class Instrument:
    """What a venue lists under one symbol."""

    symbol: str  #: unified
    native: str  #: the venue's own name
    kind: Kind
    base: str
    quote: str
    settle: str = ""
    tick: Decimal | None = None  #: smallest step of the price
    lot: Decimal | None = None  #: smallest step of the size
    active: bool = True  #: can be traded now
    contract_size: Decimal | None = None  #: what one contract is worth, where sizes are contracts


def resolve(text: str, *, stablecoin: str = "USDT") -> str:
    """Return the unified spelling of what a person typed.

    ``BTC-PERP`` is read as the perpetual swap that is quoted and settled in *stablecoin*.

    Raises SymbolError where *text* is neither.
    """
    if match := _ALIAS.fullmatch(text):
        return str(Symbol(match["base"].upper(), stablecoin, stablecoin))
    return str(Symbol.parse(text))
