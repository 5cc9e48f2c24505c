"""The sink: publishes each batch as one message a shard, and returns when the stream has stored them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from attrs import define
from msgspec.structs import replace
from tapeloom.errors import SinkError, SinkRefused, SinkUnavailable
from tapeloom.events import Event
from tapeloom.plugin import Guarantee, Resume, SinkBatch, SinkRun

from .connection import EXPECTED_LAST, WRONG_LAST, ApiError, Connection, answer
from .messages import (
    HEADER,
    VERSION,
    Header,
    Message,
    Shards,
    body_of,
    header_text,
    parse_header,
    position_shard,
    shard_names,
    subject_of,
    unpacked,
)
from .own_loop import OwnLoop, runs_on_asyncio
from .report import report
from .settings import Settings
from .state import Checkpoint, Run, State, last_header
from .stream import StreamInfo, ensure

__all__ = ["NatsSink", "Session"]

T = TypeVar("T")

#: A checkpoint is due after so many bytes or seconds: `open` reads back what was published since.
_CHECKPOINT_BYTES, _CHECKPOINT_SECONDS = 8_000_000, 10.0
#: After so many seconds without a write the connection is opened anew: where the loop turns during a call
#: only, nobody answers the server's pings, and after some minutes it closes the connection.
_IDLE_SECONDS = 60.0


class Session(Protocol):
    """What lasts from `NatsSink.open` to `NatsSink.close`."""

    async def open(self, *, is_owner: bool) -> Resume:
        """Connect and read what the stream has. *is_owner* tells that this process wrote to it before."""
        ...

    async def reconnect(self) -> None:
        """Open another connection."""
        ...

    async def write(self, batch: SinkBatch) -> None:
        """Publish a batch."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


class NatsSink:
    """Publishes events to JetStream, each once.

    It runs on the stream's event loop if that is asyncio, else in a worker thread, see `OwnLoop`.

    A batch is one message for each shard. A message has its events and the positions that follow from
    them, so both are stored or neither. It names the last message of its subject, and the server refuses
    it if that is another one: so nothing that was sent before the sink was opened again is stored later.
    """

    guarantee: Guarantee = "exactly_once"
    has_checkpoints = True
    #: Who reads the stream wants events at once; while a batch is on its way the next one is collected.
    max_batch_delay = 0.0

    def __init__(
        self,
        settings: Settings,
        *,
        writer: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.writer = writer or secrets.token_hex(4)
        self._monotonic = monotonic
        self._loop: OwnLoop | None = None
        #: Makes what lasts from `open` to `close`; a cluster replaces it.
        self.make_session: Callable[..., Session] = _Session
        self._session: Session | None = None
        self._is_owner = False  #: it was open before
        self._used_at = 0.0

    async def open(self, run: SinkRun) -> Resume:
        """Connect, create what is missing, and return what the stream has of the sink."""
        self._loop = None if runs_on_asyncio() else OwnLoop()
        self._session = self.make_session(self.settings, run, self.writer, self._monotonic)
        resume = await self._run(partial(self._session.open, is_owner=self._is_owner))
        self._is_owner = True
        self._used_at = self._monotonic()
        return resume

    async def write(self, batch: SinkBatch) -> None:
        """Publish a batch; return when all its messages are acknowledged."""
        assert self._session is not None
        if self._monotonic() - self._used_at > _IDLE_SECONDS:
            await self._run(self._session.reconnect)
        await self._run(self._session.write, batch)
        self._used_at = self._monotonic()

    async def close(self) -> None:
        """Save a checkpoint if nothing has failed, and close the connection."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(SinkError, OSError):
                await self._run(session.close)
        if self._loop is not None:
            await self._loop.close()
            self._loop = None

    async def check(self) -> Sequence[str]:
        """Return lines about the server, the stream and the rights; change nothing."""
        if runs_on_asyncio():
            return await report(self.settings)
        loop = OwnLoop()
        try:
            return await loop.run(report, self.settings)
        finally:
            await loop.close()

    async def _run(self, method: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        return await (method(*args) if self._loop is None else self._loop.run(method, *args))


@define(eq=False)
class _Outgoing:
    """The message of a batch for one shard, which is sent in parts if it is too large for one."""

    shard: str
    header: Header
    body: bytes
    size: int  #: how many bytes of the body a part has at most
    part: int = 1  #: the number of the next part

    @property
    def parts(self) -> int:
        """How many parts the body has."""
        return -(-len(self.body) // self.size)

    def message(self, subject: str, expected: int) -> Message:
        """Return the next part, to be stored after the message with the number *expected*."""
        header, body, parts = self.header, self.body, self.parts
        if parts > 1:
            header = replace(header, part=self.part, parts=parts)
            body = body[(self.part - 1) * self.size : self.part * self.size]
        return Message(subject, {HEADER: header_text(header), EXPECTED_LAST: str(expected)}, body)


class _Session:
    """What lasts from `open` to `close`."""

    def __init__(
        self, settings: Settings, run: SinkRun, writer: str, monotonic: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._name = run.sink
        self._epoch = run.epoch
        self._writer = writer
        self._monotonic = monotonic
        self._shards = shard_names(settings.shards)
        self._subjects = {
            shard: subject_of(settings.prefix, run.sink, shard) for shard in self._shards
        }
        self._shards_of = Shards(settings.shards)
        self._state = State(keeps_events=True)
        self._batch: SinkBatch | None = None  #: the last one that was written
        self._info: StreamInfo | None = None
        self._connect()
        self._expected: dict[str, int] = {}  #: number of the last message, by shard
        self._number = 0  #: number of the last message in the stream
        self._size = 0  #: size of the messages since the last checkpoint
        self._saved_at = monotonic()
        self._part_size = 0
        self._is_clean = False  #: the state is what the stream has

    def _connect(self) -> None:
        self._connection = Connection(self._settings)
        self._checkpoint = Checkpoint(self._connection, self._settings.stream, self._name)

    async def open(self, *, is_owner: bool) -> Resume:
        """Connect and read what the stream has. *is_owner* tells that this process wrote to it before."""
        await self._connection.open()
        self._info = await ensure(self._connection, self._settings)
        self._part_size = self._info.part_size(self._connection.max_payload)
        if is_owner:
            await self._check_owner(self._shards[0])
        first = await self._checkpoint.load(self._state, self._info)
        await self._fence()
        subject = subject_of(self._settings.prefix, self._name, "*")
        stream = self._settings.stream
        async for _, message in self._connection.read(
            stream, subject, first=first, last=self._number
        ):
            header = parse_header(message.headers)
            self._size += len(message.data)
            try:
                self._state.add(message.subject.rpartition(".")[2], header, message.data)
            except ValueError as error:
                raise self._unreadable(error) from None
        self._is_clean = True
        return Resume(
            self._state.run(self._epoch).stored, dict(self._state.positions), self._stored_events()
        )

    def _stored_events(self) -> Iterator[Sequence[Event]]:
        """Yield what was stored after the checkpoint. Raises SinkRefused if it cannot be read."""
        bodies, self._state.bodies = self._state.bodies, []
        for header, body in bodies:
            try:
                yield unpacked(header, body)[1]
            except ValueError as error:
                raise self._unreadable(error) from None

    def _unreadable(self, error: ValueError) -> SinkRefused:
        return SinkRefused(
            f"a message of the stream {self._settings.stream!r} cannot be read: {error}. Give the sink"
            " another name to start anew."
        )

    async def reconnect(self) -> None:
        """Open another connection."""
        await self._connection.close()
        self._connect()
        await self._connection.open()

    async def write(self, batch: SinkBatch) -> None:
        """Publish a batch."""
        self._is_clean = False
        run = self._state.run(batch.epoch)
        split = self._split(batch, run)
        # A generator: the server stores the first ones while the next ones are encoded.
        encoded = self._encoded(batch, split, run)
        # One message a subject at a time, because the next one names the number of this one.
        rest = await self._publish(encoded)
        while rest:
            rest = await self._publish(rest)
        run.complete(batch.last)
        self._state.update(batch.positions)
        self._batch = batch
        self._is_clean = True
        await self._save_if_due()

    def _split(self, batch: SinkBatch, run: Run) -> dict[str, Sequence[int]]:
        """Return by shard the indexes of the events that it does not have yet."""
        split = self._shards_of.split(batch.events)
        missing: dict[str, Sequence[int]] = {}
        for shard, indexes in split.items():
            covered = run.covered(shard) - batch.first
            if indexes[0] > covered:
                missing[shard] = indexes
            elif indexes[-1] > covered:
                missing[shard] = [index for index in indexes if index > covered]
        return missing

    def _encoded(
        self, batch: SinkBatch, split: Mapping[str, Sequence[int]], run: Run
    ) -> Iterator[_Outgoing]:
        """Yield the message for each shard."""
        positions = _by_shard(batch, self._settings.shards, split)
        stored, events = run.stored, batch.events
        for shard, indexes in split.items():
            of_shard = events
            if len(indexes) < len(events):
                of_shard = [events[index] for index in indexes]
            size, body = body_of(of_shard, indexes, positions.get(shard, {}))
            first = batch.first + indexes[0]
            header = Header(
                VERSION, self._name, self._epoch, first, batch.last, len(indexes), 0, self._writer,
                self._settings.shards, stored, len(split), size,
            )  # fmt: skip
            yield _Outgoing(shard, header, body, self._part_size)

    async def close(self) -> None:
        """Save a checkpoint, if the state is certain, and disconnect."""
        try:
            if self._is_clean and self._size:
                await self._save()
        finally:
            await self._connection.close()

    async def _fence(self) -> None:
        """Publish a message without events to each shard, so that no earlier one can be stored later."""
        header = Header(
            VERSION, self._name, self._epoch, 0, 0, 0, 0, self._writer, self._settings.shards
        )
        headers = {HEADER: header_text(header)}
        messages = [Message(subject, headers, b"") for subject in self._subjects.values()]
        replies = await self._connection.exchange(messages)
        for shard, reply in zip(self._shards, replies, strict=True):
            try:
                self._stored(shard, answer(reply)["seq"])
            except ApiError as error:
                raise self._unavailable(error) from None

    async def _publish(self, outgoing: Iterable[_Outgoing]) -> list[_Outgoing]:
        """Publish the next part of each; return those of which parts are left."""
        sent = []

        def messages() -> Iterator[Message]:
            for item in outgoing:
                sent.append(item)
                self._size += len(item.body)
                yield item.message(self._subjects[item.shard], self._expected[item.shard])

        replies = await self._connection.exchange(messages())
        for item, reply in zip(sent, replies, strict=True):
            try:
                self._stored(item.shard, answer(reply)["seq"])
                item.part += 1
            except ApiError as error:
                if error.code != WRONG_LAST:
                    raise self._unavailable(error) from None
                await self._forget_deleted(item.shard)
        return [item for item in sent if item.part <= item.parts]

    async def _forget_deleted(self, shard: str) -> None:
        """Expect no message on a subject, if the stream has deleted all of them by age or size.

        Raises SinkUnavailable or SinkRefused if there is one, but not the expected one.
        """
        await self._check_owner(shard)
        if self._expected[shard] == 0 or await self._last(shard) is not None:
            raise SinkUnavailable(
                f"a message that was sent before to {self._subjects[shard]!r} was stored meanwhile;"
                " what is stored is read again"
            )
        self._expected[shard] = 0

    async def _check_owner(self, shard: str) -> None:
        """Raise SinkRefused if another process has opened the sink after this one."""
        last = await self._last(shard)
        if last is not None and last.writer != self._writer:
            raise SinkRefused(
                f"another process writes to {self._subjects[shard]!r} since this one did. Stop one of"
                " them, or give one of the sinks another name."
            )

    async def _last(self, shard: str) -> Header | None:
        return await last_header(self._connection, self._settings.stream, self._subjects[shard])

    def _stored(self, shard: str, number: int) -> None:
        self._expected[shard] = number
        self._number = max(self._number, number)

    def _unavailable(self, error: ApiError) -> SinkUnavailable:
        return SinkUnavailable(
            f"the stream {self._settings.stream!r} does not take a message: {error.text} (error"
            f" {error.code}). If this repeats, check the server's log and disk, and that the stream exists."
        )

    async def _save_if_due(self) -> None:
        most = min(_CHECKPOINT_BYTES, (self._settings.max_bytes or _CHECKPOINT_BYTES * 8) // 8)
        is_late = self._monotonic() - self._saved_at > _CHECKPOINT_SECONDS
        if self._size > most or (is_late and self._size):
            await self._save()

    async def _save(self) -> None:
        """Save a checkpoint after the last batch; without one the positions are not known."""
        if self._batch is None:
            return
        assert self._info is not None
        self._state.update(self._batch.checkpoint())
        self._state.bodies.clear()
        await self._checkpoint.save(self._state, self._info, self._number)
        self._size = 0
        self._saved_at = self._monotonic()


def _by_shard(batch: SinkBatch, shards: int, sent: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the positions of a batch by the shard whose message has them.

    Positions of other shards, and those that name no symbol, go with the last message.
    """
    if not batch.positions or not sent:
        return {}
    if shards == 1:
        return {"0": dict(batch.positions)}
    *_, last = sent
    found: dict[str, dict[str, str]] = {}
    for key, text in batch.positions.items():
        shard = position_shard(key, shards)
        if shard is None or shard not in sent:
            shard = last
        found.setdefault(shard, {})[key] = text
    return found
