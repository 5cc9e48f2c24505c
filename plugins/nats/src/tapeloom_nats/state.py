"""What a sink has stored: the numbers of its runs and its positions, read back from the stream.

A checkpoint in a key-value bucket has what follows from all messages up to a number; the messages after it
bring it up to date: from their events core finds the positions of subscriptions, and they have any other
position beside their events, so both are stored or neither. It also keeps positions whose messages the stream has deleted by then.
"""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import msgspec
import structlog
from attrs import Factory, define
from tapeloom.errors import SinkUnavailable
from tapeloom.plugin import Cursor

from .connection import ApiError, Connection, answer
from .messages import Bodies, Header, Message, parse_header, positions_of, token
from .restart import Memory
from .stream import StreamInfo, bucket_of, refuse

__all__ = ["Checkpoint", "State", "last_header", "load_cursor", "load_reader", "save_reader"]

log = structlog.get_logger()

#: Number of values that a checkpoint is spread over, because a value is at most one message.
_PIECES = 64
#: How many memories of a reader are in the bucket.
_MEMORIES = 4
#: Bytes of a message besides its body, at most.
_HEADERS = 1024
#: JetStream's number of the error that there is no such message.
_NO_MESSAGE = 10037


@define
class Run:
    """What is stored of one run."""

    stored: int = 0  #: all events up to this number are
    #: By shard, where it is more: all events of the shard up to this number are.
    shards: dict[str, int] = Factory(dict)

    def covered(self, shard: str) -> int:
        """Return up to which number a shard has all its events."""
        return max(self.stored, self.shards.get(shard, 0))

    def add(self, shard: str, header: Header) -> None:
        """Take account of a message of a shard."""
        self.shards[shard] = max(header.last, self.shards.get(shard, 0))
        self.complete(header.stored)

    def complete(self, number: int) -> None:
        """All shards have all events up to *number*."""
        self.stored = max(self.stored, number)
        self.shards = {key: last for key, last in self.shards.items() if last > self.stored}


class State:
    """The runs of a sink by epoch, and its positions.

    With *keeps_events* it keeps the bodies of the messages that are added, for the events in them, and an empty one
    where another node has begun.
    """

    def __init__(self, *, keeps_events: bool = False) -> None:
        self.bodies: list[tuple[Header, bytes]] = []
        self._keeps_events = keeps_events
        self.runs: dict[int, Run] = {}
        self.positions: dict[str, str] = {}
        #: The keys of positions, and the epochs, that differ from those in the bucket.
        self.changed: set[str] = set()
        self._bodies = Bodies()
        self._landed: Counter[tuple[int, int, int]] = Counter()

    def run(self, epoch: int) -> Run:
        """Return a run, to read or to change it."""
        self.changed.add(str(epoch))
        return self.runs.setdefault(epoch, Run())

    def update(self, positions: Mapping[str, str]) -> None:
        """Take over newer positions."""
        self.positions.update(positions)
        self.changed.update(positions)

    def add(self, shard: str, header: Header, part: bytes) -> None:
        """Take account of the next message of a shard. Raises ValueError if it cannot be read."""
        if not header.count:
            if header.begun and self._keeps_events:
                self.bodies.append((header, b""))
            return
        if (body := self._bodies.add(shard, header, part)) is None:
            return
        if self._keeps_events:
            self.bodies.append((header, body))
        self.update(positions_of(header, body))
        run = self.run(header.epoch)
        run.add(shard, header)
        batch = header.epoch, header.last, header.messages
        self._landed[batch] += 1
        if self._landed[batch] == header.messages:
            run.complete(header.last)

    def pieces(self) -> dict[int, bytes]:
        """Return the pieces that differ from those in the bucket, as it keeps them."""
        found = {_piece(key): _Piece({}, {}) for key in self.changed}
        for epoch, run in self.runs.items():
            if (piece := found.get(_piece(str(epoch)))) is not None:
                piece.runs[epoch] = _StoredRun(run.stored, run.shards)
        for key, text in self.positions.items():
            if (piece := found.get(_piece(key))) is not None:
                piece.positions[key] = text
        return {index: msgspec.json.encode(piece) for index, piece in found.items()}

    def restore(self, piece: bytes, *, with_runs: bool) -> None:
        """Take over one of what `pieces` returned."""
        found = msgspec.json.decode(piece, type=_Piece)
        self.positions.update(found.positions)
        if with_runs:
            self.runs.update(
                {epoch: Run(run.stored, dict(run.shards)) for epoch, run in found.runs.items()}
            )


class _StoredRun(msgspec.Struct):
    stored: int
    shards: dict[str, int]


class _Piece(msgspec.Struct):
    runs: dict[int, _StoredRun]
    positions: dict[str, str]


class _Manifest(msgspec.Struct):
    """From which message of which stream a checkpoint goes on."""

    stream_created: str
    number: int  #: the pieces have what follows from the messages up to this number


def _piece(key: str) -> int:
    return crc32(key.encode(errors="surrogatepass")) % _PIECES


class Checkpoint:
    """The checkpoint of one sink in the bucket of its stream."""

    def __init__(self, connection: Connection, stream: str, sink: str) -> None:
        self._connection = connection
        self._bucket = bucket_of(stream)
        self._sink = token(sink)

    def _subject(self, key: object) -> str:
        return f"$KV.{self._bucket}.{self._sink}.{key}"

    async def load(self, state: State, info: StreamInfo) -> int:
        """Restore *state*; return the number of the message in the stream that it goes on from."""
        (manifest,) = await self._get("manifest")
        if manifest is None:
            return max(info.first, 1)
        found = msgspec.json.decode(manifest, type=_Manifest)
        is_same = found.stream_created == info.created and found.number <= info.last
        for piece in await self._get(*range(_PIECES)):
            if piece is not None:
                state.restore(piece, with_runs=is_same)
        return found.number + 1 if is_same else max(info.first, 1)

    async def save(self, state: State, info: StreamInfo, number: int) -> bool:
        """Save *state*, which follows from the messages up to *number*.

        Return False if a piece is too large for a message; then the former checkpoint stays valid.
        """
        most = info.part_size(self._connection.max_payload)
        pieces = state.pieces()
        if any(len(piece) > most for piece in pieces.values()):
            return False
        await self._put({str(index): piece for index, piece in pieces.items()})
        manifest = _Manifest(info.created, number)
        await self._put({"manifest": msgspec.json.encode(manifest)})
        state.changed.clear()
        return True

    async def _put(self, values: dict[str, bytes]) -> None:
        messages = [Message(self._subject(key), {}, value) for key, value in values.items()]
        for reply in await self._connection.exchange(messages):
            try:
                answer(reply)
            except ApiError as error:
                raise SinkUnavailable(
                    f"the bucket {self._bucket!r} does not take positions: {error.text} (error"
                    f" {error.code}). If this repeats, check the server's log."
                ) from None

    async def _get(self, *keys: object) -> list[bytes | None]:
        return [
            None if found is None else b64decode(found.get("data", ""))
            for found in await _last(
                self._connection, f"KV_{self._bucket}", [self._subject(key) for key in keys]
            )
        ]


async def last_header(connection: Connection, stream: str, subject: str) -> Header | None:
    """Return the header of the last message of a subject, or None if there is none."""
    (found,) = await _last(connection, stream, [subject])
    if found is None:
        return None
    lines = b64decode(found.get("hdrs", "")).decode(errors="replace").split("\r\n")
    return parse_header(dict(line.split(": ", 1) for line in lines if ": " in line))


async def load_cursor(connection: Connection, stream: str, name: str, feed: str) -> Cursor | None:
    """Return the cursor that a reader has saved in the bucket of a stream; None if there is none."""
    cursor, _ = await load_reader(connection, stream, name, feed)
    return cursor


async def load_reader(
    connection: Connection, stream: str, name: str, feed: str
) -> tuple[Cursor | None, list[Memory]]:
    """Return the cursor that a reader has saved in the bucket of a stream, and what it keeps, of several times.

    None and an empty list if it has saved nothing.
    """
    subject = f"$KV.{bucket_of(stream)}.reader.{name}"
    subjects = [subject, *(f"{subject}.{place}" for place in range(_MEMORIES))]
    try:
        bodies = await _last(connection, f"KV_{bucket_of(stream)}", subjects)
    except SinkUnavailable:
        return None, []  # there is no bucket yet
    found = [None if body is None else b64decode(body.get("data", "")) for body in bodies]
    if found[0] is None:
        return None, []
    saved = msgspec.json.decode(found[0], type=_Reader)
    entries = [_kept(name, body) for body in found[1:] if body is not None]
    memories = [kept.memory for kept in entries if kept and kept.origin == saved.origin]
    return Cursor(feed, saved.origin, saved.number, text=saved.text), memories


async def save_reader(
    connection: Connection, stream: str, name: str, cursor: Cursor, memory: Memory, count: int
) -> None:
    """Save the cursor of a reader, and what it keeps, in the bucket of a stream, for the *count*-th time.

    What a store has may be older than what was read. So several are there: of the last times, and of every 4th,
    16th and 64th. What is too large for a message is left out. Raises SinkUnavailable.
    """
    subject, place = f"$KV.{bucket_of(stream)}.reader.{name}", 0
    while place < _MEMORIES - 1 and count % 4 ** (place + 1) == 0:
        place += 1
    bodies = {
        f"{subject}.{place}": msgspec.json.encode(_Kept(cursor.origin, memory)),
        subject: msgspec.json.encode(_Reader(cursor.origin, cursor.number, cursor.text)),
    }
    messages = [
        Message(subject, {}, body)
        for subject, body in bodies.items()
        if len(body) < connection.max_payload - _HEADERS
    ]
    for reply in await connection.exchange(messages):
        try:
            answer(reply)
        except ApiError as error:
            raise SinkUnavailable(
                f"the bucket {bucket_of(stream)!r} does not take the cursor: {error.text}. Start the stack that"
                " writes to the stream, or leave out cursor."
            ) from None


class _Reader(msgspec.Struct):
    """Where a reader stands."""

    origin: str
    number: int
    text: str


class _Kept(msgspec.Struct):
    """What a reader keeps, and of which stream."""

    origin: str
    memory: Memory


def _kept(name: str, body: bytes) -> _Kept | None:
    """Return what a reader kept; None if it is of another version of tapeloom-nats."""
    try:
        return msgspec.json.decode(body, type=_Kept)
    except msgspec.MsgspecError as error:
        log.warning("reader_memory_unreadable", cursor=name, reason=str(error))
        return None


async def _last(
    connection: Connection, stream: str, subjects: list[str]
) -> list[dict[str, Any] | None]:
    """Return the last message of each subject, or None if there is none."""
    requests = [
        Message(
            f"$JS.API.STREAM.MSG.GET.{stream}", {}, msgspec.json.encode({"last_by_subj": subject})
        )
        for subject in subjects
    ]
    found: list[dict[str, Any] | None] = []
    for reply in await connection.exchange(requests):
        try:
            found.append(answer(reply)["message"])
        except ApiError as error:
            if error.code != _NO_MESSAGE:
                refuse(error, f"the stream {stream!r} cannot be read")
            found.append(None)
    return found
