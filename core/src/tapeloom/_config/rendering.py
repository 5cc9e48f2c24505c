"""Rendering of a stack as TOML for people to read, with secrets masked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs

from tapeloom import errors
from tapeloom.errors import MASK

from .masking import masked
from .places import child
from .secret import Secret

if TYPE_CHECKING:
    from .stack import Stack


def to_toml(stack: Stack, settings: Mapping[str, object] | None = None) -> str:
    """Return the whole of *stack*, defaults included, as TOML that `parse` reads again.

    *settings* maps the place of a plugin's table (``stage.bars``) to its settings object; a table
    without one is printed as the file has it. A secret is printed as its origin.
    """
    settings = settings or {}
    blocks = [_block("", {"backend": stack.backend})]
    blocks += [_block("[[feed]]", _fields(feed)) for feed in stack.feeds]
    for name, stage in stack.stages.items():
        place = child("stage", name)
        table: dict[str, Any] = {"use": stage.use, "on_error": stage.on_error}
        table |= _table(settings.get(place), stage.table)
        blocks.append(_block(f"[{place}]", table))
    for name, venue in stack.venues.items():
        place = child("venue", name)
        blocks.append(_block(f"[{place}]", _table(settings.get(place), venue)))
    for index, sink in enumerate(stack.sinks):
        table = _fields(sink)
        table |= _table(settings.get(child("sink", index)), table.pop("table"))
        blocks.append(_block("[[sink]]", table))
    if stack.cluster is not None:
        table = {"use": stack.cluster.use}
        table |= _table(settings.get("cluster"), stack.cluster.table)
        blocks.append(_block("[cluster]", table))
    blocks += [_block("[queue]", _fields(stack.queue)), _block("[network]", _fields(stack.network))]
    blocks.append(_block("[flight]", _fields(stack.flight)))
    blocks.append(_block("[process]", _fields(stack.process)))
    return "\n".join(blocks)


def _table(settings: object, table: Mapping[str, Any]) -> dict[str, Any]:
    return dict(masked(table)) if settings is None else _fields(settings)


def _fields(instance: Any) -> dict[str, Any]:
    if not attrs.has(type(instance)):
        return dict(masked(vars(instance)))
    fields = attrs.fields(type(instance))
    return {field.alias: getattr(instance, field.name) for field in fields if field.init}


def _block(header: str, table: Mapping[str, Any]) -> str:
    pairs = [_pair(key, value) for key, value in table.items() if value not in (None, "")]
    return "".join(f"{line}\n" for line in ([header] if header else []) + pairs)


def _pair(key: object, value: Any) -> str:
    return f"{child('', str(key))} = {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Secret):
        return _value(value.origin or MASK)
    if attrs.has(type(value)):
        value = _fields(value)
    if isinstance(value, Mapping):
        pairs = [_pair(key, item) for key, item in value.items() if item is not None]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(_items(value))}]"
    return _string(format(value, "f") if isinstance(value, Decimal) else str(value))


def _items(values: Any) -> Iterator[str]:
    texts = (_value(value) for value in values if value is not None)
    return iter(sorted(texts)) if isinstance(values, set | frozenset) else texts


def _string(text: str) -> str:
    return json.dumps(errors.masked(text), ensure_ascii=False).replace("\x7f", "\\u007f")
