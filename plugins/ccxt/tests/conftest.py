"""ccxt objects that use simulators, and a fake one that tests feed with answers."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from tapeloom.plugin import Feed
from tapeloom_ccxt import ExchangeSettings
from tapeloom_ccxt.exchange import KINDS
from tapeloom_ccxt.source import CcxtSource


@pytest.fixture
def anyio_backend() -> str:
    """Return the one loop that ccxt works on."""
    return "asyncio"


def binance(url: str) -> dict[str, Any]:
    ws = url.replace("http", "ws", 1)
    api = {"public": f"{url}/api/v3", "v1": f"{url}/api/v3", "ws": {"spot": f"{ws}/stream/ws"}}
    return {"options": {"fetchMarkets": {"types": ["spot"]}}, "urls": {"api": api}}


def bybit(url: str) -> dict[str, Any]:
    ws = url.replace("http", "ws", 1)
    public = {kind: f"{ws}/v5/public/{kind}" for kind in ("spot", "linear")}
    api = {"spot": url, "futures": url, "v2": url, "public": url, "ws": {"public": public}}
    return {"options": {"fetchMarkets": {"types": ["spot", "linear"]}}, "urls": {"api": api}}


def hyperliquid(url: str) -> dict[str, Any]:
    ws = url.replace("http", "ws", 1)
    api = {"public": url, "private": url, "ws": {"public": f"{ws}/ws"}}
    return {"options": {"fetchMarkets": {"types": ["spot", "swap"]}}, "urls": {"api": api}}


@pytest.fixture(scope="session")
def pointed() -> Callable[..., dict[str, Any]]:
    """Return a function that makes the table which points ccxt at a simulator of an exchange."""
    tables = {"binance": binance, "bybit": bybit, "hyperliquid": hyperliquid}

    def table(exchange: str, url: str, **more: Any) -> dict[str, Any]:
        return {"exchanges": {exchange: {**tables[exchange](url), **more}}}

    return table


class Exchange:
    """A fake ccxt object: its watch calls return or raise the answers that `feed` was given."""

    precisionMode = 4  # noqa: N815 (ccxt's name)

    def __init__(self) -> None:
        self.closed = False
        self.trades: dict[str, Any] = {}
        self.clients: dict[str, Any] = {}
        self.currencies: dict[str, Any] = {}
        self.last_response_headers: dict[str, str] = {}
        self.markets: dict[str, Any] = {}
        self.refuses: Exception | None = None
        self.asked: list[tuple[str, Any]] = []
        self.answers: defaultdict[str, deque[Any]] = defaultdict(deque)
        self._more = anyio.Event()

    def feed(self, call: str, *answers: Any) -> None:
        """Let the next calls of *call* return, or raise, these."""
        self.answers[call].extend(answers)
        self._more.set()

    async def load_markets(self) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.set_markets(
            {
                f"{base}/USDT": {
                    "symbol": f"{base}/USDT", "id": f"{base}USDT", "type": "spot", "base": base,
                    "quote": "USDT", "precision": {},
                }
                for base in ("BTC", "ETH")
            }
        )  # fmt: skip

    def set_markets(self, markets: Any, currencies: Any = None) -> None:
        self.markets = markets

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(("watch_", "un_watch_")):
            raise AttributeError(name)

        async def call(symbol: Any, *rest: Any, **keywords: Any) -> Any:
            self.asked.append((name, symbol))
            while not self.answers[name]:
                if name.startswith("un_"):
                    return True
                if self._more.is_set():
                    self._more = anyio.Event()
                await self._more.wait()
            answer = self.answers[name].popleft()
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call

    async def close(self) -> None:
        self.closed = True


class Maker(SimpleNamespace):
    """Makes exchanges that are fed by hand, and keeps them."""

    def __call__(self, on_error: Any) -> Exchange:
        self.on_error = on_error
        made = self.prepare(Exchange())
        self.made.append(made)
        return made

    def hide(self, text: str) -> str:
        return text


@pytest.fixture
def source() -> Callable[..., tuple[CcxtSource, Maker]]:
    """Return a function that makes a source over exchanges that are fed by hand."""

    def make(
        clock: Any,
        channels: tuple[str, ...] = ("trades",),
        symbols: tuple[str, ...] = ("BTC/USDT",),
        prepare: Callable[[Exchange], Exchange] = lambda exchange: exchange,
        unwatch: bool = True,
        **settings: Any,
    ) -> tuple[CcxtSource, Maker]:
        feed = Feed("f", "ccxt-acme", "acme", [*symbols], channels, clock=clock)
        has = {kind.has: True for kind in KINDS.values()}
        has |= {kind.un_has: unwatch for kind in KINDS.values()}
        maker = Maker(name="acme", has=has, channels=frozenset(KINDS), made=[], prepare=prepare)
        return CcxtSource(feed, ExchangeSettings(**settings), maker), maker

    return make
