"""What authors test with: a clock that jumps, and venues with and without a socket."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
import trustme
from tapeloom.errors import ConnectionLost
from tapeloom.plugin import Clock, Endpoint
from tapeloom_testing import FakeClient, FakeVenue, FakeWire, VirtualClock, WireEnd, captures
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws

# ---------------------------------------------------------------------------------------- the clock


async def test_time_passes_only_when_it_is_told_to() -> None:
    clock: Clock = VirtualClock(5_000_000_000)
    await anyio.sleep(0.01)

    assert clock.time_ns() == 5_000_000_000
    assert clock.monotonic() == 0


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    clock = VirtualClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    async with clock.running(), anyio.create_task_group() as tasks:
        for name, seconds in (("late", 3600.0), ("soon", 1.5), ("now", 0.0), ("never back", -1.0)):
            tasks.start_soon(sleeper, name, seconds)

    assert sorted(woken, key=lambda one: one[1])[2:] == [("soon", 1.5), ("late", 3600.0)]
    assert dict(woken)["now"] == dict(woken)["never back"] == 0
    assert woken[-2:] == [("soon", 1.5), ("late", 3600.0)]


async def test_advancing_wakes_whoever_is_due_and_nobody_else() -> None:
    clock = VirtualClock()
    woken: list[int] = []

    async def sleeper(seconds: int) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleeper, 1)
        tasks.start_soon(sleeper, 3)
        await anyio.wait_all_tasks_blocked()
        clock.advance(2)
        await anyio.wait_all_tasks_blocked()
        first = list(woken)
        clock.advance(1)

    assert first == [1]
    assert woken == [1, 3]


async def test_both_times_of_the_clock_move_together() -> None:
    clock = VirtualClock(1_000)
    clock.advance(0.000000001)
    clock.advance(86_400)

    assert clock.time_ns() == 1_000 + 1 + 86_400_000_000_000


async def test_a_day_of_waiting_takes_no_time() -> None:
    clock = VirtualClock()
    with anyio.fail_after(5):
        async with clock.running():
            for _ in range(1440):
                await clock.sleep(60)

    assert clock.monotonic() == 86_400


async def test_whoever_gave_up_waiting_does_not_move_the_time() -> None:
    clock = VirtualClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep, 1000)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    async with clock.running():
        await clock.sleep(1)
        await anyio.wait_all_tasks_blocked()
        await anyio.sleep(0.05)

    assert clock.monotonic() == 1


async def test_what_the_body_raises_leaves_the_running_clock_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with VirtualClock().running():
            raise ZeroDivisionError


# ------------------------------------------------------------------------------ without a socket


async def test_a_wire_carries_texts_both_ways_in_order() -> None:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        for _ in range(3):
            end.push(f"{endpoint.url} {await end.take()}")

    wire = FakeWire(answer)
    got: list[bytes] = []
    async with wire.dial(Endpoint(url="ws://x")) as link:
        await link.send("a")
        await link.ping()
        await link.send("b")
        for _ in range(3):
            got += await link.receive()

    assert got == [b"ws://x a", b"ws://x <ping>", b"ws://x b"]
    assert wire.ends[0].sent == ["a", "<ping>", "b"]


async def test_a_wire_that_is_closed_ends_after_what_was_pushed() -> None:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push("one", b"two")
        end.close(4000)

    async with FakeWire(answer).dial(Endpoint(url="ws://x")) as link:
        got = await link.receive()
        with pytest.raises(ConnectionLost) as caught:
            await link.receive()
        with pytest.raises(ConnectionLost):
            await link.send("late")

    assert got == [b"one", b"two"]
    assert caught.value.code == 4000


async def test_dials_are_refused_as_often_as_asked() -> None:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        await anyio.sleep_forever()

    wire = FakeWire(answer, refusals=[OSError("one"), OSError("two")])
    for text in ("one", "two"):
        with pytest.raises(OSError, match=text):
            async with wire.dial(Endpoint(url="ws://x")):
                pass
    async with wire.dial(Endpoint(url="ws://x")):
        pass

    assert len(wire.ends) == 1


async def test_what_is_raised_on_a_wire_leaves_it_as_it_is() -> None:
    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        await anyio.sleep_forever()

    with pytest.raises(ConnectionLost, match="mine"):
        async with FakeWire(answer).dial(Endpoint(url="ws://x")):
            raise ConnectionLost("", "mine")


# --------------------------------------------------------------------------------- with a socket


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@asynccontextmanager
async def browsing(venue: FakeVenue, authority: trustme.CA) -> AsyncIterator[httpx.AsyncClient]:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with venue.serve(), httpx.AsyncClient(verify=trust, trust_env=False) as client:
        yield client


async def echo(client: FakeClient) -> None:
    while True:
        await client.send(f"{client.path} {await client.receive_text()}")


@pytest.mark.parametrize("tls", [False, True])
async def test_a_venue_answers_gets_by_path_and_query(
    tls: bool, server: ssl.SSLContext, authority: trustme.CA
) -> None:
    http = {"/book?s=1": (200, {"x-weight": "5"}, b"{}"), "/busy": (429, {}, b"no")}
    venue = FakeVenue(echo, http=http, context=server if tls else None)
    async with browsing(venue, authority) as client:
        book = await client.get(f"{venue.url('http')}/book?s=1")
        busy = await client.get(f"{venue.url('http')}/busy")
        missing = await client.get(f"{venue.url('http')}/book")

    assert venue.url().startswith("wss://" if tls else "ws://")
    assert (book.status_code, book.headers["x-weight"], book.content) == (200, "5", b"{}")
    assert (busy.status_code, missing.status_code) == (429, 404)
    assert venue.connections == 0


class Caller:
    """A WebSocket client made of wsproto alone."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self.connection = WSConnection(ConnectionType.CLIENT)

    async def send(self, event: ws.Event) -> None:
        await self.stream.send(self.connection.send(event))

    async def receive(self) -> ws.Event:
        while True:
            for event in self.connection.events():
                return event
            self.connection.receive_data(await self.stream.receive())


@asynccontextmanager
async def calling(venue: FakeVenue, trust: ssl.SSLContext | None) -> AsyncIterator[Caller]:
    stream = await anyio.connect_tcp(
        "127.0.0.1",
        venue.port,
        ssl_context=trust,
        tls_hostname="127.0.0.1" if trust else None,
        tls_standard_compatible=False,
    )
    async with stream:
        caller = Caller(stream)
        await caller.send(ws.Request(host="127.0.0.1", target="/ws?a=1"))
        yield caller


@pytest.mark.parametrize("tls", [False, True])
async def test_a_venue_speaks_the_protocol_to_any_client(
    tls: bool, server: ssl.SSLContext, authority: trustme.CA
) -> None:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    venue = FakeVenue(echo, context=server if tls else None)
    with anyio.fail_after(10):
        async with venue.serve(), calling(venue, trust if tls else None) as caller:
            accepted = await caller.receive()
            await caller.send(ws.Ping(b"x"))
            await caller.send(ws.TextMessage("hello"))
            pong = await caller.receive()
            text = await caller.receive()

    assert isinstance(accepted, ws.AcceptConnection)
    assert isinstance(pong, ws.Pong)
    assert isinstance(text, ws.TextMessage)
    assert text.data == "/ws?a=1 hello"
    assert venue.connections == 1


async def test_a_venue_may_refuse_the_upgrade() -> None:
    venue = FakeVenue(echo, upgrade=(503, {"retry-after": "9"}, b"later"))
    with anyio.fail_after(10):
        async with venue.serve(), calling(venue, None) as caller:
            refused = await caller.receive()

    assert isinstance(refused, ws.RejectConnection)
    assert refused.status_code == 503
    assert venue.connections == 0


@pytest.mark.parametrize(
    "start", [b"", b"GET / HT", b"\x16\x03\x01 no hello", b"nonsense\r\n\r\n", b"\x00" * 9999]
)
@pytest.mark.parametrize("tls", [False, True])
async def test_a_client_that_breaks_off_or_talks_nonsense_costs_the_venue_nothing(
    start: bytes, tls: bool, server: ssl.SSLContext, authority: trustme.CA
) -> None:
    venue = FakeVenue(echo, http={"/x": (200, {}, b"ok")}, context=server if tls else None)
    with anyio.fail_after(10):
        async with browsing(venue, authority) as client:
            for _ in range(3):
                stream = await anyio.connect_tcp("127.0.0.1", venue.port)
                await stream.send(start) if start else None
                await stream.aclose()
            answer = await client.get(f"{venue.url('http')}/x")

    assert answer.text == "ok"


async def test_a_handshake_that_is_none_costs_the_venue_nothing() -> None:
    venue = FakeVenue(echo, http={"/x": (200, {}, b"ok")})
    head = b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n\r\n"
    with anyio.fail_after(10):
        async with venue.serve(), httpx.AsyncClient(trust_env=False) as client:
            async with await anyio.connect_tcp("127.0.0.1", venue.port) as stream:
                await stream.send(head)
            answer = await client.get(f"{venue.url('http')}/x")

    assert answer.text == "ok"


async def test_a_venue_comes_back_on_the_port_it_had() -> None:
    venue = FakeVenue(echo)
    async with venue.serve():
        first = venue.port
    async with venue.serve():
        second = venue.port

    assert first == second != 0


async def test_what_the_body_raises_leaves_the_venue_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with FakeVenue(echo).serve():
            raise ZeroDivisionError


# ----------------------------------------------------------------------------------------- captures


def test_captures_are_found_by_the_variable_or_beside_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "main"
    monkeypatch.delenv("TAPELOOM_CAPTURES", raising=False)
    nothing = captures(root)
    beside = tmp_path / "shared" / "data"
    beside.mkdir(parents=True)
    root.mkdir()
    found = captures(root)
    monkeypatch.setenv("TAPELOOM_CAPTURES", str(tmp_path))

    assert nothing is None
    assert found is not None
    assert found.samefile(beside)
    assert captures(root) == tmp_path
