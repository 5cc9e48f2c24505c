"""Metrics sent by OTLP to a real receiver, decoded by the protocol's own classes: they equal a scrape."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs
from tapeloom import Trade
from tapeloom.plugin import DELAY_BOUNDS, QueueState, SinkRun, StreamState
from tapeloom_metrics import Settings

from .states import feed_state, stream_state

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from tapeloom_metrics.metrics_sink import MetricsSink

Labels = tuple[tuple[str, str], ...]
#: Of metrics of the process itself, which change between a message and a scrape.
OF_PROCESS = ("process_", "python_gc_")


class Receiver(ThreadingHTTPServer):
    """A receiver of OTLP: keeps the messages that it got."""

    def __init__(self, port: int = 0) -> None:
        self.messages: Queue[ExportMetricsServiceRequest] = Queue()
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1/metrics"
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/metrics"
        self.server.messages.put(ExportMetricsServiceRequest.FromString(body))
        answer = ExportMetricsServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def state() -> StreamState:
    delays = tuple(range(len(DELAY_BOUNDS) + 1))
    queue = QueueState("strategy", 3, 100, "block", 50, 2, delays=delays, delay_sum=123_456_789)
    return stream_state(feed_state(open_gaps=2, clock_offset=-5_000_000), queue)


def trade(number: int, lag: int) -> Trade:
    ts = 1_700_000_000_000_000_000 + number
    return Trade("acme", "BTC/USD", ts, ts + lag, Decimal(1), Decimal(2), "buy", number, "trades")


def received(message: ExportMetricsServiceRequest) -> dict[tuple[str, Labels], Any]:
    """Return the values of a message as a scrape has them: by name of the sample, and labels."""
    found: dict[tuple[str, Labels], Any] = {}
    (resource,) = message.resource_metrics
    (scope,) = resource.scope_metrics
    for metric in scope.metrics:
        kind = metric.WhichOneof("data")
        for point in getattr(metric, kind).data_points:
            labels = tuple(sorted((item.key, item.value.string_value) for item in point.attributes))
            if kind != "histogram":
                value = point.as_double or point.as_int
                found[metric.name, labels] = (kind, value)
                continue
            edges, count = [*map(str, point.explicit_bounds), "+Inf"], 0
            for edge, each in zip(edges, point.bucket_counts, strict=True):
                count += each
                le = tuple(sorted((*labels, ("le", edge))))
                found[f"{metric.name}_bucket", le] = (kind, count)
            found[f"{metric.name}_count", labels] = (kind, point.count)
            found[f"{metric.name}_sum", labels] = (kind, point.sum)
    return found


def scraped(sink: MetricsSink) -> dict[tuple[str, Labels], Any]:
    kinds = {"counter": "sum", "gauge": "gauge", "histogram": "histogram"}
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): (kinds[family.type], sample.value)
        for family in sink.registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def of_stream(found: dict[tuple[str, Labels], Any]) -> dict[tuple[str, Labels], Any]:
    return {key: value for key, value in found.items() if not key[0].startswith(OF_PROCESS)}


async def opened(**settings: Any) -> MetricsSink:
    sink = MetricsSink(Settings(port=0, **settings))
    await sink.open(SinkRun("metrics", 1, state))
    for number in range(5):
        sink.observe([trade(number, lag=3_000_000 * number)])
    return sink


def test_a_receiver_gets_what_a_scrape_shows(receiver: Receiver) -> None:
    async def run() -> tuple[dict[Any, Any], dict[Any, Any]]:
        sink = await opened(otlp_endpoint=receiver.url, otlp_interval="1h")
        try:
            expected = scraped(sink)
        finally:
            await sink.close()  # it sends a last time
        return expected, received(receiver.messages.get(timeout=30))

    expected, found = anyio.run(run)

    assert found.keys() == expected.keys()
    assert of_stream(found) == of_stream(expected)
    labels = (("channel", "trades"), ("feed", "acme"), ("type", "trade"), ("venue", "acme"))
    assert found["tapeloom_events_total", labels] == ("sum", 5)
    assert found["tapeloom_handling_seconds_sum", (("consumer", "strategy"),)][1] == 0.123456789
    assert any(name == "tapeloom_event_age_seconds_bucket" for name, _ in found)
    assert receiver.messages.empty()


def test_it_is_sent_again_and_again(receiver: Receiver) -> None:
    async def run() -> None:
        sink = await opened(otlp_endpoint=receiver.url, otlp_interval="100ms")
        try:
            for _ in range(3):
                await anyio.to_thread.run_sync(lambda: receiver.messages.get(timeout=30))
        finally:
            await sink.close()

    anyio.run(run)


def test_a_receiver_that_is_down_is_told_once_and_found_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1/metrics"

    async def run() -> None:
        sink = await opened(otlp_endpoint=url, otlp_interval="100ms")
        try:
            with anyio.fail_after(60):
                while not any(log["event"] == "metrics_unsent" for log in logs):  # noqa: ASYNC110
                    await anyio.sleep(0.05)
                await anyio.sleep(1)  # for a second report there is time
                receiver = Receiver(port)
                try:
                    await anyio.to_thread.run_sync(lambda: receiver.messages.get(timeout=30))
                    while not any(log["event"] == "metrics_sent" for log in logs):  # noqa: ASYNC110
                        await anyio.sleep(0.05)
                finally:
                    await anyio.to_thread.run_sync(receiver.close)
        finally:
            await sink.close()

    with capture_logs() as logs:
        anyio.run(run)

    told = [log["event"] for log in logs if log["event"] in ("metrics_unsent", "metrics_sent")]
    assert told[:2] == ["metrics_unsent", "metrics_sent"]
    assert {log["endpoint"] for log in logs if log["event"] in told} == {url}


def test_closing_does_not_wait_for_a_receiver_that_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/metrics"

        async def run() -> None:
            sink = await opened(otlp_endpoint=url, otlp_interval="1h")
            with anyio.fail_after(30):
                await sink.close()

        anyio.run(run)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "grpc://a:1", "http://"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="expected an address such as"):
        Settings(otlp_endpoint=endpoint)
