"""`Ladder`: one side of an order book, the size at every price and the best levels in order.

Prices and sizes are stored as the venue's texts. A delta that only changes the size of a level, the
commonest case, costs one dict look-up by the price text. A number is made only when a level is added
or removed, a Decimal only when a level is read. Only the best few hundred prices are kept sorted, so
changes further out touch no list. The best levels read last are cached until they change.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Ladder", "PriceTooLongError"]

#: Longest price text, in characters, whose key is a float. Two different decimal numbers of up to 15
#: digits never become the same binary double, and keep their order (IEEE 754: DBL_DIG is 15). Within
#: this length and the bounds below a float is a unique sort key of a price. It is never used as a
#: number; the key of a longer price is a Decimal.
_MAX_LENGTH = 15
_MIN_KEY = 1e-15
_MAX_KEY = 1e15

#: Texts of a size of zero with up to 18 decimals.
_ZEROS = frozenset({"0", *("0." + "0" * digits for digits in range(1, 19))})


class PriceTooLongError(ValueError):
    """A price is too long, too large or too small for a float key."""


def _is_zero(size: str) -> bool:
    """Return whether a size not in `_ZEROS` equals zero, such as ``0E-8`` or ``-0``; raise if negative."""
    number = Decimal(size)
    if number < 0:
        raise ValueError(f"the size {size!r} is negative")
    return not number


class Ladder:
    """Bids or asks of one book, best first.

    `ladder[price]` is the size at a price, zero if there is no such level. Prices are compared as
    numbers: 0.1 and 0.10 are the same level. `top_levels` is the number of best levels read often.
    """

    __slots__ = (
        "_cached",
        "_cached_top",
        "_key_range",
        "_lowest_sorted",
        "_max_length",
        "_sign",
        "_top_levels",
        "keys",
        "sizes",
        "texts",
        "to_key",
    )

    _lowest_sorted: Any
    _key_range: tuple[Any, Any]
    to_key: Callable[[str], Any]

    def __init__(self, side: Literal["bids", "asks"], top_levels: int = 0) -> None:
        # The key of an ask is its negated price: the best level of either side then has the greatest
        # key, at the end of the list, where most changes occur and inserting is cheapest.
        self._sign = "" if side == "bids" else "-"
        self._top_levels = max(top_levels, 32)
        #: `sizes`, `texts` and `keys` are read by other modules of this package, but changed only here.
        self.sizes: dict[str, str] = {}  # price text → size text
        self.texts: dict[Any, str] = {}  # key → price text
        self.keys: list[Any] = []  # sorted keys >= `_lowest_sorted`
        self.clear()

    def clear(self) -> None:
        """Remove every level."""
        self.sizes.clear()
        self.texts.clear()
        self.keys.clear()
        self._cached_top: list[tuple[str, str]] = []  # last result of `raw_top`
        self._cached: tuple[list[Any], list[str], list[str]] = [], [], []  # its keys, prices, sizes
        self._lowest_sorted = float("inf")  # nothing is sorted until the first levels are loaded
        self.to_key = float
        self._max_length = _MAX_LENGTH
        self._key_range = (-_MAX_KEY, -_MIN_KEY) if self._sign else (_MIN_KEY, _MAX_KEY)

    def apply(self, raw: Sequence[Sequence[str]]) -> None:
        """Set the size of each level; a size of zero removes the level.

        Raises PriceTooLongError if a price needs `use_decimal_keys`, and ValueError or
        ArithmeticError if a level cannot be parsed. Some of the levels are then already set.
        """
        sizes, texts, keys, lowest_sorted = self.sizes, self.texts, self.keys, self._lowest_sorted
        to_key, sign, max_length, (low, high) = (
            self.to_key,
            self._sign,
            self._max_length,
            self._key_range,
        )
        for text, size in raw:
            # Compared as texts, zeros sort below "0.00000001"; zeros as Java writes them (0E-8) sort above "0/".
            if (size < "0.00000001" or "0/" < size < "1") and (size in _ZEROS or _is_zero(size)):
                key = to_key(sign + text)
                if len(text) > max_length or not low < key < high:
                    raise PriceTooLongError
                spelling = texts.pop(key, None)
                if spelling is not None:  # venues also remove levels that were never sent
                    del sizes[spelling]
                    if key >= lowest_sorted:
                        del keys[bisect_left(keys, key)]
            elif text in sizes:
                sizes[text] = size
            else:
                key = to_key(sign + text)
                if len(text) > max_length or not low < key < high:
                    raise PriceTooLongError
                if key in texts:  # the same price written differently
                    del sizes[texts[key]]
                elif key >= lowest_sorted:
                    insort(keys, key)
                sizes[text] = size
                texts[key] = text
        if not self._top_levels <= len(keys) <= 16 * self._top_levels:
            self._sort()

    def use_decimal_keys(self) -> None:
        """Use Decimal keys from now on."""
        if self.to_key is Decimal:
            raise ValueError("a price is not finite")
        self.to_key = Decimal
        self._max_length = 1_000  # longer than any price
        self._key_range = (Decimal("-Infinity"), Decimal("Infinity"))
        self.texts = {Decimal(self._sign + text): text for text in self.sizes}
        self.keys.clear()
        self._sort()

    def _sort(self) -> None:
        """Rebuild or shorten the list of sorted keys."""
        keys, sorted_levels = self.keys, 4 * self._top_levels
        if len(keys) > 4 * sorted_levels:
            del keys[:-sorted_levels]
            self._lowest_sorted = keys[0]
        elif len(keys) < len(self.texts):
            keys[:] = sorted(self.texts)[-sorted_levels:]
            self._lowest_sorted = keys[0] if len(keys) < len(self.texts) else float("-inf")

    def raw_top(self, count: int) -> list[tuple[str, str]]:
        """Return the best *count* levels as the venue's texts; the same list object until they change."""
        keys, texts, sizes = self.keys, self.texts, self.sizes
        if count > len(keys) < len(texts):
            keys = sorted(texts)
        best_keys = keys[: -count - 1 : -1]
        cached_keys, prices, cached_sizes = self._cached
        if best_keys != cached_keys or [*map(sizes.get, prices)] != cached_sizes:
            prices = [texts[key] for key in best_keys]
            best_sizes = [sizes[text] for text in prices]
            self._cached = best_keys, prices, best_sizes
            self._cached_top = list(zip(prices, best_sizes, strict=True))
        return self._cached_top

    def top(self, count: int) -> list[tuple[Decimal, Decimal]]:
        """Return the best *count* levels, or all if there are fewer."""
        return [(Decimal(price), Decimal(size)) for price, size in self.raw_top(count)]

    @property
    def raw_best(self) -> tuple[str, str] | None:
        """Best level as the venue's texts (price, size); None if the side is empty."""
        if not self.keys:
            return None
        text = self.texts[self.keys[-1]]
        return text, self.sizes[text]

    @property
    def best(self) -> tuple[Decimal, Decimal] | None:
        """Best level (price, size); None if the side is empty."""
        level = self.raw_best
        return (Decimal(level[0]), Decimal(level[1])) if level else None

    def __getitem__(self, price: Decimal) -> Decimal:
        """Return the size at *price*, zero if there is no such level."""
        text = self.texts.get(self.to_key(self._sign + format(price, "f")))
        # A price too long for a float may have the key of another price: compare the text too.
        return Decimal(self.sizes[text]) if text and Decimal(text) == price else Decimal(0)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[tuple[Decimal, Decimal]]:
        return iter(self.top(len(self.sizes)))

    def __repr__(self) -> str:
        return f"<Ladder of {len(self)} {'asks' if self._sign else 'bids'}, best {self.raw_best}>"
