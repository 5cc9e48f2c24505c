"""The stream with the events, and the bucket with the positions: created, or checked if they exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from attrs import frozen
from tapeloom.errors import SinkRefused, SinkUnavailable

from .connection import NOT_ENABLED, ApiError, Connection
from .settings import Settings

__all__ = ["StreamInfo", "bucket_of", "ensure", "expect_settings", "find", "refuse"]

#: JetStream's numbers of errors.
_STREAM_NOT_FOUND, _STREAM_EXISTS, _OVERLAP = 10059, 10058, 10065
_NOT_ENABLED = {NOT_ENABLED, 10039}  # by the server, for the account
#: What another setting or another server would help against: limits of the account and the server,
#: and more replicas than there are servers.
_PERMANENT = {10074, 10002, 10026, 10027, 10028, 10047, 10052, 10060, 10089, 10120, 10122}
#: The smallest maximum size of a message that is of use.
_MIN_MESSAGE = 64 * 1024
#: Messages are smaller than this, whatever the server allows.
_MAX_MESSAGE = 1 << 20
#: Space in a message for the header and the protocol.
_HEADER_BYTES = 4096


@frozen
class StreamInfo:
    """A stream as the server describes it."""

    config: Mapping[str, Any]
    created: (
        str  #: When it was created. A stream of the same name that was deleted has another time.
    )
    first: int  #: Number of its first message.
    last: int  #: Number of its last message.
    messages: int  #: Number of messages.
    bytes: int  #: Their size.

    def part_size(self, max_payload: int) -> int:
        """Return how many bytes of a body one message may have."""
        most: int = self.config.get("max_msg_size", -1)
        sizes = [_MAX_MESSAGE, max_payload, *([most] if most > 0 else [])]
        return min(sizes) - _HEADER_BYTES


def bucket_of(stream: str) -> str:
    """Return the name of the key-value bucket with the positions of a stream's sinks."""
    return f"{stream}_positions"


async def ensure(connection: Connection, settings: Settings) -> StreamInfo:
    """Return the stream, and create it and its bucket if they do not exist.

    Raises SinkRefused if it exists with other settings.
    """
    info = await find(connection, settings.stream)
    if info is None:
        info = await _create(connection, _wanted(settings))
    expect_settings(info, settings)
    bucket = f"KV_{bucket_of(settings.stream)}"
    if await find(connection, bucket) is None:
        replicas = info.config.get("num_replicas", 1)
        await _create(connection, _bucket(bucket_of(settings.stream), replicas))
    return info


async def find(connection: Connection, name: str) -> StreamInfo | None:
    """Return a stream, or None if it does not exist."""
    try:
        return _info(await connection.call(f"STREAM.INFO.{name}"))
    except ApiError as error:
        if error.code == _STREAM_NOT_FOUND:
            return None
        refuse(error, f"the stream {name!r} cannot be used")


async def _create(connection: Connection, config: Mapping[str, Any]) -> StreamInfo:
    name = config["name"]
    try:
        return _info(await connection.call(f"STREAM.CREATE.{name}", config))
    except ApiError as error:
        if error.code == _STREAM_EXISTS:  # another process was faster
            found = await find(connection, name)
            if found is not None:
                return found
        if error.code == _OVERLAP:
            raise SinkRefused(
                f"the stream {name!r} cannot be created: another stream has the subjects"
                f" {config['subjects'][0]!r}. Write its name as stream, or choose another prefix."
            ) from None
        refuse(error, f"the stream {name!r} cannot be created")


def refuse(error: ApiError, problem: str) -> NoReturn:
    """Raise what an error of JetStream means: SinkRefused or SinkUnavailable."""
    if error.code in _NOT_ENABLED:
        raise SinkRefused(
            f"{problem}: JetStream is off in this NATS server, or for this account. Start it with -js, or"
            " enable it for the account."
        ) from None
    text = f"{problem}: {error.text} (error {error.code})"
    if error.code in _PERMANENT:
        raise SinkRefused(f"{text}. Change replicas or max_bytes, or the limits of the account.")
    raise SinkUnavailable(f"{text}. If this repeats, check the server's log.") from None


def expect_settings(info: StreamInfo, settings: Settings) -> None:
    """Raise SinkRefused if a stream has other settings than the sink needs, or than its settings say."""
    if problems := list(_differences(info.config, settings)):
        raise SinkRefused(
            f"the stream {settings.stream!r} has other settings: {'; '.join(problems)}. Change the"
            " settings of the sink or the stream, or write the name of another stream."
        )


def _wanted(settings: Settings) -> dict[str, Any]:
    return {
        "name": settings.stream,
        "subjects": [f"{settings.prefix}.>"],
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "num_replicas": settings.replicas or 1,
        "max_bytes": settings.max_bytes or -1,
        "max_age": settings.max_age or 0,
        "allow_direct": True,
    }


def _bucket(bucket: str, replicas: int) -> dict[str, Any]:
    """Return the stream of a key-value bucket that keeps the latest value of each key."""
    return {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "num_replicas": replicas,
        "max_msgs_per_subject": 1,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
    }


def _differences(config: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """Yield what a stream has otherwise than the sink needs, or than its settings say."""
    wanted = {"retention": "limits", "storage": "file"}
    if settings.replicas is not None:
        wanted["num_replicas"] = settings.replicas  # type: ignore[assignment]  # of any type
    if settings.max_bytes is not None:
        wanted["max_bytes"] = settings.max_bytes  # type: ignore[assignment]
    if settings.max_age is not None:
        wanted["max_age"] = settings.max_age  # type: ignore[assignment]
    for key, value in wanted.items():
        if config.get(key) != value:
            yield f"{key} is {config.get(key)!r}, expected {value!r}"
    subjects = config.get("subjects") or []
    if not any(_covers(subject, settings.prefix) for subject in subjects):
        yield f"its subjects are {subjects}, expected {settings.prefix}.>"
    for key in ("max_msgs_per_subject", "max_msg_size"):
        least = _MIN_MESSAGE if key == "max_msg_size" else 1 << 62
        if 0 < config.get(key, -1) < least:
            expected = f"at least {least}" if key == "max_msg_size" else "no limit"
            yield f"{key} is {config[key]}, expected {expected}"
    for key in ("sealed", "no_ack", "mirror", "subject_transform"):
        if config.get(key):
            yield f"it has {key}, which keeps a sink from writing to it"


def _covers(pattern: str, prefix: str) -> bool:
    """Return whether the subject *pattern* of a stream includes everything below *prefix*."""
    tokens, names = pattern.split("."), prefix.split(".")
    if tokens[-1] != ">" or len(tokens) > len(names) + 1:
        return False
    return all(token in ("*", name) for token, name in zip(tokens[:-1], names, strict=False))


def _info(answer: Mapping[str, Any]) -> StreamInfo:
    state = answer["state"]
    return StreamInfo(
        answer["config"],
        answer["created"],
        state["first_seq"],
        state["last_seq"],
        state["messages"],
        state["bytes"],
    )
