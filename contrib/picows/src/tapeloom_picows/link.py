"""The link of one picows connection: the messages of one read are a batch.

picows calls `on_ws_frame` for every frame while it reads. The messages of one read are collected and
delivered after its last frame; reading pauses until they have been processed.
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
_PROTOCOL_ERROR, _TOO_BIG = picows.WSCloseCode.PROTOCOL_ERROR, picows.WSCloseCode.MESSAGE_TOO_BIG


class PicowsLink(picows.WSListener):
    """A `PushLink` that is also the picows listener of its connection."""

    def __init__(self, feed: str) -> None:
        self._feed = feed
        self._transport: picows.WSTransport | None = None
        self._messages: list[bytes] = []  # of the last read, not delivered yet
        self._control_seen = False  # control frames came: an empty batch must report them
        self._expects_start = True  # open, and no fragmented message is unfinished
        self._fragments = bytearray()
        self._lost: ConnectionLost | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_read: OnRead[list[bytes]] | None = None
        self._pending: Awaitable[None] | None = None  # returned by `_on_read`, not awaited yet
        self._unread = False  # the reader has not finished the last read: a reason to pause
        self._write_paused = False  # the send buffer is full: another reason to pause
        self._read_paused = False  # the transport is paused now, for either reason
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def is_open(self) -> bool:
        """Whether the handshake has completed."""
        return self._transport is not None

    # -------------------------------------------------------------------------- callbacks of picows

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Store the transport, after the handshake."""
        self._transport = transport

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Collect a message and deliver the batch after the last frame of a read (hot path)."""
        if (
            frame.msg_type is _TEXT
            and frame.fin
            and self._expects_start
            and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
        ):
            self._messages.append(frame.get_payload_as_bytes())
        else:
            self._handle_other(transport, frame)
        if frame.last_in_buffer:
            self._deliver()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Record why the connection ended."""
        sent = getattr(transport.close_handshake, "sent", None)
        if sent is not None:  # picows closed it; other reasons are recorded already
            self._set_lost(f"protocol error: {sent.reason}", int(sent.code.value))
        else:
            self._set_lost("the server ended the connection without a close frame", 1006)
        self._writable.set()
        self._deliver()

    def pause_writing(self) -> None:
        """Stop reading while the send buffer is full: pongs would make it grow without limit."""
        self._write_paused = True
        self._writable.clear()
        self._update_reading()

    def resume_writing(self) -> None:
        """Read again."""
        self._write_paused = False
        self._writable.set()
        self._update_reading()

    # --------------------------------------------------------------------- frames off the fast path

    def _handle_other(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if self._lost is not None:
            return  # frames after the end are ignored
        kind, payload = frame.msg_type, frame.get_payload_as_bytes()
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail(_PROTOCOL_ERROR, "reserved bits are set in a frame header")
        if kind is _PING:
            transport.send_pong(payload)
            self._control_seen = True
        elif kind is _PONG:
            self._control_seen = True
        elif kind is _CLOSE:
            code = int.from_bytes(payload[:2], "big") or None
            reason = payload[2:].decode(errors="replace")
            self._set_lost(f"the server closed it: {code or 'no code'} {reason}".rstrip(), code)
        elif (kind is _CONTINUATION) is self._expects_start:
            self._fail(_PROTOCOL_ERROR, f"unexpected frame of type {kind.name}")
        else:
            self._add_fragment(payload, final=bool(frame.fin))

    def _add_fragment(self, payload: bytes, *, final: bool) -> None:
        """Add a fragment; with *final*, complete the message."""
        if len(self._fragments) + len(payload) > MAX_MESSAGE_BYTES:
            self._fail(_TOO_BIG, f"a fragmented message is over the limit {MAX_MESSAGE_BYTES}")
        self._expects_start = final
        self._fragments += payload
        if final:
            self._messages.append(bytes(self._fragments))
            self._fragments = bytearray()

    def _fail(self, code: picows.WSCloseCode, text: str) -> NoReturn:
        """Make picows close after a protocol error; the messages before it are delivered."""
        self._set_lost(f"protocol error: {text}", int(code.value))
        self._deliver()
        raise picows.WSProtocolError(code, text)

    def _set_lost(self, message: str, code: int | None) -> None:
        """Record the error to raise after the last messages; the first call decides."""
        if self._lost is None:
            self._lost = ConnectionLost(self._feed, message, code)
        self._expects_start = False
        self._fragments = bytearray()

    # -------------------------------------------------------------------------------------- reading

    def _deliver(self) -> None:
        """Deliver the batch; pause reading if no reader waits for it."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._unread = True
            self._update_reading()
            return
        if self._on_read is not None and (self._messages or self._control_seen):
            try:
                pending = self._on_read(self._take_batch())
                if pending is None and self._control_seen:
                    pending = self._on_read(self._take_batch())
            except Exception as error:
                pending = _raise(error)
            if pending is not None:
                self._pending = pending
                self._unread = True
                self._update_reading()
            elif self._lost is None:
                return
        if not waiter.done():  # `_on_read` may have cancelled the reader
            waiter.set_result(None)

    def _take_batch(self) -> list[bytes]:
        """Return the batch. Control frames of the same read make an empty batch after it."""
        messages, self._messages = self._messages, []
        self._control_seen = bool(messages) and self._control_seen
        return messages

    def _update_reading(self) -> None:
        """Pause reading while a batch is unread or the send buffer is full; otherwise resume it."""
        assert self._transport is not None
        tcp = self._transport.underlying_transport
        pause = self._unread or self._write_paused
        if pause is not self._read_paused and not tcp.is_closing():
            self._read_paused = pause
            (tcp.pause_reading if pause else tcp.resume_reading)()

    async def receive(self) -> list[bytes]:
        """Return the messages of the next read; an empty list if it had only control frames."""
        if not self._messages and not self._control_seen and self._lost is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if not self._messages and not self._control_seen and self._lost is not None:
            raise self._lost
        messages = self._take_batch()
        self._resume()
        return messages

    async def push_to(self, on_read: OnRead[list[bytes]]) -> NoReturn:
        """Call *on_read* with the messages of each read, inside the read, until cancelled.

        An awaitable that it returns is awaited before the next read.
        """
        while True:
            while self._messages or self._control_seen:
                if (pending := on_read(self._take_batch())) is not None:
                    await pending
            if self._lost is not None:
                raise self._lost
            self._resume()
            self._on_read = on_read
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._on_read = self._waiter = None
                pending, self._pending = self._pending, None
                if pending is not None:
                    await pending

    def _resume(self) -> None:
        """Resume reading if it waits for the reader."""
        if self._unread:
            self._unread = False
            self._update_reading()

    # -------------------------------------------------------------------------- sending and closing

    async def send(self, text: str) -> None:
        """Send one text message."""
        self._checked_transport().send(_TEXT, text)
        await self._drain()

    async def ping(self) -> None:
        """Send a WebSocket ping."""
        self._checked_transport().send_ping()
        await self._drain()

    def _checked_transport(self) -> picows.WSTransport:
        if self._lost is not None:
            raise self._lost
        assert self._transport is not None
        return self._transport

    async def _drain(self) -> None:
        if self._write_paused:
            await self._writable.wait()
            self._checked_transport()

    async def close(self) -> None:
        """Send a close frame and close the connection, within a deadline if the peer does not read."""
        transport = self._transport
        assert transport is not None
        self._set_lost("the link was closed", None)
        with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS, shield=True) as scope:
            transport.send_close(picows.WSCloseCode.OK)
            transport.disconnect()
            await _wait_closed(transport)
        if scope.cancelled_caught:
            transport.disconnect(graceful=False)
            with anyio.CancelScope(shield=True):
                await _wait_closed(transport)


async def _raise(error: Exception) -> None:
    raise error


async def _wait_closed(transport: picows.WSTransport) -> None:
    with suppress(Exception):  # `_set_lost` has recorded the reason
        await transport.wait_disconnected()
