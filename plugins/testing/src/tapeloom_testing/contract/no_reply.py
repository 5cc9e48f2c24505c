"""A venue that hears everything and never answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import anyio
import structlog
import tapeloom
from attrs import evolve
from tapeloom.events import Status
from tapeloom.plugin import Endpoint

from tapeloom_testing.clock import VirtualClock
from tapeloom_testing.fakewire import FakeWire, WireEnd

from .declared import ContractViolation, NotApplicable
from .dialogue import NOWHERE, SOURCE, asked, connections
from .static_market import StillMarket

if TYPE_CHECKING:
    from .composed import Subject

__all__ = ["silence"]

_NUMBER = re.compile(r"\d+")


def silence(subject: Subject, simulated: str, backend: str) -> None:
    """Hold that a venue that never answers is left, and asked again."""
    if subject.plan().codec is None:
        raise NotApplicable(SOURCE)
    side = subject.venue_server(StillMarket(subject.symbols), simulated)
    given = {**subject.settings, **(side.settings(NOWHERE) if side is not None else {})}
    plan = subject.plan(given)
    endpoint, wanted = connections(plan)[0]
    if not endpoint.opening and asked(plan, wanted)[0].id is None:
        raise NotApplicable("this venue answers no message")
    with structlog.testing.capture_logs():
        told, sent = anyio.run(_unanswered, subject, given, backend=backend)
    if not any("no answer" in status.detail for status in told):
        raise ContractViolation(
            f"a message was not answered for {endpoint.ack_timeout_seconds:g} s and nobody was told."
            " Give each message that is answered an id."
        )
    first, again = sent[0][:1], sent[1][:1] if len(sent) > 1 else []
    # Messages are numbered on.
    if [_NUMBER.sub("", text) for text in first] != [_NUMBER.sub("", text) for text in again]:
        raise ContractViolation(
            f"after the silence {first} was to be asked again, and {again} was."
        )


async def _unanswered(
    subject: Subject, given: dict[str, object]
) -> tuple[list[Status], list[list[str]]]:
    """Be a venue that hears and says nothing, until a second connection has asked.

    Return what was told, and what was sent over each connection to the address that was first.
    """
    ends: list[tuple[str, WireEnd]] = []

    async def deaf(end: WireEnd, endpoint: Endpoint) -> None:
        ends.append((endpoint.url, end))
        await anyio.sleep_forever()

    def sent() -> list[list[str]]:
        return [end.sent for url, end in ends if url == ends[0][0]]

    wire, clock, told = FakeWire(deaf), VirtualClock(), list[Status]()
    with subject.environment():
        stream = tapeloom.open(
            subject.stack(given), registry=subject.registry(), clock=clock, dial=wire.dial, seed=1
        )
    # Nobody is asked but over this wire.
    stream.plans = tuple(evolve(plan, history=None) for plan in stream.plans)
    with anyio.move_on_after(5):
        async with clock.running(), stream:
            async for status in stream.of(Status):
                told.append(status)
                if len(ends) > 1 and len(sent()) > 1 and sent()[-1]:
                    break
    return told, sent()
