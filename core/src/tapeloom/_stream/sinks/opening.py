"""Opens the sinks of a stream, and finds out from where the feeds have to continue."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anyio
from attrs import evolve

from tapeloom._compose.plan import SinkPlan
from tapeloom._stream.queues import Queue
from tapeloom.errors import unwrap_single
from tapeloom.events import BY_TYPE
from tapeloom.plugin import Clock, StreamState, Subscription

from .observed import Observed
from .positions import Position
from .runner import SinkRunner
from .selection import selection

#: Where the feeds continue, by venue and subscription.
Stored = Mapping[str, Mapping[Subscription, Position]]


def runners(
    plans: Sequence[SinkPlan],
    clock: Clock,
    counters: Counter[str],
    state: Callable[[], StreamState],
    *,
    never_drop: bool,
) -> list[SinkRunner]:
    """Return the runners of sinks of a stream with this *state*, each with its queue.

    With *never_drop* a full queue blocks.
    """
    found = []
    for plan in plans:
        spec = plan.spec
        types = [BY_TYPE[name] for name in spec.types] or None
        queue_spec = evolve(spec.queue, policy="block") if never_drop else spec.queue
        kind = Observed if hasattr(plan.sink, "observe") else Queue
        queue = kind(queue_spec, types, spec.name, has_task=True, counters=counters)
        queue.chosen = selection(spec)
        if isinstance(queue, Observed):
            queue.observe = plan.sink.observe  # type: ignore[attr-defined]  # see `kind`
        folder = Path(spec.spool_folder)
        rng = random.Random(spec.name)
        found.append(SinkRunner(plan, queue, clock, rng, counters, folder, state))
    return found


async def open_all(
    sinks: Sequence[SinkRunner], epoch: int, *, is_replay: bool, must_open: bool = False
) -> Stored:
    """Open sinks for the run *epoch*, all at once; return from where the feeds continue.

    With *must_open* stores that cannot be reached are waited for. A replay begins with its tapes. Where two stores stand at different positions, it is the earlier one, and the other skips what it
    has. Raises SinkRefused; then all are closed.
    """
    stored: list[Stored] = []

    async def open_sink(sink: SinkRunner) -> None:
        stored.append(await sink.open(epoch, must_open=must_open))

    try:
        async with anyio.create_task_group() as tasks:
            for sink in sinks:
                tasks.start_soon(open_sink, sink)
    except BaseExceptionGroup as group:
        for sink in sinks:
            await sink.close()
        raise unwrap_single(group) from None
    if is_replay:
        return {}
    if len(stored) > 1:
        for sink in sinks:
            sink.skip_stored()
    earliest: dict[str, dict[Subscription, Position]] = {}
    for by_venue in stored:
        for venue, positions in by_venue.items():
            known = earliest.setdefault(venue, {})
            for subscription, position in positions.items():
                other = known.get(subscription)
                if other is None or position.ts < other.ts:
                    known[subscription] = position
    return earliest
