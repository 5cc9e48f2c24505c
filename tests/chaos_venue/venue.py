"""The server of a venue: one port for WebSockets and REST, and the places where faults take hold."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random

from . import framing
from .market import Market, TrueTrade
from .wires import Wire

#: Seconds between two rounds in which the market makes trades.
_ROUND_SECONDS = 0.05
#: What a socket raises when the other side is gone.
_GONE = (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, OSError)
#: Characters of a damaged frame by which a report of it is recognised.
EVIDENCE = 100


@dataclass
class Tampering:
    """The share of frames that are dropped, sent twice, sent late or damaged."""

    drop: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0


@dataclass
class Marks:
    """What the venue did to trades that a client cannot see without numbers. Trades by `key`."""

    #: Dropped, or overtaken by a later trade: if it is lost too, nothing but a number shows it.
    hidden: set[tuple[str, int]] = field(default_factory=set)
    repeated: Counter[tuple[str, int]] = field(default_factory=Counter)  #: copies sent
    #: Damaged frames: how each begins, and its trades.
    corrupt: list[tuple[str, list[tuple[str, int]]]] = field(default_factory=list)


def key(trade: TrueTrade) -> tuple[str, int]:
    """Return the venue's name of the symbol, and the number of the trade."""
    return trade.symbol, trade.number


class Link:
    """One WebSocket connection of a client."""

    def __init__(self, venue: Venue, writer: asyncio.StreamWriter) -> None:
        self.venue = venue
        self.writer = writer
        self.subscribed: set[str] = set()
        self.is_dead = False  #: half-open: nothing is sent and nothing is answered
        #: Symbols of which nothing is sent, and whether a new subscription ends that.
        self.stalled: dict[str, bool] = {}
        self.held: list[tuple[int, str, str]] = []  #: frames that are late: rounds, symbol, text
        self.peer_closed = asyncio.Event()

    def send(self, text: str | bytes) -> None:
        """Send a text frame; bytes need not be UTF-8."""
        if not self.is_dead:
            self.write(framing.frame(text.encode() if isinstance(text, str) else text))

    def write(self, data: bytes) -> None:
        """Write bytes to the socket."""
        if not self.writer.is_closing():
            self.writer.write(data)

    def reset(self) -> None:
        """End with a TCP reset."""
        framing.reset(self.writer)

    def finish(self) -> None:
        """End with FIN and without a close frame."""
        self.writer.close()

    async def close(self, frame: bytes) -> None:
        """Send a close frame, await the client's for up to a second, end the connection."""
        self.write(frame)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.peer_closed.wait(), 1.0)
        self.writer.close()

    def publish(self, native: str, frames: Sequence[tuple[str, Sequence[TrueTrade]]]) -> None:
        """Send frames of a symbol, as the venue's `tampering` demands."""
        venue = self.venue
        tampering, marks, random = venue.tampering, venue.marks, venue.random
        for text, trades in frames:
            keys = [key(trade) for trade in trades]
            if self.is_dead or native in self.stalled:
                continue
            if random.random() < tampering.drop:
                marks.hidden.update(keys)
            elif random.random() < tampering.corrupt:
                damaged = venue.damage(text)
                marks.corrupt.append((text[:EVIDENCE], keys))
                self.send(damaged)
            elif random.random() < tampering.reorder:
                marks.hidden.update(keys)
                self.held.append((random.randint(1, 5), native, text))
                continue
            elif random.random() < tampering.repeat:
                marks.repeated.update(keys)
                self.send(text)
                if random.random() < 0.5:
                    self.send(text)
                else:
                    self.held.append((random.randint(1, 5), native, text))
            else:
                self.send(text)
            self._release(1)

    def _release(self, rounds: int) -> None:
        """Send the late frames whose time has come."""
        held, self.held = self.held, []
        for left, native, text in held:
            if left > rounds:
                self.held.append((left - rounds, native, text))
            elif native not in self.stalled:
                self.send(text)

    def release_all(self) -> None:
        """Send all late frames."""
        self._release(1000)


class Venue:
    """A venue that runs: its market, its clients, and its faults."""

    def __init__(self, wire: Wire, market: Market, seed: int) -> None:
        self.wire = wire
        self.market = market
        self.random = Random(seed)
        self.links: list[Link] = []
        self.tampering = Tampering()
        self.marks = Marks()
        self.dials = 0  #: WebSocket handshakes since the start
        #: Called for each handshake: "" to accept it, else what to do instead.
        self.on_dial: Callable[[], str] = lambda: ""
        #: Called for each request over REST: seconds to wait, and what to do then, "" to answer.
        self.on_request: Callable[[], tuple[float, str]] = lambda: (0.0, "")
        self.port = 0
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The address of WebSockets and REST."""
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Venue]:
        """Listen on a free port of the loopback interface, and trade."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        trading = asyncio.create_task(self._trade())
        try:
            yield self
        finally:
            trading.cancel()
            server.close()
            for link in self.links:
                link.writer.transport.abort()
            for handler in self._handlers:
                handler.cancel()
            await asyncio.gather(trading, *self._handlers, return_exceptions=True)

    def damage(self, text: str) -> bytes:
        """Return a frame that is no valid JSON any more; its begin is as it was."""
        whole, random = text.encode(), self.random
        place = random.randrange(min(EVIDENCE + 5, len(whole) - 1), len(whole))
        return random.choice(
            (
                whole[:place],
                whole[:place] + b"\x00\x01" + whole[place:],
                whole[:-1] + b"]" + whole[-1:],
                whole + b"}{",
                whole[:place] + b"\xff\xfe" + whole[place:],  # no UTF-8 either
            )
        )

    async def _trade(self) -> None:
        while True:
            await asyncio.sleep(_ROUND_SECONDS)
            for native, trades in self.market.make().items():
                self._publish(native, trades)

    def _publish(self, native: str, trades: list[TrueTrade]) -> None:
        texts = self.wire.trades(trades)
        parts = [[trade] for trade in trades] if len(texts) == len(trades) else [trades]
        frames = list(zip(texts, parts, strict=True))
        for link in self.links:
            if native not in link.subscribed:
                continue
            symbol = self.market.symbols[native]
            if symbol.required_from is None:
                symbol.required_from = len(symbol.trades) - len(trades)
            link.publish(native, frames)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await self._serve(reader, writer)
        except (*_GONE, asyncio.CancelledError):
            pass  # streams of asyncio report a cancelled handler as an error
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await framing.read_request(reader)
            if request.is_upgrade:
                await self._serve_websocket(request, reader, writer)
                return
            delay, action = self.on_request()
            await asyncio.sleep(delay)
            if action == "reset":
                framing.reset(writer)
                return
            found = self.wire.rest(request.target, request.body, self.market)
            body = json.dumps(found, separators=(",", ":")).encode()
            response = framing.http_response(200 if found is not None else 404, body)
            if action == "half":
                writer.write(response[: len(response) // 2])
                return
            if action:
                status, *headers = action.split("\n")
                response = framing.http_response(int(status), b"<html>busy</html>", *headers)
            writer.write(response)
            await writer.drain()

    async def _serve_websocket(
        self,
        request: framing.HttpRequest,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.dials += 1
        action = self.on_dial()
        if action == "reset":
            framing.reset(writer)
            return
        if action == "hang":
            await asyncio.sleep(3.0)
            return
        if action.isdecimal():
            writer.write(framing.http_response(int(action), b"busy"))
            return
        if action == "finish":
            return
        writer.write(framing.upgrade_response(request))
        if action == "accept and finish":
            return
        link = Link(self, writer)
        self.links.append(link)
        pings = asyncio.create_task(self._ping(link))
        try:
            await self._read(link, reader)
        finally:
            pings.cancel()
            self.links.remove(link)

    async def _ping(self, link: Link) -> None:
        while seconds := self.wire.ping_seconds:
            await asyncio.sleep(seconds)
            if not link.is_dead:
                link.write(framing.frame(str(self.market.now_ms()).encode(), framing.PING))

    async def _read(self, link: Link, reader: asyncio.StreamReader) -> None:
        """Answer a client's messages until it goes."""
        while True:
            opcode, payload = await framing.read_message(reader)
            if opcode == framing.CLOSE:
                link.peer_closed.set()
                if not link.is_dead:
                    link.write(framing.frame(payload[:2], framing.CLOSE))
                    return
            elif link.is_dead:
                continue
            elif opcode == framing.PING:
                link.write(framing.frame(payload, framing.PONG))
            elif opcode == framing.TEXT:
                answer = self.wire.answer(payload.decode(), self.market)
                for text in answer.texts:
                    link.send(text)
                link.subscribed.difference_update(answer.ends)
                link.subscribed.update(answer.begins)
                for native in answer.begins:
                    if link.stalled.get(native):
                        del link.stalled[native]
