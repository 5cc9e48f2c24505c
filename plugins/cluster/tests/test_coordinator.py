"""Nodes in virtual time: who holds what, through joins, drains, kills, pauses and cuts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cluster_simulation import Cluster
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tapeloom_cluster.coordinator import Rules

LEASE = 3.0


def made(
    nodes: int, *, shards: int = 16, replicas: int = 1, seed: int = 0, **rules: object
) -> Cluster:
    cluster = Cluster(Rules(shards, replicas, LEASE, **rules), seed)  # type: ignore[arg-type]
    cluster.watch = lambda: expect_one_writer(cluster)
    for number in range(nodes):
        cluster.start(f"n{number}")
    cluster.run(3)
    return cluster


def expect_one_writer(cluster: Cluster) -> None:
    for place, names in cluster.writers().items():
        assert len(names) == 1, (cluster.now, place, names)


def expect_settled(cluster: Cluster, but: frozenset[str] = frozenset()) -> None:
    nodes = {*cluster.nodes} - but
    copies = min(cluster.rules.replicas, len(nodes))
    for names in cluster.streaming():
        assert len(names) == len({*names}) == copies
    loads = [load for name, load in cluster.loads().items() if name in nodes]
    assert max(loads) - min(loads) <= 1


def while_streamed(cluster: Cluster, at_least: int) -> Callable[[], None]:
    def check() -> None:
        expect_one_writer(cluster)
        assert min(map(len, cluster.streaming())) >= at_least, cluster.now

    return check


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_nodes_that_start_together_share_the_shards_evenly(nodes: int, replicas: int) -> None:
    cluster = made(nodes, replicas=replicas)

    expect_settled(cluster)


@pytest.mark.parametrize("replicas", [1, 2])
def test_no_shard_is_unstreamed_while_a_node_joins(replicas: int) -> None:
    cluster = made(3, replicas=replicas)
    cluster.watch = while_streamed(cluster, replicas)
    cluster.start("late")
    cluster.run(5)

    expect_settled(cluster)


@pytest.mark.parametrize("replicas", [1, 2])
def test_no_shard_is_unstreamed_while_a_node_is_drained(replicas: int) -> None:
    cluster = made(4, replicas=replicas)
    cluster.watch = while_streamed(cluster, replicas)
    cluster.set_draining("n2", on=True)
    cluster.run(5)
    assert cluster.loads()["n2"] == 0
    expect_settled(cluster, frozenset({"n2"}))
    cluster.set_draining("n2", on=False)
    cluster.run(5)

    expect_settled(cluster)


@pytest.mark.parametrize("seed", range(8))
def test_the_shards_of_a_killed_node_are_taken_over_within_a_lease(seed: int) -> None:
    cluster = made(4, seed=seed)
    cluster.run(seed / 7)
    cluster.kill("n1")
    cluster.run(LEASE + 0.4)  # and the time that the venue takes to answer

    expect_settled(cluster)


def test_with_two_replicas_a_kill_leaves_every_shard_streamed() -> None:
    cluster = made(4, replicas=2)
    cluster.watch = while_streamed(cluster, 1)
    cluster.kill("n1")
    cluster.run(10)

    expect_settled(cluster)


def test_a_node_that_was_paused_for_longer_than_its_lease_publishes_nothing_as_the_owner() -> None:
    cluster = made(3)
    before = dict(cluster.nodes["n0"].fences)
    cluster.pause("n0", 3 * LEASE)
    cluster.run(2 * LEASE)
    fences = {
        s: node.fences[s] for node in cluster.nodes.values() for s in node.fences if s in before
    }
    assert all(fences[shard] > before[shard] for shard in before)
    cluster.run(10)

    expect_settled(cluster)


def test_a_node_that_was_cut_off_takes_its_own_shards_again_if_nobody_has() -> None:
    cluster = made(1)
    before = dict(cluster.nodes["n0"].fences)
    cluster.cut_off("n0", 3 * LEASE)
    cluster.watch = while_streamed(cluster, 1)
    cluster.run(5 * LEASE)
    after = cluster.nodes["n0"].fences

    assert after.keys() == before.keys()
    assert all(after[shard] > before[shard] for shard in before)


def test_a_node_that_takes_its_own_shards_again_is_not_live_before_it_publishes() -> None:
    cluster = made(1)
    node = cluster.nodes["n0"].coordinator
    phases = set()
    cluster.watch = lambda: phases.update(
        slot.owner.phase for shard in range(16) for _, slot in node.view.owned(shard)
    )
    cluster.cut_off("n0", 3 * LEASE)
    cluster.run(5 * LEASE)

    assert phases == {"live", "starting"}
    expect_settled(cluster)


def test_all_nodes_keep_their_shards_when_the_bucket_was_away_for_all() -> None:
    cluster = made(4, replicas=2)
    before = {name: {*node.fences} for name, node in cluster.nodes.items()}
    for name in cluster.nodes:
        cluster.cut_off(name, 20 * LEASE + cluster.random.uniform(0, 0.5))
    cluster.watch = while_streamed(cluster, 2)
    cluster.run(22 * LEASE)

    assert {name: {*node.fences} for name, node in cluster.nodes.items()} == before


def test_a_shard_with_one_owner_at_a_time_is_released_before_it_is_taken() -> None:
    cluster = made(2, shards=4, exclusive=frozenset(range(4)))

    def check() -> None:
        expect_one_writer(cluster)
        assert max(map(len, cluster.streaming())) <= 1

    cluster.watch = check
    cluster.start("late")
    cluster.set_draining("n0", on=True)
    cluster.run(5)

    expect_settled(cluster, frozenset({"n0"}))


FAULT = st.tuples(
    st.sampled_from(["start", "kill", "pause", "cut", "drain", "undrain"]),
    st.integers(0, 5),
    st.floats(0.05, 6),
)


@example(1, 0, [("pause", 2, 1.0)])  # it wakes as its lease ends
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(0, 1000), st.lists(FAULT, max_size=8))
def test_a_slot_has_one_writer_and_all_shards_find_their_nodes_whatever_happens(
    replicas: int, seed: int, faults: list[tuple[str, int, float]]
) -> None:
    cluster = made(3, shards=7, replicas=replicas, seed=seed)
    for kind, number, seconds in faults:
        name = f"n{number}"
        is_there = name in cluster.nodes
        if kind == "start" and not is_there:
            cluster.start(name)
        elif kind == "kill" and is_there and len(cluster.nodes) > 1:
            cluster.kill(name)
        elif kind == "pause" and is_there and not cluster.nodes[name].is_paused:
            cluster.pause(name, seconds * 2)
        elif kind == "cut" and is_there and not cluster.nodes[name].is_cut_off:
            cluster.cut_off(name, seconds * 2)
        elif kind in ("drain", "undrain"):
            cluster.set_draining(name, on=kind == "drain")
        cluster.run(seconds)
    for number in range(6):
        cluster.set_draining(f"n{number}", on=False)
    cluster.run(12 + 6 * LEASE)

    expect_settled(cluster)


@pytest.mark.parametrize(("seconds", "resumed"), [(0.0, True), (0.02, True), (2.0, False)])
def test_a_node_that_began_beside_one_that_died_before_it_was_live_continues_after_what_is_stored(
    seconds: float, resumed: bool
) -> None:
    """Whether the other one died before is not known at first: its lease has yet to end."""
    cluster = made(1)
    node = cluster.start("late")
    until = cluster.now + 10
    while not node.coordinator.held and cluster.now < until:
        cluster.run(0.01)
    began = [*node.coordinator.held]
    cluster.run(seconds)
    cluster.kill("n0")
    cluster.run(10)

    assert began
    assert {node.resumed[shard] for shard in began} == {resumed}
    expect_settled(cluster)


def test_a_node_that_began_beside_one_that_lives_does_not_begin_again() -> None:
    cluster = made(2)
    node = cluster.start("late")
    cluster.run(10)

    assert node.streams
    assert not any(node.resumed.values())
