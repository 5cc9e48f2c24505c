"""Alpaca's server side: stocks and crypto, streams and REST, on one port.

A coin of the venue, and a symbol that is not quoted in USD, is crypto; any other symbol is a stock.
Keys that begin with BAD are refused. Keys with FREE in them are of an account with the free plan,
which has no SIP and 30 symbols.
"""

from __future__ import annotations

import json
from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tapeloom_simulator.server_api import ConnectionRules, HttpResponse, RestBudget

from .rest import Rest, free, refusal
from .streams import STREAMS, AlpacaStream, BookStream, UpdatedBarStream
from .text import SymbolWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tapeloom.units import Rate
    from tapeloom_simulator.server_api import (
        ClientConnection,
        HttpRequest,
        Market,
        VenueSession,
        VenueStream,
    )

__all__ = ["AlpacaSide"]

_RULES = ConnectionRules()
#: How long after its connection a client may log in.
_AUTH_TIMEOUT_SECONDS = 10.0
#: Symbols that the free plan allows.
_FREE_SYMBOLS = 30
#: Calls per minute and account.
_BUDGET = RestBudget(name="alpaca", limit=200, window_seconds=60.0, tolerated_violations=1_000_000)
#: Whether a path is that of crypto, by path.
_PATHS = {
    f"/{prefix}/{feed}": False
    for prefix, feeds in (
        ("v2", ("iex", "sip", "delayed_sip", "test")),
        ("v1beta1", ("boats", "overnight")),
    )
    for feed in feeds
} | {"/v1beta3/crypto/us": True}
#: The text of an error by its code.
_MESSAGES = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    404: "auth timeout",
    405: "symbol limit exceeded",
    406: "connection limit exceeded",
    407: "slow client",
    409: "insufficient subscription",
    410: "invalid subscribe action for this feed",
}


def error(code: int) -> list[str]:
    """Return the WebSocket message with which a stream reports an error code."""
    return [f'[{{"T":"error","code":{code},"msg":"{_MESSAGES[code]}"}}]']


class AlpacaSide:
    """The venue server for both markets."""

    dial_rate: Rate | None = None
    markets: Mapping[str, Sequence[str]] = MappingProxyType(
        {"stocks": ("AAPL/USD", "MSFT/USD"), "crypto": ("BTC/USD", "ETH/USD")}
    )
    faults: Mapping[str, frozenset[str]] = MappingProxyType(
        {
            "correction": frozenset({"trades"}),
            "cancel": frozenset({"trades"}),
            "updated_bar": frozenset({"klines"}),
            "slow_client": frozenset(),
            "empty_page": frozenset(),
            "token_loop": frozenset(),
        }
    )

    def __init__(self, market: Market) -> None:
        self.market = market
        self.writers: dict[bool, dict[str, SymbolWriter]] = {False: {}, True: {}}
        for instrument in market.instruments.values():
            writer = SymbolWriter.of(instrument, market)
            self.writers[writer.crypto][writer.native] = writer
        self.lines = defaultdict[tuple[str, str], list["ClientConnection"]](list)  # by path and key
        self._rest = Rest(market, self.writers)
        self._streams: dict[tuple[bool, str, str], AlpacaStream] = {}

    def settings(self, url: str) -> dict[str, Any]:
        """Return ``[venue.alpaca]`` of a stack that uses the simulator at *url*."""
        return {"base_url": url}

    def arm(self, *faults: str) -> None:
        """Let the next REST answers have the faults "empty_page" or "token_loop", one each."""
        self._rest.armed_faults += faults

    def stream(self, crypto: bool, name: str, native: str) -> AlpacaStream | None:
        """Return a stream, shared by all clients; None for a symbol that is not traded."""
        key = (crypto, name, native)
        writer = self.writers[crypto].get(native)
        if writer is not None and key not in self._streams:
            self._streams[key] = STREAMS[crypto][name](f"{name}:{native}", writer)
        return self._streams.get(key)

    def open_connection(
        self, call: HttpRequest, line: ClientConnection
    ) -> VenueSession | HttpResponse:
        """Accept a connection to one of the feeds, or refuse it with an HTTP status."""
        if call.path not in _PATHS:
            return HttpResponse("", 404)
        return _Session(self, line, call)

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Return the answer to a REST call."""
        return self._rest.respond(call)

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        """Return the cost of a call, which is always 1."""
        return _BUDGET, 1

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        """Return the answer for too many calls."""
        return refusal(status, "too many requests.")

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> list[str] | None:
        """Return the frames that a fault makes of one; None if it does not apply.

        A fault of REST is armed for the next answer, and changes no frame.
        """
        assert isinstance(stream, AlpacaStream)
        if fault in ("empty_page", "token_loop"):
            self.arm(fault)
            return [text]
        if fault == "slow_client":
            return error(407)
        items = json.loads(text, parse_float=_Number, parse_int=_Number)
        corrupted = _CORRUPTIONS[fault](self, stream, items)
        return None if corrupted is None else [_dumps(items) for items in corrupted]


# ------------------------------------------------------------------------------------------ faults

Items = list[dict[str, Any]]


class _Number(str):
    """The text of a JSON number, with all its digits."""

    __slots__ = ()


def _dumps(value: Any) -> str:
    """Return *value* as JSON, with the digits of its numbers unchanged."""
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(_dumps, value))}]"
    if isinstance(value, dict):
        members = [f'"{key}":{_dumps(member)}' for key, member in value.items()]
        return f"{{{','.join(members)}}}"
    return json.dumps(value)


def _correction(side: AlpacaSide, stream: AlpacaStream, items: Items) -> list[Items] | None:
    """Send a trade with a wrong size, and then its correction."""
    if stream.writer.crypto:
        return None
    correct = items[0]
    size = _Number(stream.writer.size[10**9])
    wrong = {**correct, "i": _Number(f"9{correct['i']}"), "s": size}
    correction = {
        "T": "c", "S": correct["S"], "x": correct["x"],
        "oi": wrong["i"], "op": wrong["p"], "os": wrong["s"], "oc": ["@"],
        "ci": correct["i"], "cp": correct["p"], "cs": correct["s"], "cc": ["@"],
        "t": correct["t"], "z": "C",
    }  # fmt: skip
    return [[wrong, *items[1:]], [correction]]


def _cancel(side: AlpacaSide, stream: AlpacaStream, items: Items) -> list[Items] | None:
    """Send a trade that did not happen, and then its cancellation."""
    if stream.writer.crypto:
        return None
    wrong = {**items[0], "i": _Number(f"9{items[0]['i']}")}
    cancel = {key: wrong[key] for key in ("S", "i", "x", "p", "s", "t", "z")}
    return [[wrong, *items], [{"T": "x", **cancel, "a": "C"}]]


def _updated_bar(side: AlpacaSide, stream: AlpacaStream, items: Items) -> list[Items] | None:
    """Send a bar with one trade too few, and half a minute later the revised bar."""
    if items[0]["T"] != "b":
        return None
    item = items[0]
    revised = side.stream(stream.writer.crypto, "updatedBars", item["S"])
    assert isinstance(revised, UpdatedBarStream)
    revised.schedule(_dumps({key: item[key] for key in item if key not in ("T", "S")}))
    return [[{**item, "n": _Number(max(0, int(item["n"]) - 1))}]]


def _crossed(side: AlpacaSide, stream: AlpacaStream, items: Items) -> list[Items] | None:
    """Send a crossed book or quote."""
    item, best = items[0], stream.writer.instrument.top_of_book()
    price, size = stream.writer.price[best.ask], stream.writer.size[best.ask_size]
    if item["T"] == "q":
        return [[{**item, "bp": item["ap"], "ap": item["bp"]}]]
    level = {"p": _Number(price), "s": _Number(size)}
    return [[{**item, "b": [level, *item["b"]]}]]


def _empty_side(side: AlpacaSide, stream: AlpacaStream, items: Items) -> list[Items] | None:
    """Send a quote without a bid."""
    if items[0]["T"] != "q":
        return None
    return [[{**items[0], "bp": _Number("0"), "bs": _Number("0")}]]


def _huge(side: AlpacaSide, stream: AlpacaStream, items: Items) -> list[Items] | None:
    """Send a delta that also removes a thousand levels that do not exist."""
    if not isinstance(stream, BookStream):
        return None
    writer = stream.writer
    far = max(writer.instrument.book_snapshot(1_000_000).asks)[0] + 1_000
    removed = [{"p": _Number(writer.price[far + n]), "s": _Number("0")} for n in range(1_024)]
    return [[{**items[0], "a": [*items[0]["a"], *removed]}]]


def _missing_bar(side: AlpacaSide, stream: AlpacaStream, items: Items) -> list[Items] | None:
    """Leave out a bar."""
    return [] if items[0]["T"] == "b" else None


#: The function of each fault.
_CORRUPTIONS = {
    "correction": _correction,
    "cancel": _cancel,
    "updated_bar": _updated_bar,
    "crossed_book": _crossed,
    "empty_side": _empty_side,
    "huge_batch": _huge,
    "missing_final_kline": _missing_bar,
}


# ----------------------------------------------------------------------------------------- session


class _Session:
    """One connection of a client."""

    rules = _RULES

    def __init__(self, side: AlpacaSide, line: ClientConnection, call: HttpRequest) -> None:
        self._side, self._line, self._path = side, line, call.path
        self._crypto = _PATHS[call.path]
        self._key = ""  # set when the client is authenticated
        self._headers = call.headers
        self._lists: dict[str, list[str]] = {name: [] for name in STREAMS[self._crypto]}

    def opening_messages(self) -> Sequence[str]:
        """Return the greeting; authenticate a client with keys in its headers, or start its timeout."""
        greeting = ['[{"T":"success","msg":"connected"}]']
        key = self._headers.get("apca-api-key-id", "")
        if key:
            return [
                *greeting,
                *self._authenticate(key, self._headers.get("apca-api-secret-key", "")),
            ]
        self._line.call_later(_AUTH_TIMEOUT_SECONDS, self._auth_timeout)
        return greeting

    def _auth_timeout(self) -> Sequence[str]:
        if self._key:
            return ()
        self._line.close(1008, "auth timeout")
        return error(404)

    def closing_messages(self) -> Sequence[str]:
        """Return nothing: the venue sends no message before it closes."""
        return ()

    def refuse(self, text: str) -> Sequence[str]:
        """Return the error for a message that is refused: of a login, or of any other message."""
        return error(402 if '"auth"' in text else 400)

    def receive(self, text: str) -> Sequence[str]:
        """Return the replies to a message of the client."""
        try:
            message = json.loads(text)
            action = message["action"]
        except (ValueError, TypeError, KeyError):
            return error(400)
        if action == "auth":
            return self._authenticate(str(message.get("key", "")), str(message.get("secret", "")))
        if not self._key:
            return error(401)
        if action not in ("subscribe", "unsubscribe"):
            return error(400)
        return self._change(action, {k: v for k, v in message.items() if k != "action"})

    def _authenticate(self, key: str, secret: str) -> Sequence[str]:
        if self._key:
            return error(403)
        if not key or not secret or key.startswith("BAD"):
            return error(402)
        if self._path == "/v2/sip" and free(key):
            return error(409)
        lines = self._side.lines[self._path, key]
        lines[:] = [line for line in lines if line.counts_as_open]
        if lines:
            self._line.close(1008, "connection limit exceeded")
            return error(406)
        self._key = key
        lines.append(self._line)
        return ['[{"T":"success","msg":"authenticated"}]']

    def _change(self, action: str, lists: dict[str, Any]) -> Sequence[str]:
        # The venue sends corrections and cancellations with the trades.
        lists.pop("corrections", None)
        lists.pop("cancelErrors", None)
        if not lists or not all(isinstance(names, list) for names in lists.values()):
            return error(400)
        if any(name not in self._lists for name in lists):
            return error(410)
        after = {name: [*natives] for name, natives in self._lists.items()}
        for name, natives in lists.items():
            rest = [native for native in after[name] if native not in natives]
            after[name] = [*after[name], *natives] if action == "subscribe" else rest
        after = {name: [*dict.fromkeys(natives)] for name, natives in after.items()}
        counted = {*after["trades"], *after["quotes"]}
        if action == "subscribe" and free(self._key) and len(counted) > _FREE_SYMBOLS:
            return error(405)
        before, self._lists = self._lists, after
        return [self._subscription_message(), *self._follow(before)]

    def _follow(self, before: dict[str, list[str]]) -> list[str]:
        """Start the new streams and end the removed ones; return the snapshots of new books."""
        snapshots = []
        for name, natives in self._lists.items():
            old, new = self._streams(name, before[name]), self._streams(name, natives)
            for stream in old - new:
                self._line.unsubscribe(stream)
            for stream in sorted(new - old, key=lambda stream: stream.name):
                self._line.subscribe(stream)
                if isinstance(stream, BookStream):
                    snapshots.append(stream.snapshot(self._side.market.now))
        return snapshots

    def _streams(self, name: str, natives: list[str]) -> set[AlpacaStream]:
        """Return the streams of a list; ``*`` stands for all symbols."""
        known = self._side.writers[self._crypto] if "*" in natives else natives
        streams = (self._side.stream(self._crypto, name, native) for native in known)
        return {stream for stream in streams if stream is not None}

    def _subscription_message(self) -> str:
        own = (
            {}
            if self._crypto
            else dict.fromkeys(("corrections", "cancelErrors"), self._lists["trades"])
        )
        return json.dumps([{"T": "subscription", **self._lists, **own}], separators=(",", ":"))
