"""Opening a stream: from a stack, or from a recording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tapeloom._compose.composer import compose
from tapeloom._compose.plan import Composition
from tapeloom._compose.registry import Registry
from tapeloom._config import Draft, FeedSpec, Stack, parse, read
from tapeloom._runtime.system_clock import SystemClock
from tapeloom._tape.reader import Tape
from tapeloom._tape.replay import Recording, TapeClock
from tapeloom.errors import Mistake
from tapeloom.plugin import Clock, Dial

from .stream import Stream

#: Whatever says what to stream: a stack as a file, as objects or as a mapping.
StackLike: TypeAlias = (
    Path | str | Draft | Stack | FeedSpec | Iterable[FeedSpec] | Mapping[str, Any]
)


def load(given: StackLike) -> Draft:
    """Return the stack that was given, with what is wrong with it.

    Raises ConfigError where a file cannot be read at all.
    """
    if isinstance(given, Draft):
        return given
    if isinstance(given, Stack):
        return Draft(given)
    if isinstance(given, FeedSpec):
        return Draft(Stack(feeds=(given,)))
    if isinstance(given, str | Path):
        return read(Path(given))
    if isinstance(given, Mapping):
        return parse(given, "stack")
    return Draft(Stack(feeds=tuple(given)))


def open_stream(
    stack: StackLike,
    *,
    registry: Registry | None = None,
    clock: Clock | None = None,
    dial: Dial | None = None,
    seed: int | None = None,
    record: Path | str | None = None,
) -> Stream:
    """Open a stream: ``async with tapeloom.open("stack.toml") as stream: …``.

    *stack* is the path of a TOML file, a `Stack`, or one or more `FeedSpec`. Plugins are loaded and
    the feeds composed here; nothing is dialled before the first consumer is attached.
    *clock*, *dial* and *seed* replace the machine's time, the network and chance, for tests.
    *record* is a folder into which the tape of each feed is written, ``NAME.jsonl.zst``.

    Raises ConfigError with every mistake at once, PluginError, or, once the context is entered,
    TapeError where a tape cannot be begun.
    """
    draft = load(stack)
    clock = clock or SystemClock()
    composed = _composed(draft, registry, clock, seed)
    if record is not None:
        _check_frames(draft, composed)
    return Stream(draft.stack, composed, clock, dial, record=Path(record) if record else None)


def _check_frames(draft: Draft, composed: Composition) -> None:
    """Raise ConfigError for feeds that have no frames to record."""
    mistakes = [
        Mistake("feed", f"{plan.feed.name!r} comes over no WebSocket: there is nothing to record")
        for plan in composed.plans
        if plan.source is not None
    ]
    if mistakes:
        raise draft.stack.error(mistakes)


def open_replay(
    path: Path | str,
    stack: StackLike,
    *,
    registry: Registry | None = None,
    batch: int = 256,
    speed: float | None = None,
) -> Stream:
    """Open a stream over a recording: ``async with tapeloom.replay("day.ws.jsonl", feed) as stream: …``.

    It is a stream like any other, run by the same code, with the recording where the network was.
    *stack* has the one feed that the recording is of. *speed* is how much faster than the recording
    it runs, None: as fast as it can. *batch* is how many frames the stages get at once, at most;
    the events are the same for any number.

    Raises TapeError, ConfigError or PluginError.
    """
    draft = load(stack)
    composed = _composed(draft, registry, TapeClock(), 0)
    if len(composed.plans) > 1:
        raise draft.stack.error([Mistake("feed", "a recording is of one feed, the stack has more")])
    clock = SystemClock()
    return Stream(draft.stack, composed, clock, None, Recording(Tape(path), batch, speed, clock))


def _composed(
    draft: Draft, registry: Registry | None, clock: Clock, seed: int | None
) -> Composition:
    composed = compose(draft.stack, registry or Registry(), clock, seed, draft.mistakes)
    if not composed.plans:
        raise draft.stack.error([Mistake("feed", "there is no [[feed]]: nothing to stream")])
    return composed
