"""The key-value bucket of a cluster: entries are read in their order, and written on condition.

A connection reads all entries, then the new ones. Whatever is uncertain ends it: then all are read again.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 nats-py runs on nothing else
from collections.abc import Sequence
from typing import Any

import attrs
from nats.aio.msg import Msg
from tapeloom.errors import SinkUnavailable
from tapeloom_nats.connection import EXPECTED_LAST, WRONG_LAST, ApiError, Connection, answer
from tapeloom_nats.messages import Message
from tapeloom_nats.settings import Settings
from tapeloom_nats.stream import ensure, refuse

from .coordinator import Put

__all__ = ["Bucket", "Entry", "bucket_stream"]

_TTL = "Nats-TTL"
#: JetStream's numbers of errors.
_STREAM_NOT_FOUND, _STREAM_EXISTS = 10059, 10058
#: For how long the marker of an expired entry is kept: each node reads it meanwhile.
_MARKER_SECONDS = 3600
#: The status of a message of the server itself: a heartbeat, or a question whether we follow.
_CONTROL = "100"
#: Heartbeats that may be missing before a connection counts as dead.
_MISSED = 3
#: What the subject of a message's acknowledgement says, split at its dots: see JetStream.
_ACK_SEQUENCE, _ACK_DELIVERED, _ACK_PENDING = -4, -3, -1
#: What an entry that was deleted, or has expired, has as headers.
_GONE = ("KV-Operation", "Nats-Marker-Reason")


@attrs.frozen
class Entry:
    """An entry that was read; without *value* it was deleted or has expired."""

    key: str
    revision: int
    value: bytes | None


def bucket_stream(bucket: str) -> str:
    """Return the name of the stream that a bucket is."""
    return f"KV_{bucket}"


class Bucket:
    """A connection to the bucket. Every method raises SinkUnavailable or SinkRefused."""

    def __init__(self, settings: Settings, bucket: str, lease_seconds: float) -> None:
        self._settings = settings
        # An answer that takes longer than a quarter of the lease is as good as none.
        timeout = round(min(settings.timeout / 1e9, lease_seconds / 4) * 1e9)
        self.connection = Connection(attrs.evolve(settings, timeout=max(timeout, 100_000_000)))
        self._bucket = bucket
        self._lease_seconds = lease_seconds
        self._prefix = f"$KV.{bucket}."
        self._lock = asyncio.Lock()
        self._entries: asyncio.Queue[Entry | None] = asyncio.Queue()
        self._delivered = 0
        self._left = 0  #: entries that were there when reading began, and have not been read
        self._heard_at = 0.0

    async def open(self) -> None:
        """Connect, create what is missing, and begin to read."""
        await self.connection.open()
        info = await ensure(self.connection, self._settings)
        await self._ensure_bucket(info.config.get("num_replicas", 1))
        inbox = self.connection.new_inbox()
        await self.connection.subscribe(inbox, self._on_message)
        config = {
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "filter_subject": f"{self._prefix}>",
            "flow_control": True,
            "idle_heartbeat": round(self._heartbeat * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
        }
        stream = bucket_stream(self._bucket)
        request = {"stream_name": stream, "config": config}
        try:
            created = await self.connection.call(f"CONSUMER.CREATE.{stream}", request)
        except ApiError as error:
            refuse(error, f"the bucket {self._bucket!r} cannot be read")
        self._heard_at = asyncio.get_running_loop().time()
        self._left = created["num_pending"] + created["delivered"]["consumer_seq"] - self._delivered
        if self._left <= 0:
            self._entries.put_nowait(None)

    @property
    def _heartbeat(self) -> float:
        return max(self._lease_seconds / 10, 0.1)

    async def _ensure_bucket(self, replicas: int) -> None:
        name = bucket_stream(self._bucket)
        try:
            found = await self.connection.call(f"STREAM.INFO.{name}")
            config = found["config"]
            if config.get("allow_msg_ttl"):
                return
            await self.connection.call(
                f"STREAM.UPDATE.{name}",
                {
                    **config,
                    "allow_msg_ttl": True,
                    "subject_delete_marker_ttl": _MARKER_SECONDS * 10**9,
                },
            )
        except ApiError as error:
            if error.code != _STREAM_NOT_FOUND:
                refuse(error, f"the bucket {self._bucket!r} cannot be used")
            await self._create(name, replicas)

    async def _create(self, name: str, replicas: int) -> None:
        config = {
            "name": name,
            "subjects": [f"{self._prefix}>"],
            "retention": "limits",
            "discard": "new",
            "storage": "file",  # a revision must not come again after a restart of the server
            "num_replicas": replicas,
            "max_msgs_per_subject": 1,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": True,
            "allow_msg_ttl": True,
            "subject_delete_marker_ttl": _MARKER_SECONDS * 10**9,
        }
        try:
            await self.connection.call(f"STREAM.CREATE.{name}", config)
        except ApiError as error:
            if error.code != _STREAM_EXISTS:  # another node was faster
                refuse(error, f"the bucket {self._bucket!r} cannot be created")

    async def close(self) -> None:
        """Close the connection."""
        await self.connection.close()

    # ---------------------------------------------------------------------------------------- read

    async def _on_message(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        headers = message.headers or {}
        if headers.get("Status") == _CONTROL:
            if message.reply:
                await self.connection.send(message.reply)
            last = headers.get("Nats-Last-Consumer")
            if last is not None and int(last) != self._delivered:
                self._delivered = -1  # a message was lost: `read` raises
            return
        tokens = message.reply.split(".")
        delivered = int(tokens[_ACK_DELIVERED])
        self._delivered = delivered if delivered == self._delivered + 1 else -1
        is_gone = any(header in headers for header in _GONE)
        key = message.subject.removeprefix(self._prefix)
        revision = int(tokens[_ACK_SEQUENCE])
        self._entries.put_nowait(Entry(key, revision, None if is_gone else message.data))
        if not int(tokens[_ACK_PENDING]) and self._left > 0:
            self._left = 0
            self._entries.put_nowait(None)

    async def read(self, seconds: float) -> list[Entry | None]:
        """Return the entries of the next *seconds*, as soon as there are some.

        None stands after the last of those that were there at the beginning.
        """
        found: list[Entry | None] = []
        try:
            async with asyncio.timeout(seconds):
                found.append(await self._entries.get())
        except TimeoutError:
            pass
        while not self._entries.empty():
            found.append(self._entries.get_nowait())
        self.connection.check()
        silent = asyncio.get_running_loop().time() - self._heard_at
        if self._delivered < 0 or silent > self._heartbeat * _MISSED + seconds:
            raise SinkUnavailable("entries of the bucket were lost on the way; all are read again.")
        return found

    # --------------------------------------------------------------------------------------- write

    async def write(self, puts: Sequence[Put]) -> list[int]:
        """Write entries; return the revision of each, 0 for one whose condition was not met."""
        messages = [self._message(put) for put in puts]
        async with self._lock:
            replies = await self.connection.exchange(messages)
        return [self._revision(reply) for reply in replies]

    def _message(self, put: Put) -> Message:
        headers = {EXPECTED_LAST: str(put.expected)}
        if put.expires:
            headers[_TTL] = f"{round(self._lease_seconds * 1000)}ms"
        return Message(f"{self._prefix}{put.key}", headers, put.value)

    def _revision(self, reply: Any) -> int:
        try:
            return int(answer(reply)["seq"])
        except ApiError as error:
            if error.code == WRONG_LAST:
                return 0
            refuse(error, f"the bucket {self._bucket!r} does not take an entry")

    async def set(self, key: str, value: bytes) -> None:
        """Write an entry unconditionally."""
        async with self._lock:
            (reply,) = await self.connection.exchange([Message(f"{self._prefix}{key}", {}, value)])
        self._revision(reply)

    async def delete(self, key: str) -> None:
        """Delete an entry."""
        async with self._lock:
            (reply,) = await self.connection.exchange(
                [Message(f"{self._prefix}{key}", {"KV-Operation": "DEL"}, b"")]
            )
        self._revision(reply)
