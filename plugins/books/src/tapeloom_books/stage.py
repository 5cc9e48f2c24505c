"""The stage: finds for each event the book that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field
from tapeloom.events import Book, Event, Gap, Status

from .book_sync import BookSync
from .local import LocalBook
from .settings import Settings

if TYPE_CHECKING:
    from tapeloom.plugin import Feed

__all__ = ["Books"]

_OURS = frozenset({Book, Gap, Status})


@define(eq=False)
class Books:
    """Keeps a book for each symbol and channel, apart from all others.

    `books` are the live ones, by symbol and channel; read them, do not change them.
    """

    feed: Feed
    settings: Settings = field(factory=Settings)
    books: dict[tuple[str, str], LocalBook] = field(init=False, factory=dict)
    _keepers: dict[tuple[str, str], BookSync] = field(init=False, factory=dict)
    _waiting: dict[tuple[str, str], int] = field(init=False, factory=dict)

    @property
    def due(self) -> int | None:
        """When a snapshot has to be asked for again."""
        return min(self._waiting.values()) if self._waiting else None

    def __call__(self, events: list[Event]) -> list[Event]:
        """Pass every event on, and add what the books tell, each behind its cause."""
        if _OURS.isdisjoint(map(type, events)):
            return events
        out: list[Event] = []
        keepers = self._keepers
        for event in events:
            if type(event) is Book and event.origin != "built_from_book":
                keeper = keepers.get((event.symbol, event.channel)) or self._start(event)
                if event.kind == "delta":
                    keeper.delta(event, out)
                else:
                    keeper.snapshot(event, out)
                continue
            out.append(event)
            if type(event) is Gap and event.state != "filled":
                for keeper in self._meant(event):
                    keeper.gap(event, out)
            elif type(event) is Status and event.state == "request_failed":
                for keeper in self._meant(event):
                    keeper.failed(event.recv)
        return out

    def tick(self, now: int) -> list[Event]:
        """Ask again for the snapshots that did not come."""
        for key, at in list(self._waiting.items()):
            if at > now:
                continue
            if key[0] in self.feed.symbols:
                self._keepers[key].ask(now)
            else:  # dropped from the feed meanwhile
                del self._waiting[key]
        return []

    def _start(self, event: Book) -> BookSync:
        key = event.symbol, event.channel
        book = LocalBook(event.venue, *key, kept=self.settings.depth)
        self.books[key] = book
        self._keepers[key] = BookSync(
            book, self.settings, self.feed.query_history, self._waiting, self.feed.counters
        )
        return self._keepers[key]

    def _meant(self, event: Gap | Status) -> list[BookSync]:
        """Find the books that *event* is about; without a symbol or channel it is about all."""
        symbol, channel = event.symbol, event.channel
        return [
            keeper
            for key, keeper in self._keepers.items()
            if symbol in ("", key[0]) and channel in ("", key[1])
        ]
