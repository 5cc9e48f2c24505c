"""Binance's server side: spot and futures on one port, distinguished by the URL path.

Spot is ``/ws``, ``/stream`` and ``/api/v3``; USD-M is ``/public|/market/ws|stream``, ``/fstream/ws``
without a route, and ``/fapi/v1``; COIN-M is ``/dstream/ws|stream`` and ``/dapi/v1``. Any
prefix may precede these paths, and a number may follow ``ws``.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tapeloom.units import Rate
from tapeloom_simulator.server_api import ConnectionRules, HttpResponse, RestBudget

from .rest import Rest, error, weight
from .streams import make_stream
from .text import SymbolFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tapeloom_simulator.server_api import (
        ClientConnection,
        HttpRequest,
        Market,
        VenueSession,
        VenueStream,
    )

__all__ = ["BinanceServer"]

_DAY_SECONDS = 86_400.0
#: The limits of the venue. It closes a connection after 24 hours.
_SPOT_RULES = ConnectionRules(
    ping_interval_seconds=20.0,
    pong_timeout_seconds=60.0,
    max_age_seconds=_DAY_SECONDS,
    message_rate=Rate(5, 1.0),
    max_streams=1024,
)
_FUTURES_RULES = ConnectionRules(
    ping_interval_seconds=180.0,
    pong_timeout_seconds=600.0,
    max_age_seconds=_DAY_SECONDS,
    message_rate=Rate(10, 1.0),
    max_streams=1024,
)
_WEIGHT_HEADER = "X-MBX-USED-WEIGHT-1M"
#: USD-M and COIN-M share one budget since 2026.
_FUTURES_BUDGET = RestBudget(name="futures", limit=2400, window_seconds=60.0, header=_WEIGHT_HEADER)
_BUDGETS = {
    "spot": RestBudget(name="spot", limit=6000, window_seconds=60.0, header=_WEIGHT_HEADER),
    "usdm": _FUTURES_BUDGET,
    "coinm": _FUTURES_BUDGET,
}
#: The market of a REST call, by the prefix of its path.
_PREFIXES = {"/api/v3/": "spot", "/fapi/v1/": "usdm", "/dapi/v1/": "coinm"}
#: The first part of the path of a USD-M stream.
_ROUTES = {"public", "market", "private"}
#: The kinds of streams that USD-M sends on /public; /market has the others. A subscription on the
#: wrong route is acknowledged, and no data follows.
_PUBLIC_KINDS = ("bookTicker", "depth", "trade")
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")


class BinanceServer:
    """The simulated server of spot, USD-M and COIN-M futures."""

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
        self._formats: dict[str, dict[str, SymbolFormat]] = {name: {} for name in _BUDGETS}
        for instrument in market.instruments.values():
            fmt = SymbolFormat.of(instrument, market)
            self._formats[fmt.market_name][fmt.native] = fmt
        self._rest = {name: Rest(market, formats, name) for name, formats in self._formats.items()}
        self._streams: dict[tuple[str, int, str], VenueStream | None] = {}

    def settings(self, url: str) -> dict[str, Any]:
        """Return ``[venue.binance]`` of a stack that uses the simulator at *url*."""
        return {"base_url": url}

    def stream(self, name: str, unit_ns: int, market: str) -> VenueStream | None:
        """Return the stream of this name; all clients share it. None if there is none."""
        key = (market, unit_ns, name)
        if key not in self._streams:
            formats = self._formats[market]
            if name.startswith("!") and market != "spot":
                formats = self._formats["usdm"] | self._formats["coinm"]
            stream = make_stream(name, formats, unit_ns)
            if stream is None:
                return None
            self._streams[key] = stream
        return self._streams[key]

    def open_connection(
        self, call: HttpRequest, line: ClientConnection
    ) -> VenueSession | HttpResponse:
        """Accept a connection to ``ws`` or ``stream``; return an HTTP error for another path."""
        parts = [part for part in call.path.split("/") if part]
        endpoint = next(
            (part for part in parts if part == "ws" or part.split(".")[0] == "stream"), None
        )
        if endpoint is None:
            return HttpResponse("", 404)
        if "ws" in parts:
            endpoint = "ws"
        index = parts.index(endpoint)
        route = next((part for part in parts[:index] if part in _ROUTES), "")
        market = "usdm" if route or {"fstream", "futures"} & set(parts[:index]) else "spot"
        if {"dstream", "delivery"} & set(parts[:index]):
            market = "coinm"
        names = parts[index + 1 :]
        if len(names) == 1 and names[0].isdigit():
            names = []
        query = {key.lower(): value for key, value in call.query.items()}
        names += [name for name in query.get("streams", "").split("/") if name]
        unit = query.get("timeunit", "MILLISECOND").upper()
        if market == "spot" and unit not in ("MILLISECOND", "MICROSECOND"):
            return error(
                -1194, "Invalid value for time unit; expected either MICROSECOND or MILLISECOND."
            )
        unit_ns = 1_000 if market == "spot" and unit == "MICROSECOND" else 1_000_000
        combined = endpoint != "ws"
        return _ClientSession(
            self, line, names, market=market, route=route, unit_ns=unit_ns, combined=combined
        )

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Return the answer to a call of ``/api/v3``, ``/fapi/v1`` or ``/dapi/v1``."""
        market, path = _rest_path(call.path)
        if not market:
            return HttpResponse("<html><body><h2>404 Not found</h2></body></html>", 404)
        return self._rest[market].respond(path, call)

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        """Return the budget and the weight of a call; None for an unknown path."""
        market, path = _rest_path(call.path)
        if not market:
            return None
        return _BUDGETS[market], weight(market == "spot", path, call.query)

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        """Return the answer that refuses a call because a limit is exceeded."""
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
        """Return the messages that a fault makes of one; None if it does not apply."""
        if fault == "missing_final_kline":
            return [] if '"x":true' in text else None
        if fault == "empty_side":
            return _empty_side(text) if stream.channel != "book" else None
        fmt = next(
            fmt for formats in self._formats.values() for fmt in formats.values()
            if fmt.instrument.symbol == stream.symbol
        )  # fmt: skip
        return (
            _crossed_book(fmt, text) if fault == "crossed_book" else _huge_delta(fmt, stream, text)
        )


def _rest_path(path: str) -> tuple[str, str]:
    """Return the market of a REST path and the path without its prefix; "" for an unknown path."""
    for prefix, market in _PREFIXES.items():
        before, found, after = path.partition(prefix)
        if found and "/" not in before.strip("/"):
            return market, after
    return "", ""


def _empty_side(text: str) -> list[str]:
    """Return *text*, a quote or a partial book, without bids."""
    message = json.loads(text)
    if "B" in message:
        message["b"] = message["B"] = "0.00000000"
    else:
        message["bids" if "bids" in message else "b"] = []
    return [json.dumps(message, separators=(",", ":"))]


def _crossed_book(fmt: SymbolFormat, text: str) -> list[str]:
    """Return *text* with a crossed book: swap the sides of a quote, or add the best ask to the bids."""
    message = json.loads(text)
    if "B" in message:
        message["b"], message["a"] = message["a"], message["b"]
    else:
        best = fmt.instrument.top_of_book()
        level = [fmt.price[best.ask], fmt.size[best.ask_size]]
        message["bids" if "bids" in message else "b"].insert(0, level)
    return [json.dumps(message, separators=(",", ":"))]


def _huge_delta(fmt: SymbolFormat, stream: VenueStream, text: str) -> list[str] | None:
    """Return a delta that sets every level again and removes a thousand levels that do not exist.

    The book after it is still correct. Returns None for other channels than ``book``.
    """
    if stream.channel != "book":
        return None
    message = json.loads(text)
    _, bids, asks = fmt.instrument.book_snapshot(1_000_000)
    high = asks[-1][0]
    message["b"] = [[fmt.price[p], fmt.size[s]] for p, s in bids]
    removed = [(high + distance, 0) for distance in range(1_000, 2_024)]
    # A level that this delta removes is no longer in the book, but the delta must keep it.
    written_prices = {price for price, _ in message["b"]}
    removed_bids = [level for level in json.loads(text)["b"] if level[0] not in written_prices]
    message["b"] += removed_bids
    asks_written = [[fmt.price[p], fmt.size[s]] for p, s in [*asks, *removed]]
    written_prices = {price for price, _ in asks_written}
    message["a"] = asks_written + [
        level for level in message["a"] if level[0] not in written_prices
    ]
    return [json.dumps(message, separators=(",", ":"))]


class _ClientSession:
    """One WebSocket connection of a client."""

    def __init__(
        self,
        server: BinanceServer,
        line: ClientConnection,
        names: Sequence[str],
        *,
        market: str,
        route: str,
        unit_ns: int,
        combined: bool,
    ) -> None:
        self.rules = _SPOT_RULES if market == "spot" else _FUTURES_RULES
        self._server, self._line, self._initial_names = server, line, names
        self._market, self._route, self._unit_ns, self._combined = market, route, unit_ns, combined
        self._names: dict[str, VenueStream | None] = {}

    def opening_messages(self) -> Sequence[str]:
        """Subscribe to the streams in the URL; return no message, as the venue sends none."""
        for name in self._initial_names:
            self._subscribe(name)
        return ()

    def closing_messages(self) -> Sequence[str]:
        """Return the ``serverShutdown`` notice."""
        text = f'{{"e":"serverShutdown","E":{self._server.market.venue_clock // self._unit_ns}}}'
        return (f'{{"stream":"!serverShutdown","data":{text}}}' if self._combined else text,)

    def refuse(self, text: str) -> Sequence[str]:
        """Return the reply that refuses the client's message *text*."""
        message = _json(text)
        return self._error(2, "Invalid request: request refused", _request_id(message))

    def receive(self, text: str) -> Sequence[str]:
        """Process a request and return the reply."""
        message = _json(text)
        if message is None:
            return self._error(3, "Invalid JSON: expected value at line 1 column 1", None)
        request_id = _request_id(message)
        problem = _request_problem(message)
        if problem:
            return self._error(2, f"Invalid request: {problem}", request_id)
        params = message.get("params", [])
        match message["method"]:
            case "SUBSCRIBE":
                for name in params:
                    self._subscribe(name)
            case "UNSUBSCRIBE":
                for name in params:
                    self._unsubscribe(name)
            case "LIST_SUBSCRIPTIONS":
                return self._result(list(self._names), request_id)
            case method:
                return self._handle_property(method, params, request_id)
        return self._result(None, request_id)

    def _handle_property(
        self, method: str, params: list[Any], request_id: int | str | None
    ) -> Sequence[str]:
        if params[0] != "combined":
            return self._error(0, f"Unknown property: {params[0]!r}", request_id)
        if method == "GET_PROPERTY":
            return self._result(self._combined, request_id)
        if len(params) != 2 or not isinstance(params[1], bool):
            return self._error(1, "Invalid value type: expected Boolean", request_id)
        self._combined = params[1]
        for name, stream in self._names.items():
            if stream is not None:
                self._line.subscribe(stream, *self._envelope(name))
        return self._result(None, request_id)

    def _result(self, result: object, request_id: int | str | None) -> Sequence[str]:
        return (json.dumps({"result": result, "id": request_id}, separators=(",", ":")),)

    def _error(self, code: int, text: str, request_id: int | str | None) -> Sequence[str]:
        # Spot uses the flat form of its documentation. Futures use the nested form, which the official
        # connector also knows.
        body = {"code": code, "msg": text}
        reply = (
            ({**body, "id": request_id} if request_id is not None else body)
            if self._market == "spot"
            else {"error": body, "id": request_id}
        )
        return (json.dumps(reply, separators=(",", ":")),)

    def _subscribe(self, name: str) -> None:
        if name in self._names:
            return
        is_served = self._is_served(name)
        stream = self._server.stream(name, self._unit_ns, self._market) if is_served else None
        self._names[name] = stream  # the venue acknowledges and lists unknown names too
        if stream is not None:
            self._line.subscribe(stream, *self._envelope(name))

    def _unsubscribe(self, name: str) -> None:
        stream = self._names.pop(name, None)
        if stream is not None:
            self._line.unsubscribe(stream)

    def _envelope(self, name: str) -> tuple[str, str]:
        """Return what precedes and what follows a message of the stream."""
        return (f'{{"stream":"{name}","data":', "}") if self._combined else ("", "")

    def _is_served(self, name: str) -> bool:
        """Return whether the route of this connection carries the stream."""
        if self._market != "usdm":
            return True
        kind = name.partition("@")[2] or name.lstrip("!")
        public = kind.startswith(_PUBLIC_KINDS)
        return self._route != "private" and public == (self._route in ("public", ""))


def _json(text: str) -> Any:
    """Return the decoded text; None if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _request_id(message: Any) -> int | str | None:
    request_id = message.get("id") if isinstance(message, dict) else None
    is_id = isinstance(request_id, int | str) and not isinstance(request_id, bool)
    return request_id if is_id else None


def _request_problem(message: Any) -> str:
    """Return what is wrong with a request, in the venue's words; "" if nothing is."""
    if not isinstance(message, dict):
        return "invalid type: expected struct Request"
    method, request_id = message.get("method"), message.get("id")
    if method is None:
        return "missing field `method`"
    if method not in _METHODS:
        known = ", ".join(f"`{name}`" for name in _METHODS)
        return f"unknown variant `{method}`, expected one of {known}"
    if isinstance(request_id, bool | float | dict | list) or (
        isinstance(request_id, str) and len(request_id) > 36
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
