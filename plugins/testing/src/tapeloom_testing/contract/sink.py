"""The contract of a sink: what is written arrives."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from tapeloom import Registry, Stack
from tapeloom.events import Bar, Event, Gap, Quote, Status, Trade
from tapeloom.harness import SinkSpec, compose_sink
from tapeloom.plugin import Sink

from .declared import SINK, ContractViolation, NotApplicable
from .proving import Proving

__all__ = ["SinkContract"]

_LOOPS = ("asyncio", "trio")
_START = 1_700_000_000_000_000_000
_PATIENCE = 20.0


def _events(count: int) -> list[Event]:
    """Return events of several types, each unlike the others."""
    place = ("contract", "BTC/USDT")
    found: list[Event] = []
    for at in range(count):
        ts, price = _START + at * 1_000_001, Decimal(f"100.{at:04d}0")
        one, half = Decimal(1), Decimal("0.50")
        found += [
            Trade(*place, ts, ts + 7, price, Decimal("0.00000001"), "buy", at),
            Quote(*place, ts, ts + 7, price, one, price + 1, half, at),
            Bar(*place, ts, ts + 7, "1m", price, price, price, price, one, price, half, half, 3),
        ]
    found.append(Gap(*place, _START, _START, _START, _START + 1, "disconnect", 3, "open", "trades"))
    found.append(Status("contract", "", _START, _START, "notice", 'quotes " and , commas\n'))
    return found


class SinkContract(Proving):
    """Everything that a sink promises. Inherit from it in a class whose name begins with ``Test``."""

    kind = "sink"
    guarantees = SINK

    sink: str  #: the name of its entry point
    types: Sequence[str] = ()  #: those it takes, as in a stack; none: all

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Return its table, where it is to write below *folder*."""
        raise NotImplementedError

    def written(self, folder: Path) -> Sequence[Event]:
        """Return what was written, in order, after the sink was closed."""
        raise NotImplementedError

    def failing(self, folder: Path) -> Mapping[str, Any] | None:
        """Return a table with which nothing can be written; None where there is none."""
        return None

    def name(self) -> str:
        """Return the name of the plugin."""
        return self.sink

    def registry(self) -> Registry:
        """Return the plugins among which the sink is found."""
        return Registry()

    def test_everything_written_arrives_once_in_order(self) -> None:
        """In batches of many sizes."""
        self.prove("once", "")

    def test_closing_writes_what_is_left(self) -> None:
        """Also a single event, written a moment before."""
        self.prove("flushed", "")

    def test_a_write_that_fails_is_told(self) -> None:
        """By an exception, from `write` or from `aclose`."""
        self.prove("failure", "")

    def test_it_runs_on_each_event_loop_it_names(self) -> None:
        """With the same result."""
        self.prove("backends", "")

    def test_the_committed_level_is_the_one_that_is_proven(
        self, request: pytest.FixtureRequest
    ) -> None:
        """What the package says of itself is what was just shown."""
        self.level(request)

    # ------------------------------------------------------------------------------- how each goes

    def check(self, word: str, place: str) -> None:
        """Prove one guarantee. Raises Broken or Lacking."""
        getattr(self, f"_{word}")()

    def _made(self, table: Mapping[str, Any]) -> Sink:
        spec = SinkSpec(self.sink, "contract-sink", tuple(self.types), table=dict(table))
        return compose_sink(Stack(sinks=(spec,)), registry=self.registry())

    def _loops(self) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            sink = self._made(self.settings(Path(folder)))
            return [one for one in _LOOPS if one in sink.backends]

    def _arrives(self, events: Sequence[Event], sizes: Sequence[int], backend: str) -> None:
        wanted = [event for event in events if not self.types or event.type in self.types]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)

            async def write() -> None:
                with anyio.fail_after(_PATIENCE):
                    sink, at, turn = self._made(self.settings(folder)), 0, 0
                    while at < len(wanted):
                        size = sizes[turn % len(sizes)]
                        await sink.write(wanted[at : at + size])
                        at, turn = at + size, turn + 1
                    await sink.aclose()

            anyio.run(write, backend=backend)
            got = list(self.written(folder))
        if got != wanted:
            at = next(
                (
                    at
                    for at, pair in enumerate(zip(wanted, got, strict=False))
                    if pair[0] != pair[1]
                ),
                min(len(wanted), len(got)),
            )
            raise ContractViolation(
                f"{len(wanted)} events were written and {len(got)} arrived, first at {at}:"
                f" {wanted[at : at + 1]!r} became {got[at : at + 1]!r}"
            )

    def _once(self) -> None:
        self._arrives(_events(400), (1, 7, 64, 500), self._loops()[0])

    def _flushed(self) -> None:
        for event in _events(1):
            self._arrives([event], (1,), self._loops()[0])

    def _failure(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            table = self.failing(Path(name))
            if table is None:
                raise NotApplicable("nothing that can be set makes it fail")

            async def write() -> None:
                sink = self._made(table)
                await sink.write(_events(3))
                await sink.aclose()

            try:
                anyio.run(write)
            except Exception:
                return
        raise ContractViolation(
            "writing cannot have worked, and neither `write` nor `aclose` raised."
        )

    def _backends(self) -> None:
        for backend in self._loops():
            if importlib.util.find_spec(backend) is None:
                raise NotApplicable(f"{backend} is not installed", here=True)
            self._arrives(_events(20), (3,), backend)
