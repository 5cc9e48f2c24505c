"""A cluster in virtual time, without a network: a bucket, nodes that read it with delays, and faults.

The nodes are real `Coordinator` objects. Their clocks start at random times and have nothing in common.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count

from attrs import Factory, define, field
from tapeloom_cluster.coordinator import Action, Coordinator, Lose, Put, Refence, Rules, Start, Stop
from tapeloom_cluster.records import Member


@define(eq=False)
class Bucket:
    """The entries, their order, and when they expire."""

    revision: int = 0
    entries: dict[str, tuple[int, bytes | None]] = Factory(dict)
    writes: int = 0


@define(eq=False)
class Node:
    """One process: its coordinator, what it streams, and what is wrong with it."""

    coordinator: Coordinator
    offset: float  #: of its monotonic clock
    streams: dict[int, float] = Factory(dict)  #: shards that are subscribed, and since when
    fences: dict[int, int] = Factory(dict)
    resumed: dict[int, bool] = Factory(dict)  #: whether a shard continues after what is stored
    wanted: set[int] = Factory(set)  #: shards that were started, and not stopped since
    is_dead: bool = False
    is_paused: bool = False
    is_cut_off: bool = False
    session: int = 0  #: of its connection to the bucket
    inbox: list[tuple[str, int, bytes | None]] = Factory(list)  #: read while it was paused


@define(eq=False)
class Cluster:
    """Runs nodes and a bucket."""

    rules: Rules
    seed: int = 0
    delay: float = 0.01  #: the longest time that an entry takes
    together: float = 0.0  #: for how long entries are collected that a node reads at once
    now: float = 0.0
    bucket: Bucket = Factory(Bucket)
    nodes: dict[str, Node] = Factory(dict)
    watch: Callable[[], None] | None = None  #: called after each step
    _events: list[tuple[float, int, Callable[[], None]]] = Factory(list)
    _numbers: count[int] = field(factory=count)
    random: random.Random = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.random = random.Random(self.seed)

    # ------------------------------------------------------------------------------------- running

    def at(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something after *seconds*."""
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), call))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, call = heapq.heappop(self._events)
            call()
            if self.watch is not None:
                self.watch()
        self.now = end

    def clock(self, node: Node) -> float:
        """Return the time on a node's own clock."""
        return self.now + node.offset

    def lag(self) -> float:
        """Return how long the next entry takes."""
        return self.random.uniform(0, self.delay)

    # --------------------------------------------------------------------------------------- nodes

    def start(self, name: str) -> Node:
        """Start a node."""
        ids = count(1)
        token = self.random.getrandbits(32)
        rules = self.rules
        node = Node(
            Coordinator(
                name,
                rules,
                lambda: f"{name}-{token}-{next(ids)}",
                lambda member_id: Member(member_id, rules.shards, rules.replicas),
            ),
            self.random.uniform(0, 1e6),
        )
        self.nodes[name] = node
        self.connect(node)
        self.tick(node)
        return node

    def connect(self, node: Node) -> None:
        """Let a node read all entries, and then the new ones."""
        node.session += 1
        session = node.session

        def read() -> None:
            if node.session != session or node.is_cut_off or node.is_dead:
                return
            node.coordinator.restart()
            for key, (revision, value) in sorted(
                self.bucket.entries.items(), key=lambda item: item[1][0]
            ):
                node.coordinator.apply(key, revision, value, self.clock(node))
            self.act(node, node.coordinator.synced(self.clock(node)))

        self.at(0.0, read)

    def tick(self, node: Node) -> None:
        """Renew the lease and decide, every twentieth of a lease."""
        if node.is_dead:
            return
        if not node.is_paused and not node.is_cut_off:
            put = node.coordinator.renewal(self.clock(node))
            self.act(node, [*([put] if put else []), *node.coordinator.decide(self.clock(node))])
        self.at(self.rules.lease_seconds / 20, lambda: self.tick(node))

    def act(self, node: Node, actions: list[Action]) -> None:
        """Do what a coordinator has decided."""
        for action in actions:
            if isinstance(action, Put):
                self.put(node, action)
            elif isinstance(action, Start | Refence):
                node.fences[action.shard] = action.fence
                if isinstance(action, Start):
                    node.resumed[action.shard] = action.resume
                    self.subscribe(node, action.shard)
            elif isinstance(action, Stop):
                self.drain(node, action.shard)
            elif isinstance(action, Lose):
                node.wanted.discard(action.shard)
                node.streams.pop(action.shard, None)
                node.fences.pop(action.shard, None)

    def subscribe(self, node: Node, shard: int) -> None:
        """Subscribe to a shard; the venue takes a moment to answer."""
        seconds = self.random.uniform(0.05, 0.3)
        node.wanted.add(shard)

        def poll() -> None:
            if node.is_dead or shard not in node.wanted:
                return
            if not node.is_paused:
                node.streams.setdefault(shard, self.now)
                self.act(node, node.coordinator.started(shard))
            self.at(0.1, poll)  # as the steering does: it may be in limbo now

        self.at(seconds, poll)

    def drain(self, node: Node, shard: int) -> None:
        """Stop a shard; what was read is published in a moment."""
        node.wanted.discard(shard)
        node.streams.pop(shard, None)

        def stopped() -> None:
            if node.is_dead:
                return
            if node.is_paused or node.is_cut_off:
                self.at(0.1, stopped)
                return
            self.act(node, node.coordinator.stopped(shard))
            node.fences.pop(shard, None)

        self.at(self.lag(), stopped)

    # -------------------------------------------------------------------------------------- bucket

    def put(self, node: Node, put: Put) -> None:
        """Write an entry, and let the node know whether it was written."""
        sent = self.clock(node)
        session = node.session

        def arrive() -> None:
            if node.is_dead or node.is_cut_off or node.session != session:
                return
            known, _ = self.bucket.entries.get(put.key, (0, None))
            if known != put.expected:
                self.at(self.lag(), lambda: node.coordinator.failed(put))
                return
            self.store(put.key, put.value, expires=put.expires)
            if put.expires:
                self.at(self.lag(), lambda: node.coordinator.renewed(sent))

        self.at(self.lag(), arrive)

    def store(self, key: str, value: bytes | None, *, expires: bool = False) -> None:
        """Store an entry and send it to all nodes."""
        bucket = self.bucket
        bucket.revision += 1
        bucket.writes += 1
        revision = bucket.revision
        bucket.entries[key] = revision, value
        if expires:

            def expire() -> None:
                if bucket.entries[key][0] == revision:
                    self.store(key, None)

            self.at(self.rules.lease_seconds, expire)
        for node in self.nodes.values():
            self.send(node, key, revision, value)

    def send(self, node: Node, key: str, revision: int, value: bytes | None) -> None:
        """Let a node read an entry; entries keep their order."""
        session = node.session

        def read() -> None:
            if node.is_dead or node.is_cut_off or node.session != session:
                return
            node.inbox.append((key, revision, value))
            if not node.is_paused and len(node.inbox) == 1:
                self.at(self.together, lambda: None if node.is_paused else self.read_inbox(node))

        self.at(self.delay, read)

    def read_inbox(self, node: Node) -> None:
        """Apply what has arrived."""
        inbox, node.inbox = node.inbox, []
        now = self.clock(node)
        for entry in inbox:
            self.act(node, node.coordinator.apply(*entry, now))
        self.act(node, node.coordinator.decide(now))

    # -------------------------------------------------------------------------------------- faults

    def kill(self, name: str) -> None:
        """End a process at once."""
        self.nodes.pop(name).is_dead = True

    def pause(self, name: str, seconds: float) -> None:
        """Stop a process, and let it go on later."""
        node = self.nodes[name]
        node.is_paused = True

        def wake() -> None:
            node.is_paused = False
            self.read_inbox(node)

        self.at(seconds, wake)

    def cut_off(self, name: str, seconds: float) -> None:
        """Cut a node off from the bucket, and let it connect again later."""
        node = self.nodes[name]
        node.is_cut_off = True

        def connect() -> None:
            node.is_cut_off = False
            self.connect(node)

        self.at(seconds, connect)

    def set_draining(self, name: str, *, on: bool) -> None:
        """Let a node hold nothing, or let it hold shards again."""
        self.store(f"drain.{name}", b"{}" if on else None)

    # ------------------------------------------------------------------------------------ findings

    def writers(self) -> dict[tuple[int, int], list[str]]:
        """Return the nodes that may publish, by shard and slot: those whose lease holds by their clock."""
        found: dict[tuple[int, int], list[str]] = {}
        for name, node in self.nodes.items():
            coordinator = node.coordinator
            if node.is_paused or self.clock(node) >= coordinator.valid_until:
                continue
            if not coordinator.is_member or coordinator.has_limbo:
                continue  # as the steering does: then nothing is published
            for shard, slot in coordinator.held.items():
                found.setdefault((shard, slot), []).append(name)
        return found

    def streaming(self) -> list[list[str]]:
        """Return for each shard the nodes that stream it."""
        found: list[list[str]] = [[] for _ in range(self.rules.shards)]
        for name, node in self.nodes.items():
            for shard in node.streams:
                found[shard].append(name)
        return found

    def loads(self) -> dict[str, int]:
        """Return how many shards each node streams."""
        return {name: len(node.streams) for name, node in self.nodes.items()}
