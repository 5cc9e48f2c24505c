"""The columns of an event class, derived from the fields and type hints of its attrs class.

Numbers are `numeric`, which keeps every digit; times are `bigint` in ns, because a `timestamptz` ends at
microseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import attrs
from tapeloom.errors import BatchRefused
from tapeloom.events import BaseEvent, Levels, encode

__all__ = ["Column", "Encoded", "columns", "level_text"]

#: A column of a batch in a COPY: the text that all rows have, or for each row what `str` makes the text of.
Encoded: TypeAlias = str | Sequence[object]
#: Encodes the values of one field.
Encode: TypeAlias = Callable[[Sequence[Any]], Encoded]

NULL = r"\N"
#: The characters that have a meaning in the text form of COPY.
_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPED = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
#: The range of `bigint`.
_MIN_BIGINT, _MAX_BIGINT = -(2**63), 2**63 - 1
#: What levels of books may consist of, so that they cannot be read as others in an array.
_LEVEL_TEXT = re.compile(r"[0-9.eE+-]*")


@attrs.frozen
class Column:
    """A column of the table of an event class."""

    name: str
    type: str  #: PostgreSQL's type, as `format_type` writes it.
    field: str  #: The field of the event whose values it has.
    encode: Encode


def _escape(text: str) -> str:
    return _SPECIAL.sub(lambda match: _ESCAPED[match[0]], text)


def _texts(values: Sequence[str | None]) -> Encoded:
    """Encode texts. Most columns of a batch have one value, or few."""
    first = values[0]
    if values.count(first) == len(values):
        return NULL if first is None else _escape(first)
    if None in values:
        return [NULL if value is None else _escape(value) for value in values]
    return [*map(_escape, values)] if _SPECIAL.search("".join(values)) else values  # type: ignore[arg-type]


def _integers(values: Sequence[int | None]) -> Encoded:
    if None in values:
        return [NULL if value is None else value for value in values]
    return values


def _floats(values: Sequence[float | None]) -> Encoded:
    return [NULL if value is None else repr(value) for value in values]


def _decimals(values: Sequence[Decimal | None]) -> Encoded:
    """Encode numbers, with all their digits. PostgreSQL refuses those that `numeric` cannot hold exactly."""
    # By type: to compare a Decimal with None takes longer than all the rest.
    if set(map(type, values)) == {Decimal}:
        return list(map(str, values))
    return [NULL if value is None else str(value) for value in values]


def _booleans(values: Sequence[bool | None]) -> Encoded:
    return [NULL if value is None else "t" if value else "f" for value in values]


def _ids(values: Sequence[int | str | None]) -> Encoded:
    if set(map(type, values)) == {int}:
        return values
    return _texts([None if value is None else str(value) for value in values])


def _numbers_of_ids(values: Sequence[int | str | None]) -> Encoded:
    """Encode the ids that are numbers. Those that `bigint` cannot hold are texts only."""
    return [
        value if type(value) is int and _MIN_BIGINT <= value <= _MAX_BIGINT else NULL
        for value in values
    ]


def level_text(levels: Levels) -> str:
    """Return the levels of a book as a two-dimensional array. Raises BatchRefused for what is none."""
    try:
        pairs = [f"{{{price},{size}}}" for price, size in levels]
        parts = "".join([f"{price}{size}" for price, size in levels])
    except (TypeError, ValueError):
        raise BatchRefused("a level of a book is no pair of price and size.") from None
    if not _LEVEL_TEXT.fullmatch(parts):
        raise BatchRefused("a level of a book has a price or size that is no number.")
    return f"{{{','.join(pairs)}}}"


def _levels(values: Sequence[Levels | None]) -> Encoded:
    return [NULL if value is None else level_text(value) for value in values]


def _shaped(value: Any) -> Any:
    """Return a value of any field as JSON has it; numbers with decimals as texts, to keep them exact."""
    if isinstance(value, BaseEvent):
        return json.loads(encode(value))
    if isinstance(value, tuple | list):
        return [_shaped(item) for item in value]
    return str(value) if isinstance(value, Decimal) else value


def _json(values: Sequence[Any]) -> Encoded:
    """Encode values of other types as JSON, in ASCII: it then holds texts that PostgreSQL cannot."""
    return [
        NULL if value is None else _escape(json.dumps(_shaped(value), separators=(",", ":")))
        for value in values
    ]


#: PostgreSQL's type and the encoder, by the type of a field.
_SCALARS: dict[Any, tuple[str, Encode]] = {
    Decimal: ("numeric", _decimals),
    int: ("bigint", _integers),
    str: ("text", _texts),
    bool: ("boolean", _booleans),
    float: ("double precision", _floats),
    Levels: ("numeric[]", _levels),
}


def columns(event_class: type[BaseEvent]) -> tuple[Column, ...]:
    """Return the columns of an event class, in the order of its fields.

    Raises BatchRefused if a type hint names something that its module does not know.
    """
    try:
        hints = get_type_hints(event_class)
    except NameError as error:
        raise BatchRefused(
            f"the type hints of {event_class.__name__} cannot be read: {error}."
            " Import the name outside `if TYPE_CHECKING`."
        ) from None
    names = [attribute.name for attribute in attrs.fields(event_class)]  # type: ignore[arg-type]
    return tuple(column for name in names for column in _columns(name, hints[name]))


def _columns(name: str, hint: Any) -> list[Column]:
    parts = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    parts.discard(NoneType)
    if parts == {int, str}:
        number = "seq" if name == "id" else f"{name.removesuffix('_id')}_seq"
        return [Column(name, "text", name, _ids), Column(number, "bigint", name, _numbers_of_ids)]
    if all(part is str or _is_words(part) for part in parts):
        parts = {str}
    kind, encode_values = (
        _SCALARS.get(parts.pop(), ("json", _json)) if len(parts) == 1 else ("json", _json)
    )
    # The names that a book's levels have in its JSON form.
    shown = name.removeprefix("raw_") if kind == "numeric[]" else name
    return [Column(shown, kind, name, encode_values)]


def _is_words(hint: Any) -> bool:
    return get_origin(hint) is Literal and all(type(text) is str for text in get_args(hint))
