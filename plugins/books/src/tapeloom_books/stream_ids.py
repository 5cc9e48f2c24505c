"""`StreamIds`: follows the update ids of one book's deltas, also where the venue starts them anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from .rules import Position, position_after_delta

if TYPE_CHECKING:
    from tapeloom.events import Book

__all__ = ["NOT_FOLLOWING_NS", "StreamIds", "StreamPosition"]

#: Where ids alone do not tell, a book whose deltas are all too old for this long has stopped following
#: the venue. Reordered and repeated deltas end sooner: a venue sends several deltas a second.
NOT_FOLLOWING_NS = 5_000_000_000

#: "restart": the ids started anew, or an earlier id was wrong, so updates may be missing.
StreamPosition: TypeAlias = Position | Literal["restart"]


class StreamIds:
    """The ids of the newest delta of one book, and the delta's position in the stream.

    A delta with a lower id is old: a repetition, or late. It shows a restart if its time is after that
    of the newest delta, or if for `NOT_FOLLOWING_NS` there was nothing but old deltas whose ids advance.
    Otherwise one wrong id that is too high would stop the book for good.
    """

    __slots__ = (
        "_id_before_snapshot", "_newest_old_id", "_old_since", "gap_id", "gap_ts", "last_id", "last_ts",
    )  # fmt: skip

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the ids: the next delta has any position."""
        self.last_id: int | None = None  #: the last update id of the stream
        self.last_ts = 0  #: the venue's time of that update, ns
        self.gap_id: int | None = None  #: `last_id` before the last gap or restart
        self.gap_ts = 0  #: `last_ts` before it
        self._id_before_snapshot: int | None = None
        self._newest_old_id: int | None = None  # of the old deltas since the last that was not
        self._old_since = 0  # receive time of the first of them, ns

    def replaced_by(self, snapshot: Book) -> None:
        """Continue from a snapshot in the stream."""
        last_id, end = self.last_id, snapshot.last_id
        self.reset()
        # A snapshot with a lower id means that the ids started anew, or that it is late.
        if last_id is not None and end is not None and end < last_id:
            self._id_before_snapshot = last_id
        self.last_id, self.last_ts = end, snapshot.ts

    def place(self, delta: Book) -> StreamPosition:
        """Return the position of *delta*, and continue from it unless it is old."""
        position: StreamPosition = position_after_delta(delta, self.last_id)
        if position != "next":
            if position == "gap":
                position = "next" if self._goes_on_from_before_snapshot(delta) else "gap"
            elif not self._is_restart(delta):
                return "old"
            else:
                position = "restart"
            self.gap_id, self.gap_ts = self.last_id, self.last_ts
        self.last_id, self.last_ts = delta.last_id, delta.ts
        self._id_before_snapshot = self._newest_old_id = None
        return position

    def _is_restart(self, old: Book) -> bool:
        assert self.last_id is not None
        assert old.last_id is not None
        if old.last_id == self.last_id:
            return False
        if old.ts > self.last_ts:
            return True
        if self._newest_old_id is None:
            self._newest_old_id, self._old_since = old.last_id, old.recv
        elif old.last_id > self._newest_old_id:
            self._newest_old_id = old.last_id
            return old.recv - self._old_since >= NOT_FOLLOWING_NS
        return False

    def _goes_on_from_before_snapshot(self, delta: Book) -> bool:
        """Return whether the last snapshot was late, and nothing is missing in the stream."""
        last_id = self._id_before_snapshot
        return last_id is not None and position_after_delta(delta, last_id) == "next"
