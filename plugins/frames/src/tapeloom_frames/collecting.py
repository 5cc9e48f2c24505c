"""Collects what a stack gives within some time, or until some number of events, as frames."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import anyio
from tapeloom import Gap, Registry, Stream
from tapeloom.events import BaseEvent

from .live_frame import Frame
from .sync_stream import open_sync, seconds

__all__ = ["collect"]


def collect(
    stack: Any,
    for_: str | float | None = None,
    *,
    count: int | None = None,
    types: Iterable[type[BaseEvent]] = (),
    registry: Registry | None = None,
    record: Path | str | None = None,
) -> dict[type[BaseEvent], Frame]:
    """Return the events of a stack as frames by type: ``collect("stack.toml", "10s", types=[Trade])``.

    It ends after the time *for_*, such as "10s" or a number of seconds, after *count* events of these
    types, or with the stream, as a replay does. *types* are the event classes, by default all that come;
    each of them has a frame, which may be empty. Every frame has the gaps. The other arguments are those
    of `open_sync`. Nothing is dropped but what a full queue drops, and that is a gap.

    It works in plain Python, in IPython and in Jupyter: the event loop runs in a thread. Ctrl-C ends it.
    Raises ValueError for a count that is none, and what opening a stream and the stream itself raise.
    """
    if count is not None and count < 1:
        raise ValueError(f"count is {count}; expected a whole number of at least 1, or None")
    collected = _Collected(tuple(types), count)
    with open_sync(stack, registry=registry, record=record) as stream:
        stream.run(collected.fill, seconds(for_))
    return collected.frames


class _Collected:
    """Frames by type, and how many events may still be added to them."""

    def __init__(self, types: tuple[type[BaseEvent], ...], count: int | None) -> None:
        self._types = types
        self._left = sys.maxsize if count is None else count
        self._gaps: list[BaseEvent] = []
        self.frames = {kind: _unlimited(kind) for kind in types}

    async def fill(self, stream: Stream, limit: float | None) -> None:
        """Add the events of a stream, for some seconds at most."""
        wanted = {*self._types, Gap} if self._types else ()
        with anyio.move_on_after(limit), stream.consume(*wanted, name="collect") as consumer:
            while self._left and (events := await consumer.batch()):
                self._add(events)
        for kind, frame in self.frames.items():
            if kind is not Gap:
                frame.add(self._gaps)

    def _add(self, events: Sequence[BaseEvent]) -> None:
        self._gaps += [event for event in events if type(event) is Gap]
        counted = [event for event in events if not self._types or type(event) in self._types]
        counted = counted[: self._left]
        self._left -= len(counted)
        for kind in dict.fromkeys(map(type, counted)):
            self.frames.setdefault(kind, _unlimited(kind)).add(counted)


def _unlimited(event_class: type[BaseEvent]) -> Frame:
    return Frame(event_class, last=None, rows=None)
