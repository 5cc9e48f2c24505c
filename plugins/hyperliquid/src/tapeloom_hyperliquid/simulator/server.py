"""Hyperliquid's server side: ``/ws`` and ``/info`` on one port."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tapeloom.units import Rate
from tapeloom_simulator.server_api import ConnectionRules, HttpResponse

from .rest import BUDGET, Rest, coins_of
from .streams import (
    INTERVALS,
    MS,
    REPEATED,
    Bests,
    Books,
    Candles,
    Contexts,
    Mids,
    Spoken,
    Trades,
    of_exchange,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tapeloom_simulator.server_api import (
        ClientConnection,
        HttpRequest,
        Market,
        RestBudget,
        VenueSession,
        VenueStream,
    )

__all__ = ["HyperliquidSide"]

#: Of an address, over all its connections.
_CONNECTIONS, _SUBSCRIPTIONS = 10, 1000
_RULES = ConnectionRules(message_rate=Rate(2000, 60.0))
#: A connection on which nothing was sent is ended: looked at every 15 s, four times.
_LOOK, _PATIENCE = 15.0, 4
_TRADES, _BOOKS = frozenset({"trades"}), frozenset({"book"})
_FAULTS = {
    "book_time_regress": _BOOKS,
    "candle_gap": frozenset({"klines"}),
    "chain_halt": frozenset[str](),
    "duplicate_block": _TRADES,
    "empty_side": frozenset({"book", "quotes"}),
    "history_batch": _TRADES,
}


class HyperliquidSide:
    """Perpetuals and spot."""

    dial_rate = Rate(30, 60.0)
    markets: Mapping[str, Sequence[str]] = MappingProxyType(
        {
            "perp": ("BTC/USDC:USDC", "ETH/USDC:USDC", "SOL/USDC:USDC"),
            "spot": ("PURR/USDC", "HYPE/USDC"),
        }
    )
    faults: Mapping[str, frozenset[str]] = MappingProxyType(_FAULTS)

    def __init__(self, market: Market) -> None:
        self.market = market
        self.coins, tokens = coins_of(market)
        self._rest = Rest(market, self.coins, tokens)
        self._streams: dict[str, Spoken] = {}
        self._lines: list[ClientConnection] = []

    def settings(self, url: str) -> dict[str, Any]:
        """Return ``[venue.hyperliquid]`` of a stack that uses the simulator at *url*."""
        return {"base_url": url}

    def open_connection(
        self, call: HttpRequest, line: ClientConnection
    ) -> VenueSession | HttpResponse:
        """Take a connection to ``/ws``."""
        if not call.path.endswith("/ws"):
            return HttpResponse("", 404)
        self._lines = [one for one in self._lines if one.counts_as_open]
        if len(self._lines) >= _CONNECTIONS:
            return HttpResponse("", 429)
        self._lines.append(line)
        return _Session(self, line)

    @property
    def full(self) -> bool:
        """Whether there is no room for another subscription."""
        return (
            sum(len(one.subscriptions) for one in self._lines if one.counts_as_open)
            >= _SUBSCRIPTIONS
        )

    def stream(self, asked: Mapping[str, Any]) -> Spoken | None:
        """Return the stream of a subscription, the same one for all clients; None: there is none."""
        made = self._made(asked)
        return None if made is None else self._streams.setdefault(made.name, made)

    def _made(self, asked: Mapping[str, Any]) -> Spoken | None:
        kind, coin = asked.get("type"), self.coins.get(asked.get("coin", ""))
        if kind == "allMids":
            dex = asked.get("dex") or ""
            coins = of_exchange(self.coins.values(), dex)
            return Mids(f"{kind} {dex}".rstrip(), coins, dex) if coins else None
        if coin is None:
            return None
        name = f"{kind} {coin.name}"
        match kind:
            case "trades":
                return Trades(name, coin, "trades")
            case "l2Book" if asked.get("nSigFigs") is None:
                fast = bool(asked.get("fast"))
                return Books(f"{name} fast" if fast else name, coin, fast=fast)
            case "bbo":
                return Bests(name, coin, "quotes")
            case "candle" if asked.get("interval") in INTERVALS:
                return Candles(f"{name} {asked['interval']}", coin, asked["interval"])
            case "activeAssetCtx":
                return Contexts(name, coin)
        return None

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Answer a call of ``/info``."""
        return self._rest.answer(call)

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        """Return the weight of a call."""
        return BUDGET, self._rest.cost(call)

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        """Refuse without a word: how the venue does it is not documented."""
        return HttpResponse("null", status)

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> list[str] | None:
        """Return what a fault makes of a text."""
        match fault:
            case "chain_halt" | "candle_gap":
                return []
            case "duplicate_block":
                return [text, text]
            case "missing_final_kline":
                return [] if json.loads(text)["data"]["T"] * MS < self.market.now else None
            case "huge_batch":
                return None
        message = json.loads(text)
        data = message["data"]
        if fault == "history_batch":
            return self._repeated(stream, data[0]["time"], text)
        if fault == "book_time_regress":
            data["time"] -= 5_000
        else:
            _twist(data["bbo"] if "bbo" in data else data["levels"], fault)
        return [json.dumps(message, separators=(",", ":"))]

    def _repeated(self, stream: VenueStream, time: int, text: str) -> list[str] | None:
        """Repeat the trades before *time*, as if the client had just subscribed."""
        coin = next(one for one in self.coins.values() if one.pit.symbol == stream.symbol)
        # The market may be ahead of what is being told.
        now = coin.pit.first_trade_since(time * MS)
        first = max(1, now.id - REPEATED) if now else 1
        past = coin.pit.trades(first, now.id - first) if now and now.id > first else []
        return [f'{{"channel":"trades","data":{coin.trades(past)}}}', text] if past else None


def _twist(sides: list[Any], fault: str) -> None:
    """Empty one side of a book or a quote, or bid more than is asked."""
    if fault == "empty_side":
        sides[0] = [] if isinstance(sides[0], list) else None
        return
    bid, ask = (side[0] if isinstance(side, list) else side for side in sides)
    bid["px"], ask["px"] = ask["px"], bid["px"]


class _Session:
    """One connection of a client."""

    rules = _RULES

    def __init__(self, side: HyperliquidSide, line: ClientConnection) -> None:
        self._side, self._line = side, line
        self._has: dict[str, Spoken] = {}
        self._said = self._before = self._quiet = 0

    def opening_messages(self) -> Sequence[str]:
        """Greet, and watch for silence."""
        self._line.call_later(_LOOK, self._look)
        return ("Websocket connection established.",)

    def _look(self) -> Sequence[str]:
        """End the connection if nothing was sent on it for a minute."""
        said = self._said + sum(stream.said for stream in self._has.values())
        self._quiet = self._quiet + 1 if said == self._before else 0
        self._before = said
        if self._quiet >= _PATIENCE:
            self._line.close(1000, "Inactive")
        else:
            self._line.call_later(_LOOK, self._look)
        return ()

    def closing_messages(self) -> Sequence[str]:
        """Say nothing: the venue goes without a word."""
        return ()

    def refuse(self, text: str) -> Sequence[str]:
        """Refuse a message."""
        message = _object(text)
        return self._error(f"Invalid subscription {_json(message.get('subscription', message))}")

    def receive(self, text: str) -> Sequence[str]:
        """Do what a message asks."""
        self._said += 1
        message = _object(text)
        method, asked = message.get("method"), message.get("subscription")
        if method == "ping":
            return ('{"channel":"pong"}',)
        if method not in ("subscribe", "unsubscribe") or not isinstance(asked, dict):
            return self._error(f"Error parsing JSON into valid websocket request: {text}")
        stream = self._side.stream(asked)
        if stream is None:
            return self._error(f"Invalid subscription {_json(asked)}")
        if method == "unsubscribe":
            return self._leave(stream, asked)
        return self._follow(stream, asked)

    def _follow(self, stream: Spoken, asked: dict[str, Any]) -> Sequence[str]:
        if stream.name in self._has:
            return self._error(f"Already subscribed: {_json(asked)}")
        if self._side.full:
            return self._error(f"Cannot track more than {_SUBSCRIPTIONS} total subscriptions.")
        self._has[stream.name] = stream
        self._line.subscribe(stream)
        first = stream.first()
        return (self._agreed("subscribe", asked), *((first,) if first else ()))

    def _leave(self, stream: Spoken, asked: dict[str, Any]) -> Sequence[str]:
        if self._has.pop(stream.name, None) is None:
            return self._error(f"Already unsubscribed: {_json(asked)}")
        self._line.unsubscribe(stream)
        return (self._agreed("unsubscribe", asked),)

    def _agreed(self, method: str, asked: dict[str, Any]) -> str:
        if asked["type"] == "l2Book":
            asked = {"nSigFigs": None, "mantissa": None, **asked}
        data = {"method": method, "subscription": asked}
        return _json({"channel": "subscriptionResponse", "data": data})

    def _error(self, text: str) -> Sequence[str]:
        return (_json({"channel": "error", "data": text}),)


def _object(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
