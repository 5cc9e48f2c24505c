"""What the README shows works as it stands: the stack, the commands, the program, the two lines."""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import tapeloom
from anyio.from_thread import start_blocking_portal
from tapeloom import Bar
from tapeloom.cli._main import main
from tapeloom_simulator import serve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
FENCES: list[tuple[str, str]] = re.findall(
    r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL
)


def fences(language: str) -> list[str]:
    return [text for name, text in FENCES if name == language]


def the_stack() -> str:
    return next(text for text in fences("toml") if "[[feed]]" in text)


@contextlib.contextmanager
def simulated(folder: Path) -> Iterator[str]:
    """Write the README's stack into *folder*, pointed at a simulator that runs meanwhile."""
    tables = tomllib.loads(the_stack())["feed"]
    symbols = [symbol for feed in tables for symbol in feed["symbols"]]
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            portal.call(lambda: serve("binance", symbols=symbols, seed=7, rate=200, speed=10))
        ) as simulator,
    ):
        venue = f'\n[venue.binance]\nbase_url = "{simulator.url}"\n'
        (folder / "stack.toml").write_text(the_stack() + venue, "utf-8")
        yield simulator.url
    structlog.reset_defaults()  # the command line has configured it


def test_the_stack_is_one_that_can_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stack.toml").write_text(the_stack(), "utf-8")
    code = main(["check", "stack.toml"])
    structlog.reset_defaults()

    assert code == 0
    assert "nothing is wrong with it" in capsys.readouterr().out


def test_the_stack_streams_checked_bars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with simulated(tmp_path):
        code = main(["run", "stack.toml", "--for", "2", "--out", "jsonl"])
    out, err = capsys.readouterr()
    types = {json.loads(line)["type"] for line in out.splitlines()}
    summary: dict[str, Any] = json.loads(err.splitlines()[-1])

    assert code == 0
    assert types >= {"trade", "bar", "status"}
    assert (summary["errors"], summary["gaps"], summary["rejects"]) == ([], 0, {})


def test_the_program_prints_bars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program never ends by itself, so its stream is stopped after some bars."""
    monkeypatch.chdir(tmp_path)
    (program,) = fences("python")
    with simulated(tmp_path):
        opened: list[tapeloom.Stream] = []
        real = tapeloom.open

        def open_for_a_while(*args: Any, **kwargs: Any) -> tapeloom.Stream:
            stream = real(*args, **kwargs)
            opened.append(stream)
            return stream

        count = iter(range(5))

        def counted(bar: Bar) -> Any:
            if next(count, None) is None:
                opened[0].stop()
            return bar.open

        monkeypatch.setattr(tapeloom, "open", open_for_a_while)
        exec(compile(program.replace("bar.open", "counted(bar)"), "README.md", "exec"), {
            "__name__": "__main__", "counted": counted,
        })  # fmt: skip
    shape = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00 (BTC|ETH)/USDT( [\d.]+){5}$"
    bars = re.findall(shape, capsys.readouterr().out, re.MULTILINE)

    assert len(bars) > 5


def test_the_two_lines_that_everything_hangs_on_stand_in_it() -> None:
    commands = re.findall(r"^\$ (.+)$", "\n".join(fences("console")), re.MULTILINE)

    assert "python -m pip install uv && uv run tapeloom demo --for 10" in commands
    assert "python -m pip install uv && uv run nox" in commands
    assert "python -m pip install uv && uv run nox" in (ROOT / ".ci/run").read_text("utf-8")


def test_every_package_has_a_row() -> None:
    names = {
        tomllib.loads(file.read_text("utf-8"))["project"]["name"]
        for pattern in ("core", "plugins/*", "contrib/*")
        for file in ROOT.glob(f"{pattern}/pyproject.toml")
    }

    assert {name for name in names if f"| `{name}`" not in README} == set()
