"""Checks of a server restart, of unsupported event loops, and of secrets that must not be shown."""

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

#: Market seconds after which the venue restarts: trades exist before and after it.
_AT = 20.0
#: Seconds within which a feed on an unsupported event loop must end with an error.
_PATIENCE = 10.0


def restarting(plant: Callable[..., Plant]) -> Plant:
    """Return the plant of a run in which the venue restarts after `_AT` seconds."""
    return plant(
        rate=50.0,
        speed=40.0,
        after=True,
        faults=lambda simulator: [simulator.Fault(kind="server_shutdown", at=_AT)],
    )


def survived(run: Run, unit: int) -> None:
    """Check that each trade was delivered, or is missing exactly where a Gap event was emitted."""
    if not run.truth.faults:
        raise ContractViolation(
            "the simulated server did not close the connection on the fault `server_shutdown`."
        )
    if bad := [event for event in run.events if type(event) is Reject]:
        raise ContractViolation(f"expected no Reject around a server restart, got {bad[0]!r}")
    for symbol in run.subject.symbols:
        trades = run.truth.trades(symbol)
        single = [(trade.price, trade.size, trade.ts // unit) for trade in trades]
        groups: dict[int, list[Any]] = {}
        for trade in trades:
            groups.setdefault(trade.aggregate_id, []).append(trade)
        aggregates = [
            (group[0].price, sum(trade.size for trade in group), group[0].ts // unit)
            for group in groups.values()
        ]
        parts = _parts(run, symbol, unit)
        if not any(_missing_only_between(parts, facts) for facts in (single, aggregates)):
            counts = [len(part) for part in parts]
            raise ContractViolation(
                f"{symbol}: the market has {len(single)} trades; {counts} were delivered between"
                " the gaps. Trades are missing where no Gap was emitted."
            )


def _parts(run: Run, symbol: str, unit: int) -> list[list[Any]]:
    """Return the live trades of *symbol*, split at its Gap events."""
    parts: list[list[Any]] = [[]]
    for event in run.events:
        if event.symbol != symbol:
            continue
        if type(event) is Gap:
            parts.append([])
        elif type(event) is Trade and event.origin == "live":
            parts[-1].append((event.price, event.size, event.ts // unit))
    return parts


def _missing_only_between(parts: list[list[Any]], facts: list[Any]) -> bool:
    """Return whether the parts are contiguous slices of *facts*, in order, the first at its start."""
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
    """Check that a feed raises BackendUnsupported on an event loop that its plugin does not support."""
    error = anyio.run(_error_on, subject, backend=backend)
    if not isinstance(error, BackendUnsupported):
        raise ContractViolation(
            f"{subject.venue} does not support {backend}: expected BackendUnsupported on it, got"
            f" {error!r}."
        )


async def _error_on(subject: Subject) -> Exception | None:
    """Run the feed on the current event loop and return the error it ends with."""
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
    """Check that no secret appears in a repr, an event, an error or a log line."""
    if not subject.secrets:
        raise NotApplicable("it needs no key")
    plan = subject.plan(run.given)
    history = plan.history
    queries: list[Any] = [
        HistoryQuery("trades", subject.symbols[0], since=1),
        HistoryQuery("book", subject.symbols[0]),
    ]
    shown: dict[str, str] = {
        "the settings": repr(plan.feed.settings),
        "the feed": f"{plan.feed!r} {plan!r}",
        "the endpoints": f"{plan.endpoints!r} {plan.source!r}",
        "the codec or the history": f"{plan.codec!r} {history!r}",
        "the requests": repr([history.request(query) for query in queries] if history else []),
        "the log": repr(run.logs),
        "the error": f"{run.error} {run.error!r}",
    }
    texts = [*shown.items(), *(("an event", _encoded(event)) for event in run.events)]
    for name, fake in subject.secrets.items():
        for where, text in texts:
            if fake in text:
                raise ContractViolation(
                    f"the secret {name!r} appears in {where}. Keep it in a tapeloom.Secret."
                )


def _encoded(event: Event) -> str:
    return str(encode(event))
