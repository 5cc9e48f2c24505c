"""A strict cattrs converter: values of the wrong type raise errors instead of being converted.

A string is never read as a number, nor a number as a string. Only three conversions are allowed: a
whole number for a float, a number or a numeric string for a Decimal, one string for a tuple of strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import (
    IterableValidationError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)

from tapeloom.errors import MASK, Mistake, nearest

from .descriptions import describe, describe_type, has_secret, is_union, item_type, sequence_class
from .secret import Secret

#: A cattrs structure hook: reads a value as a type.
Read: TypeAlias = Callable[[Any, Any], Any]


class BadValueError(ValueError):
    """A value that cannot be used; the message is shown to the user."""


class WrongTypeError(BadValueError):
    """A value of the wrong type."""

    def __init__(self, type_: Any, value: object, hint: str = "") -> None:
        if type_ is Secret:
            problem = f"a secret must not be in the stack itself: write {describe_type(Secret)}"
        else:
            received = "something else" if has_secret(type_) else describe(value)
            problem = f"expected {describe_type(type_)}, got {received}.{hint}".removesuffix(".")
        super().__init__(problem)


@attrs.define
class Context:
    """State of one call of `structure`: the folder of relative paths, and the secrets read so far."""

    folder: Path
    secrets: list[str] = attrs.Factory(list)

    def mask(self, mistake: Mistake) -> Mistake:
        """Return *mistake* with every secret in its text masked."""
        problem = mistake.problem
        for secret in self.secrets:
            problem = problem.replace(secret, MASK)
        return Mistake(mistake.place, problem)


#: The context of the running call of `structure`.
CONTEXT: ContextVar[Context] = ContextVar("CONTEXT")


# ----------------------------------------------------------------------------------------- scalars


def _exact(type_: type, *also: type) -> Read:
    def read(value: Any, _: Any) -> Any:
        if type(value) not in {type_, *also}:
            raise WrongTypeError(type_, value)
        return value

    return read


def _float(value: Any, _: Any) -> float:
    if type(value) not in {int, float} or value != value:
        raise WrongTypeError(float, value)
    return float(value)


def _decimal(value: Any, _: Any) -> Decimal:
    """Read a float by the digits that the file shows, not by its binary value."""
    if type(value) not in {str, int, float, Decimal}:
        raise WrongTypeError(Decimal, value)
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise WrongTypeError(Decimal, value) from None
    if not number.is_finite():
        raise WrongTypeError(Decimal, value)
    return number


def _path(value: Any, _: Any) -> Path:
    if not isinstance(value, str | Path):
        raise WrongTypeError(Path, value)
    return Path(value)


def _secret(value: Any, _: Any) -> Secret:
    if not isinstance(value, Mapping | Secret):
        raise WrongTypeError(Secret, value)
    context = CONTEXT.get()
    secret = Secret.read(value, context.folder)
    context.secrets.append(secret.reveal())
    return secret


def _literal(type_: Any) -> Read:
    allowed = get_args(type_)

    def read(value: Any, _: Any) -> Any:
        for choice in allowed:
            if choice == value and type(choice) is type(value):
                return choice
        names = [choice for choice in allowed if isinstance(choice, str)]
        hint = nearest(value, names) if isinstance(value, str) else ""
        raise WrongTypeError(type_, value, hint)

    return read


# --------------------------------------------------------------------------------------- compounds


def _union(type_: Any, strict: cattrs.Converter) -> Read:
    members = [member for member in get_args(type_) if member is not type(None)]
    reads = {member: strict.get_structure_hook(member) for member in members}
    optional = len(members) < len(get_args(type_))

    def read(value: Any, _: Any) -> Any:
        if value is None and optional:
            return None
        value_errors = []
        for member in sorted(members, key=lambda member: member is not type(value)):
            try:
                return reads[member](value, member)
            except StructureHandlerNotFoundError:
                raise
            except Exception as error:
                if len(members) == 1:
                    raise
                if not isinstance(error, WrongTypeError):
                    value_errors.append(error)
        if len(value_errors) == 1:  # the type matched one member, only its content is wrong
            raise value_errors[0]
        raise WrongTypeError(type_, value)

    return read


def _items(type_: Any, strict: cattrs.Converter) -> Read:
    item, build = item_type(type_), sequence_class(type_)
    read_item = strict.get_structure_hook(item)
    takes_bare_string = _takes_text(item)

    def read(value: Any, _: Any) -> Any:
        if isinstance(value, str) and takes_bare_string:
            return build((read_item(value, item),))
        if not isinstance(value, list | tuple | set | frozenset):
            raise WrongTypeError(type_, value)
        entries = ((index, entry, item, read_item) for index, entry in enumerate(value))
        return build(_read_all(entries, type_))

    return read


def _fixed_tuple(type_: Any, strict: cattrs.Converter) -> Read:
    """Return a reader for a tuple of fixed length whose items differ in type."""
    items = [(item, strict.get_structure_hook(item)) for item in get_args(type_)]

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise BadValueError(f"expected an array of {len(items)}, got {describe(value)}")
        if len(value) != len(items):
            raise BadValueError(f"expected an array of {len(items)}, got one of {len(value)}")
        pairs = enumerate(zip(value, items, strict=True))
        entries = ((index, entry, *item) for index, (entry, item) in pairs)
        return tuple(_read_all(entries, type_))

    return read


def _mapping(type_: Any, strict: cattrs.Converter) -> Read:
    item = get_args(type_)[1] if get_args(type_) else Any
    read_item = strict.get_structure_hook(item)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise WrongTypeError(type_, value)
        entries = ((key, entry, item, read_item) for key, entry in value.items())
        return dict(zip(value, _read_all(entries, type_), strict=True))

    return read


def _read_all(entries: Iterator[tuple[Any, Any, Any, Read]], type_: Any) -> list[Any]:
    """Return the values of *entries*: key or index, value, type and reader of each item of *type_*.

    Raises IterableValidationError with the errors of all items.
    """
    values, errors = [], []
    for index, value, item, read in entries:
        try:
            values.append(read(value, item))
        except Exception as error:
            error.add_note(IterableValidationNote(f"at {index!r}", index, item))
            errors.append(error)
    if errors:
        raise IterableValidationError("items", errors, type_)
    return values


def _takes_text(type_: Any) -> bool:
    if is_union(type_):
        return any(_takes_text(member) for member in get_args(type_))
    return type_ in {str, Any, object} or get_origin(type_) is Literal


def converter() -> cattrs.Converter:
    """Return a strict converter for every supported type except attrs classes."""
    strict = cattrs.Converter(detailed_validation=True, forbid_extra_keys=True)
    for type_ in (int, bool, str, datetime, date, time):
        strict.register_structure_hook(type_, _exact(type_))
    strict.register_structure_hook(float, _float)
    strict.register_structure_hook(Decimal, _decimal)
    strict.register_structure_hook(Path, _path)
    strict.register_structure_hook(Secret, _secret)
    strict.register_structure_hook_func(lambda type_: type_ is object, lambda value, _: value)
    factories: dict[Callable[[Any], bool], Any] = {
        lambda type_: get_origin(type_) is Literal: _literal,
        is_union: _union,
        lambda type_: get_origin(type_) is tuple and item_type(type_) is None: _fixed_tuple,
        lambda type_: item_type(type_) is not None: _items,
        lambda type_: get_origin(type_) in {dict, Mapping} or type_ in {dict, Mapping}: _mapping,
    }
    for applies_to, factory in factories.items():
        strict.register_structure_hook_factory(applies_to, factory)
    return strict
