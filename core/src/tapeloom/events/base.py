"""The base of all event classes: the decorator that makes them, their times, identity and kind, their names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

if TYPE_CHECKING:
    from attrs import frozen as event_class
else:
    from functools import partial

    event_class = partial(attrs.define, weakref_slot=False)

__all__ = ["BY_TYPE", "BaseEvent", "event_class", "utc"]

#: The fields that every event class has.
_REQUIRED = ("venue", "symbol", "ts", "recv", "channel")


def utc(ts: int) -> datetime:
    """Return *ts* as an aware UTC datetime; nanoseconds are truncated to microseconds."""
    seconds, nanoseconds = divmod(ts, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)


class BaseEvent:
    """What all events have: a type, two times, an identity, and whether they are a state.

    A subclass made by `event_class`, or any other decorator of attrs, is known by its `type` from then on.
    """

    __slots__ = ()

    type: ClassVar[str]

    if TYPE_CHECKING:
        venue: str  #: The venue as named in the stack.
        symbol: str  #: The unified symbol.
        channel: str  #: The channel, with its parameter.
        ts: int  #: The venue's time, in ns.
        recv: int  #: Our time of the read, in ns.

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        # attrs calls it once, with the final class; `__init_subclass__` sees a class with slots twice.
        _register(cls)

    @property
    def time(self) -> datetime:
        """The venue's time as an aware UTC datetime."""
        return utc(self.ts)

    @property
    def received(self) -> datetime:
        """The time of our read as an aware UTC datetime."""
        return utc(self.recv)

    @property
    def is_state(self) -> bool:
        """Whether the next event of its type, symbol and channel replaces it.

        False for an occurrence, such as a trade: each one counts.
        """
        return False

    @property
    def identity(self) -> tuple[Hashable, ...]:
        """What tells an event from any other, and is the same wherever it was received.

        Two connections, or the stream and REST, give equal identities for the same event. Where the
        venue numbers its events, it has the number, else all that the event says.
        """
        return self.type, self.venue, self.symbol, self.channel, self.ts, self._content()

    def _content(self) -> Hashable:
        """Return the part of the identity that depends on the type: all other fields but our time."""
        common = ("venue", "symbol", "channel", "ts", "recv", "origin")
        fields = attrs.fields(type(self))  # type: ignore[arg-type]  # every event class is of attrs
        names = [field.name for field in fields if field.name not in common]
        return tuple(_hashable(getattr(self, name)) for name in names)


def _hashable(value: Any) -> Hashable:
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    return value.identity if isinstance(value, BaseEvent) else value


_registered: dict[str, type[BaseEvent]] = {}

#: All event classes by their `type`, the name that TOML, JSON and summaries use: those of tapeloom, and
#: those of the plugins imported so far. A read-only view.
BY_TYPE: Mapping[str, type[BaseEvent]] = MappingProxyType(_registered)


def _register(cls: type[BaseEvent]) -> None:
    """Make an event class known by its `type`.

    A class defined again, as by a cell of a notebook, replaces the former one. Raises TypeError if the type
    is not a name or is taken, or if the fields are not those of an event.
    """
    name, path = vars(cls).get("type"), _path(cls)
    fields = attrs.fields_dict(cls)  # type: ignore[arg-type]  # attrs has just made it
    problem = ""
    if not isinstance(name, str) or not name.isidentifier():
        problem = f'expected a type of its own, not a field, such as type = "cvd", got {name!r}'
    elif missing := [key for key in _REQUIRED if key not in fields]:
        problem = f"add the fields {', '.join(missing)}"
    elif hidden := [key for key, field in fields.items() if not field.init or field.alias != key]:
        problem = (
            f"make {', '.join(hidden)} an argument of the same name: without _, alias or init=False"
        )
    elif (other := _path(_registered.get(name, cls))) != path:
        problem = f"its type {name!r} is that of {other}. Rename one of them"
    if problem:
        raise TypeError(f"the event class {path}: {problem}.")
    _registered[str(name)] = cls


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
