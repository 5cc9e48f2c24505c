"""The Arrow schema of an event class, its version, and schemas of older files."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa  # type: ignore[import-untyped]
from tapeloom.errors import printable
from tapeloom.events import BY_TYPE
from tapeloom.events.base import BaseEvent

from . import fields
from .errors import SchemaMismatch

#: The version of the rules by which fields become columns. A field that a class gets or loses does not
#: change it; a column whose type or meaning changes does.
VERSION = 1
_TYPE_KEY, _VERSION_KEY = b"tapeloom.type", b"tapeloom.version"
#: The columns that a caller may add to those of a class: see `record_batches`.
EXTRA = {"epoch": pa.int64(), "n": pa.int64(), "k": pa.int32()}
#: The schemas asked for so far.
_KNOWN: dict[tuple[type[BaseEvent], tuple[str, ...]], pa.Schema] = {}


def schema(event_class: type[BaseEvent], extra: Iterable[str] = ()) -> pa.Schema:
    """Return the Arrow schema of an event class, followed by the named columns of `EXTRA`.

    All columns may hold null, so that a column which an old file lacks can be filled with it. Raises
    SchemaMismatch if a field has no column, and ValueError if an extra column is unknown or taken.
    """
    key = event_class, tuple(extra)
    if key not in _KNOWN:
        _KNOWN[key] = _schema(*key)
    return _KNOWN[key]


def _schema(event_class: type[BaseEvent], extra: tuple[str, ...]) -> pa.Schema:
    found = fields.arrow_fields(event_class)
    if unknown := set(extra) - set(EXTRA):
        raise ValueError(f"expected extra columns of {list(EXTRA)}, got {sorted(unknown)}")
    if taken := set(extra) & {field.name for field in found}:
        raise ValueError(f"{event_class.__name__} has fields of its own named {sorted(taken)}")
    found += [pa.field(name, EXTRA[name]) for name in extra]
    metadata = {_TYPE_KEY: event_class.type.encode(), _VERSION_KEY: str(VERSION).encode()}
    return pa.schema(found, metadata)


def event_class_of(stored: pa.Schema) -> type[BaseEvent]:
    """Return the event class that a schema was made from.

    Raises SchemaMismatch if the schema does not say it, or the class is not known here.
    """
    name = (stored.metadata or {}).get(_TYPE_KEY, b"").decode()
    if not name:
        raise SchemaMismatch(
            "expected `tapeloom.type` in the metadata of the schema, got none: another tool has dropped"
            " it; give the class, as in to_events(table, Trade)"
        )
    if name not in BY_TYPE:
        raise SchemaMismatch(
            f"expected an event type of {', '.join(BY_TYPE)}, got {printable(name)!r};"
            " import the plugin that defines it, or give the class: to_events(table, TheClass)"
        )
    return BY_TYPE[name]


def check(stored: pa.Schema, event_class: type[BaseEvent]) -> None:
    """Raise SchemaMismatch if a stored schema is not one of this class that can be read here.

    A schema without metadata is taken as one of the version known here.
    """
    metadata = stored.metadata or {}
    name = metadata.get(_TYPE_KEY, event_class.type.encode()).decode()
    if name != event_class.type:
        raise SchemaMismatch(
            f"expected columns of {event_class.type!r}, got those of {printable(name)!r}"
        )
    version = metadata.get(_VERSION_KEY, str(VERSION).encode()).decode()
    if not version.isdecimal() or int(version) > VERSION:
        raise SchemaMismatch(
            f"expected columns of version {VERSION} or older, got version {printable(version)};"
            " install the tapeloom-columns that wrote them, or a newer one"
        )
    if twice := sorted({name for name in stored.names if stored.names.count(name) > 1}):
        raise SchemaMismatch(f"expected columns of different names, got {twice} twice")
    for field in fields.fields(event_class):
        for column, kind in field.columns.items():
            if column in stored.names and not kind.accepts(stored.field(column).type):
                raise SchemaMismatch(
                    f"expected {event_class.type}.{column} as {kind.type}, got"
                    f" {stored.field(column).type}, which cannot be read without loss"
                )


def unify(stored: pa.Schema, event_class: type[BaseEvent]) -> pa.Schema:
    """Return the schema in which files of *stored* and new files of the class can be read together.

    It has the columns of the class as they are today, and then those that only *stored* has: extra
    columns, and fields that the class no longer has. A reader that is given it fills columns that an
    old file lacks with null. Raises SchemaMismatch as `check` does.
    """
    check(stored, event_class)
    current = schema(event_class)
    older = [field for field in stored if field.name not in current.names]
    return pa.schema([*current, *older], current.metadata)
