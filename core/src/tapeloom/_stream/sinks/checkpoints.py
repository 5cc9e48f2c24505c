"""The positions of a sink that asks for them at its checkpoints only, instead of storing them with each batch.

A position for each symbol of each batch costs more than the events. A store that is read back at the start
need not have them: they follow from the events after its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import evolve

from tapeloom.events import Event

from .positions import Latest, Positions, texts

#: Stored events that are kept until the positions are brought up to date: those that decide them.
_MAX_PENDING = 16_384


class Checkpoints:
    """Keeps stored events, and brings the positions up to date with many of them at a time."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._pending = Latest(positions)
        self._unsaved: set[tuple[str, str, str]] = set()
        self._is_asked = False
        self._last: Sequence[Event] = ()  # what was stored last

    def restart(self) -> None:
        """Let the next checkpoint have all positions: the sink was opened, and may have lost some."""
        self.fold()
        self._unsaved, self._is_asked = set(self._positions.by_key()), False

    def add(self, events: Sequence[Event]) -> None:
        """Take note of events that are stored now."""
        self._last = events
        self._pending.add(events)
        if self._pending.count >= _MAX_PENDING or self._is_asked:
            self.fold()
        if self._is_asked:  # what was asked for is stored together with these events
            self._unsaved.clear()
            self._is_asked = False

    def add_all(self, batches: Iterable[Sequence[Event]]) -> None:
        """Take note of what was stored before. Raises what *batches* raises."""
        for events in batches:
            self.add(events)
        self.fold()

    def fold(self) -> None:
        """Bring the positions up to date."""
        if self._pending.is_empty:
            return
        changed = self._pending.positions()
        self._pending = Latest(self._positions)
        self._positions.update(changed)
        self._unsaved.update(changed)

    def forget_gaps(self) -> None:
        """Forget the gaps without a final state: they are not filled by whoever continues."""
        self.fold()
        found = {key: of for key, of in self._positions.by_key().items() if of.open}
        self._positions.update({key: evolve(of, open=()) for key, of in found.items()})
        self._unsaved.update(found)

    def changed(self) -> Mapping[str, str]:
        """Return, as texts, the positions that have changed since this was last called."""
        self.fold()
        by_key = self._positions.by_key()
        found = texts({key: by_key[key] for key in self._unsaved})
        self._unsaved.clear()
        return found

    def texts_after(self, events: Sequence[Event]) -> Mapping[str, str]:
        """Return, as texts, the positions after *events* that have changed since the last checkpoint.

        *events* are being written, or were stored last.
        """
        self.fold()
        self._is_asked = True
        by_key = self._positions.by_key()
        unsaved = {key: by_key[key] for key in self._unsaved}
        changed = {} if events is self._last else self._positions.after(events)
        return texts({**unsaved, **changed})


def checkpoints_after(stored: Mapping[str, str]) -> Checkpoints:
    """Return checkpoints that begin with positions that were stored, as texts."""
    positions = Positions()
    positions.restore(stored)
    return Checkpoints(positions)
