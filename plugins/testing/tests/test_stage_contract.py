"""The contract of a stage can fail: each of its parts is broken on purpose."""

from __future__ import annotations

from decimal import Decimal
from itertools import count

import pytest
from tapeloom import Registry
from tapeloom.events import Event, Reject, Status, Trade
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Feed
from tapeloom_testing.contract import ContractViolation, StageContract
from tapeloom_testing.contract.declared import STAGE

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
