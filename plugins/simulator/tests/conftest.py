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
from tapeloom_simulator.server_api import (
    ClientConnection,
    ConnectionRules,
    HttpRequest,
    HttpResponse,
    Market,
    MarketStep,
    RestBudget,
    VenueStream,
)

MS = 1_000_000


class Trades:
    channel, interval_ns = "trades", 0

    def __init__(self, symbol: str) -> None:
        self.name, self.symbol = f"{symbol} trades", symbol

    def start(self) -> None:
        pass

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        return [
            json.dumps({"t": "trade", "s": step.symbol, "id": f.id, "p": f.price, "q": f.size})
            for f in step.trades
        ]

    def encode_tick(self, now: int) -> Sequence[str]:
        return ()


class Diffs(Trades):
    channel, interval_ns = "book", 100 * MS

    def __init__(self, symbol: str, market: Market) -> None:
        self.name, self.symbol, self.pit = f"{symbol} book", symbol, market.instruments[symbol]

    def start(self) -> None:
        self.told = self.pit.last_update_id

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        first, last = self.told + 1, self.pit.last_update_id
        bids, asks = self.pit.changes_since(self.told)
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
    channel, interval_ns = "klines:1s", 1000 * MS

    def __init__(self, symbol: str, market: Market) -> None:
        self.name, self.symbol, self.pit = f"{symbol} klines", symbol, market.instruments[symbol]

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        candle = self.pit.bar("1s", now - 1)
        return (
            [json.dumps({"t": "kline", "start": candle.start, "v": candle.volume, "x": True})]
            if candle
            else []
        )


class Acme:
    """The server side of a venue that does not exist."""

    dial_rate: Rate | None = None
    markets = MappingProxyType({"spot": ("BTC/USDT",)})
    faults: Mapping[str, frozenset[str]] = MappingProxyType(
        {"acme_echo": frozenset({"trades"}), "acme_hiccup": frozenset()}
    )
    rules = ConnectionRules(ping_interval_seconds=20.0, pong_timeout_seconds=60.0)
    budget = RestBudget(
        name="acme",
        limit=100,
        window_seconds=60.0,
        header="X-Used",
        tolerated_violations=2,
        ban_seconds=120.0,
    )

    def __init__(self, market: Market) -> None:
        self.market = market
        self.lines: list[ClientConnection] = []
        self.streams: dict[tuple[str, str], VenueStream] = {}
        for symbol in market.instruments:
            self.streams |= {
                (symbol, "trades"): Trades(symbol),
                (symbol, "book"): Diffs(symbol, market),
                (symbol, "klines"): Candles(symbol, market),
            }

    def settings(self, url: str) -> dict[str, Any]:
        return {"url": url}

    def open_connection(self, call: HttpRequest, line: ClientConnection) -> Any:
        if call.path == "/alone" and any(one.counts_as_open for one in self.lines):
            return HttpResponse("one is enough", 409)
        self.lines.append(line)
        return (
            _Session(self, line)
            if call.path in ("/ws", "/alone")
            else HttpResponse("no such door", 404)
        )

    def respond(self, call: HttpRequest) -> HttpResponse:
        if call.path == "/time":
            return HttpResponse(str(self.market.venue_clock))
        if call.path == "/echo":
            return HttpResponse(f"{call.method} {dict(call.query)} {call.body.decode()}")
        pit = self.market.instruments[call.query.get("symbol", "BTC/USDT")]
        last, bids, asks = pit.book_snapshot(1000, call.book_lag)
        return HttpResponse(json.dumps({"last": last, "bids": bids, "asks": asks}))

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        return None if call.path == "/echo" else (self.budget, 10)

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        return HttpResponse("too much", status, {"Retry-After": str(retry_after)})

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> list[str] | None:
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
    def __init__(self, venue: Acme, line: ClientConnection) -> None:
        self.venue, self.line, self.rules = venue, line, venue.rules

    def opening_messages(self) -> Sequence[str]:
        return ['"welcome"']

    def receive(self, text: str) -> Sequence[str]:
        message = json.loads(text)
        if "later" in message:
            self.line.call_later(message["later"], lambda: ['"now"'])
            return []
        stream = self.venue.streams[message["s"], message["ch"]]
        if message["op"] == "drop":
            self.line.unsubscribe(stream)
        else:
            self.line.subscribe(stream, message.get("before", ""), message.get("after", ""))
        return [json.dumps({"ok": message["ch"], "s": message["s"]})]

    def refuse(self, text: str) -> Sequence[str]:
        return ['{"error":"no"}']

    def closing_messages(self) -> Sequence[str]:
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
            venue.rules, venue.dial_rate = evolve(venue.rules, **rules), dials
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
