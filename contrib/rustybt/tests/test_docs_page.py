"""The page about the guide: every row names tests, and every named test exists."""

import ast
import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs/reference/guide.md"
#: Every row of the guide, by a word that stands in it.
PARTS = [
    "Binance", "Bybit", "Hyperliquid", "CCXT", "Interactive Brokers", "Alpaca", "`connect`",
    "`OHLCVBar`", "`BarAggregator`", "several exchanges", "`StreamManager`", "backoff",
    "`validate_bar`", "Batches", "Queues", "symbols that are traded", "`HeartbeatMonitor`",
    "SIGTERM", "rate limit of the venue", "connection refused", "too many open connections",
    "message rate exceeded", "disconnected unexpectedly", "debug mode", "trading engine", "REST",
]  # fmt: skip


def rows():
    lines = PAGE.read_text("utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    return [re.split(r"\s*(?<!\\)\|\s*", line)[1:-1] for line in table]


@cache
def functions(file):
    tree = ast.parse(file.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


def test_every_part_of_the_guide_has_a_row():
    promised = [cells[0] for cells in rows()]

    assert [part for part in PARTS if not any(part in promise for promise in promised)] == []


def test_every_row_names_a_test_and_every_test_that_is_named_exists():
    missing = []
    for promise, _, proof in rows():
        links = re.findall(r"\[`(\w+)`\]\(([^)]+)\)", proof)
        assert links, f"no test proves: {promise}"
        for name, target in links:
            file = (PAGE.parent / target).resolve()
            if not file.is_file() or name not in functions(file):
                missing.append(f"{target}::{name}")

    assert missing == []


def test_every_program_of_the_guide_has_its_test_on_the_page():
    page = PAGE.read_text("utf-8")
    programs = functions(Path(__file__).with_name("test_guide.py"))

    assert [name for name in programs if name.startswith("test_") and name not in page] == []
