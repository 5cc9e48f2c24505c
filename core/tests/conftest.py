"""Fixtures of core's tests: both event loops, and Acme, a venue without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from tapeloom import Registry, Trade
from tapeloom.errors import RequestRefused
from tapeloom.events import Book, Event, Status
from tapeloom.hooks import hookimpl
from tapeloom.plugin import (
    Ack,
    Endpoint,
    Feed,
    Frames,
    HistoryQuery,
    Message,
    Notice,
    Parse,
    Pong,
    Refusal,
    Reply,
    Request,
    Respond,
    Subscription,
    Unrequested,
)
from tapeloom.symbols import Instrument
from tapeloom.units import Rate


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@attrs.frozen(kw_only=True)
class AcmeSettings:
    url: str = "ws://acme.invalid/ws"
    rest: str = ""
    silence: float = 60.0
    max_age: float | None = None
    per_connection: int = 100
    poisonous: bool = False
    past_trades: bool = False


def _subscription(name: str) -> Subscription:
    native, _, channel = name.partition("@")
    return Subscription(native.replace("USD", "/USD"), channel)


class AcmeCodec:
    """``{"op": "sub", "id": 1, "args": ["BTCUSD@trades"]}``, answered by ``{"ok": 1}``."""

    def native(self, symbol: str) -> str:
        return symbol.replace("/", "")

    def _messages(
        self, op: str, subscriptions: Sequence[Subscription], first: int
    ) -> list[Message]:
        return [
            Message(
                json.dumps(
                    {
                        "op": op,
                        "id": first + n,
                        "args": [
                            f"{self.native(s.symbol)}@{s.channel}"
                            for s in subscriptions[n * 10 :][:10]
                        ],
                    }
                ),
                tuple(subscriptions[n * 10 :][:10]),
                first + n,
            )
            for n in range((len(subscriptions) + 9) // 10)
        ]

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        return self._messages("sub", subscriptions, first_id)

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        return self._messages("unsub", subscriptions, first_id)

    def decode_reply(self, frame: bytes) -> Reply | Sequence[Reply] | None:
        try:
            reply = json.loads(frame)
        except ValueError:
            return None
        match reply:
            case [*several]:
                replies = [self.decode_reply(json.dumps(one).encode()) for one in several]
                return [reply for reply in replies if isinstance(reply, Reply)]
            case {"question": number}:
                return Respond(json.dumps({"answer": number}))
            case {"ok": id}:
                return Ack(id)
            case {"pong": _}:
                return Pong()
            case {"live": names}:
                return Ack(subscriptions=tuple(map(_subscription, names)))
            case {"not_live": names, "reason": reason}:
                return Refusal(reason, subscriptions=tuple(map(_subscription, names)))
            case {"error": reason, "pause": pause}:
                return Refusal(
                    reason, permanent=False, oldest_pending=True, retry_after_seconds=pause
                )
            case {"error": reason} if "id" not in reply:
                return Refusal(reason, oldest_pending=True)
            case {"error": reason, "id": id}:
                return Refusal(reason, id, permanent=not reply.get("busy"))
            case {"kind": kind}:
                return Unrequested(kind)
            case {"notice": kind, **rest}:
                return Notice(kind, closes_connection=bool(rest.get("ends")))
        return None


class AcmeHistory:
    def __init__(self, rest: str, past_trades: bool = False) -> None:
        self.rest = rest
        self.past_trades = past_trades

    def listing_request(self) -> Request | None:
        return Request(url=f"{self.rest}/symbols", weight=1, rate=Rate(10, 1.0))

    def request(self, query: HistoryQuery) -> Request | None:
        if query.kind == "trades" and self.past_trades:
            url = f"{self.rest}/trades?s={query.symbol}&after={query.after_id}"
            return Request(url=url, rate=Rate(10, 1.0), paged=True)
        if query.kind != "book":
            return None
        return Request(url=f"{self.rest}/book?s={query.symbol}", rate=Rate(10, 1.0))

    def read_listing(self, body: bytes) -> list[Instrument]:
        listed = []
        # A row is a symbol; or symbol, the venue's name, whether it is active, and whether it is halted.
        for row in json.loads(body):
            symbol, native, active, *halted = (row, "", True) if isinstance(row, str) else row
            native = native or symbol.replace("/", "")
            parts = symbol.split("/")
            options = {"active": active, "halted": any(halted)}
            listed.append(Instrument(symbol, native, "spot", *parts, **options))
        return listed

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        symbol = request.url.partition("?s=")[2].partition("&")[0]
        fields = json.loads(body)
        if "/trades" in request.url:
            return [
                Trade("acme", symbol, row["t"], recv, Decimal(row["p"]), Decimal(row["q"]), "buy",
                      row["i"], origin="history")
                for row in fields
            ]  # fmt: skip
        return [
            Book(
                "acme",
                symbol,
                recv,
                recv,
                "snapshot",
                fields["b"],
                fields["a"],
                last_id=fields["u"],
                origin="history",
            )
        ]

    def refusal_reason(self, status: int, body: bytes) -> str | RequestRefused:
        text = body.decode(errors="replace")
        match text.split():
            case ["wait", seconds]:
                return RequestRefused("wait a while", float(seconds))
            case ["never", *_]:
                return RequestRefused("never come back")
        return "" if "<" in text else text


class Acme:
    """One trade a frame: ``{"s": "BTCUSD", "t": 5, "p": "1.50", "q": "2", "i": 7}``."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.endpoint: dict[str, Any] = {}  #: endpoint fields that a test overrides

    @hookimpl
    def settings(self) -> type[Any]:
        return AcmeSettings

    @hookimpl
    def connect(self, feed: Feed) -> list[Endpoint]:
        self.calls.append("connect")
        settings = feed.settings
        endpoint = Endpoint(
            url=settings.url,
            name="main",
            channels=frozenset({"trades", "book"}),
            max_subscriptions=settings.per_connection,
            message_rate=Rate(50, 1.0),
            dial_rate=Rate(300, 300.0),
            silence_timeout_seconds=settings.silence,
            max_age_seconds=settings.max_age,
        )
        return [attrs.evolve(endpoint, **self.endpoint)]

    @hookimpl
    def subscribe(self, feed: Feed) -> AcmeCodec:
        self.calls.append("subscribe")
        return AcmeCodec()

    @hookimpl
    def history(self, feed: Feed) -> AcmeHistory | None:
        self.calls.append("history")
        settings = feed.settings
        return AcmeHistory(settings.rest, settings.past_trades) if settings.rest else None

    @hookimpl
    def parse(self, feed: Feed) -> Parse:
        self.calls.append("parse")
        names = feed.listing.unified
        poisonous = feed.settings.poisonous

        def trades(frames: Frames) -> list[Event]:
            out: list[Event] = []
            for frame in frames:
                if not frame.startswith(b'{"s"'):
                    out.extend(frames.on_control(frame))
                    continue
                if poisonous and b"poison" in frame:
                    raise RuntimeError("the parser did not expect this")
                push = json.loads(frame)
                symbol = names.get(push["s"])
                if symbol is None:
                    feed.counters["unrequested"] += 1
                    continue
                out.append(
                    Trade(
                        "acme",
                        symbol,
                        push["t"],
                        frames.recv,
                        Decimal(push["p"]),
                        Decimal(push["q"]),
                        "buy",
                        push["i"],
                    )
                )
            return out

        return trades


class Marker:
    """A stage that adds a Status after each trade, and ticks when a test sets `due`."""

    def __init__(self) -> None:
        self.stages: list[Any] = []

    @hookimpl
    def validate(self, feed: Feed) -> Any:
        stage = SimpleNamespace()

        class Stage:
            due: int | None = None
            fail = False

            def __call__(self, events: list[Event]) -> list[Event]:
                if self.fail:
                    raise RuntimeError("the stage broke")
                out: list[Event] = []
                for event in events:
                    out.append(event)
                    if isinstance(event, Trade):
                        out.append(
                            Status(event.venue, event.symbol, event.ts, event.recv, "marked")
                        )
                return out

            def tick(self, now: int) -> list[Event]:
                self.due = None
                return [Status("acme", "", now, now, "ticked")]

            def flush(self) -> list[Event]:
                return [Status("acme", "", 0, 0, "flushed")]

        stage = Stage()
        self.stages.append(stage)
        return stage


@pytest.fixture(scope="session")
def acme_class() -> type[Acme]:
    """For tests that need a new one for each of their examples."""
    return Acme


@pytest.fixture
def acme() -> Acme:
    return Acme()


@pytest.fixture
def marker() -> Marker:
    return Marker()


@pytest.fixture
def registry(acme: Acme, marker: Marker) -> Registry:
    """A registry in which nothing is installed but Acme and its stage."""
    registry = Registry({})
    registry.register(acme, "acme")
    registry.register(marker, "marker")
    return registry
