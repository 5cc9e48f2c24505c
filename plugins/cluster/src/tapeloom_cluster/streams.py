"""Starts and stops the shards of a node: fences, positions, subscriptions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import anyio
import structlog
from attrs import define, evolve, field
from tapeloom.errors import SymbolError
from tapeloom.events import Status
from tapeloom.plugin import FeedOutline, Steered
from tapeloom_nats.connection import Connection
from tapeloom_nats.messages import parse_header
from tapeloom_nats.state import Checkpoint, State
from tapeloom_nats.stream import StreamInfo, ensure

from .coordinator import Refence, Start
from .leases import Lease, Leases
from .session import (
    ACQUIRED,
    RELEASED,
    Node,
    begin,
    checkpoint_of,
    fence,
    last_message,
    slot_subject,
)

__all__ = ["ShardStreams"]

log = structlog.get_logger()

#: Seconds after which a shard is released even if its end could not be published.
_END_SECONDS = 10.0
#: Seconds for which a shard that ends fills its gaps.
_FILL_SECONDS = 3.0
#: Seconds after which the Status that shows that a shard is published is delivered again: a queue may drop it.
_ANNOUNCE_SECONDS = 10.0
#: In ns. For so long after a subscription a venue may repeat past trades.
_REPEATED = 60_000_000_000
#: Seconds between two looks at whether the sink was opened.
_POLL_SECONDS = 0.05


@define
class _Shard:
    """A shard that this node streams, or begins to stream."""

    slot: int
    fence: int
    resume: bool
    is_added: bool = False  #: its symbols were added to the feeds
    is_live: bool = False  #: the venue has answered all subscriptions
    announced_at: float | None = None  #: when the Status behind which it is published was delivered
    stop_until: float | None = None  #: it is being stopped; when that is given up


@define(eq=False)
class ShardStreams:
    """The shards of a node. `start`, `stop`, `refence` and `lose` return at once; `run` does the work."""

    node: Node
    leases: Leases
    feeds: Sequence[FeedOutline]
    steered: Steered
    _shards: dict[int, _Shard] = field(factory=dict)
    _symbols: dict[int, dict[str, list[str]]] = field(init=False)
    _to_drop: list[int] = field(factory=list)
    _to_fence: list[int] = field(factory=list)
    _work: anyio.Event = field(factory=anyio.Event)
    _to_announce: anyio.Event = field(factory=anyio.Event)
    _is_busy: bool = False
    _connection: Connection | None = None
    _info: StreamInfo | None = None

    def __attrs_post_init__(self) -> None:
        self._symbols = self.node.table.symbols(self.feeds)

    @property
    def is_idle(self) -> bool:
        """Whether everything that was asked for is done."""
        waiting = any(not shard.is_added for shard in self._shards.values())
        return not (waiting or self._is_busy or self._to_fence)

    # ------------------------------------------------------------------------------------ requests

    def start(self, action: Start) -> None:
        """Begin to stream a shard.

        If it was begun before, beside another node that has died since, it is begun anew: its symbols are
        dropped first, so that they continue after what is stored.
        """
        known = self._shards.get(action.shard)
        if known is not None and known.is_added:
            self._to_drop.append(action.shard)
        self._shards[action.shard] = _Shard(action.slot, action.fence, action.resume)
        self._work.set()

    def refence(self, action: Refence) -> None:
        """Go on under another fence."""
        shard = self._shards.get(action.shard)
        if shard is None:
            self.start(Start(action.shard, action.slot, action.fence, resume=True))
            return
        shard.fence = action.fence
        if shard.is_added:
            self._to_fence.append(action.shard)
        self._work.set()

    def stop(self, shard: int) -> None:
        """End a shard: drop its symbols, and publish all that was read of it."""
        known = self._shards.get(shard)
        if known is not None:
            known.stop_until = self.steered.clock.monotonic() + _END_SECONDS
            self._work.set()

    def lose(self, shard: int) -> None:
        """Drop a shard, and publish nothing more of it."""
        self.leases.lose(str(shard))
        known = self._shards.pop(shard, None)
        if known is not None and known.is_added:
            self._to_drop.append(shard)
            self._work.set()

    def newly_live(self) -> list[int]:
        """Return the shards whose subscriptions are all answered, and of which all that comes is published.

        A node that reads a shard but cannot publish is of no use to the others: they would let go of it.
        """
        starting = [
            number
            for number, shard in self._shards.items()
            if shard.is_added and shard.stop_until is None and self._is_live(number)
        ]
        live = self.leases.live
        found = [number for number in starting if str(number) in live]
        if len(found) < len(starting):
            self._to_announce.set()
        return found

    def _is_live(self, number: int) -> bool:
        shard = self._shards[number]
        if not shard.is_live:
            shard.is_live = all(
                self.steered.feeds[feed].is_live(symbols)
                for feed, symbols in self._symbols[number].items()
            )
        return shard.is_live

    def newly_ended(self) -> list[int]:
        """Return the shards that were stopped and whose end was published, or given up."""
        now = self.steered.clock.monotonic()
        ended = [
            number
            for number, shard in self._shards.items()
            if shard.stop_until is not None
            and (str(number) in self.leases.ended or now > shard.stop_until)
        ]
        for number in ended:
            if str(number) not in self.leases.ended:
                log.warning("shard_end_missing", node=self.node.name, shard=number)
            self.leases.lose(str(number))
            self.leases.ended.discard(str(number))
            del self._shards[number]
        return ended

    # ---------------------------------------------------------------------------------------- work

    async def open(self) -> None:
        """Connect to the stream, once the sink was opened. Raises SinkUnavailable or SinkRefused."""
        while not self.leases.epoch:  # the sink is opened by core
            await self.steered.clock.sleep(_POLL_SECONDS)
        self._connection = Connection(self.node.settings)
        await self._connection.open()
        self._info = await ensure(self._connection, self.node.settings)
        self._work.set()

    async def close(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def run(self) -> None:
        """Do what was asked for, until cancelled. Raises SinkUnavailable or SinkRefused."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._announce)  # beside the work: it may wait for a full queue
            await self._run()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            self._is_busy = True
            await self._drop_lost()
            await self._fence_again()
            await self._start_new()
            await self._stop()
            self._is_busy = False

    async def _drop_lost(self) -> None:
        while self._to_drop:  # also those that are to start again: what came in between is lost
            await self._drop(self._to_drop.pop())

    async def _drop(self, number: int) -> None:
        for feed, symbols in self._symbols[number].items():
            await self.steered.feeds[feed].drop(symbols)

    async def _fence_again(self) -> None:
        assert self._connection is not None
        while self._to_fence:
            number = self._to_fence[0]
            shard, lease = self._shards.get(number), self.leases.get(str(number))
            if shard is not None and lease is not None:
                again = evolve(lease, fence=shard.fence)
                if await fence(self._connection, self.node, self.leases.epoch, again):
                    self.leases.hold_again(again)
                    shard.announced_at = None
            self._to_fence.remove(number)

    async def _start_new(self) -> None:
        """Fence the shards that were not started yet, and add their symbols."""
        new = {
            number: shard
            for number, shard in self._shards.items()
            if not shard.is_added and shard.stop_until is None
        }
        if not new:
            return
        connection, node, epoch = self._connection, self.node, self.leases.epoch
        assert connection is not None
        now = self.steered.clock.time_ns()
        leases = {
            number: Lease(
                str(number), shard.slot, shard.fence, 0, State(keeps_events=True),
                self.steered.positions({}), saved_at=self.steered.clock.monotonic(), since=now,
                beside_until=0 if shard.resume else now + _REPEATED,
            )
            for number, shard in new.items()
        }  # fmt: skip
        stored: dict[str, str] = {}
        used = {lease.shard for lease in await begin(connection, node, epoch, [*leases.values()])}
        for number, lease in leases.items():
            if lease.shard in used:
                await self._take_over(lease)
            # Whoever continues after this slot needs also those of symbols without an event until then.
            found = await self._positions(lease)
            lease.begin_with(found, self.steered.positions(found))
            if new[number].resume:
                stored |= found
            else:
                lease.kept.forget_gaps()  # the node that is live fills them
            await self._checkpoint(lease).save(
                lease.checkpoint(), await self._current(), lease.expected
            )
            if self._shards.get(number) is new[number]:
                self.leases.hold(lease)
        await self._add(new, stored)

    async def _take_over(self, lease: Lease) -> None:
        """Fence a slot that was used before, and read what it has."""
        assert self._connection is not None
        lease.expected = await self._checkpoint(lease).load(lease.state, await self._current()) - 1
        lease.kept = self.steered.positions(lease.state.positions)
        await fence(self._connection, self.node, self.leases.epoch, lease, begun=True)

    def _checkpoint(self, lease: Lease) -> Checkpoint:
        assert self._connection is not None
        return checkpoint_of(self._connection, self.node, lease.shard, lease.slot)

    async def _current(self) -> StreamInfo:
        assert self._connection is not None
        return await ensure(self._connection, self.node.settings)

    async def _positions(self, lease: Lease) -> dict[str, str]:
        """Return the newest positions of a shard, of all its slots."""
        found = dict(lease.checkpoint().positions)
        for slot in range(self.node.replicas + 1):
            if slot != lease.slot:
                for key, text in (await self._read_positions(lease.shard, slot)).items():
                    if key not in found or _ts(found[key]) < _ts(text):
                        found[key] = text
        return found

    async def _read_positions(self, shard: str, slot: int) -> Mapping[str, str]:
        connection = self._connection
        assert connection is not None
        other = Lease(shard, slot, 0, 0, State(keeps_events=True), self.steered.positions({}))
        subject = slot_subject(self.node, shard, slot)
        stream = self.node.settings.stream
        last, _ = await last_message(connection, stream, subject)
        if not last:
            return {}  # it was never used
        info = await self._current()
        first = await self._checkpoint(other).load(other.state, info)
        other.kept = self.steered.positions(other.state.positions)
        if last >= first:
            async for _, message in connection.read(stream, subject, first=first, last=last):
                other.state.add(shard, parse_header(message.headers), message.data)
        other.read_back()
        return other.checkpoint().positions

    async def _add(self, new: Mapping[int, _Shard], stored: Mapping[str, str]) -> None:
        """Add the symbols of new shards to the feeds, all at once."""
        added: dict[str, list[str]] = {}
        for number, shard in new.items():
            if self._shards.get(number) is shard:
                for feed, symbols in self._symbols[number].items():
                    added.setdefault(feed, []).extend(symbols)
                shard.is_added = True
        for feed, symbols in added.items():
            await self._add_symbols(feed, symbols, stored)

    async def _add_symbols(
        self, feed: str, symbols: Sequence[str], stored: Mapping[str, str]
    ) -> None:
        running = self.steered.feeds[feed]
        try:
            await running.add(symbols, stored)
        except SymbolError:  # one of them is not listed: the others are
            for symbol in symbols:
                try:
                    await running.add([symbol], stored)
                except SymbolError as error:
                    log.warning("subscription_refused", feed=feed, reason=str(error))

    async def _announce(self) -> None:
        """Deliver a Status of each shard that the venue has answered, behind all that was read before.

        When the sink has published it, all that is read of the shard from now on is published in time.
        """
        while True:
            await self._to_announce.wait()
            self._to_announce = anyio.Event()
            now = self.steered.clock.monotonic()
            for number, shard in [*self._shards.items()]:
                key, since = str(number), shard.announced_at
                lease = self.leases.get(key)
                is_due = since is None or now > since + _ANNOUNCE_SECONDS
                if not (shard.is_live and is_due) or lease is None:
                    continue
                if shard.stop_until is None and key not in self.leases.live:
                    await self._announce_one(number, shard, lease)

    async def _announce_one(self, number: int, shard: _Shard, lease: Lease) -> None:
        self.leases.starting[lease.shard] = detail = self._detail(lease)
        if self._symbols[number]:
            await self._emit(number, ACQUIRED, detail)
        else:
            self.leases.go_live(lease.shard)
        shard.announced_at = self.steered.clock.monotonic()

    def _detail(self, lease: Lease) -> str:
        return f"shard {lease.shard}, slot {lease.slot}, fence {lease.fence} of {self.node.name}"

    async def _emit(self, number: int, state: str, detail: str) -> None:
        """Deliver a Status that the sink publishes in the shard."""
        name, first = next((name, names[0]) for name, names in self._symbols[number].items())
        venue = next(feed.venue for feed in self.feeds if feed.name == name)
        now = self.steered.clock.time_ns()
        await self.steered.emit([Status(venue, first, now, now, state, detail)])

    async def _stop(self) -> None:
        """Drop the symbols of shards that end, and have their end published after all that was read."""
        stopped = {*self.leases.ending, *self.leases.ended}
        ending = {
            number: shard
            for number, shard in self._shards.items()
            if shard.stop_until is not None and str(number) not in stopped
        }
        await self._fill_gaps([number for number, shard in ending.items() if shard.is_added])
        for number, shard in ending.items():
            if self._shards.get(number) is not shard:
                continue  # it was lost meanwhile
            key = str(number)
            await self._drop(number)
            lease = self.leases.get(key)
            if not self._symbols[number] or lease is None:
                self.leases.end(key)
                continue
            self.leases.ending[key] = detail = self._detail(lease)
            await self._emit(number, RELEASED, detail)

    async def _fill_gaps(self, numbers: Sequence[int]) -> None:
        """Fetch what these shards still lack. Whoever streams them next has begun beside them, and cannot know of it."""
        symbols: dict[str, list[str]] = {}
        for number in numbers:
            for feed, names in self._symbols[number].items():
                symbols.setdefault(feed, []).extend(names)
        async with anyio.create_task_group() as tasks:
            for feed, names in symbols.items():
                tasks.start_soon(self.steered.feeds[feed].fill_gaps, names, _FILL_SECONDS)


def _ts(text: str) -> int:
    return int(json.loads(text).get("ts", 0))
