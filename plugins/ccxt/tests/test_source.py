"""The source with a fake ccxt object: data, errors, and calls that never return."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from ccxt.base import errors as ccxt
from tapeloom.errors import (
    ConnectionFailed,
    ConnectionLost,
    FeedError,
    LoginRefused,
    SubscriptionRefused,
    SymbolError,
    Throttled,
)
from tapeloom.events import Book, Event, Gap, Reject, Status, Trade
from tapeloom_testing import VirtualClock

Make = Callable[..., Any]


def trade(id: int, ts: int | None = None) -> dict[str, Any]:
    stamp = id if ts is None else ts
    return {"id": str(id), "timestamp": stamp, "side": "buy", "price": "1.5", "amount": "1"}


def book(bid: str, ask: str = "10") -> dict[str, Any]:
    size = Decimal(1)
    return {"bids": [[Decimal(bid), size]], "asks": [[Decimal(ask), size]], "timestamp": 7}


class Received(list[Event]):
    """What was delivered besides the Status "connected", and how the run ended."""

    error: FeedError | None = None
    connected: Status | None = None

    async def take(self, events: list[Event]) -> None:
        for event in events:
            if type(event) is Status and event.state == "connected":
                self.connected = event
            else:
                self.append(event)

    def of(self, cls: type[Any]) -> list[Any]:
        return [event for event in self if type(event) is cls]

    def states(self) -> list[str]:
        return [event.state for event in self.of(Status)]


@asynccontextmanager
async def running(source: Any, take: Any = None) -> AsyncIterator[Received]:
    """Run *source* beside the block; let it come to rest first."""
    received = Received()

    async def run() -> None:
        try:
            await source.run(take or received.take)
        except FeedError as error:
            received.error = error

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await rest()
        yield received
        tasks.cancel_scope.cancel()


async def rest() -> None:
    """Let every task go as far as it can."""
    for _ in range(30):
        await anyio.lowlevel.checkpoint()


async def passing(clock: VirtualClock, seconds: float) -> None:
    """Let *seconds* pass in small steps."""
    for _ in range(round(seconds * 4)):
        clock.advance(0.25)
        await rest()


# ---------------------------------------------------------------------------------- in good weather


async def test_data_of_watch_calls_is_delivered_in_order(source: Make):
    made, maker = source(VirtualClock())
    async with running(made) as received:
        maker.made[0].feed("watch_trades", [trade(1), trade(2)], [trade(3)])
        await rest()

    assert [event.id for event in received.of(Trade)] == ["1", "2", "3"]
    assert {event.venue for event in received} == {"ccxt-acme"}


async def test_a_slow_consumer_does_not_delay_the_watch_calls(source: Make):
    made, maker = source(VirtualClock())

    async def never(events: list[Event]) -> None:
        await anyio.sleep_forever()

    async with running(made, never):
        exchange = maker.made[0]
        exchange.feed("watch_trades", [trade(1)], [trade(2)], [trade(3)])
        await rest()

        assert len(exchange.asked) == 4
        assert not exchange.answers["watch_trades"]


async def test_every_ccxt_object_is_closed_when_the_run_is_cancelled(source: Make):
    made, maker = source(VirtualClock(), channels=("book", "quotes"))
    async with running(made):
        pass

    assert [exchange.closed for exchange in maker.made] == [True, True]


async def test_quotes_have_their_own_ccxt_object_only_beside_books(source: Make):
    for channels, count in ((("book", "trades"), 1), (("quotes", "trades"), 1)):
        made, maker = source(VirtualClock(), channels=channels)
        async with running(made):
            assert len(maker.made) == count


async def test_the_first_event_says_that_the_exchange_is_connected(source: Make):
    made, _ = source(VirtualClock())
    async with running(made) as received:
        pass

    assert received.connected is not None
    assert (received.connected.type, received.connected.state) == ("status", "connected")
    assert received.connected.detail.endswith(" markets")


async def test_a_book_is_reported_as_unproven(source: Make):
    made, _ = source(VirtualClock(), channels=("book", "trades"))
    async with running(made) as received:
        pass

    [status] = received.of(Status)
    assert (status.state, status.channel, status.symbol) == ("unproven", "book", "BTC/USDT")


async def test_symbols_are_added_and_removed_while_streaming(source: Make):
    made, maker = source(VirtualClock())
    async with running(made):
        exchange = maker.made[0]
        made._feed.symbols[:] = ["ETH/USDT"]
        made.symbols_changed()
        await rest()

        assert ("un_watch_trades", "BTC/USDT") in exchange.asked
        assert exchange.asked.count(("watch_trades", "ETH/USDT")) == 1
        assert made._feed.listing.native == {"BTC/USDT": "BTCUSDT", "ETH/USDT": "ETHUSDT"}


# -------------------------------------------------------------------------------------- when it opens


async def test_the_error_for_an_unlisted_symbol_suggests_a_similar_one(source: Make):
    made, maker = source(VirtualClock(), symbols=("BTCC/USDT",))

    with pytest.raises(SymbolError, match=r"acme does not list 'BTCC/USDT'.*mean 'BTC/USDT'"):
        await made.run(Received().take)
    assert maker.made[0].closed
    assert set(made._feed.listing.instruments) == {"BTC/USDT", "ETH/USDT"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ccxt.NetworkError("no route"), ConnectionFailed),
        (ccxt.RequestTimeout("slow"), ConnectionFailed),
        (ccxt.AuthenticationError("who?"), LoginRefused),
        (ccxt.RateLimitExceeded("429"), Throttled),
        (ccxt.DDoSProtection("418"), Throttled),
        (ccxt.OnMaintenance("later"), Throttled),
        (ccxt.NotSupported("no"), ConnectionFailed),
        (KeyError("ccxt's own defect"), ConnectionLost),
    ],
)
async def test_an_exchange_that_cannot_be_opened_raises_the_error_of_its_remedy(
    source: Make, error: Exception, expected: type[FeedError]
):
    def prepare(exchange: Any) -> Any:
        exchange.refuses = error
        return exchange

    made, maker = source(VirtualClock(), prepare=prepare)
    with pytest.raises(expected) as caught:
        await made.run(Received().take)
    assert caught.type is expected
    assert caught.value.retryable == (expected != LoginRefused and str(error) != "no")
    assert maker.made[0].closed


async def test_the_pause_is_that_of_the_venue(source: Make):
    def prepare(exchange: Any) -> Any:
        exchange.refuses = ccxt.RateLimitExceeded("429")
        exchange.last_response_headers = {"Retry-After": "7"}
        return exchange

    with pytest.raises(Throttled) as caught:
        await source(VirtualClock(), prepare=prepare)[0].run(Received().take)
    assert caught.value.retry_after_seconds == 7


async def test_markets_are_loaded_once(source: Make):
    made, maker = source(VirtualClock())
    async with running(made):
        maker.made[0].feed("watch_trades", ccxt.NetworkError("gone"))
        await rest()

    def refuse(exchange: Any) -> Any:
        exchange.refuses = AssertionError("loaded again")
        return exchange

    maker.prepare = refuse
    async with running(made) as received:
        maker.made[1].feed("watch_trades", [trade(1)])
        await rest()
    assert received.of(Trade)
    assert received.error is None


# ------------------------------------------------------------------------------------- when it breaks


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ccxt.NetworkError("code 1006"), ConnectionLost),
        (ccxt.ExchangeNotAvailable("503"), ConnectionLost),
        (ccxt.BadResponse("garbage"), ConnectionLost),
        (ccxt.AuthenticationError("who?"), LoginRefused),
        (ccxt.DDoSProtection("429"), Throttled),
    ],
)
async def test_an_error_ends_the_run_with_the_error_of_its_remedy(
    source: Make, error: Exception, expected: type[FeedError]
):
    made, maker = source(VirtualClock())
    async with running(made) as received:
        maker.made[0].feed("watch_trades", [trade(1)], error)
        await rest()

    assert type(received.error) is expected
    assert [event.id for event in received.of(Trade)] == ["1"], "what came before it is delivered"
    assert maker.made[0].closed


async def test_events_before_a_failure_are_still_delivered(source: Make):
    made, maker = source(VirtualClock())
    released, took = anyio.Event(), Received()

    async def slowly(events: list[Event]) -> None:
        await released.wait()
        await took.take(events)

    async with running(made, slowly) as received:
        for answer in ([trade(1)], [trade(2)], ccxt.NetworkError("gone")):
            maker.made[0].feed("watch_trades", answer)
            await rest()
        assert not took
        released.set()
        await rest()

    assert [event.id for event in took] == ["1", "2"]
    assert isinstance(received.error, ConnectionLost)


async def test_a_refused_topic_is_reported_and_does_not_affect_others(source: Make):
    made, maker = source(VirtualClock(), channels=("trades", "ticker"))
    async with running(made) as received:
        maker.made[0].feed("watch_ticker", ccxt.BadSymbol("no tickers of it"))
        maker.made[0].feed("watch_trades", [trade(1)])
        await rest()

    [status] = received.of(Status)
    assert (status.state, status.channel) == ("refused", "ticker")
    assert "no tickers of it" in status.detail
    assert received.of(Trade)
    assert received.error is None


async def test_a_feed_with_only_refused_topics_ends(source: Make):
    made, maker = source(VirtualClock())
    async with running(made) as received:
        maker.made[0].feed("watch_trades", ccxt.BadRequest("never"))
        await rest()

    assert isinstance(received.error, SubscriptionRefused)


async def test_a_topic_that_fails_repeatedly_before_its_first_data_is_refused(source: Make):
    clock = VirtualClock()
    made, maker = source(clock, channels=("trades", "ticker"))
    async with running(made) as received:
        maker.made[0].feed("watch_ticker", *[ccxt.ExchangeError("hm")] * 4)
        await passing(clock, 5)

    assert received.states() == ["refused"]
    assert received.error is None


async def test_a_broken_book_is_watched_again_and_its_gap_is_reported(source: Make):
    made, maker = source(VirtualClock(), channels=("book",))
    async with running(made) as received:
        maker.made[0].feed("watch_order_book", book("9"), ccxt.ChecksumError("gap"), book("8"))
        await rest()

    kinds = [type(event) for event in received if type(event) is not Status]
    assert kinds == [Book, Gap, Book]
    [gap] = received.of(Gap)
    assert (gap.cause, gap.channel, gap.since) == ("sequence", "book", 7_000_000)
    assert [event.kind for event in received.of(Book)] == ["snapshot", "snapshot"]


async def test_a_book_that_breaks_repeatedly_opens_the_exchange_anew(source: Make):
    made, maker = source(VirtualClock(), channels=("book",))
    async with running(made) as received:
        maker.made[0].feed("watch_order_book", *[ccxt.ChecksumError("gap")] * 4)
        await rest()

    assert isinstance(received.error, ConnectionLost)
    assert "more than 3 times in a minute" in str(received.error)


async def test_a_book_that_stays_crossed_is_subscribed_again(source: Make):
    made, maker = source(VirtualClock(), channels=("book",))
    async with running(made) as received:
        exchange = maker.made[0]
        exchange.feed("watch_order_book", book("9"), book("10"), book("11"), book("8"))
        await rest()

    assert [event.cause for event in received.of(Gap)] == ["crossed"]
    assert ("un_watch_order_book", "BTC/USDT") in exchange.asked
    assert received.of(Book)[-1].raw_bids == [("8", "1")]


async def test_a_call_that_ccxt_cancels_does_not_end_the_task(source: Make):
    made, maker = source(VirtualClock())
    async with running(made) as received:
        maker.made[0].feed("watch_trades", [trade(1)], asyncio.CancelledError(), [trade(2)])
        await rest()

    assert [type(event) for event in received] == [Trade, Gap, Trade]
    assert received.of(Gap)[0].cause == "disconnect"


async def test_a_full_cache_is_a_gap_and_is_cleared(source: Make):
    class Cache(deque[Any]):
        max_size = 2

    made, maker = source(VirtualClock())
    async with running(made) as received:
        exchange = maker.made[0]
        exchange.trades["BTC/USDT"] = cache = Cache([1])
        exchange.feed("watch_trades", [trade(1)])
        await rest()
        assert not received.of(Gap)
        exchange.feed("watch_trades", [trade(5), trade(6)])
        await rest()

    [gap] = received.of(Gap)
    assert (gap.cause, gap.since, gap.until) == ("overflow", 1_000_000, 5_000_000)
    assert not cache


async def test_a_call_that_returns_the_cache_itself_loses_nothing(source: Make):
    made, maker = source(VirtualClock())
    async with running(made) as received:
        cache = deque([trade(1), trade(2)])
        maker.made[0].trades["BTC/USDT"] = cache
        maker.made[0].feed("watch_trades", cache)
        await rest()

    assert [event.id for event in received.of(Trade)] == ["1", "2"]
    assert not cache


# ----------------------------------------------------------------------------------- when it is silent


async def test_a_subscription_without_data_is_renewed(source: Make):
    clock = VirtualClock()
    made, maker = source(clock, stall=40)
    async with running(made) as received:
        exchange = maker.made[0]
        await passing(clock, 9)
        assert exchange.asked == [("watch_trades", "BTC/USDT")]
        await passing(clock, 3)

        assert [name for name, _ in exchange.asked] == [
            "watch_trades",
            "un_watch_trades",
            "watch_trades",
        ]
    assert received.states() == ["stale"]
    assert not received.of(Gap), "nothing had come, so nothing is known to be missing"


async def test_a_stalled_topic_is_restarted_and_then_the_exchange_reopened(source: Make):
    clock = VirtualClock()
    made, maker = source(clock, stall=40)
    async with running(made) as received:
        maker.made[0].feed("watch_trades", [trade(1)])
        await passing(clock, 42)
        assert received.error is None
        assert received.states() == ["stale"]
        await passing(clock, 45)
        assert isinstance(received.error, ConnectionLost)

    async with running(made) as received:
        maker.made[1].feed("watch_trades", [trade(90)])
        await rest()
    [gap] = received.of(Gap)
    assert (gap.cause, gap.since, gap.until) == ("stall", 1_000_000, 90_000_000)


async def test_repeated_data_counts_as_silence(source: Make):
    clock = VirtualClock()
    made, maker = source(clock, channels=("book",), stall=40)
    async with running(made) as received:
        for _ in range(45):
            maker.made[0].feed("watch_order_book", book("9"))
            await passing(clock, 1)

    assert received.states() == ["unproven", "stale"]


async def test_a_quiet_symbol_does_not_reopen_the_exchange_without_unwatch(source: Make):
    clock = VirtualClock()
    made, maker = source(clock, channels=("trades", "ticker"), unwatch=False, stall=40)
    async with running(made) as received:
        for n in range(60):
            maker.made[0].feed("watch_trades", [trade(n)])
            await passing(clock, 1)

    assert received.error is None
    assert received.states() == ["stale", "stale"]  # of the ticker, each time after twice as long


async def test_an_exchange_without_any_data_is_opened_anew(source: Make):
    clock = VirtualClock()
    made, _ = source(clock, unwatch=False, stall=40)
    async with running(made) as received:
        await passing(clock, 12)

    assert isinstance(received.error, ConnectionLost)


async def test_a_connection_without_bytes_is_lost_and_one_with_pongs_is_not(source: Make):
    clock = VirtualClock()
    made, maker = source(clock, silence=20, stall=1000)
    async with running(made) as received:
        client = SimpleNamespace(last_message_at=1)
        maker.made[0].clients["ws://acme"] = client
        for _ in range(3):
            await passing(clock, 15)
            client.last_message_at += 1
        assert received.error is None
        await passing(clock, 25)

    assert isinstance(received.error, ConnectionLost)
    assert "received nothing for 20 s" in str(received.error)


async def test_a_topic_that_lagged_at_a_disconnect_has_its_own_gap(source: Make):
    clock = VirtualClock()
    made, maker = source(clock, channels=("trades", "ticker"))
    async with running(made):
        maker.made[0].feed("watch_ticker", {"last": "1", "timestamp": 5})
        await passing(clock, 10)
        maker.made[0].feed("watch_trades", [trade(6)], ccxt.NetworkError("gone"))
        await rest()
    async with running(made) as received:
        maker.made[1].feed("watch_ticker", {"last": "2", "timestamp": 9})
        maker.made[1].feed("watch_trades", [trade(10)])
        await rest()

    # Core tells of the hole that all have since the last event of any.
    [gap] = received.of(Gap)
    assert (gap.channel, gap.cause, gap.since) == ("ticker", "silence", 5_000_000)


async def test_a_frame_that_ccxt_fails_on_is_reported(source: Make):
    made, maker = source(VirtualClock())
    async with running(made) as received:
        maker.on_error('{"price": 1', json.JSONDecodeError("cut short", "", 0))
        await rest()
        assert [(event.rule, event.evidence) for event in received.of(Reject)] == [
            ("unreadable_frame", '{"price": 1')
        ]
        assert received.error is None
        maker.on_error("[]", KeyError("price"))
        await rest()

    assert isinstance(received.error, ConnectionLost)
    assert "KeyError" in str(received.error)
