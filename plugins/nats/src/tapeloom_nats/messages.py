"""The messages of a sink: their subjects, their header and their body.

`docs/reference/nats.md` describes them for readers in any language.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from zlib import crc32

import msgspec
from attrs import define
from tapeloom.errors import SinkRefused
from tapeloom.events import Event

from .columns import pack, unpack

__all__ = [
    "ALL",
    "HEADER",
    "VERSION",
    "Bodies",
    "Header",
    "Message",
    "MessageReader",
    "Shards",
    "body_of",
    "events_of",
    "header_text",
    "parse_header",
    "position_shard",
    "positions_of",
    "shard_names",
    "shard_of",
    "subject_of",
    "token",
    "unpacked",
]

#: The version of the messages. Readers refuse a greater one.
VERSION = 1
#: The name of the header that each message of a sink has.
HEADER = "Tapeloom"
#: The shard of events without a symbol, which concern all symbols of a feed.
ALL = "all"
#: Characters that a token of a subject may have; others are written as "=" and their UTF-8 in hex.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")

#: The beginning of an array of two items in MessagePack: numbers, and events.
_TWO_ITEMS = b"\x92"

_json = msgspec.json.Encoder()
_pack = msgspec.msgpack.Encoder()


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the header of a message says, as JSON. Fields with their default are left out."""

    version: int  #: The version of the message, `VERSION`.
    sink: str  #: The name of the sink in its stack.
    epoch: int  #: The number of the run, in ns since 1970.
    first: int  #: The number of the first event of the message; 0 if it has none.
    #: The shard has all its events of the run up to this number, from this message and earlier ones.
    last: int
    count: int  #: Number of events; 0 for a message that only shows that the sink was opened.
    fence: int  #: The number of the lease that the sender holds; 0 without leases.
    writer: str  #: A random name of the process that sent it.
    shards: int = 1  #: Number of shards of the sink.
    stored: int = 0  #: All shards have all their events of the run up to this number.
    messages: int = 1  #: Number of messages that the same batch was split into, one a shard.
    events_bytes: int = 0  #: Size of the events in the body; positions of the sink follow.
    part: int = 1  #: The number of this part of the body, from 1.
    parts: int = 1  #: Number of parts that the body is split into.
    slot: int = 0  #: Which of the owners of the shard the sender is; of a cluster only.
    node: str = ""  #: The name of the sender in its cluster.
    replicas: int = 1  #: How many nodes of the cluster send each shard.
    ended: bool = False  #: The sender sends nothing more in this slot under this fence.
    begun: bool = False  #: The sender begins in this slot, whatever it sent there before.


@define(eq=False)
class Message:
    """A message to publish."""

    subject: str
    headers: dict[str, str]
    body: bytes

    def to_frame(self, reply: str) -> bytes:
        """Return what is sent to the server, which answers to the subject *reply*."""
        body = self.body
        if not self.headers:
            return b"PUB %b %d\r\n%b\r\n" % (f"{self.subject} {reply}".encode(), len(body), body)
        lines = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        head = f"NATS/1.0\r\n{lines}\r\n".encode()
        sizes = f"HPUB {self.subject} {reply} {len(head)} {len(head) + len(body)}\r\n".encode()
        return b"%b%b%b\r\n" % (sizes, head, body)


class _Version(msgspec.Struct):
    version: int


_read_header = msgspec.json.Decoder(Header)
_read_version = msgspec.json.Decoder(_Version)


def token(name: str) -> str:
    """Return a name as one token of a subject; different names give different tokens."""
    return "".join(
        char if char in _PLAIN else "".join(f"={byte:02X}" for byte in char.encode())
        for char in name
    )


def subject_of(prefix: str, sink: str, shard: str) -> str:
    """Return the subject of a shard of a sink; ``*`` as the shard gives that of all."""
    return f"{prefix}.{token(sink)}.{shard}"


def shard_names(shards: int) -> list[str]:
    """Return the names of all shards: the numbers from 0 on, and `ALL` if there are several."""
    return [*map(str, range(shards)), *([ALL] if shards > 1 else [])]


def shard_of(venue: str, symbol: str, shards: int) -> str:
    """Return the shard of the events of a symbol."""
    if shards == 1:
        return "0"
    return str(crc32(f"{venue} {symbol}".encode()) % shards) if symbol else ALL


class Shards:
    """Sorts the events of batches by their shards."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._by_shard: dict[str, list[int]] = {}
        self._by_venue: dict[str, _BySymbol] = {}

    def split(self, events: Sequence[Event]) -> dict[str, Sequence[int]]:
        """Return the indexes of events, in order, by the name of their shard."""
        if self._shards == 1:
            return {"0": range(len(events))}
        venue, lists = "", self._of_venue("")
        for index, event in enumerate(events):
            if event.venue != venue:
                venue = event.venue
                lists = self._by_venue.get(venue) or self._of_venue(venue)
            lists[event.symbol].append(index)
        found: dict[str, Sequence[int]] = {}
        for shard, indexes in self._by_shard.items():
            if indexes:
                found[shard] = indexes.copy()
                indexes.clear()
        return found

    def _of_venue(self, venue: str) -> _BySymbol:
        lists = _BySymbol(venue, self._shards, self._by_shard)
        return self._by_venue.setdefault(venue, lists)


class _BySymbol(dict[str, list[int]]):
    """The list of the shard of each symbol of a venue; symbols of one shard have the same list."""

    def __init__(self, venue: str, shards: int, by_shard: dict[str, list[int]]) -> None:
        super().__init__()
        self._venue, self._shards, self._by_shard = venue, shards, by_shard

    def __missing__(self, symbol: str) -> list[int]:
        shard = shard_of(self._venue, symbol, self._shards)
        self[symbol] = indexes = self._by_shard.setdefault(shard, [])
        return indexes


@lru_cache(maxsize=100_000)
def position_shard(key: str, shards: int) -> str | None:
    """Return the shard of the events that a position is about; None if its key does not say.

    A key is a JSON array of venue, symbol and channel.
    """
    if shards == 1:
        return "0"
    try:
        venue, symbol, *_ = json.loads(key)
    except (ValueError, TypeError):
        return None
    return shard_of(str(venue), str(symbol), shards)


def body_of(
    events: Sequence[Event], numbers: Sequence[int], positions: Mapping[str, str]
) -> tuple[int, bytes]:
    """Return the body of a message, and the size of the events in it.

    Only the differences of *numbers* count, so that they may also be indexes in a batch.
    """
    is_consecutive = numbers[-1] - numbers[0] + 1 == len(numbers)
    offsets = None if is_consecutive else [number - numbers[0] for number in numbers]
    body = _TWO_ITEMS + _pack.encode(offsets) + pack(events)
    return len(body), body + _pack.encode(positions) if positions else body


def header_text(header: Header) -> str:
    """Return what `parse_header` reads."""
    return _json.encode(header).decode()


def parse_header(headers: Mapping[str, str] | None) -> Header:
    """Return what the header of a message says. Raises SinkRefused if it is not one of ours, or newer."""
    text = (headers or {}).get(HEADER, "")
    try:
        header = _read_header.decode(text)
    except msgspec.MsgspecError:
        header = None
    version = header.version if header is not None else _version(text)
    if version > VERSION:
        raise SinkRefused(
            f"a message of the sink has version {version}; this version of tapeloom-nats"
            f" knows {VERSION}. Update tapeloom-nats, or give the sink another name."
        )
    if header is None:
        raise SinkRefused(
            f"a message on the subjects of the sink has no valid header {HEADER!r}, but"
            f" {text[:100]!r}: something else publishes there. Choose another prefix or sink name."
        )
    return header


def _version(text: str) -> int:
    """Return the version that a header says, which may have other fields than ours; 0 if it is none."""
    try:
        return _read_version.decode(text).version
    except msgspec.MsgspecError:
        return 0


def events_of(header: Header, body: bytes) -> list[tuple[int, Event]]:
    """Return the events in a body, all its parts together, each with its number.

    Raises ValueError if it cannot be read.
    """
    offsets, events = unpacked(header, body)
    numbers: Any = range(header.count) if offsets is None else offsets
    return [(header.first + offset, event) for offset, event in zip(numbers, events, strict=True)]


def unpacked(header: Header, body: bytes) -> tuple[list[int] | None, list[Event]]:
    """Return the offsets of the events in a body, and the events.

    An offset is the number of an event minus that of the first one; None in place of the list if the numbers
    are consecutive. Raises ValueError if the body cannot be read.
    """
    if not header.count:
        return None, []
    try:
        offsets, events = msgspec.msgpack.decode(
            body[: header.events_bytes], type=tuple[list[int] | None, msgspec.Raw]
        )
    except msgspec.MsgspecError as error:
        raise ValueError(f"expected a batch of events, got {body[:100]!r}: {error}") from error
    return offsets, unpack(bytes(events))


def positions_of(header: Header, body: bytes) -> dict[str, str]:
    """Return the positions in a body. Raises ValueError if they cannot be read."""
    if len(body) <= header.events_bytes:
        return {}
    try:
        return msgspec.msgpack.decode(body[header.events_bytes :], type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise ValueError(f"expected positions, got {body[-100:]!r}: {error}") from error


class Bodies:
    """Joins the parts of bodies, by subject. Parts of which others are missing are dropped."""

    def __init__(self) -> None:
        self._parts: dict[str, list[bytes]] = {}

    def add(self, subject: str, header: Header, part: bytes) -> bytes | None:
        """Return the body if *part* completes it, else None."""
        if header.parts == 1:
            self._parts.pop(subject, None)
            return part
        parts = self._parts.setdefault(subject, [])
        if header.part == 1:
            parts.clear()  # of a body that was never completed, because it was sent again
        if len(parts) == header.part - 1:
            parts.append(part)
        if len(parts) < header.parts:
            return None
        del self._parts[subject]
        return b"".join(parts)


class MessageReader:
    """Reads the messages of a stream, in its order, as numbered events."""

    def __init__(self) -> None:
        self._bodies = Bodies()

    def read(
        self, subject: str, headers: Mapping[str, str] | None, data: bytes
    ) -> list[tuple[int, Event]]:
        """Return the events of a message, each with its number in its run.

        None for a message that shows that a sink was opened, and for all parts of a body but the last.
        Raises SinkRefused if the message is none of a sink, or newer than this version of tapeloom-nats;
        ValueError if its body cannot be read.
        """
        header = parse_header(headers)
        body = self._bodies.add(subject, header, data)
        return events_of(header, body) if body is not None else []
