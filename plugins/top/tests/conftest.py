"""A simulated venue for the tests of this package, and a terminal for its command."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from tapeloom_simulator import serve

SYMBOLS = ["BTC/USDT", "ETH/USDT"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    pytest.importorskip("tapeloom_binance", reason="there is no venue to simulate")
    simulation = lambda: serve("binance", symbols=SYMBOLS, seed=7, rate=200)  # noqa: E731
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(portal.call(simulation)) as simulator,
    ):
        yield simulator.url


@pytest.fixture
def stack_file(url: str, tmp_path: Path) -> Callable[..., Path]:
    def write(address: str = url, more: str = "") -> Path:
        file = tmp_path / "stack.toml"
        file.write_text(
            '[[feed]]\nvenue = "binance"\nsymbols = ["BTC/USDT"]\nchannels = ["trades"]\n'
            f'max_attempts = 1\n{more}[venue.binance]\nbase_url = "{address}"\n'
        )
        return file

    return write


class Terminal:
    """A command in a terminal of its own."""

    def __init__(
        self, *arguments: str, columns: int = 80, lines: int = 24, reads: bool = True,
        folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.master, worker = pty.openpty()
        fcntl.ioctl(worker, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tapeloom", *arguments],
            stdin=worker, stdout=worker, stderr=worker, env=environment, start_new_session=True,
            cwd=folder,
        )  # fmt: skip
        os.close(worker)
        self._seen = b""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        if reads:
            self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                read = os.read(self.master, 65_536)
            except OSError:  # Linux: the other end was closed
                read = b""
            with self._changed:
                self._seen += read
                self._changed.notify_all()
            if not read:
                return

    @property
    def text(self) -> str:
        return self._seen.decode(errors="replace")

    def expect(self, text: str, seconds: float = 60) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.text, seconds), self.text

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def streaming(self, seconds: float = 30) -> int:
        """Return the id of the process that streams, once it runs."""
        deadline = time.monotonic() + seconds
        while True:
            for child in children(self.process.pid):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)

    def wait(self) -> int:
        code = self.process.wait(60)
        if self._reader.is_alive():
            self._reader.join(10)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        if self._reader.is_alive():
            self._reader.join(10)
        os.close(self.master)


def children(process: int) -> list[int]:
    """Return the ids of the processes that a process has started."""
    return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]


@pytest.fixture
def terminal() -> Iterator[Any]:
    opened: list[Terminal] = []

    def run(*arguments: str | Path, **options: Any) -> Terminal:
        opened.append(Terminal(*map(str, arguments), **options))
        return opened[-1]

    yield run
    for found in opened:
        found.close()
