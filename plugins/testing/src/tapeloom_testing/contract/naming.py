"""Symbols: spelled there and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tapeloom.errors import SymbolError
from tapeloom.symbols import Symbol

from .declared import ContractViolation, NotApplicable

if TYPE_CHECKING:
    from .composed import Subject

__all__ = ["symbols"]

_ODD = ("", "?", "NO SUCH", "//", "BTC/USDT/ETH")


def symbols(subject: Subject) -> None:
    """Hold that each symbol has a name of its own at the venue, and nonsense has none."""
    plan = subject.plan()
    if plan.codec is None:
        raise NotApplicable("it connects through a Source: core does not name its symbols")
    native = plan.codec.native
    names = {symbol: native(symbol) for symbol in subject.symbols}
    listing = plan.feed.listing
    for symbol, name in names.items():
        if not name or listing.native.get(symbol) != name or listing.unified.get(name) != symbol:
            raise ContractViolation(
                f"{symbol!r} is {name!r} at the venue, and the listing has {listing.native!r}:"
                " two symbols share one name, or `native` answers differently each time."
            )
        if native(symbol.lower()) != name:
            raise ContractViolation(
                f"{symbol.lower()!r} is not the same as {symbol!r}: use Symbol.parse."
            )
    for odd in _ODD:
        try:
            name = native(odd)
        except SymbolError:
            continue
        raise ContractViolation(
            f"a SymbolError was expected for {odd!r}, and `native` returned {name!r}."
        )
    for other in _other_kinds(subject.symbols):
        try:
            name = native(other)
        except SymbolError:
            continue
        if name in names.values():
            raise ContractViolation(
                f"{other!r} is another market's and gets the name {name!r} of one here."
            )


def _other_kinds(some: Sequence[str]) -> list[str]:
    """Return the same pairs as something else: spot for a swap, a swap for spot."""
    parsed = [Symbol.parse(symbol) for symbol in some]
    others = [str(Symbol(one.base, one.quote, "" if one.settle else one.quote)) for one in parsed]
    return [other for other in others if other not in some]
