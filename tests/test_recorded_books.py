"""Books of recordings that other programs wrote: snapshots among the frames, and sides that empty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
import tapeloom
from tapeloom import Book, Event, FeedSpec, Gap, Quote, Reject, Stack, Status

pytestmark = pytest.mark.anyio

BIDS, ASKS = [["3400.10", "5.0"], ["3400.00", "7.5"]], [["3400.20", "4.0"], ["3400.30", "1.0"]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def depth(first: int, last: int, previous: int, bids: Any = (), asks: Any = ()) -> dict[str, Any]:
    """Return a delta as Binance's futures send it."""
    update = {
        "e": "depthUpdate", "E": last, "T": last, "s": "ETHUSDT",
        "U": first, "u": last, "pu": previous, "b": bids, "a": asks,
    }  # fmt: skip
    return {"stream": "ethusdt@depth@100ms", "data": update}


DELTAS = [
    depth(1001, 1005, 1000, [["3400.10", "2"]]),
    depth(1006, 1012, 1005, [["3400.10", "3.0"]], [["3400.20", "0"]]),
    depth(1013, 1020, 1012, [], [["3400.25", "2.2"]]),
]
ANSWER = {"lastUpdateId": 1010, "E": 90, "T": 88, "bids": BIDS, "asks": ASKS}


async def replayed(
    path: Path, frames: list[Any], feed: FeedSpec, seconds: float = 0.1, **settings: Any
) -> list[Event]:
    lines = [
        json.dumps({"ts": 1_719_700_000 + number * seconds, "frame": json.dumps(frame)})
        for number, frame in enumerate(frames)
    ]
    await anyio.Path(path).write_text("\n".join(lines) + "\n")
    async with tapeloom.replay(path, Stack(feeds=(feed,), **settings)) as stream:
        return [event async for event in stream]


def binance(*symbols: str) -> FeedSpec:
    return FeedSpec(
        "binance", symbols, ("trades", "book"), market="usdm", stages=("quality", "books")
    )


def states(events: list[Event]) -> list[str]:
    return [e.state for e in events if type(e) is Status and e.state in ("synced", "stale")]


@pytest.mark.parametrize("place", range(4))
async def test_a_book_answer_among_the_frames_is_the_snapshot(tmp_path: Path, place: int) -> None:
    frames = [*DELTAS[:place], ANSWER, *DELTAS[place:]]
    events = await replayed(tmp_path / "day.ws.jsonl", frames, binance("ETH/USDT:USDT"))
    quotes = [event for event in events if type(event) is Quote]

    assert states(events) == ["synced"]
    assert not [event for event in events if type(event) is Reject]
    assert [(str(quotes[-1].bid), str(quotes[-1].ask))] == [("3400.10", "3400.25")]


async def test_a_book_answer_is_not_used_where_its_symbol_is_not_known(tmp_path: Path) -> None:
    feed = binance("ETH/USDT:USDT", "BTC/USDT:USDT")
    events = await replayed(tmp_path / "day.ws.jsonl", [DELTAS[0], ANSWER, *DELTAS[1:]], feed)

    assert [event.rule for event in events if type(event) is Reject] == ["unreadable_frame"]
    assert states(events) == ["stale"]


async def test_other_frames_are_no_book_answers(tmp_path: Path) -> None:
    odd = [{}, [], {"lastUpdateId": 1}, {"bids": [], "asks": []}, "text", 7]
    events = await replayed(tmp_path / "day.ws.jsonl", odd, binance("ETH/USDT:USDT"))

    assert [event.rule for event in events if type(event) is Reject] == ["unreadable_frame"] * 6
    assert not [event for event in events if type(event) is Book]


async def test_a_book_answer_of_bybit_is_the_snapshot(tmp_path: Path) -> None:
    rows = {"s": "ETHUSDT", "b": BIDS, "a": ASKS, "u": 11, "seq": 5, "ts": 9, "cts": 8}
    answer = {"retCode": 0, "retMsg": "OK", "result": rows, "retExtInfo": {}, "time": 9}
    push = {
        "topic": "orderbook.1000.ETHUSDT", "type": "delta", "ts": 10, "cts": 10,
        "data": {"s": "ETHUSDT", "b": [["3400.15", "1"]], "a": [], "u": 12, "seq": 6},
    }  # fmt: skip
    feed = FeedSpec("bybit", ("ETH/USDT:USDT",), ("book",), market="linear", stages=("books",))
    venues = {"bybit": {"resync": "rest"}}
    events = await replayed(tmp_path / "day.ws.jsonl", [push, answer], feed, venues=venues)

    assert not [event for event in events if type(event) is Reject]
    assert states(events) == ["synced"]


@pytest.mark.parametrize(
    ("seconds", "word"), [(0.1, "the feed ended"), (4.0, "no snapshot within")]
)
async def test_a_book_without_a_snapshot_is_reported(
    tmp_path: Path, seconds: float, word: str
) -> None:
    path = tmp_path / "day.ws.jsonl"
    events = await replayed(path, DELTAS, binance("ETH/USDT:USDT"), seconds)
    (status,) = [e for e in events if type(e) is Status and e.state == "stale"]

    assert word in status.detail
    assert (status.symbol, status.channel) == ("ETH/USDT:USDT", "book")


@pytest.mark.parametrize(
    "odd", [depth(1, 2, 0), depth(1013, 10**15, 1012)], ids=["ids go back", "a huge id"]
)
async def test_a_book_that_stops_following_is_reported_and_rebuilt(
    tmp_path: Path, odd: dict[str, Any]
) -> None:
    first = odd["data"]["u"] + 1 if odd["data"]["u"] < 1000 else 1021
    later = [depth(first + n, first + n, first + n - 1) for n in range(5)]
    for number, frame in enumerate([*DELTAS[:2], odd, *later]):
        frame["data"]["T"] = frame["data"]["E"] = 1_719_700_000_000 + number * 100
    answer = ANSWER | {"lastUpdateId": first + 2}
    frames = [DELTAS[0], ANSWER, DELTAS[1], odd, *later[:4], answer, later[4]]
    events = await replayed(tmp_path / "day.ws.jsonl", frames, binance("ETH/USDT:USDT"))
    books = [event for event in events if type(event) is Book and event.kind == "delta"]

    assert states(events) == ["synced", "stale", "synced"]
    assert {event.cause for event in events if type(event) is Gap} == {"sequence"}
    assert len(books) == 8  # none is rejected or withheld


async def test_each_emptied_side_of_partial_books_is_a_quote(tmp_path: Path) -> None:
    bid, ask = ({"px": "0.19", "sz": "100", "n": 1}, {"px": "0.20", "sz": "50", "n": 1})
    sides = [([], []), ([bid], [ask]), ([bid], []), ([], []), ([], [ask])]
    frames = [
        {
            "channel": "l2Book",
            "data": {"coin": "PURR/USDC", "time": 1_719_700_000_000 + n * 500, "levels": levels},
        }
        for n, levels in enumerate(sides)
    ]
    feed = FeedSpec(
        "hyperliquid", ("PURR/USDC",), ("book:20",), market="spot", stages=("quality", "books")
    )
    stages = {"books": {"channels": ["book:20"]}}
    events = await replayed(tmp_path / "hl.ws.jsonl", frames, feed, stages=stages)
    quotes = [event for event in events if type(event) is Quote]

    assert [(q.bid is not None, q.ask is not None) for q in quotes] == [
        (bool(bids), bool(asks)) for bids, asks in sides
    ]
    assert not [event for event in events if type(event) is Reject]
