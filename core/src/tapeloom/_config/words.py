"""Types and values in the words of a person who writes TOML."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from .secret import Secret

_LONGEST = 60
_SEQUENCES: dict[Any, Callable[[Iterable[Any]], Any]] = {
    AbstractSet: frozenset,
    Collection: tuple,
    Iterable: tuple,
    Sequence: tuple,
    frozenset: frozenset,
    list: list,
    set: set,
    tuple: tuple,
}
_ONE: dict[Any, str] = {
    bool: "true or false",
    date: "a date",
    datetime: "a date and time",
    Decimal: "a number",
    float: "a number",
    int: "a whole number",
    Path: "a path",
    Secret: '{ env = "NAME" } or { file = "path" }',
    str: "a string",
    time: "a time of day",
    types.NoneType: "nothing",
}
_MANY: dict[Any, str] = {
    bool: "true and false",
    Decimal: "numbers",
    float: "numbers",
    int: "whole numbers",
    object: "strings",  # whoever takes anything in an array checks it by itself
    str: "strings",
}


def wanted(type_: Any) -> str:
    """Say what a value of *type_* looks like."""
    if type_ in _ONE:
        return _ONE[type_]
    if get_origin(type_) is Literal:
        values = ", ".join(repr(value) for value in get_args(type_))
        return f"one of {values}" if len(get_args(type_)) > 1 else values
    if is_union(type_):
        members = [member for member in get_args(type_) if member is not types.NoneType]
        return " or ".join(dict.fromkeys(wanted(member) for member in members))
    if (item := item_type(type_)) is not None:
        return f"an array of {_MANY[item]}" if item in _MANY else "an array"
    return "a table" if isinstance(type_, type) or get_origin(type_) else "another value"


def shown(value: object) -> str:
    """Say what came, short enough for one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {_cut(repr(value))}"
    if isinstance(value, int | float | Decimal):
        return f"the number {_cut(str(value))}"
    if isinstance(value, date | time):
        return f"the date or time {value}"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "an array"
    return "nothing" if value is None else f"a {type(value).__name__}"


def secretive(type_: Any) -> bool:
    """Say whether a value of *type_* may be a secret, so that what came must not be shown."""
    return type_ is Secret or any(secretive(one) for one in get_args(type_))


def is_union(type_: Any) -> bool:
    """Say whether *type_* is written as ``X | Y``, `Union` or `Optional`."""
    return get_origin(type_) in {Union, types.UnionType}


def item_type(type_: Any) -> Any:
    """Return the type of the items of a sequence or a set; None where *type_* is neither.

    A tuple whose items differ in type is no sequence here.
    """
    origin = get_origin(type_) or type_
    if origin not in _SEQUENCES:
        return None
    args = get_args(type_)
    if not args:
        return Any
    if origin is tuple and args[1:] != (...,):
        return None
    return args[0]


def sequence_class(type_: Any) -> Callable[[Iterable[Any]], Any]:
    """Return what makes a sequence or a set of *type_*."""
    return _SEQUENCES[get_origin(type_) or type_]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
