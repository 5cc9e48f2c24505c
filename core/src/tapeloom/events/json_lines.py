"""Encode events as lines of JSON and decode them again, without loss.

Prices and sizes are strings with every digit that the venue wrote, in plain decimal notation; numbers
with more than 40 zeros that the venue did not write are in scientific notation. Times are whole nanoseconds. A bar also has `timestamp`, its start as ISO 8601 UTC.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from .control import Event, Reject
from .market import Bar, Book, Levels
from .registry import BY_TYPE

__all__ = ["decode", "encode"]

#: What reading a line that is not an event can raise.
_MALFORMED = (KeyError, TypeError, ArithmeticError, AttributeError, ValueError, RecursionError)


#: Maximum number of zeros that plain notation may add to the digits of a number.
_MAX_ZEROS = 40


def plain(number: Decimal) -> str:
    """Return *number* in plain decimal notation, or in scientific notation where that is much longer.

    1E-999999 has a million characters in plain notation.
    """
    text = str(number)
    if "E" not in text:
        return text
    return format(number, "f") if -_MAX_ZEROS <= number.adjusted() <= _MAX_ZEROS else text


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _shape(cls: type[Event]) -> Callable[[Event], dict[str, Any]]:
    names = [field.name for field in attrs.fields(cls)]

    def shape(event: Event) -> dict[str, Any]:
        shaped = {"type": cls.type}
        for name in names:
            shaped[name] = _plain(getattr(event, name))
        return shaped

    return shape


def _shape_book(event: Event) -> dict[str, Any]:
    shaped = _BASE[Book](event)
    return {name.removeprefix("raw_"): value for name, value in shaped.items()}


def _shape_bar(event: Event) -> dict[str, Any]:
    shaped = _BASE[Bar](event)
    start = event.time.isoformat().replace("+00:00", "Z")
    return {**dict(list(shaped.items())[:3]), "timestamp": start, **dict(list(shaped.items())[3:])}


def _shape_reject(event: Event) -> dict[str, Any]:
    shaped = _BASE[Reject](event)
    inner = shaped.pop("event")
    return {**shaped, "event": None if inner is None else _SHAPES[type(inner)](inner)}


_BASE = {cls: _shape(cls) for cls in BY_TYPE.values()}
_SHAPES = {**_BASE, Book: _shape_book, Bar: _shape_bar, Reject: _shape_reject}


def encode(event: Event) -> str:
    """Return *event* as one line of JSON, without the newline."""
    return json.dumps(_SHAPES[type(event)](event), separators=(",", ":"), ensure_ascii=False)


def decode(line: str | bytes) -> Event:
    """Return the event that `encode` wrote as this line.

    Raises ValueError if the line is not an event.
    """
    try:
        return _build(json.loads(line))
    except _MALFORMED as error:
        raise ValueError(f"expected an event as JSON, got {line[:200]!r}: {error!r}") from error


def _build(fields: dict[str, Any]) -> Event:
    cls = BY_TYPE[fields.pop("type")]
    if cls is Bar:
        fields.pop("timestamp", None)
    elif cls is Book:
        fields["raw_bids"], fields["raw_asks"] = fields.pop("bids"), fields.pop("asks")
    read = _READERS[cls]
    return cls(**{name: read[name](value) for name, value in fields.items()})


def _read_levels(value: Any) -> list[list[str]]:
    if not all(len(level) == 2 and all(type(text) is str for text in level) for level in value):
        raise ValueError("levels must be pairs of strings")
    return list(value)


def _reader(kind: Any) -> Callable[[Any], Any]:
    """Return the function that converts and checks a JSON value for a field of type *kind*."""
    if kind == Levels:
        return _read_levels
    if kind == Decimal:
        return _read_decimal
    if get_origin(kind) is Literal:
        return _literal(get_args(kind))
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return _any_of([_reader(part) for part in get_args(kind)])
    if kind in _SHAPES:
        return _read_event
    return _exactly(kind)


def _read_decimal(value: Any) -> Decimal:
    if type(value) is not str:
        raise TypeError(f"expected a number as a string, got {value!r}")
    return Decimal(value)


def _read_event(value: Any) -> Event:
    return _build(value)


def _literal(words: tuple[Any, ...]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if value not in words:
            raise ValueError(f"{value!r} is not one of {words}")
        return value

    return read


def _exactly(kind: Any) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, got {value!r}")
        return value

    return read


def _any_of(readers: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        for reader in readers:
            try:
                return reader(value)
            except (TypeError, ValueError, AttributeError, KeyError):
                continue
        raise ValueError(f"no allowed type accepts {value!r}")

    return read


_READERS = {
    cls: {
        field.name: _reader(kind)
        for field, kind in ((field, get_type_hints(cls)[field.name]) for field in attrs.fields(cls))
    }
    for cls in BY_TYPE.values()
}
