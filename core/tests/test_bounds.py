"""Values out of bounds are rejected before anything else sees them, wherever they come from."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
import tapeloom
from tapeloom import (
    Bar,
    Book,
    Event,
    FeedSpec,
    Gap,
    Quote,
    Registry,
    Reject,
    Stack,
    Status,
    Ticker,
    Trade,
    decode,
    encode,
)
from tapeloom._connection.frame_intake import guarded
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Endpoint, Frames, TradeBatch
from tapeloom.plugin.bounds import number, reject_out_of_bounds
from tapeloom_testing import FakeVenue, FakeWire, WireEnd

ONE = Decimal(1)
GOOD = {"s": "BTCUSD", "t": 5, "p": "1.50", "q": "2", "i": 7}
#: What a venue may write into one field of a trade, by the name that a test shows.
BAD: dict[str, dict[str, Any]] = {
    "a time of 4,200 digits": {"t": int("9" * 4200)},
    "a time of the year 33658": {"t": 10**18 * 1000},
    "a time before 1970": {"t": -1},
    "an id of 4,200 digits": {"i": int("9" * 4200)},
    "a negative id beyond 64 bits": {"i": -(2**63)},
    "a text id of 5,000 characters": {"i": "x" * 5000},
    "a text id with an escape sequence": {"i": "\x1b[2J"},
    "a price of a million zeros": {"p": "1E-999999"},
    "a price of a million digits": {"p": "1E+999999"},
    "a zero of a million digits": {"q": "0E-999999"},
    "a price of 3,000 digits": {"p": "1" * 3000},
    "a size that is no number": {"q": "NaN"},
    "a size that signals that it is no number": {"q": "sNaN"},
    "an infinite price": {"p": "-Infinity"},
}


def check(events: list[Event]) -> None:
    """Check that a good trade came, then one Reject that can be written in few characters, then a good one."""
    first, rejected, last = (event for event in events if isinstance(event, Trade | Reject))

    assert isinstance(first, Trade)
    assert isinstance(last, Trade)
    assert isinstance(rejected, Reject)
    assert (rejected.rule, rejected.symbol, rejected.channel) == (
        "out_of_bounds",
        "BTC/USD",
        "trades",
    )
    assert rejected.event is None
    assert 20 < len(rejected.evidence) < 300
    assert decode(encode(rejected)) == rejected
    assert not [event for event in events if isinstance(event, Status) and event.state == "failed"]


def rows(bad: dict[str, Any]) -> list[dict[str, Any]]:
    return [GOOD, {**GOOD, **bad}, {**GOOD, "i": 9}]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_frame_with_a_value_out_of_bounds_is_rejected(
    registry: Registry, bad: dict[str, Any]
) -> None:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        end.push(*map(json.dumps, rows(bad)))
        await anyio.sleep_forever()

    stack = Stack(feeds=(FeedSpec("acme", ["BTC/USD"], ["trades"]),))
    events: list[Event] = []
    with anyio.fail_after(10):
        async with tapeloom.open(stack, registry=registry, dial=FakeWire(answer).dial) as stream:
            async for event in stream:
                events.append(event)
                if sum(isinstance(e, Trade | Reject) for e in events) == 3:
                    break

    check(events)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_tape_with_a_value_out_of_bounds_is_replayed(
    registry: Registry, tmp_path: Path, bad: dict[str, Any]
) -> None:
    tape = tmp_path / "day.ws.jsonl"
    lines = [json.dumps({"ts": 1, "frame": json.dumps(row)}) for row in rows(bad)]
    tape.write_text("\n".join(lines))
    stack = Stack(feeds=(FeedSpec("acme", ["BTC/USD"], ["trades"]),))
    async with tapeloom.replay(tape, stack, registry=registry) as stream:
        events = [event async for event in stream]

    check(events)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_recorded_answer_with_a_value_out_of_bounds_is_replayed(
    registry: Registry, tmp_path: Path, bad: dict[str, Any]
) -> None:
    tape = tmp_path / "day.ws.jsonl"
    url = "http://acme.invalid/trades?s=BTC/USD&after=1"
    tape.write_text(
        json.dumps({"ts": 1, "url": url, "request": "", "answer": json.dumps(rows(bad))})
    )
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
    stack = Stack(feeds=(feed,), venues={"acme": {"rest": "http://acme.invalid"}})
    async with tapeloom.replay(tape, stack, registry=registry) as stream:
        events = [event async for event in stream]

    check(events)


class Missed:
    """A venue that breaks the connection after trade 1 and answers with rows over REST."""

    def __init__(self, bad: dict[str, Any]) -> None:
        self.bad = bad
        self.connections = 0

    def get(self, path: str, default: Any = None) -> Any:
        if path == "/symbols":
            return 200, {}, b'["BTC/USD"]'
        after = int(path.rpartition("=")[2])
        found = [{**GOOD, "t": 2, "i": 2}, {**GOOD, "t": 3, "i": 3, **self.bad}]
        return 200, {}, json.dumps(found if after == 1 else []).encode()

    async def serve(self, end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        self.connections += 1
        if self.connections == 1:
            end.push(json.dumps({**GOOD, "t": 1, "i": 1}))
            end.close(1006)
        else:
            end.push(json.dumps({**GOOD, "t": 4, "i": 4}))
        await anyio.sleep_forever()


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_an_answer_with_a_value_out_of_bounds_keeps_its_other_rows(
    registry: Registry, bad: dict[str, Any]
) -> None:
    source = Missed(bad)
    venue = FakeVenue(lambda client: anyio.sleep_forever(), http=source)  # type: ignore[arg-type]
    events: list[Event] = []
    async with venue.serve():
        rest = {"rest": venue.url("http"), "past_trades": True}
        feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
        stack = Stack(feeds=(feed,), venues={"acme": rest})
        dial = FakeWire(source.serve).dial
        with anyio.fail_after(20):
            async with tapeloom.open(stack, registry=registry, dial=dial, seed=1) as stream:
                async for event in stream:
                    events.append(event)
                    if isinstance(event, Gap) and event.state != "open":
                        break

    assert [event.id for event in events if isinstance(event, Trade)] == [1, 4, 2]
    assert not [event for event in events if isinstance(event, Status) and "fail" in event.state]
    assert all(decode(encode(event)) == event for event in events)


class Pump:
    """A source of three trades, the second one bad."""

    backends = frozenset({"asyncio", "trio"})
    channels = frozenset({"trades"})
    resumes = False

    def __init__(self, trades: list[Event]) -> None:
        self.trades = trades

    @hookimpl
    def connect(self, feed: Any) -> Pump:
        return self

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        await deliver(self.trades)

    def symbols_changed(self) -> None:
        pass


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_source_with_a_value_out_of_bounds_is_rejected(
    registry: Registry, bad: dict[str, Any]
) -> None:
    trades: list[Event] = [
        Trade("pump", "BTC/USD", row["t"], 1, Decimal(row["p"]), Decimal(row["q"]), None, row["i"])
        for row in rows(bad)
    ]
    registry.register(Pump(trades), "pump")
    stack = Stack(feeds=(FeedSpec("pump", ["BTC/USD"], ["trades"]),))
    async with tapeloom.open(stack, registry=registry) as stream:
        events = [event async for event in stream]

    check(events)


HUGE = 10**4200
TINY = Decimal("1E-999999")


BAD_EVENTS: list[Event] = [
    Quote("a", "B/C", 1, 1, TINY, ONE, ONE, ONE),
    Quote("a", "B/C", 1, 1, ONE, ONE, ONE, ONE, HUGE),
    Book("a", "B/C", HUGE, 1, "delta", [("1", "2")], []),
    Book("a", "B/C", 1, 1, "delta", [("1", "2")], [], 1, HUGE),
    Book("a", "B/C", 1, 1, "delta", [("1", "2")], [("1", "2"), ("1E-999999", "2")]),
    Book("a", "B/C", 1, 1, "delta", [("1" * 41, "2")], []),
    Book("a", "B/C", 1, 1, "delta", [("1", "many")], []),
    Book("a", "B/C", 1, 1, "delta", [("1", "1.2.3")], []),
    Book("a", "B/C", 1, 1, "delta", [("1", "")], []),
    Book("a", "B/C", 1, 1, "delta", [], [], -HUGE),
    Book("a", "B/C", 1, 1, "delta", [(ONE, TINY)], []),
    Bar("a", "B/C", 1, 1, "1m", ONE, ONE, ONE, ONE, TINY, None, None, None, 1),
    Bar("a", "B/C", HUGE, 1, "1m", ONE, ONE, ONE, ONE, ONE, None, None, None, 1),
    Bar("a", "B/C", 1, 1, "1m", ONE, ONE, ONE, ONE, ONE, None, None, None, HUGE),
    Ticker("a", "B/C", 1, 1, ONE, None, None, None, TINY, None),
    Gap("a", "B/C", 1, 1, -HUGE, 1, "reset"),
    Status("a", "B/C", HUGE, 1, "halted"),
    Reject("a", "B/C", 1, 1, "duplicate", "", Trade("a", "B/C", HUGE, 1, ONE, ONE)),
]


@pytest.mark.parametrize("index", range(len(BAD_EVENTS)))
def test_every_value_of_every_type_of_event_is_checked(index: int) -> None:
    event = BAD_EVENTS[index]
    good = Trade("a", "B/C", 1, 1, ONE, ONE)
    first, rejected, last = reject_out_of_bounds([good, event, good])

    assert first is good
    assert last is good
    assert isinstance(rejected, Reject)
    assert rejected.rule == "out_of_bounds"
    assert 20 < len(rejected.evidence) < 400
    assert decode(encode(rejected)) == rejected


def test_events_within_the_bounds_are_the_same_list() -> None:
    events: list[Event] = [
        Trade("a", "B/C", 0, 0, Decimal("0.00"), Decimal("1E-40"), None, "x"),
        Trade("a", "B/C", 2**63 - 1, 0, Decimal("1E+40"), -ONE, None, 2**63 - 1),
        Book("a", "B/C", 1, 1, "snapshot", [("1.50", "2"), ("1E-8", "0")], [], None, -1),
        Book("a", "B/C", 1, 1, "snapshot", [(ONE, ONE)], []),
        Book("a", "B/C", 1, 1, "delta", [], []),
        Quote("a", "B/C", 1, 1, ONE, ONE, ONE, ONE),
        Gap("a", "", 1, 1, 0, 1, "disconnect"),
    ]

    assert reject_out_of_bounds(events) is events


def test_the_events_of_a_parser_that_keeps_the_bounds_itself_are_not_checked_again() -> None:
    class Parser:
        within_bounds = False

        def __call__(self, frames: Frames) -> list[Event]:
            return TradeBatch([Trade("a", "B/C", -1, 0, ONE, ONE)], [0])

    parser = Parser()
    [checked] = guarded(parser, "a", lambda *_: None)(Frames([b""]))
    parser.within_bounds = True
    [unchecked] = guarded(parser, "a", lambda *_: None)(Frames([b""]))

    assert isinstance(checked, Reject)
    assert isinstance(unchecked, Trade)


@pytest.mark.parametrize("text", ["0", "1.50", "-2", "1E-40", "0.000", "9" * 40, "1E+40"])
def test_a_number_keeps_all_its_digits(text: str) -> None:
    assert number(text).as_tuple() == Decimal(text).as_tuple()


@pytest.mark.parametrize("text", ["", "x", "1E-41", "9" * 41, "1E+41", "0E-999999", "1E+999999999"])
def test_a_number_out_of_bounds_raises(text: str) -> None:
    with pytest.raises(ArithmeticError):
        number(text)
