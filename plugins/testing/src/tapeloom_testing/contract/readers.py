"""The two ways in which the session reads a link, and what a transport's contract needs on the wire."""

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

PATIENCE = 20.0


class _Enough(Exception):
    """What was waited for has come."""


class Reader:
    """Reads a link by `receive`, or by `deliver`."""

    def __init__(self, link: Link, way: str) -> None:
        self._link = link
        self._way = way
        self.batches: list[list[bytes]] = []  #: all that came, read by read

    @property
    def messages(self) -> list[bytes]:
        """All that came."""
        return [one for batch in self.batches for one in batch]

    async def until(
        self, enough: Callable[[], bool], slowly: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Read until there is *enough*; wait *slowly* after each read, where that is given.

        Raises Broken where it does not come.
        """

        def take(batch: list[bytes]) -> Awaitable[None] | None:
            self.batches.append(batch)
            if enough():
                raise _Enough
            return slowly() if slowly is not None else None

        try:
            with anyio.fail_after(PATIENCE):
                if self._way == "deliver":
                    assert isinstance(self._link, PushLink)
                    await self._link.push_to(take)
                while True:
                    waiting = take(await self._link.receive())
                    if waiting is not None:
                        await waiting
        except _Enough:
            pass
        except TimeoutError:
            raise ContractViolation(
                f"by `{self._way}` came {len(self.messages)} messages in {len(self.batches)} reads,"
                f" and then nothing for {PATIENCE:g} s: more was to be told."
            ) from None

    async def count(self, number: int) -> None:
        """Read until so many messages have come."""
        await self.until(lambda: len(self.messages) >= number)

    async def end(self) -> ConnectionLost:
        """Read to the end, and return it. Raises Broken where none is told."""
        try:
            await self.until(lambda: False)
        except ConnectionLost as error:
            return error
        raise AssertionError("unreachable")


def framed(payload: bytes, first: int = 0x81) -> bytes:
    """Return a frame as a server sends it; *first* is its first byte: 0x81 is a whole text."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


@asynccontextmanager
async def tunnel(served: list[bytes]) -> AsyncIterator[str]:
    """Run an HTTP proxy that tunnels; what it was asked for goes into *served*."""

    async def relay(client: anyio.abc.ByteStream) -> None:
        async with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await client.receive()
            asked = re.match(rb"CONNECT ([^:]+):(\d+) ", head)
            served.append(head.partition(b"\r\n")[0])
            if asked is None:
                return
            async with await anyio.connect_tcp(asked[1].decode(), int(asked[2])) as server:
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
