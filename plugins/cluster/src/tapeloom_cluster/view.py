"""What a node knows of its cluster: the entries of the bucket, in their order."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from attrs import Factory, define, frozen

from .records import FREE, Member, Owner

__all__ = ["Slot", "View"]

_member = msgspec.json.Decoder(Member)
_owner = msgspec.json.Decoder(Owner)


@frozen
class Slot:
    """A slot as the bucket has it."""

    owner: Owner = FREE
    revision: int = 0  #: that of its entry; 0 if it was never owned


_NEVER_OWNED = Slot()


@define(eq=False)
class View:
    """The state of a cluster after the entries that were applied."""

    members: dict[str, Member] = Factory(dict)  #: the nodes by name
    revisions: dict[str, int] = Factory(dict)  #: of the entries of nodes, also after they expired
    draining: set[str] = Factory(set)  #: names of nodes that are to hold nothing
    _slots: dict[int, dict[int, Slot]] = Factory(dict)

    def apply(self, key: str, revision: int, value: bytes | None) -> bool:
        """Apply an entry; without *value* it was deleted or has expired. Unknown keys are ignored.

        Return whether it says more than that a node is still there. Raises ValueError if the value cannot be read.
        """
        kind, _, rest = key.partition(".")
        try:
            if kind == "node":
                self.revisions[rest] = revision
                if value is None:
                    return self.members.pop(rest, None) is not None
                before, member = self.members.get(rest), _member.decode(value)
                self.members[rest] = member
                return before is None or before.id != member.id
            if kind == "drain":
                if value is None:
                    self.draining.discard(rest)
                else:
                    self.draining.add(rest)
            elif kind == "slot":
                shard, slot = map(int, rest.split("."))
                owner = FREE if value is None else _owner.decode(value)
                self._slots.setdefault(shard, {})[slot] = Slot(owner, revision)
        except msgspec.MsgspecError as error:
            raise ValueError(f"the entry {key!r} of the bucket cannot be read: {error}") from error
        return True

    def slot(self, shard: int, slot: int) -> Slot:
        """Return a slot."""
        return self._slots.get(shard, {}).get(slot, _NEVER_OWNED)

    def is_owned(self, slot: Slot) -> bool:
        """Return whether the owner of a slot is there."""
        owner = slot.owner
        member = self.members.get(owner.node)
        return owner.phase != "free" and member is not None and member.id == owner.id

    def owned(self, shard: int) -> Iterator[tuple[int, Slot]]:
        """Yield the slots of a shard whose owner is there."""
        for number, slot in self._slots.get(shard, {}).items():
            if self.is_owned(slot):
                yield number, slot

    def shards_of(self, node: str) -> list[int]:
        """Return the shards that a node owns."""
        return [
            shard
            for shard in self._slots
            if any(slot.owner.node == node for _, slot in self.owned(shard))
        ]

    def others_live(self, shard: int, node: str) -> int:
        """Return how many other nodes are live in a shard, and not leaving."""
        return sum(
            slot.owner.phase == "live" and slot.owner.node != node for _, slot in self.owned(shard)
        )

    def holders(self, shard: int) -> list[str]:
        """Return the nodes that hold a shard and do not leave, the newest first."""
        found = [
            (-slot.revision, slot.owner.node)
            for _, slot in self.owned(shard)
            if slot.owner.phase != "leaving"
        ]
        return [node for _, node in sorted(found)]
