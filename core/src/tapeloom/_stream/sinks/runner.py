"""Runs one sink: collects the events of its queue, numbers them, and has them written."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain
from pathlib import Path

import anyio
import structlog
from attrs import evolve

from tapeloom._compose.plan import SinkPlan
from tapeloom._stream.queues import Queue
from tapeloom.errors import SinkRefused, unwrap_single
from tapeloom.events import Event, Gap, Reject
from tapeloom.plugin import Clock, QueueState, SinkRun, StreamState, Subscription, TradeBatch

from .cursors import Cursors
from .observed import Observed
from .positions import Position, Positions, is_validated
from .spooled import SpooledWriter
from .writer import CLOSE_SECONDS, Writer, explain

log = structlog.get_logger()

#: Seconds that the first attempt to open a store may take, before the feeds start without it.
_OPEN_SECONDS = 20.0
#: Seconds in which events are collected at most before they are written to the spool: what is not yet in
#: it is lost if the process dies.
_SPOOL_SECONDS = 0.02
#: Seconds without a write after which `Sink.idle` is called, and then again.
_IDLE_SECONDS = 1.0

GetBatch = Callable[[], Awaitable[list[Event]]]


class SinkRunner:
    """One sink of a stream, from its queue to its store. *folder* is that of its spool."""

    def __init__(
        self,
        plan: SinkPlan,
        queue: Queue,
        clock: Clock,
        rng: random.Random,
        counters: Counter[str],
        folder: Path,
        state: Callable[[], StreamState],
    ) -> None:
        spec = plan.spec
        self.name = spec.name
        self.queue = queue
        queue.keeps_cursors = True
        self.cursors = Cursors()
        self._max_batch, self._delay = spec.max_batch, plan.max_batch_delay
        self._clock = clock
        accepts_rejects = queue.types is None or Reject in queue.types
        self._writer = Writer(
            SinkRun(spec.name, 0, state), plan.sink, clock, rng, counters, folder, self.cursors,
            accepts_rejects=accepts_rejects,
        )  # fmt: skip
        self._writer.is_ending = lambda: queue.closed
        self._spooled: SpooledWriter | None = None
        if spec.spool:
            from .spool import Spool  # imports SQLite, which takes memory in every other process

            spool = Spool(folder / f"{spec.name}.spool", spec.spool)
            self._spooled = SpooledWriter(self._writer, spool, clock, counters)
        self._in_hand = 0
        self._stored_before: Positions | None = None
        self._unreported: list[Event] = []  # gaps, to be stored before the next events

    async def open(
        self, epoch: int, *, must_open: bool = False
    ) -> Mapping[str, Mapping[Subscription, Position]]:
        """Open the spool and the store for the run *epoch*; return by venue what the store has.

        A store that cannot be reached is opened later, or waited for with *must_open*, unless the spool
        tells where it stands. Raises SinkRefused.
        """
        if self._spooled is not None:
            epoch = await self._spooled.open(epoch)
        self._writer.run = evolve(self._writer.run, epoch=epoch)
        is_known = self._writer.knows_positions
        reason = f"it did not open within {_OPEN_SECONDS:.0f} s"
        with anyio.move_on_after(_OPEN_SECONDS):
            try:
                await self._writer.open()
                reason = ""
            except SinkRefused:
                await self.close()
                raise
            except Exception as error:
                reason = explain(error)
        if reason:
            self._writer.problem = reason
            log.warning("sink_unavailable", sink=self.name, reason=reason, attempts=1)
            if must_open and not is_known:
                await self._writer.open_at_last()
            else:
                self._writer.on_late_positions = self._report_unknown
        elif self._spooled is not None and not is_known:
            self._spooled.merge(self._writer.positions)
        return self._positions.by_venue()

    def state(self, clock: Clock) -> QueueState:
        """Return the state of its queue, from any thread, and why its store cannot be written."""
        return self.queue.state(clock, is_sink=True, problem=self._writer.problem)

    @property
    def _positions(self) -> Positions:
        return (self._spooled or self._writer).positions

    def skip_stored(self) -> None:
        """Skip backfilled events that this store has: another sink stands further back."""
        self._stored_before = self._positions.copy()

    async def run(self, get_batch: GetBatch) -> None:
        """Write the batches that *get_batch* returns until it returns an empty one.

        An observing sink gets them from its queue, and is only opened here if it could not be before.
        Raises SinkRefused if the store cannot be used any longer.
        """
        if type(self.queue) is Observed and not self._writer.is_open:
            await self._writer.open_at_last()
            self._writer.problem = ""
        if not self._writer.has_idle:
            await self._run(get_batch)
            return
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._call_idle)
                await self._run(get_batch)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise unwrap_single(group) from None

    async def _call_idle(self) -> None:
        """Call the sink each time that nothing was written for a while."""
        while True:
            stored = self._writer.stored
            await self._clock.sleep(_IDLE_SECONDS)
            if self._writer.stored == stored:
                await self._writer.idle()

    async def _run(self, get_batch: GetBatch) -> None:
        if self._spooled is not None:
            seconds = min(self._delay, _SPOOL_SECONDS)
            await self._spooled.run(lambda: self._collect(get_batch, seconds))
            return
        first = 1
        while events := await self._collect(get_batch, self._delay):
            self._in_hand = len(events)
            self.cursors.number(first + len(events) - 1)
            await self._writer.write(first, events)
            first += len(events)
            self._in_hand = 0

    async def _collect(self, get_batch: GetBatch, seconds: float) -> list[Event]:
        """Return the events of the next *seconds*; an empty list at the end."""
        most = self._max_batch
        if self._unreported:
            return self._with_unreported([])
        while events := await get_batch():
            if seconds and len(events) < most and not self.queue.closed:
                self._in_hand = len(events)
                await self._clock.sleep(seconds)
            if events := self._take(events, most):
                return self._with_unreported(events)
        return self._with_unreported([])

    def _with_unreported(self, events: list[Event]) -> list[Event]:
        gaps, self._unreported = self._unreported, []
        return [*gaps, *events] if gaps else events

    def _take(self, events: list[Event], most: int) -> list[Event]:
        """Return *events* and those that wait in the queue, about *most*, without what the store has."""
        events = self.cursors.take(events)
        if len(events) < most and self.queue.count:
            batches, count = [events], len(events)
            while count < most and (more := self.queue.get_nowait()):
                batches.append(self.cursors.take(more))
                count += len(batches[-1])
            events = _joined([batch for batch in batches if batch])
        if (stored := self._stored_before) is not None:
            events = [
                event
                for event in events
                if getattr(event, "origin", "") != "backfill" or not stored.has(event)
            ]
        return events

    def _report_unknown(self, positions: Positions) -> None:
        """Report a gap for each subscription of a store that could not say before where it stands."""
        now = self._clock.time_ns()
        self._unreported += [
            Gap(
                venue, symbol, now, now, position.ts, now,
                "restart", None, "unrecoverable", channel,
            )
            for venue, by_subscription in positions.by_venue().items()
            for (symbol, channel), position in by_subscription.items()
        ]  # fmt: skip

    async def close(self) -> int:
        """Close the store and the spool; return how many events are lost: neither stored nor spooled."""
        lost = self._in_hand
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            if self._spooled is not None:
                lost = await self._spooled.close(self._take([], self.queue.count))
        await self._writer.close()
        return lost


def _joined(batches: list[list[Event]]) -> list[Event]:
    """Return batches as one. What is known of validated trades of one feed stays known."""
    joined = TradeBatch(chain.from_iterable(batches))
    for batch in batches:
        if not is_validated(batch) or batch.feed is not (joined.feed or batch.feed):
            return [*joined]
        joined.subscription_ids += batch.subscription_ids
        joined.feed, joined.validated = batch.feed, True
    return joined
