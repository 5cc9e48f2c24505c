"""What ``tapeloom cluster status`` and ``drain`` do."""

from __future__ import annotations

import asyncio  # noqa: TID251 nats-py runs on nothing else
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tapeloom.errors import ConfigError, Mistake
from tapeloom.harness import compose_steering

from .bucket import Bucket
from .records import drain_key
from .report import node_rows, shard_rows, table
from .steering import ClusterSteering
from .view import View

__all__ = ["drain", "status", "undo"]

#: Seconds between two looks at a node that is drained.
_LOOK_SECONDS = 0.25
#: The exit codes: what was asked for is not so, or not within the time limit.
_OK, _NOT_SO = 0, 1


def status(stack: str, *, shards: bool) -> int:
    """Print the nodes of a cluster, and its shards if asked for; return the exit code."""

    async def show(steering: ClusterSteering, bucket: Bucket) -> int:
        view = await _read(bucket, View())
        rules = steering.rules
        print(
            f"bucket {steering.bucket}: {len(view.members)} node(s), {rules.shards} shard(s) of"
            f" {rules.replicas} replica(s), lease of {rules.lease_seconds:g} s"
        )
        print(table(node_rows(view, time.time_ns())))
        rows = shard_rows(view, rules.shards, rules.replicas)
        short = [row for row in rows if row.live < rules.replicas]
        if shards:
            print()
            print(table([("shard", "live", "owners"), *(row.cells for row in rows)]))
        if short:
            print(f"{len(short)} of {rules.shards} shard(s) have fewer live nodes than replicas")
        return _NOT_SO if short else _OK

    return _with_bucket(stack, show)


def undo(stack: str, name: str) -> int:
    """Let a node that was drained hold shards again; return the exit code."""

    async def end(_: ClusterSteering, bucket: Bucket) -> int:
        await bucket.delete(drain_key(name))
        print(f"{name} takes shards again")
        return _OK

    return _with_bucket(stack, end)


def drain(stack: str, name: str, seconds: float) -> int:
    """Let other nodes take the shards of a node, and wait until they have; return the exit code."""

    async def begin(_: ClusterSteering, bucket: Bucket) -> int:
        view = await _read(bucket, View())
        if name not in view.members:
            known = ", ".join(sorted(view.members)) or "none"
            print(f"tapeloom: there is no node {name!r}. The nodes are: {known}.", file=sys.stderr)
            return _NOT_SO
        await bucket.set(drain_key(name), b"{}")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await _read(bucket, view, _LOOK_SECONDS)
            if not view.shards_of(name):
                print(f"{name} holds nothing; it may be stopped")
                return _OK
        print(
            f"tapeloom: {name} still holds {len(view.shards_of(name))} shard(s) after {seconds:g} s. Is"
            " there another node that is not drained? See tapeloom cluster status.",
            file=sys.stderr,
        )
        return _NOT_SO

    return _with_bucket(stack, begin)


def _with_bucket(
    stack: str, use: Callable[[ClusterSteering, Bucket], Coroutine[Any, Any, int]]
) -> int:
    """Connect to the bucket of a stack, and return what *use* returns."""
    steering = compose_steering(stack)
    if not isinstance(steering, ClusterSteering):
        problem = "this stack has no [cluster] with use = 'cluster'. Add it."
        raise ConfigError([Mistake("cluster", problem)], stack)

    async def connected() -> int:
        bucket = Bucket(steering.node.settings, steering.bucket, steering.rules.lease_seconds)
        try:
            await bucket.open()
            return await use(steering, bucket)
        finally:
            await bucket.close()

    return asyncio.run(connected())


async def _read(bucket: Bucket, view: View, seconds: float | None = None) -> View:
    """Apply the entries that there are to *view*, or those of the next *seconds*."""
    while True:
        for entry in await bucket.read(seconds or 1.0):
            if entry is not None:
                view.apply(entry.key, entry.revision, entry.value)
            elif seconds is None:
                return view
        if seconds is not None:
            return view
