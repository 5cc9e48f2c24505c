"""What screens cost a stream of 50,000 trades a second: CPU of its process, and the delay of a consumer.

    python tests/bench/screens.py
    python tests/bench/screens.py --turns 5 --seconds 8 --only alone page

Streams without and with screens take turns, each in a process of its own, so that whatever else the machine does
meets all. Each reads the frames of a process that sends 50 at a time at a fixed pace, with the stages quality and
bars, and a consumer. The screens are: `page`, the sink `web` with a browser that shows a symbol; `tabs`, the same with
ten connections to the page that never read; `top`, which draws the table of symbols; `metrics`, the sink with a
scrape every two seconds; `all`: the page, top and metrics at once. A variant `… idle` has nobody who looks.

With `--parts` it prints instead what each of them adds to the thread of the stream, as a ratio to parsing and
stages, in one process without a network: blocks with and without it take turns.

CPU is that of the whole process that streams, with all its threads; in µs a trade. The screen of `top` is a process
of its own, whose CPU is `screen_us`. Delays are from the read to the consumer. Printed are the medians of the turns,
and the medians of the ratios to `alone` of the same turn.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import html
import json
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parent))
import frames

VARIANTS = ("alone", "page idle", "page", "tabs", "metrics", "top", "all")
#: Seconds after everybody looks that are not measured, and in which everybody must look.
WARM_UP, PATIENCE = 3.0, 25.0
_SYMBOLS = 10
#: Trades that are sent together. One by one the CPU of a trade would depend on how many the reader finds at once,
#: which is what the machine leaves it time for.
_GROUP = 50


# ------------------------------------------------------------------------------- the process that streams


def stack(url: str, variant: str, page: int, metrics: int) -> dict[str, Any]:
    """Return the stack of a variant."""
    feed = {
        "venue": "binance", "market": "spot", "channels": ["trades"], "symbols": frames.unified(_SYMBOLS),
        "stages": ["quality", "bars"],
    }  # fmt: skip
    sinks = []
    if variant in ("page", "page idle", "tabs", "all"):
        sinks.append({"use": "web", "port": page})
    if variant in ("metrics", "all"):
        sinks.append({"use": "metrics", "port": metrics})
    return {
        "feed": [feed], "venue": {"binance": {"base_url": url}}, "stage": {"bars": {"every": "1m"}},
        "sink": sinks,
    }  # fmt: skip


class Meter:
    """A consumer that measures between two moments; *wait* returns when everybody looks."""

    def __init__(self, seconds: float, wait: Callable[[], object]) -> None:
        self.seconds = seconds
        self.figures: dict[str, float] = {}
        self.may_begin = threading.Event()
        self._wait = wait
        threading.Thread(target=self._begin, daemon=True).start()

    def _begin(self) -> None:
        self._wait()
        self.may_begin.set()

    async def consume(self, stream: Any) -> None:
        """Receive trades until the time is over."""
        from tapeloom import Trade

        delays: list[tuple[int, int]] = []
        began = cpu = since = 0.0
        async for batch in stream.batches(Trade):
            now = time.monotonic()
            if not began:  # until everybody looks
                began = now if self.may_begin.is_set() else 0.0
                continue
            if not cpu:
                if now - began >= WARM_UP:
                    cpu, since = time.process_time(), now
                continue
            delays.append((time.time_ns() - batch[-1].recv, len(batch)))
            if now - since >= self.seconds:
                break
        cpu, lasted = time.process_time() - cpu, time.monotonic() - since
        trades = sum(count for _, count in delays)
        delays.sort()
        self.figures = {
            "trades_s": trades / lasted,
            "cpu_us": cpu / trades * 1e6,
            "p50_us": rank(delays, 0.5),
            "p99_us": rank(delays, 0.99),
            "batch": trades / len(delays),
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "dropped": stream.counters["dropped"],
        }
        stream.stop()


def rank(delays: list[tuple[int, int]], part: float) -> float:
    """Return the delay in µs that this part of the trades does not exceed."""
    left = part * sum(count for _, count in delays)
    for delay, count in delays:
        left -= count
        if left <= 0:
            return delay / 1000
    return delays[-1][0] / 1000


def measure(url: str, variant: str, seconds: float, page: int, metrics: int) -> None:
    """Stream, and print what was measured as JSON."""
    import tapeloom
    from anyio.from_thread import start_blocking_portal

    tables = stack(url, variant, page, metrics)
    if variant in ("top", "all"):
        figures = _measure_top(tables, seconds)
    else:
        meter = Meter(seconds, sys.stdin.readline)
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(portal.call(tapeloom.open, tables)) as stream,
        ):
            portal.call(meter.consume, stream)
        figures = meter.figures
    print(json.dumps(figures), flush=True)


@contextlib.asynccontextmanager
async def _measured(
    tables: dict[str, Any], seconds: float, control: Connection
) -> AsyncIterator[Any]:
    """Open a stream with a meter, in the process that `top` has for it; send the figures."""
    import tapeloom

    meter = Meter(seconds, control.recv)

    async def consume() -> None:
        await meter.consume(stream)
        control.send(meter.figures)

    async with tapeloom.open(tables) as stream:
        measured = asyncio.create_task(consume())
        yield stream
        await measured


def _measure_top(tables: dict[str, Any], seconds: float) -> dict[str, float]:
    """Show a stream with `top`, and return what its process has measured; `screen_us` is the CPU of ours."""
    from tapeloom_top.app import TopApp
    from tapeloom_top.feeding import Feeding

    ours, theirs = Pipe()
    figures: dict[str, float] = {}

    async def watch() -> None:
        app = TopApp(feeding)
        async with app.run_test(size=(120, 40)):
            await asyncio.to_thread(sys.stdin.readline)
            ours.send("begin")
            await asyncio.sleep(WARM_UP)
            cpu, began = time.process_time(), time.monotonic()
            await asyncio.to_thread(ours.poll, None)
            cpu, lasted = time.process_time() - cpu, time.monotonic() - began
            figures.update(ours.recv())
            figures["screen_us"] = cpu / lasted / figures["trades_s"] * 1e6

    with Feeding(partial(_measured, tables, seconds, theirs)) as feeding:  # type: ignore[arg-type]
        asyncio.run(watch())
    return figures


# ---------------------------------------------------------------------------------------- the parts


def parts(rounds: int, size: int) -> None:
    """Print what each observer of batches of *size* trades adds to parsing and stages."""
    from collections import deque

    from tapeloom import FeedSpec, Stack, StageSpec
    from tapeloom.harness import compose_feed
    from tapeloom.plugin import Frames, StreamState
    from tapeloom_metrics.counts import EventCounts
    from tapeloom_screens import Market

    symbols = tuple(frames.unified(_SYMBOLS))
    spec = FeedSpec("binance", symbols, ("trades",), market="spot", stages=("quality", "bars"))
    feed = compose_feed(
        Stack(feeds=(spec,), stages={"bars": StageSpec("bars", table={"every": "1m"})}), seed=None
    )
    block = 20_000
    count = block * 6 * rounds
    start = time.time_ns() // 1_000_000 - count // 50
    synthetic = frames.synthetic_trades(count, _SYMBOLS, start=start, per_second=50_000)
    payloads = map(frames.trade, synthetic)
    looked_at, table, counts = Market(), Market(), EventCounts(lambda: StreamState(0))
    kept: deque[Any] = deque(maxlen=2_500 // size)  # of 50 ms at 50,000 trades a second

    observers: dict[str, Any] = {
        "nothing": lambda _: None,
        "metrics": counts.add,
        "page, nobody looks": Market().add,
        "page, a symbol": looked_at.add,
        "top, the table": table.add,
        "a queue of 50 ms": kept.append,
    }
    took: dict[str, list[float]] = {name: [] for name in observers}
    names = [*observers]
    for number in range(rounds):
        first = number % len(names)  # they take turns in being the first
        for name in names[first:] + names[:first]:
            observe = observers[name]
            batches = [[next(payloads) for _ in range(size)] for _ in range(block // size)]
            looked_at.row("binance", symbols[0])
            table.rows()
            kept.clear()
            began = time.thread_time()
            for batch in batches:
                observe(feed.process(feed.parse(Frames(batch, time.time_ns()))))
            took[name].append((time.thread_time() - began) / block * 1e6)
    for name, found in took.items():
        more = [b - a for a, b in zip(took["nothing"], found, strict=True)]
        ratio = statistics.median(b / a for a, b in zip(took["nothing"], found, strict=True))
        print(
            f"{name:20} {statistics.median(found):6.3f} µs a trade, {statistics.median(more):+6.3f},"
            f" × {ratio:.3f}"
        )


# ----------------------------------------------------------------------------------- those who look


def _reached(url: str) -> bytes:
    """Return the page at *url*, as soon as there is one."""
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                body: bytes = answer.read()
                return body
        except OSError:
            time.sleep(0.1)


def browse(url: str) -> None:
    """Show the page in a browser until the input ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page()
        tab.set_default_timeout(60_000)
        _reached(url)
        tab.goto(f"{url}?interval=1s")
        tab.wait_for_selector('[data-testid="chart"] svg path', state="attached")
        print("shown", flush=True)
        while not _has_ended():
            tab.wait_for_timeout(200)
        print(json.dumps({"price": tab.text_content('[data-testid="price"]')}), flush=True)


def scrape(url: str) -> None:
    """Read the metrics every two seconds until the input ends."""
    _reached(url)
    print("shown", flush=True)
    while not _has_ended():
        time.sleep(2)
        _reached(url)


def hang(url: str) -> None:
    """Be ten tabs of the page that get its updates and never read them, until the input ends."""
    host, port = "127.0.0.1", int(url.rsplit(":", 1)[1].strip("/"))
    tabs = []
    for number in range(10):
        page = html.unescape(_reached(f"{url}?interval=1s").decode())
        found = re.search(r"query: (\{.*?\})", page)
        assert found is not None, "the page says nothing of its connection"
        known = ast.literal_eval(found[1])
        query = {**known, "tab_id": str(number), "document_id": str(number), "EIO": 4}
        query |= {"transport": "websocket", "implicit_handshake": "true"}
        tab = socket.socket()
        tab.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        tab.connect((host, port))
        tab.sendall(
            f"GET /_nicegui_ws/socket.io/?{urlencode(query)} HTTP/1.1\r\n"
            f"Host: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        received = b""
        for packet, answer in ((b"", b'"sid"'), (b"\x81\x82\0\0\0\0" + b"40", b"update")):
            tab.sendall(packet)  # it asks to be told what changes
            while answer not in received:
                received += tab.recv(4096)
        tabs.append(tab)
    print("shown", flush=True)
    sys.stdin.read()


def _has_ended() -> bool:
    import select

    return bool(select.select([sys.stdin], [], [], 0)[0])


# ------------------------------------------------------------------------------------------ turns


@contextlib.contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run this file, or another one, in a process that ends when its input does."""
    process = subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def turn(url: str, variant: str, seconds: float) -> dict[str, float]:
    """Measure a variant once."""
    from tapeloom_testing.services import free_port

    page, metrics = free_port(), free_port()
    site, pages = f"http://127.0.0.1:{page}/", f"http://127.0.0.1:{metrics}/metrics"
    with contextlib.ExitStack() as lookers:
        words = [url, variant, str(seconds), str(page), str(metrics)]
        stream = lookers.enter_context(started(__file__, "--measure", *words))
        looks = {
            "--browse": ("page", "tabs", "all"),
            "--hang": ("tabs",),
            "--scrape": ("metrics", "all"),
        }
        started_looks = [
            lookers.enter_context(started(__file__, look, pages if look == "--scrape" else site))
            for look, variants in looks.items()
            if variant in variants
        ]
        for look in started_looks:
            assert look.stdout is not None
            if look.stdout.readline() != "shown\n":
                sys.exit(f"{variant}: somebody who should look does not")
        assert stream.stdin is not None
        assert stream.stdout is not None
        stream.stdin.write("begin\n")
        stream.stdin.flush()
        line = next(line for line in stream.stdout if line.startswith("{"))  # after the log
    row: dict[str, float] = json.loads(line)
    return row


def main() -> None:
    """Measure every variant in turn, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=50_000, help="trades a second")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=VARIANTS)
    for name in ("--browse", "--hang", "--scrape"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    for look in (browse, hang, scrape):
        if url := getattr(given, look.__name__):
            look(url)
            return
    if given.measure:
        url, variant, seconds, page, metrics = given.measure
        measure(url, variant, float(seconds), int(page), int(metrics))
        return
    if given.parts:
        parts(given.turns * 5, size=50)
        return
    rows: dict[str, list[dict[str, float]]] = {variant: [] for variant in given.only}
    count = round(given.rate * (given.seconds + WARM_UP + PATIENCE))
    firehose = str(Path(__file__).with_name("firehose.py"))
    pace = ["--rate", str(given.rate), "--per-second", str(given.rate), "--group", str(_GROUP)]
    with started(firehose, "--count", str(count), *pace) as sender:
        assert sender.stdout is not None
        url = json.loads(sender.stdout.readline())["url"].replace("ws://", "http://")
        for _ in range(given.turns):
            for variant in given.only:
                rows[variant].append(row := turn(url, variant, given.seconds))
                print(f"{variant:10}", {k: round(v, 2) for k, v in row.items()}, flush=True)
    for variant, found in rows.items():
        figures = {name: statistics.median(row[name] for row in found) for name in found[0]}
        print(f"{variant:10}", {name: round(figure, 2) for name, figure in figures.items()})
        if variant != "alone" and "alone" in rows:
            for name in ("cpu_us", "p50_us", "p99_us"):
                ratios = [b[name] / a[name] for a, b in zip(rows["alone"], found, strict=True)]
                print(f"  {name} × {statistics.median(ratios):.3f}"
                      f" ({min(ratios):.3f} to {max(ratios):.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
