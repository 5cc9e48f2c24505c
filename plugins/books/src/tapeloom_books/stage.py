"""The stage `Books`: routes each event to the book of its symbol and channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import define, field
from tapeloom.events import Book, Event, Gap, Status

from .book_sync import BookSync
from .local import LocalBook
from .settings import Settings

if TYPE_CHECKING:
    from tapeloom.plugin import Feed

__all__ = ["Books"]

#: Types of events that can change a book; others pass through.
_PROCESSED_TYPES = frozenset({Book, Gap, Status})


@define(eq=False)
class Books:
    """Maintain one local order book per symbol and channel, independent of all others.

    `books` maps (symbol, channel) to the live book; read them, do not change them.
    """

    uses: ClassVar = frozenset({"book"})
    adds: ClassVar = frozenset({"book", "quote"})

    feed: Feed
    settings: Settings = field(factory=Settings)
    books: dict[tuple[str, str], LocalBook] = field(init=False, factory=dict)
    _book_syncs: dict[tuple[str, str], BookSync] = field(init=False, factory=dict)
    _retry_at: dict[tuple[str, str], int] = field(init=False, factory=dict)
    _report_at: dict[tuple[str, str], int] = field(init=False, factory=dict)

    @property
    def due(self) -> int | None:
        """Time in ns at which the next request, or report of a missing snapshot, is due."""
        return min((*self._retry_at.values(), *self._report_at.values()), default=None)

    def __call__(self, events: list[Event]) -> list[Event]:
        """Return *events* with the events of the books added, each after the event that caused it."""
        if _PROCESSED_TYPES.isdisjoint(map(type, events)):
            return events
        out: list[Event] = []
        book_syncs = self._book_syncs
        for event in events:
            if type(event) is Book and event.origin != "built_from_book":
                book_sync = book_syncs.get((event.symbol, event.channel)) or self._add_book(event)
                if event.kind == "delta":
                    book_sync.process_delta(event, out)
                else:
                    book_sync.process_snapshot(event, out)
                continue
            out.append(event)
            if type(event) is Gap and event.state != "filled":
                for book_sync in self._matching(event):
                    book_sync.process_gap(event, out)
            elif type(event) is Status and event.state == "request_failed":
                for book_sync in self._matching(event):
                    book_sync.request_failed(event.recv)
        return out

    def tick(self, now: int) -> list[Event]:
        """Request again the snapshots that did not arrive, and report the books that never had one."""
        symbols = set(self.feed.symbols)
        for deadlines in (self._retry_at, self._report_at):
            for key in [key for key in deadlines if key[0] not in symbols]:
                del deadlines[key]  # the symbol was removed from the feed
        for key in [key for key, retry_at in self._retry_at.items() if retry_at <= now]:
            self._book_syncs[key].request_snapshot(now)
        late = [key for key, report_at in self._report_at.items() if report_at <= now]
        return [self._book_syncs[key].report_missing_snapshot(now) for key in late]

    def flush(self) -> list[Event]:
        """Report the books that have not had a snapshot by the end of the feed."""
        return [self._book_syncs[key].report_missing_snapshot() for key in [*self._report_at]]

    def _add_book(self, event: Book) -> BookSync:
        key = event.symbol, event.channel
        book = LocalBook(event.venue, *key, top_levels=self.settings.depth)
        self.books[key] = book
        self._book_syncs[key] = BookSync(
            book, self.settings, self.feed, self._retry_at, self._report_at
        )
        return self._book_syncs[key]

    def _matching(self, event: Gap | Status) -> list[BookSync]:
        """Return the books that *event* concerns; an empty symbol or channel means all."""
        symbol, channel = event.symbol, event.channel
        return [
            book_sync
            for key, book_sync in self._book_syncs.items()
            if symbol in ("", key[0]) and channel in ("", key[1])
        ]
