"""Connection failures on real sockets: host names, certificates, proxies."""

from __future__ import annotations

import json
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
import tapeloom
import trustme
from tapeloom import FeedSpec, Network, Registry, Stack, Status, Trade
from tapeloom.errors import ConnectionFailed, RetriesExhausted
from tapeloom_testing import FakeClient, FakeVenue

FEED = FeedSpec("acme", ["BTC/USD"], ["trades"])


async def send_a_trade(client: FakeClient) -> None:
    await client.send(json.dumps({"ok": json.loads(await client.receive_text())["id"]}))
    await client.send(json.dumps({"s": "BTCUSD", "t": 1, "p": "1", "q": "1", "i": 1}))
    await anyio.sleep_forever()


async def until_a_trade(registry: Registry, stack: Stack, states: list[Status]) -> None:
    """Stream until a trade comes; add to *states* what came before."""
    async with tapeloom.open(stack, registry=registry, seed=4) as stream:
        with anyio.fail_after(10):
            async for event in stream:
                if isinstance(event, Trade):
                    break
                assert isinstance(event, Status)
                states.append(event)


async def test_a_host_that_cannot_be_resolved_is_dialled_until_it_can(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, asked = socket.getaddrinfo, []

    def resolver(host: Any, *args: Any, **named: Any) -> Any:
        if host not in ("venue.test", b"venue.test"):
            return resolve(host, *args, **named)
        asked.append(host)
        if len(asked) <= 3:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve("127.0.0.1", *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    states: list[Status] = []
    async with FakeVenue(send_a_trade).serve() as venue:
        url = f"ws://venue.test:{venue.port}/ws"
        stack = Stack(feeds=(FEED,), venues={"acme": {"url": url}})
        await until_a_trade(registry, stack, states)

    details = [status.detail for status in states if status.state == "reconnecting"]
    assert len(details) == 3
    assert all(
        "the name of venue.test" in detail and "could not be resolved" in detail
        for detail in details
    )
    assert states[3].state == "connected"


async def test_a_delisted_symbol_is_reported_at_the_start_and_the_others_are_streamed(
    registry: Registry,
) -> None:
    feed = FeedSpec("acme", ["OLD/USD", "BTC/USD", "NONE/USD"], ["trades"])
    states: list[Status] = []
    listed = b'["BTC/USD", ["OLD/USD", "", false]]'
    async with FakeVenue(send_a_trade, http={"/symbols": (200, {}, listed)}).serve() as venue:
        settings = {"url": venue.url(), "rest": venue.url("http")}
        await until_a_trade(registry, Stack(feeds=(feed,), venues={"acme": settings}), states)

    refused = {status.symbol: status.detail for status in states if status.state == "refused"}
    assert refused.keys() == {"OLD/USD", "NONE/USD"}
    assert "delisted" in refused["OLD/USD"]
    assert "does not list" in refused["NONE/USD"]


async def test_a_handshake_refused_for_good_by_the_venues_rule_ends_the_feed_with_its_words(
    registry: Registry,
) -> None:
    async with FakeVenue(
        send_a_trade, upgrade=(403, {}, b"never in this country")
    ).serve() as venue:
        settings = {"url": venue.url(), "rest": venue.url("http")}
        stack = Stack(feeds=(FEED,), venues={"acme": settings})
        with pytest.raises(ConnectionFailed, match="HTTP 403: never come back") as caught:
            await until_a_trade(registry, stack, [])

    assert "fewer connections" not in str(caught.value)


async def test_the_pause_after_a_refused_handshake_is_the_one_of_the_venues_rule(
    registry: Registry,
) -> None:
    states: list[Status] = []
    async with FakeVenue(send_a_trade, upgrade=(403, {}, b"wait 600")).serve() as venue:
        settings = {"url": venue.url(), "rest": venue.url("http")}
        stack = Stack(feeds=(FEED,), venues={"acme": settings})
        async with tapeloom.open(stack, registry=registry, seed=4) as stream:
            with anyio.fail_after(10):
                async for status in stream.of(Status):
                    states.append(status)
                    if status.state == "reconnecting":
                        break

    assert "asks for a pause for 600 s: HTTP 403, wait a while" in states[-1].detail
    assert states[-1].detail.endswith("next try in 600.0 s")


async def test_an_unknown_host_ends_the_feed_after_max_attempts(registry: Registry) -> None:
    feed = FeedSpec("acme", ["BTC/USD"], ["trades"], max_attempts=1)
    stack = Stack(feeds=(feed,), venues={"acme": {"url": "ws://nowhere.invalid/ws"}})
    with pytest.raises(RetriesExhausted, match=r"nowhere\.invalid could not be resolved"):
        async with tapeloom.open(stack, registry=registry) as stream:
            with anyio.fail_after(10):
                async for _ in stream:
                    pass


async def test_an_expired_certificate_ends_the_feed_at_once_with_advice(
    registry: Registry, tmp_path: Path
) -> None:
    authority, root = trustme.CA(), tmp_path / "root.pem"
    authority.cert_pem.write_to_path(str(root))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old = authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    old.configure_cert(context)
    states: list[str] = []
    async with FakeVenue(send_a_trade, context=context).serve() as venue:
        stack = Stack(
            feeds=(FEED,), venues={"acme": {"url": venue.url()}}, network=Network(ca=str(root))
        )
        with pytest.raises(ConnectionFailed, match="has to renew its certificate"):
            async with tapeloom.open(stack, registry=registry) as stream:
                with anyio.fail_after(10):
                    async for event in stream:
                        assert isinstance(event, Status)
                        states.append(event.state)

    assert states == ["failed"]


@pytest.mark.parametrize(
    ("status", "ends"), [(b"407 Proxy Authentication Required", True), (b"502 Bad Gateway", False)]
)
async def test_a_refusing_proxy_ends_the_feed_or_is_retried_by_its_status(
    registry: Registry, status: bytes, ends: bool
) -> None:
    """The proxy refuses twice and then lets everything through."""
    refused = 0

    async def proxy(stream: anyio.abc.ByteStream) -> None:
        nonlocal refused
        async with stream:
            head = await stream.receive()
            if refused < 2:
                refused += 1
                await stream.send(b"HTTP/1.1 %b\r\nconnection: close\r\n\r\n" % status)
                return
            async with await anyio.connect_tcp("127.0.0.1", venue.port) as server:
                await server.send(head)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(passing, stream, server)
                    await passing(server, stream)
                    tasks.cancel_scope.cancel()

    async def passing(source: Any, sink: Any) -> None:
        async for data in source:
            await sink.send(data)

    states: list[Status] = []
    async with (
        FakeVenue(send_a_trade).serve() as venue,
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, proxy)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        stack = Stack(
            feeds=(FEED,), venues={"acme": {"url": f"ws://127.0.0.1:{venue.port}"}},
            network=Network(proxy=f"http://127.0.0.1:{port}"),
        )  # fmt: skip
        if ends:
            with pytest.raises(ConnectionFailed, match="the proxy requires a login"):
                await until_a_trade(registry, stack, states)
            assert [status.state for status in states] == ["failed"]
        else:
            await until_a_trade(registry, stack, states)
            assert [status.state for status in states][:3] == [
                "reconnecting",
                "reconnecting",
                "connected",
            ]
        tasks.cancel_scope.cancel()
