"""What a `Market` keeps: candles against a brute force over all trades, bounds of memory, marks, health."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import count
from typing import ClassVar, Literal

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Bar, Book, Gap, Quote, Reject, Status, Ticker, Trade
from tapeloom.events import BaseEvent, GapState, Origin, event_class
from tapeloom.plugin import (
    ConnectionState,
    FeedState,
    QueueState,
    StageTime,
    StreamState,
    TradeBatch,
)  # fmt: skip
from tapeloom_screens import Limits, Market

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
#: A time that is the start of a minute and of an hour.
START = 1_767_225_600 * SECOND
V, S = "binance", "BTC/USDT"
numbers = count(1)


def trade(
    after: float = 0.0, price: str = "100", size: str = "1", *,
    symbol: str = S, lag: float = 0.01, id: int | str | None = None, origin: Origin = "live",
    recv: float | None = None, channel: str = "trades",
) -> Trade:  # fmt: skip
    ts = START + round(after * SECOND)
    ours = ts + round(lag * SECOND) if recv is None else START + round(recv * SECOND)
    number = next(numbers) if id is None else id
    return Trade(V, symbol, ts, ours, Decimal(price), Decimal(size), "buy", number, channel, origin)


def gap(
    since: float,
    until: float,
    state: GapState = "open",
    *,
    symbol: str = S,
    channel: str = "trades",
) -> Gap:
    first, last = START + round(since * SECOND), START + round(until * SECOND)
    return Gap(V, symbol, last, last, first, last, "disconnect", 5, state, channel, round(since))


def bar(start: float, *, interval: str = "1m", close: str = "100", **rest: object) -> Bar:
    ts = START + round(start * SECOND)
    price = Decimal(close)
    return Bar(
        V, S, ts, ts + MINUTE, interval, price, price + 1, price - 1, price, Decimal(3), None, None, None, 2,
        **rest,  # type: ignore[arg-type]
    )  # fmt: skip


def book(
    after: float, kind: Literal["snapshot", "delta"], bids: Sequence[Sequence[str]],
    asks: Sequence[Sequence[str]],
) -> Book:  # fmt: skip
    ts = START + round(after * SECOND)
    return Book(V, S, ts, ts, kind, bids, asks)


@event_class
class Basis(BaseEvent):
    """An event class of a plugin."""

    type: ClassVar[str] = "screens_basis"

    venue: str
    symbol: str
    ts: int
    recv: int
    value: Decimal
    channel: str = "basis"


def market_of(*events: BaseEvent, limits: Limits | None = None) -> Market:
    market = Market(limits)
    market.add(events)
    return market


# ---------------------------------------------------------------------------------------- candles

milliseconds = st.integers(0, 400_000)
prices = st.decimals(-5, 500, allow_nan=False, places=3)
sizes = st.decimals(0, 10**12, allow_nan=False, places=12)
traded = st.lists(
    st.tuples(milliseconds, prices, sizes, st.integers(1, 50)), min_size=1, max_size=60
)


@settings(max_examples=150, deadline=None)
@given(
    given_trades=traded,
    cuts=st.lists(st.integers(1, 9)),
    interval=st.sampled_from([1, 5, 60, 90, 300]),
)
def test_candles_equal_a_brute_force_over_the_trades_in_any_order_and_cut(
    given_trades: list[tuple[int, Decimal, Decimal, int]], cuts: list[int], interval: int
) -> None:
    trades = [
        trade(ms / 1000, str(price), str(size), id=number * 100 + place)
        for place, (ms, price, size, number) in enumerate(given_trades)
    ]
    market = Market()
    rest, lengths = [*trades], iter(cuts)
    while rest:
        length = next(lengths, len(rest))
        market.add(rest[:length])
        market.rows()
        rest = rest[length:]

    expected = brute_force(trades, interval * SECOND)
    found = market.candles(V, S, interval * SECOND)

    assert {
        candle.start: (
            candle.open, candle.high, candle.low, candle.close, candle.volume, candle.trades
        )
        for candle in found
    } == expected  # fmt: skip
    assert [candle.start for candle in found] == sorted(expected)


def brute_force(trades: Iterable[Trade], interval: int) -> dict[int, tuple[object, ...]]:
    by_start: dict[int, list[Trade]] = {}
    for found in sorted(trades, key=lambda one: (one.ts, one.id)):
        by_start.setdefault(found.ts // interval * interval, []).append(found)
    return {
        start: (
            run[0].price, max(one.price for one in run), min(one.price for one in run),
            run[-1].price, exact(one.size for one in run), len(run),
        )
        for start, run in by_start.items()
    }  # fmt: skip


def exact(sizes: Iterable[Decimal]) -> Decimal:
    return Decimal(sum(int(size.scaleb(12)) for size in sizes)).scaleb(-12)


def test_a_late_trade_and_backfill_land_in_their_candle_and_leave_the_last_price() -> None:
    market = market_of(trade(1, "100"), trade(62, "110"))
    market.rows()
    market.add([trade(30, "120", recv=63), trade(59, "90", origin="backfill", recv=64)])

    first, second = market.candles(V, S, "1m")

    assert (first.open, first.high, first.low, first.close, first.trades) == (100, 120, 90, 90, 3)
    assert (second.close, second.trades) == (110, 1)
    (row,) = market.rows()
    assert (row.last, row.direction) == (110, 1)


def test_a_late_trade_does_not_begin_a_dropped_candle_anew() -> None:
    market = Market(Limits(seconds=20))
    for second in range(100):
        market.add([trade(second)])
        market.rows()
    kept = [candle.start for candle in market.candles(V, S, "1s")]
    market.add([trade(3), trade(99.5)])

    assert 20 <= len(kept) <= 25
    assert [candle.start for candle in market.candles(V, S, "1s")] == kept
    fives = market.candles(V, S, "5s")
    assert all(candle.trades == 5 for candle in fives[:-1])  # one that is cut is left out


def test_trades_that_are_no_finite_numbers_are_in_no_candle() -> None:
    bad = [("NaN", "1"), ("Infinity", "1"), ("1", "NaN"), ("1", "-Infinity"), ("1", "Infinity")]
    market = market_of(
        *(trade(0.1, *pair) for pair in bad), trade(0.2), *(trade(0.3, *pair) for pair in bad)
    )
    market.add([trade(1, "NaN")])

    (candle,) = market.candles(V, S, "1s")

    assert (candle.open, candle.close, candle.volume, candle.trades) == (100, 100, 1, 1)


def test_a_second_channel_of_the_same_trades_is_not_counted_again() -> None:
    market = market_of(
        trade(), trade(channel="agg_trades"), trade(1), trade(1, channel="agg_trades")
    )

    assert sum(candle.trades or 0 for candle in market.candles(V, S, "1s")) == 2
    assert market.rows()[0].trades == 2
    assert set(market.rows()[0].age) == {"trades", "agg_trades"}


def test_bars_make_the_candles_where_there_are_no_trades() -> None:
    market = market_of(*(bar(60 * minute, close=str(minute + 100)) for minute in range(10)))

    five, ten = market.candles(V, S, "5m")

    assert (five.open, five.high, five.low, five.close) == (100, 105, 99, 104)
    assert (five.volume, five.trades, five.source) == (15, 10, "bars")
    assert ten.start == START + 5 * MINUTE
    assert market.candles(V, S, "30s") == []
    assert market.rows()[0].last == 109


def test_bars_go_before_the_trades_and_trades_are_not_mixed_with_them() -> None:
    market = market_of(bar(0), bar(60), bar(120, close="7"), trade(90, "50"), trade(121, "55"))

    sources = [(candle.source, candle.close) for candle in market.candles(V, S, "1m")]

    # The stream began in the midst of the second minute: its bar knows more than its trades.
    assert sources == [("bars", 100), ("bars", 100), ("trades", 55)]


def test_marks_say_where_a_gap_lies_and_which_bar_was_revised_or_is_not_complete() -> None:
    market = market_of(*(trade(second) for second in range(0, 360, 10)))
    market.add([gap(70, 130), gap(250, 255, "filled"), gap(251, 252, "partial")])
    market.add([gap(10, 20, symbol="ETH/USDT"), gap(10, 20, channel="book")])  # of others
    market.add([bar(180, revision=1), bar(300, complete=False)])

    marks = [(candle.gap, candle.revised, candle.complete) for candle in market.candles(V, S, "1m")]

    assert marks == [
        ("", False, False),  # the stream began in it
        ("open", False, True),
        ("open", False, True),
        ("", True, True),
        ("partial", False, True),
        ("", False, False),
    ]


@pytest.mark.parametrize("interval", ["500ms", 0, -SECOND, 1_500_000_000])
def test_an_interval_that_is_no_whole_number_of_seconds_is_refused(interval: str | int) -> None:
    with pytest.raises(ValueError, match="whole number of seconds"):
        Market().candles(V, S, interval)


# ------------------------------------------------------------------------------------ rows, ladder


def test_a_row_has_price_rates_delays_and_ages() -> None:
    market = Market()
    for second in range(40):
        market.add([trade(second + part / 10, lag=0.010 + second / 1000) for part in range(10)])
    market.add(
        [Quote(V, S, 0, START + 30 * SECOND, Decimal(99), Decimal(1), Decimal(101), Decimal(1))]
    )
    market.add([trade(39.95, "98", lag=0.05), trade(39.97, "98", lag=0.05)])
    offset = 5_000_000
    market.refresh(
        StreamState(START + 41 * SECOND, (FeedState("f", V, "", (), (), {}, clock_offset=offset),))
    )

    (row,) = market.rows()

    assert (row.last, row.direction, row.bid, row.ask, row.spread) == (98, -1, 99, 101, 2)
    assert (row.trades, row.events) == (402, 403)
    assert row.trade_rate == pytest.approx(9.2)  # read in the 10 whole seconds before: 92
    assert row.age["trades"] == pytest.approx(0.98 * SECOND, abs=1e6)
    assert row.age["quotes"] == 11 * SECOND
    assert row.lag_p50 == pytest.approx(0.040 * SECOND, abs=3e6)  # of the last half minute
    assert row.lag_p99 == pytest.approx(0.055 * SECOND, abs=3e6)


def test_a_clock_that_is_behind_is_not_taken_for_a_fast_network() -> None:
    market = market_of(trade(lag=0.05))
    behind = FeedState("f", V, "", (), (), {}, clock_offset=-50_000_000)
    market.refresh(StreamState(START + SECOND, (behind,)))

    assert market.rows()[0].lag_p50 == 50_000_000


def test_rows_are_matched_ordered_and_counted() -> None:
    market = market_of(*(trade(symbol=f"{name}/USDT") for name in ("B", "A", "C")))
    market.add(
        [trade(0.5, symbol="C/USDT"), gap(0, 1, symbol="B/USDT"), gap(0, 1, symbol="B/USDT")]
    )
    market.add([Reject(V, "A/USDT", 0, START, "price", "-1"), trade(2, symbol="A/USDT")])

    def names(**arguments: object) -> list[str]:
        return [row.symbol[0] for row in market.rows(**arguments)]  # type: ignore[arg-type]

    assert names() == ["A", "B", "C"]
    assert names(order="gaps") == ["B", "A", "C"]
    assert names(order="rejects") == ["A", "B", "C"]
    assert names(order="rate") == ["C", "A", "B"]
    assert names(count=1) == ["A"]
    assert names(match="binance c/") == ["C"]
    assert market.rows("B/")[0].gaps == 1


def test_a_ladder_follows_snapshots_and_deltas_and_is_stale_after_a_gap() -> None:
    market = market_of(book(0, "delta", [["1", "1"]], []))
    waiting = market.ladder(V, S)
    market.add([book(1, "snapshot", [["99", "1"], ["98.5", "2"]], [["101", "1"]])])
    market.add([book(2, "delta", [["99.0", "0"], ["98.50", "3"]], [["100", "4"]])])
    synced = market.ladder(V, S)
    row = market.rows()[0]
    market.add([gap(1, 3, channel="book")])
    stale = market.ladder(V, S)
    market.add([book(4, "delta", [["97", "1"]], []), book(5, "snapshot", [["96", "1"]], [])])
    again = market.ladder(V, S)

    assert waiting
    assert (waiting.state, waiting.bids) == ("waiting", ())
    assert synced
    assert (synced.state, synced.bids, synced.asks) == (
        "synced",
        ((Decimal("98.5"), 3),),
        ((100, 4), (101, 1)),
    )
    assert (row.bid, row.ask) == (Decimal("98.5"), 100)
    assert stale
    assert stale.state == "stale"
    assert again
    assert (again.state, again.bids, again.asks) == ("synced", ((96, 1),), ())


@pytest.mark.parametrize("level", [["nan", "1"], ["x", "1"], ["1"], []])
def test_a_level_that_is_no_number_makes_the_ladder_stale(level: list[str]) -> None:
    market = market_of(book(0, "snapshot", [["1", "1"]], []), book(1, "delta", [level], []))

    ladder = market.ladder(V, S)

    assert ladder
    assert ladder.state == "stale"


def test_an_event_class_of_a_plugin_and_a_ticker_are_no_trouble() -> None:
    market = market_of(
        Basis(V, S, START, START, Decimal(1)),
        Ticker(V, S, START, START, Decimal(5), None, None, None, None, None),
    )

    (row,) = market.rows()

    assert (row.last, row.events, set(row.age)) == (5, 2, {"basis", "ticker"})


# ----------------------------------------------------------------------------------------- ledger


def test_each_gap_stands_in_the_ledger_once_with_its_latest_state() -> None:
    market = market_of(gap(1, 2), gap(5, 6), gap(1, 3, "filled"))

    newest, oldest = market.gaps()

    assert (newest.gap.state, oldest.gap.state, oldest.reports) == ("open", "filled", 2)
    assert oldest.first_reported == START + 2 * SECOND
    assert market.gap_count == 2
    assert [entry.gap.state for entry in market.gaps("FILLED")] == ["filled"]
    assert market.rows()[0].gaps == 2


def test_a_gap_of_all_symbols_counts_for_each_symbol_of_its_venue() -> None:
    market = market_of(trade(), trade(symbol="ETH/USDT"))
    market.add([gap(1, 2, symbol="", channel="")])

    assert [row.gaps for row in market.rows()] == [1, 1]


def test_the_last_rejects_and_statuses_are_kept_the_newest_first() -> None:
    market = Market(Limits(events=3))
    market.add([Status(V, "", n, n, "connected", str(n)) for n in range(5)])
    market.add([Reject(V, "", n, n, "price", str(n)) for n in range(5)])

    assert [status.detail for status in market.statuses()] == ["4", "3", "2"]
    assert [reject.evidence for reject in market.rejects()] == ["4", "3", "2"]


# ----------------------------------------------------------------------------------------- health


def state(at: int, frames: int, busy: float, events: int, waiting: int) -> StreamState:
    connections = (
        ConnectionState("main 1", 12.0, (), frozenset()),
        ConnectionState("main 2", None, (), frozenset()),
    )
    feed = FeedState(
        "main", V, "spot", (S,), ("trades",), {"frames": frames}, connections,
        stages={"bars": StageTime(busy, 10, events)},
    )  # fmt: skip
    queue = QueueState("screen", waiting, 200, "drop_oldest", events, 0)
    return StreamState(at * SECOND, (feed,), (queue,), {"frames": frames})


def test_health_has_the_rates_between_the_last_two_states() -> None:
    market = Market()
    assert market.health().feeds == ()
    market.refresh(state(1, 0, 0.0, 0, 0))
    market.refresh(state(10, 100, 1.0, 1000, 0))
    market.refresh(state(12, 300, 1.5, 2000, 100))

    health = market.health()

    (feed,), (queue,) = health.feeds, health.queues
    assert (feed.rates["frames"], health.rates["frames"], health.seconds) == (100.0, 100.0, 2.0)
    assert (feed.connected, feed.condition) == (1, "partial")
    assert feed.stages[0].microseconds_per_event == pytest.approx(500)
    assert feed.stages[0].load == pytest.approx(0.25)
    assert (queue.fill, queue.received_rate) == (0.5, 500.0)


# ----------------------------------------------------------------------------- bounds, and threads


def measured(act: Callable[[], None]) -> int:
    """Return the bytes that *act* leaves behind."""
    gc.collect()
    tracemalloc.start()
    try:
        act()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_memory_is_bounded_under_more_symbols_than_its_limit() -> None:
    market = Market(Limits(symbols=200, candles=4_000, samples=2_000))
    symbols = [f"S{number}/USDT" for number in range(600)]

    def turns(first: int) -> None:
        for turn in range(first, first + 30):
            market.add([trade(turn, symbol=symbol) for symbol in symbols])
            market.rows(count=1)

    turns(0)
    left = measured(lambda: turns(30))

    assert len(market.symbols()) == 200
    # What is kept of a turn replaces what was kept of one before: at most 10 kB a symbol in all.
    assert left < 200 * 10_000


def test_few_symbols_keep_long_series_and_10_000_short_ones() -> None:
    few, many = Limits().share(1), Limits().share(10_000)

    assert (few.seconds, few.minutes, few.tape) == (900, 1440, 200)
    assert (many.seconds, many.minutes, many.tape, many.lags) == (16, 16, 10, 32)


def test_what_a_symbol_has_kept_is_cut_when_many_others_come() -> None:
    market = Market(Limits(candles=800))
    for second in range(1_000):
        market.add([trade(second)])
        market.rows()
    alone = len(market.candles(V, S, "1s", 1_000))
    market.add([trade(1_000, symbol=f"S{number}/USDT") for number in range(31)])

    assert 400 <= alone <= 500
    assert len(market.candles(V, S, "1s", 1_000)) == 16


def test_memory_is_bounded_under_gaps_by_the_hundred_thousand() -> None:
    market = Market(Limits(gaps=1_000))

    for first in range(0, 200_000, 1_000):
        market.add([gap(n, n + 1, symbol="X/Y") for n in range(first, first + 1_000)])
        if first % 20_000 == 0:
            market.rows()

    assert market.gap_count == 200_000
    assert len(market.gaps(count=10**6)) == 1_000
    assert market.gaps()[0].gap.since == START + 199_999 * SECOND
    assert market.rows()[0].gaps == 200_000


def test_a_market_that_nobody_reads_keeps_no_more_than_its_bound_of_batches() -> None:
    market = Market(Limits(pending=1_000))

    for _ in range(100):
        market.add([trade() for _ in range(64)])

    assert market._added - market._read <= 1_000 + 64


def test_screens_in_other_threads_see_whole_batches_while_one_adds() -> None:
    market, done, wrong = Market(Limits(pending=200)), threading.Event(), []
    interval = sys.getswitchinterval()

    def read() -> None:
        while not done.is_set():
            wrong.extend(
                candle
                for candle in market.candles(V, S, "1s")
                if candle.trades is None or candle.trades % 10 or candle.volume != candle.trades
            )

    readers = [threading.Thread(target=read) for _ in range(2)]
    try:
        sys.setswitchinterval(1e-5)
        for reader in readers:
            reader.start()
        for number in range(1_000):
            market.add([trade(number % 7) for _ in range(10)])
    finally:
        done.set()
        sys.setswitchinterval(interval)
        for reader in readers:
            reader.join()

    assert wrong == []
    assert sum(candle.trades or 0 for candle in market.candles(V, S, "1s")) == 10_000


# ------------------------------------------------------------------------------------- many trades


def many(
    second: int, count: int = 30, symbols: Sequence[str] = ("A/USDT", "B/USDT")
) -> list[Trade]:
    """Return so many trades of each symbol in a second, with prices from 100 up."""
    return [
        trade(second + n / count, str(100 + n), symbol=symbol, id=second * count + n)
        for n in range(count)
        for symbol in symbols
    ]


def fed(market: Market, seconds: Iterable[int], size: int = 7) -> None:
    """Add the trades of some seconds in batches, as a stream hands them over."""
    for second in seconds:
        trades = many(second)
        for first in range(0, len(trades), size):
            batch = trades[first : first + size]
            market.add(TradeBatch(batch, range(len(batch))))


def test_where_there_are_many_trades_only_those_of_symbols_that_are_looked_at_are_kept() -> None:
    market = Market(Limits(rate=50))
    fed(market, range(2))  # the first second shows that there are many
    assert market.tape(V, "A/USDT")
    fed(market, range(2, 10))

    whole = market.candles(V, "A/USDT", "1s")
    assert {
        candle.start: candle.trades for candle in whole if candle.start > START + 2 * SECOND
    } == {START + second * SECOND: 30 for second in range(3, 10)}
    assert all(candle.complete for candle in whole[2:])
    rows = {row.symbol: row for row in market.rows()}
    assert rows["B/USDT"].trades < 100  # nobody has looked at the table before
    fed(market, range(10, 20))
    counted = {row.symbol: row.trades - rows[row.symbol].trades for row in market.rows()}
    assert counted == {"A/USDT": 300, "B/USDT": 300}


def test_a_symbol_that_is_looked_at_later_begins_anew_and_has_no_candle_with_a_hole() -> None:
    market = Market(Limits(rate=50))
    fed(market, range(6))
    assert market.symbols() == [(V, "A/USDT"), (V, "B/USDT")]
    market.candles(V, "B/USDT", "1s")
    fed(market, range(6, 9))

    candles = market.candles(V, "B/USDT", "1s")
    assert [candle.start for candle in candles] == [START + n * SECOND for n in range(6, 9)]
    assert [candle.complete for candle in candles] == [False, True, True]
    assert [candle.trades for candle in candles] == [30, 30, 30]
    assert len(market.tape(V, "B/USDT", 200)) == 90


def test_after_some_calm_seconds_all_trades_are_kept_again() -> None:
    market = Market(Limits(rate=50))
    fed(market, range(3))
    market.tape(V, "A/USDT")
    fed(market, range(3, 5))
    for second in range(5, 30):
        market.add([trade(second, id=second, symbol="A/USDT"), trade(second, symbol="B/USDT")])

    followed, left_out = market.candles(V, "A/USDT", "1s"), market.candles(V, "B/USDT", "1s")
    assert [candle.start for candle in followed][-27:] == [
        START + second * SECOND for second in range(3, 30)
    ]
    assert left_out[0].start >= START + 10 * SECOND
    assert [candle.start for candle in left_out][-10:] == [
        START + second * SECOND for second in range(20, 30)
    ]


def test_trades_of_two_channels_in_one_batch_are_counted_apart() -> None:
    market = Market(Limits(rate=10))
    fed(market, range(2))
    market.rows()
    fed(market, range(2, 3))
    before = {row.symbol: (row.trades, row.events) for row in market.rows()}
    for second in (3, 4):
        trades = [evolve(one, channel=c) for one in many(second) for c in ("trades", "agg_trades")]
        market.add(TradeBatch(trades, range(len(trades))))

    after = {row.symbol: (row.trades, row.events) for row in market.rows()}
    assert {key: (after[key][0] - n, after[key][1] - m) for key, (n, m) in before.items()} == {
        "A/USDT": (60, 120), "B/USDT": (60, 120),
    }  # fmt: skip


@settings(deadline=None)  # a shared machine may halt for long
@given(
    batches=st.lists(
        st.tuples(
            st.integers(0, 2), st.lists(st.integers(0, 3), min_size=1, max_size=12), st.booleans()
        ),
        max_size=30,
    )
)
def test_what_is_counted_by_the_numbers_of_feeds_is_what_is_counted_trade_by_trade(
    batches: list[tuple[int, list[int], bool]],
) -> None:
    """Three feeds of one venue have the same numbers for other symbols and channels."""
    symbols = [
        {0: ("A/USDT", "trades"), 1: ("B/USDT", "trades"), 2: ("A/USDT", "agg_trades"), 3: ("C/USDT", "trades")},
        {0: ("B/USDT", "trades"), 1: ("A/USDT", "trades"), 2: ("D/USDT", "trades"), 3: ("E/USDT", "trades")},
        {0: ("F/USDT", "trades"), 1: ("C/USDT", "trades"), 2: ("A/USDT", "trades"), 3: ("F/USDT", "agg_trades")},
    ]  # fmt: skip
    feeds = [object() for _ in symbols]
    by_number, by_trade = Market(Limits(rate=50)), Market(Limits(rate=50))
    for market in (by_number, by_trade):
        fed(market, range(2))  # the first second shows that there are many
        market.rows()
    for place, (feed, numbers, is_read) in enumerate(batches):
        trades = [
            trade(2 + place / 100, str(place + 1), symbol=symbol, channel=channel)
            for symbol, channel in map(symbols[feed].__getitem__, numbers)
        ]
        batch = TradeBatch(trades, numbers)
        batch.feed = feeds[feed]  # type: ignore[assignment]
        by_number.add(batch)
        by_trade.add(list(trades))
        if is_read:
            assert by_number.rows() == by_trade.rows()
    assert by_number.rows() == by_trade.rows()


def test_a_batch_whose_numbers_do_not_fit_its_trades_is_counted_trade_by_trade() -> None:
    market = Market(Limits(rate=50))
    fed(market, range(2))
    before = {row.symbol: row.trades for row in market.rows()}
    batch = TradeBatch([trade(2, symbol="A/USDT"), trade(2, symbol="B/USDT")], [1])
    batch.feed = object()  # type: ignore[assignment]
    market.add(batch)

    after = {row.symbol: row.trades for row in market.rows()}
    assert {symbol: after[symbol] - before[symbol] for symbol in before} == {
        "A/USDT": 1,
        "B/USDT": 1,
    }
