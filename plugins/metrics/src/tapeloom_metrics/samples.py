"""Collects the samples of one scrape, and gives them to prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from .metrics import METRICS, Metric

_FAMILIES = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Samples:
    """The samples of one scrape; *symbols*: with the label `symbol` where a metric may have it."""

    def __init__(self, *, symbols: bool) -> None:
        self._symbols = symbols
        self._values: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in METRICS}
        self._histograms: dict[str, dict[tuple[str, ...], tuple[list[int], float]]] = {}

    def add(self, name: str, value: float, *labels: str, symbol: str = "") -> None:
        """Add to the sample of a metric with these labels."""
        labels = self._labels(name, labels, symbol)
        values = self._values[name]
        values[labels] = values.get(labels, 0) + value

    def latest(self, name: str, value: float, *labels: str, symbol: str = "") -> None:
        """Set the sample of a metric with these labels, unless it is higher already."""
        labels = self._labels(name, labels, symbol)
        values = self._values[name]
        values[labels] = max(values.get(labels, value), value)

    def add_counts(self, name: str, counts: Sequence[int], total: float, *labels: str) -> None:
        """Add *counts* to the buckets of a histogram, and *total*, in seconds, to its sum."""
        histograms = self._histograms.setdefault(name, {})
        known, known_total = histograms.get(labels, ([0] * len(counts), 0.0))
        summed = [a + b for a, b in zip(known, counts, strict=True)]
        histograms[labels] = summed, known_total + total

    def _labels(self, name: str, labels: tuple[str, ...], symbol: str) -> tuple[str, ...]:
        return (*labels, symbol) if self._symbols and METRICS[name].has_symbol else labels

    def families(self, bounds: dict[str, Sequence[int]]) -> Iterator[Any]:
        """Yield all metrics in the order of the table; *bounds*: those of the histograms, in ns."""
        for name, metric in METRICS.items():
            family = self._family(metric)
            if metric.kind == "histogram":
                edges = [repr(bound / 1e9) for bound in bounds[name]] + ["+Inf"]
                for labels, (counts, total) in self._histograms.get(name, {}).items():
                    buckets = list(zip(edges, accumulate(counts), strict=True))
                    family.add_metric(labels, buckets, total)
            for labels, value in self._values[name].items():
                family.add_metric(labels, value)
            yield family

    def _family(self, metric: Metric) -> Any:
        labels = metric.labels
        if self._symbols and metric.has_symbol:
            labels = (*labels, "symbol")
        kinds: Any = _FAMILIES
        return kinds[metric.kind](metric.name, metric.help, labels=labels)
