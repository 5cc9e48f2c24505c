"""Decides which nodes hold which shards: evenly, and with as few moves as possible.

It is a pure function of who is there and who holds what, so every node computes the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

__all__ = ["place"]


def place(
    shards: int, replicas: int, nodes: Sequence[str], holders: Mapping[int, Sequence[str]]
) -> list[list[str]]:
    """Return for each shard the nodes that are to hold it, *replicas* different ones if there are so many.

    *holders* are the nodes that hold a shard now, the one that is preferred first; only those among
    *nodes* count. A shard stays where it is unless its node has two more than another one.
    """
    names = sorted(nodes)
    if not names:
        return [[] for _ in range(shards)]
    copies = min(replicas, len(names))
    known = set(names)
    placed = [
        [node for node in holders.get(shard, ()) if node in known][:copies]
        for shard in range(shards)
    ]
    loads = dict.fromkeys(names, 0)
    for kept in placed:
        for node in kept:
            loads[node] += 1
    heap = [(load, name) for name, load in loads.items()]
    heapq.heapify(heap)
    for kept in placed:
        if len(kept) < copies:
            _fill(kept, copies, heap, loads)
    _balance(placed, loads)
    return placed


def _fill(kept: list[str], copies: int, heap: list[tuple[int, str]], loads: dict[str, int]) -> None:
    """Add the nodes with the least load to those that hold a shard."""
    skipped = []
    while len(kept) < copies:
        load, name = heapq.heappop(heap)
        if name in kept:
            skipped.append((load, name))
            continue
        kept.append(name)
        loads[name] = load + 1
        skipped.append((load + 1, name))
    for entry in skipped:
        heapq.heappush(heap, entry)


def _balance(placed: list[list[str]], loads: dict[str, int]) -> None:
    """Move shards from the nodes with the most to those with the least, until they differ by one at most."""
    total, count = sum(loads.values()), len(loads)
    low, extra = divmod(total, count)
    # Those with the most may keep one more, so that as little as possible is moved.
    by_load = sorted(loads, key=lambda name: (-loads[name], name))
    target = {name: low + (place < extra) for place, name in enumerate(by_load)}
    takers = [name for name in by_load[::-1] if loads[name] < target[name]]
    for kept in placed:
        for place, name in enumerate(kept):
            if loads[name] <= target[name]:
                continue
            while takers and loads[takers[-1]] >= target[takers[-1]]:
                takers.pop()
            taker = next((taker for taker in reversed(takers) if taker not in kept), None)
            if taker is None or loads[taker] >= target[taker]:
                continue
            kept[place] = taker
            loads[name] -= 1
            loads[taker] += 1
