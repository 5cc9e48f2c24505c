"""The names of all metrics: by the conventions, in the reference, in the rules and on the board."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry
from tapeloom.cli._main import main
from tapeloom.plugin import StreamState
from tapeloom_metrics.collector import StreamCollector
from tapeloom_metrics.command import text_of
from tapeloom_metrics.counts import EventCounts
from tapeloom_metrics.metrics import METRICS

PAGE = Path(__file__).parents[3] / "docs/reference/metrics.md"
ROW = re.compile(r"^\| `(tapeloom_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", re.MULTILINE)
#: What Prometheus makes of a histogram.
SUFFIXES = ("", "_bucket", "_sum", "_count")


def named(text: str) -> set[str]:
    """Return the metrics that a text names."""
    return set(re.findall(r"\btapeloom_\w+\b", text))


def test_the_reference_has_exactly_the_metrics_with_their_labels_and_meanings() -> None:
    expected = {
        metric.name: (
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels)
            + (" (`symbol`)" if metric.has_symbol else ""),
            metric.help,
        )
        for metric in METRICS.values()
    }
    documented = {name: tuple(cells) for name, *cells in ROW.findall(PAGE.read_text("utf-8"))}

    assert documented == expected


def test_a_scrape_has_exactly_these_metrics() -> None:
    registry, counts = CollectorRegistry(), EventCounts(lambda: StreamState(0))
    registry.register(StreamCollector(lambda: StreamState(0), counts))
    families = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in registry.collect()
    }

    assert families == {metric.name: metric.kind for metric in METRICS.values()}


@pytest.mark.parametrize("what", ["rules", "board"])
def test_the_rules_and_the_board_name_only_metrics_that_exist(what: str) -> None:
    known = {name + suffix for name in METRICS for suffix in SUFFIXES}

    assert named(text_of(what)) - known == set()


def test_every_label_in_the_texts_of_alerts_is_one_that_the_alert_has() -> None:
    labels = {label for metric in METRICS.values() for label in metric.labels} | {"instance"}
    used = set(re.findall(r"\$labels\.(\w+)", text_of("rules")))

    assert used
    assert used - labels == set()


def test_the_board_has_panels_without_overlap_and_units() -> None:
    board = json.loads(text_of("board"))
    cells = [
        (x, y)
        for panel in board["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    charts = [panel for panel in board["panels"] if panel["type"] != "row"]

    assert len(charts) >= 12
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert [
        panel["title"] for panel in charts if not panel["fieldConfig"]["defaults"]["unit"]
    ] == []
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_command_prints_and_writes_both_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rules.yml"

    assert main(["metrics", "board"]) == 0
    assert capsys.readouterr().out == text_of("board")
    assert main(["metrics", "rules", "--out", str(path)]) == 0
    assert path.read_text("utf-8") == text_of("rules")
    assert main(["metrics", "rules", "--out", str(tmp_path / "none/rules.yml")]) == 2
    structlog.reset_defaults()  # the command line has configured it
    assert "cannot be written" in capsys.readouterr().err
