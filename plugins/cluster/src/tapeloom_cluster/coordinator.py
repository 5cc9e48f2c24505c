"""Decides what one node of a cluster does: join, take slots, let go of them. No I/O, no clock of its own.

The bucket is the only truth: whoever reads its entries in order knows all that is decided. A node writes an
entry only on condition that it is still the one that it knows, and acts when it reads its own entry back.

- A node has a lease: its entry expires unless it is renewed. It owns slots of shards by entries that name it
  and the random id with which it joined. If its lease ends, it owns nothing, and others take its slots.
- The fence of a slot is the revision of the entry with which it was taken, so a later owner's is greater.
- A shard has one slot more than replicas. It moves by that: the new node takes the free slot and is live
  before the old one leaves. A node leaves only if, at its own entry, enough others are live: entries have
  one order, so two nodes never leave a shard by pointing at each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
from attrs import define, field, frozen

from .placement import place
from .records import FREE, Member, Owner, Phase, node_key, slot_key
from .view import View

__all__ = ["Action", "Coordinator", "Lose", "Put", "Refence", "Rules", "Start", "Stop"]

#: Parts of the lease after which it is renewed, and that are kept as a distance to its end.
_RENEW, _MARGIN = 1 / 3, 0.1


@frozen
class Rules:
    """What all nodes of a cluster have in common."""

    shards: int
    replicas: int
    lease_seconds: float
    #: Shards of which a venue allows one owner at a time: they are released before they are taken.
    exclusive: frozenset[int] = frozenset()
    #: A node that has joined waits so long for others before it takes what nobody has.
    settle_seconds: float = 1.0


@frozen
class Put:
    """Write an entry if its last revision is *expected*; 0: if there is none."""

    key: str
    value: bytes
    expected: int
    expires: bool = False  #: it does so after the lease


@frozen
class Start:
    """Stream the symbols of a shard as the owner of a slot."""

    shard: int
    slot: int
    fence: int
    resume: bool  #: nobody else is live: continue after what is stored


@frozen
class Refence:
    """Go on with a shard as the owner of the same slot, with a new fence."""

    shard: int
    slot: int
    fence: int


@frozen
class Stop:
    """Stop to stream a shard, publish what was read of it, and call `Coordinator.stopped`."""

    shard: int


@frozen
class Lose:
    """Stop to stream a shard, and publish nothing more of it: it is another node's."""

    shard: int


Action: TypeAlias = Put | Start | Refence | Stop | Lose


@define
class _Held:
    """A slot that this node holds."""

    slot: int
    revision: int
    phase: Phase
    is_stopping: bool = False
    in_limbo: bool = False  #: the lease has ended, and it is not known whether another node took it
    #: It was begun beside another owner, of whom nothing was heard since this node is live: that one may have
    #: died before, and then what came in between is missing.
    is_beside: bool = False


@define(eq=False)
class Coordinator:
    """The decisions of the node *name*. *make_id* returns a random id for each time that it joins."""

    name: str
    rules: Rules
    make_id: Callable[[], str]
    describe: Callable[[str], Member]  #: returns the entry of the node with an id
    view: View = field(factory=View)
    valid_until: float = 0.0  #: until when the lease holds, in monotonic seconds
    _held: dict[int, _Held] = field(factory=dict)
    _pending: dict[str, int] = field(factory=dict)  #: keys that were written, not read back yet
    _id: str = ""
    _joined_at: float | None = None
    _sent_at: float = 0.0
    _is_synced: bool = False
    _is_decided: bool = False  #: nothing has changed since the last decision

    @property
    def is_member(self) -> bool:
        """Whether the node has joined, as far as it knows."""
        return self._joined_at is not None

    @property
    def has_limbo(self) -> bool:
        """Whether it is not known of a shard if it is still this node's."""
        return any(held.in_limbo for held in self._held.values())

    def is_settled(self, now: float) -> bool:
        """Whether the node has taken what it is to take after it joined."""
        may_take = (self._joined_at or 0.0) + self.rules.settle_seconds
        return self.is_member and now > may_take and not self._pending

    @property
    def held(self) -> dict[int, int]:
        """The shards that the node holds, each with its slot."""
        return {shard: held.slot for shard, held in self._held.items()}

    # --------------------------------------------------------------------------- what the bucket says

    def restart(self) -> None:
        """Forget what was read: all entries are read again."""
        self.view = View()
        self._pending.clear()
        self._is_synced = False

    def synced(self, now: float) -> list[Action]:
        """All entries that there are have been applied."""
        self._is_synced, self._is_decided = True, False
        actions: list[Action] = []
        if self.is_member and not self._is_there():
            actions += self._lease_ended()
        for shard in range(self.rules.shards):
            held = self._held.get(shard)
            if held is not None:
                actions += self._on_slot(shard, held.slot)
            for number, slot in self.view.owned(shard):
                if slot.owner.id == self._id and shard not in self._held:
                    actions += self._on_slot(shard, number)
        for shard in [*self._held]:
            actions += self._look_beside(shard)
        return [*actions, *self.decide(now)]

    def apply(self, key: str, revision: int, value: bytes | None, now: float) -> list[Action]:
        """Apply an entry; return what follows at once. `decide` is to be called after some of them."""
        if self.view.apply(key, revision, value):
            self._is_decided = False
        if self._pending.get(key, 0) <= revision:
            self._pending.pop(key, None)
        if not self._is_synced:
            return []
        kind, _, rest = key.partition(".")
        if kind == "node" and rest == self.name:
            return self._on_member(now)
        if kind == "slot":
            shard, slot = map(int, rest.split("."))
            return [*self._on_slot(shard, slot), *self._look_beside(shard)]
        if kind == "node":
            return [action for shard in [*self._held] for action in self._look_beside(shard)]
        return []

    def _look_beside(self, shard: int) -> list[Action]:
        """Look whether the owner beside whom a shard was begun is still there; begin it anew if not."""
        held = self._held.get(shard)
        if held is None or not held.is_beside or held.in_limbo or held.is_stopping:
            return []
        view = self.view
        others = [
            max(slot.revision, view.revisions.get(slot.owner.node, 0))
            for _, slot in view.owned(shard)
            if slot.owner.node != self.name and slot.owner.phase != "starting"
        ]
        if others:
            held.is_beside = held.phase == "starting" or max(others) < held.revision
            return []
        held.is_beside = False
        begin = Start(shard, held.slot, held.revision, resume=True)
        return [Lose(shard), begin, *self._put_slot(shard, held, "starting")]

    def _on_member(self, now: float) -> list[Action]:
        if self._is_there():
            if not self.is_member:
                self._joined_at = now
                self.renewed(self._sent_at)
            return []
        return self._lease_ended() if self.is_member else []

    def _on_slot(self, shard: int, number: int) -> list[Action]:
        slot = self.view.slot(shard, number)
        held = self._held.get(shard)
        if slot.owner.id != self._id or not self.is_member:
            if held is None or held.slot != number or held.in_limbo:
                return []
            return [self._lose(shard)]
        if held is None:
            if slot.owner.phase == "leaving":  # its release was not written
                return self._put(slot_key(shard, number), FREE, slot.revision)
            is_beside = self.view.others_live(shard, self.name) > 0
            self._held[shard] = _Held(number, slot.revision, slot.owner.phase, is_beside=is_beside)
            return [Start(shard, number, slot.revision, resume=not is_beside)]
        held.revision, held.phase = slot.revision, slot.owner.phase
        if held.in_limbo:
            held.in_limbo = False
            return [Refence(shard, number, slot.revision)]
        if held.phase == "leaving" and not held.is_stopping:
            if shard in self.rules.exclusive or self._may_leave(shard):
                held.is_stopping = True
                return [Stop(shard)]
            return self._put_slot(shard, held, "live")
        return []

    def _is_there(self) -> bool:
        member = self.view.members.get(self.name)
        return member is not None and member.id == self._id

    def _may_leave(self, shard: int) -> bool:
        needed = min(self.rules.replicas, len(self._eligible()))
        return self.view.others_live(shard, self.name) >= max(needed, 1)

    def _eligible(self) -> list[str]:
        return [name for name in self.view.members if name not in self.view.draining]

    # ---------------------------------------------------------------------------------- what is done

    def started(self, shard: int) -> list[Action]:
        """All subscriptions of a shard are answered: the node is live."""
        held = self._held.get(shard)
        if held is None or held.phase != "starting" or held.in_limbo:
            return []
        return self._put_slot(shard, held, "live")

    def stopped(self, shard: int) -> list[Action]:
        """Release a shard that was stopped, and of which everything that was read is published."""
        held = self._held.pop(shard, None)
        if held is None:
            return []
        return self._put(slot_key(shard, held.slot), FREE, held.revision)

    def failed(self, put: Put) -> None:
        """Take account of an entry that was not written, because it is another one by now."""
        self._pending.pop(put.key, None)
        self._is_decided = False

    def renewal(self, now: float) -> Put | None:
        """Return the entry that renews the lease, if it is due."""
        if not self.is_member or now < self._sent_at + self.rules.lease_seconds * _RENEW:
            return None
        return self._put_member(now)

    def renewed(self, sent_at: float) -> None:
        """Take account of an entry of the node that was stored, and was sent at this time."""
        until = sent_at + self.rules.lease_seconds * (1 - _MARGIN)
        self.valid_until = max(self.valid_until, until)

    def leave(self) -> list[Put]:
        """Return the entries that release everything at once, at the end of the process."""
        puts = [
            Put(slot_key(shard, held.slot), msgspec.json.encode(FREE), held.revision)
            for shard, held in self._held.items()
            if not held.in_limbo
        ]
        self._held.clear()
        return puts

    # -------------------------------------------------------------------------------- what is decided

    def decide(self, now: float) -> list[Action]:
        """Return what is to be done by what is known *now*."""
        if not self._is_synced:
            return []
        if self.is_member and now >= self.valid_until:
            return [*self._lease_ended(), *self._join(now)]
        if not self.is_member:
            return self._join(now)
        if self._is_decided:
            return []
        may_take = now >= (self._joined_at or 0.0) + self.rules.settle_seconds
        self._is_decided = may_take  # before, time alone changes what follows
        actions = [action for shard in [*self._held] for action in self._reclaim(shard)]
        nodes, rules = self._eligible(), self.rules
        holders = {shard: self.view.holders(shard) for shard in range(rules.shards)}
        for shard, wanted in enumerate(place(rules.shards, rules.replicas, nodes, holders)):
            held = self._held.get(shard)
            if self.name in wanted:
                if held is None and may_take:
                    actions += self._take(shard)
            elif held is not None and not held.in_limbo and held.phase in ("starting", "live"):
                must = shard in rules.exclusive and bool(nodes)
                if must or self._may_leave(shard):
                    actions += self._put_slot(shard, held, "leaving")
        return actions

    def _join(self, now: float) -> list[Action]:
        if self.name in self.view.members or node_key(self.name) in self._pending:
            return []  # an entry of before, until it expires; or of another process of that name
        self._id = self.make_id()
        put = self._put_member(now)
        return [put] if put is not None else []

    def _put_member(self, now: float) -> Put | None:
        key = node_key(self.name)
        if key in self._pending:
            return None
        self._sent_at = now
        expected = self.view.revisions.get(self.name, 0)
        self._pending[key] = expected + 1
        return Put(key, msgspec.json.encode(self.describe(self._id)), expected, expires=True)

    def _lease_ended(self) -> list[Action]:
        """Own nothing any more; what is streamed goes on until it is known who has it."""
        self._joined_at = None
        self._id = ""  # an entry of before that is read late must not count
        for held in self._held.values():
            held.in_limbo = True
        return [self._lose(shard) for shard, held in [*self._held.items()] if held.is_stopping]

    def _reclaim(self, shard: int) -> list[Action]:
        """Take a slot again that was this node's before its lease ended, unless another node has it."""
        held = self._held[shard]
        if not held.in_limbo:
            return []
        slot = self.view.slot(shard, held.slot)
        if slot.owner.node != self.name or slot.owner.phase == "free":
            return [self._lose(shard)]
        held.revision = slot.revision
        return self._put_slot(shard, held, "starting")  # live when it publishes again

    def _lose(self, shard: int) -> Lose:
        self._held.pop(shard, None)
        return Lose(shard)

    def _take(self, shard: int) -> list[Action]:
        """Take a slot of a shard: that of a node that has ended, or else a free one."""
        view, rules = self.view, self.rules
        owned = dict(view.owned(shard))
        if any(slot.owner.node == self.name for slot in owned.values()):
            return []
        if shard in rules.exclusive and len(owned) >= rules.replicas:
            return []
        left = [number for number in range(rules.replicas + 1) if number not in owned]
        left.sort(key=lambda number: (view.slot(shard, number).owner.phase == "free", number))
        if not left or any(slot_key(shard, number) in self._pending for number in left):
            return []
        owner = Owner(self.name, self._id, "starting")
        return self._put(slot_key(shard, left[0]), owner, view.slot(shard, left[0]).revision)

    def _put_slot(self, shard: int, held: _Held, phase: Phase) -> list[Action]:
        owner = Owner(self.name, self._id, phase)
        return self._put(slot_key(shard, held.slot), owner, held.revision)

    def _put(self, key: str, owner: Owner, expected: int) -> list[Action]:
        if key in self._pending:
            return []
        self._pending[key] = expected + 1
        return [Put(key, msgspec.json.encode(owner), expected)]
