"""A hole is filled with what was missed, once each and in order, and its verdict is the truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import anyio
import pytest
import tapeloom
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Bar, Event, FeedSpec, Gap, Registry, Stack, Status, Trade
from tapeloom._gaps.gap_fill import GapFill
from tapeloom.plugin import Endpoint, HistoryQuery, Request
from tapeloom_testing import FakeVenue, FakeWire, WireEnd

ONE = Decimal(1)
SECOND = 1_000_000_000


def trade(number: int, ts: int, *, named: str = "id") -> Trade:
    name: Any = {"id": number, "name": f"x{number * 7919 % 1000:03}", "none": ""}[named]
    return Trade("acme", "BTC/USD", ts, ts, Decimal(number), ONE, "buy", name)


def gap_between(before: Trade, after: Trade) -> Gap:
    return Gap("acme", "BTC/USD", after.ts, after.ts, before.ts, after.ts, "disconnect",
               channel="trades")  # fmt: skip


def answer(how: str, want: HistoryQuery, sold: Sequence[Trade], size: int) -> list[Event]:
    """Answer as venues do: by number, by time, or with the newest few."""
    if how == "number":
        assert isinstance(want.after_id, int)
        return [t for t in sold if t.id > want.after_id][:size]  # type: ignore[operator]
    if how == "time":
        assert want.since is not None
        assert want.until is not None
        return [t for t in sold if want.since <= t.ts <= want.until][:size]
    return list(reversed(sold))[:size]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_was_delivered_and_what_was_fetched_are_all_that_was_sold_once_each(
    data: st.DataObject,
) -> None:
    how = data.draw(st.sampled_from(["number", "time", "newest"]))
    named = "id" if how == "number" else data.draw(st.sampled_from(["id", "name"]))
    steps = data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=40))
    sold, ts = [], 100
    for number, step in enumerate(steps, 1):
        ts += step
        sold.append(trade(number, ts, named=named))
    first = data.draw(st.integers(0, len(sold) - 2))
    next_ = data.draw(st.integers(first + 1, len(sold) - 1))
    size = data.draw(st.integers(3 if how == "time" else 1, 50))
    # A page by time must hold more than one moment's trades, or no asking on gets past them.
    size += max(sum(t.ts == u.ts for t in sold) for u in sold) if how == "time" else 0
    came = sold[: first + 1] + sold[next_:]
    fill = GapFill(gap_between(sold[first], sold[next_]), sold[first], sold[next_],
                lambda: {t.id for t in came})  # fmt: skip
    fetched: list[Event] = []
    while (want := fill.wants()) is not None:
        request = Request(url="", paged=how != "newest")
        fetched += fill.take(answer(how, want, sold, size), request)
    got = [int(event.price) for event in fetched if isinstance(event, Trade)]
    missed = [*range(first + 2, next_ + 1)]
    verdict = fill.verdict(7)

    assert len(set(got)) == len(got)
    assert set(got) <= set(missed)
    assert [sold[n - 1].ts for n in got] == sorted(sold[n - 1].ts for n in got)
    if verdict.state == "filled":
        assert sorted(got) == missed
    elif how != "newest":
        pytest.fail(f"{verdict.state}: {got} of {missed}")
    assert all(event.origin == "backfill" for event in fetched if isinstance(event, Trade))


def test_the_newest_few_fill_a_hole_only_if_they_reach_back_to_what_is_known() -> None:
    sold = [trade(n, n, named="name") for n in range(1, 21)]
    verdicts = []
    for size in (3, 9, 10, 11):
        fill = GapFill(gap_between(sold[9], sold[18]), sold[9], sold[18], lambda: {sold[19].id})
        got = []
        while fill.wants() is not None:
            got += fill.take(sold[::-1][:size], Request(url=""))
        verdicts.append((fill.verdict(0).state, len(got)))

    assert verdicts == [("partial", 1), ("partial", 7), ("partial", 8), ("filled", 8)]


def test_numbers_tell_how_many_are_missing_before_and_after() -> None:
    sold = [trade(n, n) for n in range(1, 21)]
    fill = GapFill(gap_between(sold[4], sold[14]), sold[4], sold[14])
    before = fill.missing
    fill.take(sold[5:9], Request(url="", paged=True))
    fill.take([], Request(url="", paged=True))
    told = fill.verdict(0)

    assert before == 9
    assert (told.state, told.missing) == ("partial", 5)


def test_trades_without_ids_are_taken_only_from_inside_the_hole() -> None:
    sold = [trade(n, n // 2, named="none") for n in range(1, 21)]
    fill = GapFill(gap_between(sold[5], sold[15]), sold[5], sold[15])
    got = fill.take(sold, Request(url="", paged=True))

    assert {event.ts for event in got} == {4, 5, 6, 7}


def test_bars_are_fetched_from_the_last_closed_one_to_the_one_that_is_live() -> None:
    def bar(n: int, closed: bool = True) -> Bar:
        place = "acme", "BTC/USD", n * 60, 0, "1m"
        return Bar(*place, *[ONE] * 8, 1, closed, channel="klines:1m")

    gap = Gap("acme", "BTC/USD", 9 * 60, 0, 4 * 60, 9 * 60, "disconnect", channel="klines:1m")
    fill = GapFill(gap, bar(4), bar(8, closed=False))
    want = fill.wants()
    got = fill.take([*map(bar, range(3, 9)), bar(9, closed=False)], Request(url="", paged=True))
    fill.take([], Request(url="", paged=True))

    assert want is not None
    assert (want.kind, want.interval) == ("bars", "1m")
    assert [event.ts // 60 for event in got] == [5, 6, 7]
    assert fill.verdict(0).state == "filled"


# -------------------------------------------------------------------------------- in a stream


def coin(n: int) -> dict[str, Any]:
    return {"s": "BTCUSD", "t": n * SECOND, "p": "1", "q": "1", "i": n}


class Shop:
    """Sells coin n at second n. Its first connection breaks after coin 5, the next one begins with 9."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.asked: list[str] = []
        self.turn = 0

    def get(self, path: str, default: Any = None) -> Any:
        if path == "/symbols":
            return 200, {}, b'["BTC/USD"]'
        self.asked.append(path)
        after = int(path.rpartition("=")[2])
        return self.status, {}, json.dumps([coin(n) for n in range(after + 1, 12)[:2]]).encode()

    async def serve(self, end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        self.turn += 1
        for n in (range(1, 6), range(9, 12))[self.turn > 1]:
            end.push(json.dumps(coin(n)))
        if self.turn == 1:
            end.close(1006)
        await anyio.sleep_forever()


async def events_of(registry: Registry, shop: Shop, **settings: Any) -> list[Event]:
    events: list[Event] = []
    venue = FakeVenue(lambda client: anyio.sleep_forever(), http=shop)  # type: ignore[arg-type]
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
    async with venue.serve():
        stack = Stack(feeds=(feed,), venues={"acme": {"rest": venue.url("http"), **settings}})
        dial = FakeWire(shop.serve).dial
        with anyio.fail_after(20):
            async with tapeloom.open(stack, registry=registry, dial=dial, seed=1) as stream:
                async for event in stream:
                    events.append(event)
                    told = any(isinstance(e, Gap) and e.state != "open" for e in events)
                    if told and {11, 5} <= {e.id for e in events if isinstance(e, Trade)}:
                        break
    return events


def story(events: list[Event]) -> list[Any]:
    return [
        (event.origin, event.id) if isinstance(event, Trade) else (event.state, event.missing)
        for event in events
        if isinstance(event, Trade | Gap)
    ]


async def test_what_a_lost_connection_has_cost_is_fetched_page_by_page(registry: Registry) -> None:
    shop = Shop()
    events = await events_of(registry, shop, past_trades=True)
    gaps = [event for event in events if isinstance(event, Gap)]
    told = story(events)

    assert told[5] == ("open", 3)
    assert [one for one in told if one[0] == "backfill"] == [("backfill", n) for n in (6, 7, 8)]
    assert told[-1] == ("filled", 0)
    assert [one[1] for one in told if one[0] == "live"] == [1, 2, 3, 4, 5, 9, 10, 11]
    assert {(gap.since, gap.until, gap.cause) for gap in gaps} == {
        (5 * SECOND, 9 * SECOND, "disconnect")
    }
    assert [path.rpartition("=")[2] for path in shop.asked] == ["5", "7"]


@pytest.mark.thorough
async def test_a_venue_that_refuses_leaves_the_hole_and_says_so(registry: Registry) -> None:
    events = await events_of(registry, Shop(status=403), past_trades=True)

    assert story(events)[-1] == ("unrecoverable", 3)
    assert "request_failed" in [event.state for event in events if isinstance(event, Status)]


async def test_a_venue_without_a_past_is_told_to_have_none_at_once(registry: Registry) -> None:
    shop = Shop()
    events = await events_of(registry, shop)

    assert ("unrecoverable", 3) in story(events)
    assert shop.asked == []


async def test_a_hole_in_which_nothing_was_sold_is_filled_as_it_is_told(registry: Registry) -> None:
    class Quiet(Shop):
        async def serve(self, end: WireEnd, endpoint: Endpoint) -> None:
            end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
            self.turn += 1
            for n in (range(1, 6), range(6, 12))[self.turn > 1]:
                end.push(json.dumps(coin(n)))
            if self.turn == 1:
                end.close(1006)
            await anyio.sleep_forever()

    shop = Quiet()
    events = await events_of(registry, shop, past_trades=True)

    assert [one for one in story(events) if one[0] != "live"] == [("filled", 0)]
    assert shop.asked == []
