"""Selects the events that a sink receives, by venue, symbol and channel."""

from __future__ import annotations

from collections.abc import Callable

from tapeloom._config import SinkSpec
from tapeloom.events import Event
from tapeloom.plugin import channel_parts

Select = Callable[[list[Event]], list[Event]]


def selection(spec: SinkSpec) -> Select | None:
    """Return the function that selects a sink's events; None if it receives all.

    An event about a whole feed, such as a disconnect, has no symbol or no channel and is selected with
    each of them. A channel without parameter, such as `klines`, selects those with any parameter.
    """
    venues, symbols = frozenset(spec.venues), frozenset((*spec.symbols, ""))
    channels = frozenset((*spec.channels, ""))
    if not (spec.venues or spec.symbols or spec.channels):
        return None
    known: dict[tuple[str, str, str], bool] = {}

    def is_selected(venue: str, symbol: str, channel: str) -> bool:
        return (
            (not spec.venues or venue in venues)
            and (not spec.symbols or symbol in symbols)
            and (not spec.channels or channel in channels or channel_parts(channel)[0] in channels)
        )

    def select(events: list[Event]) -> list[Event]:
        selected = []
        for event in events:
            key = event.venue, event.symbol, event.channel
            chosen = known.get(key)
            if chosen is None:
                chosen = known[key] = is_selected(*key)
            if chosen:
                selected.append(event)
        return selected if len(selected) < len(events) else events

    return select
