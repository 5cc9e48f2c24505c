"""Replay of a tape: its frames run through the same parser and stages as live, on the time of the tape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import anyio.lowlevel
from attrs import define, frozen

from tapeloom._gaps.gap_tracker import GapTracker
from tapeloom.errors import masked
from tapeloom.events import Book, Event, Reject
from tapeloom.plugin import (
    Clock,
    Codec,
    Feed,
    Frames,
    History,
    HistoryQuery,
    Parse,
    Request,
    TimedStage,
    Unrequested,
)
from tapeloom.plugin.bounds import reject_out_of_bounds

from .reader import CorruptLine, Record, RecordedAnswer, RecordedFrame, Tape

#: Timed stages run at multiples of this, in ns of tape time, so that results do not depend on batches.
TICK_NS = 100_000_000
#: Records, or ticks, after which other tasks run.
_YIELD_EVERY = 1024
#: The most ticks between two records: a day of ticks once a second. A damaged time may be centuries ahead.
_MAX_TICKS = 100_000


@define
class TapeClock:
    """A clock that shows the time of the tape. Sleeping takes no time."""

    now: int = 0

    def time_ns(self) -> int:
        """Return the receive time of the current record, in ns."""
        return self.now

    def monotonic(self) -> float:
        """Return the receive time of that record, in seconds."""
        return self.now / 1e9

    async def sleep(self, seconds: float) -> None:
        """Return at once."""


@frozen
class Recording:
    """The tape that a stream replays, and the batch size and speed of the replay."""

    tape: Tape
    batch: int  #: maximum number of frames that the stages process at once; it changes no event
    speed: float | None  #: speed relative to the recording; None: as fast as possible
    wall: Clock  #: the clock for *speed*


class Replay:
    """Replays the tape of one feed: parses its frames again and runs the stages.

    *unreadable* is called with receive time, frame and error of each frame that *parse* or *codec* cannot
    read. *deliver* is called with the events that the *stages* return.
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
        gaps: GapTracker,
    ) -> None:
        self._recording = recording
        self._feed = feed
        self._parse = parse
        self._unreadable = unreadable
        self._stages = stages
        self._deliver = deliver
        self._codec = codec
        self._history = history
        self._gaps = gaps
        if history is not None:
            gaps.request = history.request
        self._events: list[Event] = []
        self._frame_count = 0
        self._next_tick: int | None = None
        self._start: tuple[int, float] | None = None
        assert isinstance(feed.clock, TapeClock)
        self._clock = feed.clock
        listing = history.listing_request() if history is not None else None
        self._listing_path = urlsplit(listing.url).path if listing is not None else ""

    async def run(self) -> None:
        """Replay to the end of the tape. Raises TapeError if it cannot be read any further."""
        try:
            for number, record in enumerate(self._recording.tape, 1):
                if number % _YIELD_EVERY == 0:
                    await anyio.lowlevel.checkpoint()
                if record.recv:  # 0: no record so far had a time
                    await self._advance(record.recv)
                self._clock.now = max(self._clock.now, record.recv)
                self._process(record)
                if self._frame_count >= self._recording.batch:
                    await self._deliver_events()
        finally:
            await self._deliver_events()

    def _process(self, record: Record) -> None:
        if isinstance(record, RecordedFrame):
            counters = self._feed.counters
            counters["frames"] += 1
            counters["bytes"] += len(record.frame)
            frames = Frames((record.frame,), record.recv, self._on_control)
            self._events += self._parse(frames)
            self._frame_count += 1
        elif isinstance(record, RecordedAnswer):
            self._events += self._process_answer(record)
        elif isinstance(record, CorruptLine):
            evidence = f"line {record.line}: {record.text}"
            self._events.append(self._reject(record.recv, "corrupt_record", evidence))

    def _process_answer(self, record: RecordedAnswer) -> list[Event]:
        history = self._history
        if history is None:
            return []
        try:
            if urlsplit(record.url).path == self._listing_path:
                self._feed.listing.update(history.read_listing(record.body))
                return []
            request = Request(url=record.url, body=record.request)
            answer = history.read_answer(request, record.body, record.recv)
            for fill in self._gaps.fills():
                query = fill.next_query()
                wanted = history.request(query) if query is not None else None
                if wanted is not None and _is_same(wanted, record):
                    return fill.process(answer, wanted, record.recv)
        except Exception as error:  # the adapter may raise anything for an unexpected shape
            evidence = f"{masked(record.url)}: {type(error).__name__}: {error}"
            return [self._reject(record.recv, "unreadable_answer", evidence)]
        symbols = set(self._feed.symbols)
        events = [event for event in answer if event.symbol in symbols]
        return reject_out_of_bounds(events)

    def _on_control(self, frame: bytes) -> list[Event]:
        """Process a frame that is not market data. Replies to the recorded session are ignored."""
        self._feed.counters["control_frames"] += 1
        reply = self._codec.decode_reply(frame) if self._codec is not None else None
        if isinstance(reply, Unrequested):
            self._feed.counters["unrequested"] += 1
        if reply is not None:
            return []
        if book := self._read_book_answer(frame):
            return book
        text = frame[:500].decode(errors="replace")
        self._unreadable(self._clock.now, frame, "unreadable_frame")
        return [self._reject(self._clock.now, "unreadable_frame", text)]

    def _read_book_answer(self, frame: bytes) -> list[Event]:
        """Return the book in a frame that is the body of a REST answer, else nothing.

        Some recorders write the snapshots that they request among the frames, without the address. The
        body need not name the symbol, so the feed must have a single one.
        """
        feed, history = self._feed, self._history
        if history is None or len(feed.symbols) != 1 or "book" not in feed.channels:
            return []
        try:
            request = history.request(HistoryQuery("book", feed.symbols[0], "book"))
            answer = history.read_answer(request, frame, self._clock.now) if request else []
        except Exception:  # the adapter may raise anything for an unexpected shape
            return []
        return [event for event in answer if type(event) is Book]

    def _reject(self, recv: int, rule: str, evidence: str) -> Reject:
        return Reject(self._feed.venue, "", recv, recv, rule, evidence)

    async def _deliver_events(self) -> None:
        events, self._events, self._frame_count = self._events, [], 0
        if events:
            events = self._stages(events)
        if events:
            await self._deliver(events)

    async def _advance(self, recv: int) -> None:
        """Advance tape time to *recv* in ns: run timed stages that are due, and keep the chosen speed."""
        if self._recording.speed is not None:
            await self._keep_pace(recv)
        if self._next_tick is None:
            self._next_tick = recv - recv % TICK_NS + TICK_NS
        if recv < self._next_tick:
            return
        await self._deliver_events()
        newest = recv - recv % TICK_NS
        for number in range(1, _MAX_TICKS + 1):
            if (due := self._stages.due) is None:
                break
            tick = max(-(-due // TICK_NS) * TICK_NS, self._next_tick)
            if tick > newest:
                break
            if number % _YIELD_EVERY == 0:
                await anyio.lowlevel.checkpoint()
            self._clock.now = tick
            self._next_tick = tick + TICK_NS
            events = self._stages.tick(tick)
            if events:
                await self._deliver(events)
        self._next_tick = newest + TICK_NS

    async def _keep_pace(self, recv: int) -> None:
        speed, wall = self._recording.speed, self._recording.wall
        assert speed is not None
        if self._start is None:
            self._start = recv, wall.monotonic()
        first, began = self._start
        ahead = began + (recv - first) / 1e9 / speed - wall.monotonic()
        if ahead > 0:
            await self._deliver_events()
            await wall.sleep(ahead)


def _is_same(request: Request, record: RecordedAnswer) -> bool:
    """Return whether *record* is the answer to *request*; tapes hold no secrets of addresses."""
    return (masked(request.url), request.body) == (masked(record.url), record.request)
