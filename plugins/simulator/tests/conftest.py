"""A venue of our own, so that the simulator is tested alone; and a client for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import anyio
import httpx
import pytest
from attrs import evolve
from httpx_ws import AsyncWebSocketSession, WebSocketDisconnect, WebSocketNetworkError, aconnect_ws
from tapeloom.units import Rate
from tapeloom_simulator import serve
from tapeloom_simulator.server_api import Answer, Budget, Call, Line, Market, Rules, Step, Stream

MS = 1_000_000


class Trades:
    channel, every = "trades", 0

    def __init__(self, symbol: str) -> None:
        self.name, self.symbol = f"{symbol} trades", symbol

    def begin(self) -> None:
        pass

    def step(self, step: Step) -> Sequence[str]:
        return [
            json.dumps({"t": "trade", "s": step.symbol, "id": f.id, "p": f.price, "q": f.size})
            for f in step.fills
        ]

    def tick(self, now: int) -> Sequence[str]:
        return ()


class Diffs(Trades):
    channel, every = "book", 100 * MS

    def __init__(self, symbol: str, market: Market) -> None:
        self.name, self.symbol, self.pit = f"{symbol} book", symbol, market.pits[symbol]

    def begin(self) -> None:
        self.told = self.pit.update

    def step(self, step: Step) -> Sequence[str]:
        return ()

    def tick(self, now: int) -> Sequence[str]:
        first, last = self.told + 1, self.pit.update
        bids, asks = self.pit.changes(self.told)
        self.told = last
        if last < first:
            return ()
        return [
            json.dumps(
                {
                    "t": "book",
                    "first": first,
                    "last": last,
                    "bids": [*bids.items()],
                    "asks": [*asks.items()],
                }
            )
        ]


class Candles(Trades):
    channel, every = "klines:1s", 1000 * MS

    def __init__(self, symbol: str, market: Market) -> None:
        self.name, self.symbol, self.pit = f"{symbol} klines", symbol, market.pits[symbol]

    def step(self, step: Step) -> Sequence[str]:
        return ()

    def tick(self, now: int) -> Sequence[str]:
        candle = self.pit.candle("1s", now - 1)
        return (
            [json.dumps({"t": "kline", "start": candle.start, "v": candle.volume, "x": True})]
            if candle
            else []
        )


class Acme:
    """The server side of a venue that does not exist."""

    dials: Rate | None = None
    markets = MappingProxyType({"spot": ("BTC/USDT",)})
    faults: Mapping[str, frozenset[str]] = MappingProxyType(
        {"acme_echo": frozenset({"trades"}), "acme_hiccup": frozenset()}
    )
    rules = Rules(ping_every=20.0, pong_within=60.0)
    budget = Budget(name="acme", limit=100, seconds=60.0, header="X-Used", patience=2, ban=120.0)

    def __init__(self, market: Market) -> None:
        self.market = market
        self.lines: list[Line] = []
        self.streams: dict[tuple[str, str], Stream] = {}
        for symbol in market.pits:
            self.streams |= {
                (symbol, "trades"): Trades(symbol),
                (symbol, "book"): Diffs(symbol, market),
                (symbol, "klines"): Candles(symbol, market),
            }

    def settings(self, url: str) -> dict[str, Any]:
        return {"url": url}

    def open(self, call: Call, line: Line) -> Any:
        if call.path == "/alone" and any(one.counts for one in self.lines):
            return Answer("one is enough", 409)
        self.lines.append(line)
        return (
            _Session(self, line) if call.path in ("/ws", "/alone") else Answer("no such door", 404)
        )

    def answer(self, call: Call) -> Answer:
        if call.path == "/time":
            return Answer(str(self.market.clock))
        if call.path == "/echo":
            return Answer(f"{call.method} {dict(call.query)} {call.body.decode()}")
        pit = self.market.pits[call.query.get("symbol", "BTC/USDT")]
        last, bids, asks = pit.ladder(1000, call.lag)
        return Answer(json.dumps({"last": last, "bids": bids, "asks": asks}))

    def cost(self, call: Call) -> tuple[Budget, int] | None:
        return None if call.path == "/echo" else (self.budget, 10)

    def limited(self, status: int, retry_after: int, budget: Budget | None) -> Answer:
        return Answer("too much", status, {"Retry-After": str(retry_after)})

    def corrupt(self, fault: str, stream: Stream, text: str) -> list[str] | None:
        message = json.loads(text)
        if fault == "acme_echo":
            return [text, json.dumps({"t": "echo", "id": message["id"]})]
        if fault == "acme_hiccup":
            return ['"hic"']
        if fault == "missing_final_kline":
            return [] if message["x"] else None
        if fault == "huge_batch":
            return [json.dumps({**message, "bids": message["bids"] * 1024})]
        return [json.dumps({**message, "bids": [(10**12, 1)]})]


class _Session:
    def __init__(self, venue: Acme, line: Line) -> None:
        self.venue, self.line, self.rules = venue, line, venue.rules

    def opened(self) -> Sequence[str]:
        return ['"welcome"']

    def receive(self, text: str) -> Sequence[str]:
        message = json.loads(text)
        if "later" in message:
            self.line.later(message["later"], lambda: ['"now"'])
            return []
        stream = self.venue.streams[message["s"], message["ch"]]
        if message["op"] == "drop":
            self.line.leave(stream)
        else:
            self.line.follow(stream, message.get("before", ""), message.get("after", ""))
        return [json.dumps({"ok": message["ch"], "s": message["s"]})]

    def refuse(self, text: str) -> Sequence[str]:
        return ['{"error":"no"}']

    def farewell(self) -> Sequence[str]:
        return ['"bye"']


class Client:
    """Connects to a simulation, asks for streams, and keeps what comes."""

    def __init__(self, sim: Any, ws: AsyncWebSocketSession) -> None:
        self.sim, self.ws = sim, ws
        self.texts: list[str] = []
        self.code: int | None = None

    async def ask(self, *channels: str, symbol: str = "BTC/USDT", **more: str) -> None:
        for channel in channels:
            await self.ws.send_text(json.dumps({"op": "add", "s": symbol, "ch": channel, **more}))

    async def read(self) -> list[str]:
        """Read until the connection ends."""
        try:
            while True:
                self.texts.append(await self.ws.receive_text())
        except WebSocketDisconnect as end:
            self.code = end.code
        except WebSocketNetworkError:
            self.code = -1
        return self.texts

    async def read_all(self) -> list[str]:
        """Read until the market has made its last trade, and stop the simulation."""

        async def finish() -> None:
            await self.sim.finished()
            await self.sim.stop()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finish)
            await self.read()
            tasks.cancel_scope.cancel()
        return self.texts

    def of(self, kind: str) -> list[Any]:
        found = []
        for text in self.texts:
            try:
                message = json.loads(text)
            except ValueError:
                continue
            if isinstance(message, dict) and message.get("t") == kind:
                found.append(message)
        return found


@asynccontextmanager
async def dial(sim: Any, path: str = "/ws", **more: Any) -> AsyncIterator[Client]:
    async with (
        httpx.AsyncClient(trust_env=False, **more) as http,
        aconnect_ws(
            sim.url.replace("http", "ws", 1) + path, http, keepalive_ping_interval_seconds=None
        ) as ws,
    ):
        yield Client(sim, ws)


@pytest.fixture
def acme():
    """Return a maker of Acme's server side, with rules of one's own."""

    def maker(*, dials: Rate | None = None, **rules: Any):
        def make(market: Market) -> Acme:
            venue = Acme(market)
            venue.rules, venue.dials = evolve(venue.rules, **rules), dials
            return venue

        return make

    return maker


@pytest.fixture
def simulate(acme):
    """Return `serve` for Acme: as fast as it goes, from the first subscription."""

    def simulate(venue=None, **options: Any):
        options = {
            "speed": float("inf"),
            "start": "first_subscription",
            "symbols": ["BTC/USDT"],
            "rate": 1000.0,
            **options,
        }
        return serve(venue or acme(), **options)

    return simulate


@pytest.fixture(name="dial")
def dial_fixture():
    return dial


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param
