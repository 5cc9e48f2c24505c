"""Each fault does what it says, and stands in the truth."""

import itertools
import json
from collections import Counter

import anyio
import httpx
import pytest
from tapeloom.errors import ConfigError
from tapeloom_simulator import EPOCH, Fault, load

SECOND = 1_000_000_000


async def told(simulate, dial, *faults, channels=("trades",), trades=400, **options):
    """Run a market with faults; return the client and the truth."""
    async with (
        simulate(trades=trades, seed=4, faults=faults, **options) as sim,
        dial(sim) as client,
    ):
        await client.ask(*channels)
        await client.read_all()
    return client, sim.truth


def ids(client):
    return [trade["id"] for trade in client.of("trade")]


def truth_of(truth):
    return [(f.kind, f.connection, f.stream) for f in truth.faults]


async def test_a_trade_is_sent_twice(simulate, dial):
    client, truth = await told(simulate, dial, Fault(kind="dup_trade", after=9, every=100, count=3))
    twice = [number for number, times in Counter(ids(client)).items() if times == 2]

    assert twice == [10, 110, 210]
    assert truth_of(truth) == [("dup_trade", 1, "BTC/USDT trades")] * 3
    assert [json.loads(fault.detail)["id"] for fault in truth.faults] == twice


async def test_a_trade_comes_late(simulate, dial):
    client, truth = await told(simulate, dial, Fault(kind="late_trade", after=9, value=4))

    assert ids(client)[8:16] == [9, 11, 12, 13, 14, 10, 15, 16]
    assert truth.fault_counts() == {"late_trade": 1}


async def test_two_trades_change_places(simulate, dial):
    client, truth = await told(simulate, dial, Fault(kind="reorder", after=9))

    assert ids(client)[8:13] == [9, 11, 10, 12, 13]
    assert sorted(ids(client)) == list(range(1, 401))
    assert truth.fault_counts() == {"reorder": 1}


async def test_a_diff_is_lost_and_the_ids_show_it(simulate, dial):
    client, truth = await told(
        simulate,
        dial,
        Fault(kind="drop_diff", after=2),
        channels=("book", "trades"),
        rate=200.0,
        start=2,  # else a busy machine trades before the second subscription
    )
    diffs = client.of("book")
    holes = [
        b["first"] - a["last"] - 1
        for a, b in itertools.pairwise(diffs)
        if b["first"] != a["last"] + 1
    ]
    (lost,) = (json.loads(fault.detail) for fault in truth.faults)

    assert holes == [lost["last"] - lost["first"] + 1]
    assert truth_of(truth) == [("drop_diff", 1, "BTC/USDT book")]
    assert ids(client) == list(range(1, 401))


@pytest.mark.parametrize("kind", ["malformed_json", "missing_fields"])
async def test_a_frame_is_spoiled_and_its_neighbours_are_not(simulate, dial, kind):
    client, truth = await told(simulate, dial, Fault(kind=kind, after=49))
    good = [
        t for t in client.texts if '"trade"' in t and t.endswith("}") and len(json.loads(t)) == 5
    ]

    assert len(good) == 399
    assert truth.fault_counts() == {kind: 1}
    assert 50 not in [json.loads(text)["id"] for text in good]


async def test_a_frame_of_plain_text_comes_between(simulate, dial):
    client, _truth = await told(simulate, dial, Fault(kind="plain_text_frame", after=49))
    odd = [t for t in client.texts if not t.startswith(("{", '"'))]

    assert odd == ["upstream connect error or disconnect"]
    assert ids(client) == list(range(1, 401))


@pytest.mark.parametrize(("how", "books"), [("stream", True), ("all", False)])
async def test_a_stream_or_the_connection_falls_silent(simulate, dial, how, books):
    fault = Fault(kind="silent_stall", channel="trades", after=99, how=how)
    client, truth = await told(simulate, dial, fault, channels=("trades", "book"), rate=100.0)
    late = [b for b in client.of("book") if b["last"] > 1_000_700]

    assert ids(client) == list(range(1, 100))
    assert bool(late) is books
    assert client.code == 1001  # the connection itself was alive
    assert [(f.kind, f.detail) for f in truth.faults] == [("silent_stall", how)]


async def test_a_silence_ends_after_its_time(simulate, dial):
    fault = Fault(kind="silent_stall", after=99, seconds=1.0)
    client, truth = await told(simulate, dial, fault, rate=100.0)
    fills = {fill.id: fill.ts for fill in truth.market_trades["BTC/USDT"]}
    missing = set(fills) - set(ids(client))

    assert 30 < len(missing) < 300
    assert all(ts - fills[100] < 1.2 * SECOND for ts in (fills[i] for i in missing))
    assert max(ids(client)) == 400


async def test_a_fault_has_an_end(simulate, dial):
    faults = [
        Fault(kind="dup_trade", count=0, until=2.5),
        Fault(kind="disconnect", at=2.6, until=2.5),
        Fault(kind="max_age", seconds=0.0, until=0.0),
    ]
    client, truth = await told(simulate, dial, *faults, rate=100.0)
    times = [fault.ts - EPOCH for fault in truth.faults]

    assert set(truth.fault_counts()) == {"dup_trade"}
    assert max(times) < 2.5 * SECOND
    assert 100 < len(times) < 300
    assert max(ids(client)) == 400


async def test_what_a_silence_holds_back_is_no_occasion_for_another_fault(simulate, dial):
    faults = [Fault(kind="silent_stall", after=99), Fault(kind="dup_trade", after=200)]
    client, truth = await told(simulate, dial, *faults)

    assert ids(client) == list(range(1, 100))
    assert truth.fault_counts() == {"silent_stall": 1}


async def test_the_venue_spoils_what_needs_its_language(simulate, dial):
    faults = [
        Fault(kind="crossed_book", after=1),
        Fault(kind="huge_batch", after=4),
        Fault(kind="missing_final_kline", after=1),
    ]
    client, truth = await told(
        simulate, dial, *faults, channels=("book", "klines"), rate=50.0, trades=300
    )
    starts = [k["start"] for k in client.of("kline")]

    assert sum(d["bids"] == [[10**12, 1]] for d in client.of("book")) == 1
    assert sum(len(d["bids"]) >= 1024 for d in client.of("book")) == 1
    assert {b - a for a, b in itertools.pairwise(starts)} == {SECOND, 2 * SECOND}
    assert truth.fault_counts() == {"crossed_book": 1, "huge_batch": 1, "missing_final_kline": 1}


@pytest.mark.parametrize(("how", "code"), [("clean", 1000), ("abrupt", -1)])
async def test_a_connection_is_cut(simulate, dial, how, code):
    fault = Fault(kind="disconnect", after=49, how=how)
    async with (
        simulate(trades=5000, faults=[fault], rate=500, speed=2.0) as sim,
        dial(sim) as client,
    ):
        await client.ask("trades")
        await client.read()
        await client.ws.close()

    assert client.code == code
    assert len(ids(client)) <= 60
    assert [(f.kind, f.detail) for f in sim.truth.faults] == [("disconnect", how)]


async def test_connections_are_cut_at_a_time_again_and_again(simulate, dial):
    fault = Fault(kind="disconnect", at=1.0, every=2, count=2)
    async with simulate(trades=600, faults=[fault], rate=100, speed=20) as sim:
        codes = []
        for _ in range(2):
            async with dial(sim) as client:
                await client.ask("trades")
                await client.read()
                codes.append(client.code)
        async with dial(sim) as client:
            await client.ask("trades")
            await client.read_all()
            codes.append(client.code)

    assert codes == [1000, 1000, 1001]
    first, second = (fault.ts - EPOCH for fault in sim.truth.faults)
    assert 1.0 * SECOND <= first < 2.0 * SECOND
    assert second >= 3.0 * SECOND


async def test_the_venue_goes_away_with_a_notice(simulate, dial):
    fault = Fault(kind="server_shutdown", after=20)
    async with (
        simulate(trades=5000, faults=[fault], rate=500, speed=2.0) as sim,
        dial(sim) as client,
    ):
        await client.ask("trades")
        await client.read()

    assert client.texts[-1] == '"bye"'
    assert client.code == 1001
    assert sim.truth.fault_counts() == {"server_shutdown": 1}


async def test_a_connection_is_too_old(simulate, dial):
    fault = Fault(kind="max_age", seconds=100.0)
    async with (
        simulate(faults=[fault], start="manual", time_scale=1000) as sim,
        dial(sim) as client,
    ):
        await client.read()

    assert client.code == 1001
    assert truth_of(sim.truth) == [("max_age", 1, "")]


async def test_no_ping_is_sent_and_none_is_answered(simulate, acme, dial):
    venue = acme(ping_interval_seconds=20.0, pong_timeout_seconds=60.0)
    faults = [Fault(kind="no_ping", count=0), Fault(kind="ping_no_pong")]
    async with (
        simulate(venue, faults=faults, start="manual", time_scale=1000) as sim,
        dial(sim) as client,
    ):
        waiter = await client.ws.ping()
        with anyio.move_on_after(0.2):
            await client.read()
        assert not waiter.is_set()
        again = await client.ws.ping()
        with anyio.move_on_after(2):
            await again.wait()
        assert again.is_set()

    assert sim.truth.fault_counts()["ping_no_pong"] == 1
    assert sim.truth.fault_counts()["no_ping"] >= 3


async def test_a_message_is_not_acknowledged(simulate, dial):
    fault = Fault(kind="ack_missing", after=1)
    client, truth = await told(simulate, dial, fault, channels=("trades", "book", "klines"))
    acks = [json.loads(t)["ok"] for t in client.texts if '"ok"' in t]

    assert acks == ["trades", "klines"]
    assert ids(client) == list(range(1, 401))
    assert truth.fault_counts() == {"ack_missing": 1}


async def test_an_acknowledgement_comes_late(simulate, dial):
    fault = Fault(kind="ack_delay", seconds=200.0)
    async with (
        simulate(faults=[fault], start="manual", time_scale=1000) as sim,
        dial(sim) as client,
    ):
        await client.ws.receive_text()
        before = anyio.current_time()
        await client.ask("trades")
        await client.ws.receive_text()

        assert 0.15 < anyio.current_time() - before < 2
        assert sim.truth.fault_counts() == {"ack_delay": 1}


async def test_data_comes_before_the_acknowledgement(simulate, dial):
    client, truth = await told(simulate, dial, Fault(kind="data_before_ack"))

    assert '"trade"' in client.texts[1]
    assert sum('"ok"' in text for text in client.texts) == 1
    assert truth.fault_counts() == {"data_before_ack": 1}


async def test_a_message_is_refused(simulate, dial):
    fault = Fault(kind="sub_error")
    async with simulate(faults=[fault], trades=10) as sim, dial(sim) as client:
        await client.ask("book")
        await client.ask("trades")
        await client.read_all()

    assert client.texts[1] == '{"error":"no"}'
    assert [sent.stream for sent in sim.truth.sent] == ["BTC/USDT trades"]


async def test_a_stream_is_acknowledged_and_never_comes(simulate, dial):
    fault = Fault(kind="misroute_silence", symbol="BTC/USDT", channel="book")
    client, truth = await told(simulate, dial, fault, channels=("book", "trades"))

    assert client.of("book") == []
    assert sum('"ok"' in text for text in client.texts) == 2
    assert truth_of(truth) == [("misroute_silence", 1, "BTC/USDT book")]


async def test_a_client_is_said_to_send_too_much(simulate, dial):
    fault = Fault(kind="rate_limit_ws", after=1)
    async with simulate(faults=[fault], start="manual") as sim, dial(sim) as client:
        await client.ask("trades", "book")
        await client.read()

    assert client.code == 1008
    assert sim.truth.fault_counts() == {"rate_limit_ws": 1}


async def test_rest_is_refused(simulate):
    faults = [
        Fault(kind="rate_limit_rest", value=status, after=after, seconds=7)
        for after, status in ((0, 429), (0, 418), (0, 403))
    ]
    async with (
        simulate(faults=faults, start="manual") as sim,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        answers = [await http.get(f"{sim.url}/time") for _ in range(4)]

    assert [a.status_code for a in answers] == [429, 418, 403, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert sim.truth.fault_counts() == {"rate_limit_rest": 3}


async def test_a_dial_is_refused(simulate, dial):
    from httpx_ws import WebSocketUpgradeError

    async with simulate(faults=[Fault(kind="dial_limit")], start="manual") as sim:
        with pytest.raises(WebSocketUpgradeError) as refused:
            async with dial(sim):
                pass
        async with dial(sim) as client:
            assert await client.ws.receive_text() == '"welcome"'

    assert refused.value.response.status_code == 429
    assert sim.truth.fault_counts() == {"dial_limit": 1}


async def test_a_snapshot_is_stale_and_other_calls_are_not_touched(simulate):
    fault = Fault(kind="stale_snapshot", value=50)
    async with (
        simulate(faults=[fault], trades=500, start="now") as sim,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        await sim.finished()
        await http.get(f"{sim.url}/time")
        stale, fresh = [(await http.get(f"{sim.url}/book")).json() for _ in range(2)]

        assert fresh["last"] - stale["last"] == 50
        assert fresh["last"] == sim.market.instruments["BTC/USDT"].last_update_id
        assert sim.truth.fault_counts() == {"stale_snapshot": 1}


async def test_the_venues_clock_is_wrong(simulate):
    fault = Fault(kind="clock_skew_ms", value=-2500)
    async with (
        simulate(faults=[fault], trades=10, start="now") as sim,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        await sim.finished()
        clock = int((await http.get(f"{sim.url}/time")).text)

        assert -2.7 * SECOND < clock - sim.market.now <= -2.5 * SECOND
        assert sim.truth.fault_counts() == {"clock_skew_ms": 1}


async def test_the_same_seed_injects_the_same_faults(simulate, dial):
    runs = []
    for _ in range(2):
        faults = [
            Fault(kind="dup_trade", chance=0.1, count=0),
            Fault(kind="late_trade", chance=0.05, count=0),
        ]
        client, truth = await told(simulate, dial, *faults)
        runs.append((ids(client), truth.faults))

    assert runs[0] == runs[1]
    assert 20 < runs[0][1].__len__() < 120


async def test_a_fault_is_narrowed_down_to_a_symbol_and_a_connection(simulate, dial):
    faults = [
        Fault(kind="dup_trade", symbol="ETH/USDT", after=4),
        Fault(kind="plain_text_frame", connection=2, per_stream=True),
    ]
    async with (
        simulate(faults=faults, trades=500, symbols=["BTC/USDT", "ETH/USDT"], start=4) as sim,
        dial(sim) as one,
        dial(sim) as two,
    ):
        for client in (one, two):
            await client.ask("trades")
            await client.ask("trades", symbol="ETH/USDT")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(two.read)
            await one.read_all()

    assert sorted(truth_of(sim.truth)) == [
        ("dup_trade", 1, "ETH/USDT trades"),
        ("plain_text_frame", 2, "BTC/USDT trades"),
        ("plain_text_frame", 2, "ETH/USDT trades"),
    ]
    assert len(one.of("trade")) == 501
    assert len(two.of("trade")) == 500


# ----------------------------------------------------------------------------------- the TOML file


def test_faults_are_read_from_toml(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text(
        '[[fault]]\nkind = "drop_diff"\nsymbol = "BTC/USDT"\nafter = 20\nevery = 50\ncount = 0\n'
        '[[fault]]\nkind = "disconnect"\nat = 1.5\nhow = "abrupt"\n'
    )

    assert load(path) == [
        Fault(kind="drop_diff", symbol="BTC/USDT", after=20, every=50, count=0),
        Fault(kind="disconnect", at=1.5, how="abrupt"),
    ]


def test_every_mistake_in_the_file_is_told_at_once_with_its_place(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text(
        '[[fault]]\nkind = "drop_dif"\n[[fault]]\nkind = "reorder"\nafterr = 3\n[[fault]]\ncount = 1\n'
        '[[fault]]\nkind = "disconnect"\nhow = "gently"\n[[fault]]\nkind = "reorder"\nafter = -1\n'
        '[[fault]]\nkind = "reorder"\nafter = "x"\n[faults]\n'
    )
    with pytest.raises(ConfigError) as wrong:
        load(path)
    lines = str(wrong.value).replace(str(path), "F").splitlines()

    assert lines[0] == "F: faults: unknown table. Did you mean 'fault'? Write [[fault]]."
    assert (
        lines[1]
        == "F: fault[0]: there is no fault of the kind 'drop_dif'. Did you mean 'drop_diff'?"
    )
    assert lines[2] == "F: fault[1]: unknown key 'afterr'. Did you mean 'after'?"
    assert lines[3].startswith("F: fault[2]: kind is missing. There are: ack_delay, ")
    assert lines[4] == "F: fault[3]: how of disconnect must be 'clean' or 'abrupt', not 'gently'"
    assert lines[5] == "F: fault[4]: after must be 0 or more, not -1"
    assert lines[6].startswith("F: fault[5]: ")
    assert len(lines) == 7


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text("[[fault]")

    with pytest.raises(ConfigError, match="is no TOML"):
        load(path)
