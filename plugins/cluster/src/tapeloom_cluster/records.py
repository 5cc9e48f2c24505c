"""What the nodes of a cluster write into its key-value bucket."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["FREE", "Member", "Owner", "Phase", "drain_key", "node_key", "slot_key"]

#: What the owner of a slot does.
#: starting: It subscribes to the symbols.
#: live: The venue has answered all subscriptions.
#: leaving: It lets go if enough others are live.
#: free: Nobody owns the slot.
Phase = Literal["starting", "live", "leaving", "free"]


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node, under ``node.NAME``. The entry expires unless the node renews it: this is its lease."""

    id: str  #: A random name of the process.
    shards: int  #: Number of shards, by the stack of the node.
    replicas: int  #: Number of nodes that hold a shard, by the stack of the node.
    host: str = ""  #: The name of its machine.
    since: int = 0  #: When it joined, in ns since 1970, for people.
    held: int = 0  #: Number of shards that it holds.
    events: int = 0  #: Number of events that it has published.
    gaps: int = 0  #: Number of gaps that it has published.
    last_event: int = 0  #: When it read the last event that it has published, in ns.
    lag: float = 0.0  #: Seconds from the read of an event until it was stored, of the last batch.


class Owner(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who owns a slot of a shard, under ``slot.SHARD.SLOT``."""

    node: str = ""  #: The name of the node.
    id: str = ""  #: Its `Member.id`: a node that has joined anew owns nothing of before.
    phase: Phase = "free"


#: A slot that nobody owns.
FREE = Owner()


def node_key(name: str) -> str:
    """Return the key of a node."""
    return f"node.{name}"


def drain_key(name: str) -> str:
    """Return the key that exists while a node is to hold nothing."""
    return f"drain.{name}"


def slot_key(shard: int, slot: int) -> str:
    """Return the key of a slot of a shard."""
    return f"slot.{shard}.{slot}"
