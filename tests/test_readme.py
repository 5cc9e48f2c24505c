"""What the README shows works as it stands: the stack, the commands, the program, the two lines."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
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


# ------------------------------------------------------------------------------- the line to install

#: Every package by its name.
PACKAGES = {
    tomllib.loads(file.read_text("utf-8"))["project"]["name"]: file.parent
    for pattern in ("core", "plugins/*", "contrib/*")
    for file in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
}
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md"), *ROOT.glob("docs/*/*.md")]  # fmt: skip


def needed(package: Path) -> set[Path]:
    """Return the packages of this repository that *package* needs, and itself."""
    project = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]
    names = [re.split(r"[<>=\[]", text)[0] for text in project["dependencies"]]
    return {package}.union(*(needed(PACKAGES[name]) for name in names if name in PACKAGES))


def install_lines(page: Path) -> list[list[str]]:
    """Return the arguments of each ``pip install`` of a page."""
    found = re.findall(r"pip install ([^`\n&]+)", page.read_text("utf-8"))
    return [shlex.split(text, comments=True) for text in found]


@pytest.mark.parametrize("package", PACKAGES.values(), ids=lambda path: path.name)
def test_one_line_of_pip_installs_a_package_from_a_clone(package: Path) -> None:
    first = install_lines(package / "README.md")[0]
    folders = {ROOT / argument.partition("[")[0] for argument in first}

    assert folders >= needed(package)
    assert folders <= set(PACKAGES.values())


def test_no_page_installs_a_package_that_is_on_no_index() -> None:
    wrong = [
        (page.name, argument)
        for page in PAGES
        for line in install_lines(page)
        for argument in line
        if argument.startswith("tapeloom")
    ]

    assert wrong == []


def test_the_demo_installs_what_it_needs_and_nox_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = {"tapeloom", "tapeloom-simulator", "tapeloom-binance"}  # and the stages of the demo
    wanted |= {f"tapeloom-{stage}" for stage in ("quality", "books", "bars")}

    assert set(project["project"]["dependencies"]) == wanted
    assert [re.split("[<>=]", text)[0] for text in project["dependency-groups"]["dev"]] == ["nox"]


@pytest.mark.slow
def test_the_line_of_a_readme_installs_what_can_be_imported(tmp_path: Path) -> None:
    """That of RustyBT's guide has the most packages of ours."""
    (line, *_) = install_lines(PACKAGES["tapeloom-rustybt"] / "README.md")
    python = tmp_path / "venv/bin/python"
    for command in (
        ["uv", "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")],
        ["uv", "pip", "install", "--quiet", "--python", str(python), *line],
        [str(python), "-m", "tapeloom", "plugins"],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    names = {line.split()[0] for line in done.stdout.splitlines()[1:]}
    assert names == {"bars", "binance", "bybit", "quality"}
