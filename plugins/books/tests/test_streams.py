"""Whole streams of several symbols, with losses, against a book kept the plain way."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.events import Book, Gap, Quote, Status

SECOND = 1_000_000_000


class Market:
    """One symbol: a plain dict of its levels, and a picture of it at every update id."""

    def __init__(self, symbol: str, *, linked: bool) -> None:
        self.symbol = symbol
        self.linked = linked
        self.levels: dict[tuple[str, Decimal], str] = {}
        self.pictures: list[tuple[int, dict[tuple[str, Decimal], str]]] = [(100, {})]
        self.end = 100

    def move(self, chance, recv: int) -> Book:
        """Change one to five levels, an id each, and return the delta that says so."""
        previous, first, changed = self.end, None, {}
        for _ in range(chance.randint(1, 5)):
            self.end += chance.randint(1, 9) if self.linked else 1
            first = first or self.end
            side = chance.choice(["bids", "asks"])
            ticks = chance.randint(1, 40) if side == "bids" else chance.randint(41, 80)
            size = chance.choice(["0", "0.000", "0E-8", "1.5", "2", "3.25"])
            changed[side, Decimal(ticks).scaleb(-1)] = size
            self.levels.pop((side, Decimal(ticks).scaleb(-1)), None)
            if Decimal(size):
                self.levels[side, Decimal(ticks).scaleb(-1)] = size
            self.pictures.append((self.end, dict(self.levels)))
        raw = {
            wanted: [
                (chance.choice([str(price), f"{price:.3f}"]), size)
                for (side, price), size in changed.items()
                if side == wanted
            ]
            for wanted in ("bids", "asks")
        }
        return Book(
            "acme", self.symbol, self.end, recv, "delta", raw["bids"], raw["asks"],
            first, self.end, previous if self.linked else None,
        )  # fmt: skip

    def picture(self, ids_ago: int, recv: int, origin: str) -> Book:
        last, levels = self.pictures[-1 - min(ids_ago, len(self.pictures) - 1)]
        sides = {
            wanted: [
                (f"{price:.2f}", size) for (side, price), size in levels.items() if side == wanted
            ]
            for wanted in ("bids", "asks")
        }
        return Book(
            "acme", self.symbol, last, recv, "snapshot", sides["bids"], sides["asks"],
            None, last, origin=origin,
        )  # fmt: skip

    def at(self, last: int) -> dict[tuple[str, Decimal], Decimal]:
        levels = next(levels for end, levels in reversed(self.pictures) if end <= last)
        return {level: Decimal(size) for level, size in levels.items()}


def check(book, market: Market) -> None:
    if not book.synced:
        assert len(book.bids) == len(book.asks) == 0
        return
    kept = {("bids", price): size for price, size in book.bids}
    kept |= {("asks", price): size for price, size in book.asks}

    assert market.at(book.sequence) == kept


STEPS = ["move"] * 12 + ["answer", "answer", "lose", "twice", "disconnect", "snapshot", "tick"]


def play(rig, chance, markets: list[Market], steps: int, troubled: set[str]):
    """Send a stream step by step, checking each book; return the batches as they were sent."""
    sent, told, holes, answered = [], [], Counter(), Counter()
    for recv in range(SECOND, (steps + 1) * SECOND, SECOND):
        market = chance.choice(markets)
        step = chance.choice(STEPS)
        well = market.symbol not in troubled
        if step == "tick":
            sent.append(recv)
            rig.stage.tick(recv)
            continue
        if step == "answer":
            asked = sum(want.symbol == market.symbol for want in rig.wants)
            if asked <= answered[market.symbol]:
                continue
            answered[market.symbol] += 1
            batch = [market.picture(0 if well else chance.choice([0, 0, 2, 6]), recv, "history")]
        elif step == "snapshot" and not well:
            batch = [market.picture(0, recv, "live")]
        elif step == "disconnect" and not well:
            market.move(chance, recv)
            batch = [Gap("acme", market.symbol, recv, recv, 0, recv, "disconnect", channel="book")]
        elif step == "lose" and not well:
            market.move(chance, recv)
            continue
        else:
            batch = [market.move(chance, recv)] * (2 if step == "twice" else 1)
            if well and (market.symbol, "book") not in rig.stage.books:
                batch.append(market.picture(0, recv, "history"))
        sent.append(batch)
        told += (out := rig.send(*batch))
        holes[market.symbol] += sum(
            type(event) is Gap and event.cause == "sequence" for event in out
        )
        for each in markets:
            if (each.symbol, "book") in rig.stage.books:
                check(rig.book(each.symbol), each)
    return sent, told, holes


@pytest.mark.parametrize("linked", [True, False], ids=["linked", "counted"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_book_is_either_right_or_empty_and_comes_back(bench, linked, seed):
    chance = random.Random(seed)
    rig = bench(retry="3s", depth=3)
    markets = [Market(symbol, linked=linked) for symbol in ("A/B", "C/D", "E/F")]
    rig.feed.symbols.append("E/F")
    _, told, holes = play(rig, chance, markets, 120, troubled={"A/B", "C/D"})
    asked = Counter(want.symbol for want in rig.wants)

    # "E/F" lost nothing: whatever befell the others, it was asked for once and never went stale.
    assert holes["E/F"] == 0
    assert {"synced"} >= {e.state for e in told if type(e) is Status and e.symbol == "E/F"}
    assert asked["E/F"] <= 1

    for market in markets:
        if (market.symbol, "book") in rig.stage.books:
            rig.stage.tick(10**15)
            rig.send(market.move(chance, 10**15), market.picture(0, 10**15, "history"))
            rig.send(market.move(chance, 10**15))

            assert rig.book(market.symbol).synced
            assert rig.book(market.symbol).sequence == market.end
            check(rig.book(market.symbol), market)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(2, 50))
def test_the_output_is_the_same_whatever_the_batches(bench, seed, size):
    rig, again = bench(retry="3s", depth=3), bench(retry="3s", depth=3)
    markets = [Market("A/B", linked=True), Market("C/D", linked=False)]
    sent, told, _ = play(rig, random.Random(seed), markets, 150, troubled={"A/B", "C/D"})
    out, batch = [], []
    for step in [*sent, 0]:
        if isinstance(step, list):
            batch += step
            if len(batch) < size:
                continue
        out += again.send(*batch)
        batch = []
        if isinstance(step, int):
            again.stage.tick(step)

    assert told == out
    assert rig.wants == again.wants


def test_the_play_is_worth_playing(bench):
    """The streams above do lose, repair and quote."""
    seen = Counter()
    for seed in range(10):
        rig = bench(retry="3s", depth=3)
        markets = [Market("A/B", linked=True), Market("C/D", linked=False)]
        _, told, _ = play(rig, random.Random(seed), markets, 150, troubled={"A/B", "C/D"})
        seen += Counter(event.state for event in told if type(event) is Status)
        seen += Counter(type(event) for event in told if type(event) in (Gap, Quote))

    assert min(seen[kind] for kind in ("synced", "stale", Gap, Quote)) > 30
