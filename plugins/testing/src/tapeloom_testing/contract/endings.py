"""What is not to happen: a loss over a planned end, a feed on the wrong event loop, a key in the open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import structlog
import tapeloom
from tapeloom.errors import BackendUnsupported, FeedError, TapeloomError
from tapeloom.events import Event, Gap, Reject, Trade, encode
from tapeloom.plugin import HistoryQuery

from .composed import Subject
from .declared import ContractViolation, NotApplicable
from .recording import Plant, Run

__all__ = ["refused", "restarting", "secretive", "survived"]

_AT = 20.0  # market seconds after which the venue restarts
_PATIENCE = 10.0


def restarting(plant: Callable[..., Plant]) -> Plant:
    """Return a run in the middle of which the venue restarts."""
    return plant(
        rate=50.0,
        speed=40.0,
        after=True,
        faults=lambda simulator: [simulator.Fault(kind="server_shutdown", at=_AT)],
    )


def survived(run: Run, unit: int) -> None:
    """Hold that every trade came, or stands in a hole that a Gap announces at its place."""
    if not run.truth.faults:
        raise ContractViolation("the venue's side could not be made to end the connection.")
    if bad := [event for event in run.events if type(event) is Reject]:
        raise ContractViolation(f"over a planned end this was rejected: {bad[0]!r}")
    for symbol in run.subject.symbols:
        real = [(one.price, one.size, one.ts // unit) for one in run.truth.trades(symbol)]
        joined: dict[int, list[Any]] = {}
        for one in run.truth.trades(symbol):
            joined.setdefault(one.aggregate_id, []).append(one)
        sums = [
            (some[0].price, sum(one.size for one in some), some[0].ts // unit)
            for some in joined.values()
        ]
        parts = _parts(run, symbol, unit)
        if not any(_holes_only_between(parts, facts) for facts in (real, sums)):
            came = [len(part) for part in parts]
            raise ContractViolation(
                f"{symbol}: {len(real)} trades were made, {came} came before and after gaps, and"
                " what is missing is not where a Gap stands."
            )


def _parts(run: Run, symbol: str, unit: int) -> list[list[Any]]:
    """Return the trades of *symbol*, parted by the gaps."""
    parts: list[list[Any]] = [[]]
    for event in run.events:
        if event.symbol != symbol:
            continue
        if type(event) is Gap:
            parts.append([])
        elif type(event) is Trade and event.origin == "live":
            parts[-1].append((event.price, event.size, event.ts // unit))
    return parts


def _holes_only_between(parts: list[list[Any]], facts: list[Any]) -> bool:
    """Say whether each part stands in *facts* without a hole, one after another, from the start."""
    at = 0
    for number, part in enumerate(parts):
        if not part:
            continue
        starts = (
            start
            for start in range(at, len(facts) if number else at + 1)
            if facts[start : start + len(part)] == part
        )
        start = next(starts, None)
        if start is None:
            return False
        at = start + len(part)
    return True


def refused(subject: Subject, backend: str) -> None:
    """Hold that a feed on an event loop that its plugin does not name ends with a clear error."""
    error = anyio.run(_error_on, subject, backend=backend)
    if not isinstance(error, BackendUnsupported):
        raise ContractViolation(
            f"{subject.venue} does not name {backend}, and on it BackendUnsupported was expected"
            f" and {error!r} came."
        )


async def _error_on(subject: Subject) -> Exception | None:
    with subject.environment():
        try:
            stream = tapeloom.open(subject.stack(), registry=subject.registry())
        except TapeloomError as error:
            return error
    with structlog.testing.capture_logs(), anyio.move_on_after(_PATIENCE):
        try:
            async with stream:
                async for _ in stream:
                    pass
        except FeedError as error:
            return error
        except TapeloomError as error:
            return error
    return stream.error


def secretive(subject: Subject, run: Run) -> None:
    """Hold that no key stands in a repr, an event, an error or a log line."""
    if not subject.secrets:
        raise NotApplicable("it needs no key")
    plan = subject.plan(run.given)
    history = plan.history
    wants: list[Any] = [
        HistoryQuery("trades", subject.symbols[0], since=1),
        HistoryQuery("book", subject.symbols[0]),
    ]
    shown: dict[str, str] = {
        "the settings": repr(plan.feed.settings),
        "the feed": f"{plan.feed!r} {plan!r}",
        "the endpoints": f"{plan.endpoints!r} {plan.source!r}",
        "the codec or the history": f"{plan.codec!r} {history!r}",
        "the requests": repr([history.request(want) for want in wants] if history else []),
        "the log": repr(run.logs),
        "the error": f"{run.error} {run.error!r}",
    }
    texts = [*shown.items(), *(("an event", _encoded(event)) for event in run.events)]
    for name, fake in subject.secrets.items():
        for where, text in texts:
            if fake in text:
                raise ContractViolation(
                    f"the secret {name!r} stands in {where}. Keep it in a tapeloom.Secret."
                )


def _encoded(event: Event) -> str:
    return str(encode(event))
