"""The guarantee `symbols`: a symbol and its name at the venue map to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tapeloom.errors import SymbolError
from tapeloom.symbols import Symbol

from .declared import ContractViolation, NotApplicable

if TYPE_CHECKING:
    from .composed import Subject

__all__ = ["symbols"]

#: Texts that are no symbols.
_INVALID = ("", "?", "NO SUCH", "//", "BTC/USDT/ETH")


def symbols(subject: Subject) -> None:
    """Check that each symbol has its own name at the venue, and that invalid ones are refused."""
    plan = subject.plan()
    if plan.codec is None:
        raise NotApplicable("it connects through a Source: core does not name its symbols")
    native = plan.codec.native
    names = {symbol: native(symbol) for symbol in subject.symbols}
    listing = plan.feed.listing
    for symbol, name in names.items():
        if not name or listing.native.get(symbol) != name or listing.unified.get(name) != symbol:
            raise ContractViolation(
                f"{symbol!r} is {name!r} at the venue, but the listing has {listing.native!r}:"
                " two symbols share a name, or `native` returns different names for a symbol."
            )
        if native(symbol.lower()) != name:
            raise ContractViolation(
                f"`native` returns different names for {symbol.lower()!r} and {symbol!r}: use Symbol.parse."
            )
    for invalid in _INVALID:
        try:
            name = native(invalid)
        except SymbolError:
            continue
        raise ContractViolation(
            f"a SymbolError was expected for {invalid!r}, but `native` returned {name!r}."
        )
    for other in _other_kinds(subject.symbols):
        try:
            name = native(other)
        except SymbolError:
            continue
        if name in names.values():
            raise ContractViolation(
                f"{other!r} belongs to another market, but `native` returned {name!r}, the name of a"
                " symbol of this market. Raise SymbolError."
            )


def _other_kinds(symbols: Sequence[str]) -> list[str]:
    """Return the same pairs of the other kind: spot for a swap, a swap for spot."""
    parsed = [Symbol.parse(symbol) for symbol in symbols]
    others = [
        str(Symbol(symbol.base, symbol.quote, "" if symbol.settle else symbol.quote))
        for symbol in parsed
    ]
    return [other for other in others if other not in symbols]
