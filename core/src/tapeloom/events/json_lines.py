"""Encode events as lines of JSON and decode them again, without loss.

Prices and sizes are strings with every digit that the venue wrote, in plain decimal notation; numbers
with more than 40 zeros that the venue did not write are in scientific notation. Times are whole nanoseconds. A bar
also has `timestamp`, its start as ISO 8601 UTC.

The JSON form is derived from the fields of the class, when its first event is encoded or decoded; so a plugin's
own event class has one, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from json.encoder import encode_basestring
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin, get_type_hints

import attrs

from .base import BY_TYPE, BaseEvent
from .control import Event
from .market import Bar, Book, Levels

__all__ = ["decode", "encode"]

#: What reading a line that is not an event can raise.
_MALFORMED = (KeyError, TypeError, ArithmeticError, AttributeError, ValueError, RecursionError)
#: The kinds of field that JSON has too: they are written as they are.
_AS_IS = (str, int, bool, NoneType)
_UNIONS = (UnionType, Union)
_Reader: TypeAlias = Callable[[Any], Any]

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


def _number(value: Decimal) -> str:
    text = str(value)
    return f'"{text}"' if "E" not in text else f'"{plain(value)}"'


def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else _number(Decimal(value))


def _items(value: list[Any] | tuple[Any, ...]) -> str:
    return f"[{','.join([_WRITERS[type(item)](item) for item in value])}]"


def _time(value: datetime) -> str:
    return f'"{value.isoformat().replace("+00:00", "Z")}"'


class _Writers(dict[type, Callable[[Any], str]]):
    """The functions that write values as JSON, by their type. One at a time they cost less than `json`."""

    def __missing__(self, kind: type) -> Callable[[Any], str]:
        writer: Callable[[Any], str] = encode if issubclass(kind, BaseEvent) else _to_json
        for base in (Decimal, list, tuple):
            writer = self[base] if issubclass(kind, base) else writer
        return writer


_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_WRITERS = _Writers({
    str: encode_basestring, int: int.__repr__, Decimal: _number, list: _items, tuple: _items,
    float: _float, datetime: _time,
})  # fmt: skip


class _Form(NamedTuple):
    """The JSON form of an event class: how its events are written, and the readers of its fields."""

    template: str  #: a line with %s for each value
    values: Callable[[Event], tuple[Any, ...]]  #: returns the values of an event
    readers: dict[str, _Reader]


class _Forms(dict[type[Event], _Form]):
    """The forms by class; one is derived when it is first asked for, since plugins have classes, too."""

    def __missing__(self, cls: Any) -> _Form:
        if "__attrs_attrs__" not in vars(cls):
            raise TypeError(f"{cls.__qualname__} is no event class. Write @event_class above it.")
        place, readers = cls.__qualname__, {}
        try:
            kinds = get_type_hints(cls)
            for name in attrs.fields_dict(cls):
                place = f"{cls.__qualname__}.{name}"
                readers[name] = _reader(kinds[name])
        except (NameError, TypeError) as error:
            hint = ". Import it outside TYPE_CHECKING." if isinstance(error, NameError) else ""
            raise TypeError(f"{place}: {error}{hint}") from None
        names = ["type", *readers]
        # `timestamp` is a property of bars, not a field.
        names[3:3] = ["timestamp"] if cls is Bar else []
        prefix = "raw_" if cls is Book else ""
        pairs = [f'"{name.removeprefix(prefix)}":%s' for name in names]
        self[cls] = _Form(f"{{{','.join(pairs)}}}", attrgetter(*names), readers)
        return self[cls]


_FORMS = _Forms()


def encode(event: Event) -> str:
    """Return *event* as one line of JSON, without the newline.

    Raises TypeError if its class is no event class, or has a field that JSON cannot hold.
    """
    template, values, _ = _FORMS[type(event)]
    return template % tuple([_WRITERS[type(value)](value) for value in values(event)])


def decode(line: str | bytes) -> Event:
    """Return the event that `encode` wrote as this line.

    Raises ValueError if the line is not an event, or its class has not been imported.
    """
    try:
        return _build(json.loads(line))
    except _MALFORMED as error:
        raise ValueError(f"expected an event as JSON, got {line[:200]!r}: {error!r}") from error


def _build(fields: dict[str, Any]) -> Event:
    name = fields.pop("type")
    if name not in BY_TYPE:
        raise ValueError(f"no event type {name!r} is known. Import the module that defines it")
    cls: Any = BY_TYPE[name]
    if cls is Bar:
        fields.pop("timestamp", None)
    elif cls is Book:
        fields["raw_bids"], fields["raw_asks"] = fields.pop("bids"), fields.pop("asks")
    readers = _FORMS[cls].readers
    event: Event = cls(**{name: readers[name](value) for name, value in fields.items()})
    return event


def _reader(kind: Any) -> _Reader:
    """Return the function that converts and checks a JSON value for a field of type *kind*.

    Raises TypeError if JSON cannot hold such a field so that it is read again without loss.
    """
    origin, kinds = get_origin(kind), get_args(kind)
    if kind in _READERS:
        return _READERS[kind]
    if origin in _UNIONS or _is_as_is(kind) or _is_event(kind):
        return _union(_parts(kind))
    if origin in (list, tuple):
        return _array(origin, kinds)
    allowed = (
        "str, int, float, bool, Decimal, None, Literal, events, and list, tuple, unions of these"
    )
    raise TypeError(f"JSON has no form for {kind!r}. Use {allowed}.")


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in _UNIONS else (kind,)


def _is_event(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseEvent)


def _is_as_is(kind: Any) -> bool:
    """Return whether values of *kind* are the same in JSON: these types, or the choices of a Literal."""
    return all(
        part in _AS_IS
        or (
            get_origin(part) is Literal and all(type(choice) in _AS_IS for choice in get_args(part))
        )
        for part in _parts(kind)
    )


def _read_levels(value: Any) -> list[list[str]]:
    if not all(len(level) == 2 and all(type(text) is str for text in level) for level in value):
        raise ValueError("levels must be pairs of strings")
    return list(value)


def _read_decimal(value: Any) -> Decimal:
    if type(value) is not str:
        raise TypeError(f"expected a number as a string, got {value!r}")
    return Decimal(value)


def _read_float(value: Any) -> float:
    # Type checkers allow whole numbers, too. NaN and infinity are text: JSON has no such numbers.
    return value if type(value) in (float, int) else float(_read_decimal(value))


def _array(build: _Reader, kinds: tuple[Any, ...]) -> _Reader:
    is_repeated = build is list or kinds[1:] == (...,)
    readers = [_reader(kind) for kind in kinds if kind is not ...]

    def read(value: Any) -> Any:
        if type(value) is not list:
            raise TypeError(f"expected an array, got {value!r}")
        expected = readers * len(value) if is_repeated else readers
        return build(reader(item) for reader, item in zip(expected, value, strict=True))

    return read


_READERS: dict[Any, _Reader] = {Decimal: _read_decimal, float: _read_float, Levels: _read_levels}


def _union(kinds: tuple[Any, ...]) -> _Reader:
    """Return the reader of a field of these kinds, at most one of which is converted, beside events."""
    events = tuple(kind for kind in kinds if _is_event(kind))
    as_is = frozenset(kind for kind in kinds if _is_as_is(kind))
    choices = [choice for kind in as_is for choice in get_args(kind)]
    converted = [kind for kind in kinds if kind not in as_is and kind not in events]
    is_text = bool(choices) or str in as_is
    if len(converted) > 1 or (is_text and not {Decimal, float}.isdisjoint(converted)):
        raise TypeError(f"in JSON, some of {kinds!r} look alike. Use fewer kinds.")
    reader = _reader(converted[0]) if converted else None
    if (
        reader is not None and as_is == {NoneType} and not events
    ):  # the most frequent one, in fewer steps
        return lambda value: None if value is None else reader(value)

    def read(value: Any) -> Any:
        if type(value) in as_is or value in choices:
            return value
        if events and type(value) is dict and isinstance(event := _build(value), events):
            return event
        if reader is None:
            raise ValueError(f"expected one of {kinds!r}, got {value!r}")
        return reader(value)

    return read
