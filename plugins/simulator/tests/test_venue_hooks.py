"""What a venue's side may ask of the simulator: timers, faults of its own, a framing of its own."""

import json

import anyio
import anyio.lowlevel
import pytest
from httpx_ws import WebSocketUpgradeError
from tapeloom.errors import ConfigError
from tapeloom_simulator import Fault, load

ADD = json.dumps({"op": "add", "s": "BTC/USDT", "ch": "trades"})


class Lengths:
    """A framing: four bytes of length, then the text."""

    def frame(self, text):
        payload = text.encode()
        return len(payload).to_bytes(4, "big") + payload

    def new_unframer(self):
        held = bytearray()

        def take(data):
            held.extend(data)
            texts = []
            while len(held) >= 4 and len(held) >= 4 + (size := int.from_bytes(held[:4], "big")):
                if size > 1 << 20:
                    raise ValueError(f"{size} bytes are no message")
                texts.append(held[4 : 4 + size].decode())
                del held[: 4 + size]
            if len(held) >= 4 and int.from_bytes(held[:4], "big") > 1 << 20:
                raise ValueError("no message is that long")
            return texts

        return take


class Plain:
    """A client that speaks it."""

    def __init__(self, stream):
        self.stream, self.texts, self.how = stream, [], ""
        self.take, self.frame = Lengths().new_unframer(), Lengths().frame

    async def say(self, *texts):
        await self.stream.send(b"".join(map(self.frame, texts)))

    async def read(self):
        try:
            while True:
                self.texts += self.take(await self.stream.receive())
        except anyio.EndOfStream:
            self.how = "clean"
        except anyio.BrokenResourceError:
            self.how = "abrupt"
        return self.texts


@pytest.fixture
def plain(acme, simulate):
    """Return `serve` for an Acme that speaks over plain TCP, and a way to dial it."""

    def make(market):
        venue = acme()(market)
        kind = type("PlainAcme", (type(venue), Lengths), {"open_connection": opened})
        venue.__class__ = kind
        return venue

    def opened(self, call, line):
        return (
            type(self).__mro__[1].open_connection(self, type(call)(method="GET", path="/ws"), line)
        )

    def run(**options):
        options.setdefault("trades", 400)
        return simulate(make, seed=4, **options)

    return run


async def dial(sim):
    assert sim.url.startswith("tcp://")
    return Plain(await anyio.connect_tcp("127.0.0.1", int(sim.url.rpartition(":")[2])))


async def told(plain, *faults, say=(ADD,), **options):
    async with plain(faults=faults, **options) as sim:
        client = await dial(sim)
        async with client.stream, anyio.create_task_group() as tasks:
            await client.say(*say)

            async def finish():
                await sim.finished()
                await sim.stop()

            tasks.start_soon(finish)
            await client.read()
            tasks.cancel_scope.cancel()
    return client, sim.truth


def ids(texts):
    return [json.loads(text)["id"] for text in texts if '"trade"' in text and text.endswith("}")]


async def test_a_venue_over_tcp_tells_every_trade_in_its_own_frames(plain):
    client, truth = await told(plain)

    assert client.texts[0] == '"welcome"'
    assert client.texts[-1] == '"bye"'
    assert ids(client.texts) == list(range(1, 401))
    assert client.how == "clean"
    assert truth.connections[0].ended.startswith("1001")


async def test_messages_may_come_in_pieces(plain):
    async with plain(trades=3) as sim:
        client = await dial(sim)
        async with client.stream:
            data = client.frame(ADD)
            for place in range(len(data)):
                await client.stream.send(data[place : place + 1])
                await anyio.lowlevel.checkpoint()
            with anyio.fail_after(5):
                while len(ids(client.texts)) < 3:
                    client.texts += client.take(await client.stream.receive())

        assert ids(client.texts) == [1, 2, 3]


@pytest.mark.parametrize(("how", "ended"), [("clean", "clean"), ("abrupt", "abrupt")])
async def test_a_connection_over_tcp_is_closed_or_reset(plain, how, ended):
    client, truth = await told(plain, Fault(kind="disconnect", channel="trades", after=99, how=how))

    assert client.how == ended
    assert truth.fault_counts() == {"disconnect": 1}
    # A reset may take what the kernel still held; a close takes nothing.
    assert ids(client.texts) == list(range(1, len(ids(client.texts)) + 1))
    assert how == "abrupt" or len(ids(client.texts)) >= 99


async def test_faults_of_the_wire_keep_the_frames_around_them_whole(plain):
    faults = [
        Fault(kind="malformed_json", after=9),
        Fault(kind="plain_text_frame", after=49),
        Fault(kind="dup_trade", after=99),
    ]
    client, truth = await told(plain, *faults)
    broken = [t for t in client.texts if t.startswith("{") and not t.endswith("}")]

    assert len(broken) == 1
    assert "upstream connect error or disconnect" in client.texts
    assert ids(client.texts) == [*range(1, 10), *range(11, 101), 100, *range(101, 401)]
    assert truth.fault_counts() == {"malformed_json": 1, "plain_text_frame": 1, "dup_trade": 1}


async def test_fields_of_a_venue_over_tcp_are_for_the_venue_to_take_away(plain):
    client, truth = await told(plain, Fault(kind="missing_fields", after=9))

    assert sum('"bids"' in text for text in client.texts) == 1  # what Acme's `corrupt` makes of it
    assert truth.fault_counts() == {"missing_fields": 1}


async def test_a_client_over_tcp_that_sends_too_much_or_nonsense_is_cut_off(plain, acme, simulate):
    async with plain(faults=[Fault(kind="rate_limit_ws", after=1)]) as sim:
        client = await dial(sim)
        async with client.stream:
            await client.say(ADD, ADD)
            await client.read()
        noise = await dial(sim)
        async with noise.stream:
            await noise.stream.send(b"\xff" * 64)
            await noise.read()

        assert client.how == "clean"
        assert sim.truth.connections[0].ended == "1008 Too many requests"
        assert sim.truth.connections[1].ended == "unreadable"


async def test_a_refused_connection_over_tcp_is_closed_without_a_word(plain, acme):
    async with plain(faults=[Fault(kind="dial_limit")]) as sim:
        client = await dial(sim)
        async with client.stream:
            assert await client.read() == []
        second = await dial(sim)
        async with second.stream:
            await second.say(ADD)
            while not second.texts:
                second.texts += second.take(await second.stream.receive())

        assert second.texts[0] == '"welcome"'
        assert sim.truth.fault_counts() == {"dial_limit": 1}


# ------------------------------------------------------------------------------------------ timers


async def test_what_the_venue_does_later_is_divided_by_the_time_scale(simulate, dial):
    async with simulate(time_scale=100.0) as sim, dial(sim) as client:
        await client.ws.send_text(json.dumps({"later": 20.0}))
        began = anyio.current_time()
        while True:
            text = await client.ws.receive_text()
            if text == '"now"':
                break

        assert 0.15 < anyio.current_time() - began < 2.0


async def test_a_connection_that_has_ended_does_nothing_later(simulate, dial, acme):
    acted = []

    class Slow:
        def __init__(self, line):
            self.line = line

        def receive(self, text):
            self.line.call_later(0.05, lambda: acted.append(text) or [])
            return []

    def make(market):
        venue = acme()(market)
        was = venue.open_connection

        def opened(call, line):
            session = was(call, line)
            line.call_later(0.01, lambda: acted.append("opened") or ['"soon"'])
            session.receive = Slow(line).receive
            return session

        venue.open_connection = opened
        return venue

    async with simulate(make) as sim:
        async with dial(sim) as client:
            await client.ws.send_text("{}")
            assert await client.ws.receive_text() == '"welcome"'
            assert await client.ws.receive_text() == '"soon"'  # said `later` before it was open
        await anyio.sleep(0.1)

        assert acted == ["opened"]


# -------------------------------------------------------------------------------- faults of its own


async def test_a_venues_own_fault_spoils_its_channels_and_stands_in_the_truth(simulate, dial):
    faults = [Fault(kind="acme_echo", after=9, every=10, count=2), Fault(kind="acme_hiccup")]
    async with simulate(trades=200, seed=4, faults=faults, rate=50.0) as sim, dial(sim) as client:
        await client.ask("book", "trades")
        await client.read_all()
    one, other = (message["id"] for message in client.of("echo"))
    first = client.of("trade")[0]["id"]  # some had passed before we asked

    assert one - first in (8, 9)  # where the hiccup took a trade, it was the one before
    assert other == one + 10
    assert client.texts.count('"hic"') == 1
    assert sim.truth.fault_counts() == {"acme_echo": 2, "acme_hiccup": 1}
    assert {f.stream for f in sim.truth.faults if f.kind == "acme_echo"} == {"BTC/USDT trades"}


async def test_a_fault_that_neither_all_nor_this_venue_has_is_refused(simulate, tmp_path):
    with pytest.raises(ConfigError) as wrong:
        async with simulate(faults=[Fault(kind="disconnect"), Fault(kind="acme_ecko")]):
            pass
    path = tmp_path / "faults.toml"
    path.write_text('[[fault]]\nkind = "acme_echo"\n')

    assert str(wrong.value) == (
        "faults: fault[1]: there is no fault of the kind 'acme_ecko'. Did you mean 'acme_echo'?"
    )
    assert load(path, {"acme_echo": frozenset()}) == [Fault(kind="acme_echo")]
    with pytest.raises(ConfigError):
        load(path)


# ------------------------------------------------------------------------------- lingering sessions


async def test_a_connection_that_has_ended_may_still_count(simulate, dial):
    fault = Fault(kind="lingering_session", seconds=20.0)
    async with simulate(faults=[fault], time_scale=20.0, limits=False) as sim:
        async with dial(sim, "/alone"):
            with pytest.raises(WebSocketUpgradeError):
                async with dial(sim, "/alone"):
                    pass
        while sim.connections:  # noqa: ASYNC110
            await anyio.sleep(0.005)
        with pytest.raises(WebSocketUpgradeError):
            async with dial(sim, "/alone"):
                pass
        await anyio.sleep(1.25)
        async with dial(sim, "/alone") as client:
            assert await client.ws.receive_text() == '"welcome"'
        while sim.connections:  # noqa: ASYNC110
            await anyio.sleep(0.005)
        async with dial(sim, "/alone"):  # the fault was asked for once
            pass

        assert sim.truth.fault_counts() == {"lingering_session": 1}


async def test_what_a_venue_answers_as_it_closes_is_still_sent(simulate, dial, acme):
    def make(market):
        venue = acme()(market)
        was = venue.open_connection

        def opened(call, line):
            session = was(call, line)
            session.receive = lambda text: line.close(1008, "no") or [f'"no to {text}"']
            return session

        venue.open_connection = opened
        return venue

    async with simulate(make) as sim, dial(sim) as client:
        await client.ws.send_text("this")
        await client.read()

    assert client.texts == ['"welcome"', '"no to this"']
    assert client.code == 1008


async def test_a_venues_own_fault_is_asked_about_only_when_it_is_due(simulate, dial, acme):
    asked = []

    def make(market):
        venue = acme()(market)

        def corrupt(fault, stream, text):
            asked.append(json.loads(text)["id"])
            return None if len(asked) == 1 else [text]

        venue.corrupt = corrupt
        return venue

    fault = Fault(kind="acme_echo", after=9)
    async with simulate(make, trades=50, seed=4, faults=[fault]) as sim, dial(sim) as client:
        await client.ask("trades")
        await client.read_all()

    assert asked == [10, 11]  # it did not apply to the first that was due
    assert sim.truth.fault_counts() == {"acme_echo": 1}
