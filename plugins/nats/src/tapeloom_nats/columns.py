"""Encodes batches of events as columns in MessagePack, exactly.

Events of one class are stored by column: Decimals as texts with every digit, a column of equal values as one.
Events of a class with other fields, such as a Reject with its event, are stored as lines of JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from itertools import starmap
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import msgspec
from tapeloom.events import BY_TYPE, Event, Levels, decode, encode

__all__ = ["pack", "unpack"]

#: The types that MessagePack holds exactly. The levels of a book are arrays of texts.
_PLAIN = frozenset({int, str, bool, float, NoneType, Levels})

#: What reading bytes that are not a batch can raise.
_MALFORMED = (
    msgspec.DecodeError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, MemoryError,
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Any])


def pack(events: Sequence[Event]) -> bytes:
    """Return *events* as bytes, from which `unpack` returns equal ones in the same order."""
    try:
        return _encoder.encode(_groups(events, _group))
    except (OverflowError, UnicodeEncodeError, TypeError):
        # A number of more than 64 bits, half of a surrogate pair, or a value of another type than its
        # field has; none of them is seen in practice.
        return _encoder.encode(_groups(events, _lines))


def unpack(body: bytes) -> list[Event]:
    """Return the events that `pack` encoded.

    Raises ValueError if *body* is not from `pack`, or has a class or a field that is not known here.
    """
    try:
        groups = _decoder.decode(body)
        if len(groups) == 1:
            return _events(*groups[0][:3])
        out: list[Any] = [None] * sum(count for _, count, _, _ in groups)
        for name, count, columns, indexes in groups:
            for index, event in zip(indexes, _events(name, count, columns), strict=True):
                out[index] = event
    except _MALFORMED as error:
        raise ValueError(f"expected a batch of events, got {body[:100]!r}: {error!r}") from error
    return out


def _groups(events: Sequence[Event], group: Callable[[Any, Sequence[Event]], Any]) -> list[Any]:
    """Return for each class its name, their number, its events as *group* returns them, and their indexes.

    If all events have one class, the indexes are None.
    """
    cls: Any = type(events[0])
    if len(set(map(type, events))) == 1:
        return [(cls.type, len(events), group(cls, events), None)]
    by_class: dict[Any, list[int]] = {}
    for index, event in enumerate(events):
        by_class.setdefault(type(event), []).append(index)
    return [
        (cls.type, len(indexes), group(cls, [events[index] for index in indexes]), indexes)
        for cls, indexes in by_class.items()
    ]


def _group(cls: Any, events: Sequence[Event]) -> Any:
    """Return the columns by name, or the lines, of events of one class."""
    shape = _shape(cls)
    if shape is None:
        return _lines(cls, events)
    columns = shape.columns(events)
    count = len(events)
    for name in shape.equal:
        column = columns[name]
        first = column[0]
        if first == column[-1] and column == [first] * count:
            columns[name] = [first]
    return columns  # the encoder writes Decimals as texts with every digit


def _lines(cls: Any, events: Sequence[Event]) -> list[bytes]:
    return [encode(event).encode(errors="surrogatepass") for event in events]


def _events(name: str, count: int, columns: Any) -> list[Event]:
    if isinstance(columns, list):
        return [decode(line.decode(errors="surrogatepass")) for line in columns]
    cls: Any = BY_TYPE[name]
    shape = _shape(cls)
    if shape is None:
        raise TypeError(f"expected lines of {name!r}, got columns")
    numbers = shape.numbers
    read: list[Any] = []
    for field, column in columns.items():
        values = column * count if len(column) == 1 else column
        read.append(_decimals(values) if field in numbers else values)
    if (*columns,) == shape.names:
        return list(starmap(cls, zip(*read, strict=True)))
    return [cls(**dict(zip(columns, row, strict=True))) for row in zip(*read, strict=True)]


def _decimals(texts: list[Any]) -> list[Decimal | None]:
    if None in texts:
        return [None if text is None else Decimal(text) for text in texts]
    return list(map(Decimal, texts))


@attrs.frozen
class _Shape:
    """The columns of an event class."""

    names: tuple[str, ...]  #: of all fields
    numbers: frozenset[str]  #: names of the fields that are Decimals, or None
    #: Names of the fields in which equal values are the same value; elsewhere they need not be: 1 and True,
    #: 1 and 1.0. Decimals are left out, because they are seldom all equal.
    equal: tuple[str, ...]
    columns: Callable[[Sequence[Event]], dict[str, list[Any]]]  #: returns the values of events


@cache
def _shape(cls: Any) -> _Shape | None:
    """Return the columns of *cls*; None if MessagePack cannot hold one of its fields exactly."""
    hints = get_type_hints(cls)
    numbers, equal = set(), []
    names = tuple(field.name for field in attrs.fields(cls))
    for name in names:
        kinds = _kinds(hints[name])
        if Decimal in kinds:
            if not kinds <= {Decimal, NoneType}:
                return None
            numbers.add(name)
        elif not kinds <= _PLAIN:
            return None
        elif kinds <= {int, str, NoneType} or kinds <= {bool, str, NoneType}:
            equal.append(name)
    return _Shape(names, frozenset(numbers), tuple(equal), _columns(names))


def _columns(names: Sequence[str]) -> Callable[[Sequence[Event]], dict[str, list[Any]]]:
    """Return the function that returns the values of these fields of events, by field.

    It is compiled for one class: Python then reads an attribute in less than half the time of `attrgetter`,
    which would be half of what packing costs. The names are those of fields, so they are identifiers.
    """
    values = "".join(f"{name!r}: [event.{name} for event in events], " for name in names)
    return eval(f"lambda events: {{{values}}}", {"__builtins__": {}})  # type: ignore[no-any-return]  # noqa: S307


def _kinds(hint: Any) -> frozenset[Any]:
    """Return the types that a value of this type hint can have."""
    if hint == Levels:
        return frozenset({Levels})
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return frozenset().union(*map(_kinds, get_args(hint)))
    if get_origin(hint) is Literal:
        return frozenset(type(choice) for choice in get_args(hint))
    return frozenset({hint})
