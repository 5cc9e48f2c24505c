"""The states of the order books of a feed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from tapeloom.plugin import FeedState, channel_parts

from .stalls import Key

#: The name of the stage that keeps order books, and reports the state of each of them.
_STAGE = "books"


def book_states(feed: FeedState, reported: Mapping[Key, str]) -> Iterator[tuple[Key, str]]:
    """Yield the order books of a feed with their states: waiting, synced, stale or crossed.

    *reported* has the states that were reported last. A book that is waiting has reported none.
    """
    for channel in feed.channels:
        if channel_parts(channel)[0] != "book":
            continue
        for symbol in feed.symbols:
            key = feed.venue, symbol, channel
            if key in reported or _STAGE in feed.stages:
                yield key, reported.get(key, "waiting")


def books_by_state(feed: FeedState, reported: Mapping[Key, str]) -> Mapping[str, int]:
    """Return how many order books of a feed are in each state; no states if it has none."""
    states = Counter(state for _, state in book_states(feed, reported))
    names = ("waiting", "synced", "stale", "crossed")
    return {name: states[name] for name in names} if states else {}
