"""What a client subscribes to: by type, venue, symbol and channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from attrs import frozen
from tapeloom.plugin import channel_parts

__all__ = ["EVERYTHING", "Key", "Selection"]

#: Type, venue, symbol and channel of an event.
Key: TypeAlias = tuple[str, str, str, str]

#: Maximum number of names in one selection, and of characters in a name.
_MAX_NAMES, _MAX_LENGTH = 1000, 200
_FIELDS = ("types", "venues", "symbols", "channels")


@frozen
class Selection:
    """The events that a client receives. An empty field selects all.

    An event about a whole feed, such as a disconnect, has no symbol or no channel and is selected with each
    of them. A channel without parameter, such as `klines`, selects those with any parameter. That is how
    the keys of a ``[[sink]]`` work, too.
    """

    types: frozenset[str] = frozenset()
    venues: frozenset[str] = frozenset()
    symbols: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()

    def selects(self, key: Key) -> bool:
        """Return whether events of this key are selected."""
        type_, venue, symbol, channel = key
        return (
            (not self.types or type_ in self.types)
            and (not self.venues or venue in self.venues)
            and (not self.symbols or not symbol or symbol in self.symbols)
            and (
                not self.channels
                or not channel
                or channel in self.channels
                or channel_parts(channel)[0] in self.channels
            )
        )

    def to_message(self) -> dict[str, list[str]]:
        """Return it as the fields of a message; those that select all are left out."""
        return {name: sorted(value) for name in _FIELDS if (value := getattr(self, name))}

    @classmethod
    def from_message(cls, fields: Mapping[str, Any]) -> Selection:
        """Return the selection of a message. Raises ValueError if a field is no list of names."""
        return cls(**{name: _names(name, fields.get(name, ())) for name in _FIELDS})

    @classmethod
    def from_query(cls, values: Iterable[tuple[str, str]]) -> Selection:
        """Return the selection of query parameters, such as ``symbol=BTC/USDT,ETH/USDT&type=trade``.

        Raises ValueError if there are too many names.
        """
        found: dict[str, list[str]] = {name: [] for name in _FIELDS}
        for key, text in values:
            if f"{key}s" in found:
                found[f"{key}s"] += filter(None, text.split(","))
        return cls(**{name: _names(name, value) for name, value in found.items()})


EVERYTHING = Selection()


def _names(field: str, value: Any) -> frozenset[str]:
    names = list(value) if isinstance(value, list | tuple) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f'{field}: expected a list of names such as ["…"], got {str(value)[:80]!r}'
        )
    if len(names) > _MAX_NAMES or any(len(name) > _MAX_LENGTH for name in names):
        raise ValueError(
            f"{field}: expected at most {_MAX_NAMES} names of at most {_MAX_LENGTH} characters"
        )
    return frozenset(names)
