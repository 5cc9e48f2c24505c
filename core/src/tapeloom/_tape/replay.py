"""Replay: recorded frames through the parser and the stages that run live."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import anyio.lowlevel
from attrs import define, frozen

from tapeloom.events import Event, Reject
from tapeloom.plugin import (
    Ack,
    Clock,
    Codec,
    Feed,
    Frames,
    History,
    Notice,
    Parse,
    Pong,
    Refusal,
    Request,
    TimedStage,
)

from .reader import Answer, Corrupt, Record, Recorded, Tape

#: Stages that act on time are asked whether they want to at every multiple of this, in tape time.
TICK_NS = 100_000_000
#: Frames after which everybody else has a turn.
_TURN = 1024


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


@frozen
class Recording:
    """The tape that a stream is replayed from, and how.

    `batch` is how many frames the stages are given at once, at most; the events are the same for
    any number. `speed` is how much faster than the recording it runs; None: as fast as it can.
    """

    tape: Tape
    batch: int
    speed: float | None
    wall: Clock  #: the clock by which the speed is kept


class Replay:
    """A tape as the source of a feed.

    *unreadable* is told of frames that nobody could read: when, which, and why. *deliver* takes what
    has been through the *stages*.
    """

    def __init__(
        self,
        recording: Recording,
        feed: Feed,
        parse: Parse,
        unreadable: Callable[[int, bytes, str], None],
        stages: TimedStage,
        deliver: Callable[[list[Event]], Awaitable[None]],
        *,
        codec: Codec | None,
        history: History | None,
    ) -> None:
        self._recording = recording
        self._feed = feed
        self._parse = parse
        self._unreadable = unreadable
        self._stages = stages
        self._deliver = deliver
        self._codec = codec
        self._history = history
        self._events: list[Event] = []
        self._waiting = 0
        self._next_tick: int | None = None
        self._started: tuple[int, float] | None = None
        assert isinstance(feed.clock, TapeClock)
        self._clock = feed.clock
        listing = history.listing_request() if history is not None else None
        self._listing_path = urlsplit(listing.url).path if listing is not None else ""

    async def run(self) -> None:
        """Replay to the end. Raises TapeError where the tape cannot be read on."""
        try:
            for number, record in enumerate(self._recording.tape, 1):
                if number % _TURN == 0:
                    await anyio.lowlevel.checkpoint()
                if record.recv:  # else it is not known yet
                    await self._pass_time(record.recv)
                self._clock.now = max(self._clock.now, record.recv)
                self._take(record)
                if self._waiting >= self._recording.batch:
                    await self._hand_on()
        finally:
            await self._hand_on()

    def _take(self, record: Record) -> None:
        if isinstance(record, Recorded):
            counters = self._feed.counters
            counters["frames"] += 1
            counters["bytes"] += len(record.frame)
            frames = Frames((record.frame,), record.recv, self._aside)
            self._events += self._parse(frames)
            self._waiting += 1
        elif isinstance(record, Answer):
            self._events += self._answered(record)
        elif isinstance(record, Corrupt):
            evidence = f"line {record.line}: {record.text}"
            self._events.append(self._reject(record.recv, "corrupt_record", evidence))

    def _answered(self, record: Answer) -> list[Event]:
        history = self._history
        if history is None:
            return []
        try:
            if urlsplit(record.url).path == self._listing_path:
                self._feed.listing.update(history.read_listing(record.body))
                return []
            answer = history.read_answer(
                Request(url=record.url, body=record.request), record.body, record.recv
            )
        except Exception as error:  # also a shape that its adapter did not foresee
            evidence = f"{record.url}: {type(error).__name__}: {error}"
            return [self._reject(record.recv, "unreadable_answer", evidence)]
        asked = set(self._feed.symbols)
        return [event for event in answer if event.symbol in asked]

    def _aside(self, frame: bytes) -> list[Event]:
        """Take a frame that is not market data: replies to the recorder concern us no more."""
        self._feed.counters["control_frames"] += 1
        reply = self._codec.decode_reply(frame) if self._codec is not None else None
        if isinstance(reply, Ack | Refusal | Notice | Pong):
            return []
        text = frame[:500].decode(errors="replace")
        self._unreadable(self._clock.now, frame, "unreadable_frame")
        return [self._reject(self._clock.now, "unreadable_frame", text)]

    def _reject(self, recv: int, rule: str, evidence: str) -> Reject:
        return Reject(self._feed.venue, "", recv, recv, rule, evidence)

    async def _hand_on(self) -> None:
        events, self._events, self._waiting = self._events, [], 0
        if events:
            events = self._stages(events)
        if events:
            await self._deliver(events)

    async def _pass_time(self, recv: int) -> None:
        """Let tape time come up to *recv*: on the grid of ticks, and at the pace asked for."""
        if self._recording.speed is not None:
            await self._keep_pace(recv)
        if self._next_tick is None:
            self._next_tick = recv - recv % TICK_NS + TICK_NS
        if recv < self._next_tick:
            return
        await self._hand_on()
        newest = recv - recv % TICK_NS
        while (due := self._stages.due) is not None:
            tick = max(-(-due // TICK_NS) * TICK_NS, self._next_tick)
            if tick > newest:
                break
            self._clock.now = tick
            self._next_tick = tick + TICK_NS
            events = self._stages.tick(tick)
            if events:
                await self._deliver(events)
        self._next_tick = newest + TICK_NS

    async def _keep_pace(self, recv: int) -> None:
        speed, wall = self._recording.speed, self._recording.wall
        assert speed is not None
        if self._started is None:
            self._started = recv, wall.monotonic()
        first, began = self._started
        ahead = began + (recv - first) / 1e9 / speed - wall.monotonic()
        if ahead > 0:
            await self._hand_on()
            await wall.sleep(ahead)
