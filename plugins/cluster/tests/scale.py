"""Measure a cluster of up to 200 nodes and 50,000 subscriptions, in virtual time.

``python plugins/cluster/tests/scale.py`` prints for each size the CPU time of a placement, the entries that
are written until all is placed and per second afterwards, and the virtual time that placing takes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from cluster_simulation import Cluster
from tapeloom_cluster.coordinator import Rules
from tapeloom_cluster.placement import place

#: A shard has so many subscriptions, at any size.
SUBSCRIPTIONS_A_SHARD = 50
LEASE = 10.0


def measure(nodes: int, subscriptions: int) -> dict[str, float]:
    """Return what a cluster of a size costs."""
    shards = subscriptions // SUBSCRIPTIONS_A_SHARD
    names = [f"n{number}" for number in range(nodes)]
    holders = dict(enumerate(place(shards, 1, names, {})))
    began = time.process_time()
    for _ in range(10):
        place(shards, 1, names[1:], holders)
    placement = (time.process_time() - began) / 10

    cluster = Cluster(Rules(shards, 1, LEASE), delay=0.02, together=0.1)
    for name in names:
        cluster.start(name)
    placed = 0.0
    while not placed:
        cluster.run(0.1)
        if all(len(found) == 1 for found in cluster.streaming()):
            placed = cluster.now
    cluster.run(2)
    written = cluster.bucket.writes
    cluster.run(3 * LEASE)
    renewals = (cluster.bucket.writes - written) / (3 * LEASE)
    cluster.kill("n0")
    killed = cluster.now
    taken = 0.0
    while not taken:
        cluster.run(0.1)
        if all(len(found) == 1 for found in cluster.streaming()):
            taken = cluster.now - killed
    return {
        "nodes": nodes,
        "subscriptions": subscriptions,
        "placement_ms": placement * 1e3,
        "entries_to_place": written,
        "entries_a_second": renewals,
        "placed_after_s": placed,
        "taken_over_after_s": taken,
    }


if __name__ == "__main__":
    for nodes, subscriptions in ((25, 6_250), (50, 12_500), (100, 25_000), (200, 50_000)):
        found = measure(nodes, subscriptions)
        print("  ".join(f"{name} {value:,.4g}" for name, value in found.items()), flush=True)
