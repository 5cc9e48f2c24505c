"""Compares events with what a store returns: numbers by value, rows as multisets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import attrs
from tapeloom.events import BY_TYPE, Bar, Event, Levels
from tapeloom.events.base import BaseEvent
from tapeloom.plugin import Guarantee

from tapeloom_testing.contract.declared import ContractViolation

__all__ = ["Order", "Row", "Stored", "difference", "latest", "to_row"]

#: What a store returns: an event, or its fields by name with its type: the columns of a row, or `json.loads`
#: of a line. A number may be a text.
Stored: TypeAlias = Event | Mapping[str, Any]
#: The fields of an event that the store keeps, as pairs of name and value; the first is its type.
Row: TypeAlias = tuple[tuple[str, Hashable], ...]
#: Within what a store keeps the order: all events, those of a venue and symbol, or not at all.
Order = Literal["all", "symbol", "none"]
#: Characters of a row that an error text shows.
_SHOWN_CHARACTERS = 300


def to_row(item: Stored, not_kept: Iterable[str] = ()) -> Row:
    """Return an event, or what the store has of it, without the fields that the store does not keep.

    *not_kept* has names of fields, such as "recv" or "trade.origin". Raises ContractViolation for a row that
    is no event.
    """
    name: Any = item.get("type") if isinstance(item, Mapping) else item.type
    if name not in BY_TYPE:
        raise ContractViolation(
            f"expected an event, or a mapping with its `type` and fields, got {item!r:.200}"
        )
    hidden = frozenset(not_kept)
    values: list[tuple[str, Hashable]] = [("type", name)]
    cls: Any = BY_TYPE[name]
    for field, kind in _fields(cls):
        if field in hidden or f"{name}.{field}" in hidden:
            continue
        try:
            values.append((field, _value(_get(item, field), kind, hidden)))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ContractViolation(
                f"the field {field!r} of {item!r:.200} cannot be read: {error!r}"
            ) from error
    return tuple(values)


@cache
def _fields(cls: Any) -> list[tuple[str, Any]]:
    hints = get_type_hints(cls)
    return [(field.name, hints[field.name]) for field in attrs.fields(cls)]


def _get(item: Stored, field: str) -> Any:
    if isinstance(item, Mapping):
        return item.get(field, item.get(field.removeprefix("raw_")))
    return getattr(item, field)


def _value(value: Any, kind: Any, hidden: frozenset[str]) -> Hashable:
    """Return a value of a field of type *kind* in a form that can be compared and hashed."""
    if value is None:
        return None
    if isinstance(value, BaseEvent) or (isinstance(value, Mapping) and "type" in value):
        inner: Any = value
        return to_row(inner, hidden)
    if kind == Levels:
        return tuple((Decimal(price), Decimal(size)) for price, size in value)
    if Decimal in _kinds(kind):
        return Decimal(value)
    return tuple(value) if isinstance(value, list) else value


def _kinds(hint: Any) -> frozenset[Any]:
    """Return the types that a value of this type hint can have."""
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return frozenset().union(*map(_kinds, get_args(hint)))
    return frozenset({hint})


def latest(events: Sequence[Event], types: Sequence[str]) -> list[Event]:
    """Return *events* without those of *types* that a later one replaces.

    A bar replaces another of its interval and start, any other event one of its symbol and channel.
    """
    newest: dict[tuple[Hashable, ...], int] = {}
    keys = []
    for index, event in enumerate(events):
        key: tuple[Hashable, ...] = (event.type, event.venue, event.symbol, event.channel)
        if isinstance(event, Bar):
            key = (*key, event.interval, event.ts)
        keys.append(key)
        newest[key] = index
    return [
        event
        for index, event in enumerate(events)
        if event.type not in types or newest[keys[index]] == index
    ]


def difference(
    expected: Sequence[Row], stored: Sequence[Row], guarantee: Guarantee, order: Order = "all"
) -> str:
    """Return how a store breaks a guarantee; an empty text if it keeps it.

    The order is compared only where the store has each event once.
    """
    wanted, found = Counter(expected), Counter(stored)
    missing, extra = wanted - found, found - wanted
    invented = [row for row in extra if row not in wanted]
    problems = []
    if missing and guarantee != "at_most_once":
        problems.append(f"{missing.total()} are missing, the first: {_shown(next(iter(missing)))}")
    if invented:
        problems.append(
            f"{len(invented)} were never written as they are, the first: {_shown(invented[0])}"
        )
    elif extra and guarantee != "at_least_once":
        row = next(iter(extra))
        problems.append(
            f"{extra.total()} are there too often, the first {found[row]} times instead of"
            f" {wanted[row]}: {_shown(row)}"
        )
    if not missing and not extra and order != "none":
        problems += filter(None, [_misplaced(expected, stored, order)])
    if not problems:
        return ""
    return (
        f"{len(expected)} events were written and {len(stored)} are in the store, which promises"
        f" {guarantee}: {'; '.join(problems)}"
    )


def _misplaced(expected: Sequence[Row], stored: Sequence[Row], order: Order) -> str:
    groups = [_grouped(rows, order) for rows in (expected, stored)]
    for key, rows in groups[0].items():
        for wanted, found in zip(rows, groups[1][key], strict=True):
            if wanted != found:
                return (
                    f"all are there, but not in the order of their numbers: {_shown(found)} stands where"
                    f" {_shown(wanted)} is expected"
                )
    return ""


def _grouped(rows: Sequence[Row], order: Order) -> dict[Hashable, list[Row]]:
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        fields = dict(row)
        key = (fields.get("venue"), fields.get("symbol")) if order == "symbol" else ()
        groups.setdefault(key, []).append(row)
    return groups


def _shown(row: Row) -> str:
    text = ", ".join(
        f"{name} {value}" if isinstance(value, Decimal) else f"{name} {value!r}"
        for name, value in row
    )
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
