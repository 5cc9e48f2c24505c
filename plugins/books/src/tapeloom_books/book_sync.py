"""`BookSync`: keeps one local book in sync with the venue.

Two checks are independent: whether each delta follows the one before (otherwise a `Gap` is emitted,
whatever the state of the book), and whether the deltas follow the snapshot. A book that no longer
follows the deltas, or that gets no snapshot, is reported by a `Status` within seconds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal

from tapeloom.events import Book, Event, Gap, Status
from tapeloom.plugin import HistoryQuery, Loss

from .rules import first_joining, has_sequence_ids, missing_count, position_after_snapshot
from .stream_ids import NOT_FOLLOWING_NS, StreamIds
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
#: A first snapshot that has not arrived after this time is reported. An answer usually takes less than
#: a second, and a snapshot in the stream comes before the first delta.
_SNAPSHOT_LATE_NS = 5_000_000_000


class BookSync:
    """One book, and the deltas buffered until its snapshot arrives.

    `retry_at` and `report_at` are shared by all books of a feed and map the book's key to a time in ns:
    while a book needs a snapshot, to the time of the next request; while it waits for its first one,
    to the time at which to report that there is none.
    """

    def __init__(
        self,
        book: LocalBook,
        settings: Settings,
        feed: Feed,
        retry_at: dict[tuple[str, str], int],
        report_at: dict[tuple[str, str], int],
    ) -> None:
        self.book = book
        self._key = book.symbol, book.channel
        self._query_history = feed.query_history
        self._gaps = feed.gaps
        self._retry_at = retry_at
        self._report_at = report_at
        self._counters = feed.counters
        self._emit_top_of_book = TopOfBookEmitter(book, settings)
        self._retry = settings.retry
        self._buffered: deque[Book] = deque(maxlen=settings.buffer)
        self._ids = StreamIds()
        self._awaits_first_delta = False  # no delta was applied to the snapshot yet
        self._replaced_at = 0  # receive time of the last snapshot that was loaded, ns
        self._was_crossed = False  # the last event left the book crossed
        self._request_pending = False  # a request has no answer yet
        self._attempts = 0
        self._next_request_at = 0  # no request before this time, ns
        self._synced_since: int | None = None  # when the book became synced, ns

    def process_delta(self, event: Book, out: list[Event]) -> None:
        """Append a delta to *out*; apply it to the book if it is the next one, else buffer it."""
        position = self._ids.place(event)
        if position == "old":
            out.append(event)
            return
        if position != "next":
            self._report_gap(event, position, out)
        out.append(event)
        book = self.book
        if book.state != "synced":
            self._buffer(event)
            return
        if self._awaits_first_delta:
            position = position_after_snapshot(event, book.sequence)
            if position == "old" and event.recv - self._replaced_at < NOT_FOLLOWING_NS:
                return
            if position != "next":
                relation = "older" if position == "gap" else "newer"
                reason = f"the snapshot at {book.sequence} is {relation} than the deltas need"
                self._invalidate("stale", event, out, f"{reason}, received {event.last_id}")
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
        """Append a snapshot to *out*; load it, followed by the buffered deltas that come after it.

        A snapshot in the stream is loaded in any case. A requested one is not needed if the book became
        synced before, and of no use if it is older than the deltas need.
        """
        out.append(event)
        self._request_pending = False
        buffered, end = [*self._buffered], event.last_id
        if event.origin == "live":
            joining = first_joining(buffered, end) if end is not None else None
            if joining is None or joining == len(buffered):
                self._ids.replaced_by(event)
            self._replace_book(event, () if joining is None else buffered[joining:], out)
            return
        if self.book.state == "synced" and end is not None:
            return
        joining = first_joining(buffered, end)
        last_id = self._ids.last_id
        if not buffered and end is not None and last_id is not None and end < last_id:
            joining = None  # older than a delta that is not buffered
        if joining is None:
            self._allow_request_now()
            self.request_snapshot(event.recv)
        else:
            self._replace_book(event, buffered[joining:], out)

    def process_gap(self, event: Gap, out: list[Event]) -> None:
        """Process a gap in the stream: later deltas cannot be applied to the current book."""
        self._ids.reset()
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

    def report_missing_snapshot(self, now: int | None = None) -> Status:
        """Return the report that the book has no snapshot yet at *now*, or at the end of the feed."""
        late_at = self._report_at.pop(self._key)
        reason = f"no snapshot within {_SNAPSHOT_LATE_NS // 10**9} s of the first delta"
        if now is None:
            now = self._buffered[-1].recv if self._buffered else late_at - _SNAPSHOT_LATE_NS
            reason = "the feed ended before a snapshot arrived"
        self.book.invalidate("stale")
        detail = f"{reason}; {self._attempts} requests were sent; the book is empty until then"
        return self._status("stale", self._ids.last_ts or now, now, detail)

    def _report_gap(
        self, event: Book, position: Literal["gap", "restart"], out: list[Event]
    ) -> None:
        book, missing_ids = self.book, None
        last_id, since = self._ids.gap_id, min(self._ids.gap_ts, event.ts)
        expected = f"expected the update after {last_id}"
        if position == "restart":
            reason = f"{expected}, received {event.last_id}: the venue restarted its ids"
        elif event.previous_id is not None:
            reason = f"{expected}, received the one after {event.previous_id}"
        else:
            reason = f"{expected}, received {event.first_id}"
            missing_ids = missing_count(event, last_id)
        loss = Loss(
            book.symbol, book.channel, since=since, until=event.ts, recv=event.recv,
            after_id=last_id, before_id=None if missing_ids is None else event.first_id,
            missing=missing_ids,
        )  # fmt: skip
        out += self._gaps.open(loss)
        if book.state == "synced":
            self._invalidate("stale", event, out, reason)
        self._buffered.clear()

    def _buffer(self, event: Book) -> None:
        # Without ids it cannot be known whether the snapshot already contains a delta.
        if has_sequence_ids(event):
            self._buffered.append(event)
        if self.book.state == "waiting":
            self._report_at.setdefault(self._key, event.recv + _SNAPSHOT_LATE_NS)
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
        self._replaced_at = snapshot.recv
        self._buffered.clear()
        self._retry_at.pop(self._key, None)
        self._report_at.pop(self._key, None)
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
        self._report_at.pop(self._key, None)
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
