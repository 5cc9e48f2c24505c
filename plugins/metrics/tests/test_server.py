"""The server on a real socket: tokens, slow clients, many of them, an address in use, a blocked loop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import tapeloom
from prometheus_client import CollectorRegistry
from tapeloom import Registry, Secret
from tapeloom.errors import SinkRefused
from tapeloom.plugin import SinkRun
from tapeloom_metrics import Settings, server
from tapeloom_metrics.collector import StreamCollector
from tapeloom_metrics.counts import EventCounts
from tapeloom_metrics.loop_check import LoopCheck
from tapeloom_metrics.metrics_sink import MetricsSink
from tapeloom_metrics.pages import Pages
from tapeloom_metrics.server import MetricsServer

from .states import feed_state, get, stream_state

TOKEN = "an-obvious-fake"


class Answering:
    """An event loop that answers."""

    def silent_seconds(self) -> None:
        return None


@pytest.fixture
def pages() -> Pages:
    def state() -> tapeloom.plugin.StreamState:
        return stream_state(feed_state())

    counts, registry = EventCounts(state), CollectorRegistry()
    registry.register(StreamCollector(state, counts))
    return Pages(registry, state, counts, Answering())  # type: ignore[arg-type]


@pytest.fixture
def address(pages: Pages) -> Iterator[tuple[str, int]]:
    running = MetricsServer("127.0.0.1", 0, None, pages)
    running.start()
    yield running.address
    running.stop()


def test_it_serves_metrics_and_says_why_it_is_not_ready(address: tuple[str, int]) -> None:
    code, text = get(address, "/metrics")

    assert (code, 'tapeloom_feed_up{feed="acme",venue="acme"} 1.0' in text) == (200, True)
    assert get(address, "/healthz") == (200, "alive\n")
    code, text = get(address, "/readyz")
    assert (code, "has had no snapshot yet" in text) == (503, True)
    assert get(address, "/secrets")[0] == 404


def test_openmetrics_is_served_to_who_asks_for_it(address: tuple[str, int]) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}

    assert get(address, "/metrics", accept)[1].endswith("# EOF\n")


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/readyz", "/none"])
def test_without_the_token_the_answer_is_401_and_nothing_else(pages: Pages, path: str) -> None:
    running = MetricsServer("127.0.0.1", 0, TOKEN, pages)
    running.start()
    try:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            assert get(running.address, path, headers) == (401, "")
        code, body = get(running.address, path, {"Authorization": f"Bearer {TOKEN}"})
    finally:
        running.stop()

    assert code != 401
    assert body


def test_other_methods_and_lines_that_are_no_http_do_no_harm(address: tuple[str, int]) -> None:
    for line in (b"POST /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"\r\n\r\n"):
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(line)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(1000)
            assert b"tapeloom_" not in answer

    assert get(address, "/healthz") == (200, "alive\n")


def test_a_thousand_half_open_connections_keep_nobody_out(address: tuple[str, int]) -> None:
    before = threading.active_count()
    clients = [socket.create_connection(address, timeout=10) for _ in range(1000)]
    try:
        assert get(address, "/healthz") == (200, "alive\n")
        # Threads of closed connections may be about to end.
        deadline = time.monotonic() + 10
        while threading.active_count() > before + server._MAX_CONNECTIONS:
            assert time.monotonic() < deadline, threading.active_count()
            threading.Event().wait(0.05)
    finally:
        for client in clients:
            client.close()


def test_a_client_that_sends_a_byte_now_and_then_is_closed_after_a_while(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_MAX_SECONDS", 1.0)
    running = MetricsServer("127.0.0.1", 0, None, pages)
    running.start()
    try:
        with socket.create_connection(running.address, timeout=0.2) as client:
            began, closed = time.monotonic(), False
            while not closed and time.monotonic() - began < 8:
                try:
                    client.sendall(b"G")
                    closed = client.recv(10) == b""
                except TimeoutError:
                    continue
                except OSError:
                    closed = True
    finally:
        running.stop()

    assert closed


async def test_an_address_in_use_is_refused_with_what_to_do() -> None:
    first = MetricsSink(Settings(port=0))
    await first.open(SinkRun("metrics", 1))
    try:
        second = MetricsSink(Settings(port=first.address[1]))
        with pytest.raises(
            SinkRefused, match=r"cannot listen at 127\.0\.0\.1:\d+: .*set another port"
        ):
            await second.open(SinkRun("metrics-2", 1))
        await second.close()
        with pytest.raises(SinkRefused):
            second.check()
    finally:
        await first.close()


async def test_a_sink_that_is_opened_again_serves_again() -> None:
    sink = MetricsSink(Settings(port=0, token=Secret(TOKEN)))
    for _ in range(2):
        await sink.open(SinkRun("metrics", 1))
        code, _ = await anyio.to_thread.run_sync(get, sink.address, "/metrics")
        await sink.close()

        assert code == 401


async def test_an_event_loop_that_is_blocked_is_found() -> None:
    found: list[float | None] = []
    check = LoopCheck(anyio.lowlevel.current_token(), answer_seconds=0.3)
    asking = threading.Thread(target=lambda: found.append(check.silent_seconds()))
    asking.start()
    asking.join()  # the event loop waits here, and cannot answer

    assert found[0] is not None
    assert found[0] >= 0.3

    await anyio.lowlevel.checkpoint()
    assert await anyio.to_thread.run_sync(check.silent_seconds) is None


def test_the_plugin_makes_a_sink_for_each_stream_of_a_process() -> None:
    registry = Registry()
    made = [registry.call("metrics", "sink", settings=Settings()) for _ in range(2)]

    assert [type(sink) for sink in made] == [MetricsSink, MetricsSink]
    assert made[0] is not made[1]
