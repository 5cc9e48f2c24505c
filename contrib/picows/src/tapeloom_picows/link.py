"""One connection of picows as a link: what a read brings is a batch.

picows calls us for every frame, from within the read. The frames of one read are collected, and
handed over at its end; nothing more is read before they are taken.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - picows is a library of this event loop
from collections.abc import Awaitable
from contextlib import suppress
from typing import NoReturn

import anyio
import picows
from tapeloom.errors import ConnectionLost
from tapeloom.plugin import OnRead
from tapeloom.plugin.transports import CLOSE_TIMEOUT_SECONDS, MAX_MESSAGE_BYTES

__all__ = ["PicowsLink"]

_CONTINUATION = picows.WSMsgType.CONTINUATION
_TEXT = picows.WSMsgType.TEXT
_BINARY = picows.WSMsgType.BINARY
_CLOSE = picows.WSMsgType.CLOSE
_PING = picows.WSMsgType.PING
_PONG = picows.WSMsgType.PONG
_PROTOCOL, _TOO_BIG = picows.WSCloseCode.PROTOCOL_ERROR, picows.WSCloseCode.MESSAGE_TOO_BIG


class PicowsLink(picows.WSListener):
    """A `feeds.Link`, and the listener through which picows tells it of one connection."""

    def __init__(self, feed: str) -> None:
        self._feed = feed
        self._transport: picows.WSTransport | None = None
        self._came: list[bytes] = []  # the messages of the last read
        self._told = False  # a control frame came
        self._plain = True  # a text frame is a message: none is in pieces, and there was no end
        self._pieces = bytearray()
        self._lost: ConnectionLost | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: OnRead[list[bytes]] | None = None
        self._rest: Awaitable[None] | None = None  # what `_take` left to be awaited
        self._behind = False  # what came has not been taken
        self._choked = False  # the peer does not read what we send
        self._paused = False
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def opened(self) -> bool:
        """The handshake has been answered."""
        return self._transport is not None

    # -------------------------------------------------------------------------- what picows tells us

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Take note that the handshake is behind us."""
        self._transport = transport

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take a frame: the hot path."""
        if (
            frame.msg_type is _TEXT
            and frame.fin
            and self._plain
            and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
        ):
            self._came.append(frame.get_payload_as_bytes())
        else:
            self._slow(transport, frame)
        if frame.last_in_buffer:
            self._wake()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Take note of the end, and why it came about."""
        sent = getattr(transport.close_handshake, "sent", None)
        if sent is not None:  # by picows itself: of all else we have taken note
            self._end(f"protocol error: {sent.reason}", int(sent.code.value))
        else:
            self._end("the server ended the connection without a close frame", 1006)
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        """Read no more while the peer does not: it might ask for pongs without end."""
        self._choked = True
        self._writable.clear()
        self._flow()

    def resume_writing(self) -> None:
        """Read on."""
        self._choked = False
        self._writable.set()
        self._flow()

    # ------------------------------------------------------------------------------ what is not plain

    def _slow(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if self._lost is not None:
            return  # nothing counts after the end
        kind, payload = frame.msg_type, frame.get_payload_as_bytes()
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._complain(_PROTOCOL, "reserved bits are set in a frame header")
        if kind is _PING:
            transport.send_pong(payload)
            self._told = True
        elif kind is _PONG:
            self._told = True
        elif kind is _CLOSE:
            code = int.from_bytes(payload[:2], "big") or None
            reason = payload[2:].decode(errors="replace")
            self._end(f"the server closed it: {code or 'no code'} {reason}".rstrip(), code)
        elif (kind is _CONTINUATION) is self._plain:
            self._complain(_PROTOCOL, f"unexpected frame of type {kind.name}")
        else:
            self._piece(payload, final=bool(frame.fin))

    def _piece(self, payload: bytes, *, final: bool) -> None:
        """Take a part of a message, which may be all of it."""
        if len(self._pieces) + len(payload) > MAX_MESSAGE_BYTES:
            self._complain(_TOO_BIG, f"a fragmented message is over the limit {MAX_MESSAGE_BYTES}")
        self._plain = final
        self._pieces += payload
        if final:
            self._came.append(bytes(self._pieces))
            self._pieces = bytearray()

    def _complain(self, code: picows.WSCloseCode, text: str) -> NoReturn:
        """Have picows close on a peer that broke the protocol; what came before it is delivered."""
        self._end(f"protocol error: {text}", int(code.value))
        self._wake()
        raise picows.WSProtocolError(code, text)

    def _end(self, message: str, code: int | None) -> None:
        """Tell of the end after what came; its first reason counts."""
        if self._lost is None:
            self._lost = ConnectionLost(self._feed, message, code)
        self._plain = False
        self._pieces = bytearray()

    # --------------------------------------------------------------------------------- reading it

    def _wake(self) -> None:
        """Have taken what has come; read no more where nobody is there to take it."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._behind = True
            self._flow()
            return
        if self._take is not None and (self._came or self._told):
            try:
                rest = self._take(self._taken())
                if rest is None and self._told:
                    rest = self._take(self._taken())
            except Exception as error:
                rest = _raised(error)
            if rest is not None:
                self._rest = rest
                self._behind = True
                self._flow()
            elif self._lost is None:
                return
        if not waiter.done():  # whoever took it may have had enough
            waiter.set_result(None)

    def _taken(self) -> list[bytes]:
        """Return what has come. Control frames that came with messages come after them."""
        came, self._came = self._came, []
        self._told = bool(came) and self._told
        return came

    def _flow(self) -> None:
        """Let picows read, or not."""
        assert self._transport is not None
        below = self._transport.underlying_transport
        pause = self._behind or self._choked
        if pause is not self._paused and not below.is_closing():
            self._paused = pause
            (below.pause_reading if pause else below.resume_reading)()

    async def receive(self) -> list[bytes]:
        """Return the messages of the next read; none where control frames came."""
        if not self._came and not self._told and self._lost is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if not self._came and not self._told and self._lost is not None:
            raise self._lost
        came = self._taken()
        self._go_on()
        return came

    async def push_to(self, take: OnRead[list[bytes]]) -> NoReturn:
        """Call *take* with what each read brings, from within it, until cancelled.

        Where it returns an awaitable, nothing is read until that has been awaited.
        """
        while True:
            while self._came or self._told:
                if (waiting := take(self._taken())) is not None:
                    await waiting
            if self._lost is not None:
                raise self._lost
            self._go_on()
            self._take = take
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._take = self._waiter = None
                rest, self._rest = self._rest, None
                if rest is not None:
                    await rest

    def _go_on(self) -> None:
        """Let picows read again, where it waited for us."""
        if self._behind:
            self._behind = False
            self._flow()

    # --------------------------------------------------------------------------- writing, and leaving

    async def send(self, text: str) -> None:
        """Send one text message."""
        self._open().send(_TEXT, text)
        await self._drained()

    async def ping(self) -> None:
        """Send a WebSocket ping."""
        self._open().send_ping()
        await self._drained()

    def _open(self) -> picows.WSTransport:
        if self._lost is not None:
            raise self._lost
        assert self._transport is not None
        return self._transport

    async def _drained(self) -> None:
        if self._choked:
            await self._writable.wait()
            self._open()

    async def leave(self) -> None:
        """Say farewell and close. A peer that reads no more does not hold us up."""
        transport = self._transport
        assert transport is not None
        self._end("we left", None)
        with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS, shield=True) as scope:
            transport.send_close(picows.WSCloseCode.OK)
            transport.disconnect()
            await _ended(transport)
        if scope.cancelled_caught:
            transport.disconnect(graceful=False)
            with anyio.CancelScope(shield=True):
                await _ended(transport)


async def _raised(error: Exception) -> None:
    raise error


async def _ended(transport: picows.WSTransport) -> None:
    with suppress(Exception):  # why it ended has been told
        await transport.wait_disconnected()
