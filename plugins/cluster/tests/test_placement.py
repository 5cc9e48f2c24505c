"""Who holds which shards: evenly, on different nodes, with few moves."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from tapeloom_cluster.placement import place

NODES = st.lists(st.sampled_from([f"n{i}" for i in range(9)]), unique=True, max_size=9)


@given(st.integers(1, 40), st.integers(1, 4), NODES, st.data())
def test_each_shard_has_its_replicas_on_different_nodes_evenly(
    shards: int, replicas: int, nodes: list[str], data: st.DataObject
) -> None:
    names = st.lists(st.sampled_from([f"n{i}" for i in range(9)]), unique=True, max_size=5)
    holders = {shard: data.draw(names) for shard in range(shards)}
    placed = place(shards, replicas, nodes, holders)
    loads = Counter(dict.fromkeys(nodes, 0))
    for names_of_shard in placed:
        loads.update(names_of_shard)

    assert len(placed) == shards
    assert all(len({*found}) == len(found) == min(replicas, len(nodes)) for found in placed)
    assert {*loads} == {*nodes}
    assert not loads or max(loads.values()) - min(loads.values()) <= 1


@given(st.integers(1, 60), st.integers(1, 3), st.integers(1, 8))
def test_nothing_moves_if_nothing_has_changed(shards: int, replicas: int, count: int) -> None:
    nodes = [f"n{i}" for i in range(count)]
    first = place(shards, replicas, nodes, {})

    assert place(shards, replicas, nodes, dict(enumerate(first))) == first


@given(st.integers(8, 60), st.integers(1, 2), st.integers(2, 8))
def test_a_node_that_joins_gets_its_share_and_no_other_shard_moves(
    shards: int, replicas: int, count: int
) -> None:
    nodes = [f"n{i}" for i in range(count)]
    before = place(shards, replicas, nodes, {})
    after = place(shards, replicas, [*nodes, "late"], dict(enumerate(before)))
    moved = sum(len({*new} - {*old}) for old, new in zip(before, after, strict=True))
    copies = min(replicas, count)

    assert moved <= -(-shards * min(replicas, count + 1) // (count + 1)) + shards * (
        min(replicas, count + 1) - copies
    )
    assert all(
        "late" in {*new} - {*old}
        for old, new in zip(before, after, strict=True)
        if {*new} != {*old}
    )
