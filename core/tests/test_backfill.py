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
from tapeloom._gaps.gap_fill import GapFill, TrackedGap
from tapeloom.plugin import Endpoint, HistoryQuery, Request, Subscription
from tapeloom_testing import FakeVenue, FakeWire, WireEnd

ONE = Decimal(1)
SECOND = 1_000_000_000


def trade(number: int, ts: int, *, named: str = "id") -> Trade:
    name: Any = {"id": number, "name": f"x{number * 7919 % 1000:03}", "none": ""}[named]
    return Trade("acme", "BTC/USD", ts, ts, Decimal(number), ONE, "buy", name)


def gap_between(before: Trade, after: Trade) -> TrackedGap:
    gap = Gap("acme", "BTC/USD", after.ts, after.ts, before.ts, after.ts, "disconnect", None, "open",
              "trades", before.id or None, after.id or None)  # fmt: skip
    return TrackedGap(gap, before.ts, before.id if isinstance(before.id, int) else None)


def filling(*gaps: TrackedGap, known: Sequence[int | str] = ()) -> GapFill:
    """Return a GapFill to which *gaps* were added, with *known* ids around them."""
    fill = GapFill(Subscription("BTC/USD", "trades"))
    for gap in gaps:
        fill.add(gap, known)
    return fill


def parts(events: Sequence[Event]) -> tuple[list[Trade], list[Gap]]:
    """Return the trades and the gaps of what a fill returned."""
    trades = [event for event in events if isinstance(event, Trade)]
    return trades, [event for event in events if isinstance(event, Gap)]


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
    gap = gap_between(trades[first], trades[next_])
    # The ids before the gap may be no longer known: other symbols have had many trades since.
    known = delivered[first + 1 :] if data.draw(st.booleans()) else delivered
    fill = filling(gap, known=[t.id for t in known if isinstance(t.id, str)])
    fetched: list[Event] = []
    while (query := fill.next_query()) is not None:
        request = Request(url="", paged=order != "newest")
        fetched += fill.process(answer(order, query, trades, size), request, 7)
    got = [int(event.price) for event in fetched if isinstance(event, Trade)]
    missed = [*range(first + 2, next_ + 1)]
    (report,) = parts(fetched)[1]

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
        fill = filling(gap_between(trades[9], trades[18]), known=[trades[9].id, trades[19].id])
        fetched: list[Event] = []
        while fill.next_query() is not None:
            fetched += fill.process(trades[::-1][:size], Request(url=""), 0)
        got, (report,) = parts(fetched)
        states.append((report.state, len(got)))

    assert states == [("partial", 1), ("partial", 7), ("partial", 8), ("filled", 8)]


@pytest.mark.parametrize("shift", [-5, 100], ids=["back", "forth"])
@pytest.mark.parametrize("size", [20, 12])
def test_the_order_of_an_answer_counts_before_its_times(size: int, shift: int) -> None:
    """While the connection was down, the venue's clock was set, and set right again."""
    trades = [trade(n, n + (shift if 10 < n < 15 else 0), named="name") for n in range(1, 21)]
    fill = filling(gap_between(trades[7], trades[17]), known=[t.id for t in trades[:8]])
    fill.next_query()
    got, (report,) = parts(fill.process(trades[::-1][:size], Request(url=""), 0))

    assert [t.id for t in got] == [t.id for t in trades[8:17]]
    assert report.state == "filled" if size == 20 else "partial"


def test_a_time_before_the_gap_does_not_show_that_an_answer_reaches_back_to_it() -> None:
    """The venue's clock was set back and forth again: what the answer lacks is not filled."""
    trades = [trade(n, n - (8 if 12 < n < 16 else 0), named="name") for n in range(1, 21)]
    fill = filling(gap_between(trades[7], trades[17]), known=[t.id for t in trades[:8]])
    fill.next_query()
    (report,) = parts(fill.process(trades[::-1][:8], Request(url=""), 0))[1]

    assert report.state == "partial"


def test_numeric_ids_count_what_is_missing_before_and_after_a_fill() -> None:
    trades = [trade(n, n) for n in range(1, 21)]
    gap = gap_between(trades[4], trades[14])
    fill = filling(gap)
    before = gap.missing
    for rows in (trades[5:9], []):
        fill.next_query()
        fetched = fill.process(rows, Request(url="", paged=True), 0)
    (report,) = parts(fetched)[1]

    assert before == 9
    assert (report.state, report.missing) == ("partial", 5)


def test_one_page_fills_every_gap_in_its_range() -> None:
    trades = [trade(n, n) for n in range(1, 101)]
    gaps = [gap_between(trades[n], trades[n + 2]) for n in range(0, 90, 5)]
    fill = filling(*gaps)
    query = fill.next_query()
    assert query is not None
    fetched = fill.process(answer("number", query, trades, 50), Request(url="", paged=True), 0)
    got, reports = parts(fetched)

    assert [int(t.price) for t in got] == [n + 2 for n in range(0, 50, 5)]
    assert [report.state for report in reports] == ["filled"] * 10
    assert [gap.gap.after_id for gap in fill.waiting] == [n + 1 for n in range(50, 90, 5)]


def test_a_late_trade_completes_its_gap_and_is_not_fetched_again() -> None:
    trades = [trade(n, n) for n in range(1, 11)]
    fill = filling(gap_between(trades[4], trades[7]))
    first, second = fill.live(trades[6]), fill.live(trades[5])

    assert first == [trades[6]]
    assert parts(second)[0] == [trades[5]]
    assert [(gap.state, gap.missing) for gap in parts(second)[1]] == [("filled", 0)]
    assert fill.next_query() is None


def test_the_oldest_of_too_many_gaps_is_given_up() -> None:
    trades = [trade(n, n) for n in range(1, 2101)]
    fill = filling(*(gap_between(trades[n], trades[n + 2]) for n in range(0, 2000, 2)))
    (given_up,) = fill.add(gap_between(trades[2000], trades[2002]))

    assert isinstance(given_up, Gap)
    assert (given_up.after_id, given_up.state) == (1, "unrecoverable")


def test_trades_without_ids_are_used_only_from_inside_the_gap() -> None:
    trades = [trade(n, n // 2, named="none") for n in range(1, 21)]
    fill = filling(gap_between(trades[5], trades[15]))
    fill.next_query()
    got, _ = parts(fill.process(trades, Request(url="", paged=True), 0))

    assert {event.ts for event in got} == {4, 5, 6, 7}


def test_bars_are_fetched_from_the_last_closed_one_to_the_live_one() -> None:
    def bar(n: int, closed: bool = True) -> Bar:
        place = "acme", "BTC/USD", n * 60, 0, "1m"
        return Bar(*place, *[ONE] * 8, 1, closed, channel="klines:1m")

    gap = Gap("acme", "BTC/USD", 8 * 60, 0, 4 * 60, 8 * 60, "disconnect", channel="klines:1m")
    fill = GapFill(Subscription("BTC/USD", "klines:1m"))
    fill.add(TrackedGap(gap, gap.since), [4 * 60])
    query = fill.next_query()
    rows = [*map(bar, range(3, 9)), bar(9, closed=False)]
    fetched = fill.process(rows, Request(url="", paged=True), 0)

    assert query is not None
    assert (query.kind, query.interval) == ("bars", "1m")
    assert [event.ts // 60 for event in fetched if isinstance(event, Bar)] == [5, 6, 7]
    assert isinstance(fetched[-1], Gap)
    assert fetched[-1].state == "filled"


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
