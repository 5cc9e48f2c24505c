"""Books kept over real frames, against figures that were computed another way."""

from __future__ import annotations

import gzip
import json
from bisect import bisect_right
from decimal import Decimal

import pytest
from tapeloom.events import Book, Gap, Quote, Status

BIG = [
    "binance_spot/btcusdt_20240808",
    "binance_usdm/btcusdt_20240718",
    "binance_coinm/ethusd_perp_20240808",
]
SMALL = ["binance_spot/cf_20211012", "binance_usdm/cf_20210722"]

KEYS = ["compared", "price_match", "price_and_qty_match"]


def lines(folder, capture):
    packed = folder / f"{capture}.ws.jsonl.gz"
    if packed.exists():
        text = gzip.decompress(packed.read_bytes()).decode()
    else:
        text = (folder / f"{capture}.ws.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def answers(folder, capture, frames):
    """The order-book snapshots by the number of frames before them."""
    index = folder / f"{capture}.rest.index.json"
    places: dict[int, list[tuple[str, dict]]] = {}
    for entry in json.loads(index.read_text()):
        if "/depth" not in entry["url"]:
            continue
        if "position" in entry:
            place = int(entry["position"].split()[1])
        else:
            place = sum(frame["ts"] < entry["ts"] for frame in frames)
        symbol = entry["url"].split("symbol=")[1].split("&")[0]
        body = json.loads((index.parent / entry["file"]).read_text())
        places.setdefault(place, []).append((symbol, body))
    return places


def from_rest(symbol, body):
    return Book(
        "v", symbol, 0, 0, "snapshot", body["bids"], body["asks"],
        last_id=body["lastUpdateId"], origin="history",
    )  # fmt: skip


def from_stream(payload):
    return Book(
        "v", payload["s"], payload["E"], 0, "delta", payload["b"], payload["a"],
        payload["U"], payload["u"], payload.get("pu"),
    )  # fmt: skip


class Trail:
    """What one book did, delta by delta."""

    def __init__(self) -> None:
        self.seen = self.updates = 0
        self.bests: list[tuple[int, tuple[Decimal, ...] | None]] = []
        self.events: list[object] = []
        self.tickers: list[tuple[int, tuple[Decimal, ...]]] = []


def follow(folder, capture, rig):
    frames = lines(folder, capture)
    places = answers(folder, capture, frames)
    trails: dict[str, Trail] = {}
    for number, frame in enumerate([*frames, {"frame": "{}"}]):
        for symbol, body in places.get(number, ()):
            trail = trails.setdefault(symbol, Trail())
            trail.events += rig.send(from_rest(symbol, body))
            trail.updates = rig.book(symbol).updates
        payload = json.loads(frame["frame"])
        channel = payload.get("stream", "").partition("@")[2]
        payload = payload.get("data", {})
        if channel.startswith("depth"):
            trail = trails.setdefault(payload["s"], Trail())
            trail.seen += 1
            before = trail.updates
            trail.events += rig.send(from_stream(payload))
            book = rig.book(payload["s"])
            trail.updates = book.updates
            if book.updates > before:
                best = (*book.best_bid, *book.best_ask) if book.best_bid and book.best_ask else None
                trail.bests.append((payload["u"], best))
        elif channel == "bookTicker":
            best = tuple(Decimal(payload[key]) for key in "bBaA")
            trails.setdefault(payload["s"], Trail()).tickers.append((payload["u"], best))
    return trails


@pytest.mark.parametrize("capture", [*BIG, *SMALL])
def test_books_equal_the_oracles_and_the_venues_own_best_prices(capture, captures, bench):
    oracles = json.loads((captures / "oracles" / "oracles.json").read_text())
    symbols = oracles["captures"][capture]["symbols"]
    rig = bench()
    trails = follow(captures, capture, rig)
    for symbol, oracle in symbols.items():
        truth, book, trail = oracle["depth"], rig.book(symbol), trails[symbol]
        final, top5 = truth["final_book"], truth["final_book"]["top5"]
        statuses = [event.state for event in trail.events if type(event) is Status]

        assert statuses == ["synced"]
        assert truth["sequence_gaps"] == sum(type(event) is Gap for event in trail.events)
        assert truth["n"] == trail.seen
        assert truth["applied"] == book.updates
        assert truth["dropped_before_snapshot"] == trail.seen - book.updates
        assert (final["n_bids"], final["n_asks"]) == (len(book.bids), len(book.asks))
        assert [tuple(map(Decimal, level)) for level in top5["bids"]] == book.bids.top(5)
        assert [tuple(map(Decimal, level)) for level in top5["asks"]] == book.asks.top(5)

        compared, prices, both = agreement(trail)
        check = truth.get("check_vs_bookTicker", dict.fromkeys(KEYS, compared))

        assert check["compared"] - compared in held(trail, book)
        assert compared - prices == check["compared"] - check["price_match"]
        assert compared - both == check["compared"] - check["price_and_qty_match"]
    assert len(rig.wants) == len(symbols)


def held(trail, book):
    """How many deltas came before the snapshot and were applied with it: no best in between."""
    return range(book.updates - len(trail.bests) + 1)


def agreement(trail):
    """Count the deltas after which the book was the ticker with the greatest id not above."""
    ids = [last for last, _ in trail.tickers]
    compared = prices = both = 0
    for last, best in trail.bests:
        place = bisect_right(ids, last)
        if not place:
            continue
        ticker = trail.tickers[place - 1][1]
        compared += 1
        prices += best is not None and best[::2] == ticker[::2]
        both += best == ticker
    return compared, prices, both


@pytest.mark.parametrize("capture", BIG[:1])
def test_quotes_are_the_bests_without_repetition(capture, captures, bench):
    trail = follow(captures, capture, bench())["BTCUSDT"]
    bests = [best for _, best in trail.bests]
    changes = [best for before, best in zip([None, *bests], bests, strict=False) if best != before]
    quotes = [(e.bid, e.bid_size, e.ask, e.ask_size) for e in trail.events if type(e) is Quote]

    assert changes == quotes[-len(changes) :]
    assert len(quotes) - len(changes) <= 1  # the one of the snapshot itself


def test_a_book_with_its_snapshot_in_the_stream_agrees_with_the_venues_first_level(captures, bench):
    oracles = json.loads((captures / "oracles" / "oracles.json").read_text())
    oracle = oracles["captures"]["bybit/v5_spot_testnet_20260913"]
    rig = bench()
    first_levels, deep, events = {}, {}, []
    for line in lines(captures, "bybit/v5_spot_testnet_20260913"):
        frame = json.loads(line["frame"])
        topic, payload = frame.get("topic", ""), frame.get("data")
        if topic == "orderbook.1.BTCUSDT":
            first_levels[payload["seq"]] = [
                tuple(map(Decimal, payload[side][0])) for side in ("b", "a")
            ]
        elif topic == "orderbook.50.BTCUSDT":
            ids = () if frame["type"] == "snapshot" else (payload["u"],)
            events += rig.send(
                Book(
                    "v", "A/B", frame["ts"], 0, frame["type"], payload["b"], payload["a"],
                    *(ids or (None,)), payload["u"],
                )
            )  # fmt: skip
            deep[payload["seq"]] = [rig.book().best_bid, rig.book().best_ask]
    shared = deep.keys() & first_levels.keys()
    final = oracle["symbols"]["orderbook.50.BTCUSDT"]["depth"]["final_book"]

    assert len(shared) == oracle["check_deep_book_vs_orderbook1_same_seq"]["compared"] == 12
    assert all(deep[number] == first_levels[number] for number in shared)
    assert rig.wants == []
    assert [event.state for event in events if type(event) is Status] == ["synced"]
    assert not any(type(event) is Gap for event in events)
    assert (final["n_bids"], final["n_asks"]) == (len(rig.book().bids), len(rig.book().asks))
    assert [tuple(map(Decimal, level)) for level in final["top5"]["asks"]] == rig.book().asks.top(5)
