"""The server's end of one WebSocket connection: what waits to be sent, what comes, and the rules."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute
from wsproto.connection import Connection as Wire
from wsproto.connection import ConnectionType
from wsproto.events import CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.utilities import RemoteProtocolError

from .frames import frame
from .limits import Window

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from anyio.abc import ByteStream, TaskGroup
    from tapeloom.simulation import Session, Stream

    from .hub import Hub
    from .injector import Injector
    from .truth import Opened, Truth

__all__ = ["Connection"]

_LINGER_NOT = struct.pack("ii", 1, 0)
_GOODBYE = 2.0  # seconds a client has to answer a close frame
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class Connection:
    """One client. Everything that is sent goes through one buffer and one writer, in order."""

    session: Session
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
        self.backlog = 0  #: bytes that wait to be taken by the network
        self._stream, self._hub, self._injector, self._enforce = stream, hub, injector, enforce
        self._pending: list[bytes] = []
        self._wake = anyio.Event()
        self._streams: dict[Stream, None] = {}
        self._held: list[str] = []  # replies that wait for the first data frame
        self._closing: bytes | None = None
        self._client_closed = False
        self._how = ""
        self._scope = anyio.CancelScope()
        self._wire = Wire(ConnectionType.SERVER)
        self._text: list[str] = []
        self._since = self._heard = anyio.current_time()
        self._pinged = self._since
        self._unanswered: dict[bytes, float] = {}
        self._window: Window | None = None

    # ------------------------------------------------------------------------- for the venue's side

    @property
    def following(self) -> Collection[Stream]:
        """What the client has subscribed to, in order."""
        return self._streams.keys()

    def follow(self, stream: Stream, before: str = "", after: str = "") -> None:
        """Send the client this stream from now on, each text between *before* and *after*."""
        if self._injector is not None and stream not in self._streams:
            self._injector.misroute(self, stream)
        self._streams[stream] = None
        self._hub.follow(stream, self, before, after)

    def leave(self, stream: Stream) -> None:
        """Send it no longer."""
        if stream in self._streams:
            del self._streams[stream]
            self._hub.leave(stream, self)

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection once all that waits has been sent."""
        if self._closing is None:
            self._how = self._how or f"{code} {reason}".strip()
            payload = code.to_bytes(2, "big") + reason.encode()[:100]
            self._closing = bytes([0x88, len(payload)]) + payload
            self._wake.set()

    # ---------------------------------------------------------------------------- for the simulator

    def queue(self, frames: Sequence[bytes]) -> None:
        """Put frames into the buffer; `flush` sends them."""
        if self._closing is None:
            self._pending += frames
            self.backlog += sum(map(len, frames))
            if self._held and frames:
                held, self._held = self._held, []
                self.say(held)

    def say(self, texts: Sequence[str]) -> None:
        """Send texts at once."""
        if texts:
            self.queue([frame(text) for text in texts])
            self._wake.set()

    def flush(self) -> None:
        """Send what waits."""
        if self._pending:
            self._wake.set()

    def abort(self, how: str) -> None:
        """End the connection with a TCP reset."""
        self._how = how
        raw = self._stream.extra(SocketAttribute.raw_socket, None)
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._scope.cancel()

    def farewell(self) -> None:
        """Say that the venue goes away, and go."""
        self.say(self.session.farewell())
        self.close(1001, "server shutdown")

    async def run(self, first: bytes, truth: Truth, opened: Opened) -> None:
        """Talk until one side ends it. *first* is what came along with the handshake."""
        self.say(self.session.opened())
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    tasks.start_soon(self._write)
                    with contextlib.suppress(*_BROKEN):
                        await self._read(first)
                    self._how = self._how or "lost"
                    tasks.cancel_scope.cancel()
        finally:
            for stream in list(self._streams):
                self.leave(stream)
            if self._injector is not None:
                self._injector.forget(self)
            truth.ended(opened, self._how or "stopped")

    async def _write(self) -> None:
        with contextlib.suppress(*_BROKEN):
            while True:
                if self._pending:
                    block = b"".join(self._pending)
                    self._pending.clear()
                    await self._stream.send(block)
                    self.backlog -= len(block)
                elif self._closing is not None:
                    break
                else:
                    self._wake = anyio.Event()
                    await self._wake.wait()
            await self._stream.send(self._closing)
            if not self._client_closed:
                await anyio.sleep(_GOODBYE)
        self._scope.cancel()

    async def _read(self, first: bytes) -> None:
        block = first
        while True:
            if block:
                self._wire.receive_data(block)
                try:
                    for event in self._wire.events():
                        if await self._heed(event):
                            return
                except RemoteProtocolError as problem:
                    self.close(
                        int(problem.event_hint.code)
                        if isinstance(problem.event_hint, CloseConnection)
                        else 1002,
                        "protocol",
                    )
                    return
            block = await self._stream.receive()

    async def _heed(self, event: object) -> bool:
        """Act on one event; True when the client has closed."""
        if isinstance(event, CloseConnection):
            self._client_closed = True
            if self._closing is None:
                self._how = f"client {int(event.code)}"
                self._closing = self._wire.send(event.response())
                self._wake.set()
                await anyio.sleep(_GOODBYE)  # until the writer has sent it, and ends this
            return True
        if isinstance(event, Ping):
            if self._counts() and not (
                self._injector and self._injector.strikes("ping_no_pong", self.number)
            ):
                self.queue([self._wire.send(event.response())])
                self._wake.set()
        elif isinstance(event, Pong):
            if self._counts():
                self._unanswered.pop(bytes(event.payload), None)
        elif isinstance(event, TextMessage):
            self._text.append(event.data)
            if event.message_finished and self._counts():
                text, self._text = "".join(self._text), []
                self._answer(text)
        elif isinstance(event, Message):
            self.close(1003, "text only")
        return False

    def _counts(self) -> bool:
        """Count something that the client sent; False where that was too much."""
        self._heard = now = anyio.current_time()
        rules = self.session.rules
        strike = bool(self._injector and self._injector.strikes("rate_limit_ws", self.number))
        if rules.messages is not None and self._enforce:
            if self._window is None:
                self._window = Window(rules.messages, self.scale)
            strike = strike or not self._window.allow(now)
        if strike:
            self.close(rules.violation, "Too many requests")
        return self._closing is None

    def _answer(self, text: str) -> None:
        injector = self._injector
        if injector is None:
            self.say(self.session.receive(text))
            self._too_many()
            return
        if injector.strikes("sub_error", self.number, text):
            self.say(self.session.refuse(text))
            return
        replies = self.session.receive(text)
        self._too_many()
        if injector.strikes("ack_missing", self.number, text):
            return
        if injector.strikes("data_before_ack", self.number, text):
            self._held += replies
            return
        if fault := injector.strikes("ack_delay", self.number, text):
            seconds = fault.seconds if fault.seconds is not None else 2.0
            self._tasks.start_soon(self._say_late, replies, seconds / self.scale)
            return
        self.say(replies)

    async def _say_late(self, replies: Sequence[str], seconds: float) -> None:
        await anyio.sleep(seconds)
        self.say(replies)

    def _too_many(self) -> None:
        most = self.session.rules.max_streams
        if self._enforce and most is not None and len(self._streams) > most:
            self.close(self.session.rules.violation, f"More than {most} streams")

    def attend(self, now: float) -> float:
        """Ping, and end what is over. Return when to look again."""
        rules, scale = self.session.rules, self.scale
        again = now + 1.0
        if self._closing is not None:
            return again
        age, injected = rules.max_age, self._injector.age(self.number) if self._injector else None
        if injected is not None and (age is None or injected < age):
            age = injected
        if age is not None:
            if now >= self._since + age / scale:
                if self._injector is not None and age == injected:
                    self._injector.strikes("max_age", self.number)
                self.close(1001, "too old")
                return again
            again = min(again, self._since + age / scale)
        if rules.silence is not None:
            if now >= self._heard + rules.silence / scale:
                self.close(rules.violation, "silent")
            again = min(again, self._heard + rules.silence / scale)
        if rules.ping_every is not None:
            again = min(
                again, self._attend_pings(now, rules.ping_every / scale, rules.pong_within / scale)
            )
        return again

    def _attend_pings(self, now: float, every: float, within: float) -> float:
        if self._unanswered and now >= next(iter(self._unanswered.values())) + within:
            self.close(self.session.rules.violation, "Pong timeout")
            return now + 1.0
        if now >= self._pinged + every:
            self._pinged = now
            if not (self._injector and self._injector.strikes("no_ping", self.number)):
                payload = str(int(now * 1000)).encode()
                self._unanswered[payload] = now
                self.queue([bytes([0x89, len(payload)]) + payload])
                self._wake.set()
        waits = [self._pinged + every, *(at + within for at in self._unanswered.values())]
        return min(waits)
