"""The contract of a venue can fail: Toy, a venue of a hundred lines, is broken in one way at a time."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import attrs
import pytest
from tapeloom import Registry, Secret, Symbol
from tapeloom.errors import SymbolError
from tapeloom.events import Bar, Book, Event, Quote, Ticker, Trade
from tapeloom.hooks import hookimpl
from tapeloom.plugin import (
    Ack,
    Endpoint,
    Feed,
    Frames,
    Heartbeat,
    HistoryQuery,
    Message,
    Notice,
    Pong,
    Refusal,
    Reply,
    Request,
    Subscription,
    Unrequested,
)
from tapeloom.symbols import Instrument
from tapeloom.units import Rate
from tapeloom_simulator import hooks, simulators
from tapeloom_simulator.server_api import (
    ClientConnection,
    ConnectionRules,
    HttpRequest,
    HttpResponse,
    Market,
    MarketStep,
    SimulatedInstrument,
    TopOfBook,
    VenueStream,
)
from tapeloom_testing.contract import Capture, ContractViolation, VenueContract
from tapeloom_testing.contract.declared import VENUE

MS = 1_000_000
KEY = "FAKE-KEY-OF-TOY"
pytestmark = pytest.mark.slow  # it is about our own battery, whatever the Python

CHANNELS = ("trades", "quotes", "book", "klines:1m", "klines:5m", "ticker")
BARS = {"klines:1m": 60_000 * MS, "klines:5m": 300_000 * MS}
#: Trades in one answer.
PAGE = 150
#: The heartbeats of defects.
HEARTBEATS: dict[str, Heartbeat | None] = {
    "no heartbeat": None,
    "pings with the wrong kind": Heartbeat(10.0),
}


# -------------------------------------------------------------------------------- the client's side


@attrs.frozen(kw_only=True)
class Settings:
    url: str = "http://toy.invalid"
    key: Secret | None = None


@attrs.frozen(kw_only=True)
class Talkative:
    url: str = "http://toy.invalid"
    key: Secret | None = attrs.field(default=None, repr=lambda key: key.reveal() if key else "")


class Toy:
    """``{"op": "sub", "id": 1, "args": ["trades|BTC-USDT"]}``, answered by ``{"ok": 1}``."""

    def __init__(self, defect: str = "") -> None:
        self.defect = defect

    @hookimpl
    def settings(self) -> type[Any]:
        return Talkative if self.defect == "a key in a repr" else Settings

    @hookimpl
    def connect(self, feed: Feed) -> list[Endpoint]:
        bad = self.defect
        return [
            Endpoint(
                url=feed.settings.url.replace("http", "ws", 1) + "/ws",
                message_rate=None if bad == "no limit declared" else Rate(20, 1.0),
                dial_rate=Rate(10, 1.0),
                heartbeat=HEARTBEATS.get(bad, Heartbeat(10.0, '{"op":"ping"}')),
                ack_timeout_seconds=1e9 if bad == "waits for ever" else 10.0,
                max_age_seconds=3600.0,
                silence_timeout_seconds=1e8 if bad == "waits for ever" else 60.0,
            )
        ]

    @hookimpl
    def subscribe(self, feed: Feed) -> Toy:
        return self

    @hookimpl
    def history(self, feed: Feed) -> History:
        return History(feed, self.defect)

    # the codec

    def native(self, symbol: str) -> str:
        if self.defect == "a name for nonsense" and "/" not in symbol:
            return symbol
        parts = Symbol.parse(symbol)
        if parts.settle:
            raise SymbolError(f"Toy has no {parts.kind}")
        return "ANY" if self.defect == "one name for all" else f"{parts.base}-{parts.quote}"

    def _message(self, op: str, some: Sequence[Subscription], id: int) -> list[Message]:
        args = [f"{one.channel}|{self.native(one.symbol)}" for one in some]
        if self.defect == "drops nothing" and op == "unsub":
            args = args[:1]
        if self.defect == "forgets a subscription" and op == "sub":
            args = args[1:]
        return [Message(json.dumps({"op": op, "id": id, "args": args}), tuple(some), id)]

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        return self._message("sub", subscriptions, first_id)

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        return self._message("unsub", subscriptions, first_id)

    def decode_reply(self, frame: bytes) -> Reply | None:
        try:
            said = json.loads(frame)
        except (ValueError, RecursionError):
            return None
        if not isinstance(said, dict):
            return None
        if isinstance(said.get("ok"), int):
            return Ack(0 if self.defect == "acknowledges another message" else said["ok"])
        if isinstance(said.get("error"), str):
            vague = self.defect == "refuses nothing in particular"
            return Refusal(said["error"], None if vague else said["id"])
        if said == {"pong": 1}:
            return None if self.defect == "does not know the pong" else Pong()
        if "news" in said:
            return None if self.defect == "rejects what nobody asked for" else Unrequested("news")
        if said == {"bye": 1}:
            return Notice("bye", closes_connection=self.defect != "does not know the farewell")
        return None

    # the parser

    @hookimpl
    def parse(self, feed: Feed) -> Callable[[Frames], list[Event]]:
        bad, unified, counters = self.defect, feed.listing.unified, feed.counters
        seen = set[Any]()

        def one(frame: bytes, recv: int) -> list[Event] | None:
            said = json.loads(frame)
            if "c" not in said:
                return [] if bad == "swallows the unknown" and "contract" in said else None
            symbol = unified.get(said["s"])
            if symbol is None:
                counters["unrequested"] += bad != "counts nothing"
                return []
            return self._events(feed, said, symbol, recv)

        def parsed(frames: Frames) -> list[Event]:
            if bad == "needs asyncio":
                asyncio.get_running_loop()
            events: list[Event] = []
            for at, frame in enumerate(frames):
                try:
                    some = one(frame, frames.recv)
                except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
                    if bad == "garbage costs the batch":
                        return []
                    if bad == "garbage is gone":
                        continue
                    some = None
                if some is None:
                    some = list(frames.on_control(frame))
                if bad == "loses the second of a batch" and at == 1:
                    continue
                if bad == "knows what it has seen" and frame in seen and len(frames) > 7:
                    continue
                seen.add(frame)
                events += some
            return events

        return parsed

    def _events(self, feed: Feed, said: dict[str, Any], symbol: str, recv: int) -> list[Event]:
        bad, venue, channel, data = self.defect, feed.venue, said["c"], said["d"]
        number: Callable[[str], Decimal] = Decimal
        if bad == "goes through float":
            number = lambda text: Decimal(str(float(text)))  # noqa: E731
        scale = 1000 if bad == "takes ms for us" else MS
        recv = 0 if bad == "no recv" else recv
        if bad == "guesses the time":
            scale = MS + random.randrange(2)
        if channel == "trades":
            trades: list[Event] = []
            for number_, price, size, side, ms in data:
                if bad == "loses a trade" and number_ == 40:
                    continue
                side = {"buy": "sell", "sell": "buy"}[side] if bad == "turns sides round" else side
                name = "x-trades" if bad == "another channel" else channel
                values = number(price), number(size)
                number_ = number_ * 2 if bad == "numbers with holes" else number_
                trades.append(Trade(venue, symbol, ms * scale, recv, *values, side, number_, name))
                if bad == "says a trade twice" and number_ == 40:
                    trades.append(trades[-1])
            return trades
        ms, *texts = data
        place = venue, symbol, ms * scale, recv
        if channel == "quotes":
            bid, bid_size, ask, ask_size = map(number, texts)
            if bad == "crosses quotes":
                bid, ask = ask, bid
            return [Quote(*place, bid, bid_size, ask, ask_size)]
        if channel == "ticker":
            last, open_, high, low, volume, value = map(number, texts)
            if bad == "mistakes high for low":
                high, low = low, high
            return [Ticker(*place, last, open_, high, low, volume, value)]
        if channel == "book":
            kind, first, last, previous, bids, asks = texts
            if bad == "keeps what is gone":
                bids = [level for level in bids if number(level[1])]
                asks = [level for level in asks if number(level[1])]
            if bad == "forgets the sequence" and kind == "delta":
                previous += 1
            if bad == "drops the previous id":
                previous = None
            if bad == "drops the ids of losses":
                first = previous = None
            return [Book(*place, kind, bids, asks, first, last, previous)]
        *prices, volume, value, trades_, closed = texts
        numbers = [*map(number, prices)]
        if bad == "closes with the open":
            numbers[3] = numbers[0]
        if bad == "closes no bar":
            closed = False
        return [
            Bar(
                *place, channel[7:], *numbers, number(volume), number(value), Decimal(0), Decimal(0),
                trades_, closed, channel=channel, origin="live",
            )
        ]  # fmt: skip


class History:
    def __init__(self, feed: Feed, defect: str) -> None:
        self.feed, self.defect = feed, defect

    def listing_request(self) -> Request:
        return Request(url=f"{self.feed.settings.url}/list")

    def request(self, want: HistoryQuery) -> Request | None:
        if want.kind == "book" or want.channel == "agg_trades":
            return None
        late = self.defect == "begins a page one late"
        after = want.after_id
        if after is not None and self.defect == "begins after the id one late":
            after += 1  # type: ignore[operator]
        query = {
            "s": want.symbol,
            "since": (want.since or 0) // MS + late,
            "until": (want.until or 10**19) // MS,
            "after": after or 0,
        }
        return Request(url=f"{self.feed.settings.url}/{want.kind}?{urlencode(query)}", paged=True)

    def read_listing(self, body: bytes) -> list[Instrument]:
        parsed = [Symbol.parse(symbol) for symbol in json.loads(body)]
        if self.defect == "lists half":
            parsed = parsed[1:]
        return [Instrument(str(p), f"{p.base}-{p.quote}", p.kind, p.base, p.quote) for p in parsed]

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        address = urlsplit(request.url)
        symbol = parse_qs(address.query)["s"][0]
        rows, venue = json.loads(body), self.feed.venue
        if self.defect == f"sends the newest of {address.path} first":
            rows.reverse()
        if self.defect == f"drops the last row of a page of {address.path}":
            rows = rows[:-1]
        if address.path == "/trades":
            if self.defect == "loses a past trade":
                del rows[3:4]
            if self.defect == "numbers past trades with holes":
                rows = [[row[0] * 3, *row[1:]] for row in rows]
            origin: Any = "live" if self.defect == "calls the past live" else "history"
            return [
                Trade(
                    venue, symbol, ms * MS, recv, Decimal(p), Decimal(s), side, i, "trades", origin
                )
                for i, p, s, side, ms in rows
            ]
        return [
            Bar(
                venue, symbol, ms * MS, recv, "1m", *map(Decimal, numbers), Decimal(0), Decimal(0),
                Decimal(0), trades, closed, channel="klines:1m", origin="history",
            )
            for ms, *numbers, trades, closed in rows
        ]  # fmt: skip

    def refusal_reason(self, status: int, body: bytes) -> str:
        return ""


# -------------------------------------------------------------------------------- the server's side


class Told:
    """A stream of one channel of one symbol."""

    def __init__(self, pit: SimulatedInstrument, market: Market, channel: str) -> None:
        self.pit, self.market, self.channel = pit, market, channel
        self.symbol = pit.symbol
        self.native = f"{pit.parsed_symbol.base}-{pit.parsed_symbol.quote}"
        self.name = f"{channel}|{self.native}"
        self.interval_ns = 1_000 * MS if channel in (*BARS, "ticker") else 0

    def start(self) -> None:
        self.known = 0

    def _say(self, data: Any) -> list[str]:
        return [json.dumps({"c": self.channel, "s": self.native, "d": data})]

    def _price(self, ticks: int) -> str:
        return str(ticks * self.pit.tick)

    def _size(self, lots: int) -> str:
        return str(lots * self.pit.lot)

    def trade(self, fill: Any) -> list[Any]:
        side = "buy" if fill.is_buy else "sell"
        return [fill.id, self._price(fill.price), self._size(fill.size), side, fill.ts // MS]

    def quote(self, ts: int, best: TopOfBook) -> list[Any]:
        bid, bid_size, ask, ask_size = best
        return [
            ts // MS,
            self._price(bid),
            self._size(bid_size),
            self._price(ask),
            self._size(ask_size),
        ]

    def bar(self, one: Any) -> list[Any]:
        prices = [self._price(ticks) for ticks in (one.open, one.high, one.low, one.close)]
        return [one.start // MS, *prices, self._size(one.volume), "0", one.trades]

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        if self.channel == "trades":
            return self._say([self.trade(fill) for fill in step.trades]) if step.trades else ()
        if self.channel == "quotes":
            return self._say(self.quote(step.ts, step.top_of_book)) if step.top_of_book else ()
        if not self.known:
            self.known, bids, asks = self.pit.book_snapshot(1_000_000)
            kind, first = "snapshot", None
        else:
            first = self.known + 1
            bids, asks = (sorted(side.items()) for side in self.pit.changes_since(self.known))
            self.known, kind = step.last_id, "delta"
            if step.last_id < first:
                return ()
        sides = [[[self._price(p), self._size(s)] for p, s in side] for side in (bids, asks)]
        # Ids have holes, so that only the previous one connects two messages.
        ids = first and 3 * first, 3 * self.known, first and 3 * (first - 1)
        return self._say([step.ts // MS, kind, *ids, *sides])

    def encode_tick(self, now: int) -> Sequence[str]:
        if self.channel == "ticker":
            day = self.pit.last_24h(now)
            if day is None:
                return ()
            prices = [self._price(p) for p in (day.close, day.open, day.high, day.low)]
            return self._say([now // MS, *prices, self._size(day.volume), "0"])
        ended = now % BARS[self.channel] == 0
        candle = self.pit.bar(self.channel[7:], now - (1 if ended else 0))
        return self._say([*self.bar(candle), ended]) if candle else ()


class Talk:
    rules = ConnectionRules(
        silence_timeout_seconds=30.0, ping_frames_count=False, max_age_seconds=86_400.0,
        message_rate=Rate(50, 1.0),
    )  # fmt: skip

    def __init__(self, side: Side, line: ClientConnection) -> None:
        self.side, self.line = side, line

    def opening_messages(self) -> Sequence[str]:
        return ()

    def receive(self, text: str) -> Sequence[str]:
        said = json.loads(text)
        if said["op"] == "ping":
            return ['{"pong":1}']
        for name in said["args"]:
            stream = self.side.streams[name]
            (self.line.subscribe if said["op"] == "sub" else self.line.unsubscribe)(stream)
        return [json.dumps({"ok": said["id"]})]

    def refuse(self, text: str) -> Sequence[str]:
        return [json.dumps({"error": "no", "id": json.loads(text)["id"]})]

    def closing_messages(self) -> Sequence[str]:
        return ['{"bye":1}']


class Side:
    dial_rate = None
    markets: Mapping[str, Sequence[str]] = MappingProxyType({"spot": ("BTC/USDT",)})
    faults: Mapping[str, frozenset[str]] = MappingProxyType({})

    def __init__(self, market: Market, defect: str) -> None:
        self.market, self.defect = market, defect
        told = [
            Told(pit, market, channel)
            for pit in market.instruments.values()
            for channel in CHANNELS
        ]
        self.streams = {one.name: one for one in told}

    def settings(self, url: str) -> dict[str, Any]:
        return {"url": url}

    def open_connection(self, call: HttpRequest, line: ClientConnection) -> Talk:
        return Talk(self, line)

    def respond(self, call: HttpRequest) -> HttpResponse:
        if call.path == "/list":
            return HttpResponse(json.dumps(list(self.market.instruments)))
        pit = self.market.instruments[call.query["s"]]
        told = Told(pit, self.market, "")
        since, until = int(call.query["since"]) * MS, int(call.query["until"]) * MS
        if call.path == "/trades":
            fills = pit.trades(int(call.query["after"]) + 1, 100_000)
            some = [fill for fill in fills if since <= fill.ts <= until][:PAGE]
            return HttpResponse(json.dumps([told.trade(fill) for fill in some]))
        candles = pit.bars("1m", since, until, 100)
        rows = []
        for one in candles:
            ms, *prices, volume, _, trades = told.bar(one)
            if self.defect == "answers other bars":
                prices[0] = "1"
            rows.append([ms, *prices, volume, trades, one.end <= self.market.now])
        return HttpResponse(json.dumps(rows))

    def request_cost(self, call: HttpRequest) -> None:
        return None

    def rate_limit_response(self, status: int, retry_after: int, budget: Any) -> HttpResponse:
        return HttpResponse("", status)

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> None:
        return None


class ToySimulator:
    def __init__(self, defect: str) -> None:
        self.defect = defect

    @hooks.hookimpl
    def simulate(self, market: Market) -> Side:
        return Side(market, self.defect)


class Contract(VenueContract):
    venue = "toy"
    markets = {"spot": ("BTC/USDT", "ETH/USDT")}
    channels = CHANNELS
    history = ("listing", "trades", "bars")
    secrets = {"key": KEY}
    unknown = ('{"news":"hello"}',)
    captures = {"toy/day": Capture(market="spot", symbols=("BTC/USDT",), channels=("trades",))}
    rate, seconds, speed, settle = 12.0, 70.0, 400.0, 55.0
    defect = ""

    def registry(self) -> Registry:
        registry = Registry({})
        registry.register(Toy(self.defect), "toy")
        return registry

    def simulators(self) -> Registry:
        registry = simulators({})
        registry.register(ToySimulator(self.defect), "toy")
        return registry


#: What is wrong with the venue, and the guarantee that it breaks.
DEFECTS = {
    "one name for all": "symbols",
    "a name for nonsense": "symbols",
    "acknowledges another message": "acknowledge",
    "forgets a subscription": "events",
    "refuses nothing in particular": "refuse",
    "waits for ever": "silence",
    "drops nothing": "unsubscribe",
    "another channel": "events",
    "no recv": "events",
    "loses the second of a batch": "batches",
    "garbage costs the batch": "poison",
    "garbage is gone": "poison",
    "swallows the unknown": "unknown",
    "counts nothing": "unknown",
    "rejects what nobody asked for": "unknown",
    "goes through float": "exact",
    "takes ms for us": "times",
    "turns sides round": "sides",
    "no limit declared": "limits",
    "no heartbeat": "heartbeat",
    "pings with the wrong kind": "heartbeat",
    "numbers with holes": "truth",
    "numbers past trades with holes": "history",
    "drops the previous id": "book",
    "drops the ids of losses": "book",
    "begins a page one late": "history",
    "begins after the id one late": "history",
    "sends the newest of /trades first": "history",
    "sends the newest of /bars first": "history",
    "drops the last row of a page of /trades": "history",
    "does not know the pong": "heartbeat",
    "does not know the farewell": "farewell",
    "keeps what is gone": "book",
    "forgets the sequence": "book",
    "lists half": "history",
    "loses a past trade": "history",
    "calls the past live": "history",
    "answers other bars": "history",
    "loses a trade": "truth",
    "says a trade twice": "truth",
    "crosses quotes": "truth",
    "mistakes high for low": "truth",
    "closes with the open": "truth",
    "closes no bar": "truth",
    "needs asyncio": "backends",
    "guesses the time": "deterministic",
    "knows what it has seen": "batches",
    "a key in a repr": "secrets",
}


@pytest.fixture
def tape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that records one frame, where captures are looked for."""
    monkeypatch.setenv("TAPELOOM_CAPTURES", str(tmp_path))

    def record(frame: str) -> None:
        (tmp_path / "toy").mkdir()
        line = json.dumps({"ts": 1.5, "frame": frame})
        (tmp_path / "toy/day.ws.jsonl").write_text(line + "\n")

    return record


GOOD = '{"c":"trades","s":"BTC-USDT","d":[[1,"2.50","1","buy",1700000000000]]}'


@pytest.mark.parametrize("word", VENUE)
def test_a_sound_venue_keeps_every_guarantee(word: str, tape: Callable[[str], None]) -> None:
    tape(GOOD)
    outcome = Contract().outcome(word, "spot")

    assert outcome is None


@pytest.mark.parametrize(("defect", "word"), DEFECTS.items())
def test_a_defect_breaks_the_guarantee_that_is_about_it(defect: str, word: str) -> None:
    cls = type("Defective", (Contract,), {"defect": defect})
    outcome = cls().outcome(word, "spot")

    assert isinstance(outcome, ContractViolation), outcome


def test_a_recorded_frame_that_is_not_understood_breaks_the_contract(
    tape: Callable[[str], None],
) -> None:
    tape('{"c":"trades","s":"BTC-USDT"}')
    cls = type("Recorded", (Contract,), {})

    assert isinstance(cls().outcome("captures", "spot"), ContractViolation)


@pytest.mark.parametrize("seconds", [30, 200, 290])
def test_bars_of_five_minutes_are_proven_at_any_time_of_day(
    seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    five, now = 300_000 * MS, time.time_ns()
    shift = seconds * 1_000 * MS - now % five
    shifted = SimpleNamespace(time_ns=lambda: time.time_ns() + shift)
    monkeypatch.setattr("tapeloom_testing.contract.recording.time", shifted)
    cls = type("AtThatTime", (Contract,), {"channels": ("trades", "klines:5m")})

    assert cls().outcome("truth", "spot") is None


def test_every_guarantee_has_a_defect_that_breaks_it() -> None:
    assert {*DEFECTS.values(), "captures"} == {*VENUE}


def test_what_does_not_apply_is_said_and_not_proven() -> None:
    cls = type("Without", (Contract,), {"without": {"sides": "it tells none", "truth x": "no"}})

    assert str(cls().outcome("sides", "spot")) == "it tells none"
    assert cls().reason("truth", "spot", "x") == "no"
    assert cls().reason("truth", "spot") == ""
