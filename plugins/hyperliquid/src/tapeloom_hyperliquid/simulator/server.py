"""Hyperliquid's server side: it accepts connections on ``/ws`` and calls of ``/info``, on one port."""

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
    REPLAYED_TRADES,
    BarStream,
    BookStream,
    CoinStream,
    MidPriceStream,
    QuoteStream,
    TickerStream,
    TradeStream,
    coins_of_exchange,
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

#: Limits per IP address, over all its connections.
_MAX_CONNECTIONS, _MAX_SUBSCRIPTIONS = 10, 1000
_RULES = ConnectionRules(message_rate=Rate(2000, 60.0))
#: The venue closes a connection on which nothing was sent for 60 s: four checks, 15 s apart.
_CHECK_SECONDS, _MAX_IDLE_CHECKS = 15.0, 4
_TRADES, _BOOKS = frozenset({"trades"}), frozenset({"book"})
#: The venue's own faults, and the channels that each is possible on; empty: all.
_FAULTS = {
    "book_time_regress": _BOOKS,
    "candle_gap": frozenset({"klines"}),
    "chain_halt": frozenset[str](),
    "duplicate_block": _TRADES,
    "history_batch": _TRADES,
}


class HyperliquidSide:
    """The venue server for perpetuals and spot."""

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
        self._streams: dict[str, CoinStream] = {}
        self._lines: list[ClientConnection] = []

    def settings(self, url: str) -> dict[str, Any]:
        """Return ``[venue.hyperliquid]`` of a stack that uses the simulator at *url*."""
        return {"base_url": url}

    def open_connection(
        self, call: HttpRequest, line: ClientConnection
    ) -> VenueSession | HttpResponse:
        """Accept a connection to ``/ws``, or refuse it with an HTTP status."""
        if not call.path.endswith("/ws"):
            return HttpResponse("", 404)
        self._lines = [line for line in self._lines if line.counts_as_open]
        if len(self._lines) >= _MAX_CONNECTIONS:
            return HttpResponse("", 429)
        self._lines.append(line)
        return _Session(self, line)

    @property
    def full(self) -> bool:
        """Whether the address has reached its limit of subscriptions."""
        counted = (len(line.subscriptions) for line in self._lines if line.counts_as_open)
        return sum(counted) >= _MAX_SUBSCRIPTIONS

    def stream(self, subscription: Mapping[str, Any]) -> CoinStream | None:
        """Return the stream of a subscription, shared by all clients; None if it is invalid."""
        stream = self._new_stream(subscription)
        return None if stream is None else self._streams.setdefault(stream.name, stream)

    def _new_stream(self, subscription: Mapping[str, Any]) -> CoinStream | None:
        kind, coin = subscription.get("type"), self.coins.get(subscription.get("coin", ""))
        if kind == "allMids":
            dex = subscription.get("dex") or ""
            coins = coins_of_exchange(self.coins.values(), dex)
            return MidPriceStream(f"{kind} {dex}".rstrip(), coins, dex) if coins else None
        if coin is None:
            return None
        name = f"{kind} {coin.name}"
        match kind:
            case "trades":
                return TradeStream(name, coin, "trades")
            case "l2Book" if subscription.get("nSigFigs") is None:
                fast = bool(subscription.get("fast"))
                return BookStream(f"{name} fast" if fast else name, coin, fast=fast)
            case "bbo":
                return QuoteStream(name, coin, "quotes")
            case "candle" if subscription.get("interval") in INTERVALS:
                return BarStream(
                    f"{name} {subscription['interval']}", coin, subscription["interval"]
                )
            case "activeAssetCtx":
                return TickerStream(name, coin)
        return None

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Return the answer to a call of ``/info``."""
        return self._rest.respond(call)

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        """Return the weight of a call."""
        return BUDGET, self._rest.request_cost(call)

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        """Return an empty refusal: the venue does not document its body."""
        return HttpResponse("null", status)

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> list[str] | None:
        """Return the messages that a fault makes of one; None if it does not apply."""
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
            return self._replayed(stream, data[0]["time"], text)
        if fault == "book_time_regress":
            data["time"] -= 5_000
        else:
            _corrupt_sides(data["bbo"] if "bbo" in data else data["levels"], fault)
        return [json.dumps(message, separators=(",", ":"))]

    def _replayed(self, stream: VenueStream, time_ms: int, text: str) -> list[str] | None:
        """Repeat the trades before *time_ms*, as if the client had just subscribed."""
        coin = next(c for c in self.coins.values() if c.instrument.symbol == stream.symbol)
        # The market may be ahead of the message that is being sent.
        current = coin.instrument.first_trade_since(time_ms * MS)
        first = max(1, current.id - REPLAYED_TRADES) if current else 1
        past = []
        if current and current.id > first:
            past = coin.instrument.trades(first, current.id - first)
        return [f'{{"channel":"trades","data":{coin.trades(past)}}}', text] if past else None


def _corrupt_sides(sides: list[Any], fault: str) -> None:
    """Empty the bid side of a book or quote, or exchange its best prices so that it is crossed."""
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
        self._streams: dict[str, CoinStream] = {}
        self._replies = 0  # sent on this connection
        self._sent_before = 0  # messages sent up to the last check
        self._idle_checks = 0  # checks in a row at which nothing had been sent

    def opening_messages(self) -> Sequence[str]:
        """Send the greeting, and start the checks for idleness."""
        self._line.call_later(_CHECK_SECONDS, self._check_idle)
        return ("Websocket connection established.",)

    def _check_idle(self) -> Sequence[str]:
        """Close the connection if nothing was sent on it for a minute."""
        sent = self._replies + sum(stream.sent for stream in self._streams.values())
        self._idle_checks = self._idle_checks + 1 if sent == self._sent_before else 0
        self._sent_before = sent
        if self._idle_checks >= _MAX_IDLE_CHECKS:
            self._line.close(1000, "Inactive")
        else:
            self._line.call_later(_CHECK_SECONDS, self._check_idle)
        return ()

    def closing_messages(self) -> Sequence[str]:
        """Return nothing: the venue sends no message before it closes."""
        return ()

    def refuse(self, text: str) -> Sequence[str]:
        """Return the error for a message that is refused."""
        message = _object(text)
        return self._error(f"Invalid subscription {_json(message.get('subscription', message))}")

    def receive(self, text: str) -> Sequence[str]:
        """Return the replies to a message of the client."""
        self._replies += 1
        message = _object(text)
        method, subscription = message.get("method"), message.get("subscription")
        if method == "ping":
            return ('{"channel":"pong"}',)
        if method not in ("subscribe", "unsubscribe") or not isinstance(subscription, dict):
            return self._error(f"Error parsing JSON into valid websocket request: {text}")
        stream = self._side.stream(subscription)
        if stream is None:
            return self._error(f"Invalid subscription {_json(subscription)}")
        if method == "unsubscribe":
            return self._unsubscribe(stream, subscription)
        return self._subscribe(stream, subscription)

    def _subscribe(self, stream: CoinStream, subscription: dict[str, Any]) -> Sequence[str]:
        if stream.name in self._streams:
            return self._error(f"Already subscribed: {_json(subscription)}")
        if self._side.full:
            return self._error(f"Cannot track more than {_MAX_SUBSCRIPTIONS} total subscriptions.")
        self._streams[stream.name] = stream
        self._line.subscribe(stream)
        first = stream.first()
        return (self._ack("subscribe", subscription), *((first,) if first else ()))

    def _unsubscribe(self, stream: CoinStream, subscription: dict[str, Any]) -> Sequence[str]:
        if self._streams.pop(stream.name, None) is None:
            return self._error(f"Already unsubscribed: {_json(subscription)}")
        self._line.unsubscribe(stream)
        return (self._ack("unsubscribe", subscription),)

    def _ack(self, method: str, subscription: dict[str, Any]) -> str:
        if subscription["type"] == "l2Book":
            subscription = {"nSigFigs": None, "mantissa": None, **subscription}
        data = {"method": method, "subscription": subscription}
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
