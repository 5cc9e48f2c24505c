"""Selects the events that a feed relays, by venue, symbol, channel and type."""

from __future__ import annotations

from collections.abc import Callable

from tapeloom.events import Event
from tapeloom.plugin import Feed, channel_parts

from .settings import Settings

__all__ = ["selection"]

Select = Callable[[list[Event]], list[Event]]


def selection(settings: Settings, feed: Feed) -> Select | None:
    """Return the function that selects events; None if all are relayed.

    An event about a whole feed, such as a disconnect, has no symbol or no channel and is selected with each
    of them. A channel without parameter, such as `klines`, selects those with any parameter.
    """
    venues, types = frozenset(settings.venues), frozenset(settings.types)
    symbols, channels = frozenset(feed.symbols), frozenset(feed.channels)
    if not (venues or types or symbols or channels):
        return None
    known: dict[tuple[str, str, str, str], bool] = {}

    def is_selected(event: Event) -> bool:
        channel = event.channel
        return (
            (not venues or event.venue in venues)
            and (not types or event.type in types)
            and (not symbols or not event.symbol or event.symbol in symbols)
            and (
                not channels
                or not channel
                or channel in channels
                or channel_parts(channel)[0] in channels
            )
        )

    def select(events: list[Event]) -> list[Event]:
        selected = []
        for event in events:
            key = event.type, event.venue, event.symbol, event.channel
            chosen = known.get(key)
            if chosen is None:
                chosen = known[key] = is_selected(event)
            if chosen:
                selected.append(event)
        return selected

    return select
