"""Helpers of the transport contract: a reader for `receive` and `push_to`, frames, and a proxy."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
from tapeloom.errors import ConnectionLost
from tapeloom.plugin import Link, PushLink

from .declared import ContractViolation

__all__ = ["PATIENCE", "Reader", "framed", "tunnel"]

#: Seconds to wait for expected data: far more than a loopback connection needs.
PATIENCE = 20.0


class _Enough(Exception):
    """Raised to stop reading once the awaited data has arrived."""


class Reader:
    """Reads a link with `receive`, or with `push_to` when *method* is "deliver"."""

    def __init__(self, link: Link, method: str) -> None:
        self._link = link
        self._method = method
        self.batches: list[list[bytes]] = []  #: the messages of each read

    @property
    def messages(self) -> list[bytes]:
        """All messages read so far."""
        return [message for batch in self.batches for message in batch]

    async def until(
        self, enough: Callable[[], bool], slowly: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Read until *enough* returns true; await *slowly* after each read if it is given.

        Raise ContractViolation if that takes longer than `PATIENCE` seconds.
        """

        def on_read(batch: list[bytes]) -> Awaitable[None] | None:
            self.batches.append(batch)
            if enough():
                raise _Enough
            return slowly() if slowly is not None else None

        try:
            with anyio.fail_after(PATIENCE):
                if self._method == "deliver":
                    assert isinstance(self._link, PushLink)
                    await self._link.push_to(on_read)
                while True:
                    waiting = on_read(await self._link.receive())
                    if waiting is not None:
                        await waiting
        except _Enough:
            pass
        except TimeoutError:
            raise ContractViolation(
                f"`{self._method}` returned {len(self.messages)} messages in {len(self.batches)} reads"
                f" within {PATIENCE:g} s; more messages or the end of the connection were expected."
            ) from None

    async def count(self, number: int) -> None:
        """Read until *number* messages have arrived on this link in total."""
        await self.until(lambda: len(self.messages) >= number)

    async def end(self) -> ConnectionLost:
        """Read to the end of the connection and return its ConnectionLost error.

        Raise ContractViolation if none is raised.
        """
        try:
            await self.until(lambda: False)
        except ConnectionLost as error:
            return error
        raise AssertionError("unreachable")


def framed(payload: bytes, first: int = 0x81) -> bytes:
    """Return an unmasked frame; *first* is its first byte: 0x81 is a text message in one frame."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


@asynccontextmanager
async def tunnel(served: list[bytes]) -> AsyncIterator[str]:
    """Run an HTTP CONNECT proxy and yield its URL; append each request line to *served*."""

    async def relay(client: anyio.abc.ByteStream) -> None:
        async with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await client.receive()
            target = re.match(rb"CONNECT ([^:]+):(\d+) ", head)
            served.append(head.partition(b"\r\n")[0])
            if target is None:
                return
            async with await anyio.connect_tcp(target[1].decode(), int(target[2])) as server:
                await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_copy, client, server, tasks)
                    tasks.start_soon(_copy, server, client, tasks)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, relay)
        yield f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


async def _copy(
    source: anyio.abc.ByteStream, target: anyio.abc.ByteStream, tasks: anyio.abc.TaskGroup
) -> None:
    try:
        while True:
            await target.send(await source.receive())
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        tasks.cancel_scope.cancel()
