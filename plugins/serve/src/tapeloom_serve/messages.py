"""What clients ask for, in the query of the address or in a message; and what the server says of itself.

The messages of the server are lines of JSON like events. Their `type` contains a dot, which the type of an
event cannot.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

from attrs import frozen
from tapeloom import QueueSpec

from .selection import Selection
from .settings import ClientPolicy, Settings

__all__ = ["Format", "Options", "Subscribe", "control"]

#: jsonl: lines of JSON. arrow: streams of Arrow IPC, one for each run of events of one type.
Format = Literal["jsonl", "arrow"]
_QUERY = (
    "type",
    "venue",
    "symbol",
    "channel",
    "format",
    "policy",
    "size",
    "snapshot",
    "wait",
    "token",
)


def control(kind: str, **fields: Any) -> str:
    """Return a message of the server, without the fields that are None."""
    given = {key: value for key, value in fields.items() if value is not None}
    return json.dumps({"type": f"stream.{kind}", **given}, separators=(",", ":"))


@frozen
class Options:
    """What the query of a client's address asks for."""

    selection: Selection
    format: Format
    queue: QueueSpec
    snapshot: bool  #: Whether the latest states are sent first.
    wait: bool  #: Whether nothing is sent before the first message of the client.

    @classmethod
    def from_query(cls, values: Sequence[tuple[str, str]], settings: Settings) -> Options:
        """Return the options of query parameters. Raises ValueError, whose text is for the client."""
        single = dict(values)
        if unknown := [key for key in single if key not in _QUERY]:
            raise ValueError(f"unknown parameter {unknown[0][:80]!r}; expected {', '.join(_QUERY)}")
        size = single.get("size", str(settings.queue_size))
        if not (size.isascii() and size.isdigit() and 1 <= int(size[:9]) <= settings.queue_size):
            raise ValueError(f"size: expected a number from 1 to {settings.queue_size}")
        policy: Any = _choice(single, "policy", settings.policy, get_args(ClientPolicy))
        encoding: Any = _choice(single, "format", "jsonl", get_args(Format))
        return cls(
            Selection.from_query(values),
            encoding,
            QueueSpec(size=int(size), policy=policy),
            _choice(single, "snapshot", "1", ("0", "1")) == "1",
            _choice(single, "wait", "0", ("0", "1")) == "1",
        )


@frozen
class Subscribe:
    """A message of a client: replaces what it receives."""

    selection: Selection
    id: int | str | None  #: What the reply repeats.
    snapshot: bool  #: Whether the latest states of what is new are sent first.

    @classmethod
    def from_text(cls, text: str | bytes) -> Subscribe:
        """Return a client's message. Raises ValueError, whose text is for the client."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("expected a JSON object") from None
        if not isinstance(fields, dict) or fields.get("op") != "subscribe":
            raise ValueError('expected an object with "op": "subscribe"')
        known = ("op", "id", "snapshot", "types", "venues", "symbols", "channels")
        if unknown := [key for key in fields if key not in known]:
            raise ValueError(f"unknown field {unknown[0][:80]!r}; expected {', '.join(known)}")
        request, snapshot = fields.get("id"), fields.get("snapshot", True)
        if type(request) not in (int, str, type(None)) or len(str(request)) > 100:
            raise ValueError("id: expected a number or a text of at most 100 characters")
        if type(snapshot) is not bool:
            raise ValueError("snapshot: expected true or false")
        return cls(Selection.from_message(fields), request, snapshot)


def _choice(values: dict[str, str], key: str, default: str, choices: Sequence[str]) -> str:
    value = values.get(key, default)
    if value not in choices:
        raise ValueError(f"{key}: expected {' or '.join(choices)}, got {value[:80]!r}")
    return value
