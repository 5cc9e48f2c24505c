"""One side of an order book: every price with its size, and the best of them in order.

Texts stay texts. A level that is only resized, the commonest case, costs one look-up by the venue's
own spelling of the price; a number is made when a level comes or goes, and a Decimal when one is
read. Only the best few hundred prices are kept sorted: what happens further out touches no list.
What is read again and again, the best few, is made again only when it has changed.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Ladder", "TooWideError"]

# Two different decimal numbers of up to 15 digits never become the same binary double, and keep
# their order (IEEE 754: DBL_DIG is 15). Within this length and these bounds a float is an exact
# *name* of a price. It is never read as a number; a longer price is named by a Decimal.
_WIDTH = 15
_LEAST = 1e-15
_MOST = 1e15

_ZEROS = frozenset({"0", *("0." + "0" * digits for digits in range(1, 19))})


class TooWideError(ValueError):
    """A price that a float cannot name exactly."""


def _is_zero(size: str) -> bool:
    """Read a size that may be zero without looking like it, as ``0E-8`` or ``-0``."""
    number = Decimal(size)
    if number < 0:
        raise ValueError(f"the size {size!r} is negative")
    return not number


class Ladder:
    """The bids or the asks of one book, best first.

    `ladder[price]` is the size at a price, zero where there is none. Prices are compared as
    numbers: 0.1 and 0.10 are one level. `kept` is how many of the best a caller reads often.
    """

    __slots__ = (
        "_best",
        "_floor",
        "_kept",
        "_range",
        "_sign",
        "_top",
        "_width",
        "keys",
        "number",
        "sizes",
        "texts",
    )

    _floor: Any
    _range: tuple[Any, Any]
    number: Callable[[str], Any]

    def __init__(self, side: Literal["bids", "asks"], kept: int = 0) -> None:
        # Asks are named by their negative: the best of either side is then the greatest, and
        # stands at the end of the list, where most changes are and inserting is cheapest.
        self._sign = "" if side == "bids" else "-"
        self._kept = max(kept, 32)
        #: Read by the neighbours in this package, written here only.
        self.sizes: dict[str, str] = {}  # by the venue's spelling of the price
        self.texts: dict[Any, str] = {}  # name → that spelling
        self.keys: list[Any] = []  # the names from _floor on, sorted
        self.clear()

    def clear(self) -> None:
        """Take every level away."""
        self.sizes.clear()
        self.texts.clear()
        self.keys.clear()
        self._top: list[tuple[str, str]] = []  # what was read last
        self._best: tuple[list[Any], list[str], list[str]] = [], [], []  # its names, prices, sizes
        self._floor = float("inf")  # nothing is sorted before the first levels are all there
        self.number = float
        self._width = _WIDTH
        self._range = (-_MOST, -_LEAST) if self._sign else (_LEAST, _MOST)

    def apply(self, raw: Sequence[Sequence[str]]) -> None:
        """Set the size of each level; a size of zero takes the level away.

        Raises TooWideError where a price needs `widen`, and ValueError or ArithmeticError where a
        level cannot be read. Some of the levels are then set.
        """
        sizes, texts, keys, floor = self.sizes, self.texts, self.keys, self._floor
        number, sign, width, (low, high) = self.number, self._sign, self._width, self._range
        for text, size in raw:
            # As texts, zeros sort below "0.00000001", or, as Java writes them (0E-8), above "0/".
            if (size < "0.00000001" or "0/" < size < "1") and (size in _ZEROS or _is_zero(size)):
                key = number(sign + text)
                if len(text) > width or not low < key < high:
                    raise TooWideError
                known = texts.pop(key, None)
                if known is not None:  # to take away what we never had is normal
                    del sizes[known]
                    if key >= floor:
                        del keys[bisect_left(keys, key)]
            elif text in sizes:
                sizes[text] = size
            else:
                key = number(sign + text)
                if len(text) > width or not low < key < high:
                    raise TooWideError
                if key in texts:  # the same price in another spelling
                    del sizes[texts[key]]
                elif key >= floor:
                    insort(keys, key)
                sizes[text] = size
                texts[key] = text
        if not self._kept <= len(keys) <= 16 * self._kept:
            self._sort()

    def widen(self) -> None:
        """Name prices by Decimal from now on."""
        if self.number is Decimal:
            raise ValueError("a price is not finite")
        self.number = Decimal
        self._width = 1_000  # no number of a market is as long as that
        self._range = (Decimal("-Infinity"), Decimal("Infinity"))
        self.texts = {Decimal(self._sign + text): text for text in self.sizes}
        self.keys.clear()
        self._sort()

    def _sort(self) -> None:
        """Choose anew which prices are kept sorted."""
        keys, few = self.keys, 4 * self._kept
        if len(keys) > 4 * few:
            del keys[:-few]
            self._floor = keys[0]
        elif len(keys) < len(self.texts):
            keys[:] = sorted(self.texts)[-few:]
            self._floor = keys[0] if len(keys) < len(self.texts) else float("-inf")

    def raw_top(self, count: int) -> list[tuple[str, str]]:
        """Return the best *count* levels in the venue's own spelling; the same list while they last."""
        keys, texts, sizes = self.keys, self.texts, self.sizes
        if count > len(keys) < len(texts):
            keys = sorted(texts)
        names = keys[: -count - 1 : -1]
        known, prices, was = self._best
        if names != known or [*map(sizes.get, prices)] != was:
            prices = [texts[key] for key in names]
            now = [sizes[text] for text in prices]
            self._best = names, prices, now
            self._top = list(zip(prices, now, strict=True))
        return self._top

    def top(self, count: int) -> list[tuple[Decimal, Decimal]]:
        """Return the best *count* levels, fewer where there are fewer."""
        return [(Decimal(price), Decimal(size)) for price, size in self.raw_top(count)]

    @property
    def raw_best(self) -> tuple[str, str] | None:
        """The best level in the venue's own spelling, None on an empty side."""
        if not self.keys:
            return None
        text = self.texts[self.keys[-1]]
        return text, self.sizes[text]

    @property
    def best(self) -> tuple[Decimal, Decimal] | None:
        """The best price and its size, None on an empty side."""
        level = self.raw_best
        return (Decimal(level[0]), Decimal(level[1])) if level else None

    def __getitem__(self, price: Decimal) -> Decimal:
        """Return the size at *price*, zero where there is none."""
        text = self.texts.get(self.number(self._sign + format(price, "f")))
        # A float may also name a price that is too long for it: the spelling decides.
        return Decimal(self.sizes[text]) if text and Decimal(text) == price else Decimal(0)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[tuple[Decimal, Decimal]]:
        return iter(self.top(len(self.sizes)))

    def __repr__(self) -> str:
        return f"<Ladder of {len(self)} {'asks' if self._sign else 'bids'}, best {self.raw_best}>"
