"""Checks of books: prices and sizes of levels, crossed snapshots, and time.

The sequence of updates is checked by the books stage: this module ignores `first_id`, `last_id` and
`previous_id`.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, cast

from ._reference import Reference
from ._rules import REPLAYED_ORIGINS, Rules, is_non_negative, is_positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom.events import Book, Event, Levels

__all__ = ["BookChecks"]

#: Smallest price accepted by text comparison. Zeros sort below it, prices from it to 1 sort between it
#: and "0/".
_MIN_PRICE = "0." + "0" * 29 + "1"


def _unclear_levels(levels: Levels) -> Sequence[Sequence[str | Decimal]]:
    """Return the levels whose validity is not clear from their first characters.

    A price that starts with a digit from 1 to 9 and a size that starts with a digit are neither
    negative nor a word (NaN, Infinity), and the price is not zero. Nothing else is checked here; a price
    below 1 needs a digit other than zero.
    """
    try:
        return [
            (price, size)
            for price, size in cast("Sequence[Sequence[str]]", levels)
            if not (
                ("1" <= price < ":" or (_MIN_PRICE <= price < "0/" and "E" not in price.upper()))
                and "0" <= size < ":"
            )
        ]
    except (AttributeError, TypeError, ValueError):  # Decimals, more than a pair
        return levels


def _parse_decimal(text: str | Decimal) -> Decimal:
    try:
        return Decimal(text)
    except (InvalidOperation, TypeError, ValueError):
        return Decimal("NaN")


class BookChecks:
    """Check books. Snapshots and deltas have separate references."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._references: dict[tuple[str, str, str], Reference] = {}

    def check(self, book: Book) -> list[Event] | None:
        """Return None for a valid book, else the events that replace it."""
        for side, levels in (("bid", book.raw_bids), ("ask", book.raw_asks)):
            if unclear := _unclear_levels(levels):
                rule, evidence = self._check_levels(side, unclear)
                if rule:
                    return self._rules.reject(book, rule, evidence)
        rule, evidence = self._check_book(book)
        return self._rules.reject(book, rule, evidence) if rule else None

    def _check_levels(
        self, side: str, levels: Sequence[Sequence[str | Decimal]]
    ) -> tuple[str, str]:
        enabled = self._rules.enabled
        for level in levels:
            price, size = level[0], level[1]
            if "price" in enabled and not is_positive(_parse_decimal(price)):
                return "price", f"{side} price {price} is not a number above 0"
            if "size" in enabled and not is_non_negative(_parse_decimal(size)):
                return "size", f"{side} size {size} is not a number of 0 or more"
        return "", ""

    def _check_book(self, book: Book) -> tuple[str, str]:
        rules = self._rules
        if (
            book.kind == "snapshot"
            and "crossed" in rules.enabled
            and book.raw_bids
            and book.raw_asks
        ):
            bid, ask = _parse_decimal(book.raw_bids[0][0]), _parse_decimal(book.raw_asks[0][0])
            if is_non_negative(bid) and is_non_negative(ask) and bid >= ask:
                return "crossed", f"best bid {bid} is not below best ask {ask}"
        if book.origin in REPLAYED_ORIGINS:
            return "", ""
        key = book.symbol, book.channel, book.kind
        reference = self._references.get(key)
        if reference is None:
            reference = self._references[key] = Reference(rules)
        if evidence := rules.check_ahead(book.ts, book.recv, reference.newest_ts):
            return "ahead", evidence
        if evidence := reference.check_time(book.ts):
            return "backwards", evidence
        reference.accept(book.ts, None)
        return "", ""
