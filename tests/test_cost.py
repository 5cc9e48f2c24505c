"""What a stream may cost: no hook call per message, and little memory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from tapeloom import FeedSpec, Registry, Stack, Trade

SPEC = FeedSpec(
    "binance",
    ("BTC/USDT", "ETH/USDT"),
    ("trades", "book", "quotes"),
    market="spot",
    stages=("quality", "books", "bars"),
)


async def test_no_hook_is_called_once_a_stream_is_open(anyio_backend: str) -> None:
    registry = Registry()
    calls: list[str] = []
    registry._manager.add_hookcall_monitoring(lambda name, *_: calls.append(name), lambda *_: None)
    async with simulator.serve(
        "binance", symbols=SPEC.symbols, rate=2000, trades=2000, start=6, speed=100
    ) as sim:
        stack = Stack(feeds=(SPEC,), venues={"binance": sim.settings})
        async with tapeloom.open(stack, registry=registry) as stream:
            composed = list(calls)
            seen = 0
            async for _ in stream.of(Trade):
                seen += 1
                if seen == 2000:
                    break

    assert {"connect", "subscribe", "parse", "validate", "aggregate"} <= set(composed)
    assert calls == composed


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
async def test_one_feed_fits_in_45_megabytes(tmp_path: Path, anyio_backend: str) -> None:
    """Measured in a process of its own, its bytecode compiled; the simulator runs in this one."""
    program = tmp_path / "one_feed.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys
            # httpcore, structlog and httpx import these wherever they are installed.
            for name in ("trio", "rich", "click", "greenlet"):
                sys.modules[name] = None
            import anyio, tapeloom
            from tapeloom import FeedSpec, Stack, Trade

            async def main():
                spec = FeedSpec("binance", ("BTC/USDT", "ETH/USDT"), ("trades", "book"),
                                market="spot", stages=("quality", "books", "bars"))
                stack = Stack(feeds=(spec,), venues={"binance": {"base_url": sys.argv[1]}})
                seen = 0
                async with tapeloom.open(stack) as stream:
                    async for batch in stream.batches(Trade):
                        seen += len(batch)
                        if seen >= 20_000:
                            break

            anyio.run(main)
            for line in open("/proc/self/status"):
                if line.startswith("VmHWM"):
                    print(line.split()[1])
            """
        )
    )
    environment = {
        **os.environ,
        "PYTHONWARNINGS": "default",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode"),
    }
    for _ in ("to compile", "to measure"):
        async with simulator.serve(
            "binance",
            symbols=SPEC.symbols,
            rate=5000,
            trades=20_000,
            start=4,
            speed=1e9,
            slow="wait",
        ) as sim:
            with anyio.fail_after(60):
                done = await anyio.run_process(
                    [sys.executable, str(program), sim.url], env=environment, stderr=subprocess.PIPE
                )

    assert int(done.stdout.split()[-1]) / 1024 <= 45
