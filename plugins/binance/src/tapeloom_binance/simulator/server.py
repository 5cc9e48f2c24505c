"""Binance's server side: spot and futures on one port, told apart by the path.

Spot is ``/ws``, ``/stream`` and ``/api/v3``; USD-M is ``/public|/market/ws|stream``, ``/fstream/ws``
without a route, and ``/fapi/v1``; COIN-M is ``/dstream/ws|stream`` and ``/dapi/v1``. Anything may
stand before these, and a number after ``ws``.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tapeloom.units import Rate
from tapeloom_simulator.server_api import ConnectionRules, HttpResponse, RestBudget

from .rest import Rest, error, weight
from .streams import stream_of
from .text import Spelling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tapeloom_simulator.server_api import (
        ClientConnection,
        HttpRequest,
        Market,
        VenueSession,
        VenueStream,
    )

__all__ = ["BinanceSide"]

_DAY = 86_400.0
_SPOT = ConnectionRules(
    ping_interval_seconds=20.0,
    pong_timeout_seconds=60.0,
    max_age_seconds=_DAY,
    message_rate=Rate(5, 1.0),
    max_streams=1024,
)
_FUTURES = ConnectionRules(
    ping_interval_seconds=180.0,
    pong_timeout_seconds=600.0,
    max_age_seconds=_DAY,
    message_rate=Rate(10, 1.0),
    max_streams=1024,
)
_WEIGHT = "X-MBX-USED-WEIGHT-1M"
_SHARED = RestBudget(name="futures", limit=2400, window_seconds=60.0, header=_WEIGHT)
_BUDGETS = {
    "spot": RestBudget(name="spot", limit=6000, window_seconds=60.0, header=_WEIGHT),
    "usdm": _SHARED,
    "coinm": _SHARED,
}
_PREFIXES = {"/api/v3/": "spot", "/fapi/v1/": "usdm", "/dapi/v1/": "coinm"}
_ROUTES = {"public", "market", "private"}
#: The streams that a futures route carries; another one is acknowledged and never comes.
_PUBLIC = ("bookTicker", "depth", "trade")
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")


class BinanceSide:
    """Spot, USD-M and COIN-M futures."""

    dial_rate = Rate(300, 300.0)
    faults: Mapping[str, frozenset[str]] = MappingProxyType({})
    markets: Mapping[str, Sequence[str]] = MappingProxyType(
        {
            "spot": ("BTC/USDT", "ETH/USDT", "SOL/USDT"),
            "usdm": ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"),
        }
    )

    def __init__(self, market: Market) -> None:
        self.market = market
        self._spellings: dict[str, dict[str, Spelling]] = {name: {} for name in _BUDGETS}
        for pit in market.instruments.values():
            spelling = Spelling.of(pit, market)
            self._spellings[spelling.name][spelling.native] = spelling
        self._rest = {name: Rest(market, some, name) for name, some in self._spellings.items()}
        self._streams: dict[tuple[str, int, str], VenueStream | None] = {}

    def settings(self, url: str) -> dict[str, Any]:
        """Return ``[venue.binance]`` of a stack that uses the simulator at *url*."""
        return {"base_url": url}

    def stream(self, name: str, per: int, market: str) -> VenueStream | None:
        """Return the stream of this name, the same one for all clients."""
        key = (market, per, name)
        if key not in self._streams:
            spellings = self._spellings[market]
            if name.startswith("!") and market != "spot":
                spellings = self._spellings["usdm"] | self._spellings["coinm"]
            made = stream_of(name, spellings, per)
            if made is None:
                return None
            self._streams[key] = made
        return self._streams[key]

    def open_connection(
        self, call: HttpRequest, line: ClientConnection
    ) -> VenueSession | HttpResponse:
        """Take a connection to ``ws`` or ``stream``."""
        parts = [part for part in call.path.split("/") if part]
        door = next(
            (part for part in parts if part == "ws" or part.split(".")[0] == "stream"), None
        )
        if door is None:
            return HttpResponse("", 404)
        if "ws" in parts:
            door = "ws"
        place = parts.index(door)
        route = next((part for part in parts[:place] if part in _ROUTES), "")
        market = "usdm" if route or {"fstream", "futures"} & set(parts[:place]) else "spot"
        if {"dstream", "delivery"} & set(parts[:place]):
            market = "coinm"
        names = parts[place + 1 :]
        if len(names) == 1 and names[0].isdigit():
            names = []
        query = {key.lower(): value for key, value in call.query.items()}
        names += [name for name in query.get("streams", "").split("/") if name]
        unit = query.get("timeunit", "MILLISECOND").upper()
        if market == "spot" and unit not in ("MILLISECOND", "MICROSECOND"):
            return error(
                -1194, "Invalid value for time unit; expected either MICROSECOND or MILLISECOND."
            )
        per = 1_000 if market == "spot" and unit == "MICROSECOND" else 1_000_000
        combined = door != "ws"
        return _Session(self, line, names, market=market, route=route, per=per, combined=combined)

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Answer a call of ``/api/v3``, ``/fapi/v1`` or ``/dapi/v1``."""
        market, path = _rest_path(call.path)
        if not market:
            return HttpResponse("<html><body><h2>404 Not found</h2></body></html>", 404)
        return self._rest[market].answer(path, call)

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        """Return the weight of a call."""
        market, path = _rest_path(call.path)
        if not market:
            return None
        return _BUDGETS[market], weight(market == "spot", path, call.query)

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        """Word a refusal for too many calls."""
        if status == 403:
            return HttpResponse("<html><body><h1>403 Forbidden</h1></body></html>", 403)
        limit = budget.limit if budget else self.dial_rate.count
        text = (
            f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE."
        )
        if status == 418:
            until = self.market.venue_clock // 1_000_000 + retry_after * 1000
            text = f"Way too much request weight used; IP banned until {until}."
        return error(-1003, text, status, **{"Retry-After": str(retry_after)})

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> list[str] | None:
        """Return a crossed book, a huge one, or nothing in place of a final kline."""
        if fault == "missing_final_kline":
            return [] if '"x":true' in text else None
        spelling = next(
            one for some in self._spellings.values() for one in some.values()
            if one.pit.symbol == stream.symbol
        )  # fmt: skip
        return (
            _crossed(spelling, text) if fault == "crossed_book" else _huge(spelling, stream, text)
        )


def _rest_path(path: str) -> tuple[str, str]:
    for prefix, market in _PREFIXES.items():
        before, found, after = path.partition(prefix)
        if found and "/" not in before.strip("/"):
            return market, after
    return "", ""


def _crossed(spelling: Spelling, text: str) -> list[str]:
    """Bid what is asked: on a quote, or as one more level of a book."""
    message = json.loads(text)
    if "B" in message:
        message["b"], message["a"] = message["a"], message["b"]
    else:
        best = spelling.pit.top_of_book()
        level = [spelling.price[best.ask], spelling.size[best.ask_size]]
        message["bids" if "bids" in message else "b"].insert(0, level)
    return [json.dumps(message, separators=(",", ":"))]


def _huge(spelling: Spelling, stream: VenueStream, text: str) -> list[str] | None:
    """Say all levels again, and take away a thousand that never were: nothing of it is wrong."""
    if stream.channel != "book":
        return None
    message = json.loads(text)
    _, bids, asks = spelling.pit.book_snapshot(1_000_000)
    high = asks[-1][0]
    message["b"] = [[spelling.price[p], spelling.size[s]] for p, s in bids]
    gone = [(high + distance, 0) for distance in range(1_000, 2_024)]
    # A level that this event takes away is not in the book any more, and must still be said.
    told = {price for price, _ in message["b"]}
    gone_bids = [level for level in json.loads(text)["b"] if level[0] not in told]
    message["b"] += gone_bids
    said = [[spelling.price[p], spelling.size[s]] for p, s in [*asks, *gone]]
    told = {price for price, _ in said}
    message["a"] = said + [level for level in message["a"] if level[0] not in told]
    return [json.dumps(message, separators=(",", ":"))]


class _Session:
    """One connection of a client."""

    def __init__(
        self,
        side: BinanceSide,
        line: ClientConnection,
        names: Sequence[str],
        *,
        market: str,
        route: str,
        per: int,
        combined: bool,
    ) -> None:
        self.rules = _SPOT if market == "spot" else _FUTURES
        self._side, self._line, self._first = side, line, names
        self._market, self._route, self._per, self._combined = market, route, per, combined
        self._names: dict[str, VenueStream | None] = {}

    def opening_messages(self) -> Sequence[str]:
        """Follow the streams of the address."""
        for name in self._first:
            self._follow(name)
        return ()

    def closing_messages(self) -> Sequence[str]:
        """Say ``serverShutdown``."""
        text = f'{{"e":"serverShutdown","E":{self._side.market.venue_clock // self._per}}}'
        return (f'{{"stream":"!serverShutdown","data":{text}}}' if self._combined else text,)

    def refuse(self, text: str) -> Sequence[str]:
        """Refuse a request."""
        message = _json(text)
        return self._error(2, "Invalid request: request refused", _id(message))

    def receive(self, text: str) -> Sequence[str]:
        """Do what a request asks."""
        message = _json(text)
        if message is None:
            return self._error(3, "Invalid JSON: expected value at line 1 column 1", None)
        number = _id(message)
        problem = _problem(message)
        if problem:
            return self._error(2, f"Invalid request: {problem}", number)
        params = message.get("params", [])
        match message["method"]:
            case "SUBSCRIBE":
                for name in params:
                    self._follow(name)
            case "UNSUBSCRIBE":
                for name in params:
                    self._leave(name)
            case "LIST_SUBSCRIPTIONS":
                return self._result(list(self._names), number)
            case method:
                return self._property(method, params, number)
        return self._result(None, number)

    def _property(self, method: str, params: list[Any], number: int | str | None) -> Sequence[str]:
        if params[0] != "combined":
            return self._error(0, f"Unknown property: {params[0]!r}", number)
        if method == "GET_PROPERTY":
            return self._result(self._combined, number)
        if len(params) != 2 or not isinstance(params[1], bool):
            return self._error(1, "Invalid value type: expected Boolean", number)
        self._combined = params[1]
        for name, stream in self._names.items():
            if stream is not None:
                self._line.subscribe(stream, *self._envelope(name))
        return self._result(None, number)

    def _result(self, result: object, number: int | str | None) -> Sequence[str]:
        return (json.dumps({"result": result, "id": number}, separators=(",", ":")),)

    def _error(self, code: int, text: str, number: int | str | None) -> Sequence[str]:
        # The spot documentation has the flat form; the official connector knows a nested one too.
        flat = {"code": code, "msg": text}
        both = (
            ({**flat, "id": number} if number is not None else flat)
            if self._market == "spot"
            else {"error": flat, "id": number}
        )
        return (json.dumps(both, separators=(",", ":")),)

    def _follow(self, name: str) -> None:
        if name in self._names:
            return
        routed = self._routed(name)
        stream = self._side.stream(name, self._per, self._market) if routed else None
        self._names[name] = stream  # an unknown name is acknowledged, and listed
        if stream is not None:
            self._line.subscribe(stream, *self._envelope(name))

    def _leave(self, name: str) -> None:
        stream = self._names.pop(name, None)
        if stream is not None:
            self._line.unsubscribe(stream)

    def _envelope(self, name: str) -> tuple[str, str]:
        return (f'{{"stream":"{name}","data":', "}") if self._combined else ("", "")

    def _routed(self, name: str) -> bool:
        if self._market != "usdm":
            return True
        kind = name.partition("@")[2] or name.lstrip("!")
        public = kind.startswith(_PUBLIC)
        return self._route != "private" and public == (self._route in ("public", ""))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _id(message: Any) -> int | str | None:
    found = message.get("id") if isinstance(message, dict) else None
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None


def _problem(message: Any) -> str:
    """Say what is wrong with a request, in the venue's manner."""
    if not isinstance(message, dict):
        return "invalid type: expected struct Request"
    method, number = message.get("method"), message.get("id")
    if method is None:
        return "missing field `method`"
    if method not in _METHODS:
        known = ", ".join(f"`{one}`" for one in _METHODS)
        return f"unknown variant `{method}`, expected one of {known}"
    if isinstance(number, bool | float | dict | list) or (
        isinstance(number, str) and len(number) > 36
    ):
        return "request ID must be an unsigned integer"
    params = message.get("params", [])
    if not isinstance(params, list):
        return "params must be an array"
    if method.endswith("SUBSCRIBE") and not all(isinstance(name, str) for name in params):
        return "invalid type: expected a string"
    if method.endswith("SUBSCRIBE") and not params:
        return "missing field `params`"
    if method.endswith("PROPERTY") and (not params or not isinstance(params[0], str)):
        return "property name must be a string"
    return ""
