"""End to end against the simulated venue: delivered events equal the market.

These tests need the simulator, which is a package of its own.
"""

from __future__ import annotations

import io
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from tapeloom import FeedSpec, Secret, Stack
from tapeloom.errors import LoginRefused, RequestFailed, SubscriptionRefused
from tapeloom.events import Bar, Book, Gap, Quote, Status, Trade

STOCKS, COINS = ("AAPL/USD", "MSFT/USD"), ("BTC/USD", "ETH/USD")
BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
POLLED = {"mode": "poll", "poll_every": "100ms", "poll_bars_every": "150ms", "rest_limit": 10_000}


@pytest.fixture
def anyio_backend():
    """Return one event loop, where a test does not ask for both."""
    return "asyncio"


class Heard:
    """Everything that a stream delivered."""

    def __init__(self, stream) -> None:
        self.stream, self.events = stream, []

    def of(self, cls, symbol="", **fields):
        return [
            event
            for event in self.events
            if type(event) is cls
            and symbol in ("", event.symbol)
            and all(getattr(event, name) == value for name, value in fields.items())
        ]

    async def until(self, done) -> None:
        with anyio.fail_after(60):  # a machine that is busy may take its time
            while not done(self):  # noqa: ASYNC110 any event may be the one
                await anyio.sleep(0.01)


def serve(**options):
    options = {
        "symbols": STOCKS + COINS, "seed": 5, "rate": 20.0, "speed": 200, "start": "manual",
        **options,
    }  # fmt: skip
    return simulator.serve("alpaca", **options)


@asynccontextmanager
async def receive(sim, *feeds, **settings):
    stack = Stack(feeds=feeds, venues={"alpaca": {**sim.settings, **settings}})
    async with tapeloom.open(stack, seed=2) as stream:
        receive = Heard(stream)
        stream.on()(receive.events.append)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.run)
            yield receive
            tasks.cancel_scope.cancel()


def assert_true(receive, sim, symbols) -> None:
    """Assert that every trade and every closed bar came once, in order, as it was.

    To be called as soon as that is so: the market's time goes on, and with it bars end.
    """
    for symbol in symbols:
        pit = sim.market.instruments[symbol]
        trades, truth = receive.of(Trade, symbol), sim.truth.trades(symbol)
        sides = [event.side for event in truth] if symbol in COINS else [None] * len(truth)
        assert [(event.ts, event.price, event.size, event.side) for event in trades] == [
            (event.ts, event.price, event.size, side)
            for event, side in zip(truth, sides, strict=True)
        ]
        bars = receive.of(Bar, symbol, interval="1m")
        candles = [event for event in sim.truth.closed_bars(symbol, "1m") if event.trades]
        assert [
            (event.ts, event.open, event.close, event.volume, event.trades) for event in bars
        ] == [
            (
                event.start,
                event.open * pit.tick,
                event.close * pit.tick,
                event.volume * pit.lot,
                event.trades,
            )
            for event in candles
        ]
        assert len(bars) >= 1


def whole(sim, symbols):
    """Return whether everything that was traded has been delivered, and every bar."""

    def done(receive) -> bool:
        return all(
            len(receive.of(Trade, symbol)) >= len(sim.truth.trades(symbol))
            and len(receive.of(Bar, symbol, interval="1m"))
            >= sum(1 for event in sim.truth.closed_bars(symbol, "1m") if event.trades)
            for symbol in symbols
        )

    return done


@BOTH
async def test_streamed_events_of_both_markets_equal_the_market():
    channels = ("trades", "quotes", "klines:1m")
    async with (
        serve(trades=2500) as sim,
        receive(
            sim,
            FeedSpec("alpaca", STOCKS, (*channels, "klines:1d", "x-statuses", "x-lulds")),
            FeedSpec("alpaca", COINS, (*channels, "book"), market="crypto"),
        ) as got,
    ):
        await got.until(lambda got: len(got.of(Status, state="subscribed")) == 2)
        sim.begin()
        await sim.finished()
        await got.until(whole(sim, STOCKS + COINS))
        assert_true(got, sim, STOCKS + COINS)
        bests = {symbol: sim.truth.quotes(symbol) for symbol in STOCKS}

    for symbol, quotes in bests.items():
        assert [
            (event.ts, event.bid, event.bid_size, event.ask) for event in got.of(Quote, symbol)
        ] == [(event.ts, event.bid, event.bid_size, event.ask) for event in quotes][
            : len(got.of(Quote, symbol))
        ]
    assert got.of(Book, "BTC/USD")[0].kind == "snapshot"
    assert not got.of(Gap)


@BOTH
async def test_polled_events_of_both_markets_equal_the_market():
    async with (
        serve(trades=2500) as sim,
        receive(
            sim,
            FeedSpec("alpaca", STOCKS, ("trades", "quotes", "klines:1m", "klines:1d")),
            FeedSpec("alpaca", COINS, ("trades", "quotes", "klines:1m", "book"), market="crypto"),
            **POLLED,
        ) as got,
    ):
        await got.until(lambda got: len(got.of(Quote)) >= 4)
        sim.begin()
        await sim.finished()
        await got.until(whole(sim, STOCKS + COINS))
        assert_true(got, sim, STOCKS + COINS)

    assert {event.channel for event in got.of(Status, state="sampled")} == {
        "quotes", "klines:1d", "book",
    }  # fmt: skip
    assert {event.kind for event in got.of(Book)} == {"snapshot"}
    assert not got.of(Gap)


async def test_polling_loses_nothing_over_empty_pages_token_loops_and_failures():
    faults = [simulator.Fault(kind="rate_limit_rest", after=40, every=25, count=3, value=504)]
    async with (
        serve(trades=2500, faults=faults, time_scale=100) as sim,  # 200 calls in 0.6 s
        receive(
            sim, FeedSpec("alpaca", STOCKS, ("trades", "klines:1m")), **POLLED, poll_page=40
        ) as got,
    ):
        await got.until(lambda _: len(sim.truth.rest_calls) >= 4)
        sim.begin()
        await got.until(lambda got: len(got.of(Trade)) > 100)
        sim.venue.arm("empty_page", "token_loop", "empty_page", "token_loop")
        await sim.finished()
        await got.until(whole(sim, STOCKS))
        # A slow machine polls less often while the market runs: the failures may come after it.
        await got.until(lambda _: [status for _, status in sim.truth.rest_calls].count(504) == 3)
        assert_true(got, sim, STOCKS)

    assert got.of(Status, state="token_loop")
    assert [status for _, status in sim.truth.rest_calls].count(504) == 3
    assert not got.of(Gap)


async def test_a_lingering_session_is_waited_for_and_missed_data_is_backfilled():
    faults = [
        simulator.Fault(kind="disconnect", how="abrupt", after=100, channel="trades"),
        simulator.Fault(kind="lingering_session", seconds=0.8),
    ]
    async with (
        serve(trades=4_000, rate=10.0, speed=150, faults=faults) as sim,
        receive(sim, FeedSpec("alpaca", ("AAPL/USD",), ("trades",)), slot_pause="100ms") as got,
    ):
        await got.until(lambda got: got.of(Status, state="subscribed"))
        sim.begin()
        await got.until(lambda got: len(got.of(Gap)) == 2)
        await sim.finished()
        await got.until(lambda got: len(got.of(Trade)) >= len(sim.truth.trades("AAPL/USD")))

    refused = got.of(Status, state="login_refused")
    trades = sorted(got.of(Trade), key=lambda trade: trade.ts)
    assert {event.detail for event in refused} == {"connection limit exceeded (code 406)"}
    assert len(sim.truth.connections) == 2 + len(refused)
    assert [(gap.channel, gap.cause, gap.state) for gap in got.of(Gap)] == [
        ("trades", "disconnect", "open"), ("trades", "disconnect", "filled"),
    ]  # fmt: skip
    assert [(event.ts, event.price, event.size) for event in trades] == [
        (event.ts, event.price, event.size) for event in sim.truth.trades("AAPL/USD")
    ]
    assert {event.origin for event in trades} == {"live", "backfill"}


async def test_a_slow_client_reconnects():
    faults = [simulator.Fault(kind="slow_client", after=20)]
    async with (
        serve(trades=20_000, speed=50, faults=faults) as sim,
        receive(sim, FeedSpec("alpaca", ("AAPL/USD",), ("trades",))) as got,
    ):
        await got.until(lambda got: got.of(Status, state="subscribed"))
        sim.begin()
        await got.until(lambda got: len(got.of(Status, state="subscribed")) == 2)

    assert "slow_client slow client (code 407)" in [event.detail for event in got.of(Status)]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (
            {"key_id": Secret("BADKEY"), "secret_key": Secret("x-hush-x")},
            LoginRefused,
            "auth failed",
        ),
        (
            {"key_id": Secret("PKFREE"), "secret_key": Secret("x-hush-x"), "feed": "sip"},
            LoginRefused,
            'set feed = "iex"',
        ),
        (
            {"key_id": Secret("BADKEY"), "secret_key": Secret("x-hush-x"), **POLLED},
            RequestFailed,
            "Check key_id",
        ),
    ],
)
async def test_refused_keys_end_the_feed_and_are_not_shown(settings, error, words):
    out = io.StringIO()
    with redirect_stderr(out), redirect_stdout(out):
        async with serve() as sim:
            stack = Stack(
                feeds=[FeedSpec("alpaca", ("AAPL/USD",), ("trades",))],
                venues={"alpaca": {**sim.settings, **settings}},
            )
            async with tapeloom.open(stack) as stream:
                events = []
                stream.on()(events.append)
                with pytest.raises(error, match=words) as caught:
                    await stream.run()
    everything = out.getvalue() + str(caught.value) + repr(stack) + "".join(map(repr, events))

    for secret in ("BADKEY", "PKFREE", "x-hush-x"):
        assert secret not in everything


async def test_the_error_without_keys_names_the_settings():
    async with serve() as sim:
        hosts = dict.fromkeys(("ws_url", "rest_url", "trading_url"), sim.url)
        stack = Stack(
            feeds=[FeedSpec("alpaca", ("AAPL/USD",), ("trades",))], venues={"alpaca": hosts}
        )
        async with tapeloom.open(stack) as stream:
            with pytest.raises(SubscriptionRefused, match="Set key_id and secret_key"):
                await stream.run()


@pytest.mark.parametrize("settings", [{}, POLLED], ids=["streamed", "polled"])
async def test_symbols_are_added_and_removed_on_one_connection(settings):
    async with (
        serve(trades=20_000, speed=50) as sim,
        receive(sim, FeedSpec("alpaca", ("AAPL/USD",), ("trades",)), **settings) as got,
    ):
        await got.until(lambda got: got.of(Status, state="subscribed"))
        sim.begin()
        await got.stream.add("MSFT/USD")
        await got.until(lambda got: got.of(Trade, "MSFT/USD"))
        await got.stream.drop("AAPL/USD")
        for _ in range(2):  # first comes what was on its way, then only the other one
            before, other = len(got.of(Trade, "AAPL/USD")), len(got.of(Trade, "MSFT/USD"))
            await got.until(lambda got, more=other + 100: len(got.of(Trade, "MSFT/USD")) > more)

    assert len(got.of(Trade, "AAPL/USD")) == before
    assert len(sim.truth.connections) <= 1
    assert not got.of(Gap)


async def test_too_many_symbols_for_the_plan_are_refused_with_a_remedy():
    keys = {"key_id": Secret("PKFREE"), "secret_key": Secret("x-hush-x")}
    symbols = tuple(f"S{number}/USD" for number in range(31))
    async with serve(symbols=symbols) as sim:
        stack = Stack(
            feeds=[FeedSpec("alpaca", symbols, ("trades",))],
            venues={"alpaca": {**sim.settings, **keys}},
        )
        async with tapeloom.open(stack) as stream:
            with pytest.raises(SubscriptionRefused, match="Subscribe to fewer symbols"):
                await stream.run()


async def test_book_resync_requests_a_book_at_intervals():
    async with (
        serve(trades=20_000, speed=50) as sim,
        receive(
            sim, FeedSpec("alpaca", ("BTC/USD",), ("book",), market="crypto"), book_resync="100ms"
        ) as got,
    ):
        await got.until(lambda got: got.of(Status, state="subscribed"))
        sim.begin()
        await got.until(lambda got: len(got.of(Book, kind="snapshot")) >= 2)

    assert len(sim.truth.connections) == 1
