"""Bybit's server side: spot and linear on one port, distinguished by the URL path.

The paths are ``/v5/public/spot``, ``/v5/public/linear`` and ``/v5/market``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tapeloom.units import Rate
from tapeloom_simulator.server_api import ConnectionRules, HttpResponse, RestBudget

from .rest import Rest, refusal
from .streams import BookTopic, SnapshotFirst, SnapshotTopic, Topic, make_topic
from .text import SymbolFormat

if TYPE_CHECKING:
    from tapeloom_simulator.server_api import (
        ClientConnection,
        HttpRequest,
        Market,
        VenueSession,
        VenueStream,
    )

__all__ = ["BybitServer"]

#: The path prefixes of WebSocket connections and of REST calls.
_STREAMS, _REST = "/v5/public/", "/v5/market/"
#: The venue closes a connection that sends nothing for ten minutes.
_RULES = ConnectionRules(
    silence_timeout_seconds=600.0, ping_frames_count=False, violation_close_code=1000
)
#: 600 calls in 5 seconds; beyond them, every call is refused for ten minutes.
_BUDGET = RestBudget(
    name="bybit", limit=600, window_seconds=5.0, tolerated_violations=0, ban_seconds=600.0
)
_MAX_TOPICS = 10  #: topics in one request on spot
_MAX_CHARACTERS = 21_000  #: of all topics of a connection
_HUGE_LEVELS = 1_000  #: removals of levels that do not exist, in a huge delta
#: The channels that the venue's own faults apply to.
_BOOKS = frozenset({"book", "quotes"})


class _ListWithEffect(list[str]):
    """Texts that call *effect* when they are iterated, which happens only if the fault is injected."""

    def __init__(self, texts: Sequence[str], effect: Callable[[], None]) -> None:
        super().__init__(texts)
        self._effect = effect

    def __iter__(self) -> Iterator[str]:
        self._effect()
        return super().__iter__()


class BybitServer:
    """The simulated server of spot and linear contracts."""

    dial_rate = Rate(500, 300.0)
    markets: Mapping[str, Sequence[str]] = MappingProxyType(
        {
            "spot": ("BTC/USDT", "ETH/USDT", "SOL/USDT"),
            "linear": ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"),
        }
    )
    #: "restart": the venue's service restarts, and its books send a snapshot with the update id 1.
    #: "resnapshot": a book sends a snapshot that was not requested.
    faults: Mapping[str, frozenset[str]] = MappingProxyType(
        {"restart": _BOOKS, "resnapshot": _BOOKS}
    )

    def __init__(self, market: Market) -> None:
        self.market = market
        self._formats: dict[str, dict[str, SymbolFormat]] = {name: {} for name in self.markets}
        self._by_symbol: dict[str, SymbolFormat] = {}
        for symbol, instrument in market.instruments.items():
            fmt = self._by_symbol[symbol] = SymbolFormat.of(instrument, market)
            self._formats["spot" if fmt.is_spot else "linear"][fmt.native] = fmt
        self._rest = Rest(market, self._formats, self.topic)
        self._topics: dict[tuple[str, str], Topic] = {}
        self.opened = 0

    def settings(self, url: str) -> dict[str, Any]:
        """Return ``[venue.bybit]`` of a stack that uses the simulator at *url*."""
        return {"base_url": url}

    def topic(self, category: str, name: str) -> Topic | None:
        """Return the topic of this name; all clients share it. None if there is none."""
        topic = self._topics.get((category, name))
        if topic is None and (topic := make_topic(name, self._formats[category])) is not None:
            self._topics[category, name] = topic
        return topic

    def open_connection(
        self, call: HttpRequest, line: ClientConnection
    ) -> VenueSession | HttpResponse:
        """Accept a connection to the public stream of a category; return 404 for another path."""
        before, separator, category = call.path.partition(_STREAMS)
        if before or not separator or category not in self._formats:
            return HttpResponse("", 404)
        self.opened += 1
        return _ClientSession(self, line, category, f"sim{self.opened:05d}-{category}")

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Return the answer to a call of ``/v5/market``."""
        before, separator, path = call.path.partition(_REST)
        if before or not separator:
            return HttpResponse("404 page not found", 404)
        return self._rest.respond(path, call)

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        """Return the budget and the cost of a call: 1; None for an unknown path."""
        return (_BUDGET, 1) if call.path.startswith(_REST) else None

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        """Return the refusal of a REST call or of a dial.

        A REST call over *budget* gets 429, with the time at which the budget is renewed. A banned IP
        address gets 403, and so does a dial over the limit, for which *budget* is None.
        """
        now = self.market.venue_clock // 1_000_000
        if status != 429 or budget is None:
            return refusal(403, "access too frequent", now, 403)
        limits = {"X-Bapi-Limit": str(budget.limit), "X-Bapi-Limit-Status": "0"}
        limits["X-Bapi-Limit-Reset-Timestamp"] = str(now + retry_after * 1000)
        text = "Too many visits. Exceeded the API Rate Limit."
        return refusal(10006, text, now, 429, **limits)

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> list[str] | None:
        """Return the pushes that replace *text* under a fault; None if it does not apply."""
        if fault == "missing_final_kline":
            return [] if '"confirm":true' in text else None
        book = stream.topic if isinstance(stream, SnapshotFirst) else None
        if not isinstance(book, BookTopic):
            return None
        if fault == "resnapshot":
            return [text, *book.snapshot()]
        if fault == "restart":
            return _ListWithEffect([text], book.restart)
        fmt, message = self._by_symbol[stream.symbol], json.loads(text)
        if fault == "empty_side":
            if stream.channel != "quotes":
                return None
            message["data"]["b"] = []
        elif fault == "crossed_book":
            _cross_book(fmt, message["data"])
        elif message["type"] == "snapshot":
            return None
        else:
            _add_all_levels(fmt, message["data"], json.loads(book.snapshot()[0])["data"])
        return [json.dumps(message, separators=(",", ":"))]


def _cross_book(fmt: SymbolFormat, book: dict[str, list[list[str]]]) -> None:
    """Cross the book: swap the sides of a quote, or add the best ask to the bids."""
    best = fmt.instrument.top_of_book()
    if len(book["b"]) == len(book["a"]) == 1:
        book["b"], book["a"] = book["a"], book["b"]
    else:
        book["b"].insert(0, [fmt.price[best.ask], fmt.size[best.ask_size]])


def _add_all_levels(
    fmt: SymbolFormat, book: dict[str, list[list[str]]], snapshot: dict[str, Any]
) -> None:
    """Set every level again and remove a thousand that do not exist; the book is still correct."""
    for side in "ba":
        sent_prices = {price for price, _ in book[side]}
        book[side] += [level for level in snapshot[side] if level[0] not in sent_prices]
    high = fmt.instrument.book_snapshot(1_000_000).asks[-1][0] + 1_000
    book["a"] += [[fmt.price.write(high + n), fmt.size.write(0)] for n in range(_HUGE_LEVELS)]


class _ClientSession:
    """One WebSocket connection of a client."""

    rules = _RULES

    def __init__(
        self, server: BybitServer, line: ClientConnection, category: str, connection_id: str
    ) -> None:
        self._server, self._line = server, line
        self._category, self._connection_id = category, connection_id
        self._topics: dict[str, Topic] = {}

    def opening_messages(self) -> Sequence[str]:
        """Return the first messages: none."""
        return ()

    def closing_messages(self) -> Sequence[str]:
        """Return the last messages: none."""
        return ()

    def refuse(self, text: str) -> Sequence[str]:
        """Return the reply that refuses the client's message *text*."""
        return self._reply(_json(text) or {}, "error:request refused")

    def receive(self, text: str) -> Sequence[str]:
        """Process a request and return the reply."""
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
        elif refusal_text := self._refusal_text(args):
            return self._reply(message, refusal_text)
        else:
            self._subscribe(args)
        is_spot = self._category == "spot"
        return self._reply(message, op if is_spot else "", success=True)

    def _refusal_text(self, args: list[str]) -> str:
        """Return why a subscription is refused as a whole; "" if it is not."""
        if self._category == "spot" and len(args) > _MAX_TOPICS:
            return f"args size >{_MAX_TOPICS}"
        if sum(map(len, [*args, *self._topics])) > _MAX_CHARACTERS:
            return f"args length >{_MAX_CHARACTERS}"
        for name in args:
            if name in self._topics:
                return f"error:already subscribed,topic:{name}"
            if self._server.topic(self._category, name) is None:
                if self._category == "spot":
                    return f"Invalid symbol :[{name}]"
                return f"error:handler not found,topic:{name}"
        return ""

    def _subscribe(self, args: list[str]) -> None:
        for name in args:
            topic = self._server.topic(self._category, name)
            assert topic is not None
            self._topics[name] = SnapshotFirst(topic) if isinstance(topic, SnapshotTopic) else topic
            self._line.subscribe(self._topics[name])

    def _reply(
        self, message: dict[str, Any], text: str, *, success: bool = False, **members: object
    ) -> Sequence[str]:
        reply = {"success": success, "ret_msg": text, "conn_id": self._connection_id}
        request_id = message.get("req_id")
        if request_id is not None or self._category != "spot":
            reply["req_id"] = "" if request_id is None else str(request_id)
        reply |= {"op": message.get("op", ""), **members}
        return (json.dumps(reply, separators=(",", ":")),)


def _json(text: str) -> dict[str, Any] | None:
    """Return the decoded text; None if it is no JSON object."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
