"""Runs a node: follows the bucket, does what the coordinator decides, and joins again after an error."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence

import anyio
import structlog
from attrs import define, field
from tapeloom.errors import ConfigError, Mistake, SinkRefused, SinkUnavailable
from tapeloom.plugin import FeedOutline, Steered
from tapeloom_nats.sink import NatsSink

from .bucket import Bucket
from .coordinator import Action, Coordinator, Lose, Put, Refence, Rules, Start, Stop
from .leases import Leases
from .records import Member
from .session import Node, Session
from .streams import ShardStreams

__all__ = ["ClusterSteering"]

log = structlog.get_logger()

#: Seconds between two attempts to reach the bucket.
_RETRY_SECONDS = 0.5
#: Seconds that the release of everything may take at the end.
_LEAVE_SECONDS = 2.0
#: Entries of one node that are written at once.
_BATCH = 256
#: After so many leases an entry with this node's name is not one of before, but of another process.
_MOST_LEASES = 2.0
#: The longest time between two looks at the lease, in seconds.
_TICK_SECONDS = 0.1


@define(eq=False)
class ClusterSteering:
    """The steering of one node."""

    node: Node
    rules: Rules
    feeds: Sequence[FeedOutline]
    sink: NatsSink
    bucket: str
    lines: Sequence[str]  #: what `tapeloom check` prints
    leases: Leases
    backends: frozenset[str] = frozenset({"asyncio"})
    _warned: bool = False
    _since: int = 0
    _waiting_since: float | None = None  #: since when another process has had this node's name
    _streams: ShardStreams = field(init=False)
    _coordinator: Coordinator = field(init=False)

    def __attrs_post_init__(self) -> None:
        make = lambda settings, run, writer, monotonic: Session(  # noqa: E731
            self.node, self.leases, run, monotonic
        )
        self.sink.make_session = make

    def describe(self) -> Sequence[str]:
        """Return lines for `tapeloom check`."""
        return self.lines

    async def run(self, steered: Steered) -> None:
        """Take part in the cluster until cancelled; then release everything."""
        self._since = steered.clock.time_ns()
        self.leases.monotonic = steered.clock.monotonic
        self._coordinator = Coordinator(
            self.node.name, self.rules, lambda: secrets.token_hex(6), self._member
        )
        self._streams = ShardStreams(self.node, self.leases, self.feeds, steered)
        try:
            while True:
                await self._session(steered.clock.monotonic)
                await steered.clock.sleep(_RETRY_SECONDS)
        finally:
            with anyio.move_on_after(_LEAVE_SECONDS, shield=True):
                await self._leave()

    def _member(self, id: str) -> Member:
        published = self.leases.published
        return Member(
            id, self.rules.shards, self.rules.replicas, socket.gethostname(), self._since,
            len(self._coordinator.held), published.events, published.gaps, published.last_event,
            round(published.lag, 3),
        )  # fmt: skip

    async def _session(self, monotonic: Callable[[], float]) -> None:
        """Follow the bucket until the connection ends. Raises SinkRefused."""
        lease_seconds = self.rules.lease_seconds
        bucket = Bucket(self.node.settings, self.bucket, lease_seconds)
        self._coordinator.restart()
        try:
            await bucket.open()
            await self._streams.open()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._streams.run)
                await self._follow(bucket, monotonic)
        except* (SinkRefused, ConfigError) as group:
            raise _first(group) from None
        except* SinkUnavailable as group:
            if not self._warned:
                self._warned = True
                log.warning("cluster_unavailable", node=self.node.name, reason=str(_first(group)))
        finally:
            with anyio.CancelScope(shield=True):
                await self._streams.close()
                await bucket.close()

    async def _follow(self, bucket: Bucket, monotonic: Callable[[], float]) -> None:
        coordinator = self._coordinator
        tick = min(self.rules.lease_seconds / 20, _TICK_SECONDS)
        while True:
            entries = await bucket.read(tick)
            now = monotonic()
            was_member = coordinator.is_member
            actions: list[Action] = []
            for entry in entries:
                if entry is None:
                    actions += coordinator.synced(now)
                else:
                    actions += coordinator.apply(entry.key, entry.revision, entry.value, now)
            for shard in self._streams.newly_live():
                actions += coordinator.started(shard)
            for shard in self._streams.newly_ended():
                actions += coordinator.stopped(shard)
            if (renewal := coordinator.renewal(now)) is not None:
                actions.append(renewal)
            actions += coordinator.decide(now)
            self._check_others(now)
            self._update_leases(was_member, now)
            await self._do(bucket, actions, monotonic)

    def _check_others(self, now: float) -> None:
        """Raise ConfigError if this node does not fit to those that are there."""
        coordinator, rules, name = self._coordinator, self.rules, self.node.name
        if coordinator.is_member:
            self._waiting_since = None
            return
        for other, member in coordinator.view.members.items():
            if (member.shards, member.replicas) != (rules.shards, rules.replicas) and other != name:
                problem = (
                    f"node {other!r} has {member.shards} shards and {member.replicas} replicas, this one"
                    f" {rules.shards} and {rules.replicas}. Start all nodes with the same stack; to change"
                    " these, stop all of them first."
                )
                raise ConfigError([Mistake("cluster", problem)])
        if name in coordinator.view.members:
            since = self._waiting_since = self._waiting_since or now
            if now - since > _MOST_LEASES * rules.lease_seconds:
                problem = (
                    f"another process is node {name!r} of this cluster. Give each node a name of its own, with"
                    " the environment variable TAPELOOM_NODE."
                )
                raise ConfigError([Mistake("cluster.node", problem)])

    def _update_leases(self, was_member: bool, now: float) -> None:
        coordinator, leases = self._coordinator, self.leases
        if coordinator.is_member != was_member:
            if coordinator.is_member:
                log.warning("cluster_joined", node=self.node.name)
            else:
                log.warning("cluster_lease_ended", node=self.node.name)
            self._warned = False
        leases.valid_until = coordinator.valid_until
        if not coordinator.is_member or coordinator.has_limbo:
            leases.is_settled = False
        elif coordinator.is_settled(now) and self._streams.is_idle:
            leases.is_settled = True

    async def _do(
        self, bucket: Bucket, actions: Sequence[Action], monotonic: Callable[[], float]
    ) -> None:
        puts = [action for action in actions if isinstance(action, Put)]
        for action in actions:
            if isinstance(action, Start):
                self._streams.start(action)
            elif isinstance(action, Refence):
                self._streams.refence(action)
            elif isinstance(action, Stop):
                self._streams.stop(action.shard)
            elif isinstance(action, Lose):
                self._streams.lose(action.shard)
        puts.sort(key=lambda put: not put.expires)  # the renewal first
        for start in range(0, len(puts), _BATCH):
            batch = puts[start : start + _BATCH]
            sent_at = monotonic()
            for put, revision in zip(batch, await bucket.write(batch), strict=True):
                if not revision:
                    self._coordinator.failed(put)
                elif put.expires:
                    self._coordinator.renewed(sent_at)
        self.leases.valid_until = self._coordinator.valid_until

    async def _leave(self) -> None:
        """Release everything, so that other nodes take over at once."""
        name = self.node.name
        if not self._coordinator.is_member:
            return
        bucket = Bucket(self.node.settings, self.bucket, self.rules.lease_seconds)
        self.leases.valid_until = 0.0
        try:
            await bucket.connection.open()
            await bucket.write(self._coordinator.leave())
            await bucket.delete(f"node.{name}")
        except SinkUnavailable as error:
            log.warning("cluster_unavailable", node=name, reason=str(error))
        finally:
            await bucket.close()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
