"""The command in a terminal of its own: what it prints, its exit codes, how it ends."""

from __future__ import annotations

import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from tapeloom.cli._main import main
from tapeloom.errors import (
    BackendUnsupported,
    ConfigError,
    Mistake,
    PluginNotFound,
    RetriesExhausted,
    SinkRefused,
    SymbolError,
)
from tapeloom_top.streaming import Failed

#: What a terminal gets when a program takes the whole screen, and when it gives it back.
TAKEN, GIVEN_BACK = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    """Undo what the command line does to logging: its standard error ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.mark.slow
def test_keys_end_it_and_the_terminal_is_given_back(
    terminal: Any, stack_file: Callable[..., Path]
) -> None:
    shown = terminal("top", stack_file())
    shown.expect("BTC/USDT")
    shown.press("q")

    assert shown.wait() == 0
    assert TAKEN in shown.text
    assert shown.text.rindex(GIVEN_BACK) > shown.text.rindex(TAKEN)


@pytest.mark.slow
def test_a_signal_ends_it_and_the_terminal_is_given_back(
    terminal: Any, stack_file: Callable[..., Path]
) -> None:
    shown = terminal("top", stack_file())
    shown.expect("BTC/USDT")
    shown.process.send_signal(signal.SIGTERM)

    assert shown.wait() == 0
    assert GIVEN_BACK in shown.text


@pytest.mark.slow
def test_a_stack_with_mistakes_is_refused_before_there_is_a_screen(
    terminal: Any, stack_file: Callable[..., Path]
) -> None:
    shown = terminal("top", stack_file(more="channel = 3\n"))

    assert shown.wait() == 2
    assert TAKEN not in shown.text
    assert "channel" in shown.text


@pytest.mark.slow
def test_a_venue_that_cannot_be_reached_is_an_error_after_the_screen(
    terminal: Any, stack_file: Callable[..., Path]
) -> None:
    shown = terminal("top", stack_file("http://127.0.0.1:9"), "--for", "3")

    assert shown.wait() == 1
    assert "tapeloom: " in shown.text[shown.text.rindex(GIVEN_BACK) :]


@pytest.mark.slow
def test_a_terminal_that_is_not_read_delays_nothing(
    terminal: Any, stack_file: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("tapeloom_files")
    sink = f'[[sink]]\nuse = "files"\npath = "{tmp_path}/stored"\n'
    shown = terminal("top", stack_file(more=sink), columns=200, lines=60, reads=False)

    def wait_for(trades: int) -> None:
        deadline = time.monotonic() + 60
        while stored() < trades:
            assert shown.process.poll() is None
            assert time.monotonic() < deadline, f"{stored()} of {trades} trades are stored"
            time.sleep(0.1)

    def stored() -> int:
        files = filter(Path.is_file, (tmp_path / "stored").rglob("*"))
        return sum(file.read_bytes().count(b'"trade"') for file in files)

    wait_for(1)  # by now the terminal takes no more: 4 kB, less than one picture
    wait_for(stored() + 500)
    shown.process.send_signal(signal.SIGTERM)

    assert shown.process.wait(30) in (0, 130)  # 130: what was to be drawn could not be


def test_without_a_terminal_it_says_what_to_do(
    stack_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", str(stack_file())]) == 2
    assert "needs a terminal. Elsewhere use tapeloom run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["tapes"], "--stack: recordings need the stack"),
        (["a.toml", "b.toml"], "--stack: recordings need the stack"),
        (["tapes", "--stack", "s.toml", "--speed", "fast"], "--speed: expected max, 1x, 10x"),
        (["tapes", "--stack", "s.toml", "--speed", "nan"], "--speed: expected max, 1x, 10x"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("tapeloom_top.command._has_terminal", lambda: True)

    assert main(["top", *arguments]) == 2
    assert problem in capsys.readouterr().err


class Unpicklable(SymbolError):
    def __init__(self) -> None:
        super().__init__("no such symbol. Choose another one.")
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError([Mistake("feed[0].venue", "unknown", 3)], "stack.toml"), ConfigError),
        (PluginNotFound("binanse", ["binance"]), PluginNotFound),
        (BackendUnsupported("ccxt", "trio", ["asyncio"]), BackendUnsupported),
        (SinkRefused("the password is wrong. Set another one."), SinkRefused),
        (RetriesExhausted("spot", 3, "refused"), RetriesExhausted),
        (Unpicklable(), SymbolError),
    ],
)
def test_an_error_of_opening_arrives_in_the_other_process_with_class_and_message(
    error: Exception, kind: type[Exception]
) -> None:
    arrived = pickle.loads(pickle.dumps(Failed.of(error))).error()

    assert type(arrived) is kind
    assert str(arrived) == str(error)
    if kind is not SymbolError:
        assert vars(arrived) == vars(error)


def test_a_defect_in_opening_arrives_with_its_trace() -> None:
    try:
        {}["no such key"]
    except KeyError as error:
        failed = Failed.of(error)

    assert "test_command.py" in str(failed.error())
    assert "KeyError: 'no such key'" in str(failed.error())
