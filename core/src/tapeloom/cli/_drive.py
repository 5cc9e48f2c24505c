"""`drive`: runs a stream on the command line until it ends, the time is up or a signal stops it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio

from tapeloom._runtime.gc_tuning import gc_tuned
from tapeloom._stream.consumers import Consumer
from tapeloom._stream.stream import Stream
from tapeloom.errors import (
    ConfigError,
    Mistake,
    PluginError,
    SymbolError,
    TapeloomError,
    unwrap_single,
)
from tapeloom.events import Event

from ._output import Output, Summary
from ._progress import Progress
from ._signals import INTERRUPTED, StopSignals
from ._stdout import OutputFailed, events_only
from ._table import Table

#: Seconds between two refreshes of the output.
_REFRESH_SECONDS = 0.25
#: Number of new objects after which the garbage collector runs, if the stack says nothing else: events that
#: wait in queues would be visited again and again.
_GC_THRESHOLD = 50_000


def drive(
    make: Callable[[], AbstractAsyncContextManager[Stream]],
    out: Output,
    *,
    seconds: float | None = None,
    backend: str = "asyncio",
    live: bool = True,
) -> int:
    """Run a stream, write its events to *out* and return the exit code.

    *make* opens the stream; it is called inside the event loop of *backend*. The stream is stopped after
    *seconds*, if given. A *live* stream that never connected is an error. Meanwhile, what libraries print
    goes to standard error. The summary is the last line there.

    Raises TapeloomError if the stream cannot be opened.
    """
    if importlib.util.find_spec(backend) is None:
        problem = f"{backend} is not installed. Try: pip install {backend}"
        raise ConfigError([Mistake("backend", problem)])
    try:
        # uvloop is used whenever it is installed, as by tapeloom[fast].
        has_uvloop = backend == "asyncio" and importlib.util.find_spec("uvloop") is not None
        options = {"use_uvloop": True} if has_uvloop else {}
        with gc_tuned(_GC_THRESHOLD), events_only(), StopSignals() as signals:
            return anyio.run(
                _drive, make, out, seconds, signals, live, backend=backend, backend_options=options
            )
    except BaseExceptionGroup as group:
        raise unwrap_single(group) from None


async def _drive(
    make: Callable[[], AbstractAsyncContextManager[Stream]],
    out: Output,
    seconds: float | None,
    signals: StopSignals,
    live: bool,
) -> int:
    summary = Summary()
    errors: list[str] = []
    result = INTERRUPTED  # unless the stream ends without being cancelled
    async with anyio.create_task_group() as watch:
        async with make() as stream:
            watch.start_soon(_watch_signals, signals, stream, watch.cancel_scope)
            code = 0
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_refresh, stream, out)
                    if seconds is not None:
                        tasks.start_soon(_stop_after, stream, seconds)
                    code = await _consume(stream, out, summary, errors)
                    out.refresh(stream.counters)
                    tasks.cancel_scope.cancel()
            except* OutputFailed as group:
                failed = group.exceptions[0]
                assert isinstance(failed, OutputFailed)
                code = failed.code
                errors += [str(failed)] if code else []
            finally:
                out.close()
                may_idle = stream.stack.cluster is not None  # other processes may have all symbols
                if not code and live and not may_idle and summary.never_connected:
                    reason = summary.last_failure or "No event came, and no source reported one."
                    errors.append(f"no connection was established. {reason}")
                    code = 1
                for error in errors:
                    print(f"tapeloom: {error}", file=sys.stderr)
                summary.print(stream.counters, errors)
        result = code or (1 if summary.rejects["corrupt_record"] else 0)
        watch.cancel_scope.cancel()
    return result


async def _consume(stream: Stream, out: Output, summary: Summary, errors: list[str]) -> int:
    consumer: Consumer[Event] = stream.consume(policy="block", name="output")
    try:
        while events := await consumer.batch():
            summary.add(events)
            out.write(events)
    except TapeloomError as error:
        errors.append(str(error))
        return 2 if isinstance(error, ConfigError | PluginError | SymbolError) else 1
    return 0


async def _watch_signals(signals: StopSignals, stream: Stream, scope: anyio.CancelScope) -> None:
    """On the first signal stop reading and deliver what is queued; then cancel, when it is time."""
    await signals.received()
    stream.stop()
    await signals.received()
    scope.cancel()


async def _stop_after(stream: Stream, seconds: float) -> None:
    await anyio.sleep(seconds)
    stream.stop()


async def _refresh(stream: Stream, out: Output) -> None:
    with Progress("replay") as progress:
        while True:
            await anyio.sleep(_REFRESH_SECONDS)
            if (done := stream.progress) is None:
                pass
            elif isinstance(out, Table) and out.live:
                out.progress = progress.line(*done)  # a bar would tear the table
            else:
                progress.update(*done)
            out.refresh(stream.counters)
