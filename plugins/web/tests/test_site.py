"""The server of the page: who gets in, what a page may do, and starting again in the same process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from tapeloom import Secret, Trade, decode
from tapeloom.errors import SinkRefused
from tapeloom.plugin import SinkRun
from tapeloom_web.settings import Settings
from tapeloom_web.sink import WebSink
from websockets.sync.client import connect

TOKEN = "not-a-real-token-0123456789"
NS = 1_700_000_000_000_000_000


@contextmanager
def running(**settings: Any) -> Iterator[WebSink]:
    sink = WebSink(Settings(port=0, **settings))
    sink.open(SinkRun("web", NS))
    try:
        yield sink
    finally:
        sink.close()


def trade(number: int) -> Trade:
    return Trade("acme", "BTC/USD", NS, NS, Decimal("1.50"), Decimal(2), "buy", number)


def test_a_page_comes_with_strict_headers_and_loads_nothing_from_elsewhere() -> None:
    with running() as sink:
        answer = httpx.get(sink.url)
    policy = answer.headers["content-security-policy"]

    assert answer.status_code == 200
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert 'src="http' not in answer.text
    assert 'href="http' not in answer.text


@pytest.mark.parametrize(
    "path", ["", "stream", "_nicegui/auto.css", "?token=wrong-token-0123456789"]
)
def test_without_the_right_token_there_is_401_and_nothing_else(path: str) -> None:
    with running(token=Secret(TOKEN)) as sink:
        answer = httpx.get(f"{sink.url}{path}")

    assert (answer.status_code, answer.content) == (401, b"")


def test_the_token_in_an_address_lets_a_browser_in_and_stands_in_no_page() -> None:
    with running(token=Secret(TOKEN)) as sink, httpx.Client() as browser:
        first = browser.get(f"{sink.url}?token={TOKEN}&interval=5m")
        page = browser.get(f"{sink.url[:-1]}{first.headers['location']}")
        other = httpx.get(sink.url, cookies={"tapeloom": "0" * 64})

    assert first.status_code == 303
    assert first.headers["location"] == "/?interval=5m"
    assert "HttpOnly" in first.headers["set-cookie"]
    assert "SameSite=Strict" in first.headers["set-cookie"]
    assert TOKEN not in str(first.headers)
    assert page.status_code == 200
    assert TOKEN not in page.text
    assert other.status_code == 401


def test_another_name_or_origin_is_refused() -> None:
    with running() as sink:
        by_name = httpx.get(sink.url, headers={"host": "evil.example"})
        by_origin = httpx.get(sink.url, headers={"origin": "https://evil.example"})

    assert (by_name.status_code, by_origin.status_code) == (403, 403)


def test_the_stream_is_served_beside_the_page() -> None:
    with running() as sink, connect(f"{sink.url.replace('http', 'ws')}stream?type=trade") as client:
        client.recv(10)  # what is subscribed to
        sink.observe([trade(7)])
        found = decode(str(client.recv(10)).splitlines()[0])

    assert found == trade(7)


def test_a_sink_that_is_opened_again_serves_again() -> None:
    sink = WebSink(Settings(port=0))
    statuses = []
    for _ in range(3):
        sink.open(SinkRun("web", NS))
        statuses.append(httpx.get(sink.url).status_code)
        sink.close()

    assert statuses == [200, 200, 200]
    assert sink.url == ""


def test_a_second_page_in_one_process_is_refused_with_what_to_do() -> None:
    with running(), pytest.raises(SinkRefused, match="Keep one"), running():
        pass


def test_a_port_that_is_taken_is_refused_and_leaves_the_page_free() -> None:
    with running() as sink:
        port = int(sink.url.rsplit(":", 1)[1].strip("/"))
    blocked = Settings(port=port)
    import socket

    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(SinkRefused, match="another program"),
    ):
        WebSink(blocked).open(SinkRun("web", NS))
    with running() as again:
        assert httpx.get(again.url).status_code == 200


def test_a_store_that_is_not_there_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tapeloom_parquet")
    with (
        pytest.raises(SinkRefused, match="there is no folder"),
        running(store=str(tmp_path / "no")),
    ):
        pass
    with running():
        pass  # the page is free again


def test_an_address_for_others_needs_a_token() -> None:
    with pytest.raises(ValueError, match="needs a token"):
        Settings(host="0.0.0.0")
