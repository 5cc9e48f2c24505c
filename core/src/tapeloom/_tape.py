"""Recorded frames: read them, and replay them through the pipeline that runs live.

A recording is a file of JSON lines, plain or compressed, one for each frame that a server sent:
``{"ts": <seconds since 1970, or null>, "frame": "<text>"}``. The tapes that we record ourselves begin
with a line that says of which feed they are, and hold the answers over REST as well. Beside a
``NAME.ws.jsonl`` of somebody else's a file ``NAME.rest.index.json`` may list the REST answers that came
in between, with the time or the place (``"after 7 ws frames"``) of each; they are answered there.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio.lowlevel
from attrs import define, frozen

from ._compression import broken, opened
from ._history import enter
from .errors import TapeError
from .events import Event, Reject
from .feeds import Ack, Clock, Frames, Notice, Pong, Refusal
from .history import Request

if TYPE_CHECKING:
    from ._compose import Plan

__all__ = ["Answer", "Corrupt", "Head", "Recorded", "Replay", "Tape", "TapeClock"]

#: Stages that act on time are asked whether they want to at every multiple of this, in tape time.
TICK_NS = 100_000_000
#: Seconds from 1970 at which 64 bits of nanoseconds end.
_FAR = 9_223_372_036
#: Frames after which everybody else has a turn.
_TURN = 1024
#: What JSON of another shape makes the reading of it raise.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
_PLACE = re.compile(r"after (\d+) ws frames?")


@frozen
class Recorded:
    """A frame, and when it was received."""

    recv: int
    frame: bytes


@frozen
class Answer:
    """The body that a REST address answered with."""

    recv: int
    url: str
    body: bytes
    request: bytes = b""  #: what was posted


@frozen
class Head:
    """What a tape is of: the keys of a feed in a stack."""

    recv: int
    feed: Mapping[str, Any]


@frozen
class Corrupt:
    """A line that is no record."""

    recv: int
    line: int
    text: str


Record = Recorded | Answer | Head | Corrupt

#: A REST answer beside a tape: after how many frames, when, of which address, in which file.
_Indexed = tuple[int | None, int | None, str, Path]


@define
class TapeClock:
    """The time on the tape. Waiting takes no time."""

    now: int = 0

    def time_ns(self) -> int:
        """Return the receive time of the record that is being replayed."""
        return self.now

    def monotonic(self) -> float:
        """Return the same in seconds."""
        return self.now / 1e9

    async def sleep(self, seconds: float) -> None:
        """Return at once."""


class Tape:
    """A recording on disk. Reading it again gives the same records again."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise TapeError(
                self.path, 0, "there is no such file. Give the path of a .ws.jsonl file."
            )
        self._answers = self._read_index()

    def __iter__(self) -> Iterator[Record]:
        """Yield the records in order.

        Raises TapeError where the file cannot be read on; what stood before has been yielded.
        """
        answers = list(self._answers)
        recv = 0
        for count, (number, line) in enumerate(self._lines()):
            record = _read(line, number, recv)
            if isinstance(record, Corrupt) and count == 0:
                raise TapeError(
                    self.path,
                    number,
                    'expected a line like {"ts": 1.5, "frame": "…"}, found'
                    f" {record.text[:80]!r}. Is this a recording?",
                )
            while answers and _is_due(answers[0], count, record.recv):
                yield self._answer(answers.pop(0), record.recv)
            recv = record.recv
            yield record
        for answer in answers:
            yield self._answer(answer, max(recv, answer[1] or 0))

    @property
    def head(self) -> Mapping[str, Any] | None:
        """What the tape is of, where it says so.

        Raises TapeError where it cannot be read.
        """
        first = next(self._lines(), None)
        record = _read(first[1], 1, 0) if first is not None else None
        return record.feed if isinstance(record, Head) else None

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        try:
            with opened(self.path) as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield number, line
        except EOFError as error:
            raise TapeError(
                self.path,
                number,
                "the file ends in the middle of its compressed data."
                " All that could be read was replayed.",
            ) from error
        except (OSError, zlib.error, broken()) as error:
            raise TapeError(self.path, number, f"cannot be read: {error}.") from error

    def _read_index(self) -> list[_Indexed]:
        """Return the REST answers in order."""
        stem = self.path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".ws")
        index = self.path.with_name(f"{stem}.rest.index.json")
        if not index.is_file():
            return []
        try:
            entries = json.loads(index.read_bytes(), parse_float=Decimal)
            found: list[_Indexed] = [
                (_place(entry), _ns(entry["ts"]), str(entry["url"]), index.parent / entry["file"])
                for entry in entries
            ]
        except (*_UNREADABLE, OSError) as error:
            raise TapeError(
                index, 0, f"expected a list of {{ts, url, file}}, found {error!r}."
            ) from error
        return _in_order(found)

    @staticmethod
    def _answer(entry: _Indexed, recv: int) -> Answer:
        _, ts, url, path = entry
        try:
            body = path.read_bytes()
            body = gzip.decompress(body) if path.suffix == ".gz" else body
        except (OSError, EOFError, ValueError, zlib.error) as error:  # a name may be none
            raise TapeError(
                path, 0, f"the recorded answer of {url} cannot be read: {error}."
            ) from error
        return Answer(recv if ts is None else min(ts, recv), url, body)


def _is_due(answer: _Indexed, frames: int, recv: int) -> bool:
    place, ts, _, _ = answer
    return (ts or 0) <= recv if place is None else place <= frames


def _in_order(answers: list[_Indexed]) -> list[_Indexed]:
    """Sort by time and place; what has no time stands after the one before it."""
    keys: list[tuple[int, int, int]] = []
    last = 0
    for number, (place, ts, _, _) in enumerate(answers):
        last = last if ts is None else ts
        keys.append((last, place or 0, number))
    return [answers[number] for _, _, number in sorted(keys)]


def _place(entry: dict[str, Any]) -> int | None:
    match = _PLACE.fullmatch(entry.get("position", ""))
    return int(match[1]) if match else None


def _ns(seconds: Decimal | int | None) -> int | None:
    """Return a time in ns, exactly; None where it is not known.

    Raises ValueError or ArithmeticError where it is no time.
    """
    if seconds is None:
        return None
    exact = Decimal(seconds)
    if not -_FAR < exact < _FAR:
        raise ValueError(f"{exact} is no time in seconds since 1970")
    return int(exact * 1_000_000_000)


def _read(line: bytes, number: int, otherwise: int) -> Record:
    try:
        record = json.loads(line, parse_float=Decimal)
        recv = _ns(record["ts"])
        recv = otherwise if recv is None else recv
        if "feed" in record:
            return Head(recv, dict(record["feed"]))
        if "url" in record:
            url, body = str(record["url"]), _content(record, "answer")
            return Answer(recv, url, body, _content(record, "request"))
        return Recorded(recv, _content(record, "frame"))
    except _UNREADABLE:
        return Corrupt(otherwise, number, line[:200].decode(errors="replace").rstrip())


def _content(record: Mapping[str, Any], name: str) -> bytes:
    """Return what stands under *name*, or, where it is no text, under that with ``64`` behind it."""
    coded = record.get(f"{name}64")
    if coded is not None:
        return base64.b64decode(coded, validate=True)
    text: str = record[name]
    return text.encode()


class Replay:
    """A tape as the source of a feed.

    `batch` is how many frames the stages are given at once, at most; the events are the same for
    any number. `speed` is how much faster than the recording it runs; None: as fast as it can.
    """

    def __init__(
        self,
        tape: Tape,
        plan: Plan,
        deliver: Callable[[list[Event]], Awaitable[None]],
        *,
        batch: int = 256,
        speed: float | None = None,
        wall: Clock,
    ) -> None:
        self._tape = tape
        self._plan = plan
        self._deliver = deliver
        self._batch = batch
        self._speed = speed
        self._wall = wall
        self._events: list[Event] = []
        self._waiting = 0
        self._next_tick: int | None = None
        self._started: tuple[int, float] | None = None
        clock = plan.feed.clock
        assert isinstance(clock, TapeClock)
        self._clock = clock
        listing = plan.history.listing() if plan.history is not None else None
        self._listing_path = urlsplit(listing.url).path if listing is not None else ""

    async def run(self) -> None:
        """Replay to the end. Raises TapeError where the tape cannot be read on."""
        try:
            for number, record in enumerate(self._tape, 1):
                if number % _TURN == 0:
                    await anyio.lowlevel.checkpoint()
                if record.recv:  # else it is not known yet
                    await self._pass_time(record.recv)
                self._clock.now = max(self._clock.now, record.recv)
                self._take(record)
                if self._waiting >= self._batch:
                    await self._hand_on()
        finally:
            await self._hand_on()

    def _take(self, record: Record) -> None:
        if isinstance(record, Recorded):
            counters = self._plan.feed.counters
            counters["frames"] += 1
            counters["bytes"] += len(record.frame)
            frames = Frames((record.frame,), record.recv, self._aside)
            self._events += self._plan.parse(frames)
            self._waiting += 1
        elif isinstance(record, Answer):
            self._events += self._answered(record)
        elif isinstance(record, Corrupt):
            evidence = f"line {record.line}: {record.text}"
            self._events.append(self._reject(record.recv, "corrupt_record", evidence))

    def _answered(self, record: Answer) -> list[Event]:
        history = self._plan.history
        if history is None:
            return []
        try:
            if urlsplit(record.url).path == self._listing_path:
                enter(self._plan, history.instruments(record.body))
                return []
            answer = history.answer(
                Request(url=record.url, body=record.request), record.body, record.recv
            )
        except Exception as error:  # also a shape that its adapter did not foresee
            evidence = f"{record.url}: {type(error).__name__}: {error}"
            return [self._reject(record.recv, "unreadable_answer", evidence)]
        asked = set(self._plan.feed.symbols)
        return [event for event in answer if event.symbol in asked]

    def _aside(self, frame: bytes) -> list[Event]:
        """Take a frame that is not market data: replies to the recorder concern us no more."""
        self._plan.feed.counters["control"] += 1
        reply = self._plan.codec.accept(frame) if self._plan.codec is not None else None
        if isinstance(reply, Ack | Refusal | Notice | Pong):
            return []
        text = frame[:500].decode(errors="replace")
        self._plan.bad.add(self._clock.now, frame, "unreadable_frame")
        return [self._reject(self._clock.now, "unreadable_frame", text)]

    def _reject(self, recv: int, rule: str, evidence: str) -> Reject:
        return Reject(self._plan.feed.venue, "", recv, recv, rule, evidence)

    async def _hand_on(self) -> None:
        events, self._events, self._waiting = self._events, [], 0
        if events:
            events = self._plan.pipeline(events)
        if events:
            await self._deliver(events)

    async def _pass_time(self, recv: int) -> None:
        """Let tape time come up to *recv*: on the grid of ticks, and at the pace asked for."""
        if self._speed is not None:
            await self._keep_pace(recv)
        if self._next_tick is None:
            self._next_tick = recv - recv % TICK_NS + TICK_NS
        if recv < self._next_tick:
            return
        await self._hand_on()
        newest = recv - recv % TICK_NS
        pipeline = self._plan.pipeline
        while (due := pipeline.due) is not None:
            tick = max(-(-due // TICK_NS) * TICK_NS, self._next_tick)
            if tick > newest:
                break
            self._clock.now = tick
            self._next_tick = tick + TICK_NS
            events = pipeline.tick(tick)
            if events:
                await self._deliver(events)
        self._next_tick = newest + TICK_NS

    async def _keep_pace(self, recv: int) -> None:
        assert self._speed is not None
        if self._started is None:
            self._started = recv, self._wall.monotonic()
        first, began = self._started
        ahead = began + (recv - first) / 1e9 / self._speed - self._wall.monotonic()
        if ahead > 0:
            await self._hand_on()
            await self._wall.sleep(ahead)
