"""Replay of one tape: its frames run through the same parser and stages as live, on its own time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import anyio.lowlevel

from tapeloom._compose.plan import FeedPlan
from tapeloom._connection.frame_intake import FeedIntake, FrameIntake
from tapeloom._connection.replies import are_recorded
from tapeloom._history.query_queue import HistoryClient
from tapeloom._stream.pipeline import Pipeline
from tapeloom._stream.relay.pipeline import RelayPipeline
from tapeloom._tape.reader import CorruptLine, RecordedAnswer, RecordedFact, RecordedFrame, TapeHead
from tapeloom._tape.recorder import stages_digest
from tapeloom._tape.replay import Recording, TapeClock
from tapeloom.errors import masked
from tapeloom.events import Book, Event, Reject
from tapeloom.plugin import HistoryQuery, Unrequested
from tapeloom.plugin.protocol import decode_replies

from .fact_replay import FactReplay, is_same

#: Timed stages run at multiples of this, in ns of tape time, so that results do not depend on batches.
TICK_NS = 100_000_000
#: Most frames that a tape can say were parsed together.
_MAX_TOGETHER = 4096
#: Records, or ticks, after which other tasks run.
_YIELD_EVERY = 1024
#: The most ticks between two records: a day of ticks once a second. A damaged time may be centuries ahead.
_MAX_TICKS = 100_000


class FeedReplay:
    """Replays the tape of one feed: parses its frames again and runs the stages.

    If the tape has facts, `FactReplay` does what the feed did, frames are parsed together as they were,
    and the timed stages tick as they did, if they are the same stages. Otherwise all frames count as
    those of one connection, each as a read of its own, and timed stages tick ten times a second.
    """

    def __init__(
        self,
        recording: Recording,
        plan: FeedPlan,
        intake: FeedIntake,
        pipeline: Pipeline | RelayPipeline,
        deliver: Callable[[list[Event]], Awaitable[None]],
        history_client: HistoryClient,
    ) -> None:
        self._recording = recording
        self._plan, self._feed = plan, plan.feed
        self._feed_intake = intake
        self._intake = FrameIntake(intake, self._on_control, self._on_events)
        self._pipeline = pipeline
        self._deliver = deliver
        self._history_client = history_client
        self._facts = FactReplay(plan, history_client)
        self._has_facts = self._ticks_are_recorded = False
        self._together: list[RecordedFrame] = []  # the frames of a read so far
        self._next_tick: int | None = None
        assert isinstance(plan.feed.clock, TapeClock)
        self._clock = plan.feed.clock
        plan.queries.listen(lambda query: None)  # the tape holds the answers
        plan.gaps.enqueue = lambda fill: None
        listing = plan.history.listing_request() if plan.history is not None else None
        self._listing_path = urlsplit(listing.url).path if listing is not None else ""

    async def run(self) -> None:
        """Replay to the end of the tape. Raises TapeError if it cannot be read any further."""
        name, turns = self._feed.name, self._recording.turns
        try:
            for number, record in enumerate(self._recording.tapes[name], 1):
                if number % _YIELD_EVERY == 0:
                    await anyio.lowlevel.checkpoint()
                if isinstance(record, TapeHead):  # that of a bundle has the time of its end
                    self._read_head(record)
                    continue
                if not turns.is_next(record.recv):
                    await turns.wait(name, record.recv)
                if record.recv:  # 0: no record so far had a time
                    await self._advance(record.recv)
                if record.recv > self._clock.now or self._has_facts:
                    self._clock.now = record.recv
                await self._process(record)
        finally:
            await self._read()

    async def _process(
        self, record: RecordedFrame | RecordedFact | RecordedAnswer | CorruptLine
    ) -> None:
        together = self._together
        if not isinstance(record, RecordedFrame) or (together and record.recv != together[0].recv):
            await self._read()
        if isinstance(record, RecordedFrame):
            self._together.append(record)
            if len(self._together) >= min(self._together[0].together, _MAX_TOGETHER):
                await self._read()
        elif isinstance(record, RecordedFact):
            self._clock.set(record.recv, record.monotonic)
            if record.name == "tick" and self._ticks_are_recorded:
                await self._tick(record.fields.get("now"))
            else:
                await self._emit(self._apply(record))
        elif isinstance(record, RecordedAnswer):
            self._facts.answer = record
            if not self._has_facts:
                await self._emit(self._process_answer(record))
        else:
            evidence = f"line {record.line}: {record.text}"
            await self._emit([self._reject(record.recv, "corrupt_record", evidence)])

    def _read_head(self, head: TapeHead) -> None:
        self._has_facts = bool(head.stages)
        self._ticks_are_recorded = head.stages == stages_digest(self._feed)
        self._facts.symbols = head.feed.get("symbols", ())

    async def _read(self) -> None:
        """Parse the frames that were parsed together, and emit their events."""
        if not self._together:
            return
        first, payloads = self._together[0], [record.frame for record in self._together]
        self._together = []
        self._intake.connection = first.connection
        waiting = self._intake.on_read(payloads, first.recv)
        if waiting is not None:
            await waiting
        self._facts.replies.clear()

    def _on_events(self, events: list[Event]) -> Awaitable[None]:
        return self._emit(self._facts.read(self._intake.connection, events))

    def _apply(self, fact: RecordedFact) -> list[Event]:
        try:
            return self._facts.apply(fact)
        except Exception as error:  # malformed fields; or the adapter cannot read the answer
            evidence = f"fact {fact.name}: {type(error).__name__}: {error}"
            return [self._reject(fact.recv, "corrupt_record", evidence)]

    async def _tick(self, now: object) -> None:
        if isinstance(now, int) and (events := self._pipeline.tick(now)):
            await self._deliver(events)

    async def _emit(self, events: list[Event]) -> None:
        batch = self._recording.batch
        for start in range(0, len(events), batch):
            part = events if len(events) <= batch else events[start : start + batch]
            if part := self._pipeline(part):
                await self._deliver(part)

    def _process_answer(self, record: RecordedAnswer) -> list[Event]:
        history = self._plan.history
        if history is None:
            return []
        try:
            if urlsplit(record.url).path == self._listing_path:
                self._feed.listing.update(history.read_listing(record.body))
                return []
            answer = self._facts.read_answer(record)
            for fill in self._plan.gaps.fills():
                wanted = self._history_client.request(fill.next_query())
                if wanted is not None and is_same(wanted, record):
                    return fill.process(answer, wanted, record.recv)
        except Exception as error:  # the adapter may raise anything for an unexpected shape
            evidence = f"{masked(record.url)}: {type(error).__name__}: {error}"
            return [self._reject(record.recv, "unreadable_answer", evidence)]
        return [event for event in answer if event.symbol in self._feed.symbols]

    def _on_control(self, frame: bytes) -> Sequence[Event]:
        """Process a frame that is not market data. Replies are ignored without facts about them."""
        self._feed.counters["control_frames"] += 1
        codec, recorded = self._plan.codec, self._facts.replies
        replies = decode_replies(codec, frame) if codec is not None else None
        if replies is not None:
            unrequested = sum(isinstance(reply, Unrequested) for reply in replies)
            self._feed.counters["unrequested"] += unrequested
            return recorded.popleft() if recorded and are_recorded(replies) else []
        if not self._has_facts and (book := self._read_book_answer(frame)):
            return book
        return [self._feed_intake.reject(self._clock.now, frame)]

    def _read_book_answer(self, frame: bytes) -> list[Event]:
        """Return the book in a frame that is the body of a REST answer, else nothing.

        Some recorders write the snapshots that they request among the frames, without the address. The
        body need not name the symbol, so the feed must have a single one.
        """
        feed, history = self._feed, self._plan.history
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

    async def _advance(self, recv: int) -> None:
        """Advance tape time to *recv* in ns: run timed stages that are due, and keep the chosen speed."""
        if ahead := self._recording.ahead(recv):
            await self._recording.wall.sleep(ahead)
        if self._ticks_are_recorded:
            return
        if self._next_tick is None:
            self._next_tick = recv - recv % TICK_NS + TICK_NS
        if recv < self._next_tick:
            return
        newest = recv - recv % TICK_NS
        for number in range(1, _MAX_TICKS + 1):
            if (due := self._pipeline.due) is None:
                break
            tick = max(-(-due // TICK_NS) * TICK_NS, self._next_tick)
            if tick > newest:
                break
            if number % _YIELD_EVERY == 0:
                await anyio.lowlevel.checkpoint()
            self._clock.now = tick
            self._next_tick = tick + TICK_NS
            await self._tick(tick)
        self._next_tick = newest + TICK_NS
