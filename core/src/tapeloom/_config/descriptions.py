"""Descriptions of Python types and values for error messages, in the terms of somebody who writes TOML."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from .secret import Secret

#: Characters of a value that an error message shows: a message with it still fits on one line.
_MAX_SHOWN = 60
#: The sequence and set types that settings may declare, with the class that their values become.
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
#: What a single value of a type is called.
_SINGULAR: dict[Any, str] = {
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
#: What the items of an array of a type are called.
_PLURAL: dict[Any, str] = {
    bool: "true and false",
    Decimal: "numbers",
    float: "numbers",
    int: "whole numbers",
    object: "strings",  # a converter that accepts any items checks them itself; all of ours want strings
    str: "strings",
}


def describe_type(type_: Any) -> str:
    """Return what a value of *type_* looks like in TOML, such as "an array of strings"."""
    if type_ in _SINGULAR:
        return _SINGULAR[type_]
    if get_origin(type_) is Literal:
        values = ", ".join(repr(value) for value in get_args(type_))
        return f"one of {values}" if len(get_args(type_)) > 1 else values
    if is_union(type_):
        members = [member for member in get_args(type_) if member is not types.NoneType]
        return " or ".join(dict.fromkeys(describe_type(member) for member in members))
    if (item := item_type(type_)) is not None:
        return f"an array of {_PLURAL[item]}" if item in _PLURAL else "an array"
    return "a table" if isinstance(type_, type) or get_origin(type_) else "another value"


def describe(value: object) -> str:
    """Return the kind and content of *value*, such as "the string 'abc'", shortened to one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {_shorten(repr(value))}"
    if isinstance(value, int | float | Decimal):
        return f"the number {_shorten(str(value))}"
    if isinstance(value, date | time):
        return f"the date or time {value}"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "an array"
    return "nothing" if value is None else f"a {type(value).__name__}"


def has_secret(type_: Any) -> bool:
    """Return whether *type_* is or contains `Secret`, so that messages must not show its value."""
    return type_ is Secret or any(has_secret(argument) for argument in get_args(type_))


def is_union(type_: Any) -> bool:
    """Return whether *type_* is written as ``X | Y``, `Union` or `Optional`."""
    return get_origin(type_) in {Union, types.UnionType}


def item_type(type_: Any) -> Any:
    """Return the item type of a sequence or set type; None for any other type.

    A tuple type whose items differ in type does not count as a sequence here.
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
    """Return the class that values of the sequence or set type *type_* are built with."""
    return _SEQUENCES[get_origin(type_) or type_]


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
