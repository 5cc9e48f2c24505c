"""Writes a list of events to Kafka in a process that can be killed, again for each line of its input.

    python writing_process.py '{"servers": ..., ...}' COUNT

For each line it forks a process that writes what is not yet stored, and prints its process id, and then
its exit status. The parent has no client of its own, so that it can be forked.
"""

from __future__ import annotations

import json
import os
import random
import sys
from decimal import Decimal
from pathlib import Path

import anyio
from tapeloom.events import Trade
from tapeloom.harness import write_all
from tapeloom_kafka import KafkaSink, Settings

EPOCH = 1_700_000_000_000_000_000


def events(count):
    """Trades, of which two each are equal twins."""
    return [
        Trade("acme", ("BTC/USDT", "ETH/USDT")[index % 2], EPOCH + index // 4, EPOCH, Decimal(index // 4), Decimal(1), "buy", "")
        for index in range(count)
    ]  # fmt: skip


class Clock:
    def time_ns(self):
        return EPOCH

    def monotonic(self):
        return 0.0

    async def sleep(self, seconds):
        await anyio.sleep(0.001)


def write(settings, count):
    rng = random.Random()

    def sizes():  # cut anew each time
        while True:
            yield rng.randrange(1, 20)

    async def run():
        await write_all(
            KafkaSink(Settings(**settings)), events(count),
            epoch=EPOCH, folder=Path.cwd(), name="store", sizes=sizes(), clock=Clock(),
        )  # fmt: skip

    anyio.run(run)


if __name__ == "__main__":
    for _ in sys.stdin:
        if not (pid := os.fork()):
            write(json.loads(sys.argv[1]), int(sys.argv[2]))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)
