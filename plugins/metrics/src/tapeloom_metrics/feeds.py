"""Finds the feed that an event belongs to, which the event itself does not say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tapeloom.plugin import FeedState


class FeedIndex:
    """The feeds of a stream, by venue and symbol."""

    def __init__(self, feeds: Sequence[FeedState] = ()) -> None:
        self._by_name = {feed.name: feed for feed in feeds}
        venues = Counter(feed.venue for feed in feeds)
        self._alone = {feed.venue: feed.name for feed in feeds if venues[feed.venue] == 1}
        self._by_channel: dict[tuple[str, str, str], str] = {}
        self._by_symbol: dict[tuple[str, str], str] = {}
        for feed in feeds:
            if feed.venue in self._alone:
                continue
            for symbol in feed.symbols:
                self._by_symbol.setdefault((feed.venue, symbol), feed.name)
                for channel in feed.channels:
                    self._by_channel.setdefault((feed.venue, symbol, channel), feed.name)

    def name(self, venue: str, symbol: str, channel: str) -> str:
        """Return the name of the feed; empty if it may be one of several, or is not known.

        If two feeds have the symbol, that of a channel which neither has, such as `bars`, is the first.
        """
        alone = self._alone.get(venue)
        if alone is not None:
            return alone
        feed = self._by_channel.get((venue, symbol, channel))
        return feed or self._by_symbol.get((venue, symbol), "")

    @property
    def are_told_by_venue(self) -> bool:
        """Whether each feed is the only one of its venue."""
        return len(self._alone) == len(self._by_name)

    def offset(self, name: str) -> int | None:
        """Return by how much the venue's clock is ahead of ours in this feed, in ns; None if not known."""
        feed = self._by_name.get(name)
        return None if feed is None else feed.clock_offset
