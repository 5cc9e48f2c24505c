"""Turns the client's exceptions into errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis import exceptions
from tapeloom.errors import SinkError, SinkRefused, SinkUnavailable, printable

__all__ = ["explained"]

#: The first word of a server's error, which the client takes out of the message of these exceptions.
_CODES: dict[type[redis.RedisError], str] = {
    exceptions.AuthenticationError: "NOAUTH",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.OutOfMemoryError: "OOM",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.NoPermissionError: "NOPERM",
    exceptions.NoScriptError: "NOSCRIPT",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.ClusterError: "CLUSTER",
    exceptions.AskError: "CLUSTER",
    exceptions.ClusterCrossSlotError: "CLUSTER",
}
#: What to do about errors that may pass, by that word.
_TRANSIENT = {
    "LOADING": "It is still reading its data after a start: wait.",
    "BUSY": "It is executing a script of another client: wait, or end it with SCRIPT KILL.",
    "OOM": "Raise its maxmemory, or set max_length so that streams are shortened.",
    "MISCONF": "It cannot write to its disk: free space, or mend the permissions of its folder.",
    "READONLY": "It is a replica: write the address of its primary into url.",
    "MASTERDOWN": "It is a replica without a primary: write the address of a primary into url.",
    "NOSCRIPT": "Its scripts were deleted; they are loaded again.",
    "NOREPLICAS": "Too few replicas are connected: start them, or lower its min-replicas-to-write.",
}
#: What to do about the others.
_LASTING = {
    "NOAUTH": "Set password, and username unless it is the default user, or correct them.",
    "NOPERM": "Grant the right to the user with ACL SETUSER, or use another user.",
    "CLUSTER": "Redis Cluster is not supported: use a single server.",
    "WRONGTYPE": "Another program uses these keys: choose another prefix.",
}


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Raise SinkUnavailable or SinkRefused for an exception of the client; *place* is the address."""
    try:
        yield
    except redis.RedisError as error:
        raise _explained(place, error) from error
    except OSError as error:
        raise SinkUnavailable(f"the Redis server {place} cannot be reached: {error}") from error


def _explained(place: str, error: redis.RedisError) -> SinkError:
    message = printable(str(error)).rstrip(".")
    classes = (code for cls, code in _CODES.items() if isinstance(error, cls))
    code = next(classes, message.partition(" ")[0])
    problem = f"the Redis server {place} refused a command: {message}."
    if code in _TRANSIENT:
        return SinkUnavailable(f"{problem} {_TRANSIENT[code]}")
    if code in _LASTING:
        return SinkRefused(f"{problem} {_LASTING[code]}")
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return SinkRefused(
            f"the certificate of the Redis server {place} is not trusted: {message}. Set ca to the path of"
            " a file with the certificate of its authority."
        )
    if isinstance(error, redis.TimeoutError):
        return SinkUnavailable(
            f"the Redis server {place} did not answer in time. If it is only slow, raise timeout."
        )
    if isinstance(error, redis.ConnectionError):
        return SinkUnavailable(
            f"the Redis server {place} cannot be reached: {message}."
            " Check that it runs, and the address in url."
        )
    return SinkRefused(f"{problem} Redis 5.0 or newer, or Valkey, is needed.")
