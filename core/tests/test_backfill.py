"""GapFill: missed events are delivered once each and in order, and the final state is right."""

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


def answer(order: str, query: HistoryQuery, trades: Sequence[Trade], size: int) -> list[Event]:
    """Answer as venues do: from an id on, in a time range, or with the newest trades."""
    if order == "number":
        assert isinstance(query.after_id, int)
        return [t for t in trades if t.id > query.after_id][:size]  # type: ignore[operator]
    if order == "time":
        assert query.since is not None
        assert query.until is not None
        return [t for t in trades if query.since <= t.ts <= query.until][:size]
    return list(reversed(trades))[:size]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_delivered_and_fetched_trades_are_all_trades_once_each(data: st.DataObject) -> None:
    order = data.draw(st.sampled_from(["number", "time", "newest"]))
    named = "id" if order == "number" else data.draw(st.sampled_from(["id", "name"]))
    steps = data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=40))
    trades, ts = [], 100
    for number, step in enumerate(steps, 1):
        ts += step
        trades.append(trade(number, ts, named=named))
    first = data.draw(st.integers(0, len(trades) - 2))
    next_ = data.draw(st.integers(first + 1, len(trades) - 1))
    size = data.draw(st.integers(3 if order == "time" else 1, 50))
    # A page by time must hold more than one moment's trades, or no next page gets past them.
    size += max(sum(t.ts == u.ts for t in trades) for u in trades) if order == "time" else 0
    delivered = trades[: first + 1] + trades[next_:]
    fill = GapFill(gap_between(trades[first], trades[next_]), trades[first], trades[next_],
                lambda: {t.id for t in delivered})  # fmt: skip
    fetched: list[Event] = []
    while (query := fill.next_query()) is not None:
        request = Request(url="", paged=order != "newest")
        fetched += fill.process(answer(order, query, trades, size), request)
    got = [int(event.price) for event in fetched if isinstance(event, Trade)]
    missed = [*range(first + 2, next_ + 1)]
    report = fill.report(7)

    assert len(set(got)) == len(got)
    assert set(got) <= set(missed)
    assert [trades[n - 1].ts for n in got] == sorted(trades[n - 1].ts for n in got)
    if report.state == "filled":
        assert sorted(got) == missed
    elif order != "newest":
        pytest.fail(f"{report.state}: {got} of {missed}")
    assert all(event.origin == "backfill" for event in fetched if isinstance(event, Trade))


def test_the_newest_trades_fill_a_gap_only_if_they_reach_back_to_a_known_one() -> None:
    trades = [trade(n, n, named="name") for n in range(1, 21)]
    states = []
    for size in (3, 9, 10, 11):
        fill = GapFill(
            gap_between(trades[9], trades[18]), trades[9], trades[18], lambda: {trades[19].id}
        )
        got = []
        while fill.next_query() is not None:
            got += fill.process(trades[::-1][:size], Request(url=""))
        states.append((fill.report(0).state, len(got)))

    assert states == [("partial", 1), ("partial", 7), ("partial", 8), ("filled", 8)]


def test_numeric_ids_count_what_is_missing_before_and_after_a_fill() -> None:
    trades = [trade(n, n) for n in range(1, 21)]
    fill = GapFill(gap_between(trades[4], trades[14]), trades[4], trades[14])
    before = fill.missing
    fill.process(trades[5:9], Request(url="", paged=True))
    fill.process([], Request(url="", paged=True))
    report = fill.report(0)

    assert before == 9
    assert (report.state, report.missing) == ("partial", 5)


def test_trades_without_ids_are_used_only_from_inside_the_gap() -> None:
    trades = [trade(n, n // 2, named="none") for n in range(1, 21)]
    fill = GapFill(gap_between(trades[5], trades[15]), trades[5], trades[15])
    got = fill.process(trades, Request(url="", paged=True))

    assert {event.ts for event in got} == {4, 5, 6, 7}


def test_bars_are_fetched_from_the_last_closed_one_to_the_live_one() -> None:
    def bar(n: int, closed: bool = True) -> Bar:
        place = "acme", "BTC/USD", n * 60, 0, "1m"
        return Bar(*place, *[ONE] * 8, 1, closed, channel="klines:1m")

    gap = Gap("acme", "BTC/USD", 9 * 60, 0, 4 * 60, 9 * 60, "disconnect", channel="klines:1m")
    fill = GapFill(gap, bar(4), bar(8, closed=False))
    query = fill.next_query()
    got = fill.process([*map(bar, range(3, 9)), bar(9, closed=False)], Request(url="", paged=True))
    fill.process([], Request(url="", paged=True))

    assert query is not None
    assert (query.kind, query.interval) == ("bars", "1m")
    assert [event.ts // 60 for event in got] == [5, 6, 7]
    assert fill.report(0).state == "filled"


# -------------------------------------------------------------------------------- in a stream


def trade_row(n: int) -> dict[str, Any]:
    return {"s": "BTCUSD", "t": n * SECOND, "p": "1", "q": "1", "i": n}


class Venue:
    """Trade n at second n. The first connection breaks after trade 5, the next begins with 9."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.asked: list[str] = []
        self.connection = 0

    def get(self, path: str, default: Any = None) -> Any:
        if path == "/symbols":
            return 200, {}, b'["BTC/USD"]'
        self.asked.append(path)
        after = int(path.rpartition("=")[2])
        rows = [trade_row(n) for n in range(after + 1, 12)[:2]]
        return self.status, {}, json.dumps(rows).encode()

    async def serve(self, end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
        self.connection += 1
        for n in (range(1, 6), range(9, 12))[self.connection > 1]:
            end.push(json.dumps(trade_row(n)))
        if self.connection == 1:
            end.close(1006)
        await anyio.sleep_forever()


async def events_of(registry: Registry, source: Venue, **settings: Any) -> list[Event]:
    events: list[Event] = []
    venue = FakeVenue(lambda client: anyio.sleep_forever(), http=source)  # type: ignore[arg-type]
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"])
    async with venue.serve():
        stack = Stack(feeds=(feed,), venues={"acme": {"rest": venue.url("http"), **settings}})
        dial = FakeWire(source.serve).dial
        with anyio.fail_after(20):
            async with tapeloom.open(stack, registry=registry, dial=dial, seed=1) as stream:
                async for event in stream:
                    events.append(event)
                    reported = any(isinstance(e, Gap) and e.state != "open" for e in events)
                    if reported and {11, 5} <= {e.id for e in events if isinstance(e, Trade)}:
                        break
    return events


def story(events: list[Event]) -> list[Any]:
    return [
        (event.origin, event.id) if isinstance(event, Trade) else (event.state, event.missing)
        for event in events
        if isinstance(event, Trade | Gap)
    ]


async def test_trades_missed_by_a_lost_connection_are_fetched_page_by_page(
    registry: Registry,
) -> None:
    source = Venue()
    events = await events_of(registry, source, past_trades=True)
    gaps = [event for event in events if isinstance(event, Gap)]
    items = story(events)

    assert items[5] == ("open", 3)
    assert [item for item in items if item[0] == "backfill"] == [("backfill", n) for n in (6, 7, 8)]
    assert items[-1] == ("filled", 0)
    assert [item[1] for item in items if item[0] == "live"] == [1, 2, 3, 4, 5, 9, 10, 11]
    assert {(gap.since, gap.until, gap.cause) for gap in gaps} == {
        (5 * SECOND, 9 * SECOND, "disconnect")
    }
    assert [path.rpartition("=")[2] for path in source.asked] == ["5", "7"]


async def test_a_refused_request_leaves_the_gap_unrecoverable(registry: Registry) -> None:
    events = await events_of(registry, Venue(status=403), past_trades=True)

    assert story(events)[-1] == ("unrecoverable", 3)
    assert "request_failed" in [event.state for event in events if isinstance(event, Status)]


async def test_without_history_a_gap_is_unrecoverable_at_once(registry: Registry) -> None:
    source = Venue()
    events = await events_of(registry, source)

    assert ("unrecoverable", 3) in story(events)
    assert source.asked == []


async def test_a_gap_without_missing_ids_is_reported_as_filled(registry: Registry) -> None:
    class Quiet(Venue):
        async def serve(self, end: WireEnd, endpoint: Endpoint) -> None:
            end.push(json.dumps({"ok": json.loads(await end.take())["id"]}))
            self.connection += 1
            for n in (range(1, 6), range(6, 12))[self.connection > 1]:
                end.push(json.dumps(trade_row(n)))
            if self.connection == 1:
                end.close(1006)
            await anyio.sleep_forever()

    source = Quiet()
    events = await events_of(registry, source, past_trades=True)

    assert [item for item in story(events) if item[0] != "live"] == [("filled", 0)]
    assert source.asked == []
