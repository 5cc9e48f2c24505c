"""What of a remote stream was missed while the connection was down, or the program did not run."""

from __future__ import annotations

import json
from typing import TypeAlias

from attrs import frozen
from tapeloom import Book, Event, Gap
from tapeloom.events import OURS, GapCause

__all__ = ["Continuity"]

_Key: TypeAlias = tuple[str, str, str]  # venue, symbol, channel


@frozen
class _Last:
    """The last event of a subscription."""

    ts: int
    recv: int
    id: int | str | None = None


class Continuity:
    """The last event of each subscription; puts a Gap before the first one after a loss.

    Where a venue numbers its trades, nothing was missed if the numbers go on, and no gap is made.
    """

    def __init__(self) -> None:
        self._last: dict[_Key, Event | _Last] = {}
        self._lost: dict[_Key, GapCause] = {}  # subscriptions with a gap that has not ended

    def lose(self, cause: GapCause) -> None:
        """Begin a gap in every subscription that was seen."""
        self._lost = dict.fromkeys(self._last, cause)

    def process(self, events: list[Event], snapshots: int = 0) -> list[Event]:
        """Return *events* with gaps where something was missed; the first *snapshots* are latest states.

        States that were received before are left out, except those of books.
        """
        if not snapshots and not self._lost:
            for event in events:
                if type(event) not in OURS:
                    self._last[event.venue, event.symbol, event.channel] = event
            return events
        out: list[Event] = []
        for index, event in enumerate(events):
            if type(event) in OURS:
                out.append(event)
                continue
            key = event.venue, event.symbol, event.channel
            last = self._last.get(key)
            if last is not None and index < snapshots and event.recv <= last.recv:
                if type(event) is Book:
                    out.append(event)
                continue
            if last is not None and key in self._lost:
                out += self._end_gap(key, last, event)
            self._last[key] = event
            out.append(event)
        return out

    def _end_gap(self, key: _Key, last: Event | _Last, event: Event) -> list[Event]:
        """Return the gap that *event* ends; nothing if nothing was missed or it is older."""
        after, before = getattr(last, "id", None) or None, getattr(event, "id", None) or None
        missing = None
        if type(after) is int and type(before) is int:
            missing = before - after - 1
            if missing < 0:
                return []
        cause = self._lost.pop(key)
        if missing == 0:
            return []
        venue, symbol, channel = key
        until = max(event.ts, last.ts)
        return [
            Gap(
                venue, symbol, until, event.recv, last.ts, until, cause, missing, "unrecoverable",
                channel, after, before,
            )
        ]  # fmt: skip

    def to_text(self) -> str:
        """Return where each subscription stands, as a text that `restore` reads."""
        found = [
            [*key, last.ts, last.recv, getattr(last, "id", None)]
            for key, last in self._last.items()
        ]
        return json.dumps(found, separators=(",", ":"))

    def restore(self, text: str) -> None:
        """Continue from where an earlier run stood. Raises ValueError for another text."""
        try:
            self._last = {
                (venue, symbol, channel): _Last(ts, recv, last_id)
                for venue, symbol, channel, ts, recv, last_id in json.loads(text)
            }
        except TypeError as error:
            raise ValueError(f"expected positions, got {text[:80]!r}") from error
