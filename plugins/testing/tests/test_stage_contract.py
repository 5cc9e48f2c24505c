"""The contracts of stages and sinks can fail: each of their parts is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
from tapeloom import Registry, decode, encode
from tapeloom.events import Event, Reject, Status, Trade
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Feed
from tapeloom_testing.contract import ContractViolation, NotApplicable, SinkContract, StageContract
from tapeloom_testing.contract.declared import SINK, STAGE

LIMIT = Decimal(105)
NUMBERS = count()


class Dear:
    """Rejects trades above a price, and says when a symbol has been silent for a second."""

    def __init__(self, defect: str) -> None:
        self.defect = defect
        self.last: dict[str, int] = {}

    @property
    def due(self) -> int | None:
        return min(self.last.values()) + 1_000_000_000 if self.last else None

    def __call__(self, events: list[Event]) -> list[Event]:
        bad, out = self.defect, list[Event]()
        if bad == "drops the last of a batch" and len(events) > 3:
            events = events[:-1]
        for event in events:
            if type(event) is not Trade:
                if bad != "swallows a status" or type(event) is not Status:
                    out.append(event)
                continue
            if bad == "writes into events":
                event.channel = "seen"
            self.last[event.symbol] = event.recv
            if bad == "trusts numbers":
                int(event.price)
            if not event.price.is_finite() or event.price <= LIMIT:
                out.append(event)
            elif bad != "loses what is dear":
                place = event.venue, event.symbol, event.ts, event.recv
                evidence = str(next(NUMBERS)) if bad == "numbers its rejects" else "dear"
                out.append(Reject(*place, "dear", evidence, event, event.channel))
        return out

    def tick(self, now: int) -> list[Event]:
        silent = [symbol for symbol, recv in self.last.items() if recv + 1_000_000_000 <= now]
        for symbol in silent if self.defect != "stays due" else []:
            del self.last[symbol]
        return [Status("", symbol, now, now, "silent") for symbol in silent]


class Plugin:
    def __init__(self, defect: str) -> None:
        self.defect = defect

    @hookimpl
    def validate(self, feed: Feed) -> Dear:
        return Dear(self.defect)


class Staged(StageContract):
    stage = "dear"
    defect = ""

    def registry(self) -> Registry:
        registry = Registry({})
        registry.register(Plugin(self.defect), "dear")
        return registry


DEFECTS = {
    "drops the last of a batch": "batches",
    "swallows a status": "passes",
    "writes into events": "unchanged",
    "trusts numbers": "hostile",
    "loses what is dear": "accounted",
    "stays due": "timed",
    "numbers its rejects": "deterministic",
}


@pytest.mark.parametrize("word", STAGE)
def test_a_sound_stage_keeps_every_guarantee(word: str) -> None:
    assert Staged().outcome(word, "") is None


@pytest.mark.parametrize(("defect", "word"), DEFECTS.items())
def test_a_defect_of_a_stage_breaks_the_guarantee_that_is_about_it(defect: str, word: str) -> None:
    cls = type("Defective", (Staged,), {"defect": defect})

    assert isinstance(cls().outcome(word, ""), ContractViolation)


def test_every_guarantee_of_a_stage_has_a_defect_that_breaks_it() -> None:
    assert {*DEFECTS.values()} == {*STAGE}


# ------------------------------------------------------------------------------------------- sinks


@attrs.frozen(kw_only=True)
class Table:
    path: str


class Lines:
    """Writes a line for each event, ten at a time."""

    def __init__(self, path: str, defect: str) -> None:
        self.path, self.defect = Path(path), defect
        self.waiting: list[Event] = []
        self.backends = frozenset({"asyncio", "trio"})

    async def write(self, events: Sequence[Event]) -> None:
        if self.defect == "runs on one loop":
            import asyncio

            asyncio.get_running_loop()
        self.waiting += events
        if len(self.waiting) >= 10:
            self._flush()

    async def aclose(self) -> None:
        if self.defect != "forgets the rest":
            self._flush()

    def _flush(self) -> None:
        some, self.waiting = self.waiting, []
        if self.defect == "writes twice":
            some = some + some[-1:]
        try:
            with self.path.open("a") as file:
                file.writelines(encode(event) + "\n" for event in some)
        except OSError:
            if self.defect != "hides failures":
                raise


class SinkPlugin:
    def __init__(self, defect: str) -> None:
        self.defect = defect

    @hookimpl
    def settings(self) -> type[Table]:
        return Table

    @hookimpl
    def sink(self, settings: Table) -> Lines:
        return Lines(settings.path, self.defect)


class Sunk(SinkContract):
    sink = "lines"
    defect = ""

    def registry(self) -> Registry:
        registry = Registry({})
        registry.register(SinkPlugin(self.defect), "lines")
        return registry

    def settings(self, folder: Path) -> Mapping[str, Any]:
        return {"path": str(folder / "events")}

    def written(self, folder: Path) -> Sequence[Event]:
        file = folder / "events"
        lines = file.read_text().splitlines() if file.exists() else []
        return [decode(line) for line in lines]

    def failing(self, folder: Path) -> Mapping[str, Any]:
        return {"path": str(folder)}


SINK_DEFECTS = {
    "writes twice": "once",
    "forgets the rest": "flushed",
    "hides failures": "failure",
    "runs on one loop": "backends",
}


def failed(outcome: Exception | None) -> bool:
    return outcome is not None and not isinstance(outcome, NotApplicable)


@pytest.mark.parametrize("word", SINK)
def test_a_sound_sink_keeps_every_guarantee(word: str) -> None:
    assert Sunk().outcome(word, "") is None


@pytest.mark.parametrize(("defect", "word"), SINK_DEFECTS.items())
def test_a_defect_of_a_sink_breaks_the_guarantee_that_is_about_it(defect: str, word: str) -> None:
    cls: Callable[[], Sunk] = type("Defective", (Sunk,), {"defect": defect})

    assert failed(cls().outcome(word, ""))


def test_every_guarantee_of_a_sink_has_a_defect_that_breaks_it() -> None:
    assert {*SINK_DEFECTS.values()} == {*SINK}
