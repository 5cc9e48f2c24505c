"""The venue: relays the events in a stream as if they came now, and continues where it stood."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import structlog
from attrs import define
from tapeloom.errors import (
    ConnectionFailed,
    ConnectionLost,
    FeedError,
    SinkRefused,
    SinkUnavailable,
)
from tapeloom.events import Event, Gap
from tapeloom.plugin import Cursor, Feed, RelayedBatch

from .connection import EXPECTED_LAST, ApiError, Connection
from .consumer import Consumer, Lost, Received
from .messages import token
from .restart import Memory
from .selection import selection
from .sequencer import Sequencer
from .settings import Settings, start_time
from .state import load_reader, save_reader
from .stream import StreamInfo, find

__all__ = ["NatsSource"]

log = structlog.get_logger()

#: Events that are delivered together, of the messages that wait: fewer and larger batches are cheaper.
_MAX_EVENTS = 4096
#: Seconds between two times that the cursor is saved in the bucket.
_SAVE_SECONDS = 1.0

Deliver = Callable[[list[Event]], Awaitable[None]]


@define
class _State:
    """Up to where the stream is read."""

    origin: str  #: the stream and when it was created
    number: int  #: everything up to this message was delivered
    oldest: int  #: the message from which on to read again for the same state
    venues: dict[str, int]  #: of what was delivered: the newest time, in ns, by venue
    fences: Mapping[str, int] = {}  #: as `Sequencer.fences`

    def to_text(self) -> str:
        fields = {"oldest": self.oldest, "venues": self.venues, "fences": self.fences}
        return json.dumps(fields, separators=(",", ":"))


class NatsSource:
    """Relays the events of a stream in JetStream."""

    backends = frozenset({"asyncio"})  # nats-py runs on nothing else
    channels = frozenset[str]()
    resumes = True

    def __init__(self, feed: Feed, settings: Settings) -> None:
        self._feed = feed
        self._settings = settings
        self._select = selection(settings, feed)
        self._subjects = [f"{settings.prefix}.{token(name)}.>" for name in settings.sinks] or [
            f"{settings.prefix}.>"
        ]
        self._cursor: Cursor | None = None
        self._origin = ""
        self._state: _State | None = None
        self._sequencer = self._new_sequencer()
        self._skips_until = 0  # these messages were delivered before; they are read for the state
        self._before: dict[str, int] = {}  # the last message of each subject
        self._gap_since: dict[str, int] | None = (
            None  # events are missing; the times before, by venue
        )
        #: The stream was lost: the times before, and the subjects of which that is told already.
        self._lost_since: dict[str, int] | None = None
        self._told: set[str] = set()
        self._newest: dict[str, int] = {}  # by subject: the time of the last event, in ns
        self._saved_at, self._saves = 0.0, 0

    def _new_sequencer(self) -> Sequencer:
        return Sequencer(self._settings.prefix, self._count)

    def _count(self, name: str, count: int) -> None:
        self._feed.counters[name] += count

    def resume(self, cursor: Cursor | None) -> None:
        """Continue after what a store has."""
        self._cursor = cursor

    def symbols_changed(self) -> None:
        """Select other symbols from now on."""
        self._select = selection(self._settings, self._feed)

    # -------------------------------------------------------------------------------------- running

    async def run(self, deliver: Deliver) -> None:
        """Deliver batches until cancelled.

        Raises FeedError; after one that is `retryable` it continues where it stood.
        """
        connection = Connection(self._settings)
        try:
            await connection.open()
            consumer = await self._open(connection)
            while True:
                received = await consumer.receive()
                await self._handle(received, deliver)
                await self._save_if_due(connection)
        except Lost as error:
            raise self._lost(f"the consumer of NATS ended: {error}") from None
        except SinkUnavailable as error:
            raise ConnectionLost(self._feed.name, str(error)) from None
        except SinkRefused as error:
            raise self._failed(str(error)) from None
        except ApiError as error:
            raise self._lost(
                f"the stream {self._settings.stream!r} cannot be read: {error}"
            ) from None
        finally:
            with anyio.CancelScope(shield=True):
                await connection.close()

    def _lost(self, text: str) -> ConnectionLost:
        return ConnectionLost(self._feed.name, f"{text}. If this repeats, check the server's log.")

    def _failed(self, text: str) -> FeedError:
        failed = ConnectionFailed(self._feed.name, text)
        failed.retryable = False
        return failed

    async def _open(self, connection: Connection) -> Consumer:
        """Find the stream, decide where to begin, and create the consumer."""
        name = self._settings.stream
        info = await find(connection, name)
        if info is None:
            raise ConnectionFailed(
                self._feed.name,
                f"there is no stream {name!r} at {connection.server}. Start the stack that writes to"
                " it, or check stream.",
            )
        state = self._state
        self._origin = _origin(info)
        saved, memories = None, list[Memory]()
        if self._settings.cursor:
            saved, memories = await load_reader(
                connection, name, self._settings.cursor, self._feed.name
            )
            self._cursor = self._cursor or saved
        if state is None and self._cursor is not None:
            state = _restored(self._cursor)
        start = self._first_start(info) if state is None else self._continue(state, info)
        if state is not None and saved is not None and saved.origin == self._origin:
            self._remember(memories, start, info)
        consumer = Consumer(connection, name)
        self._before.clear()
        await consumer.open(self._subjects, start)
        return consumer

    def _remember(
        self, memories: Sequence[Memory], start: dict[str, Any], info: StreamInfo
    ) -> None:
        """Go on from the newest memory that is no newer than what the store has.

        *start* says from which message on to read: that is changed to an earlier one if the memory needs it.
        """
        number, first = self._skips_until, start["opt_start_seq"]
        usable = [memory for memory in memories if memory.number <= number]
        if usable and info.first <= number:
            memory = max(usable, key=lambda memory: memory.number)
            start["opt_start_seq"] = max(min(first, memory.first), info.first, 1)
            self._sequencer.remember(memory)

    def _first_start(self, info: StreamInfo) -> dict[str, Any]:
        """Return where to begin if nothing was read before."""
        start = self._settings.start
        if isinstance(start, str) and start not in ("now", "first"):
            time = start_time(start).isoformat()
            return {"deliver_policy": "by_start_time", "opt_start_time": time}
        first = info.last + 1
        if start == "first":
            first = max(info.first, 1)
        elif isinstance(start, int):
            first = start
        self._state = _State(_origin(info), min(first - 1, info.last), first, {})
        return _from(first)

    def _continue(self, state: _State, info: StreamInfo) -> dict[str, Any]:
        """Return where to go on, and note whether messages are gone."""
        is_same = state.origin == _origin(info) and state.number <= info.last
        if not is_same:
            log.warning("relay_stream_lost", feed=self._feed.name, origin=state.origin)
            self._lost_since, self._told = dict(state.venues), set()
            state = _State(_origin(info), 0, 1, state.venues)
            state.number = info.first - 1 if info.first else 0
            state.oldest = state.number + 1
        elif info.first > state.number + 1:
            self._gap_since = dict(state.venues)
            state.number, state.oldest = info.first - 1, info.first
        self._state = state
        self._sequencer = self._new_sequencer()
        self._skips_until = state.number
        return _from(max(min(state.oldest, state.number + 1), info.first, 1))

    # ------------------------------------------------------------------------------------- messages

    async def _handle(self, received: list[Received], deliver: Deliver) -> None:
        """Deliver the events of messages, with the cursor after them."""
        if not received:
            return
        if self._state is None:  # it began at a time
            first = received[0].number
            self._state = _State(self._origin, first - 1, first, {})
        state = self._state
        events: list[Event] = []
        recv = self._feed.clock.time_ns()
        for item in received:
            found = self._events(item)
            if events:
                events += found
            else:
                events = found
            state.number = max(state.number, item.number)
            if len(events) >= _MAX_EVENTS:
                await deliver(RelayedBatch(events, self._cursor_after(state, recv)))
                events = []
        self._feed.counters["relay_pending"] = received[-1].pending
        await deliver(RelayedBatch(events, self._cursor_after(state, recv)))

    def _events(self, item: Received) -> list[Event]:
        """Return the selected events that follow from a message, behind the gap before them."""
        state, message = self._state, item.message
        assert state is not None
        headers = message.headers
        is_new = item.number > self._skips_until
        if is_new and self._skips_until:
            self._skips_until = 0
            self._sequencer.raise_fences(state.fences)
        if is_new and self._is_missing(message.subject, headers):
            self._gap_since = self._gap_since or dict(state.venues)
        self._before[message.subject] = item.number
        try:
            events = self._sequencer.add(
                item.number, item.at, message.subject, headers, message.data
            )
        except ValueError as error:
            raise self._failed(
                f"message {item.number} of the stream {self._settings.stream!r} is unreadable: {error}."
                " Upgrade tapeloom-nats and the plugins whose events are in it, or set start behind it."
            ) from None
        if not is_new or not events:
            return []
        venues = state.venues
        if self._lost_since is not None and message.subject not in self._told:
            # What was lost of a subject lies between its last message of then and its first one of now.
            self._told.add(message.subject)
            newest = self._newest.get(message.subject)
            self._gap_since = {
                venue: ts if newest is None else min(ts, newest)
                for venue, ts in self._lost_since.items()
            }
        if self._gap_since is not None:
            events = [*self._gaps(events[0]), *events]
        self._newest[message.subject] = events[-1].ts
        venues.update(dict.fromkeys({event.venue for event in events}, events[-1].ts))
        return self._select(events) if self._select is not None else events

    def _is_missing(self, subject: str, headers: Mapping[str, str] | None) -> bool:
        """Return whether messages of a subject, before this one, were deleted before we read them."""
        expected = (headers or {}).get(EXPECTED_LAST)
        before = self._before.get(subject)
        return before is not None and expected not in (None, "0", str(before))

    def _gaps(self, following: Event) -> list[Event]:
        """Return the gaps that say which range is gone, by venue, before *following*."""
        since, self._gap_since = self._gap_since or {}, None
        recv = self._feed.clock.time_ns()
        self._feed.counters["gaps"] += 1
        venues = since or {following.venue: following.ts}
        return [
            Gap(
                venue, "", max(ts, following.ts), recv, ts, max(ts, following.ts), "deleted", None,
                "unrecoverable",
            )
            for venue, ts in venues.items()
        ]  # fmt: skip

    # --------------------------------------------------------------------------------------- cursor

    def _cursor_after(self, state: _State, recv: int) -> Cursor:
        state.oldest = self._sequencer.oldest(state.number)
        state.fences = self._sequencer.fences
        return Cursor(self._feed.name, state.origin, state.number, recv, state.to_text())

    async def _save_if_due(self, connection: Connection) -> None:
        """Save the cursor in the bucket, if the settings say so."""
        now = self._feed.clock.monotonic()
        state = self._state
        is_due = now - self._saved_at > _SAVE_SECONDS and not self._skips_until
        if self._settings.cursor and state is not None and is_due:
            self._saved_at = now
            cursor = self._cursor_after(state, 0)
            memory = self._sequencer.memory(state.number)
            self._saves += 1
            stream, name = self._settings.stream, self._settings.cursor
            await save_reader(connection, stream, name, cursor, memory, self._saves)


def _origin(info: StreamInfo) -> str:
    return f"{info.config['name']} {info.created}"


def _restored(cursor: Cursor) -> _State:
    """Return the state that a cursor says."""
    try:
        fields: dict[str, Any] = json.loads(cursor.text)
        venues = {str(venue): int(ts) for venue, ts in fields["venues"].items()}
        fences = {str(place): int(fence) for place, fence in fields["fences"].items()}
        return _State(cursor.origin, cursor.number, int(fields["oldest"]), venues, fences)
    except (ValueError, KeyError, TypeError, AttributeError):
        return _State(cursor.origin, cursor.number, cursor.number + 1, {})


def _from(number: int) -> dict[str, Any]:
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": number}
