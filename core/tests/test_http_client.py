"""The HTTP client: its proxy, its certificates and its errors."""

from __future__ import annotations

import gzip
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc
import httpx
import pytest
from tapeloom import Network
from tapeloom._network.http_client import http_client
from tapeloom.errors import ConfigError


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def answering(status: int) -> AsyncIterator[tuple[str, list[str]]]:
    """Answer every request with *status*; yield the address, and the list of request lines."""
    lines: list[str] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            head = await stream.receive()
            lines.append(head.split(b"\r\n")[0].decode())
            await stream.send(b"HTTP/1.1 %d -\r\nContent-Length: 0\r\n\r\n" % status)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"http://127.0.0.1:{port}", lines
        tasks.cancel_scope.cancel()


async def test_requests_go_through_the_proxy_of_the_stack() -> None:
    async with answering(200) as (url, lines), http_client(Network(proxy=url), "stack") as web:
        await web.get("http://venue.example/depth")
        with pytest.raises(httpx.ConnectError):
            await web.get("https://venue.example/depth")  # the tunnel leads nowhere

    assert lines == [
        "GET http://venue.example/depth HTTP/1.1",
        "CONNECT venue.example:443 HTTP/1.1",
    ]


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_the_proxy_of_the_environment_is_used_if_the_stack_has_none(
    name: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with answering(200) as (url, lines), http_client(Network(), "stack") as web:
        monkeypatch.setenv(name.lower(), url.replace("http://", scheme))
        await web.get("http://venue.example/depth")

    assert lines == ["GET http://venue.example/depth HTTP/1.1"]


async def test_no_proxy_hosts_are_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(204) as (url, lines), http_client(Network(), "stack") as web:
        monkeypatch.setenv("all_proxy", "http://proxy.invalid:3128")
        monkeypatch.setenv("no_proxy", "127.0.0.1,other.example")
        answer = await web.get(url + "/depth")

    assert answer.status_code == 204
    assert lines == ["GET /depth HTTP/1.1"]


def test_a_pipe_in_place_of_certificates_is_a_mistake(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ca.pem")

    with pytest.raises(ConfigError, match=r"network\.ca: .*it is not a regular file"):
        http_client(Network(ca=str(tmp_path / "ca.pem")), "stack")


async def test_the_password_of_a_proxy_is_sent_only_to_the_proxy() -> None:
    heads: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            heads.append(await stream.receive())
            await stream.send(b"HTTP/1.1 200 -\r\nContent-Length: 0\r\n\r\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    network = Network(proxy=f"http://me:not-a-password@127.0.0.1:{port}")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        async with http_client(network, "stack") as web:
            await web.get("http://venue.example/depth")
        tasks.cancel_scope.cancel()

    assert b"Proxy-Authorization: Basic bWU6bm90LWEtcGFzc3dvcmQ=" in heads[0]


async def test_an_error_status_of_the_proxy_is_a_proxy_error() -> None:
    async with answering(407) as (url, _), http_client(Network(proxy=url), "stack") as web:
        with pytest.raises(httpx.ProxyError, match="407"):
            await web.get("https://venue.example/depth")


async def test_a_refused_connection_is_a_connect_error_of_httpx() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with http_client(Network(), "stack") as web:
        with pytest.raises(httpx.ConnectError):
            await web.get(f"http://127.0.0.1:{port}/")


async def test_a_missing_response_is_a_read_timeout_of_httpx() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with http_client(Network(), "stack") as web:
            with pytest.raises(httpx.ReadTimeout):
                await web.get(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.05)


# --------------------------------------------------------------------------- the size of a body

MIB = 1024 * 1024


@asynccontextmanager
async def sending(*parts: bytes) -> AsyncIterator[str]:
    """Answer every request with these bytes, and close; yield the address."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            with suppress(anyio.BrokenResourceError):  # the client has had enough
                for part in parts:
                    await stream.send(part)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"http://127.0.0.1:{port}/depth"
        tasks.cancel_scope.cancel()


def head(**headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return b"HTTP/1.1 200 OK\r\n" + "".join(lines).encode() + b"\r\n"


@pytest.mark.parametrize("encoding", ["gzip", "GZip", "x-gzip", "identity", "utf-8", ""])
async def test_a_body_is_read_plain_and_compressed(encoding: str) -> None:
    body = b'{"bids": []}' * 100_000
    sent = gzip.compress(body) if "gzip" in encoding.lower() else body
    headers = {"content_encoding": encoding} if encoding else {}
    async with sending(head(**headers), sent) as url, http_client(Network(), "stack") as web:
        answer = await web.get(url)

    assert answer.content == body


async def test_a_body_that_inflates_to_gigabytes_is_refused_in_little_memory() -> None:
    bomb = gzip.compress(b" " * (300 * MIB), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with (
        sending(head(content_encoding="gzip"), bomb) as url,
        http_client(Network(), "stack") as web,
    ):
        with pytest.raises(httpx.DecodingError, match="more than 32 MiB"):
            await web.get(url)

    assert len(bomb) < MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 120 * 1024  # in KiB


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "gzip, deflate"])
async def test_a_body_that_is_compressed_twice_or_otherwise_is_refused_unread(
    encoding: str,
) -> None:
    bomb = gzip.compress(gzip.compress(b" " * (64 * MIB), 9), 9)
    async with (
        sending(head(content_encoding=encoding), bomb) as url,
        http_client(Network(), "stack") as web,
    ):
        with pytest.raises(httpx.DecodingError, match=f"'{encoding}'; expected gzip or none"):
            await web.get(url)


@pytest.mark.parametrize("headers", [{}, {"content_encoding": "gzip"}])
async def test_a_body_without_end_is_refused_at_the_limit(headers: dict[str, str]) -> None:
    after_the_end = gzip.compress(b"{}")  # what follows it is no data, but it is read
    async with (
        sending(head(**headers), after_the_end, *[bytes(MIB)] * 100) as url,
        http_client(Network(), "stack") as web,
    ):
        with pytest.raises(httpx.DecodingError, match="more than 32 MiB"):
            await web.get(url)


@pytest.mark.parametrize(
    ("sent", "problem"),
    [(b"{}", "not valid gzip"), (gzip.compress(b"{}", mtime=0)[:-9], "ends in the middle")],
)
async def test_a_body_that_cannot_be_decompressed_is_refused(sent: bytes, problem: str) -> None:
    async with (
        sending(head(content_encoding="gzip"), sent) as url,
        http_client(Network(), "stack") as web,
    ):
        with pytest.raises(httpx.DecodingError, match=problem):
            await web.get(url)


def test_an_unreadable_certificate_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"network\.ca: .*cannot be read as PEM certificates"):
        http_client(Network(ca=str(tmp_path / "none.pem")), "stack")
