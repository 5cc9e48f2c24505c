"""Keeps one book in step with its venue.

Two things are watched apart: whether the deltas follow each other (a hole is a `Gap`, whatever the
state of the book), and whether a snapshot joins onto them.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from tapeloom.events import Book, Event, Gap, Status
from tapeloom.plugin import HistoryQuery

from .rules import after_delta, after_snapshot, is_checked, missing
from .top_of_book import TopOfBookEmitter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .local import LocalBook, State
    from .settings import Settings

__all__ = ["BookSync"]

#: So many snapshots may be asked for in a row, each as soon as it is needed. After that the wait
#: counts from the last request and doubles, for a venue whose snapshots are never of use.
_AT_ONCE = 3
_MOST_DOUBLINGS = 6


class BookSync:
    """One book, and the deltas that wait for its snapshot.

    `waiting` is shared by the keepers of a feed. A book stands in it while it needs a snapshot,
    with the time at which to ask for one again.
    """

    def __init__(
        self,
        book: LocalBook,
        settings: Settings,
        want: Callable[[HistoryQuery], None],
        waiting: dict[tuple[str, str], int],
        counters: Counter[str],
    ) -> None:
        self.book = book
        self._key = book.symbol, book.channel
        self._want = want
        self._waiting = waiting
        self._counters = counters
        self._tell = TopOfBookEmitter(book, settings)
        self._retry = settings.retry
        self._held: deque[Book] = deque(maxlen=settings.buffer)
        self._seen: int | None = None  # the id with which the stream has come this far
        self._seen_ts = 0
        self._fresh = False  # no delta has joined the snapshot yet
        self._grace = False  # the last event left the book crossed
        self._asked = False  # an answer is outstanding
        self._attempts = 0
        self._allowed = 0  # no request before this time
        self._since: int | None = None  # when the book came into step

    def delta(self, event: Book, out: list[Event]) -> None:
        """Pass a delta on, and apply it if its turn has come."""
        place = after_delta(event, self._seen)
        if place == "gap":
            self._hole(event, out)
        out.append(event)
        if place == "old":
            return
        self._seen = event.last_id
        self._seen_ts = event.ts
        book = self.book
        if book.state != "synced":
            self._hold(event)
            return
        if self._fresh:
            joins = after_snapshot(event, book.sequence)
            if joins == "old":
                return
            if joins == "gap":
                self._lose("stale", event, out, f"the snapshot ends at {book.sequence}: too early")
                self._hold(event)
                return
            self._fresh = False
        try:
            book.apply(event)
        except ValueError as error:
            self._lose("stale", event, out, str(error))
            self.ask(event.recv)
            return
        bids, asks = book.bids.keys, book.asks.keys
        suspect = self._grace or (bids and asks and bids[-1] + asks[-1] >= 0)
        if suspect and not self._stands(event, out):
            if not book.synced:
                self._hold(event)
            return
        self._tell(event.ts, event.recv, out)

    def snapshot(self, event: Book, out: list[Event]) -> None:
        """Pass a snapshot on, and take it over or join it to the deltas that wait."""
        out.append(event)
        if event.origin == "live":
            self._seen = event.last_id
            self._seen_ts = event.ts
            self._take(event, (), out)
            return
        self._asked = False
        if self.book.state == "synced" and event.last_id is not None:
            return  # an answer that came too late to be of use
        held = [delta for delta in self._held if after_snapshot(delta, event.last_id) != "old"]
        if held and after_snapshot(held[0], event.last_id) == "gap":
            self._hurry()
            self.ask(event.recv)
        else:
            self._take(event, held, out)

    def gap(self, event: Gap, out: list[Event]) -> None:
        """Hear that part of the stream was lost: nothing joins what went before."""
        self._seen = None
        self._held.clear()
        if self.book.state == "synced":
            self._lose("stale", event, out, event.cause)

    def failed(self, now: int) -> None:
        """Hear that no answer will come: ask again sooner than after silence."""
        if self._asked and self._key in self._waiting:
            self._asked = False
            self._allowed = min(self._waiting[self._key], now + self._pause() // 10)
            self._waiting[self._key] = self._allowed

    def ask(self, now: int) -> None:
        """Ask for a snapshot, or note when it may be asked for."""
        if now < self._allowed:
            self._waiting[self._key] = self._allowed
            return
        self._asked = True
        self._attempts += 1
        self._allowed = self._waiting[self._key] = now + self._pause()
        self._want(HistoryQuery("book", self.book.symbol, self.book.channel))

    def _hole(self, event: Book, out: list[Event]) -> None:
        book, seen = self.book, self._seen
        lost = missing(event, seen)
        self._counters["gaps"] += 1
        out.append(
            Gap(
                book.venue, book.symbol, event.ts, event.recv, self._seen_ts, event.ts,
                "sequence", lost, channel=book.channel,
            )
        )  # fmt: skip
        if book.state == "synced":
            came = (
                event.first_id
                if event.previous_id is None
                else f"the one after {event.previous_id}"
            )
            self._lose("stale", event, out, f"expected the update after {seen}, and {came} came")
        self._held.clear()

    def _hold(self, event: Book) -> None:
        # Without ids nobody can say whether a delta is in the snapshot already.
        if is_checked(event):
            self._held.append(event)
        self.ask(event.recv)

    def _take(self, snapshot: Book, held: Sequence[Book], out: list[Event]) -> None:
        book = self.book
        was = book.state
        try:
            book.replace(snapshot)
            for delta in held:
                book.apply(delta)
        except ValueError as error:
            self._lose("stale", snapshot, out, str(error))
            return
        self._fresh = not held
        self._held.clear()
        self._waiting.pop(self._key, None)
        if was != "synced":
            self._since = snapshot.recv
            detail = f"{len(book.bids)} bids, {len(book.asks)} asks, at {book.sequence}"
            out.append(self._status("synced", book.ts, snapshot.recv, detail))
        if self._stands(snapshot, out):
            self._tell(book.ts, snapshot.recv, out)

    def _stands(self, event: Book, out: list[Event]) -> bool:
        """Tell whether the book is uncrossed; one that stays crossed for two events is lost."""
        if not self.book.crossed:
            self._grace = False
            return True
        if self._grace:
            bid, ask = self.book.bids.raw_best, self.book.asks.raw_best
            self._lose("crossed", event, out, f"bid {bid} at or above ask {ask}")
        else:
            self._grace = True
        return False

    def _lose(self, state: State, event: Book | Gap, out: list[Event], why: str) -> None:
        if self._since is not None and event.recv - self._since >= self._retry:
            self._attempts = 0  # it had been well: this is a new trouble
        self._since = None
        self._counters[f"{state}_books"] += 1
        self.book.lose(state)
        self._tell.forget()
        self._held.clear()
        self._fresh = self._grace = False
        self._hurry()
        out.append(self._status(state, event.ts, event.recv, why))

    def _status(self, state: State, ts: int, recv: int, detail: str) -> Status:
        book = self.book
        return Status(book.venue, book.symbol, ts, recv, state, detail, book.channel)

    def _pause(self) -> int:
        return self._retry << min(self._attempts - 1, _MOST_DOUBLINGS)

    def _hurry(self) -> None:
        if not self._asked and self._attempts < _AT_ONCE:
            self._allowed = 0
