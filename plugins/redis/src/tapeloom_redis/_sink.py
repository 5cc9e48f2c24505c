"""The sink: writes batches to the streams of a Redis or Valkey server."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import groupby
from operator import attrgetter
from string import Formatter
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tapeloom.errors import BatchRefused, SinkRefused, SinkUnavailable
from tapeloom.events import Event, encode
from tapeloom.plugin import Guarantee, Resume, SinkBatch, SinkRun

from ._failures import explained
from ._latest import Latest
from ._script import RIGHTS, WRITE, Written
from ._server import describe, refuse_unusable
from ._settings import STREAM_FIELDS, Settings

__all__ = ["RedisSink"]

#: Maximum number of bytes of the events of one batch. The server does nothing else while it stores them,
#: and closes a connection that sends 1 GiB.
_MAX_BYTES = 64 << 20


class RedisSink:
    """Stores each event as an entry ``<epoch>-<number>`` of a stream, with the field ``event``: its JSON."""

    guarantee: Guarantee = "exactly_once"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._place = _place(settings.address)
        self._client: redis.Redis | None = None
        self._script = self._cursor = self._positions = ""
        self._latest = Latest(f"{settings.prefix}:latest") if settings.latest else None
        self._streams: dict[Hashable, str] = {}
        self._stream_key = _stream_key(settings.stream)

    def open(self, run: SinkRun) -> Resume:
        """Connect, and return what is stored. Raises SinkUnavailable or SinkRefused."""
        self._cursor = f"{self._settings.prefix}:cursor:{run.sink}"
        self._positions = f"{self._settings.prefix}:positions:{run.sink}"
        with explained(self._place):
            client = self._client = self._connect()
            refuse_unusable(self._place, client.info("everything"))
            self._refuse_missing_rights(client)
            self._script = client.script_load(WRITE)
            if self._latest is not None:
                self._latest.forget()
            last = client.hget(self._cursor, str(run.epoch))
            positions = client.hgetall(self._positions)
        return Resume(int(last or 0), {_text(key): _text(text) for key, text in positions.items()})

    def write(self, batch: SinkBatch) -> None:
        """Store a batch, its number and its positions, or nothing.

        Raises SinkUnavailable, SinkRefused, or BatchRefused for a batch that is too large.
        """
        lines = [encode(event).encode(errors="backslashreplace") for event in batch.events]
        size = sum(map(len, lines))
        if size > _MAX_BYTES and len(lines) > 1:  # core halves it
            raise BatchRefused(
                f"expected a batch of at most {_MAX_BYTES} bytes, got {size}. Set a lower max_batch."
            )
        with explained(self._place):
            latest = self._latest
            newest = {} if latest is None else latest.of(self._opened, batch.events, lines)
            runs = self._runs(batch.first, batch.events, lines)
            self._store(
                Written(batch.epoch, batch.first, batch.last, runs, batch.positions, newest)
            )

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def check(self) -> list[str]:
        """Return what the server is, how it keeps data, and what is missing. Stores nothing."""
        with explained(self._place), self._connect() as client:
            info = client.info("everything")
            refuse_unusable(self._place, info)
            self._refuse_missing_rights(client)
            try:
                config = client.config_get("appendfsync")
            except redis.ResponseError:  # many hosted servers do not allow it
                config = {}
            config = {_text(key): _text(value) for key, value in config.items()}
            return describe(self._place, info, config)

    @property
    def _opened(self) -> redis.Redis:
        if self._client is None:
            raise SinkUnavailable("the sink is not open")
        return self._client

    def _connect(self) -> redis.Redis:
        """Return a client; it connects with its first command."""
        settings, seconds = self._settings, self._settings.timeout / 1e9
        options: dict[str, Any] = {
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "retry": Retry(NoBackoff(), 0),  # a repeated write has to read the cursor first
            "protocol": 2,
            "client_name": "tapeloom",
        }
        if settings.password is not None:
            options["password"] = settings.password.reveal()
            options["username"] = settings.username or None
        if settings.ca and settings.address.startswith("rediss:"):
            options["ssl_ca_certs"] = settings.ca
        return redis.Redis.from_url(settings.address, **options)

    def _refuse_missing_rights(self, client: redis.Redis) -> None:
        settings = self._settings
        prefix = f"{settings.prefix}:"
        keys = self._cursor or f"{prefix}cursor:", f"{prefix}{_example(settings.stream)}"
        flags = int(settings.max_length > 0), int(settings.publish)
        if refused := client.eval(RIGHTS, 2, *keys, *flags):
            user = settings.username or "default"
            raise SinkRefused(
                f"the user {user!r} of the Redis server {self._place} may not execute {_text(refused)} for"
                f" {prefix}*. Grant it to the user with ACL SETUSER, or use another user."
            )

    def _runs(
        self, first: int, events: Sequence[Event], lines: Sequence[bytes]
    ) -> list[tuple[str, int, Sequence[bytes]]]:
        """Return the events that follow each other in one stream, with its key and the first number."""
        runs, start = [], 0
        for kind, group in groupby(events, self._stream_key):
            key = self._streams.get(kind)
            stop = start + sum(1 for _ in group)
            if key is None:
                key = self._streams[kind] = self._named(events[start])
            runs.append((key, first + start, lines[start:stop]))
            start = stop
        return runs

    def _named(self, event: Event) -> str:
        """Return the key of an event's stream."""
        names = {name: getattr(event, name) for name in STREAM_FIELDS}
        return f"{self._settings.prefix}:{self._settings.stream.format(**names)}"

    def _store(self, written: Written) -> None:
        settings = self._settings
        count, arguments = written.arguments(
            self._cursor, self._positions, settings.max_length, publish=settings.publish
        )
        answer, *details = map(_text, self._opened.evalsha(self._script, count, *arguments))
        if answer == "repeated":
            raise SinkUnavailable(
                f"expected that events up to {written.first - 1} of this run are stored, but they are up to"
                f" {details[0]}: another process writes to {self._place} as this sink. If that goes on, end"
                " it, or give this sink another name or prefix."
            )
        if answer == "newer":
            raise SinkRefused(
                f"the stream {details[0]!r} has the entry {details[1]}, and takes none before it, such as"
                f" {written.epoch}-{written.first}: another sink, or a newer run, writes to it. Set another prefix"
                " for this sink, such as prefix = 'replay'."
            )
        if answer == "kind":
            raise SinkRefused(
                f"expected a {details[2]} at the key {details[0]!r}, got a {details[1]}: another program uses"
                " it. Set another prefix for this sink."
            )


def _stream_key(stream: str) -> Callable[[Event], Hashable]:
    """Return the function by which events belong to the same stream."""
    names = [name for _, name, _, _ in Formatter().parse(stream) if name]
    return attrgetter(*names) if set(names) - {"type"} else type


def _example(stream: str) -> str:
    return stream.format(type="trade", venue="venue", symbol="BTC/USDT", channel="trades")


def _place(address: str) -> str:
    """Return an address without user, password and options."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def _text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
