"""Core's WebSocket transport: the transport contract, and its close frames and error messages."""

from __future__ import annotations

import gzip
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import anyio.abc
import httpx
import pytest
import trustme
from tapeloom._network.http_client import http_client
from tapeloom._network.websocket import dialer
from tapeloom.errors import ConnectionFailed, ConnectionLost, FeedError, Throttled
from tapeloom.harness import websocket_dial
from tapeloom.plugin import Dial, Endpoint, Link, Network, PushLink
from tapeloom_testing import FakeClient, FakeVenue, VirtualClock
from tapeloom_testing.contract import TransportContract
from wsproto import events as ws


@pytest.mark.thorough
class TestCore(TransportContract):
    transport = "core"

    @asynccontextmanager
    async def dialling(self, network: Network) -> AsyncIterator[Dial]:
        async with http_client(network, "stack") as client:
            yield dialer(client, "contract")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["plain", "tls"])
def context(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext | None:
    if request.param == "plain":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@asynccontextmanager
async def dialled(venue: FakeVenue, authority: trustme.CA | None = None) -> AsyncIterator[Link]:
    verify = ssl.create_default_context()
    if authority is not None:
        authority.configure_trust(verify)
    async with (
        venue.serve(),
        httpx.AsyncClient(verify=verify, trust_env=False) as client,
        dialer(client, "test")(Endpoint(url=venue.url())) as link,
    ):
        yield link


async def collect(link: Link, count: int) -> list[bytes]:
    got: list[bytes] = []
    with anyio.fail_after(10):
        while len(got) < count:
            got += await link.receive()
    return got


async def wait_closed(client: FakeClient) -> None:
    with anyio.fail_after(10):
        while not isinstance(await client.receive(), ws.CloseConnection):
            pass


async def test_frames_of_one_write_arrive_together_in_order(
    context: ssl.SSLContext | None, authority: trustme.CA
) -> None:
    texts = [f'{{"n":{n}}}' for n in range(500)]

    async def script(client: FakeClient) -> None:
        await client.send(*texts)
        await wait_closed(client)

    async with dialled(FakeVenue(script, context=context), authority) as link:
        first = await link.receive()
        got = first + await collect(link, len(texts) - len(first))

    assert [message.decode() for message in got] == texts
    assert len(first) > 10


async def test_many_small_tls_records_are_all_read(authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    texts = [str(n) for n in range(3000)]

    async def script(client: FakeClient) -> None:
        for text in texts:
            await client.send(text)
        await wait_closed(client)

    async with dialled(FakeVenue(script, context=context), authority) as link:
        got = await collect(link, len(texts))

    assert [message.decode() for message in got] == texts


async def test_a_ping_is_answered_with_its_payload() -> None:
    seen: list[ws.Event] = []

    async def script(client: FakeClient) -> None:
        await client.send_event(ws.Ping(b"1699"))
        seen.append(await client.receive())
        await client.send("done")
        await wait_closed(client)

    async with dialled(FakeVenue(script)) as link:
        assert await collect(link, 1) == [b"done"]

    assert isinstance(seen[0], ws.Pong)
    assert seen[0].payload == b"1699"


async def test_messages_before_a_close_frame_are_delivered_before_connection_lost_is_raised() -> (
    None
):
    async def script(client: FakeClient) -> None:
        await client.send("last")
        await client.close(1001, "maintenance")
        await wait_closed(client)

    async with dialled(FakeVenue(script)) as link:
        got = await collect(link, 1)
        with pytest.raises(ConnectionLost, match="1001 maintenance") as caught:
            while True:
                await link.receive()

    assert got == [b"last"]
    assert caught.value.code == 1001


@pytest.mark.parametrize("code", [1000, 1012, 4001, None])
async def test_a_close_frame_is_answered_with_its_own_code(code: int | None) -> None:
    answers: list[ws.Event] = []

    async def script(client: FakeClient) -> None:
        await client.send_bytes(b"\x89\x01a" + _close(code) + b"\x89\x01b")
        answers.extend([await client.receive(), await client.receive()])
        with pytest.raises(anyio.EndOfStream):
            await client.stream.receive()
        done.set()

    done = anyio.Event()
    venue = FakeVenue(script)
    async with venue.serve(), httpx.AsyncClient(trust_env=False) as client:
        async with dialler(client, venue) as link:
            assert await link.receive() == []
            with pytest.raises(ConnectionLost) as caught:
                await link.receive()
            with pytest.raises(ConnectionLost) as sending:
                await link.send("too late")
        with anyio.fail_after(5):
            await done.wait()

    assert [type(event) for event in answers] == [ws.Pong, ws.CloseConnection]
    assert answers[1].code == (code or 1005)  # type: ignore[attr-defined]
    assert caught.value.code == sending.value.code == code


def _close(code: int | None) -> bytes:
    return b"\x88\x00" if code is None else b"\x88\x02" + code.to_bytes(2, "big")


async def test_messages_read_with_a_ping_are_delivered_if_the_pong_cannot_be_sent() -> None:
    async def script(client: FakeClient) -> None:
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        await client.send_bytes(b"\x81\x01x\x89\x00" + _close(1001))

    async with dialled(FakeVenue(script)) as link:
        stream = link._session.stream  # type: ignore[attr-defined]
        stream.get_extra_info("socket").shutdown(socket.SHUT_WR)
        assert await collect(link, 1) == [b"x"]
        with pytest.raises(ConnectionLost, match="1001"):
            while True:
                await link.receive()


async def test_an_end_without_a_close_frame_raises_connection_lost() -> None:
    async def script(client: FakeClient) -> None:
        await client.send("x")

    async with dialled(FakeVenue(script)) as link:
        await collect(link, 1)
        with pytest.raises(ConnectionLost):
            await link.receive()


async def test_a_protocol_error_is_answered_with_a_close_frame() -> None:
    closes: list[ws.Event] = []

    async def script(client: FakeClient) -> None:
        await client.send_bytes(b"\x81\x02ok\xc1\x01x")
        closes.append(await client.receive())

    async with dialled(FakeVenue(script)) as link:
        got = await collect(link, 1)
        with pytest.raises(ConnectionLost, match="reserved bits"):
            await link.receive()

    assert got == [b"ok"]
    assert isinstance(closes[0], ws.CloseConnection)
    assert closes[0].code == 1002


async def test_leaving_sends_a_close_frame() -> None:
    closes: list[ws.Event] = []

    async def script(client: FakeClient) -> None:
        closes.append(await client.receive())
        done.set()

    done = anyio.Event()
    venue = FakeVenue(script)
    async with venue.serve(), httpx.AsyncClient(trust_env=False) as client:
        async with dialler(client, venue):
            pass
        with anyio.fail_after(5):
            await done.wait()

    assert isinstance(closes[0], ws.CloseConnection)
    assert closes[0].code == 1000


def dialler(client: httpx.AsyncClient, venue: FakeVenue):
    return dialer(client, "test")(Endpoint(url=venue.url()))


async def never(client: FakeClient) -> None:
    await anyio.sleep_forever()


async def test_the_link_of_core_is_a_push_link() -> None:
    async with dialled(FakeVenue(never)) as link:
        assert isinstance(link, PushLink)


async def test_a_refused_connection_names_the_host() -> None:
    venue = FakeVenue(never)
    async with venue.serve():
        pass
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(ConnectionFailed, match="refused the connection") as caught:
            async with dialer(client, "test")(Endpoint(url=venue.url())):
                pass

    assert caught.value.retryable


async def test_an_untrusted_certificate_is_permanent_and_names_the_remedy(
    authority: trustme.CA,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with pytest.raises(ConnectionFailed, match=r'not trusted.*ca = "file\.pem"') as caught:
        async with dialled(FakeVenue(never, context=context)):
            pass

    assert not caught.value.retryable


async def test_an_unknown_host_is_named_in_the_error() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(ConnectionFailed, match=r"nowhere\.invalid"):
            async with dialer(client, "test")(Endpoint(url="ws://nowhere.invalid/ws")):
                pass


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [(404, ConnectionFailed, False), (503, ConnectionFailed, True), (429, Throttled, True)],
)
async def test_a_rejected_handshake_raises_the_error_for_its_status(
    status: int, kind: type[Exception], retryable: bool
) -> None:
    venue = FakeVenue(never, upgrade=(status, {}, b""))
    with pytest.raises(kind, match=str(status)) as caught:
        async with dialled(venue):
            pass

    assert caught.value.retryable is retryable  # type: ignore[attr-defined]
    if isinstance(caught.value, Throttled):
        assert caught.value.retry_after_seconds is None


PAGE = b"""<!DOCTYPE HTML><HTML><HEAD><TITLE>ERROR</TITLE><style>a {b: c}</style></HEAD><BODY>
<H1>403 ERROR</H1>\x1b[31mNot for your country &amp; you.\r\n%s</BODY></HTML>"""


@pytest.mark.parametrize("status", [403, 429, 451, 500])
@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_the_words_of_a_refused_handshake_are_shown_cleaned_and_bounded(
    status: int, encoding: str
) -> None:
    body, headers = PAGE % (b"x" * 100_000), dict[str, str]()
    if encoding:
        body, headers = gzip.compress(body), {"content-encoding": encoding}
    venue = FakeVenue(never, upgrade=(status, headers, body))
    async with venue.serve(), websocket_dial() as dial:
        with pytest.raises(FeedError, match=r"403 ERROR \[31mNot for your country & you") as caught:
            async with dial(Endpoint(url=venue.url())):
                pass

    message = str(caught.value)
    assert f"HTTP {status}" in message
    assert message.isprintable()
    assert len(message) < 600


async def test_a_body_that_never_ends_does_not_delay_the_error() -> None:
    async def drip(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 403 No\r\ncontent-length: 999999\r\n\r\ngo away ")
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks, websocket_dial() as dial:
        tasks.start_soon(listener.serve, drip)
        with anyio.fail_after(8), pytest.raises(Throttled, match="HTTP 403, go away"):
            async with dial(Endpoint(url=f"ws://127.0.0.1:{port}")):
                pass
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("status", [403, 418, 429, 500, 503])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "Tue, 14 Nov 2023 22:14:50 GMT"}, 90),  # relative to our clock
        (
            {
                "retry-after": "Tue, 14 Nov 2023 10:00:30 GMT",  # relative to the venue's clock, which is wrong
                "date": "Tue, 14 Nov 2023 10:00:00 GMT",
            },
            30,
        ),
    ],
)
async def test_retry_after_is_read_as_seconds_or_as_a_date(
    status: int, headers: dict[str, str], seconds: float
) -> None:
    venue = FakeVenue(never, upgrade=(status, headers, b""))
    clock = VirtualClock()  # 2023-11-14 22:13:20
    async with venue.serve(), httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(Throttled, match=f"asks for a pause for {seconds} s") as caught:
            async with dialer(client, "test", clock)(Endpoint(url=venue.url())):
                pass

    assert caught.value.retry_after_seconds == seconds


@pytest.mark.parametrize("after", ["3153600000", "9" * 400, "Tue, 14 Nov 2123 22:13:20 GMT"])
async def test_a_pause_of_years_is_kept_for_days_and_told(after: str) -> None:
    venue = FakeVenue(never, upgrade=(429, {"retry-after": after}, b""))
    clock = VirtualClock()
    async with venue.serve(), httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(Throttled, match="asks for a pause of more than 7 days") as caught:
            async with dialer(client, "test", clock)(Endpoint(url=venue.url())):
                pass

    assert caught.value.retry_after_seconds == 7 * 86_400.0


EXPIRED = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "expires", "message"),
    [
        ("127.0.0.1", EXPIRED, r"has expired.*clock of this machine.*venue has to renew"),
        ("venue.example", None, r"mismatch.*certificate of another host: check the address"),
    ],
)
async def test_an_expired_or_mismatched_certificate_is_permanent_and_names_the_remedy(
    authority: trustme.CA, name: str, expires: datetime | None, message: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, not_after=expires).configure_cert(context)
    with pytest.raises(ConnectionFailed, match=message) as caught:
        async with dialled(FakeVenue(never, context=context), authority):
            pass

    assert not caught.value.retryable
    assert "ca = " not in str(caught.value)  # another authority would not help


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize(
    ("status", "message", "retryable"),
    [
        ("407 Proxy Authentication Required", r'the proxy requires a login.*env = "PROXY"', False),
        ("502 Bad Gateway", "502", True),
        ("504 Gateway Timeout", "504", True),
        ("404 Not Found", "404", False),
    ],
)
async def test_an_error_of_the_proxy_names_the_proxy_and_is_retried_if_it_is_temporary(
    scheme: str, status: str, message: str, retryable: bool
) -> None:
    async def answer(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            head = f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            await stream.send(head.encode())

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, answer)
            async with httpx.AsyncClient(proxy=f"http://127.0.0.1:{port}") as client:
                with pytest.raises(ConnectionFailed, match=message) as caught:
                    async with dialer(client, "test")(Endpoint(url=f"{scheme}://venue.example/ws")):
                        pass
            tasks.cancel_scope.cancel()

    assert caught.value.retryable is retryable
    assert "venue.example" in str(caught.value)
    if scheme == "wss":  # a tunnel: the response is from the proxy, not from the venue
        assert "the proxy" in str(caught.value)


async def test_an_unreachable_proxy_is_mentioned_as_a_possible_cause() -> None:
    venue = FakeVenue(never)
    async with venue.serve():
        pass
    async with httpx.AsyncClient(proxy=venue.url("http")) as client:
        with pytest.raises(ConnectionFailed, match="that the proxy runs") as caught:
            async with dialer(client, "test")(Endpoint(url="wss://venue.example/ws")):
                pass

    assert caught.value.retryable


@pytest.mark.parametrize("url", ["nonsense://x/ws", "ws://", "ws://[::1/ws", "ws://x:port/"])
async def test_an_invalid_url_is_permanent_and_names_the_expected_schemes(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(ConnectionFailed, match="wss://") as caught:
            async with dialer(client, "test")(Endpoint(url=url)):
                pass

    assert not caught.value.retryable
