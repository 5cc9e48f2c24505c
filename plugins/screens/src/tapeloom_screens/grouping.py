"""`grouped`: sorts the events of many batches by class, venue, symbol and channel, fast."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from tapeloom.events import Event

#: Class, venue, symbol and channel of an event: those of one kind are read together.
Kind: TypeAlias = tuple[type, str, str, str]


def grouped(batches: Iterable[Sequence[Event]]) -> Mapping[Kind, Sequence[Event]]:
    """Return the events of each kind, in their order.

    A tuple of four for each event would take three times as long as the three steps below, of which most
    batches need only two.
    """
    by_class: dict[type, list[Event]] = defaultdict(list)
    for batch in batches:
        classes = set(map(type, batch))
        if len(classes) == 1:
            by_class[classes.pop()] += batch
        else:
            for event in batch:
                by_class[type(event)].append(event)
    groups: dict[Kind, Sequence[Event]] = {}
    for kind, events in by_class.items():
        for group in _by_symbol(events):
            _split(kind, group, groups)
    return groups


def _by_symbol(events: Iterable[Event]) -> Iterable[list[Event]]:
    by_symbol: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_symbol[event.symbol].append(event)
    return by_symbol.values()


def _split(kind: type, events: list[Event], groups: dict[Kind, Sequence[Event]]) -> None:
    """Add the events of one class and symbol to *groups*, by venue and channel."""
    first = events[0]
    venue, symbol, channel = first.venue, first.symbol, first.channel
    if all([event.venue == venue and event.channel == channel for event in events]):  # noqa: C419 - faster
        groups[kind, venue, symbol, channel] = events
        return
    parts: dict[Kind, list[Event]] = defaultdict(list)
    for event in events:
        parts[kind, event.venue, symbol, event.channel].append(event)
    groups.update(parts)
