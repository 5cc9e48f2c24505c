"""What a sink with a spool knows of its positions after one crash, and after the next."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import anyio
import pytest
from tapeloom._runtime.system_clock import SystemClock
from tapeloom._stream.sinks.positions import Positions, texts
from tapeloom._stream.sinks.spool import Spool
from tapeloom._stream.sinks.spooled import SpooledWriter
from tapeloom._stream.sinks.writer import Writer
from tapeloom.errors import SinkUnavailable
from tapeloom.events import Event, Trade
from tapeloom.plugin import Guarantee, Resume, SinkBatch, SinkRun

NS = 1_700_000_000_000_000_000
ETH, BTC = ("acme", "ETH/USD", "trades"), ("acme", "BTC/USD", "trades")


def trades(symbol: str, *ids: int) -> list[Event]:
    one = Decimal(1)
    return [Trade("acme", symbol, NS + n, NS + n, one, one, "buy", n) for n in ids]


class Unreachable:
    """A store that nobody reaches."""

    guarantee: Guarantee = "exactly_once"

    def open(self, run: SinkRun) -> Resume:
        raise SinkUnavailable("the server does not answer.")

    def write(self, batch: SinkBatch) -> None:
        raise AssertionError("it was not opened")

    def close(self) -> None:
        pass


class Process:
    """What one process does with the spool of a folder, until it is killed."""

    def __init__(self, folder: Path) -> None:
        clock, counters = SystemClock(), Counter[str]()
        self._spool = Spool(folder / "store.spool", 1_000_000)
        writer = Writer(
            SinkRun("store", NS), Unreachable(), clock, random.Random(1), counters, folder,
            accepts_rejects=True,
        )  # fmt: skip
        self._spooled = SpooledWriter(writer, self._spool, clock, counters)

    async def open(self, known: Positions | None = None) -> dict[str, str]:
        """Open the spool; return the positions. *known* is what the store says."""
        await self._spooled.open(NS)
        if known is not None:
            self._spooled.merge(known)
        return texts(self._spooled.positions.by_key())

    async def spool(self, *batches: Sequence[Event]) -> None:
        """Spool batches, and be killed."""
        left = [list(batch) for batch in batches]
        all_spooled = anyio.Event()

        async def collect() -> list[Event]:
            if left:
                return left.pop(0)
            all_spooled.set()
            await anyio.sleep_forever()
            raise AssertionError

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._spooled.run, collect)
            await all_spooled.wait()
            tasks.cancel_scope.cancel()
        self.kill()

    def kill(self) -> None:
        """End without saving anything."""
        self._spool.close()


def last_ids(positions: dict[str, str]) -> dict[str, int]:
    known = Positions()
    assert known.restore(positions) == []
    by_subscription = known.by_venue()["acme"]
    return {sub.symbol: position.last.id for sub, position in by_subscription.items()}  # type: ignore[union-attr,misc]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_positions_survive_a_second_crash_after_which_only_other_symbols_had_events(
    tmp_path: Path,
) -> None:
    first = Process(tmp_path)
    await first.open()
    # The first batch makes the spool save; the second comes within the second after that.
    await first.spool(trades("ETH/USD", 1), trades("ETH/USD", *range(2, 99)))
    second = Process(tmp_path)
    await second.open()
    await second.spool(trades("BTC/USD", 1))
    third = Process(tmp_path)
    found = last_ids(await third.open())
    third.kill()

    assert found == {"ETH/USD": 98, "BTC/USD": 1}


async def test_positions_that_only_the_store_knew_survive_a_crash(tmp_path: Path) -> None:
    known = Positions()
    known.update(known.after(trades("ETH/USD", 7)))
    first = Process(tmp_path)
    await first.open(known)
    await first.spool(trades("BTC/USD", 1))
    second = Process(tmp_path)
    found = last_ids(await second.open())
    second.kill()

    assert found == {"ETH/USD": 7, "BTC/USD": 1}
