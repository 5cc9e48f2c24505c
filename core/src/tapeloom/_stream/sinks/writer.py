"""Writes numbered events to one sink: in order, until they are stored or set aside.

After any error the sink is closed and opened again, and says what it has; so a batch whose acknowledgement
was lost is not written twice.
"""

from __future__ import annotations

import inspect
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import structlog
from anyio import to_thread

from tapeloom._runtime.backoff import Backoff
from tapeloom.errors import BatchRefused, SinkRefused, SinkUnavailable, masked, printable
from tapeloom.events import Event, Reject, encode
from tapeloom.plugin import Clock, Resume, Sink, SinkBatch, SinkRun

from .checkpoints import Checkpoints
from .cursors import Cursors
from .positions import Positions, texts

log = structlog.get_logger()

#: Delays between attempts to reach a store, in seconds.
_FIRST_DELAY, _MAX_DELAY = 0.2, 15.0
#: How often a batch is tried at which the sink raises what it should not, before it is split.
_MAX_ATTEMPTS = 3
#: The sink is disabled when so many events in a row were set aside: it is not the events' fault.
_MAX_SET_ASIDE = 100
#: Seconds that closing a sink may take.
CLOSE_SECONDS = 5.0


class Writer:
    """Opens a sink, writes to it, and tries again. *folder* is where events are set aside."""

    def __init__(
        self,
        run: SinkRun,
        sink: Sink,
        clock: Clock,
        rng: random.Random,
        counters: Counter[str],
        folder: Path,
        cursors: Cursors | None = None,
        *,
        accepts_rejects: bool,
    ) -> None:
        self.run = run
        self.name = run.sink
        self._positions = Positions()
        #: Of a sink that stores its positions only now and then.
        self._checkpoints = (
            Checkpoints(self._positions) if getattr(sink, "has_checkpoints", False) else None
        )
        self.cursors = Cursors() if cursors is None else cursors
        self.stored = 0  #: number of the last event that was stored or set aside
        self.is_open = False
        self.problem = ""  #: why the store cannot be written; empty if it can
        self.knows_positions = False  #: whether the store, or a spool, has said where it stands
        #: Called with the positions if the store could not say at the start where it stands.
        self.on_late_positions: Callable[[Positions], None] | None = None
        self.is_ending: Callable[[], bool] = lambda: False  #: whether no more events come
        self._sink = sink
        # What may be lost at any time, as on a screen, is not continued after a restart either.
        self._keeps_positions = sink.guarantee != "at_most_once"
        self._clock = clock
        self._counters = counters
        self._backoff = Backoff(rng, first=_FIRST_DELAY, cap=_MAX_DELAY)
        self._file = folder / f"{run.sink}.set-aside.jsonl"
        self._accepts_rejects = accepts_rejects
        # A plain method runs alone, also after one that was abandoned.
        self._thread = threading.Lock()
        self._set_aside_in_a_row = 0
        self._lock = anyio.Lock(fast_acquire=True)  # `write` and `idle` run one at a time

    @property
    def positions(self) -> Positions:
        """Where the store stands in each subscription."""
        if self._checkpoints is not None:
            self._checkpoints.fold()
        return self._positions

    @property
    def has_idle(self) -> bool:
        """Whether the sink is to be called while nothing comes."""
        return hasattr(self._sink, "idle")

    async def idle(self) -> None:
        """Let the sink do what is due. After an error it is closed; the next write opens it again."""
        async with self._lock:
            if self.is_open:
                try:
                    await self._call(self._sink.idle)  # type: ignore[attr-defined]  # see `has_idle`
                except Exception as error:
                    log.warning("sink_failed", sink=self.name, reason=explain(error))
                    await self.close()

    async def open(self) -> None:
        """Open the sink, once, and take over its positions. Raises what the sink raises."""
        await self.close()
        self.is_open = True
        try:
            result = await self._call(self._sink.open, self.run)
        except BaseException:
            await self.close()  # what it has opened
            raise
        resume = result if isinstance(result, Resume) else Resume()
        self.stored = max(self.stored, resume.last)
        if not self.knows_positions:
            await self._restore(resume)
        if self._checkpoints is not None:
            self._checkpoints.restart()

    async def _restore(self, resume: Resume) -> None:
        """Take over the positions that the store has. Raises what reading its events raises."""
        for key in self._positions.restore(self.cursors.restore(resume.positions)):
            log.warning("sink_position_unreadable", sink=self.name, key=key)
        if self._checkpoints is not None:  # reading the events takes up to a second
            await to_thread.run_sync(self._checkpoints.add_all, resume.events)
        self.knows_positions = True
        if self.on_late_positions is not None:
            self.on_late_positions(self.positions)

    async def open_at_last(self) -> None:
        """Open the sink, trying again until it can be reached.

        Raises SinkRefused, also if opening raises something else a few times: that is no store that is down.
        """
        attempts = 0
        while True:
            try:
                return await self.open()
            except SinkRefused:
                raise
            except (SinkUnavailable, OSError) as error:
                await self._wait(error)
            except Exception as error:
                attempts += 1
                if attempts == _MAX_ATTEMPTS:
                    raise SinkRefused(f"opening it raises {explain(error)}") from error
                await self._wait(error)

    async def write(self, first: int, events: Sequence[Event]) -> None:
        """Write events, of which the first has the number *first*; return when they are stored.

        Raises SinkRefused if the store cannot be used; then nothing more can be written.
        """
        try:
            async with self._lock:
                await self._write(first, events, attempts=0)
        except SinkRefused as error:
            self.problem = explain(error)
            raise

    async def _write(self, first: int, events: Sequence[Event], attempts: int) -> None:
        while events:
            try:
                if not self.is_open:
                    await self.open()
                if skipped := min(max(self.stored + 1 - first, 0), len(events)):
                    self._commit(events[:skipped])
                    self._progress(skipped)
                    first, events = first + skipped, events[skipped:]
                    continue
                await self._write_once(first, events)
                events = ()
            except SinkRefused:
                raise
            except (SinkUnavailable, OSError) as error:
                await self._wait(error)
            except Exception as error:
                attempts += 1
                if attempts < _MAX_ATTEMPTS and not isinstance(error, BatchRefused):
                    await self._wait(error)
                    continue
                await self.close()
                half = (len(events) + 1) // 2
                if len(events) > 1:
                    await self._write(first, events[:half], attempts)
                    first, events = first + half, events[half:]
                else:
                    await self._set_aside(first, events[0], error)
                    return

    async def _write_once(self, first: int, events: Sequence[Event]) -> None:
        if inspect.iscoroutinefunction(self._sink.write):
            batch, changed = self._batch(first, events)
            await self._sink.write(batch)
        else:
            changed = await self._call(self._write_in_thread, first, events)
        if changed is None and self._checkpoints is not None:
            self._checkpoints.add(events)
        else:
            self._positions.update(changed)
        self.stored = first + len(events) - 1
        self.cursors.forget(self.stored)
        self._progress(len(events))
        self._set_aside_in_a_row = 0

    def _progress(self, count: int) -> None:
        """Count stored events; the next error is waited for as briefly as the first."""
        self._counters["sink_events"] += count
        self.problem = ""
        if self._backoff.attempt:
            log.info("sink_recovered", sink=self.name, attempts=self._backoff.attempt)
            self._backoff.attempt = 0

    def _write_in_thread(self, first: int, events: Sequence[Event]) -> Any:
        batch, changed = self._batch(first, events)
        self._sink.write(batch)
        return changed

    def _batch(self, first: int, events: Sequence[Event]) -> tuple[SinkBatch, Any]:
        if not self._keeps_positions:
            return SinkBatch(self.run.epoch, first, events), {}
        cursors = self.cursors.through(first + len(events) - 1)
        if self._checkpoints is not None:
            checkpoint = partial(self._checkpoints.texts_after, events)
            return SinkBatch(self.run.epoch, first, events, cursors, checkpoint), None
        changed = self._positions.after(events)
        return SinkBatch(self.run.epoch, first, events, {**texts(changed), **cursors}), changed

    def _commit(self, events: Sequence[Event]) -> None:
        """Take account of events that the store has already."""
        if self._checkpoints is not None:
            self._checkpoints.add(events)
        else:
            self._positions.update(self._positions.after(events))

    async def _wait(self, error: Exception) -> None:
        """Close the sink and wait before the next attempt."""
        await self.close()
        self.problem = explain(error)
        self._counters["sink_retries"] += 1
        delay = self._backoff.next()
        if self._backoff.attempt in (1, 5) or self._backoff.attempt % 20 == 0:
            log.warning(
                "sink_unavailable", sink=self.name, reason=explain(error),
                attempts=self._backoff.attempt, delay=round(delay, 1),
            )  # fmt: skip
        while delay > 0:
            await self._clock.sleep(min(delay, _FIRST_DELAY))
            # At the end what is left is to be written within seconds.
            delay = 0.0 if self.is_ending() else delay - _FIRST_DELAY

    async def _set_aside(self, number: int, event: Event, error: Exception) -> None:
        """Write an event that the store refuses to a file, and a Reject to the store in its place.

        Raises SinkRefused if too many are refused in a row.
        """
        reason = explain(error)
        self._counters["sink_errors"] += 1
        await to_thread.run_sync(self._append, number, event, reason)
        log.error(
            "sink_failed", sink=self.name, number=number, reason=reason, path=str(self._file),
            exc_info=None if isinstance(error, BatchRefused) else error,
        )  # fmt: skip
        self._set_aside_in_a_row += 1
        if self._set_aside_in_a_row > _MAX_SET_ASIDE:
            raise SinkRefused(
                f"the store refused {self._set_aside_in_a_row} events in a row; the last one: {reason}"
            )
        if self._accepts_rejects and type(event) is not Reject:
            reject = Reject(
                event.venue, event.symbol, event.ts, event.recv,
                "sink_refused", reason, event, event.channel,
            )  # fmt: skip
            count = self._set_aside_in_a_row
            await self._write(number, [reject], attempts=0)
            self._set_aside_in_a_row = count
        else:
            self._commit([event])
            self.stored = number

    def _append(self, number: int, event: Event, reason: str) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        line = {"epoch": self.run.epoch, "n": number, "reason": reason, "event": encode(event)}
        with self._file.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(line) + "\n")

    async def close(self) -> None:
        """Close the sink, if it is open, within a deadline."""
        if not self.is_open:
            return
        self.is_open = False
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            try:
                await self._call(self._sink.close)
            except Exception as error:
                log.warning("sink_failed", sink=self.name, reason=explain(error))

    async def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call an async method here, a plain one in a worker thread, never two at a time."""
        if inspect.iscoroutinefunction(method):
            return await method(*args)
        return await call(self._alone, method, args)

    def _alone(self, method: Callable[..., Any], args: Sequence[Any]) -> Any:
        with self._thread:
            return method(*args)


async def call(method: Callable[..., Any], *args: Any) -> Any:
    """Call a method of a sink: an async one here, a plain one in a worker thread."""
    if inspect.iscoroutinefunction(method):
        return await method(*args)
    return await to_thread.run_sync(partial(method, *args), abandon_on_cancel=True)


def explain(error: BaseException) -> str:
    """Return an error of a sink as a text for people, on one line, without secrets of URLs."""
    text = str(error) or type(error).__name__
    known = isinstance(error, SinkUnavailable | SinkRefused | BatchRefused)
    return printable(masked(text if known else f"{type(error).__name__}: {text}"))
