"""Reads the messages of a stream in order, as they come: what nats-py calls an ordered consumer, but pulled.

A pull asks for a number of messages, and the next one is sent when half of them are used. So a reader that
is slow holds back only itself: the server sends no more than was asked for, and closes no connection.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 nats-py runs on nothing else
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from attrs import define
from nats.aio.msg import Msg

from .connection import Connection

__all__ = ["Consumer", "Received"]

#: Messages that are asked for at a time.
_PULL = 512
#: Bytes that are asked for at a time: a reader that waits holds no more in memory.
_PULL_BYTES = 16_000_000
#: Seconds after which a pull ends by itself, and in which the server shows that it lives.
_EXPIRES_SECONDS, _HEARTBEAT_SECONDS = 30.0, 2.0
#: Seconds without a message or heartbeat after which the connection is taken for lost.
_SILENCE_SECONDS = 3 * _HEARTBEAT_SECONDS


class Lost(Exception):
    """The server has forgotten the consumer, or messages of it were lost: create another one."""


@define
class Received:
    """A message of the stream."""

    number: int  #: its number in the stream
    at: int  #: the server's time of it, in ns
    pending: int  #: how many messages of the stream follow it
    message: Msg


class Consumer:
    """One consumer on the server, which it forgets soon after we are gone."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._name = ""
        self._inbox = ""
        self._waiting: deque[Msg] = deque()
        self._changed = asyncio.Event()
        self._asked = 0  # messages that were asked for and have not come
        self._next = 1  # the consumer's number of the next message
        self._problem = ""

    async def open(self, subjects: Sequence[str], start: dict[str, Any]) -> int:
        """Create the consumer; return how many messages wait for it.

        *start* is the server's `deliver_policy` with what it needs. Raises ApiError.
        """
        self._connection.on_failure(self._changed.set)
        self._inbox = self._connection.new_inbox()
        await self._connection.subscribe(self._inbox, self._on_message)
        config = {
            "ack_policy": "none",
            "filter_subjects": list(subjects),
            "replay_policy": "instant",
            "inactive_threshold": 60_000_000_000,
            "mem_storage": True,
            "num_replicas": 1,
            **start,
        }
        answer = await self._connection.call(
            f"CONSUMER.CREATE.{self._stream}", {"stream_name": self._stream, "config": config}
        )
        self._name = answer["name"]
        await self._pull()
        return int(answer["num_pending"])

    async def _pull(self) -> None:
        request = {
            "batch": _PULL,
            "max_bytes": _PULL_BYTES,
            "expires": round(_EXPIRES_SECONDS * 1e9),
            "idle_heartbeat": round(_HEARTBEAT_SECONDS * 1e9),
        }
        self._asked += _PULL
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        await self._connection.send(subject, msgspec.json.encode(request), self._inbox)

    async def _on_message(self, message: Msg) -> None:
        self._waiting.append(message)
        self._changed.set()

    async def receive(self) -> list[Received]:
        """Return the messages that have come; wait for some, and return none when the server is idle.

        Raises Lost, and what has ended the connection.
        """
        if not self._waiting:
            self._changed.clear()
            self._connection.check()
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                raise Lost("the server was silent") from None
        self._connection.check()
        found: list[Received] = []
        while self._waiting:
            message = self._waiting.popleft()
            if message.headers is not None and (status := message.headers.get("Status")):
                self._on_status(status, message.headers)
                continue
            found.append(self._received(message))
        if self._asked <= _PULL // 2:
            await self._pull()
        return found

    def _on_status(self, status: str, headers: dict[str, str]) -> None:
        """Take what the server says of a pull: it has ended, or goes on."""
        if status == "100":  # a heartbeat
            return
        if status in ("408", "409") and "Nats-Pending-Messages" in headers:
            # It has expired, or reached its bytes: so many of its messages will not come.
            self._asked -= int(headers["Nats-Pending-Messages"])
            return
        raise Lost(f"{status} {headers.get('Description', '')}")

    def _received(self, message: Msg) -> Received:
        # $JS.ACK.<stream>.<consumer>.<times delivered>.<number>.<number here>.<time>.<pending>, or with
        # domain and account before the stream, and a token at the end.
        tokens = message.reply.split(".")
        first = 2 if len(tokens) == 9 else 4
        number, here, at, pending = (int(token) for token in tokens[first + 3 : first + 7])
        if here != self._next:
            raise Lost(f"message {self._next} of the consumer is missing")
        self._next += 1
        self._asked -= 1
        return Received(number, at, pending, message)
