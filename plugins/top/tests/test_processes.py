"""The two processes of the command: how each of them ends, and what the other one then does."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import tapeloom

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]

TAKEN, GIVEN_BACK = "\x1b[?1049h", "\x1b[?1049l"


def has_ended(process: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True


def wait_for_end(process: int, seconds: float = 15) -> None:
    """Wait until a process that is not ours has ended."""
    deadline = time.monotonic() + seconds
    while not has_ended(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def after_the_screen(shown: Any) -> str:
    text: str = shown.text
    assert "Traceback" not in text
    return text[text.rindex(GIVEN_BACK) :]


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_a_key_ends_both_within_seconds(
    terminal: Any, stack_file: Callable[..., Path], key: str
) -> None:
    shown = terminal("top", stack_file())
    shown.expect("BTC/USDT")
    streaming = shown.streaming()
    pressed = time.monotonic()
    shown.press(key)

    assert shown.wait() == 0
    assert time.monotonic() - pressed < 10
    assert has_ended(streaming)


def test_if_the_streaming_process_is_killed_the_screen_ends_and_says_so(
    terminal: Any, stack_file: Callable[..., Path]
) -> None:
    shown = terminal("top", stack_file())
    shown.expect("BTC/USDT")
    os.kill(shown.streaming(), signal.SIGKILL)

    assert shown.wait() == 1
    said = after_the_screen(shown)
    assert "tapeloom: the process that streams was killed by the signal SIGKILL." in said


def test_if_it_is_killed_while_it_opens_the_stream_that_is_said_without_a_screen(
    terminal: Any, tmp_path: Path
) -> None:
    shown, streaming = opening(terminal, tmp_path)
    os.kill(streaming, signal.SIGKILL)

    assert shown.wait() == 1
    assert "tapeloom: the process that streams was killed by the signal SIGKILL." in shown.text
    assert TAKEN not in shown.text
    assert "Traceback" not in shown.text


def opening(terminal: Any, folder: Path) -> tuple[Any, int]:
    """Run the command with a stack that can be opened once and not read a second time."""
    stack = folder / "stack.toml"
    os.mkfifo(stack)
    shown = terminal("top", stack)
    stack.write_text("")  # for the process of the screen, which looks for the event loop
    return shown, shown.streaming()


def test_ctrl_c_while_the_stream_is_opened_ends_both(terminal: Any, tmp_path: Path) -> None:
    shown, streaming = opening(terminal, tmp_path)
    time.sleep(1)
    os.killpg(shown.process.pid, signal.SIGINT)  # as a terminal does: it goes to both

    assert shown.wait() == 130
    wait_for_end(streaming)
    assert "Traceback" not in shown.text


def test_the_streaming_process_ends_by_itself_if_the_screen_is_killed(
    terminal: Any, stack_file: Callable[..., Path]
) -> None:
    shown = terminal("top", stack_file())
    shown.expect("BTC/USDT")
    streaming = shown.streaming()
    shown.process.kill()

    wait_for_end(streaming)


def test_sigterm_for_the_streaming_process_alone_ends_both_in_order(
    terminal: Any, stack_file: Callable[..., Path]
) -> None:
    shown = terminal("top", stack_file())
    shown.expect("BTC/USDT")
    os.kill(shown.streaming(), signal.SIGTERM)

    assert shown.wait() == 0
    after_the_screen(shown)


def test_a_stream_that_does_not_answer_is_said_and_q_still_ends_both(
    terminal: Any, stack_file: Callable[..., Path]
) -> None:
    shown = terminal("top", stack_file())
    shown.expect("BTC/USDT")
    streaming = shown.streaming()
    os.kill(streaming, signal.SIGSTOP)
    shown.expect("has not answered for")
    shown.press("q")

    assert shown.wait() == 1
    assert "did not end in time and was killed" in after_the_screen(shown)
    assert has_ended(streaming)


def test_log_lines_do_not_break_the_screen(terminal: Any, stack_file: Callable[..., Path]) -> None:
    shown = terminal("--debug", "top", stack_file("http://127.0.0.1:9"), "--for", "8")

    assert shown.wait() == 1
    seen = shown.text[shown.text.index(TAKEN) :]
    assert "refused the connection" in seen  # as a row of the screen, or the reason of the end
    assert "[warning" not in seen
    assert "[debug" not in seen


def test_paths_of_stack_recordings_and_export_are_those_of_the_working_folder(
    terminal: Any, stack_file: Callable[..., Path], tmp_path: Path
) -> None:
    stack = stack_file()

    async def record() -> None:
        async with tapeloom.open(stack, record=tmp_path / "tapes") as stream:
            seen = 0
            async for batch in stream.batches(tapeloom.Trade):
                seen += len(batch)
                if seen > 50:
                    return

    anyio.run(record)
    shown = terminal("top", "tapes", "--stack", "stack.toml", "--speed", "max", folder=tmp_path)
    shown.expect("BTC/USDT")
    shown.expect("ended")
    shown.press("e")
    shown.expect("written")
    shown.press("q")

    assert shown.wait() == 0
    assert [*tmp_path.glob("*.symbols.csv")]
