"""Alpaca's server side: stocks and crypto, streams and REST, on one port.

A well-known coin, and what is not quoted in USD, is crypto; all else is a stock. Keys that begin with
BAD are refused; those with FREE in them are an account with the free plan: no SIP, 30 symbols.
"""

from __future__ import annotations

import json
from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tapeloom_simulator.server_api import ConnectionRules, HttpResponse, RestBudget

from .rest import Rest, free, refusal
from .streams import STREAMS, Orderbooks, Spoken, UpdatedBars
from .text import Spelling

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
_PATHS = {
    f"/{prefix}/{feed}": False
    for prefix, feeds in (
        ("v2", ("iex", "sip", "delayed_sip", "test")),
        ("v1beta1", ("boats", "overnight")),
    )
    for feed in feeds
} | {"/v1beta3/crypto/us": True}
_AUTH_WITHIN = 10.0
_FREE_SYMBOLS = 30
_BUDGET = RestBudget(name="alpaca", limit=200, window_seconds=60.0, tolerated_violations=1_000_000)
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
    """Return an error as the stream says it."""
    return [f'[{{"T":"error","code":{code},"msg":"{_MESSAGES[code]}"}}]']


class AlpacaSide:
    """Both markets."""

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
        self.spellings: dict[bool, dict[str, Spelling]] = {False: {}, True: {}}
        for pit in market.instruments.values():
            one = Spelling.of(pit, market)
            self.spellings[one.crypto][one.native] = one
        self.lines = defaultdict[tuple[str, str], list["ClientConnection"]](list)  # by path and key
        self._rest = Rest(market, self.spellings)
        self._streams: dict[tuple[bool, str, str], Spoken] = {}

    def settings(self, url: str) -> dict[str, Any]:
        """Return ``[venue.alpaca]`` of a stack that uses the simulator at *url*."""
        return {"base_url": url}

    def arm(self, *faults: str) -> None:
        """Let the next answers over REST have "empty_page" or "token_loop", one each."""
        self._rest.armed += faults

    def stream(self, crypto: bool, name: str, native: str) -> Spoken | None:
        """Return a stream, the same one for all clients; None for a symbol that is not traded."""
        key = (crypto, name, native)
        spelling = self.spellings[crypto].get(native)
        if spelling is not None and key not in self._streams:
            self._streams[key] = STREAMS[crypto][name](f"{name}:{native}", spelling)
        return self._streams.get(key)

    def open_connection(
        self, call: HttpRequest, line: ClientConnection
    ) -> VenueSession | HttpResponse:
        """Take a connection to one of the feeds."""
        if call.path not in _PATHS:
            return HttpResponse("", 404)
        return _Session(self, line, call)

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Answer a REST call."""
        return self._rest.answer(call)

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        """Return 1: every call costs the same."""
        return _BUDGET, 1

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        """Word a refusal for too many calls."""
        return refusal(status, "too many requests.")

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> list[str] | None:
        """Return what a fault makes of a frame; those of REST are armed, and change no frame."""
        assert isinstance(stream, Spoken)
        if fault in ("empty_page", "token_loop"):
            self.arm(fault)
            return [text]
        if fault == "slow_client":
            return error(407)
        items = json.loads(text, parse_float=_Number, parse_int=_Number)
        spoiled = _SPOILED[fault](self, stream, items)
        return None if spoiled is None else [_dumps(part) for part in spoiled]


# ------------------------------------------------------------------------------------------ faults

Items = list[dict[str, Any]]


class _Number(str):
    """A number, with every digit as it stood."""

    __slots__ = ()


def _dumps(value: Any) -> str:
    """Write what was read, numbers as they stood."""
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(_dumps, value))}]"
    if isinstance(value, dict):
        members = [f'"{key}":{_dumps(one)}' for key, one in value.items()]
        return f"{{{','.join(members)}}}"
    return json.dumps(value)


def _correction(side: AlpacaSide, stream: Spoken, items: Items) -> list[Items] | None:
    """Report one lot too few, and correct it."""
    if stream.spelling.crypto:
        return None
    right = items[0]
    size = _Number(stream.spelling.size[10**9])
    wrong = {**right, "i": _Number(f"9{right['i']}"), "s": size}
    correction = {
        "T": "c", "S": right["S"], "x": right["x"],
        "oi": wrong["i"], "op": wrong["p"], "os": wrong["s"], "oc": ["@"],
        "ci": right["i"], "cp": right["p"], "cs": right["s"], "cc": ["@"],
        "t": right["t"], "z": "C",
    }  # fmt: skip
    return [[wrong, *items[1:]], [correction]]


def _cancel(side: AlpacaSide, stream: Spoken, items: Items) -> list[Items] | None:
    """Report a trade that there never was, and cancel it."""
    if stream.spelling.crypto:
        return None
    wrong = {**items[0], "i": _Number(f"9{items[0]['i']}")}
    cancel = {key: wrong[key] for key in ("S", "i", "x", "p", "s", "t", "z")}
    return [[wrong, *items], [{"T": "x", **cancel, "a": "C"}]]


def _updated_bar(side: AlpacaSide, stream: Spoken, items: Items) -> list[Items] | None:
    """Leave one trade out of a bar, and send it again half a minute later, as it is."""
    if items[0]["T"] != "b":
        return None
    item = items[0]
    later = side.stream(stream.spelling.crypto, "updatedBars", item["S"])
    assert isinstance(later, UpdatedBars)
    later.amend(_dumps({key: one for key, one in item.items() if key not in ("T", "S")}))
    return [[{**item, "n": _Number(max(0, int(item["n"]) - 1))}]]


def _crossed(side: AlpacaSide, stream: Spoken, items: Items) -> list[Items] | None:
    """Bid what is asked."""
    item, best = items[0], stream.spelling.pit.top_of_book()
    price, size = stream.spelling.price[best.ask], stream.spelling.size[best.ask_size]
    if item["T"] == "q":
        return [[{**item, "bp": item["ap"], "ap": item["bp"]}]]
    level = {"p": _Number(price), "s": _Number(size)}
    return [[{**item, "b": [level, *item["b"]]}]]


def _huge(side: AlpacaSide, stream: Spoken, items: Items) -> list[Items] | None:
    """Say the levels that changed, and take away a thousand that never were."""
    if not isinstance(stream, Orderbooks):
        return None
    _ = stream.spelling
    far = max(_.pit.book_snapshot(1_000_000).asks)[0] + 1_000
    gone = [{"p": _Number(_.price[far + more]), "s": _Number("0")} for more in range(1_024)]
    return [[{**items[0], "a": [*items[0]["a"], *gone]}]]


def _missing_bar(side: AlpacaSide, stream: Spoken, items: Items) -> list[Items] | None:
    return [] if items[0]["T"] == "b" else None


_SPOILED = {
    "correction": _correction,
    "cancel": _cancel,
    "updated_bar": _updated_bar,
    "crossed_book": _crossed,
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
        self._key = ""  # once it is let in
        self._said = call.headers
        self._lists: dict[str, list[str]] = {name: [] for name in STREAMS[self._crypto]}

    def opening_messages(self) -> Sequence[str]:
        """Greet; let a client in that has its keys in the headers, and give others 10 s."""
        greeting = ['[{"T":"success","msg":"connected"}]']
        key = self._said.get("apca-api-key-id", "")
        if key:
            return [*greeting, *self._admit(key, self._said.get("apca-api-secret-key", ""))]
        self._line.call_later(_AUTH_WITHIN, self._too_late)
        return greeting

    def _too_late(self) -> Sequence[str]:
        if self._key:
            return ()
        self._line.close(1008, "auth timeout")
        return error(404)

    def closing_messages(self) -> Sequence[str]:
        """Say nothing, as the venue does."""
        return ()

    def refuse(self, text: str) -> Sequence[str]:
        """Refuse a message: a login as such, another one as nonsense."""
        return error(402 if '"auth"' in text else 400)

    def receive(self, text: str) -> Sequence[str]:
        """Do what a message asks."""
        try:
            message = json.loads(text)
            action = message["action"]
        except (ValueError, TypeError, KeyError):
            return error(400)
        if action == "auth":
            return self._admit(str(message.get("key", "")), str(message.get("secret", "")))
        if not self._key:
            return error(401)
        if action not in ("subscribe", "unsubscribe"):
            return error(400)
        return self._change(action, {k: v for k, v in message.items() if k != "action"})

    def _admit(self, key: str, secret: str) -> Sequence[str]:
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
        lists.pop("corrections", None)  # these two follow the trades by themselves
        lists.pop("cancelErrors", None)
        if not lists or not all(isinstance(names, list) for names in lists.values()):
            return error(400)
        if any(name not in self._lists for name in lists):
            return error(410)
        after = {name: [*have] for name, have in self._lists.items()}
        for name, natives in lists.items():
            rest = [one for one in after[name] if one not in natives]
            after[name] = [*after[name], *natives] if action == "subscribe" else rest
        after = {name: [*dict.fromkeys(some)] for name, some in after.items()}
        counted = {*after["trades"], *after["quotes"]}
        if action == "subscribe" and free(self._key) and len(counted) > _FREE_SYMBOLS:
            return error(405)
        before, self._lists = self._lists, after
        return [self._set(), *self._follow(before)]

    def _follow(self, before: dict[str, list[str]]) -> list[str]:
        """Follow what is new, leave what is gone; return the books that begin."""
        books = []
        for name, natives in self._lists.items():
            old, new = self._all(name, before[name]), self._all(name, natives)
            for stream in old - new:
                self._line.unsubscribe(stream)
            for stream in sorted(new - old, key=lambda one: one.name):
                self._line.subscribe(stream)
                if isinstance(stream, Orderbooks):
                    books.append(stream.whole(self._side.market.now))
        return books

    def _all(self, name: str, natives: list[str]) -> set[Spoken]:
        some = self._side.spellings[self._crypto] if "*" in natives else natives
        found = (self._side.stream(self._crypto, name, native) for native in some)
        return {stream for stream in found if stream is not None}

    def _set(self) -> str:
        own = (
            {}
            if self._crypto
            else dict.fromkeys(("corrections", "cancelErrors"), self._lists["trades"])
        )
        return json.dumps([{"T": "subscription", **self._lists, **own}], separators=(",", ":"))
