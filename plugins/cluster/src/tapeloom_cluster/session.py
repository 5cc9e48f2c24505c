"""Publishes the batches of a node: each shard to the subject of its slot, under its fence.

A subject has one owner at a time. Its messages name the number of the last one, and the server refuses them
if that is another one, as after the fence message of a new owner. Readers drop lower fences as well.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 nats-py runs on nothing else
import time
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from attrs import define
from msgspec.structs import replace
from tapeloom.errors import SinkUnavailable
from tapeloom.events import Event, Gap, Status
from tapeloom.plugin import Resume, SinkBatch, SinkRun
from tapeloom_nats.connection import EXPECTED_LAST, WRONG_LAST, ApiError, Connection, answer
from tapeloom_nats.messages import (
    HEADER,
    VERSION,
    Header,
    Message,
    body_of,
    header_text,
    parse_header,
    subject_of,
)
from tapeloom_nats.replicas import ACQUIRED  # only behind this Status is a node live in a shard
from tapeloom_nats.settings import Settings
from tapeloom_nats.state import Checkpoint
from tapeloom_nats.stream import StreamInfo, ensure, refuse

from .leases import Lease, Leases
from .shards import ShardTable

__all__ = [
    "ACQUIRED",
    "RELEASED",
    "Node",
    "Session",
    "begin",
    "checkpoint_of",
    "fence",
    "last_message",
    "slot_subject",
]

#: The state of the Status with which a node ends a shard; the sink knows by it that all before is published.
RELEASED = "released"
_NO_MESSAGE = 10037
#: A checkpoint of a slot is due after so many bytes or seconds: a new owner reads what came since.
_CHECKPOINT_BYTES, _CHECKPOINT_SECONDS = 4_000_000, 10.0
#: Seconds for which a batch waits for a valid lease, and `open` for a server. Core tries again after up to 15 s,
#: so a node that was cut off would publish long after it has joined again, or not before it is stopped.
_WAIT_SECONDS, _POLL_SECONDS = 4.0, 0.02
_RETRY_SECONDS = 0.2


@define
class Node:
    """Who this process is in its cluster."""

    name: str
    sink: str  #: the name of the sink
    writer: str  #: a random name of the process
    shards: int
    replicas: int
    settings: Settings
    table: ShardTable


def slot_subject(node: Node, shard: str, slot: int) -> str:
    """Return the subject of a slot."""
    return f"{subject_of(node.settings.prefix, node.sink, shard)}.{slot}"


def checkpoint_of(connection: Connection, node: Node, shard: str, slot: int) -> Checkpoint:
    """Return the checkpoint of a slot."""
    return Checkpoint(connection, node.settings.stream, f"{node.sink} {shard} {slot}")


def header_of(node: Node, epoch: int, lease: Lease, **fields: Any) -> Header:
    """Return the header of a message without events."""
    last = lease.state.run(epoch).covered(lease.shard)
    return Header(
        VERSION, node.sink, epoch, 0, last, 0, lease.fence, node.writer, node.shards,
        slot=lease.slot, node=node.name, replicas=node.replicas, **fields,
    )  # fmt: skip


async def last_message(
    connection: Connection, stream: str, subject: str
) -> tuple[int, Header | None]:
    """Return number and header of the last message of a subject; 0 if the stream has none."""
    try:
        found = await connection.call(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    except ApiError as error:
        if error.code != _NO_MESSAGE:
            refuse(error, f"the stream {stream!r} cannot be read")
        return 0, None
    lines = b64decode(found["message"].get("hdrs", "")).decode(errors="replace").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    return int(found["message"]["seq"]), parse_header(headers)


async def begin(
    connection: Connection, node: Node, epoch: int, leases: Sequence[Lease]
) -> list[Lease]:
    """Publish the fence messages of slots that were never used; return those that were."""
    messages = [
        Message(
            slot_subject(node, lease.shard, lease.slot),
            {HEADER: header_text(header_of(node, epoch, lease, begun=True)), EXPECTED_LAST: "0"},
            b"",
        )
        for lease in leases
    ]
    used = []
    for lease, reply in zip(leases, await connection.exchange(messages), strict=True):
        try:
            lease.expected = int(answer(reply)["seq"])
        except ApiError as error:
            if error.code != WRONG_LAST:
                refuse(error, "the stream does not take the fence of a shard")
            used.append(lease)
    return used


async def fence(
    connection: Connection, node: Node, epoch: int, lease: Lease, *, begun: bool = False
) -> bool:
    """Publish the fence message of a slot, and read what came before it, after `Lease.expected`.

    *begun* tells that another node may have had the shard in between. Return False if another owner with a
    higher fence was there.
    """
    subject = slot_subject(node, lease.shard, lease.slot)
    stream = node.settings.stream
    headers = {HEADER: header_text(header_of(node, epoch, lease, begun=begun))}
    (reply,) = await connection.exchange([Message(subject, headers, b"")])
    try:
        number = int(answer(reply)["seq"])
    except ApiError as error:
        refuse(error, f"the stream {stream!r} does not take the fence of a shard")
    is_owner = True
    async for at, message in connection.read(
        stream, subject, first=lease.expected + 1, last=number
    ):
        header = parse_header(message.headers)
        is_owner = is_owner and (header.fence <= lease.fence)
        if at < number:
            lease.state.add(lease.shard, header, message.data)
    lease.read_back()
    lease.expected = number
    return is_owner


@define(eq=False)
class _Outgoing:
    """The message of a batch for one shard, which is sent in parts if it is too large for one."""

    lease: Lease
    events: Sequence[Event]
    header: Header
    body: bytes
    size: int  #: how many bytes of the body a part has at most
    part: int = 1  #: the number of the next part

    @property
    def parts(self) -> int:
        """How many parts the body has."""
        return max(-(-len(self.body) // self.size), 1)

    def message(self, subject: str) -> Message:
        """Return the next part."""
        header, body, parts = self.header, self.body, self.parts
        if parts > 1:
            header = replace(header, part=self.part, parts=parts)
            body = body[(self.part - 1) * self.size : self.part * self.size]
        headers = {HEADER: header_text(header), EXPECTED_LAST: str(self.lease.expected)}
        return Message(subject, headers, body)


class Session:
    """What lasts from the opening of the sink to its closing."""

    def __init__(
        self,
        node: Node,
        leases: Leases,
        run: SinkRun,
        monotonic: Callable[[], float],
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._node = node
        self._leases = leases
        self._epoch = run.epoch
        self._monotonic = monotonic
        self._time_ns = time_ns
        self._connection = Connection(node.settings)
        self._info: StreamInfo | None = None
        self._part_size = 0
        self._stored = 0

    async def open(self, *, is_owner: bool) -> Resume:
        """Connect; after an error, find out what of the last batch is stored."""
        await self._connect()
        self._info = await ensure(self._connection, self._node.settings)
        self._part_size = self._info.part_size(self._connection.max_payload)
        if is_owner and self._leases.is_valid:
            for lease in self._leases.all():
                if not await fence(self._connection, self._node, self._epoch, lease):
                    self._leases.lose(lease.shard)
        self._leases.epoch = self._epoch
        return Resume()

    async def _connect(self) -> None:
        """Connect; try again for some seconds. Raises SinkUnavailable."""
        until = self._monotonic() + _WAIT_SECONDS
        while True:
            try:
                await self._connection.open()
            except SinkUnavailable:
                if self._monotonic() > until:
                    raise
                await self._connection.close()
                await asyncio.sleep(_RETRY_SECONDS)
                self._connection = Connection(self._node.settings)
            else:
                return

    async def reconnect(self) -> None:
        """Open another connection."""
        await self._connection.close()
        self._connection = Connection(self._node.settings)
        await self._connection.open()

    async def close(self) -> None:
        """Save the checkpoints and disconnect."""
        try:
            if self._info is not None and self._leases.is_valid:
                for lease in self._leases.all():
                    await self._save(lease)
        finally:
            await self._connection.close()

    # --------------------------------------------------------------------------------------- write

    async def write(self, batch: SinkBatch) -> None:
        """Publish the events of the shards that this node holds; those of others are dropped."""
        await self._wait()
        outgoing = self._encoded(batch)
        rest = await self._publish(outgoing)
        while rest:
            rest = await self._publish(rest)
        self._note(batch)
        await self._follow_statuses(batch)
        if not self._leases.is_valid:
            return  # another node may have saved a checkpoint since
        for lease in self._leases.all():
            is_late = self._monotonic() - lease.saved_at > _CHECKPOINT_SECONDS
            if lease.size > _CHECKPOINT_BYTES or (lease.size and is_late):
                await self._save(lease)

    async def _wait(self) -> None:
        """Wait for a valid lease. Raises SinkUnavailable."""
        until = self._monotonic() + _WAIT_SECONDS
        while not self._leases.is_valid and self._monotonic() < until:  # noqa: ASYNC110 it has no event
            await asyncio.sleep(_POLL_SECONDS)
        self._leases.check()

    def _encoded(self, batch: SinkBatch) -> Iterator[_Outgoing]:
        """Yield the message for each shard; the server stores the first while the next is encoded."""
        split = self._split(batch)
        positions: dict[str, dict[str, str]] = {}
        for key, text in batch.positions.items():
            shard = self._node.table.of_position(key)
            if shard in split:
                positions.setdefault(shard, {})[key] = text
        for shard, indexes in split.items():
            lease = self._leases.get(shard)
            if lease is None:
                self._leases.published.fenced += len(indexes)
                continue
            covered = lease.state.run(self._epoch).covered(shard) - batch.first
            missing = [index for index in indexes if index > covered]
            if lease.since:
                missing = lease.read_since(batch.events, missing)
            if lease.beside_until:
                missing = lease.read_beside(batch.events, missing, batch.first)
            if not missing:
                continue
            events = [batch.events[index] for index in missing]
            numbers = [batch.first + index for index in missing]
            of_shard = positions.get(shard, {})
            events_bytes, body = body_of(events, numbers, of_shard)
            header = replace(
                header_of(self._node, self._epoch, lease),
                first=numbers[0], last=batch.last, count=len(numbers), messages=len(split),
                events_bytes=events_bytes,
            )  # fmt: skip
            lease.state.update(of_shard)
            yield _Outgoing(lease, events, header, body, self._part_size)

    def _split(self, batch: SinkBatch) -> dict[str, list[int]]:
        """Return the indexes of the events by shard. Those without a symbol are in all that are held."""
        split: defaultdict[str, list[int]] = defaultdict(list)
        events = batch.events
        shard_of, held = self._node.table.of, list[str]()
        for index, event in enumerate(events):
            if event.symbol:
                split[shard_of(event.venue, event.symbol)].append(index)
            else:
                held = held or [lease.shard for lease in self._leases.all()]
                for shard in held:
                    split[shard].append(index)
        return split

    async def _publish(self, outgoing: Iterable[_Outgoing]) -> list[_Outgoing]:
        """Publish the next part of each; return those of which parts are left."""
        sent = []
        leases, node = self._leases, self._node

        def messages() -> Iterator[Message]:
            for item in outgoing:
                leases.check()
                sent.append(item)
                yield item.message(slot_subject(node, item.lease.shard, item.lease.slot))

        replies = await self._connection.exchange(messages())
        for item, reply in zip(sent, replies, strict=True):
            lease = item.lease
            try:
                lease.expected = answer(reply)["seq"]
                item.part += 1
            except ApiError as error:
                if error.code != WRONG_LAST:
                    raise self._unavailable(error) from None
                if not await self._is_still_owner(lease):
                    leases.lose(lease.shard)
                    leases.published.fenced += item.header.count
                    item.part = item.parts + 1
                continue
            if item.part > item.parts:
                lease.size += len(item.body)
                lease.stored(item.events)
                lease.state.run(self._epoch).add(lease.shard, item.header)
        return [item for item in sent if item.part <= item.parts]

    async def _is_still_owner(self, lease: Lease) -> bool:
        """Return whether a message may be sent again; set the number that it has to expect.

        Raises SinkUnavailable if one of this node's own was stored meanwhile.
        """
        subject = slot_subject(self._node, lease.shard, lease.slot)
        number, last = await last_message(self._connection, self._node.settings.stream, subject)
        if last is not None and last.fence > lease.fence:
            return False
        if last is not None and last.fence == lease.fence:
            raise SinkUnavailable(
                "a message that was sent before was stored meanwhile; what is stored is read again"
            )
        lease.expected = number
        return True

    def _unavailable(self, error: ApiError) -> SinkUnavailable:
        return SinkUnavailable(
            f"the stream {self._node.settings.stream!r} does not take a message: {error.text} (error"
            f" {error.code}). If this repeats, check the server's log and disk, and that the stream exists."
        )

    def _note(self, batch: SinkBatch) -> None:
        published, events = self._leases.published, batch.events
        published.events += len(events)
        published.gaps += sum(type(event) is Gap for event in events)
        published.last_event = max(published.last_event, events[-1].recv)
        published.lag = (self._time_ns() - events[0].recv) / 1e9

    # ----------------------------------------------------------------------------- end, checkpoint

    async def _follow_statuses(self, batch: SinkBatch) -> None:
        """Record the shards that are live since this batch; publish the end of those that end with it."""
        leases = self._leases
        if not leases.ending and not leases.starting:
            return
        statuses = {(e.state, e.detail) for e in batch.events if type(e) is Status}
        for shard, detail in [*leases.starting.items()]:
            if (ACQUIRED, detail) in statuses:
                leases.go_live(shard)
        for shard, detail in [*leases.ending.items()]:
            lease = leases.get(shard)
            if (RELEASED, detail) not in statuses or lease is None:
                continue
            await self._save(lease)
            header = header_of(self._node, self._epoch, lease, ended=True)
            item = _Outgoing(lease, (), header, b"", self._part_size)
            while await self._publish([item]):
                pass
            self._leases.end(shard)

    async def _save(self, lease: Lease) -> None:
        assert self._info is not None
        checkpoint = checkpoint_of(self._connection, self._node, lease.shard, lease.slot)
        await checkpoint.save(lease.checkpoint(), self._info, lease.expected)
        lease.size = 0
        lease.saved_at = self._monotonic()
