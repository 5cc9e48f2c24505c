"""The columns of an event class, derived from the fields and type hints of its attrs class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import pyarrow as pa  # type: ignore[import-untyped]
from tapeloom.events import Levels
from tapeloom.events.base import BaseEvent

from . import kinds
from .errors import SchemaMismatch
from .kinds import Kind

#: Fields of type `int` that are times in ns.
TIMES = frozenset({"ts", "recv", "since", "until"})
#: Fields of type `str` that have few different values.
CATEGORIES = frozenset(
    {
        "cause", "channel", "interval", "kind", "origin", "rule", "side", "state", "symbol", "venue",
    }
)  # fmt: skip
#: What ``attrs.field(metadata={"tapeloom": ...})`` says about a field, the type that it must have, its kind.
MARKS = {
    "product": (Decimal, kinds.decimals(kinds.PRODUCT)),
    "time": (int, kinds.TIMES),
    "category": (str, kinds.CATEGORIES),
}
#: The kind of a field by its type.
SCALARS = {
    Decimal: kinds.decimals(kinds.DECIMAL),
    int: kinds.INTEGERS,
    bool: kinds.BOOLEANS,
    float: kinds.FLOATS,
    str: kinds.TEXTS,
}


@attrs.frozen
class Field:
    """A field of an event class, and its columns: the second one has the numbers of ids."""

    name: str
    columns: dict[str, Kind]
    optional: bool  #: Whether None is a value of the field.
    read: Callable[[Sequence[BaseEvent]], list[Any]]  #: Returns the values of the field.
    attribute: attrs.Attribute[Any]


#: The fields of the classes asked for so far.
_KNOWN: dict[type[BaseEvent], tuple[Field, ...]] = {}


def fields(event_class: type[BaseEvent]) -> tuple[Field, ...]:
    """Return the fields of an event class, in the order of the class.

    Raises SchemaMismatch if the class is no event class, or a field has a type without a column.
    """
    if event_class not in _KNOWN:
        _KNOWN[event_class] = _fields(event_class)
    return _KNOWN[event_class]


def _fields(event_class: type[BaseEvent]) -> tuple[Field, ...]:
    if not hasattr(event_class, "__attrs_attrs__") or not isinstance(
        getattr(event_class, "type", None), str
    ):
        raise SchemaMismatch(
            f"expected an attrs class of events with a `type`, got {event_class!r};"
            " derive it from BaseEvent"
        )
    try:
        hints = get_type_hints(event_class)
    except NameError as error:
        raise SchemaMismatch(
            f"expected type hints of {event_class.__name__} that its module knows, got {error};"
            " import the name outside `if TYPE_CHECKING`"
        ) from error
    found = tuple(
        _field(event_class, attribute, hints[attribute.name])
        for attribute in attrs.fields(event_class)  # type: ignore[arg-type]  # it is an attrs class
    )
    names = [name for field in found for name in field.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SchemaMismatch(
            f"expected columns of different names in {event_class.__name__}, got {twice} twice;"
            " `id: int | str` also has a column `seq`, `x_id` a column `x_seq`: rename the field"
        )
    return found


def _field(event_class: type[BaseEvent], attribute: attrs.Attribute[Any], hint: Any) -> Field:
    parts = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    optional = NoneType in parts
    parts -= {NoneType}
    name = attribute.name
    if parts == {int, str}:
        columns = {name: kinds.IDS, number_column(name): kinds.NUMBERS}
    elif (kind := _kind(name, parts, attribute.metadata.get("tapeloom"))) is not None:
        columns = {name: kind}
    else:
        raise SchemaMismatch(
            f"expected a type that has a column, got {hint} for"
            f" {event_class.__name__}.{name} (mark {attribute.metadata.get('tapeloom')!r});"
            " use Decimal, int, str, bool, float, a Literal of texts, int | str, an event, or a"
            f" list or tuple[x, ...] of these; marks are {', '.join(MARKS)}"
        )
    return Field(name, columns, optional, _reader(name), attribute)


def _reader(name: str) -> Callable[[Sequence[BaseEvent]], list[Any]]:
    """Return a function that reads a field of many events.

    Its code is made for the name: `attrgetter` takes twice as long, a seventh of a batch of trades.
    """
    reader: Callable[[Sequence[BaseEvent]], list[Any]] = eval(  # noqa: S307  # attrs has checked the name
        f"lambda events: [event.{name} for event in events]"
    )
    return reader


def number_column(name: str) -> str:
    """Return the name of the column for the numbers of ids: `seq` beside `id`."""
    return "seq" if name == "id" else f"{name.removesuffix('_id')}_seq"


def _kind(name: str, parts: set[Any], mark: str | None) -> Kind | None:
    """Return the kind of a field that has one column, or None if there is none for its type."""
    if mark is not None:
        wanted, kind = MARKS.get(mark, (None, None))
        return kind if parts == {wanted} else None
    if _are_words(parts) or (parts == {str} and name in CATEGORIES):
        return kinds.CATEGORIES
    if parts == {int} and name in TIMES:
        return kinds.TIMES
    if all(isinstance(part, type) and issubclass(part, BaseEvent) for part in parts):
        return kinds.EVENTS
    return _single(parts.pop()) if len(parts) == 1 else None


def _are_words(parts: set[Any]) -> bool:
    """Return whether a type is a closed set of texts, or one that a plugin may add texts to."""
    texts = [text for part in parts if get_origin(part) is Literal for text in get_args(part)]
    others = {part for part in parts if get_origin(part) is not Literal} - {str}
    return bool(texts) and not others and all(isinstance(text, str) for text in texts)


def _single(hint: Any) -> Kind | None:
    if hint == Levels:
        return kinds.BOOK_LEVELS
    arguments = get_args(hint)
    if get_origin(hint) is list or (get_origin(hint) is tuple and arguments[1:] == (...,)):
        items = SCALARS.get(arguments[0])
        return kinds.lists(items, get_origin(hint)) if items else None
    return SCALARS.get(hint)


def arrow_fields(event_class: type[BaseEvent]) -> list[pa.Field]:
    """Return the Arrow fields of an event class."""
    return [
        pa.field(name, kind.type)
        for field in fields(event_class)
        for name, kind in field.columns.items()
    ]
