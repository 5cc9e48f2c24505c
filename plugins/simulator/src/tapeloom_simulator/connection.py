"""The server's end of one connection: its send buffer, its received messages and its limits.

The modules `websocket` and `tcp` implement the two transports.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute

from .limits import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from anyio.abc import ByteStream, TaskGroup

    from .hub import Hub
    from .injector import Injector
    from .server_api import VenueSession, VenueStream
    from .truth import ConnectionRecord, Truth

__all__ = ["BROKEN", "CLOSE_WAIT_SECONDS", "Connection"]

_LINGER_RESET = struct.pack("ii", 1, 0)
CLOSE_WAIT_SECONDS = 2.0  # how long a client may take to close a connection that we have closed
BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class Connection:
    """One client. Everything that is sent goes through one buffer and one writer, in order."""

    session: VenueSession
    _tasks: TaskGroup

    def __init__(
        self,
        number: int,
        stream: ByteStream,
        hub: Hub,
        injector: Injector | None,
        scale: float,
        *,
        enforce: bool,
    ) -> None:
        self.number, self.scale = number, scale
        self.backlog = 0  #: bytes queued and not yet sent
        self.stream, self._hub, self._injector, self._enforce = stream, hub, injector, enforce
        self._pending: list[bytes] = []
        self._wake = anyio.Event()
        self._streams: dict[VenueStream, None] = {}
        self._held: list[str] = []  # replies that wait for the first data frame
        self._timers: list[tuple[float, Callable[[], Sequence[str]]]] | None = []
        self._closing: bytes | None = None  # the last bytes to send
        self._how = ""
        self._scope = anyio.CancelScope()
        self._since = self._last_received = anyio.current_time()
        self._counted_until: float | None = None  # until when it counts as open, once it has ended
        self._window: Window | None = None

    # ------------------------------------------------------------------------- for the venue's side

    @property
    def counts_as_open(self) -> bool:
        """Whether the venue counts this connection."""
        return self._counted_until is None or anyio.current_time() < self._counted_until

    @property
    def subscriptions(self) -> Collection[VenueStream]:
        """The streams that the client has subscribed to, in order."""
        return self._streams.keys()

    def subscribe(self, stream: VenueStream, before: str = "", after: str = "") -> None:
        """Send the client this stream from now on, each message as *before* + message + *after*."""
        if self._injector is not None and stream not in self._streams:
            self._injector.misroute(self, stream)
        self._streams[stream] = None
        self._hub.subscribe(stream, self, before, after)

    def unsubscribe(self, stream: VenueStream) -> None:
        """Stop sending this stream to the client."""
        if stream in self._streams:
            del self._streams[stream]
            self._hub.unsubscribe(stream, self)

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection once all queued frames are sent."""
        if self._closing is None:
            self._how = self._how or f"{code} {reason}".strip()
            self._closing = self._closing_bytes(code, reason)
            self._wake.set()

    def call_later(self, seconds: float, act: Callable[[], Sequence[str]]) -> None:
        """Call *act* after *seconds* of the venue's time and send the texts it returns."""
        if self._timers is not None:
            self._timers.append((seconds, act))  # `run` starts them
        elif self._counted_until is None:
            self._tasks.start_soon(self._call_after, seconds / self.scale, act)

    async def _call_after(self, seconds: float, act: Callable[[], Sequence[str]]) -> None:
        await anyio.sleep(seconds)
        if self._closing is None:
            self._reply(act())

    # ------------------------------------------------------------------------- transport

    def _closing_bytes(self, code: int, reason: str) -> bytes:
        """Return the last bytes of the connection; empty if the transport has no close frame."""
        raise NotImplementedError

    async def _send_closing(self, closing: bytes) -> None:
        """Send the last bytes, and give the client time to close the connection too."""
        raise NotImplementedError

    async def _read(self, first: bytes) -> None:
        """Process received bytes until the client disconnects; *first* was received already."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------- for the simulator

    def queue(self, frames: Sequence[bytes]) -> None:
        """Put frames into the buffer; `flush` sends them."""
        if self._closing is None:
            self._pending += frames
            self.backlog += sum(map(len, frames))
            if self._held and frames:
                held, self._held = self._held, []
                self.send_texts(held)

    def send_texts(self, texts: Sequence[str]) -> None:
        """Send texts at once."""
        if texts:
            self.queue([*map(self._hub.frame, texts)])
            self._wake.set()

    def _reply(self, texts: Sequence[str]) -> None:
        """Send the venue's replies, even if the venue has just closed the connection."""
        closing, self._closing = self._closing, None
        self.send_texts(texts)
        self._closing = closing

    def flush(self) -> None:
        """Send the queued frames."""
        if self._pending:
            self._wake.set()

    def abort(self, how: str) -> None:
        """End the connection with a TCP reset."""
        self._how = how
        raw = self.stream.extra(SocketAttribute.raw_socket, None)
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self._scope.cancel()

    def announce_shutdown(self) -> None:
        """Send the venue's closing messages and close with code 1001."""
        self.send_texts(self.session.closing_messages())
        self.close(1001, "server shutdown")

    async def run(self, first: bytes, truth: Truth, opened: ConnectionRecord) -> None:
        """Run until either side closes. *first* holds bytes that were read together with the handshake."""
        self.send_texts(self.session.opening_messages())
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    timers, self._timers = self._timers or [], None
                    for seconds, act in timers:
                        self.call_later(seconds, act)
                    tasks.start_soon(self._write)
                    with contextlib.suppress(*BROKEN):
                        await self._read(first)
                    self._how = self._how or "lost"
                    tasks.cancel_scope.cancel()
        finally:
            self._end()
            truth.record_ended(opened, self._how or "stopped")

    def _end(self) -> None:
        for stream in list(self._streams):
            self.unsubscribe(stream)
        self._counted_until = anyio.current_time()
        if self._injector is not None:
            self._injector.forget(self)
            self._counted_until += self._injector.lingering_seconds(self.number) / self.scale

    async def _write(self) -> None:
        with contextlib.suppress(*BROKEN):
            while True:
                if self._pending:
                    block = b"".join(self._pending)
                    self._pending.clear()
                    await self.stream.send(block)
                    self.backlog -= len(block)
                elif self._closing is not None:
                    break
                else:
                    self._wake = anyio.Event()
                    await self._wake.wait()
            await self._send_closing(self._closing)
        self._scope.cancel()

    def _allowed(self, *, is_text: bool = True) -> bool:
        """Count a message of the client, and close the connection if they are too many.

        Returns whether it is still open.
        """
        now, rules = anyio.current_time(), self.session.rules
        if is_text or rules.ping_frames_count:
            self._last_received = now
        violated = bool(self._injector and self._injector.fault_due("rate_limit_ws", self.number))
        if rules.message_rate is not None and self._enforce:
            if self._window is None:
                self._window = Window(rules.message_rate, self.scale)
            violated = violated or not self._window.allow(now)
        if violated:
            self.close(rules.violation_close_code, "Too many requests")
        return self._closing is None

    def _process_text(self, text: str) -> None:
        injector = self._injector
        if injector is None:
            self._reply(self.session.receive(text))
            self._check_stream_limit()
            return
        if injector.fault_due("sub_error", self.number, text):
            self._reply(self.session.refuse(text))
            return
        replies = self.session.receive(text)
        self._reply_with_faults(text, replies, injector)
        self._check_stream_limit()

    def _reply_with_faults(self, text: str, replies: Sequence[str], injector: Injector) -> None:
        # Some venues use a ping message of their own; all of these contain "ping".
        if '"ping"' in text:
            if not injector.fault_due("ping_no_pong", self.number):
                self._reply(replies)
            return
        if injector.fault_due("ack_missing", self.number, text):
            return
        if injector.fault_due("data_before_ack", self.number, text):
            self._held += replies
            return
        if fault := injector.fault_due("ack_delay", self.number, text):
            seconds = fault.seconds if fault.seconds is not None else 2.0
            self.call_later(seconds, lambda: replies)
            return
        self._reply(replies)

    def _check_stream_limit(self) -> None:
        limit = self.session.rules.max_streams
        if self._enforce and limit is not None and len(self._streams) > limit:
            self.close(self.session.rules.violation_close_code, f"More than {limit} streams")

    def enforce_timeouts(self, now: float) -> float:
        """Close the connection if it is too old or silent; return when to check again."""
        rules, scale = self.session.rules, self.scale
        check_at = now + 1.0
        if self._closing is not None:
            return check_at
        age, injected = (
            rules.max_age_seconds,
            self._injector.max_age_seconds(self.number) if self._injector else None,
        )
        if injected is not None and (age is None or injected < age):
            age = injected
        if age is not None:
            if now >= self._since + age / scale:
                if self._injector is not None and age == injected:
                    self._injector.fault_due("max_age", self.number)
                self.close(1001, "too old")
                return check_at
            check_at = min(check_at, self._since + age / scale)
        if rules.silence_timeout_seconds is not None:
            if now >= self._last_received + rules.silence_timeout_seconds / scale:
                self.close(rules.violation_close_code, "silent")
            check_at = min(check_at, self._last_received + rules.silence_timeout_seconds / scale)
        return check_at
