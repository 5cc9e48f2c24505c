"""What `tapeloom check --connect` says about the server, the stream and the rights."""

from __future__ import annotations

from collections.abc import Sequence

from tapeloom.errors import SinkRefused

from .connection import ApiError, Connection, answer
from .messages import Message
from .settings import Settings
from .stream import StreamInfo, bucket_of, expect_settings, find

__all__ = ["report"]

#: JetStream's number of the error that a message is meant for another stream.
_OTHER_STREAM = 10060


async def report(settings: Settings) -> Sequence[str]:
    """Connect and return lines for people. Raises SinkUnavailable or SinkRefused; changes nothing."""
    connection = Connection(settings)
    try:
        await connection.open()
        lines = [f"{connection.server}, messages up to {connection.max_payload:,} bytes"]
        info = await find(connection, settings.stream)
        if info is None:
            return [
                *lines,
                f"the stream {settings.stream!r} does not exist yet and will be created",
            ]
        expect_settings(info, settings)
        await _check_rights(connection, settings)
        return [*lines, *_describe(info, settings)]
    finally:
        await connection.close()


async def _check_rights(connection: Connection, settings: Settings) -> None:
    """Raise SinkRefused if the user may not publish: the message is meant for no stream, and not stored."""
    headers = {"Nats-Expected-Stream": "none.of.this.name"}
    (reply,) = await connection.exchange([Message(f"{settings.prefix}.check", headers, b"")])
    try:
        answer(reply)
    except ApiError as error:
        if error.code != _OTHER_STREAM:
            raise SinkRefused(
                f"the stream {settings.stream!r} does not take messages: {error.text} (error"
                f" {error.code}). Check the stream."
            ) from None


def _describe(info: StreamInfo, settings: Settings) -> list[str]:
    config = info.config
    limits = []
    if (most := config.get("max_bytes", -1)) > 0:
        limits.append(f"at most {most:,} bytes")
    if age := config.get("max_age", 0):
        limits.append(f"at most {age / 1e9:,.0f} s old")
    lines = [
        (
            f"the stream {settings.stream!r} has {info.messages:,} messages of {info.bytes:,} bytes,"
            f" {' and '.join(limits) or 'without limits'}"
        ),
        f"positions are kept in the bucket {bucket_of(settings.stream)!r}",
    ]
    if config.get("num_replicas", 1) == 1:
        lines.append("1 replica: what is stored is lost if the disk of its server is")
    return lines
