"""What the server is, and how safely it keeps data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tapeloom.errors import SinkRefused, SinkUnavailable

__all__ = ["describe", "refuse_unusable"]

#: The oldest version with streams.
OLDEST = (5, 0)


def refuse_unusable(place: str, info: Mapping[str, Any]) -> None:
    """Raise SinkRefused, or SinkUnavailable for a replica, if a server with this INFO cannot be used."""
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        raise SinkRefused(
            f"the Redis server {place} has version {version or 'unknown'}, which has no streams."
            " Use Redis 5.0 or newer, or Valkey."
        )
    if info.get("cluster_enabled"):
        raise SinkRefused(
            f"the Redis server {place} is a Redis Cluster, which is not supported: it has no transaction"
            " over all keys of a batch. Use a single server."
        )
    if info.get("role") == "slave":  # it may become the primary
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        raise SinkUnavailable(
            f"the Redis server {place} is a replica, which stores nothing itself. Write the address of its"
            f" primary into url: {primary}."
        )


def describe(place: str, info: Mapping[str, Any], config: Mapping[str, str]) -> list[str]:
    """Return lines for people about a server with this INFO; *config* is empty if it may not be read."""
    name, version = info.get("server_name", "redis"), info.get("redis_version", "")
    version = info.get(f"{name}_version", version)
    lines = [f"{name} {version} at {place}, {info.get('role', 'unknown role')}"]
    lines.append(_durability(info, config))
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory") and policy != "noeviction":
        lines.append(
            f"maxmemory-policy is {policy}: a full server deletes keys, also those of this sink, and then"
            " events are lost or stored twice. Set it to noeviction."
        )
    limit = info.get("maxmemory_human") if info.get("maxmemory") else "no limit"
    lines.append(f"memory: {info.get('used_memory_human', '?')} used, {limit}")
    return lines


def _durability(info: Mapping[str, Any], config: Mapping[str, str]) -> str:
    if not info.get("aof_enabled"):
        return (
            "the append-only file is off (appendonly no): what is stored since the last snapshot is lost if"
            " the server is killed or crashes, and is not sent again. Set appendonly to yes."
        )
    sync = config.get("appendfsync", "")
    meaning = {
        "always": "what is stored survives a crash of the server and of its machine",
        # A kill loses data too: the server answers before it writes while an earlier sync is going on.
        "everysec": "if the server or its machine crashes, what was stored in the last two seconds may be"
        " lost, and is not sent again. Set appendfsync to always to prevent that",
        "no": "if the server or its machine crashes, what was stored in the last half minute or so may be"
        " lost, and is not sent again. Set appendfsync to always to prevent that",
    }
    known = meaning.get(sync, "this user may not read when it is written to disk")
    return f"the append-only file is on (appendfsync {sync or 'unknown'}): {known}."
