"""Conformance results of a plugin are read from its package without importing it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tapeloom._compose.conformance import (
    FILE,
    Conformance,
    Proof,
    conformance_file,
    read_conformance,
)
from tapeloom_testing.contract.conformance import table, write

CONFORMANCE = Conformance(
    "venue",
    "acme",
    {
        "spot": Proof(["trades", "book"], ["listing"], ["symbols", "truth"], {"sides": "not told"}),
        "spot, raw": Proof(["trades"], [], ["truth"], {"sides": "not told", "symbols": "as above"}),
    },
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that cannot be imported."""
    home = tmp_path / "made_proven"
    home.mkdir()
    (home / "__init__.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return home


def test_conformance_is_written_and_read_without_importing_the_package(package: Path) -> None:
    write(CONFORMANCE, package / FILE)

    assert read_conformance("made_proven") == CONFORMANCE
    assert read_conformance("made_proven.plugin:object") == CONFORMANCE
    assert "made_proven" not in sys.modules
    assert conformance_file("made_proven") == package / FILE


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "venue"}', '{"proven": 3}', "\xff"])
def test_a_malformed_conformance_file_is_ignored(package: Path, text: str) -> None:
    (package / FILE).write_text(text, encoding="latin-1")

    assert read_conformance("made_proven") is None


def test_a_missing_package_or_file_has_no_conformance(package: Path) -> None:
    assert read_conformance("made_proven") is None
    assert read_conformance("made_of_nothing") is None
    assert read_conformance("json.decoder") is None


def test_conformance_is_summarised_on_one_line() -> None:
    assert str(CONFORMANCE) == "1-2 guarantees, channels: 3, markets: 1"
    assert str(Conformance("stage", "bars", {"": Proof([], [], ["batches"])})) == "1 guarantees"


def test_the_table_has_each_market_and_each_reason_once() -> None:
    text = table(
        [CONFORMANCE, Conformance("stage", "bars", {})], {"symbols": "spelled", "truth": "true"}
    )

    assert "| acme | spot | trades book | listing | – |" in text
    assert "| acme | spot, raw | trades | – | symbols |" in text
    assert text.count("not told") == 1
    assert "bars" not in text
