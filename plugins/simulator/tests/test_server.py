"""What clients are sent is what happened; and limits are enforced."""

import base64
import json
import math
import ssl
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
import trustme
from attrs import evolve
from httpx_ws import WebSocketUpgradeError
from tapeloom.errors import PluginBroken, PluginNotFound
from tapeloom.units import Rate
from tapeloom_simulator import (
    EPOCH,
    Fault,
    SimulatedMarket,
    TruthFile,
    serve,
    simulators,
    venue_server,
)
from tapeloom_simulator.hooks import hookimpl
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    Request,
    TextMessage,
)

ADD = json.dumps({"op": "add", "s": "BTC/USDT", "ch": "trades"})


async def get(sim, path, **more):
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(sim.url + path, **more)


class Raw:
    """A client that does only what it is told, and so answers no ping."""

    def __init__(self, stream):
        self.stream, self.wire, self.events = stream, WSConnection(ConnectionType.CLIENT), []

    async def send(self, event):
        await self.stream.send(self.wire.send(event))

    async def until(self, kind):
        """Read until an event of this kind comes."""
        while True:
            for event in self.events:
                if isinstance(event, kind):
                    self.events.remove(event)
                    return event
            self.wire.receive_data(await self.stream.receive())
            self.events += self.wire.events()


@asynccontextmanager
async def raw(sim):
    async with await anyio.connect_tcp("127.0.0.1", int(sim.url.rpartition(":")[2])) as stream:
        client = Raw(stream)
        await client.send(Request(host="x", target="/ws"))
        await client.until(AcceptConnection)
        yield client


async def test_every_trade_is_delivered_once_and_in_order(simulate, dial):
    async with simulate(trades=3000) as sim, dial(sim) as client:
        await client.ask("trades")
        await client.read_all()

        truth = [(fill.id, fill.price, fill.size) for fill in sim.truth.market_trades["BTC/USDT"]]
        assert [(t["id"], t["p"], t["q"]) for t in client.of("trade")] == truth
        assert len(truth) == sim.truth.trade_count == 3000
        assert sim.truth.sent[0].count == 3000
        assert sim.truth.sent[0].texts == [text for text in client.texts if '"trade"' in text]


async def test_over_tls_too(simulate, dial):
    authority = trustme.CA()
    server, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client_side)
    async with simulate(trades=2000, tls=server) as sim, dial(sim, verify=client_side) as client:
        await client.ask("trades", "book")
        await client.read_all()

        assert sim.url.startswith("https://")
        assert [t["id"] for t in client.of("trade")] == list(range(1, 2001))


async def test_a_client_that_does_not_trust_the_certificate_leaves_the_others_alone(simulate, dial):
    authority = trustme.CA()
    server, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client_side)
    async with simulate(trades=100, tls=server) as sim:
        with pytest.raises(httpx.ConnectError):
            await get(sim, "/time")
        async with dial(sim, verify=client_side) as client:
            await client.ask("trades")
            await client.read_all()

    assert len(client.of("trade")) == 100


async def test_diffs_replayed_on_the_rest_snapshot_give_the_final_book(simulate, dial):
    async with simulate(trades=4000, speed=20) as sim, dial(sim) as client:
        await client.ask("book")
        while sim.truth.trade_count < 500:  # noqa: ASYNC110
            await anyio.sleep(0.001)
        snapshot = (await get(sim, "/book")).json()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.read)
            await sim.finished()
            final = sim.market.instruments["BTC/USDT"].book_snapshot(1000)
            await sim.stop()
        bids, asks, last = dict(snapshot["bids"]), dict(snapshot["asks"]), snapshot["last"]
        for diff in client.of("book"):
            if diff["last"] <= last:
                continue
            assert diff["first"] <= last + 1
            last = diff["last"]
            for book, changed in ((bids, diff["bids"]), (asks, diff["asks"])):
                book.update(changed)
                for price, size in changed:
                    if not size:
                        del book[price]

        assert last == final.last_id > snapshot["last"]
        assert sorted(bids.items(), reverse=True) == final.bids
        assert sorted(asks.items()) == final.asks


async def test_what_is_sent_is_the_same_at_any_speed(simulate, dial):
    texts = []
    for speed in (math.inf, 3.0):
        async with simulate(trades=1500, seed=3, speed=speed, start=2) as sim, dial(sim) as client:
            await client.ask("trades", "book")
            texts.append([t for t in await client.read_all() if '"t"' in t])

    assert texts[0] == texts[1]


async def test_nothing_happens_before_the_start_that_was_agreed(simulate, dial):
    async with simulate(trades=50, start=3) as sim, dial(sim) as one, dial(sim) as two:
        await one.ask("trades", "book")
        await one.ws.receive_text()
        await anyio.sleep(0.05)
        assert sim.market.now == EPOCH
        await two.ask("trades")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.read)
            await two.read_all()

    assert [t["id"] for t in one.of("trade")] == list(range(1, 51))
    assert one.of("trade") == two.of("trade")


async def test_the_market_begins_when_told(simulate):
    async with simulate(trades=50, start="manual") as sim:
        await anyio.sleep(0.02)
        before = sim.truth.trade_count
        sim.begin()
        await sim.finished()

        assert (before, sim.truth.trade_count) == (0, 50)


async def test_texts_stand_between_what_the_venue_wraps_around_them(simulate, dial):
    async with simulate(trades=20) as sim, dial(sim) as client:
        await client.ask("trades", before="<", after=">")
        await client.read_all()

    assert sum(t.startswith("<{") and t.endswith("}>") for t in client.texts) == 20


async def test_a_stream_that_was_left_is_sent_no_longer(simulate, dial):
    async with simulate(trades=3000, speed=10, rate=1000) as sim, dial(sim) as client:
        await client.ask("trades")
        while len(client.of("trade")) < 5:
            client.texts.append(await client.ws.receive_text())
        await client.ws.send_text(json.dumps({"op": "drop", "s": "BTC/USDT", "ch": "trades"}))
        await client.read_all()
        sent = sim.truth.sent[0]

        assert sent.last_id == len(client.of("trade")) < 3000
        assert sent.first_id == 1


async def test_a_client_that_cannot_keep_up_is_cut_off_and_the_others_are_not(simulate, dial):
    # The kernel's buffers of both sides take some MB before anything is late.
    options = {"speed": 20, "rate": 4000, "backlog": 100_000, "slow": "cut", "trades": 100_000}
    async with simulate(start=2, **options) as sim, dial(sim) as good, raw(sim) as lazy:
        await lazy.send(TextMessage(ADD))
        await good.ask("book")
        await good.read_all()

    assert sorted(one.ended.partition(" ")[0] for one in sim.truth.connections) == ["1001", "slow"]
    assert good.code == 1001


@pytest.mark.slow
async def test_a_market_that_waits_loses_nothing_for_a_slow_client(simulate):
    async with (
        simulate(slow="wait", trades=150_000, rate=5000, backlog=1 << 16) as sim,
        raw(sim) as lazy,
    ):
        await lazy.send(TextMessage(ADD))
        await anyio.sleep(0.5)
        held, count = sim.truth.trade_count, 0
        while count < 150_002:  # a welcome and an acknowledgement, too
            count += (await lazy.until(TextMessage)).message_finished
        await sim.finished()

        assert held < 150_000  # more than the sockets of both sides can hold
        assert sim.truth.connections[0].ended == ""


# ------------------------------------------------------------------------------------------ limits


async def test_pings_carry_a_payload_and_silence_is_the_end(simulate, acme):
    venue = acme(ping_interval_seconds=20.0, pong_timeout_seconds=60.0)
    async with simulate(venue, time_scale=1000) as sim, raw(sim) as client:
        ping = await client.until(Ping)
        end = await client.until(CloseConnection)

    assert bytes(ping.payload)
    assert (end.code, end.reason) == (1008, "Pong timeout")
    assert sim.truth.connections[0].ended == "1008 Pong timeout"


async def test_a_client_that_answers_pings_stays(simulate, acme, dial):
    venue = acme(ping_interval_seconds=20.0, pong_timeout_seconds=60.0)
    async with simulate(venue, time_scale=1000) as sim, dial(sim) as client:
        with anyio.move_on_after(0.3):
            await client.read()

    assert client.code is None
    assert sim.truth.connections[0].ended == "client 1000"


async def test_a_pong_that_answers_nothing_does_not_count(simulate, acme):
    venue = acme(ping_interval_seconds=20.0, pong_timeout_seconds=60.0)
    async with simulate(venue, time_scale=1000) as sim, raw(sim) as client:
        with anyio.fail_after(3):
            while isinstance(await client.until((Ping, CloseConnection)), Ping):
                await client.send(Pong(payload=b"other"))

    assert sim.truth.connections[0].ended == "1008 Pong timeout"


async def test_a_connection_ends_at_its_age(simulate, acme, dial):
    rules = {
        "max_age_seconds": 86_400.0,
        "ping_interval_seconds": None,
    }  # at this scale a pong would be due at once
    async with simulate(acme(**rules), time_scale=864_000) as sim, dial(sim) as client:
        await client.read()

        assert client.code == 1001


async def test_too_many_messages_end_the_connection(simulate, acme, dial):
    async with (
        simulate(acme(message_rate=Rate(5, 1.0)), start="manual") as sim,
        dial(sim) as client,
    ):
        await client.ask(*["trades"] * 6)
        await client.read()

        assert client.code == 1008
        assert len([t for t in client.texts if '"ok"' in t]) == 5


async def test_too_many_streams_end_the_connection(simulate, acme, dial):
    async with simulate(acme(max_streams=2), start="manual") as sim, dial(sim) as client:
        await client.ask("trades", "book", "klines")
        await client.read()

        assert client.code == 1008


async def test_without_limits_none_of_this_matters(simulate, acme, dial):
    venue = acme(max_streams=2, message_rate=Rate(1, 60.0), dials=Rate(0, 60.0))
    async with simulate(venue, limits=False, trades=10) as sim, dial(sim) as client:
        await client.ask("trades", "book", "klines")
        await client.read_all()

        assert client.code == 1001


async def test_too_many_dials_are_refused_and_told_when_to_come_back(simulate, acme, dial):
    async with simulate(acme(dials=Rate(2, 300.0))) as sim:
        async with dial(sim), dial(sim):
            with pytest.raises(WebSocketUpgradeError) as refused:
                async with dial(sim):
                    pass

        assert refused.value.response.status_code == 429
        assert 290 < int(refused.value.response.headers["Retry-After"]) <= 301


async def test_rest_calls_cost_weight_then_429_then_a_ban(simulate):
    # Of minutes that are so long, none begins while we ask.
    async with simulate(start="manual", time_scale=0.001) as sim:
        answers = [await get(sim, "/time") for _ in range(14)]

        assert [a.headers.get("X-Used") for a in answers[:10]] == [
            str(n * 10) for n in range(1, 11)
        ]
        assert [a.status_code for a in answers] == [200] * 10 + [429] * 2 + [418] * 2
        assert 1 <= int(answers[10].headers["Retry-After"]) <= 60_001
        assert 119_000 <= int(answers[13].headers["Retry-After"]) <= 120_001
        assert [status for _, status in sim.truth.rest_calls] == [a.status_code for a in answers]


# ------------------------------------------------------------------------------------ the protocol


async def test_a_goodbye_is_said_before_the_server_stops(simulate, dial):
    async with simulate() as sim, dial(sim) as client:
        await client.ws.receive_text()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.read)
            await sim.stop()

        assert client.texts[-1] == '"bye"'
        assert client.code == 1001


async def test_requests_carry_their_query_and_body(simulate):
    async with simulate() as sim, httpx.AsyncClient(trust_env=False) as http:
        first = await http.post(f"{sim.url}/echo?a=%5B1%5D&b=", content="body")
        second = await http.get(f"{sim.url}/echo")  # on the same connection

        assert first.text == "POST {'a': '[1]', 'b': ''} body"
        assert second.text == "GET {} "


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"400"),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
         b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(b"k" * 16) + b"\r\n\r\n", b"404"),
        (b"\x16\x03\x01 this is no HTTP\r\n\r\n", b""),
    ],
)  # fmt: skip
async def test_a_bad_handshake_is_answered_and_the_server_lives(simulate, sent, status):
    async with simulate() as sim:
        async with await anyio.connect_tcp("127.0.0.1", int(sim.url.rpartition(":")[2])) as stream:
            await stream.send(sent)
            answer = b""
            try:
                while block := await stream.receive():
                    answer += block
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

        assert answer[9:12] == status
        assert (await get(sim, "/time")).status_code == 200


@pytest.mark.parametrize(
    ("sent", "code"), [(b"\x81\x02hi", 1002), (b"\x88\x80\x00\x00\x00\x00", 1005)]
)
async def test_a_frame_without_a_mask_is_an_error_and_a_close_is_answered(simulate, sent, code):
    async with simulate() as sim, raw(sim) as client:
        await client.stream.send(sent)
        end = await client.until(CloseConnection)

    assert end.code == code


async def test_bytes_are_refused(simulate):
    async with simulate() as sim, raw(sim) as client:
        await client.send(BytesMessage(b"\x00"))
        end = await client.until(CloseConnection)

    assert end.code == 1003


async def test_an_error_in_the_block_leaves_as_itself(simulate):
    with pytest.raises(LookupError, match="mine"):
        async with simulate():
            raise LookupError("mine")


class NoServerSide:
    @hookimpl
    def simulate(self, market):
        return None


async def test_a_venue_that_is_not_there_is_named():
    with pytest.raises(PluginNotFound, match="no plugin named 'nowhere'"):
        async with serve("nowhere"):
            pass
    empty = simulators({})
    empty.register(NoServerSide(), "empty")
    with pytest.raises(PluginBroken, match="'empty' returns no server side"):
        venue_server("empty", SimulatedMarket(("BTC/USDT",)), empty)


async def test_the_truth_is_written_as_json_lines(simulate, dial, tmp_path):
    path = tmp_path / "truth.jsonl"
    async with simulate(trades=100, truth=path, keep=False) as sim, dial(sim) as client:
        await client.ask("trades")
        await client.read_all()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    trades = [row for row in rows if row["type"] == "trade"]
    (book,) = (row for row in rows if row["type"] == "book")

    assert not sim.truth.market_trades["BTC/USDT"]
    assert [row["id"] for row in trades] == [t["id"] for t in client.of("trade")]
    assert [row["type"] for row in rows if row["type"] not in ("trade", "quote")] == [
        "opened", "followed", "left", "ended", "book",
    ]  # fmt: skip
    assert book["bids"] == [[str(p), str(s)] for p, s in sim.truth.book("BTC/USDT")[0].items()]


async def test_what_was_written_is_read_back_as_it_was(simulate, dial, tmp_path):
    path = tmp_path / "truth.jsonl"
    fault = Fault(kind="dup_trade", count=2)
    async with simulate(trades=100, truth=path, faults=[fault]) as sim, dial(sim) as client:
        await client.ask("trades", "book")
        await client.read_all()
    whole, without = TruthFile(path, quotes=True), TruthFile(path)

    assert whole.trades("BTC/USDT") == sim.truth.trades("BTC/USDT")
    assert whole.quotes("BTC/USDT") == sim.truth.quotes("BTC/USDT")
    assert whole.faults == sim.truth.faults
    assert whole.fault_counts() == sim.truth.fault_counts() == {"dup_trade": 2}
    assert whole.sent == [evolve(one, texts=None) for one in sim.truth.sent]
    assert without.trades("BTC/USDT") == whole.trades("BTC/USDT")
    assert without.quotes("BTC/USDT") == []


async def test_a_line_that_was_cut_short_ends_what_is_read(simulate, tmp_path):
    path = tmp_path / "truth.jsonl"
    async with simulate(trades=100, truth=path, start="now") as sim:
        await sim.finished()
    path.write_text(path.read_text()[:2000])

    trades = TruthFile(path).trades("BTC/USDT")

    assert trades
    assert trades == sim.truth.trades("BTC/USDT")[: len(trades)]


async def test_the_truth_of_a_run_is_the_market_of_the_seed(simulate):
    async with simulate(trades=500, seed=9, start="now") as sim:
        await sim.finished()
    again = SimulatedMarket(["BTC/USDT"], seed=9, rate=1000.0, trades=500)
    fills = [fill for step in again.advance(EPOCH + 10**12) for fill in step.trades]
    trades = sim.truth.trades("BTC/USDT")

    assert sim.truth.market_trades["BTC/USDT"] == fills
    assert str(trades[0].price) == f"{fills[0].price / 100:.2f}"
    assert {trade.side for trade in trades} == {"buy", "sell"}
    quote = sim.truth.quotes("BTC/USDT")[-1]
    bids, asks = sim.truth.book("BTC/USDT")
    assert [(quote.bid, quote.bid_size), (quote.ask, quote.ask_size)] == [
        next(iter(bids.items())),
        next(iter(asks.items())),
    ]
    assert sum(c.volume for c in sim.truth.closed_bars("BTC/USDT", "1s")) == sum(
        f.size for f in fills
    )
