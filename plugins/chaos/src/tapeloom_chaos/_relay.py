"""Faults on the wire: a proxy on this machine that passes bytes on, and spoils them.

It is an HTTP proxy, so that names and certificates stay what they are; or it forwards to one
address, for what knows no proxy. The client's end is a plain socket: only so can it be reset.
"""

from __future__ import annotations

import contextlib
import http
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from ._faults import ON_WIRE, Done, Dose, Ledger, read

__all__ = ["Relay", "relay"]

_READ = 65536
_HEAD = 65536
_DIAL_WITHIN = 10.0
_RESET = struct.pack("ii", 1, 0)
_BROKEN = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
_TARGET = re.compile(
    rb"(?:CONNECT (?P<tunnel>\S+)|(?P<verb>\S+) http://(?P<host>[^/\s]+)(?P<path>\S*)) HTTP/1\.[01]\r\n"
)


class _Ended(Exception):
    """The client's connection has been ended, on purpose."""


class Relay:
    """A relay that runs: where it listens, and what it has done."""

    def __init__(self, listener: socket.socket, ledger: Ledger, to: tuple[str, int] | None) -> None:
        self.host, self.port = listener.getsockname()[:2]
        self.counters: Counter[str] = Counter()
        self._listener = listener
        self._ledger = ledger
        self._to = to

    @property
    def url(self) -> str:
        """The address for ``[network] proxy``."""
        return f"http://{self.host}:{self.port}"

    @property
    def done(self) -> list[Done]:
        """All that was injected so far, in order."""
        return self._ledger.done

    async def run(self) -> None:
        """Take connections until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.wait_readable(self._listener)
                with contextlib.suppress(OSError):
                    client, _ = self._listener.accept()
                    self.counters["connections"] += 1
                    tasks.start_soon(self._serve, client, self.counters["connections"])

    async def _serve(self, client: socket.socket, number: int) -> None:
        with contextlib.closing(client):
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one = _Relayed(self._ledger, client, number)
            try:
                await one.live(self._to)
            except (_Ended, *_BROKEN):
                pass
            except BaseExceptionGroup as group:
                _, rest = group.split((_Ended, *_BROKEN))
                if rest is not None:
                    raise
            finally:
                self.counters["bytes"] += one.brought
                anyio.notify_closing(client)


class _Relayed:
    """One client's connection."""

    def __init__(self, ledger: Ledger, client: socket.socket, number: int) -> None:
        self.brought = 0
        self._ledger = ledger
        self._client = client
        self._number = number
        self._pieces = 0
        self._rate = 0  # bytes a second; 0: as fast as it goes
        self._open = True

    async def live(self, to: tuple[str, int] | None) -> None:
        """Pass bytes on until one side ends it."""
        ask = self._struck()
        if "refuse" in ask:
            self._end()
        if "slow" in ask:
            self._rate = ask["slow"].rate
        first, tunnel = b"", False
        if to is None:
            to, first, tunnel = await self._asked(ask.get("answer"))
        try:
            with anyio.fail_after(_DIAL_WITHIN):
                server = await anyio.connect_tcp(*to)
        except (OSError, TimeoutError):
            await self._say(502)
        async with server:
            if tunnel:
                await self._write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._up, server, first)
                await self._down(server)
                tasks.cancel_scope.cancel()

    def _struck(self) -> dict[str, Dose]:
        """Return what happens to the connection as a whole."""
        struck = {
            dose.kind: dose for dose in self._ledger.some(ON_WIRE) if dose.strikes(self._ledger.age)
        }
        for kind in struck:
            self._ledger.enter(kind, self._number)
        return struck

    async def _asked(self, answer: Dose | None) -> tuple[tuple[str, int], bytes, bool]:
        """Read a request; return where it goes, what to send there, and whether it is a tunnel."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = await self._read()
            head += data
            if not data or len(head) > _HEAD:
                await self._say(400)
        if answer is not None:
            await self._say(answer.status)
        asked = _TARGET.match(head)
        if asked is None:
            await self._say(400)
        assert asked is not None
        if asked["tunnel"]:
            return _address(asked["tunnel"], 443), head.partition(b"\r\n\r\n")[2], True
        line = b"%b %b HTTP/1.1\r\n" % (asked["verb"], asked["path"] or b"/")
        rest = head[asked.end() :]
        # A connection serves one request: the next one would have to be read, too.
        fields = re.sub(rb"(?im)^connection: *keep-alive\r\n", b"Connection: close\r\n", rest)
        return _address(asked["host"], 80), line + fields, False

    # -------------------------------------------------------------------------------- passing on

    async def _up(self, server: ByteStream, first: bytes) -> None:
        """Pass on what the client sends. Its end alone ends nothing: answers may still come."""
        data = first
        with contextlib.suppress(*_BROKEN):
            while True:
                if data and self._open:
                    await self._slowly(data, server.send)
                data = await self._read()
                if not data:
                    break
        with contextlib.suppress(*_BROKEN, AttributeError):
            await server.send_eof()

    async def _down(self, server: ByteStream) -> None:
        """Pass on what the server sends, spoiled."""
        doses = self._ledger.some(but=ON_WIRE)
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                data = await server.receive(_READ)
                self._pieces += 1
                self.brought += len(data)
                for dose in doses:
                    if dose.strikes(self._ledger.age):
                        data = await self._spoil(dose, data)
                await self._slowly(data, self._write)

    async def _spoil(self, dose: Dose, data: bytes) -> bytes:
        """Let a fault happen to *data*, which the server has sent; return what to pass on of it."""
        kind = dose.kind
        self._ledger.enter(kind, self._number, self._pieces)
        if kind == "reset":
            self._end()
        elif kind == "close":
            # What a server sends ends with a whole frame: without its last byte it does not.
            await self._write(data[:-1])
            raise _Ended
        elif kind == "half_open":
            self._open = False
            await anyio.sleep_forever()
        elif kind in ("stall", "delay"):
            await anyio.sleep(dose.seconds)
        elif kind == "corrupt":
            place = dose.below(len(data))
            return data[:place] + bytes([data[place] ^ 1 << dose.below(8)]) + data[place + 1 :]
        elif kind == "split":
            while len(data) > 1:
                size = 1 + dose.below(min(len(data) - 1, 16))
                await self._write(data[:size])
                await anyio.lowlevel.checkpoint()
                data = data[size:]
        return data

    async def _slowly(self, data: bytes, send: Callable[[bytes], Awaitable[Any]]) -> None:
        """Send *data*, as fast as this connection is."""
        if not self._rate:
            await send(data)
            return
        step = max(1, self._rate // 10)
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            await anyio.sleep(len(piece) / self._rate)
            await send(piece)

    # ------------------------------------------------------------------------- the client's socket

    async def _read(self) -> bytes:
        while True:
            with contextlib.suppress(BlockingIOError):
                return self._client.recv(_READ)
            await anyio.wait_readable(self._client)

    async def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._client.send(data) :]
            except BlockingIOError:
                await anyio.wait_writable(self._client)

    async def _say(self, status: int) -> None:
        """Answer the request itself, and end the connection."""
        reason = http.HTTPStatus(status).phrase
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        await self._write(head.encode())
        raise _Ended

    def _end(self) -> None:
        """End the connection with a reset."""
        with contextlib.suppress(OSError):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        raise _Ended


def _address(text: bytes, port: int) -> tuple[str, int]:
    """Return host and port of ``host:port``; *port* where it names none."""
    match = re.fullmatch(r"\[?([^\]]*?)\]?(?::(\d+))?", text.decode("ascii", "replace"))
    assert match is not None  # every text matches
    return match[1], int(match[2] or port)


@asynccontextmanager
async def relay(
    *, to: str = "", host: str = "127.0.0.1", port: int = 0, **faults: Any
) -> AsyncIterator[Relay]:
    """Run a relay, as an HTTP proxy, or with *to* (``"host:port"``) as a way to that address alone.

    The faults are given as in a stack: ``relay(seed=7, delay=0.01, reset={"at": 30})``. One whose
    port is 0 listens on any free one; `Relay.url` tells.

    Raises ValueError where a fault is none, OSError where the port is taken.
    """
    settings = read(faults)
    target = _address(to.encode(), 0) if to else None
    if target is not None and not target[1]:
        raise ValueError(f"to is an address such as '127.0.0.1:4001', and was {to!r}.")
    with socket.create_server((host, port)) as listener:
        listener.setblocking(False)
        running = Relay(listener, Ledger(settings, "relay", anyio.current_time), target)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(running.run)
            try:
                yield running
            finally:
                tasks.cancel_scope.cancel()
                anyio.notify_closing(listener)
