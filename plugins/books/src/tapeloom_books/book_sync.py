"""`BookSync`: keeps one local book in sync with the venue.

Two checks are independent: whether each delta follows the one before (otherwise a `Gap` is emitted,
whatever the state of the book), and whether the deltas follow the snapshot.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tapeloom.events import Book, Event, Gap, Status
from tapeloom.plugin import HistoryQuery

from .rules import has_sequence_ids, missing_count, position_after_delta, position_after_snapshot
from .top_of_book import TopOfBookEmitter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom.plugin import Feed

    from .local import LocalBook, State
    from .settings import Settings

__all__ = ["BookSync"]

#: Snapshots that may be requested in a row without waiting. After that the wait starts at the last
#: request and doubles each time, so that a venue whose snapshots never match is not flooded.
_IMMEDIATE_REQUESTS = 3
#: The wait grows to at most 2 ** 6 = 64 times the setting `retry`.
_MAX_DOUBLINGS = 6


class BookSync:
    """One book, and the deltas buffered until its snapshot arrives.

    `retry_at` is shared by all books of a feed. While a book needs a snapshot, it maps the book's key
    to the time in ns at which to request one again.
    """

    def __init__(
        self, book: LocalBook, settings: Settings, feed: Feed, retry_at: dict[tuple[str, str], int]
    ) -> None:
        self.book = book
        self._key = book.symbol, book.channel
        self._query_history = feed.query_history
        self._gaps = feed.gaps
        self._retry_at = retry_at
        self._counters = feed.counters
        self._emit_top_of_book = TopOfBookEmitter(book, settings)
        self._retry = settings.retry
        self._buffered: deque[Book] = deque(maxlen=settings.buffer)
        self._last_id: int | None = None  # last update id of the stream
        self._last_ts = 0
        self._awaits_first_delta = False  # no delta was applied to the snapshot yet
        self._was_crossed = False  # the last event left the book crossed
        self._request_pending = False  # a request has no answer yet
        self._attempts = 0
        self._next_request_at = 0  # no request before this time, ns
        self._synced_since: int | None = None  # when the book became synced, ns

    def process_delta(self, event: Book, out: list[Event]) -> None:
        """Append a delta to *out*; apply it to the book if it is the next one, else buffer it."""
        position = position_after_delta(event, self._last_id)
        if position == "gap":
            self._report_gap(event, out)
        out.append(event)
        if position == "old":
            return
        self._last_id = event.last_id
        self._last_ts = event.ts
        book = self.book
        if book.state != "synced":
            self._buffer(event)
            return
        if self._awaits_first_delta:
            position = position_after_snapshot(event, book.sequence)
            if position == "old":
                return
            if position == "gap":
                self._invalidate(
                    "stale",
                    event,
                    out,
                    f"the snapshot at {book.sequence} is older than the first delta needs",
                )
                self._buffer(event)
                return
            self._awaits_first_delta = False
        try:
            book.apply(event)
        except ValueError as error:
            self._invalidate("stale", event, out, str(error))
            self.request_snapshot(event.recv)
            return
        bids, asks = book.bids.keys, book.asks.keys
        may_be_crossed = self._was_crossed or (bids and asks and bids[-1] + asks[-1] >= 0)
        if may_be_crossed and not self._is_uncrossed(event, out):
            if not book.synced:
                self._buffer(event)
            return
        self._emit_top_of_book(event.ts, event.recv, out)

    def process_snapshot(self, event: Book, out: list[Event]) -> None:
        """Append a snapshot to *out*; load it, followed by the buffered deltas that come after it."""
        out.append(event)
        if event.origin == "live":
            self._last_id = event.last_id
            self._last_ts = event.ts
            self._replace_book(event, (), out)
            return
        self._request_pending = False
        if self.book.state == "synced" and event.last_id is not None:
            return  # the book became synced before this answer arrived
        buffered = [
            delta
            for delta in self._buffered
            if position_after_snapshot(delta, event.last_id) != "old"
        ]
        if buffered and position_after_snapshot(buffered[0], event.last_id) == "gap":
            self._allow_request_now()
            self.request_snapshot(event.recv)
        else:
            self._replace_book(event, buffered, out)

    def process_gap(self, event: Gap, out: list[Event]) -> None:
        """Process a gap in the stream: later deltas cannot be applied to the current book."""
        self._last_id = None
        self._buffered.clear()
        if self.book.state == "synced":
            self._invalidate("stale", event, out, event.cause)

    def request_failed(self, now: int) -> None:
        """Process a failed request: repeat it after a tenth of the wait for an unanswered one."""
        if self._request_pending and self._key in self._retry_at:
            self._request_pending = False
            self._next_request_at = min(self._retry_at[self._key], now + self._backoff() // 10)
            self._retry_at[self._key] = self._next_request_at

    def request_snapshot(self, now: int) -> None:
        """Request a snapshot, or schedule the request if the wait has not passed."""
        if now < self._next_request_at:
            self._retry_at[self._key] = self._next_request_at
            return
        self._request_pending = True
        self._attempts += 1
        self._next_request_at = self._retry_at[self._key] = now + self._backoff()
        self._query_history(HistoryQuery("book", self.book.symbol, self.book.channel))

    def _report_gap(self, event: Book, out: list[Event]) -> None:
        book, last_id = self.book, self._last_id
        missing_ids = missing_count(event, last_id)
        out += self._gaps.open(
            book.symbol, book.channel, since=self._last_ts, until=event.ts, recv=event.recv,
            after_id=last_id, before_id=None if missing_ids is None else event.first_id,
            missing=missing_ids,
        )  # fmt: skip
        if book.state == "synced":
            received = (
                event.first_id
                if event.previous_id is None
                else f"the one after {event.previous_id}"
            )
            self._invalidate(
                "stale", event, out, f"expected the update after {last_id}, received {received}"
            )
        self._buffered.clear()

    def _buffer(self, event: Book) -> None:
        # Without ids it cannot be known whether the snapshot already contains a delta.
        if has_sequence_ids(event):
            self._buffered.append(event)
        self.request_snapshot(event.recv)

    def _replace_book(self, snapshot: Book, buffered: Sequence[Book], out: list[Event]) -> None:
        book = self.book
        previous_state = book.state
        try:
            book.replace(snapshot)
            for delta in buffered:
                book.apply(delta)
        except ValueError as error:
            self._invalidate("stale", snapshot, out, str(error))
            return
        self._awaits_first_delta = not buffered
        self._buffered.clear()
        self._retry_at.pop(self._key, None)
        if previous_state != "synced":
            self._synced_since = snapshot.recv
            detail = f"{len(book.bids)} bids, {len(book.asks)} asks, at {book.sequence}"
            out.append(self._status("synced", book.ts, snapshot.recv, detail))
        if self._is_uncrossed(snapshot, out):
            self._emit_top_of_book(book.ts, snapshot.recv, out)

    def _is_uncrossed(self, event: Book, out: list[Event]) -> bool:
        """Return whether the book is uncrossed; invalidate it if it was crossed after the last event too."""
        if not self.book.crossed:
            self._was_crossed = False
            return True
        if self._was_crossed:
            bid, ask = self.book.bids.raw_best, self.book.asks.raw_best
            self._invalidate("crossed", event, out, f"bid {bid} at or above ask {ask}")
        else:
            self._was_crossed = True
        return False

    def _invalidate(self, state: State, event: Book | Gap, out: list[Event], reason: str) -> None:
        if self._synced_since is not None and event.recv - self._synced_since >= self._retry:
            self._attempts = 0  # the book was synced long enough: count requests anew
        self._synced_since = None
        self._counters[f"{state}_books"] += 1
        self.book.invalidate(state)
        self._emit_top_of_book.reset()
        self._buffered.clear()
        self._awaits_first_delta = self._was_crossed = False
        self._allow_request_now()
        out.append(self._status(state, event.ts, event.recv, reason))

    def _status(self, state: State, ts: int, recv: int, detail: str) -> Status:
        book = self.book
        return Status(book.venue, book.symbol, ts, recv, state, detail, book.channel)

    def _backoff(self) -> int:
        return self._retry << min(self._attempts - 1, _MAX_DOUBLINGS)

    def _allow_request_now(self) -> None:
        if not self._request_pending and self._attempts < _IMMEDIATE_REQUESTS:
            self._next_request_at = 0
