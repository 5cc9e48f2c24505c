"""Bybit's server side: spot and linear on one port, told apart by the path.

The paths are ``/v5/public/spot``, ``/v5/public/linear`` and ``/v5/market``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tapeloom.units import Rate
from tapeloom_simulator.server_api import ConnectionRules, HttpResponse, RestBudget

from .rest import Rest, refused
from .streams import Book, Told, Topic, Whole, topic_of
from .text import Spelling

if TYPE_CHECKING:
    from tapeloom_simulator.server_api import (
        ClientConnection,
        HttpRequest,
        Market,
        VenueSession,
        VenueStream,
    )

__all__ = ["BybitSide"]

_STREAMS, _REST = "/v5/public/", "/v5/market/"
_RULES = ConnectionRules(silence_timeout_seconds=600.0, violation_close_code=1000)
_BUDGET = RestBudget(
    name="bybit", limit=600, window_seconds=5.0, tolerated_violations=0, ban_seconds=600.0
)
_BATCH, _CHARACTERS = 10, 21_000
_GONE = 1_000  # levels that a huge push takes away and that never were
_BOOKS = frozenset({"book", "quotes"})


class _Acting(list[str]):
    """Texts that are taken only where a fault is injected, and then have a consequence."""

    def __init__(self, texts: Sequence[str], act: Callable[[], None]) -> None:
        super().__init__(texts)
        self._act = act

    def __iter__(self) -> Iterator[str]:
        self._act()
        return super().__iter__()


class BybitSide:
    """Spot and linear contracts."""

    dial_rate = Rate(500, 300.0)
    markets: Mapping[str, Sequence[str]] = MappingProxyType(
        {
            "spot": ("BTC/USDT", "ETH/USDT", "SOL/USDT"),
            "linear": ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"),
        }
    )
    #: The venue's service begins anew, and its books with the number 1; a book is sent again whole.
    faults: Mapping[str, frozenset[str]] = MappingProxyType(
        {"restart": _BOOKS, "resnapshot": _BOOKS}
    )

    def __init__(self, market: Market) -> None:
        self.market = market
        self._spellings: dict[str, dict[str, Spelling]] = {name: {} for name in self.markets}
        self._by_symbol: dict[str, Spelling] = {}
        for symbol, pit in market.instruments.items():
            one = self._by_symbol[symbol] = Spelling.of(pit, market)
            self._spellings["spot" if one.spot else "linear"][one.native] = one
        self._rest = Rest(market, self._spellings, self.topic)
        self._topics: dict[tuple[str, str], Topic] = {}
        self.opened = 0

    def settings(self, url: str) -> dict[str, Any]:
        """Return ``[venue.bybit]`` of a stack that uses the simulator at *url*."""
        return {"base_url": url}

    def topic(self, category: str, name: str) -> Topic | None:
        """Return the topic of this name, the same one for all clients."""
        found = self._topics.get((category, name))
        if found is None and (made := topic_of(name, self._spellings[category])) is not None:
            found = self._topics[category, name] = made
        return found

    def open_connection(
        self, call: HttpRequest, line: ClientConnection
    ) -> VenueSession | HttpResponse:
        """Take a connection to the public stream of a category."""
        before, found, category = call.path.partition(_STREAMS)
        if before or not found or category not in self._spellings:
            return HttpResponse("", 404)
        self.opened += 1
        return _Session(self, line, category, f"sim{self.opened:05d}-{category}")

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Answer a call of ``/v5/market``."""
        before, found, path = call.path.partition(_REST)
        if before or not found:
            return HttpResponse("404 page not found", 404)
        return self._rest.answer(path, call)

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        """Count every call once."""
        return (_BUDGET, 1) if call.path.startswith(_REST) else None

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        """Word a refusal: 429 for what may come again soon, 403 for an address that is shut out."""
        now = self.market.venue_clock // 1_000_000
        if status != 429 or budget is None:
            return refused(403, "access too frequent", now, 403)
        limits = {"X-Bapi-Limit": str(budget.limit), "X-Bapi-Limit-Status": "0"}
        limits["X-Bapi-Limit-Reset-Timestamp"] = str(now + retry_after * 1000)
        text = "Too many visits. Exceeded the API Rate Limit."
        return refused(10006, text, now, 429, **limits)

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> list[str] | None:
        """Return what a fault makes of a push."""
        if fault == "missing_final_kline":
            return [] if '"confirm":true' in text else None
        book = stream.topic if isinstance(stream, Told) else None
        if not isinstance(book, Book):
            return None
        if fault == "resnapshot":
            return [text, *book.whole()]
        if fault == "restart":
            return _Acting([text], book.restart)
        one, message = self._by_symbol[stream.symbol], json.loads(text)
        if fault == "crossed_book":
            _cross(one, message["data"])
        elif message["type"] == "snapshot":
            return None
        else:
            _blow_up(one, message["data"], json.loads(book.whole()[0])["data"])
        return [json.dumps(message, separators=(",", ":"))]


def _cross(one: Spelling, book: dict[str, list[list[str]]]) -> None:
    """Bid more than is asked: by the sides of a quote, or by one level more."""
    best = one.pit.top_of_book()
    if len(book["b"]) == len(book["a"]) == 1:
        book["b"], book["a"] = book["a"], book["b"]
    else:
        book["b"].insert(0, [one.price[best.ask], one.size[best.ask_size]])


def _blow_up(one: Spelling, book: dict[str, list[list[str]]], whole: dict[str, Any]) -> None:
    """Say all levels again, and take away a thousand that never were: nothing of it is wrong."""
    for side in "ba":
        told = {price for price, _ in book[side]}
        book[side] += [level for level in whole[side] if level[0] not in told]
    high = one.pit.book_snapshot(1_000_000).asks[-1][0] + 1_000
    book["a"] += [[one.price.write(high + n), one.size.write(0)] for n in range(_GONE)]


class _Session:
    """One connection of a client."""

    rules = _RULES

    def __init__(self, side: BybitSide, line: ClientConnection, category: str, number: str) -> None:
        self._side, self._line, self._category, self._number = side, line, category, number
        self._topics: dict[str, Topic] = {}

    def opening_messages(self) -> Sequence[str]:
        """Say nothing."""
        return ()

    def closing_messages(self) -> Sequence[str]:
        """Say nothing."""
        return ()

    def refuse(self, text: str) -> Sequence[str]:
        """Refuse a request."""
        return self._reply(_json(text) or {}, "error:request refused")

    def receive(self, text: str) -> Sequence[str]:
        """Do what a request asks."""
        message = _json(text)
        if message is None:
            return self._reply({}, "error:invalid message")
        op, args = message.get("op"), message.get("args")
        if op == "ping":
            return self._reply(message, "pong", success=True)
        if op not in ("subscribe", "unsubscribe"):
            return self._reply(message, "error:invalid op", request={"op": op, "args": args})
        if not isinstance(args, list) or not args or not all(isinstance(a, str) for a in args):
            return self._reply(message, "error:invalid args")
        if op == "unsubscribe":
            for name in args:
                if topic := self._topics.pop(name, None):
                    self._line.unsubscribe(topic)
        elif problem := self._problem(args):
            return self._reply(message, problem)
        else:
            self._follow(args)
        spot = self._category == "spot"
        return self._reply(message, op if spot else "", success=True)

    def _problem(self, args: list[str]) -> str:
        """Say why a subscription is refused, as a whole, or nothing."""
        if self._category == "spot" and len(args) > _BATCH:
            return f"args size >{_BATCH}"
        if sum(map(len, [*args, *self._topics])) > _CHARACTERS:
            return f"args length >{_CHARACTERS}"
        for name in args:
            if name in self._topics:
                return f"error:already subscribed,topic:{name}"
            if self._side.topic(self._category, name) is None:
                if self._category == "spot":
                    return f"Invalid symbol :[{name}]"
                return f"error:handler not found,topic:{name}"
        return ""

    def _follow(self, args: list[str]) -> None:
        for name in args:
            topic = self._side.topic(self._category, name)
            assert topic is not None
            self._topics[name] = Told(topic) if isinstance(topic, Whole) else topic
            self._line.subscribe(self._topics[name])

    def _reply(
        self, message: dict[str, Any], text: str, *, success: bool = False, **more: object
    ) -> Sequence[str]:
        reply = {"success": success, "ret_msg": text, "conn_id": self._number}
        asked = message.get("req_id")
        if asked is not None or self._category != "spot":
            reply["req_id"] = "" if asked is None else str(asked)
        reply |= {"op": message.get("op", ""), **more}
        return (json.dumps(reply, separators=(",", ":")),)


def _json(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
