"""The contract of a sink: every event that is written arrives at its destination."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from tapeloom import Stack
from tapeloom.events import Bar, Event, Gap, Quote, Status, Trade
from tapeloom.harness import SinkSpec, compose_sink
from tapeloom.plugin import Sink

from .declared import SINK, ContractViolation, NotApplicable
from .proving import Proving, first_difference

__all__ = ["SinkContract"]

#: The event loops that a sink may run on.
_LOOPS = ("asyncio", "trio")
#: `ts` of the first event, in ns (2023-11-14 22:13:20 UTC).
_START = 1_700_000_000_000_000_000
#: Seconds until a sink that does not finish writing fails the test.
_PATIENCE = 20.0


def _events(count: int) -> list[Event]:
    """Return *count* trades, quotes and bars, then a gap, half a quote and a status; no two equal."""
    source = ("contract", "BTC/USDT")
    events: list[Event] = []
    for index in range(count):
        ts, price = _START + index * 1_000_001, Decimal(f"100.{index:04d}0")
        unit, half = Decimal(1), Decimal("0.50")
        events += [
            Trade(*source, ts, ts + 7, price, Decimal("0.00000001"), "buy", index),
            Quote(*source, ts, ts + 7, price, unit, price + 1, half, index),
            Bar(*source, ts, ts + 7, "1m", price, price, price, price, unit, price, half, half, 3),
        ]
    events.append(
        Gap(*source, _START, _START, _START, _START + 1, "disconnect", 3, "open", "trades")
    )
    events.append(Quote(*source, _START, _START, None, None, Decimal("0.10"), Decimal(2)))
    events.append(Status("contract", "", _START, _START, "notice", 'quotes " and , commas\n'))
    return events


class SinkContract(Proving):
    """The guarantees of a sink. Inherit from it in a class whose name begins with ``Test``."""

    kind = "sink"
    guarantees = SINK

    sink: str  #: the name of its entry point
    types: Sequence[str] = ()  #: the event types it is given, as in a stack; empty: all

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Return the settings of a sink that writes below *folder*."""
        raise NotImplementedError

    def written(self, folder: Path) -> Sequence[Event]:
        """Return the events that the closed sink wrote below *folder*, in order."""
        raise NotImplementedError

    def failing(self, folder: Path) -> Mapping[str, Any] | None:
        """Return settings with which every write fails; None where there are none."""
        return None

    def test_everything_written_arrives_once_in_order(self) -> None:
        """Events are written in batches of 1 to 500."""
        self.prove("once", "")

    def test_closing_writes_what_is_left(self) -> None:
        """A single event that is written just before closing arrives too."""
        self.prove("flushed", "")

    def test_a_write_that_fails_is_told(self) -> None:
        """`write` or `aclose` raises."""
        self.prove("failure", "")

    def test_it_runs_on_each_event_loop_it_names(self) -> None:
        """The result is the same on each loop."""
        self.prove("backends", "")

    def test_the_committed_conformance_equals_the_results(
        self, request: pytest.FixtureRequest
    ) -> None:
        """The conformance file of the package equals what was proven in this run."""
        self.level(request)

    # -------------------------------------------------------------------------------------- checks

    def _compose(self, table: Mapping[str, Any]) -> Sink:
        spec = SinkSpec(self.sink, "contract-sink", tuple(self.types), table=dict(table))
        return compose_sink(Stack(sinks=(spec,)), registry=self.registry())

    def _loops(self) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            sink = self._compose(self.settings(Path(folder)))
            return [backend for backend in _LOOPS if backend in sink.backends]

    def _arrives(self, events: Sequence[Event], sizes: Sequence[int], backend: str) -> None:
        """Write *events* in batches of *sizes*; raise ContractViolation if others are read back."""
        expected = [event for event in events if not self.types or event.type in self.types]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)

            async def write() -> None:
                with anyio.fail_after(_PATIENCE):
                    sink, start, count = self._compose(self.settings(folder)), 0, 0
                    while start < len(expected):
                        size = sizes[count % len(sizes)]
                        await sink.write(expected[start : start + size])
                        start, count = start + size, count + 1
                    await sink.aclose()

            anyio.run(write, backend=backend)
            got = list(self.written(folder))
        if got != expected:
            at = first_difference(expected, got)
            raise ContractViolation(
                f"{len(expected)} events were written and {len(got)} arrived. They differ from index {at} on:"
                f" {expected[at : at + 1]!r} became {got[at : at + 1]!r}"
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
                sink = self._compose(table)
                await sink.write(_events(3))
                await sink.aclose()

            try:
                anyio.run(write)
            except Exception:
                return
        raise ContractViolation(
            "nothing can be written with the settings of `failing`, but neither `write` nor `aclose`"
            " raised."
        )

    def _backends(self) -> None:
        for backend in self._loops():
            if importlib.util.find_spec(backend) is None:
                raise NotApplicable(f"{backend} is not installed", here=True)
            self._arrives(_events(20), (3,), backend)
