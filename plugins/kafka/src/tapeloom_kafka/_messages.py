"""Turns events into messages of JSON: a topic, the event, its symbol as the key, and its number."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import attrgetter
from string import Formatter
from typing import TypeAlias

from tapeloom.errors import BatchRefused
from tapeloom.events import Event, encode
from tapeloom.plugin import SinkBatch

from ._settings import topic_name

__all__ = ["Message", "Topics", "json_messages"]

#: The topic, the value, the key and the headers of a message.
Message: TypeAlias = tuple[str, bytes, str, list[tuple[str, str | bytes | None]]]


class Topics:
    """The topics of events, by a template with ``{type}`` and ``{venue}``."""

    def __init__(self, template: str) -> None:
        self._template = template
        names = {name for _, name, _, _ in Formatter().parse(template) if name}
        self._kind: Callable[[Event], Hashable] = (
            attrgetter("type", *names) if names - {"type"} else type
        )
        self._known: dict[Hashable, str] = {}

    def of(self, events: Sequence[Event]) -> list[str]:
        """Return the topic of each event. Raises BatchRefused if Kafka does not allow a name."""
        kinds = [*map(self._kind, events)]
        known = self._known
        for kind in set(kinds) - known.keys():
            known[kind] = self._name(events[kinds.index(kind)])
        return [known[kind] for kind in kinds]

    def _name(self, event: Event) -> str:
        try:
            return topic_name(self._template, type=event.type, venue=event.venue)
        except ValueError as error:
            raise BatchRefused(f"{error}. Change topic.") from None


def json_messages(batch: SinkBatch, topics: Sequence[str]) -> list[Message]:
    """Return a message for each event, with the run and the number of the event in the headers.

    Half of a surrogate pair becomes its escape.
    """
    epoch = ("epoch", str(batch.epoch))
    return [
        (
            topic,
            encode(event).encode(errors="backslashreplace"),
            event.symbol,
            [epoch, ("n", str(number))],
        )
        for number, (topic, event) in enumerate(zip(topics, batch.events, strict=True), batch.first)
    ]
