"""The kinds of columns: the Arrow type of each, and how values become an array and values again.

An encoder takes the values of one field and returns an array of its type, or raises an error of
`REFUSALS` if a value does not fit exactly. Numbers are converted by pyarrow, which refuses integers that
it would have to round, and decimals too, but for very long ones, which are shortened or refused before. A
decoder also takes the types that `accepts` names: what other tools make of the columns, such as texts
that are no longer dictionary-coded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Context, Decimal, InvalidOperation, Rounded, localcontext
from itertools import accumulate, chain, pairwise
from typing import Any

import attrs
import pyarrow as pa  # type: ignore[import-untyped]
from tapeloom.events import decode, encode

#: What pyarrow raises if a value does not fit its type.
REFUSALS = (ValueError, TypeError, ArithmeticError, pa.ArrowException)
#: Prices and sizes: 20 digits before the point and 18 after it. 18 is what the smallest units of tokens have.
DECIMAL = pa.decimal128(38, 18)
#: Products of a price and a size: they need the decimals of both.
PRODUCT = pa.decimal256(76, 36)
TIME = pa.timestamp("ns", "UTC")
TEXT = pa.utf8()
CATEGORY = pa.dictionary(pa.int32(), pa.utf8())
LEVEL = pa.struct([("price", pa.utf8()), ("size", pa.utf8())])
LEVELS = pa.list_(LEVEL)


@attrs.frozen
class Kind:
    """A kind of column."""

    type: pa.DataType  #: The type that `encode` returns.
    encode: Callable[[Sequence[Any]], pa.Array]
    decode: Callable[[pa.Array], list[Any]]
    accepts: Callable[[pa.DataType], bool]  #: Whether `decode` can read an array of a type.


def _encoder(kind: pa.DataType) -> Callable[[Sequence[Any]], pa.Array]:
    def encode_values(values: Sequence[Any]) -> pa.Array:
        return pa.array(values, kind)

    return encode_values


def _to_list(array: pa.Array) -> list[Any]:
    values: list[Any] = array.to_pylist()
    return values


# ------------------------------------------------------------------------------------------ numbers


def _decimal(text: str | None) -> Decimal | None:
    """Return the number of a text, without the zeros that only fill up the scale of its column."""
    if text is None:
        return None
    if "." in text and "E" not in text:
        text = text.rstrip("0").rstrip(".")
    return Decimal(text)


def _to_decimals(array: pa.Array) -> list[Decimal | None]:
    # As text: `to_pylist` of a decimal array takes ten times as long.
    if pa.types.is_decimal(array.type):
        return [_decimal(text) for text in array.cast(TEXT).to_pylist()]
    return [None if text is None else Decimal(text) for text in array.to_pylist()]


def _is_number_or_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind)) or is_text(kind)


def decimals(kind: pa.DataType) -> Kind:
    """Return the kind of exact decimal numbers of an Arrow type.

    pyarrow 26 stores some numbers wrongly in silence: 1E-57 and 1 with 57 zeros as 0 in a decimal128,
    and some of 77 digits with the other sign in a decimal256. So it only gets numbers that have, as they
    are written, no more decimals and digits than the column. That is proven for all of them at once by
    their sum: it has the decimals of the number with most, and if all sums on the way have one digit
    less than the column, no number has more than the column. This costs a fourth of the conversion.
    Where it proves nothing, each number is examined.
    """
    exact = Context(prec=kind.precision - 1, traps=[Rounded, InvalidOperation])

    def encode_decimals(values: Sequence[Any]) -> pa.Array:
        try:
            with localcontext(exact):
                exponent = Decimal(sum(filter(None, values))).as_tuple().exponent
            if isinstance(exponent, int) and exponent >= -kind.scale:
                return pa.array(values, kind)
        except REFUSALS:
            pass
        return pa.array([_shortest(value, kind) for value in values], kind)

    return Kind(kind, encode_decimals, _to_decimals, _is_number_or_text)


def _shortest(number: Any, kind: pa.DataType) -> Decimal | None:
    """Return a number without zeros at its end; raise if it does not fit the type exactly."""
    if number is None:
        return None
    sign, digits, exponent = _as_decimal(number).as_tuple()
    if isinstance(exponent, str):
        raise ValueError(f"expected a finite number, got {number}")  # noqa: TRY004
    kept = len(digits)
    while kept and digits[kept - 1] == 0:
        kept -= 1
    if not kept:
        return Decimal(0)
    exponent += len(digits) - kept
    if exponent < -kind.scale or kept + exponent + kind.scale > kind.precision:
        raise ValueError(f"expected a number that fits {kind}, got {number}")
    return Decimal((sign, digits[:kept], exponent))


def _as_decimal(number: Any) -> Decimal:
    if type(number) is int or isinstance(number, Decimal):
        return Decimal(number)
    raise TypeError(f"expected a Decimal, got {number!r}")


INTEGERS = Kind(pa.int64(), _encoder(pa.int64()), _to_list, pa.types.is_integer)
BOOLEANS = Kind(pa.bool_(), _encoder(pa.bool_()), _to_list, pa.types.is_boolean)
FLOATS = Kind(pa.float64(), _encoder(pa.float64()), _to_list, pa.types.is_float64)


def _encode_times(values: Sequence[Any]) -> pa.Array:
    return pa.array(values, pa.int64()).view(TIME)


def _decode_times(array: pa.Array) -> list[Any]:
    return _to_list(array.cast(pa.int64()))


def _is_time(kind: pa.DataType) -> bool:
    # Another unit than ns has lost digits.
    return bool(pa.types.is_int64(kind) or (pa.types.is_timestamp(kind) and kind.unit == "ns"))


TIMES = Kind(TIME, _encode_times, _decode_times, _is_time)


# -------------------------------------------------------------------------------------------- texts


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text: plain, large, as views, or dictionary-coded."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def _to_texts(array: pa.Array) -> list[str | None]:
    if not isinstance(array, pa.DictionaryArray):
        return _to_list(array)
    texts = array.dictionary.to_pylist()
    return [None if index is None else texts[index] for index in array.indices.to_pylist()]


def _encode_categories(values: Sequence[Any]) -> pa.Array:
    """Return a dictionary-coded array; the usual case, one text in all rows, is made at once."""
    first = values[0] if values else None
    if first is None or values.count(first) != len(values):
        return pa.array(values, CATEGORY)
    indices = pa.repeat(pa.scalar(0, pa.int32()), len(values))
    return pa.DictionaryArray.from_arrays(indices, pa.array([first], TEXT))


TEXTS = Kind(TEXT, _encoder(TEXT), _to_texts, is_text)
CATEGORIES = Kind(CATEGORY, _encode_categories, _to_texts, is_text)


# ---------------------------------------------------------------------------------------------- ids


def _encode_ids(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.int64()).cast(TEXT)
    except REFUSALS:  # some ids are names, or longer than 64 bits
        return pa.array([None if value is None else str(value) for value in values], TEXT)


def _encode_numbers(values: Sequence[Any]) -> pa.Array:
    """Return the ids that are numbers of 64 bits, and null for names, longer numbers and None."""
    try:
        return pa.array(values, pa.int64())
    except REFUSALS:
        return pa.array(list(map(_fitting, values)), pa.int64())


def _fitting(value: Any) -> int | None:
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


IDS = Kind(TEXT, _encode_ids, _to_texts, is_text)
NUMBERS = Kind(pa.int64(), _encode_numbers, _to_list, pa.types.is_integer)


# ------------------------------------------------------------------------------- levels, lists, events


def _level_texts(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, TEXT)
    except pa.ArrowTypeError:  # a book of Decimals; any other type is refused
        texts = [str(value) if isinstance(value, Decimal) else value for value in values]
        return pa.array(texts, TEXT)


def _spread(values: Sequence[Any]) -> tuple[pa.Array, list[Any], pa.Array | None]:
    """Return the offsets, the items and the nulls of an Arrow list for lists of Python."""
    present = [value or () for value in values]
    offsets = pa.array([0, *accumulate(map(len, present))], pa.int32())
    missing = [value is None for value in values]
    mask = pa.array(missing, pa.bool_()) if any(missing) else None
    return offsets, list(chain.from_iterable(present)), mask


def _items(array: pa.Array) -> pa.Array:
    """Return the items of all lists of an Arrow list array, and no others where it is a slice."""
    first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
    return array.values.slice(first, last - first)


def _gathered(array: pa.Array, items: list[Any]) -> list[Any]:
    """Return the lists of an Arrow list array from its items as one list."""
    bounds = array.offsets.to_pylist()
    lists: list[Any] = [
        items[start - bounds[0] : end - bounds[0]] for start, end in pairwise(bounds)
    ]
    if array.null_count:
        valid = array.is_valid().to_pylist()
        lists = [found if known else None for found, known in zip(lists, valid, strict=True)]
    return lists


def _encode_levels(values: Sequence[Any]) -> pa.Array:
    offsets, pairs, mask = _spread(values)
    prices = _level_texts([price for price, _ in pairs])
    sizes = _level_texts([size for _, size in pairs])
    levels = pa.StructArray.from_arrays([prices, sizes], fields=list(LEVEL))
    return pa.ListArray.from_arrays(offsets, levels, mask=mask)


def _decode_levels(array: pa.Array) -> list[Any]:
    prices, sizes = (_to_texts(_items(array).field(number)) for number in (0, 1))
    return _gathered(array, list(map(list, zip(prices, sizes, strict=True))))


def _is_levels(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    level = kind.value_type
    return (
        pa.types.is_struct(level)
        and [field.name for field in level] == ["price", "size"]
        and all(is_text(field.type) for field in level)
    )


BOOK_LEVELS = Kind(LEVELS, _encode_levels, _decode_levels, _is_levels)


def _encode_events(values: Sequence[Any]) -> pa.Array:
    return pa.array([None if event is None else encode(event) for event in values], TEXT)


def _decode_events(array: pa.Array) -> list[Any]:
    return [None if line is None else decode(line) for line in _to_texts(array)]


EVENTS = Kind(TEXT, _encode_events, _decode_events, is_text)


def lists(items: Kind, container: type) -> Kind:
    """Return the kind of lists or tuples of a kind of items."""

    def encode_lists(values: Sequence[Any]) -> pa.Array:
        offsets, flat, mask = _spread(values)
        return pa.ListArray.from_arrays(offsets, items.encode(flat), mask=mask)

    def decode_lists(array: pa.Array) -> list[Any]:
        found = _gathered(array, items.decode(_items(array)))
        return [None if value is None else container(value) for value in found]

    def accepts(kind: pa.DataType) -> bool:
        return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and items.accepts(
            kind.value_type
        )

    return Kind(pa.list_(items.type), encode_lists, decode_lists, accepts)
