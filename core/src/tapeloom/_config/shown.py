"""A stack as text for a person to read, with nothing secret in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs

from .masking import MASK, masked, without_user
from .places import at
from .secret import Secret

if TYPE_CHECKING:
    from .stack import Stack


def resolved(stack: Stack, settings: Mapping[str, object] | None = None) -> str:
    """Return the whole of *stack*, defaults included, as TOML that can be read again.

    *settings* has the settings of plugins by the place of their table (``stage.bars``); where they
    are missing, the table is shown as it stands in the file. A secret shows where it comes from.
    """
    settings = settings or {}
    blocks = [_lines("", {"backend": stack.backend})]
    blocks += [_lines("[[feed]]", _fields(feed)) for feed in stack.feeds]
    for name, stage in stack.stages.items():
        place = at("stage", name)
        table: dict[str, Any] = {"use": stage.use, "on_error": stage.on_error}
        table |= _table(settings.get(place), stage.table)
        blocks.append(_lines(f"[{place}]", table))
    for name, venue in stack.venues.items():
        place = at("venue", name)
        blocks.append(_lines(f"[{place}]", _table(settings.get(place), venue)))
    for index, sink in enumerate(stack.sinks):
        own = _fields(sink)
        own |= _table(settings.get(at("sink", index)), own.pop("table"))
        blocks.append(_lines("[[sink]]", own))
    network = _fields(stack.network)
    if stack.network.proxy:
        network["proxy"] = without_user(stack.network.proxy)
    blocks += [_lines("[queue]", _fields(stack.queue)), _lines("[network]", network)]
    blocks.append(_lines("[flight]", _fields(stack.flight)))
    blocks.append(_lines("[process]", _fields(stack.process)))
    return "\n".join(blocks)


def _table(settings: object, table: Mapping[str, Any]) -> dict[str, Any]:
    return dict(masked(table)) if settings is None else _fields(settings)


def _fields(thing: Any) -> dict[str, Any]:
    if not attrs.has(type(thing)):
        return dict(masked(vars(thing)))
    return {
        field.alias: getattr(thing, field.name) for field in attrs.fields(type(thing)) if field.init
    }


def _lines(header: str, table: Mapping[str, Any]) -> str:
    pairs = [
        f"{at('', key)} = {_toml(value)}" for key, value in table.items() if value not in (None, "")
    ]
    return "".join(f"{line}\n" for line in ([header] if header else []) + pairs)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Secret):
        return _toml(value.origin or MASK)
    if attrs.has(type(value)):
        value = _fields(value)
    if isinstance(value, Mapping):
        pairs = [f"{at('', str(k))} = {_toml(one)}" for k, one in value.items() if one is not None]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(_items(value))}]"
    return _string(format(value, "f") if isinstance(value, Decimal) else str(value))


def _items(values: Any) -> Iterator[str]:
    texts = (_toml(value) for value in values if value is not None)
    return iter(sorted(texts)) if isinstance(values, set | frozenset) else texts


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
