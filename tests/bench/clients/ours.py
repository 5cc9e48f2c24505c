"""tapeloom as a user has it: a stack, the venue's plugin, stages, and a consumer."""

from __future__ import annotations

from collections.abc import AsyncIterable

import anyio
import tapeloom
from meter import Meter, arguments, bases
from tapeloom import Trade

given = arguments(
    ("loop", "asyncio"), ("way", "batches"), ("transport", ""), ("stages", "quality,bars"),
    ("symbols", 10), ("feeds", 1), ("consumers", 1), ("delay", 0.0), ("gc", 0),
)  # fmt: skip
meter = Meter(given)


def tables() -> dict[str, object]:
    symbols = [f"{base}/USDT" for base in bases(given.symbols)]
    stages = [name for name in given.stages.split(",") if name]
    feeds = [
        {
            "name": f"feed{n}", "venue": "binance", "market": "spot", "channels": ["trades"],
            "symbols": symbols[n :: given.feeds], "stages": stages, "max_batch_delay": given.delay,
        }
        for n in range(given.feeds)
    ]  # fmt: skip
    out: dict[str, object] = {"feed": feeds, "venue": {"binance": {"base_url": given.url}}}
    if "bars" in stages:
        out["stage"] = {"bars": {"every": "1m"}}
    network = {"ca": given.ca, "transport": given.transport}
    if given.gc:
        out["process"] = {"gc_threshold": given.gc}
    out["network"] = {name: value for name, value in network.items() if value}
    return out


async def main() -> None:
    async with tapeloom.open(tables()) as stream, anyio.create_task_group() as others:
        for _ in range(given.consumers - 1):
            others.start_soon(idle, stream.batches(Trade))
        if given.way == "callback":

            @stream.on(Trade)
            async def count(trade: Trade) -> None:
                meter.take(1)

            await stream.run()
        elif given.way == "plain":
            stream.on(Trade)(lambda trade: meter.take(1))
            await stream.run()
        elif given.way == "each":
            async for _ in stream.of(Trade):
                meter.take(1)
        else:
            async for batch in stream.batches(Trade):
                meter.take(len(batch))


async def idle(batches: AsyncIterable[list[Trade]]) -> None:
    async for _ in batches:
        pass


options = {"use_uvloop": True} if given.loop == "uvloop" else {}
anyio.run(main, backend="trio" if given.loop == "trio" else "asyncio", backend_options=options)
