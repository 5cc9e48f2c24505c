"""A server that is killed with SIGKILL and started again: its clients come back, and are told what they missed.

The market, and the stream that serves `/stream`, are processes of their own, as `tapeloom simulate` and
`tapeloom serve` start them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import anyio
import pytest
import tapeloom
from anyio.to_thread import run_sync
from tapeloom import Event, Gap, Status, Trade, decode
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here"),
]
STACK = """
[[feed]]
venue    = "binance"
market   = "spot"
symbols  = ["BTC/USDT"]
channels = ["trades"]

[venue.binance]
base_url = "{url}"

[[sink]]
use             = "serve"
port            = {port}
max_batch_delay = 0.002
"""
STORE = """
[[sink]]
use  = "files"
path = "store"
"""
#: Seconds for whatever is waited for; the machine may be busy.
PATIENCE = 90.0


class Served:
    """A simulated market, and a server of its stream that can be killed and started again."""

    def __init__(self, folder: Path, log: IO[str]) -> None:
        self.folder, self.log, self.resources = folder, log, ExitStack()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = f"ws://127.0.0.1:{self.port}/stream"
        self.market = self._started("simulate", "binance", "--symbols", "BTC/USDT", "--rate", "50")
        assert self.market.stdout is not None
        (address,) = re.findall(r"http://[\d.:]+\d", self.market.stdout.readline())
        self.stack = STACK.format(url=address, port=self.port)

    def _started(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tapeloom", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=self.log, text=True
        )

    def start(self, *, stores: bool = False) -> None:
        (self.folder / "stack.toml").write_text(self.stack + STORE * stores)
        self.server = self._started("serve", "stack.toml", "--out", "none")

    def kill(self) -> None:
        self.server.kill()
        self.server.communicate()
        assert self.server.returncode == -signal.SIGKILL

    def close(self) -> None:
        for process in (self.server, self.market):
            process.kill()
            process.communicate()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with (tmp_path / "log.txt").open("a") as log:
        served = Served(tmp_path, log)
        yield served
        served.close()
        served.resources.close()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_tapeloom_connect_goes_on_with_a_gap_that_counts_what_was_missed(
    served: Served, anyio_backend: str
) -> None:
    await run_sync(served.start)
    found: list[Event] = []
    with anyio.fail_after(PATIENCE):
        async with tapeloom.connect(served.url) as stream:
            consumer = stream.consume()

            async def read_until(condition: Callable[[Event], bool]) -> None:
                async for event in consumer:
                    found.append(event)
                    if condition(event):
                        break

            await read_until(_is_live_trade)
            await run_sync(served.kill)
            await run_sync(served.start)
            await read_until(lambda event: type(event) is Gap and event.cause == "disconnect")
            await read_until(_is_live_trade)

    gap = next(e for e in found if type(e) is Gap and e.cause == "disconnect")
    index = found.index(gap)
    before = [event.id for event in found[:index] if type(event) is Trade]
    after = next(event.id for event in found[index:] if type(event) is Trade)
    assert (gap.symbol, gap.channel, gap.state) == ("BTC/USDT", "trades", "unrecoverable")
    assert (gap.after_id, gap.before_id) == (before[-1], after)
    assert gap.missing == after - before[-1] - 1 > 0
    states = [e.state for e in found if isinstance(e, Status) and e.venue == "remote"]
    assert states.count("connected") == 2


def test_a_plain_client_gets_the_gap_of_a_server_that_has_a_store(served: Served) -> None:
    served.start(stores=True)
    received, lost = PlainClient(served.url, served.resources), threading.Event()
    received.read_until(_is_live_trade)
    received.read_until(lambda _: _has_stored(served.folder))
    threading.Thread(target=lambda: (received.read_until(lambda _: False), lost.set())).start()
    served.kill()
    assert lost.wait(PATIENCE)
    last = received.trades[-1]
    while _newest_of(served) < last + 20:  # the market goes on meanwhile
        time.sleep(0.1)
    os.kill(served.market.pid, signal.SIGSTOP)  # so that the client is back before the stream
    served.start(stores=True)
    received.connect()
    os.kill(served.market.pid, signal.SIGCONT)
    received.read_until(lambda event: type(event) is Gap and event.state == "filled")
    received.read_until(_is_live_trade)

    gaps = [event for event in received.events if type(event) is Gap]
    assert {gap.cause for gap in gaps} == {"restart"}
    filled = gaps[-1]  # the first one is open, and says how many are missing
    missed = [
        event.id
        for event in received.events
        if type(event) is Trade and event.origin == "backfill" and event.id > filled.after_id
    ]
    assert (gaps[0].missing, filled.missing) == (len(missed), 0)
    assert missed == [*range(filled.after_id + 1, filled.before_id)]
    assert len(missed) >= 20 - 1


class PlainClient:
    """A client that knows WebSockets and lines of JSON, and tries again until it is served."""

    def __init__(self, url: str, resources: ExitStack) -> None:
        self._url = url
        self._resources = resources
        self.events: list[Event] = []
        self.connect()

    def connect(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._socket = self._resources.enter_context(connect(self._url, open_timeout=5))
                break
            except (OSError, TimeoutError):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert json.loads(self._socket.recv(PATIENCE))["type"] == "stream.subscribed"

    def read_until(self, condition: Callable[[Event], bool]) -> None:
        """Read events until one fulfils a condition, or the connection is lost.

        Raises:
            AssertionError: No event fulfilled it in time, though events came.
        """
        deadline = time.monotonic() + PATIENCE
        try:
            while True:
                assert time.monotonic() < deadline, self.events[-5:]
                events = [*map(decode, str(self._socket.recv(PATIENCE)).splitlines())]
                self.events += events
                if any(map(condition, events)):
                    return
        except ConnectionClosed:
            return

    @property
    def trades(self) -> list[int]:
        return [int(event.id) for event in self.events if type(event) is Trade]


def _is_live_trade(event: Event) -> bool:
    return type(event) is Trade and event.origin == "live"


def _has_stored(folder: Path) -> bool:
    """Tell whether a trade is in the store's lines; its database has bytes from the start."""
    return any('"trade"' in path.read_text() for path in folder.glob("store/*.jsonl*"))


def _newest_of(served: Served) -> int:
    """Return the id of the newest trade of the market."""
    import httpx

    address = re.findall(r"http://[\d.:]+\d", served.stack)[0]
    answer = httpx.get(f"{address}/api/v3/trades", params={"symbol": "BTCUSDT", "limit": 1})
    return int(answer.json()[-1]["id"])
