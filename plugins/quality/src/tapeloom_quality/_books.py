"""Books: levels that are no prices or sizes, crossed snapshots, and time.

The order of updates is the venue's own rule, and the books stage follows it: nothing here looks at
`first`, `last` and `previous`.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, cast

from ._line import Line
from ._rules import PAST, Rules, amount, positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom.events import Book, Event, Levels

__all__ = ["Books"]

#: As texts, zeros sort below this, and prices from here to 1 between it and "0/".
_LEAST = "0." + "0" * 29 + "1"


def _suspects(levels: Levels) -> Sequence[Sequence[str | Decimal]]:
    """Return the levels that a look at the first characters does not clear.

    A price that begins with a digit from 1 to 9 and a size that begins with a digit are neither
    negative nor a word (NaN, Infinity), and the price is not zero. That is all that is looked at; of
    a price below 1, where some digit is no zero.
    """
    try:
        return [
            (price, size)
            for price, size in cast("Sequence[Sequence[str]]", levels)
            if not (
                ("1" <= price < ":" or (_LEAST <= price < "0/" and "E" not in price.upper()))
                and "0" <= size < ":"
            )
        ]
    except (AttributeError, TypeError, ValueError):  # Decimals, more than a pair
        return levels


def _number(text: str | Decimal) -> Decimal:
    try:
        return Decimal(text)
    except (InvalidOperation, TypeError, ValueError):
        return Decimal("NaN")


class Books:
    """Judges snapshots and deltas, each against those of its kind."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._lines: dict[tuple[str, str, str], Line] = {}

    def judge(self, book: Book) -> list[Event] | None:
        """Return None for a book that passes, else what stands in its place."""
        for side, levels in (("bid", book.raw_bids), ("ask", book.raw_asks)):
            if suspects := _suspects(levels):
                rule, evidence = self._levels(side, suspects)
                if rule:
                    return self._rules.reject(book, rule, evidence)
        rule, evidence = self._whole(book)
        return self._rules.reject(book, rule, evidence) if rule else None

    def _levels(self, side: str, levels: Sequence[Sequence[str | Decimal]]) -> tuple[str, str]:
        on = self._rules.on
        for level in levels:
            price, size = level[0], level[1]
            if "price" in on and not positive(_number(price)):
                return "price", f"{side} price {price} is no number above 0"
            if "size" in on and not amount(_number(size)):
                return "size", f"{side} size {size} is no number of 0 or more"
        return "", ""

    def _whole(self, book: Book) -> tuple[str, str]:
        rules = self._rules
        if book.kind == "snapshot" and "crossed" in rules.on and book.raw_bids and book.raw_asks:
            bid, ask = _number(book.raw_bids[0][0]), _number(book.raw_asks[0][0])
            if amount(bid) and amount(ask) and bid >= ask:
                return "crossed", f"best bid {bid} is not below best ask {ask}"
        if book.origin in PAST:
            return "", ""
        key = book.symbol, book.channel, book.kind
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(rules)
        if evidence := rules.early(book.ts, book.recv):
            return "ahead", evidence
        if evidence := line.turned(book.ts):
            return "backwards", evidence
        line.good(book.ts, None)
        return "", ""
