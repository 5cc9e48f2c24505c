"""The market is one, seeded, and everything that is read off it agrees."""

import hashlib
import itertools
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.errors import SymbolError
from tapeloom_simulator import EPOCH, MAJORS, SimulatedMarket, listed
from tapeloom_simulator.bars import end_of, start_of

SECOND = 1_000_000_000
SYMBOLS = ("BTC/USDT", "DOGE/USDT", "ETH/USDT:USDT")
seeds = st.integers(0, 1_000_000)


def told(steps):
    """Return all that steps say, as text."""
    return "\n".join(
        f"{s.symbol} {s.ts} {s.first_id} {s.last_id} {str(s.top_of_book).replace('TopOfBook', 'Best')}"
        + "".join(
            f" {f.id},{f.price},{f.size},{f.is_buy},{f.ts},{f.aggregate_id}" for f in s.trades
        )
        for s in steps
    )


def trades_of(steps, symbol):
    return [fill for step in steps if step.symbol == symbol for fill in step.trades]


def test_same_seed_gives_the_same_market_on_every_machine_and_python():
    steps = SimulatedMarket(MAJORS, seed=7, rate=2000).advance(EPOCH + 5 * SECOND)

    digest = hashlib.sha256(told(steps).encode()).hexdigest()

    assert digest == "83977f13bab56bfc02cdc9618547f8d320f81babbd83dcc1cf01c068dbbe94ba"


def test_another_seed_gives_another_market():
    one, two = (
        told(SimulatedMarket(SYMBOLS, seed=seed).advance(EPOCH + SECOND)) for seed in (1, 2)
    )

    assert one != two


@given(seed=seeds, cuts=st.lists(st.integers(0, 3 * SECOND), max_size=8), most=st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_how_the_time_is_cut_makes_no_difference(seed, cuts, most):
    end = EPOCH + 3 * SECOND
    whole = SimulatedMarket(SYMBOLS, seed=seed, rate=300).advance(end)
    market = SimulatedMarket(SYMBOLS, seed=seed, rate=300)
    parts = []
    for cut in (*sorted(cuts), 3 * SECOND):
        while len(some := market.advance(EPOCH + cut, most)) == most:
            parts += some
        parts += some

    assert told(parts) == told(whole)
    assert market.now == end


@given(seed=seeds, limit=st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_a_limited_market_makes_exactly_that_many_trades_with_ids_without_a_hole(seed, limit):
    market = SimulatedMarket(SYMBOLS, seed=seed, rate=500, trades=limit)
    steps = market.advance(EPOCH + 60 * SECOND)
    times = [step.ts for step in steps]

    assert sum(len(step.trades) for step in steps) == limit
    assert market.next_order_at is None
    assert times == sorted(times)
    for symbol in SYMBOLS:
        fills = trades_of(steps, symbol)
        aggregates = [fill.aggregate_id for fill in fills]
        assert [fill.id for fill in fills] == list(range(1, len(fills) + 1))
        assert sorted(set(aggregates)) == list(range(1, len(set(aggregates)) + 1))
        assert aggregates == sorted(aggregates)
        assert all(fill.size > 0 for fill in fills)


def test_the_fills_of_an_aggregate_share_price_side_and_time():
    steps = SimulatedMarket(SYMBOLS, seed=3, rate=500).advance(EPOCH + 10 * SECOND)
    shared = {}
    for fill in trades_of(steps, "BTC/USDT"):
        shared.setdefault(fill.aggregate_id, []).append(fill)

    assert all(len({(f.price, f.is_buy, f.ts) for f in fills}) == 1 for fills in shared.values())
    assert any(len(fills) > 1 for fills in shared.values())


@given(
    seed=seeds,
    rate=st.sampled_from([0.5, 20, 700]),
    interval=st.sampled_from(["1s", "5s", "1m", "3m", "1h", "1d", "1w", "1M"]),
)
@settings(max_examples=40, deadline=None)
def test_candles_equal_the_aggregated_trades(seed, rate, interval):
    market = SimulatedMarket(
        ["BTC/USDT"], seed=seed, rate=rate, trades=400, epoch=EPOCH + 17 * SECOND
    )
    fills = [f for s in market.advance(EPOCH + 3000 * SECOND) for f in s.trades]
    pit = market.instruments["BTC/USDT"]
    expected = {}
    for fill in fills:
        expected.setdefault(start_of(interval, fill.ts), []).append(fill)

    found = {c.start: c for c in pit.bars(interval, 0, market.now, 10_000)}

    assert {start for start, candle in found.items() if candle.trades} == set(expected)
    for start, some in expected.items():
        candle, prices = found[start], [fill.price for fill in some]
        assert (candle.open, candle.high, candle.low, candle.close) == (
            prices[0], max(prices), min(prices), prices[-1],
        )  # fmt: skip
        assert candle.volume == sum(f.size for f in some)
        assert candle.quote_volume == sum(f.size * f.price for f in some)
        assert candle.buy_volume == sum(f.size for f in some if f.is_buy)
        assert candle.buy_quote_volume == sum(f.size * f.price for f in some if f.is_buy)
        assert (candle.first_id, candle.last_id, candle.trades) == (
            some[0].id,
            some[-1].id,
            len(some),
        )
        assert candle == pit.bar(interval, some[0].ts)
        assert candle.end == end_of(interval, start)
    starts = list(found)
    assert all(end_of(interval, a) == b for a, b in itertools.pairwise(starts))


def test_a_candle_without_a_trade_stands_at_the_last_price():
    market = SimulatedMarket(["BTC/USDT"], rate=10, trades=5)
    last = trades_of(market.advance(EPOCH + 60 * SECOND), "BTC/USDT")[-1]

    candle = market.instruments["BTC/USDT"].bar("1s", market.now)

    assert (candle.open, candle.close, candle.trades, candle.first_id) == (
        last.price,
        last.price,
        0,
        -1,
    )


def test_weeks_begin_on_monday_and_months_on_the_first():
    thursday = EPOCH + 5 * 3600 * SECOND  # 2026-01-01

    assert start_of("1w", thursday) == EPOCH - 3 * 86_400 * SECOND
    assert start_of("1M", thursday) == EPOCH
    assert end_of("1M", EPOCH) == EPOCH + 31 * 86_400 * SECOND


def test_the_last_day_is_counted_and_older_trades_are_not():
    market = SimulatedMarket(["BTC/USDT"], rate=0.01)
    fills = trades_of(market.advance(EPOCH + 40 * 3600 * SECOND), "BTC/USDT")
    day = market.instruments["BTC/USDT"].last_24h(market.now)
    inside = [fill for fill in fills if fill.ts >= day.start]

    assert market.now - 86_400 * SECOND <= day.start <= market.now - 86_340 * SECOND
    assert day.trades == len(inside) < len(fills)
    assert day.volume == sum(fill.size for fill in inside)


@given(seed=seeds, lag=st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_changes_applied_to_an_older_book_give_the_book(seed, lag):
    market = SimulatedMarket(["SOL/USDT"], seed=seed, rate=500)
    market.advance(EPOCH + 2 * SECOND)
    pit = market.instruments["SOL/USDT"]
    old = pit.book_snapshot(1000, lag)
    bids, asks = dict(old.bids), dict(old.asks)
    for book, changed in zip((bids, asks), pit.changes_since(old.last_id), strict=True):
        book.update(changed)
        for price in [price for price, size in book.items() if not size]:
            del book[price]

    now = pit.book_snapshot(1000)

    assert old.last_id == now.last_id - min(lag, now.last_id - 1_000_000)
    assert sorted(bids.items(), reverse=True) == now.bids
    assert sorted(asks.items()) == now.asks


@given(seed=seeds, seconds=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_an_older_book_is_the_book_as_it_was(seed, seconds):
    market = SimulatedMarket(["SOL/USDT"], seed=seed, rate=500)
    market.advance(EPOCH + seconds * SECOND)
    pit = market.instruments["SOL/USDT"]
    then = pit.book_snapshot(1000)
    market.advance(market.now + SECOND)

    assert pit.book_snapshot(1000, pit.last_update_id - then.last_id) == then


@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_the_book_is_never_crossed_and_every_change_of_the_best_is_told(seed):
    market = SimulatedMarket(SYMBOLS, seed=seed, rate=500)
    bests = {symbol: pit.top_of_book() for symbol, pit in market.instruments.items()}
    lasts = {symbol: pit.last_update_id for symbol, pit in market.instruments.items()}
    while market.now < EPOCH + 2 * SECOND:
        for step in market.advance(EPOCH + 2 * SECOND, 1):
            pit = market.instruments[step.symbol]
            ladder = pit.book_snapshot(1)
            best = (*ladder.bids[0], *ladder.asks[0])
            assert best[0] < best[2]
            assert step.top_of_book == (best if best != bests[step.symbol] else None)
            assert (step.first_id, step.last_id) == (lasts[step.symbol] + 1, pit.last_update_id)
            bests[step.symbol], lasts[step.symbol] = best, pit.last_update_id


def test_a_taker_trades_at_the_best_price():
    market = SimulatedMarket(["BTC/USDT"], seed=1, rate=500)
    pit = market.instruments["BTC/USDT"]
    for _ in range(300):
        (step,) = market.advance(EPOCH + 60 * SECOND, 1)
        prices = [fill.price for fill in step.trades]
        assert prices == sorted(prices, reverse=not step.trades[0].is_buy)

    assert pit.book_snapshot(500).bids[0][0] == pit.top_of_book().bid


def test_a_market_that_runs_long_keeps_its_ladder_and_forgets_old_trades():
    market = SimulatedMarket(["BTC/USDT"], seed=5, rate=5000, trades=60_000)
    market.advance(EPOCH + 60 * SECOND)
    pit = market.instruments["BTC/USDT"]
    ladder = pit.book_snapshot(10_000)

    assert 100 < len(ladder.bids) < 300
    assert 100 < len(ladder.asks) < 300
    assert pit.trades(1, 5)[0].id > 30_000
    assert pit.last_trade.id == 60_000
    assert pit.bar("1d", market.now).trades == 60_000
    assert abs(pit.last_trade.price - pit.listing.start) < pit.listing.start // 10


def test_candles_of_hours_ago_are_sums_of_minutes_when_their_seconds_are_gone():
    market = SimulatedMarket(["BTC/USDT"], seed=5, rate=8, trades=150_000)
    counts = {}
    for step in market.advance(EPOCH + 10 * 3600 * SECOND):
        minute = step.ts // (60 * SECOND)
        counts[minute] = counts.get(minute, 0) + len(step.trades)
    pit = market.instruments["BTC/USDT"]
    minutes = {c.start // (60 * SECOND): c for c in pit.bars("1m", 0, market.now, 10_000)}

    assert len(pit.bar_series().second_bars) <= 14_460 < (max(counts) - min(counts)) * 60
    assert {minute: candle.trades for minute, candle in minutes.items() if candle.trades} == counts
    assert pit.bar("1d", EPOCH).trades == 150_000


def test_trades_and_aggregates_are_found_by_number_and_time():
    market = SimulatedMarket(["BTC/USDT"], seed=5, rate=500, trades=500)
    fills = trades_of(market.advance(EPOCH + 60 * SECOND), "BTC/USDT")
    pit = market.instruments["BTC/USDT"]
    groups = pit.aggregate_trades(3, 2)

    assert [fill.id for fill in pit.trades(490, 100)] == list(range(490, 501))
    assert [group[0].aggregate_id for group in groups] == [3, 4]
    assert [f for f in fills if f.aggregate_id in (3, 4)] == [f for group in groups for f in group]
    assert pit.first_trade_since(fills[100].ts).ts == fills[100].ts
    assert pit.first_trade_since(market.now) is None


def test_any_symbol_is_listed_with_sound_steps():
    for symbol in (*MAJORS, "WIF/USDT", "1000PEPE/USDT:USDT", "BTC/USDT:USDT-261225"):
        item = listed(symbol)
        assert item.start >= 2_000
        assert item.stride >= 1
        assert item.unit >= 1
    assert listed("BTC/USDT").tick == Decimal("0.01")
    assert listed("wif/usdt") == listed("WIF/USDT")


def test_what_cannot_be_traded_is_refused():
    with pytest.raises(SymbolError, match="not a unified symbol"):
        listed("BTCUSDT")
    with pytest.raises(ValueError, match="power of ten"):
        listed("BTC/USDT", tick=Decimal("0.05"))
    with pytest.raises(ValueError, match="rate above 0"):
        SimulatedMarket(["BTC/USDT"], rate=0)
