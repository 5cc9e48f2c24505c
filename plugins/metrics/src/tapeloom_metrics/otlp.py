"""Sends the metrics of the registry to a receiver of OTLP over HTTP, now and then, from a thread of its own.

They are those of a scrape, under the same names: the families of prometheus_client are put into the messages
of OpenTelemetry as they are. Its own instruments would be a second list of metrics, and count a second time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import structlog
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry

log = structlog.get_logger()

#: Seconds that a receiver may take.
_SEND_SECONDS = 5.0
_CUMULATIVE = AggregationTemporality.CUMULATIVE


class Sender:
    """Sends what *registry* has to *endpoint* every *interval* seconds, from `start` to `stop`."""

    def __init__(self, registry: CollectorRegistry, endpoint: str, interval: float) -> None:
        self._registry = registry
        self._endpoint = endpoint
        self._interval = interval
        self._exporter = OTLPMetricExporter(endpoint, timeout=min(_SEND_SECONDS, interval))
        self._started_at = time.time_ns()
        self._is_told = False  # that the receiver does not take them
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-otlp", daemon=True)
        # It would log each attempt; what has changed is logged here.
        logging.getLogger(OTLPMetricExporter.__module__).disabled = True

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send a last time, unless the receiver is down, and end."""
        self._ended.set()
        if self._is_told:
            self._exporter.shutdown()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            self._send()
        if not self._is_told:
            self._send()
            self._exporter.shutdown()

    def _send(self) -> None:
        data = metrics_data(self._registry.collect(), self._started_at, time.time_ns())
        result, reason = MetricExportResult.FAILURE, "it cannot be reached, or refuses them"
        try:
            result = self._exporter.export(data)
        except Exception as error:  # a proxy or an address that is none
            reason = str(error)
        has_failed = result is not MetricExportResult.SUCCESS
        if has_failed != self._is_told:
            self._is_told = has_failed
            if has_failed:
                log.warning("metrics_unsent", endpoint=self._endpoint, reason=reason)
            else:
                log.info("metrics_sent", endpoint=self._endpoint)


def metrics_data(families: Iterable[Any], start: int, now: int) -> MetricsData:
    """Return families of prometheus_client as a message; the times are those of the counts, in ns."""
    metrics = [metric for family in families for metric in _metrics(family, start, now)]
    scope = ScopeMetrics(InstrumentationScope("tapeloom"), metrics, "")
    resource = Resource.create({"service.name": "tapeloom"})
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metrics(family: Any, start: int, now: int) -> Iterator[Metric]:
    if family.type == "histogram":
        points = [*_histogram_points(family.samples, start, now)]
        yield Metric(family.name, family.documentation, "", Histogram(points, _CUMULATIVE))
        return
    for name, samples in groupby(family.samples, lambda sample: str(sample.name)):
        numbers = [
            NumberDataPoint(sample.labels, start, now, sample.value)
            for sample in samples
            if not name.endswith("_created")
        ]
        is_counter = family.type == "counter"
        data = Sum(numbers, _CUMULATIVE, is_monotonic=True) if is_counter else Gauge(numbers)
        if numbers:
            yield Metric(name, family.documentation, "", data)


def _histogram_points(samples: Sequence[Any], start: int, now: int) -> Iterator[HistogramDataPoint]:
    """Yield a point for each set of labels: its buckets count what is beyond the one before."""
    by_labels: dict[tuple[tuple[str, str], ...], list[Any]] = {}
    for sample in samples:
        labels = tuple(pair for pair in sorted(sample.labels.items()) if pair[0] != "le")
        by_labels.setdefault(labels, []).append(sample)
    for key, of_labels in by_labels.items():
        upto = [sample for sample in of_labels if sample.name.endswith("_bucket")]
        counts = [round(sample.value) for sample in upto]
        total = next(sample.value for sample in of_labels if sample.name.endswith("_sum"))
        in_bucket = [count - before for count, before in zip(counts, [0, *counts], strict=False)]
        edges = [float(sample.labels["le"]) for sample in upto[:-1]]
        least: Any = None  # of what was counted is not known
        yield HistogramDataPoint(
            dict(key), start, now, counts[-1], total, in_bucket, edges, least, least
        )
