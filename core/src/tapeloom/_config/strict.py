"""Strict readers for cattrs: nothing is taken for what it is not.

A string is never read as a number, nor a number as a string. Only these are as good as each other: a
whole number for a float, a number or its text for a Decimal, one string for a tuple of strings.
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

from tapeloom.errors import Mistake, nearest

from .secret import Secret
from .words import is_union, item_type, secretive, sequence_class, shown, wanted

Read: TypeAlias = Callable[[Any, Any], Any]


class RefusedError(ValueError):
    """A value that does not do; the message is for the user."""


class ExpectedError(RefusedError):
    """A value of the wrong shape."""

    def __init__(self, type_: Any, value: object, hint: str = "") -> None:
        if type_ is Secret:
            problem = f"a secret does not stand in the stack itself: write {wanted(Secret)}"
        else:
            came = "something else" if secretive(type_) else shown(value)
            problem = f"expected {wanted(type_)}, got {came}.{hint}".removesuffix(".")
        super().__init__(problem)


@attrs.define
class Sight:
    """What one call of `structure` knows: where relative paths start, and what must not be shown."""

    folder: Path
    secrets: list[str] = attrs.Factory(list)

    def hide(self, mistake: Mistake) -> Mistake:
        """Return *mistake* without any secret in its words."""
        problem = mistake.problem
        for text in self.secrets:
            problem = problem.replace(text, "***")
        return Mistake(mistake.place, problem)


#: Set while `structure` runs.
SIGHT: ContextVar[Sight] = ContextVar("SIGHT")


# --------------------------------------------------------------------------------- scalars, strict


def _exact(type_: type, *also: type) -> Read:
    def read(value: Any, _: Any) -> Any:
        if type(value) not in {type_, *also}:
            raise ExpectedError(type_, value)
        return value

    return read


def _float(value: Any, _: Any) -> float:
    if type(value) not in {int, float} or value != value:
        raise ExpectedError(float, value)
    return float(value)


def _decimal(value: Any, _: Any) -> Decimal:
    """Take a float for the digits that the file shows, not for its binary value."""
    if type(value) not in {str, int, float, Decimal}:
        raise ExpectedError(Decimal, value)
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise ExpectedError(Decimal, value) from None
    if not number.is_finite():
        raise ExpectedError(Decimal, value)
    return number


def _path(value: Any, _: Any) -> Path:
    if not isinstance(value, str | Path):
        raise ExpectedError(Path, value)
    return Path(value)


def _secret(value: Any, _: Any) -> Secret:
    if not isinstance(value, Mapping | Secret):
        raise ExpectedError(Secret, value)
    sight = SIGHT.get()
    secret = Secret.read(value, sight.folder)
    sight.secrets.append(secret.reveal())
    return secret


def _literal(type_: Any) -> Read:
    allowed = get_args(type_)

    def read(value: Any, _: Any) -> Any:
        for one in allowed:
            if one == value and type(one) is type(value):
                return one
        words = [one for one in allowed if isinstance(one, str)]
        hint = nearest(value, words) if isinstance(value, str) else ""
        raise ExpectedError(type_, value, hint)

    return read


# --------------------------------------------------------------------------------------- compounds


def _union(type_: Any, strict: cattrs.Converter) -> Read:
    members = [member for member in get_args(type_) if member is not type(None)]
    reads = {member: strict.get_structure_hook(member) for member in members}
    optional = len(members) < len(get_args(type_))

    def read(value: Any, _: Any) -> Any:
        if value is None and optional:
            return None
        inside = []
        for member in sorted(members, key=lambda member: member is not type(value)):
            try:
                return reads[member](value, member)
            except StructureHandlerNotFoundError:
                raise
            except Exception as error:
                if len(members) == 1:
                    raise
                if not isinstance(error, ExpectedError):
                    inside.append(error)
        if len(inside) == 1:  # the shape was right, what it holds was not
            raise inside[0]
        raise ExpectedError(type_, value)

    return read


def _items(type_: Any, strict: cattrs.Converter) -> Read:
    item, build = item_type(type_), sequence_class(type_)
    each = strict.get_structure_hook(item)
    lone = _takes_text(item)

    def read(value: Any, _: Any) -> Any:
        if isinstance(value, str) and lone:
            return build((each(value, item),))
        if not isinstance(value, list | tuple | set | frozenset):
            raise ExpectedError(type_, value)
        return build(_each(((index, one, item, each) for index, one in enumerate(value)), type_))

    return read


def _row(type_: Any, strict: cattrs.Converter) -> Read:
    """Read a tuple of a known length whose items differ in type."""
    items = [(item, strict.get_structure_hook(item)) for item in get_args(type_)]

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise RefusedError(f"expected an array of {len(items)}, got {shown(value)}")
        if len(value) != len(items):
            raise RefusedError(f"expected an array of {len(items)}, got one of {len(value)}")
        pairs = enumerate(zip(value, items, strict=True))
        return tuple(_each(((i, one, item, each) for i, (one, (item, each)) in pairs), type_))

    return read


def _mapping(type_: Any, strict: cattrs.Converter) -> Read:
    item = get_args(type_)[1] if get_args(type_) else Any
    each = strict.get_structure_hook(item)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ExpectedError(type_, value)
        return dict(
            zip(
                value, _each(((k, one, item, each) for k, one in value.items()), type_), strict=True
            )
        )

    return read


def _each(items: Iterator[tuple[Any, Any, Any, Read]], type_: Any) -> list[Any]:
    done, errors = [], []
    for index, value, item, read in items:
        try:
            done.append(read(value, item))
        except Exception as error:
            error.add_note(IterableValidationNote(f"at {index!r}", index, item))
            errors.append(error)
    if errors:
        raise IterableValidationError("items", errors, type_)
    return done


def _takes_text(type_: Any) -> bool:
    if is_union(type_):
        return any(_takes_text(member) for member in get_args(type_))
    return type_ in {str, Any, object} or get_origin(type_) is Literal


def converter() -> cattrs.Converter:
    """Return a converter that reads everything but classes."""
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
        lambda type_: get_origin(type_) is tuple and item_type(type_) is None: _row,
        lambda type_: item_type(type_) is not None: _items,
        lambda type_: get_origin(type_) in {dict, Mapping} or type_ in {dict, Mapping}: _mapping,
    }
    for takes, factory in factories.items():
        strict.register_structure_hook_factory(takes, factory)
    return strict
