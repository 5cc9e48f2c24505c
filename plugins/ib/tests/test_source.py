"""End to end: the real ib_async against a simulated gateway. Delivered events equal the market."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from decimal import Decimal

import pytest
import tapeloom
from tapeloom import FeedSpec, Stack, Trade
from tapeloom.errors import ConfigError, SubscriptionRefused
from tapeloom_ib.dial import client, leave
from tapeloom_simulator import Fault, serve

NANO = 1_000_000_000
ALL = ("trades", "quotes", "book:5", "klines:5s")


def trades(received, symbol="AAPL/USD"):
    return [(t.price, t.size, t.ts) for t in received.of("trade", symbol)]


def truth(received, symbol="AAPL/USD"):
    return [(t.price, t.size, t.ts // NANO * NANO) for t in received.sim.truth.trades(symbol)]


def missing(received, symbol="AAPL/USD"):
    """Return the times of the trades before the last that were not delivered; what was is in order."""
    left, lost = iter(trades(received, symbol)), []
    wanted = next(left, None)
    for event in truth(received, symbol):
        if event == wanted:
            wanted = next(left, None)
        elif wanted is not None:
            lost.append(event[2])
    assert wanted is None, f"{wanted} was delivered and never happened"
    return lost


def recovered(received, channel="trades"):
    """Say whether there was a hole, and data after it."""
    places = [
        place
        for place, event in enumerate(received.events)
        if event.type == "gap" and event.channel == channel
    ]
    return places and len(received.events) > places[-1] + 100


def covered(received, lost, symbol="AAPL/USD", channel="trades"):
    gaps = received.of("gap", symbol, channel)
    return all(any(gap.since <= ts <= gap.until for gap in gaps) for ts in lost)


async def test_delivered_events_equal_the_market(received):
    async with received(("AAPL/USD", "MSFT/USD"), ALL, trades=1500) as seen:
        await seen.finish()
        for symbol in ("AAPL/USD", "MSFT/USD"):
            assert trades(seen, symbol) == truth(seen, symbol)
            assert {t.side for t in seen.of("trade", symbol)} == {None}
            quotes = [(q.bid, q.bid_size, q.ask, q.ask_size) for q in seen.of("quote", symbol)]
            assert quotes == [(*q[2:4], *q[4:6]) for q in seen.sim.truth.quotes(symbol)]
            bids, asks = seen.sim.truth.book(symbol)
            book = seen.of("book", symbol)[-1]
            assert book.bids == [*bids.items()][:5]
            assert book.asks == [*asks.items()][:5]
            assert all(event.bids[0] < event.asks[0] for event in seen.of("book", symbol))
            bars = [(b.ts, b.open, b.high, b.low, b.close, b.volume, b.trades)
                    for b in seen.of("bar", symbol)]  # fmt: skip
            cent = Decimal("0.01")
            assert bars == [
                (
                    c.start,
                    c.open * cent,
                    c.high * cent,
                    c.low * cent,
                    c.close * cent,
                    c.volume,
                    c.trades,
                )
                for c in seen.sim.truth.closed_bars(symbol, "5s")
            ]

        assert sum(len(trades(seen, symbol)) for symbol in ("AAPL/USD", "MSFT/USD")) == 1500
        assert not seen.of("gap")
        assert not seen.of("reject")
        assert seen.states("trades") == ["live", "live"]


async def test_currencies_and_coins_have_bars_of_their_own_kind(received):
    async with received(("EUR/USD", "BTC/USD"), ("klines:5s",), trades=4000) as seen:
        await seen.finish()
        midpoint, traded = seen.of("bar", "EUR/USD"), seen.of("bar", "BTC/USD")

        assert len(midpoint) == len(traded) >= 2
        assert {(bar.volume, bar.trades) for bar in midpoint} == {(0, 0)}
        assert traded[0].volume > 0
        assert all(bar.low <= bar.open <= bar.high for bar in midpoint)


async def test_delayed_level_1_data_is_reported(received):
    settings = {"quotes": "top", "market_data": "delayed"}
    async with received(channels=("quotes",), settings=settings, trades=800) as seen:
        await seen.finish()
        quotes = seen.of("quote")
        best = seen.sim.market.instruments["AAPL/USD"].top_of_book()

        assert "delayed" in seen.states("quotes")
        assert (quotes[-1].bid, quotes[-1].ask) == (
            best.bid * Decimal("0.01"),
            best.ask * Decimal("0.01"),
        )


# ------------------------------------------------------------------------------------ what goes wrong


async def test_a_gap_covers_trades_lost_with_the_connection(received):
    fault = Fault(kind="disconnect", channel="trades", after=200, how="abrupt")
    async with received(faults=[fault]) as seen:
        await seen.until(recovered)
        lost = missing(seen)

        assert lost
        assert covered(seen, lost)
        assert len(seen.of("gap", channel="trades")) == 1
        assert "reconnecting" in seen.states("")


@pytest.mark.parametrize("kind", ["ib_1101", "ib_1102", "ib_2103"])
async def test_a_gap_covers_trades_lost_during_an_outage(received, kind):
    fault = Fault(kind=kind, channel="trades", after=200)
    async with received(faults=[fault], time_scale=50) as seen:
        await seen.until(recovered)
        lost = missing(seen)

        assert lost
        assert covered(seen, lost)
        # Nobody fetches it, so nothing more is said of it.
        gaps = [(gap.cause, gap.state) for gap in seen.of("gap", channel="trades")]
        assert gaps == [("disconnect", "unrecoverable")]
        assert seen.states("")[:3] == ["connected", "stale", "connected"]
        assert len(seen.sim.truth.sent) == (
            2 if kind == "ib_1101" else 1
        )  # subscribed anew, or not


async def test_a_restored_code_without_a_lost_code_is_a_gap_too(received):
    async with received(time_scale=50) as seen:
        await seen.until(lambda received: len(received.of("trade")) > 100)
        (client,) = seen.sim.venue._gateway.clients
        client.disconnected = True  # the client is sent no code for it
        client.line.call_later(5.0, lambda: client._restored(1102, "Connectivity restored."))
        await seen.until(recovered)
        lost = missing(seen)

        assert lost
        assert covered(seen, lost)


async def test_an_outage_without_an_end_is_reported_as_stale(received):
    async with received(faults=[Fault(kind="ib_1100", after=20)]) as seen:
        await seen.until(lambda received: "stale" in received.states(""))

        assert seen.events[-1].detail.startswith("1100: Connectivity")


async def test_a_book_is_rebuilt_after_a_reset(received):
    faults = [Fault(kind="ib_317", after=20, every=20, count=3)]
    async with received(channels=("book:5",), trades=2000, faults=faults) as seen:
        await seen.finish()
        bids, asks = seen.sim.truth.book("AAPL/USD")
        last = seen.of("book")[-1]

        assert (last.bids, last.asks) == ([*bids.items()][:5], [*asks.items()][:5])
        assert {gap.cause for gap in seen.of("gap")} == {"reset"}
        assert seen.sim.truth.fault_counts() == {"ib_317": 3}


async def test_an_invalid_book_is_not_emitted_and_requested_again(received):
    faults = [Fault(kind="drop_diff", channel="book", after=15, every=10, count=0)]
    async with received(channels=("book:5",), faults=faults) as seen:
        await seen.until(lambda received: len(received.of("gap")) > 1)

        assert all(
            event.bids[0] < event.asks[0] for event in seen.of("book") if event.bids and event.asks
        )
        assert {gap.cause for gap in seen.of("gap")} == {"sequence"}
        assert "stale" in seen.states("book:5")


@pytest.mark.parametrize("kind", ["malformed_json", "missing_fields"])
@pytest.mark.parametrize(
    ("after", "speed"), [(50, 20.0), (25, 2000.0)], ids=["alone", "rows after it"]
)
async def test_an_unreadable_row_makes_the_book_be_requested_again(received, kind, after, speed):
    faults = [Fault(kind=kind, channel="book", after=after)]
    async with received(channels=("book:5",), trades=2000, faults=faults, speed=speed) as seen:
        await seen.finish()
        bids, asks = seen.sim.truth.book("AAPL/USD")
        last = seen.of("book")[-1]

        assert [reject.rule for reject in seen.of("reject")] == ["unreadable_frame"]
        assert [gap.cause for gap in seen.of("gap")] == ["sequence"]
        assert (last.bids, last.asks) == ([*bids.items()][:5], [*asks.items()][:5])


async def test_bars_ended_by_the_venue_are_requested_again(received):
    fault = Fault(kind="ib_10225", after=1)
    async with received(channels=("klines:5s",), faults=[fault], speed=50.0) as seen:
        await seen.until(lambda received: received.of("gap") and len(received.of("bar")) > 3)
        starts = [bar.ts for bar in seen.of("bar")]
        whole = {
            c.start for c in seen.sim.truth.closed_bars("AAPL/USD", "5s") if c.start < starts[-1]
        }

        assert starts == sorted(set(starts))
        assert [gap.cause for gap in seen.of("gap")] == ["ended"]
        assert covered(seen, whole - set(starts), channel="klines:5s")


async def test_a_competing_session_is_waited_out(received):
    fault = Fault(kind="ib_10197", channel="trades", after=50)
    async with received(faults=[fault], settings={"retry_every": "200ms"}) as seen:
        await seen.until(recovered)
        lost = missing(seen)

        assert lost
        assert covered(seen, lost)
        assert seen.states("trades") == ["live", "refused"]


async def test_bad_messages_are_rejected_and_good_ones_around_them_delivered(received):
    faults = [
        Fault(kind="malformed_json", channel="trades", after=20),
        Fault(kind="plain_text_frame", channel="trades", after=40),
        Fault(kind="missing_fields", channel="trades", after=60),
        Fault(kind="ib_sentinel", channel="trades", after=80),
        Fault(kind="ib_halt", channel="trades", after=100),
    ]
    async with received(trades=400, faults=faults) as seen:
        await seen.finish()

        assert len(missing(seen)) == 2  # the two that were broken
        assert [reject.rule for reject in seen.of("reject")] == [
            "unreadable_frame",
            "unreadable_frame",
            "unreadable_frame",
            "no_value",
        ]
        assert seen.states("trades") == ["live", "halted", "live"]


async def test_an_empty_side_of_a_quote_is_none(received):
    faults = [Fault(kind="empty_side", channel="quotes", after=20)]
    async with received(channels=("trades", "quotes"), faults=faults) as seen:
        await seen.until(lambda received: any(q.bid is None for q in received.of("quote")))

        (half,) = [quote for quote in seen.of("quote") if None in (quote.bid, quote.ask)]
        assert (half.bid, half.bid_size) == (None, None)
        assert half.ask_size > 0
        assert seen.of("reject") == []


async def test_a_subscription_without_data_is_reported_as_stale(received):
    faults = [Fault(kind="misroute_silence", channel="quotes")]
    settings = {"data_within": "200ms"}
    async with received(channels=("trades", "quotes"), faults=faults, settings=settings) as seen:
        await seen.until(lambda received: "stale" in received.states("quotes"))

        assert "stale" not in seen.states("trades")


async def test_a_gateway_that_does_not_answer_is_disconnected(received):
    faults = [
        Fault(kind="silent_stall", how="all", after=100),
        Fault(kind="ack_missing", after=4, count=0),  # nor does it tell the time
    ]
    settings = {"probe_every": "200ms", "answer_within": "200ms"}
    async with received(faults=faults, settings=settings) as seen:
        await seen.until(lambda received: "reconnecting" in received.states(""))

        assert "the gateway hangs" in seen.events[-1].detail


async def test_a_quiet_market_does_not_end_the_connection(received):
    settings = {"probe_every": "100ms", "answer_within": "100ms", "data_within": "600ms"}
    async with received(start="manual", settings=settings) as seen:
        await seen.until(lambda received: "stale" in received.states("trades"))

        assert "reconnecting" not in seen.states("")


async def test_a_client_id_that_is_taken_is_waited_for(received):
    faults = [
        Fault(kind="disconnect", channel="trades", after=100, how="clean"),
        Fault(kind="lingering_session", seconds=25.0),
    ]
    async with received(faults=faults, settings={"busy_wait": "100ms"}, time_scale=50) as seen:
        await seen.until(recovered)
        details = [event.detail for event in seen.of("status") if event.state == "reconnecting"]

        assert any("client 1 already" in detail for detail in details)
        assert covered(seen, missing(seen))


async def test_a_connection_that_ends_before_subscribing_is_dialled_again(received):
    faults = [
        Fault(kind="ack_missing", after=3),  # the fourth message asks for the contract
        Fault(kind="disconnect", at=1.0),
    ]
    async with received(faults=faults, streams=0) as seen:
        await seen.until(lambda received: len(received.of("trade")) > 10)

        assert seen.states("").count("reconnecting") == 1
        assert seen.sim.truth.fault_counts() == {"ack_missing": 1, "disconnect": 1}


async def test_a_missing_contract_answer_ends_the_connection(received):
    faults = [Fault(kind="ack_missing", after=3)]
    async with received(faults=faults, settings={"answer_within": "100ms"}) as seen:
        await seen.until(lambda received: len(received.of("trade")) > 10)
        (again,) = [event.detail for event in seen.of("status") if event.state == "reconnecting"]

        assert "no answer about the contract of AAPL/USD" in again


async def test_a_gateway_that_refuses_this_machine_is_reported_at_once(received):
    async with received(faults=[Fault(kind="dial_limit")]) as seen:
        await seen.until(lambda received: "live" in received.states("trades"), seconds=5)
        details = [event.detail for event in seen.of("status") if event.state == "reconnecting"]

        assert ["the gateway closed the connection" in detail for detail in details] == [True]


# ----------------------------------------------------------------------------------- what is refused


async def test_an_unknown_symbol_is_refused_and_the_others_live(received):
    from tapeloom_simulator import listed

    async with received(
        ("AAPL/USD", "NOPE/USD"), listed=[listed("AAPL/USD")], streams=1, trades=300
    ) as seen:
        await seen.finish()
        refused = [event for event in seen.of("status") if event.state == "refused"]

        assert [event.symbol for event in refused] == ["NOPE/USD"]
        assert "No security definition" in refused[0].detail
        assert trades(seen) == truth(seen)


async def test_a_feed_with_only_unknown_symbols_fails(received):
    from tapeloom_simulator import listed

    with pytest.raises(SubscriptionRefused, match="No security definition"):
        async with received(("NOPE/USD",), listed=[listed("AAPL/USD")], streams=0) as seen:
            await seen.until(lambda received: False)


async def test_an_ambiguous_symbol_is_refused_with_its_candidates(received):
    from tapeloom_simulator import listed

    both = [listed("ES/USD:USD-261218"), listed("ES/USD:USD-270319")]
    tables = {"ES/USD:USD-261218": {"sec_type": "FUT", "exchange": "CME"},
              "ES/USD": {"sec_type": "FUT", "exchange": "CME"}}  # fmt: skip
    async with received(
        ("ES/USD", "ES/USD:USD-261218"),
        listed=both,
        settings={"contracts": tables},
        streams=1,
        trades=300,
    ) as seen:
        await seen.finish()
        refused = [event for event in seen.of("status") if event.state == "refused"]

        assert [event.symbol for event in refused] == ["ES/USD"]
        assert "20261218" in refused[0].detail
        assert "20270319" in refused[0].detail
        assert trades(seen, "ES/USD:USD-261218") == truth(seen, "ES/USD:USD-261218")


async def test_streams_above_the_account_limits_are_refused_before_connecting(received):
    names = tuple(f"S{number}/USD" for number in range(6))
    with pytest.raises(ConfigError, match="needs 6 tick-by-tick streams"):
        async with received(names, trades=1):
            pass
    with pytest.raises(ConfigError, match="klines:5s"):
        async with received(channels=("klines:1m",), trades=1):
            pass
    with pytest.raises(ConfigError, match="no channel 'ticker'"):
        async with received(channels=("ticker",), trades=1):
            pass


async def test_a_subscription_above_a_venue_limit_is_retried_later(received):
    names = tuple(f"S{number}/USD" for number in range(6))
    settings = {"lines": 200, "retry_every": "5000ms"}
    async with received(names, settings=settings, streams=5, trades=300) as seen:
        await seen.finish()
        refused = [event for event in seen.of("status") if event.state == "refused"]

        assert len(refused) == 1
        assert "10190" in refused[0].detail


# -------------------------------------------------------------------------------------- what is kept


async def test_account_numbers_are_not_shown(received, caplog, capsys):
    with caplog.at_level(logging.DEBUG):
        fault = Fault(kind="disconnect", channel="trades", after=100, how="abrupt")
        async with received(trades=1000, faults=[fault]) as seen:
            await seen.finish()
            shown = repr(seen.events) + repr(seen.stream)
    printed = capsys.readouterr()

    assert "DU1234567" not in shown + caplog.text + printed.out + printed.err


# ------------------------------------------------------------------------------------ the source alone


async def run_source(sim, symbols, channels, deliver, act, **settings):
    """Run a source against a simulation while *act* looks on."""
    from tapeloom.plugin import Feed
    from tapeloom_ib import Settings, connect

    table = Settings(**{**sim.settings, **settings})
    feed = Feed("f", "ib", "", [*symbols], tuple(channels), settings=table, clock=Wall())
    source = connect(feed)
    task = asyncio.create_task(source.run(deliver))
    try:
        async with asyncio.timeout(10):
            await act(feed, source)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Wall:
    """The clock on the wall."""

    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)


async def until(condition):
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def test_symbols_are_added_and_removed_while_streaming():
    seen = []

    async def deliver(events):
        seen.extend(events)

    async def act(feed, source):
        await until(lambda: any(event.type == "trade" for event in seen))
        feed.symbols.append("MSFT/USD")
        source.symbols_changed()
        await until(
            lambda: any(event.type == "trade" and event.symbol == "MSFT/USD" for event in seen)
        )
        feed.symbols.remove("AAPL/USD")
        source.symbols_changed()
        await until(lambda: any(sent.until is not None for sent in sim.truth.sent))
        gone = len(seen)
        await until(lambda: len(seen) > gone + 50)
        assert {event.symbol for event in seen[gone + 20 :]} == {"MSFT/USD"}

    async with serve("ib", symbols=["AAPL/USD", "MSFT/USD"], rate=400, speed=5) as sim:
        await run_source(sim, ["AAPL/USD"], ["trades"], deliver, act)
        assert [sent.symbol for sent in sim.truth.sent] == ["AAPL/USD", "MSFT/USD"]


async def test_feeds_of_one_process_have_different_client_ids():
    import tapeloom
    from tapeloom import FeedSpec, Stack

    async with serve("ib", symbols=["AAPL/USD", "MSFT/USD"], rate=400) as sim:
        feeds = [
            FeedSpec("ib", (event,), ("trades",), name=event[:4])
            for event in ("AAPL/USD", "MSFT/USD")
        ]
        seen = set()
        async with tapeloom.open(Stack(feeds=feeds, venues={"ib": sim.settings})) as stream:
            async with asyncio.timeout(5):
                async for event in stream:
                    assert getattr(event, "state", "") != "reconnecting"
                    seen |= {event.symbol} if event.type == "trade" else set()
                    if len(seen) == 2:
                        break


async def test_a_slow_consumer_loses_nothing_and_pauses_reading(monkeypatch):
    from tapeloom_ib import session

    monkeypatch.setattr(session, "_MAX_BATCHES", 4)
    seen, most, gate = [], 0, asyncio.Event()

    async def deliver(events):
        await gate.wait()
        seen.extend(events)

    async def act(feed, source):
        nonlocal most
        await until(lambda: source._session and len(source._session._batches) >= 4)
        for _ in range(40):
            most = max(most, len(source._session._batches))
            await asyncio.sleep(0.005)
        gate.set()
        await until(lambda: len([event for event in seen if event.type == "trade"]) == 2000)

    options = {"rate": 400, "speed": 20, "trades": 2000, "start": 1}
    async with serve("ib", symbols=["AAPL/USD"], **options) as sim:
        await run_source(sim, ["AAPL/USD"], ["trades"], deliver, act)
        wanted = [(event.price, event.size) for event in sim.truth.trades("AAPL/USD")]

    assert [(event.price, event.size) for event in seen if event.type == "trade"] == wanted
    assert most <= 6


@pytest.mark.parametrize("how", ["reset", "deaf"])
async def test_the_socket_is_closed_to_a_gateway_that_resets_or_does_not_read(how):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ib = client(lambda fields: None, lambda fields: None)
        await ib.client.conn.connectAsync(*server.getsockname())
        peer, _ = server.accept()
        transport = ib.client.conn.transport
        if how == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        else:
            transport.write(b"x" * (64 << 20))
        leave(ib)  # before the loop has heard of it
        await asyncio.sleep(0.05)
        peer.close()

        assert transport.get_extra_info("socket").fileno() == -1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_leaving_the_stream_closes_the_connection_at_once(anyio_backend):
    async with serve("ib", symbols=["AAPL/USD"], rate=400.0) as sim:
        feed = FeedSpec("ib", ("AAPL/USD",), ("trades",))
        async with tapeloom.open(Stack(feeds=(feed,), venues={"ib": sim.settings})) as stream:
            async for _ in stream.of(Trade):
                break
            session = stream._feeds["ib"].plan.source._session
            transport = session._client.conn.transport

        assert transport.is_closing()
