"""Opens a stream from a stack, or from a recording."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tapeloom._compose.composer import DialOf, compose
from tapeloom._compose.plan import Composition, no_dial
from tapeloom._compose.registry import Registry
from tapeloom._config import Draft, FeedSpec, Stack, parse, read
from tapeloom._network.http_client import http_client
from tapeloom._network.websocket import dialer
from tapeloom._runtime.system_clock import SystemClock
from tapeloom._tape.reader import Tape
from tapeloom._tape.replay import Recording, TapeClock
from tapeloom.errors import Mistake, TapeError
from tapeloom.plugin import Clock, Dial, Feed

from .stream import Stream

if TYPE_CHECKING:
    import httpx

#: The endings of the tapes in a folder.
_TAPES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
#: What describes a stack: a file, a `Stack`, feeds, or a mapping.
StackLike: TypeAlias = (
    Path | str | Draft | Stack | FeedSpec | Iterable[FeedSpec] | Mapping[str, Any]
)


def load(stack: StackLike) -> Draft:
    """Return a stack together with the mistakes found in it.

    Raises ConfigError if a file cannot be read.
    """
    if isinstance(stack, Draft):
        return stack
    if isinstance(stack, Stack):
        return Draft(stack)
    if isinstance(stack, FeedSpec):
        return Draft(Stack(feeds=(stack,)))
    if isinstance(stack, str | Path):
        return read(Path(stack))
    if isinstance(stack, Mapping):
        return parse(stack, "stack")
    return Draft(Stack(feeds=tuple(stack)))


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

    *stack* is the path of a TOML file, a `Stack`, a mapping, or one or more `FeedSpec`. This call
    loads the plugins and composes the feeds; connections are made when the first consumer attaches.
    For tests, *clock*, *dial* and *seed* replace the system clock, the network and the random seed.
    *record* is a folder; the tape of each feed is written there as ``NAME.jsonl.zst``.

    Raises ConfigError with all mistakes, PluginError, or, on entering the context, TapeError if a
    tape cannot be created.
    """
    draft = load(stack)
    clock = clock or SystemClock()
    http = http_client(draft.stack.network, draft.stack.source)
    composed = _compose(draft, registry, clock, seed, _dial_of(draft.stack, http, clock, dial))
    if record is not None:
        _check_frames(draft, composed)
    return Stream(draft.stack, composed, clock, http, record=Path(record) if record else None)


def connect(
    url: str,
    *,
    symbols: Iterable[str] = (),
    channels: Iterable[str] = (),
    stages: Iterable[str] = (),
    registry: Registry | None = None,
    clock: Clock | None = None,
    **settings: Any,
) -> Stream:
    """Open a stream that is served at *url*: ``async with tapeloom.connect("ws://…") as stream: …``.

    It needs the plugin ``remote`` of the package tapeloom-serve. Without symbols or channels, all are
    received. *settings* are those of the plugin, such as ``token`` and ``venues``.

    Raises what `open_stream` raises.
    """
    feed = FeedSpec("remote", tuple(symbols), tuple(channels), stages=tuple(stages))
    stack = Stack(feeds=(feed,), venues={"remote": {"url": url, **settings}})
    return open_stream(stack, registry=registry, clock=clock)


def _dial_of(stack: Stack, http: httpx.AsyncClient, clock: Clock, given: Dial | None) -> DialOf:
    """Return what opens the connections of a feed: what is given, else the stack's plugin, else core."""

    def dial(feed: Feed, plugin: Dial | None) -> Dial:
        compressed = stack.network.compression
        return given or plugin or dialer(http, feed.name, clock, compressed=compressed)

    return dial


def _check_frames(draft: Draft, composed: Composition) -> None:
    """Raise ConfigError for feeds that have no frames to record."""
    mistakes = [
        Mistake("feed", f"{plan.feed.name!r} uses no WebSocket: there are no frames to record")
        for plan in composed.plans
        if plan.source is not None
    ]
    if mistakes:
        raise draft.stack.error(mistakes)


def open_replay(
    path: Path | str | Sequence[Path | str],
    stack: StackLike,
    *,
    registry: Registry | None = None,
    batch: int = 256,
    speed: float | None = None,
) -> Stream:
    """Open a stream over a recording: ``async with tapeloom.replay("day.ws.jsonl", feed) as stream: …``.

    The same code runs as in a live stream, with the recording in place of the network. *path* is a
    tape, several tapes, or a folder of them. *stack* has one feed for each tape, with the name in its
    first line; the tapes are replayed in order of time. If there is one feed and one tape, the names
    may differ. *speed* is a factor of the recorded speed; None is as fast as possible. *batch* is the
    number of frames, at most, whose events the stages get at once; the events are the same for any
    number.

    Raises TapeError, ConfigError or PluginError.
    """
    draft = load(stack)
    composed = _compose(draft, registry, TapeClock(), 0, lambda feed, plugin: no_dial)
    names, tapes = [plan.feed.name for plan in composed.plans], open_tapes(path)
    by_name = named(tapes)
    if len(names) == len(tapes) == 1:
        by_name = {names[0]: tapes[0]}
    if by_name.keys() != set(names) or len(by_name) != len(tapes):
        feeds, found = ", ".join(names), ", ".join(tape.path.name for tape in tapes)
        problem = f"each tape needs a feed with its name; the feeds are {feeds}, the tapes {found}"
        raise draft.stack.error([Mistake("feed", problem)])
    clock = SystemClock()
    http = http_client(draft.stack.network, draft.stack.source)
    return Stream(draft.stack, composed, clock, http, Recording(by_name, batch, speed, clock))


def open_tapes(path: Path | str | Sequence[Path | str]) -> list[Tape]:
    """Return the tapes of *path*: a tape, several tapes, or a folder with the tapes of feeds.

    Raises TapeError if one cannot be opened, or if there is none.
    """
    if not isinstance(path, Path | str):
        return [tape for given in path for tape in open_tapes(given)]
    if not os.path.isdir(path):  # noqa: PTH112 - no error for a name that is too long
        return [Tape(path)]
    found = sorted(file for file in Path(path).iterdir() if file.name.endswith(_TAPES))
    if not found:
        raise TapeError(Path(path), 0, f"there is no file *{' or *'.join(_TAPES)} in this folder.")
    return [Tape(file) for file in found]


def named(tapes: Iterable[Tape]) -> dict[str, Tape]:
    """Return the tapes by name: that of the recorded feed, or of the file if several are of one feed."""
    by_name: dict[str, list[Tape]] = {}
    for tape in tapes:
        by_name.setdefault(str((tape.head or {}).get("name", "")), []).append(tape)
    return {
        name if len(same) == 1 else tape.path.name.partition(".jsonl")[0]: tape
        for name, same in by_name.items()
        for tape in same
    }


def _compose(
    draft: Draft, registry: Registry | None, clock: Clock, seed: int | None, dial: DialOf
) -> Composition:
    registry = registry or Registry()
    composed = compose(draft.stack, registry, clock, seed, draft.mistakes, dial).or_raise()
    if not composed.plans:
        raise draft.stack.error([Mistake("feed", "there is no [[feed]]; add at least one")])
    return composed
