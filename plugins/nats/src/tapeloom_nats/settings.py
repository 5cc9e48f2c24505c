"""The keys of a ``[[sink]]`` that uses this plugin, and of ``[venue.nats]``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, le, matches_re, optional
from tapeloom import Secret
from tapeloom.events import BY_TYPE
from tapeloom.units import duration_ns, size_bytes

__all__ = ["MAX_SHARDS", "SINK_ONLY", "VENUE_ONLY", "Settings", "start_time"]

#: Keys that only a sink has, and those that only a venue has.
SINK_ONLY = ("shards", "replicas", "max_bytes", "max_age")
VENUE_ONLY = ("sinks", "venues", "types", "start", "cursor")
MINUTE = 60_000_000_000
#: A message of each shard is sent at each opening, so there are not more of them than can be useful.
MAX_SHARDS = 1024
#: NATS does not allow these characters in the name of a stream.
_NAME = matches_re(r"[^\s.*>/\\]+")
#: Tokens of a subject: no wildcards, no empty ones, and not the server's own, which begin with $.
_PREFIX = matches_re(r"(?!\$)[^\s.*>]+(\.[^\s.*>]+)*")


def _servers(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _check_servers(
    _: Settings, attribute: Attribute[tuple[str, ...]], urls: tuple[str, ...]
) -> None:
    if not urls:
        raise ValueError(f"{attribute.name} is empty: write at least one, such as nats://host:4222")
    for url in urls:
        _check_server(attribute.name, url)


def _check_server(name: str, url: str) -> None:
    expected = f"{name} must look like nats://host:4222 or tls://host:4222"
    try:
        parts = urlsplit(url)
        has_address = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_address = False
    if "@" in url:  # not shown: what stands before it is secret
        raise ValueError(f"{expected}, without a user: write user and password as settings")
    if not has_address or parts.scheme not in ("nats", "tls") or parts.path.strip("/"):
        raise ValueError(f"{expected}, but is {url!r}")


def _check_password(
    settings: Settings, _: Attribute[Secret | None], password: Secret | None
) -> None:
    if (password is None) != (not settings.user):
        raise ValueError("user and password belong together: set both, or neither")


def _check_login(settings: Settings, _: Attribute[str], __: str) -> None:
    used = [
        name
        for name in ("user", "token", "credentials")
        if getattr(settings, name) not in ("", None)
    ]
    if len(used) > 1:
        raise ValueError(f"{' and '.join(used)} are different ways to log in: set only one of them")


def _check_key(settings: Settings, _: Attribute[str], key: str) -> None:
    if bool(key) != bool(settings.certificate):
        raise ValueError("certificate and key belong together: set both, or neither")


def _names(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _check_types(
    _: Settings, attribute: Attribute[tuple[str, ...]], names: tuple[str, ...]
) -> None:
    for name in names:
        if name not in BY_TYPE:
            known = ", ".join(sorted(BY_TYPE))
            raise ValueError(f"{name!r} is not an event type; known: {known}")


def _check_start(_: Settings, __: Attribute[str | int], start: str | int) -> None:
    if isinstance(start, bool) or (isinstance(start, int) and start < 1):
        raise ValueError(f"start must be the number of a message, from 1 on, but is {start!r}")
    if isinstance(start, str) and start not in ("now", "first"):
        start_time(start)


def start_time(text: str) -> datetime:
    """Return the time that a text says. Raises ValueError for any other text."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise ValueError(
            "start must be 'now', 'first', the number of a message, or a time with its zone such as"
            f" '2026-11-30T12:00:00Z', but is {text!r}"
        )
    return time


def _optional_size(value: str | int | None) -> int | None:
    return None if value is None else size_bytes(value)


def _optional_duration(value: str | int | None) -> int | None:
    return None if value is None else duration_ns(value)


@frozen(kw_only=True)
class Settings:
    """The keys of a ``[[sink]]`` with ``use = "nats"``, and of ``[venue.nats]``.

    Durations are stored in nanoseconds.
    """

    #: Addresses of the servers; of a cluster, some of them.
    servers: tuple[str, ...] = field(
        default=("nats://127.0.0.1:4222",), converter=_servers, validator=_check_servers
    )
    user: str = ""  #: the user to log in as; requires `password`
    password: Secret | None = field(default=None, validator=_check_password)
    token: Secret | None = None  #: the token to log in with
    #: Path of a file with credentials (JWT and seed); requires ``tapeloom-nats[nkeys]``.
    credentials: str = field(default="", validator=_check_login)
    ca: str = ""  #: path of a PEM file with trusted root certificates
    certificate: str = ""  #: path of a PEM file with the certificate of this client
    key: str = field(default="", validator=_check_key)  #: path of the PEM file with its key
    #: Name of the stream; it is created if it does not exist.
    stream: str = field(default="tapeloom", validator=_NAME)
    #: First part of the subjects: events are published to ``PREFIX.SINK.SHARD``.
    prefix: str = field(default="tapeloom", validator=_PREFIX)
    #: How many subjects the symbols are spread over; a batch is one message for each of them.
    shards: int = field(default=1, validator=[ge(1), le(MAX_SHARDS)])
    #: Number of servers that store each message; default: 1, or as the stream has it.
    replicas: int | None = field(default=None, validator=optional(and_(ge(1), le(5))))
    #: Maximum size of the stream, above which its oldest messages are deleted; default: no limit, or
    #: as the stream has it.
    max_bytes: int | None = field(
        default=None, converter=_optional_size, validator=optional(ge(1_000_000))
    )
    #: Age at which messages are deleted; default: never, or as the stream has it.
    max_age: int | None = field(
        default=None, converter=_optional_duration, validator=optional(ge(MINUTE))
    )
    #: As a venue: the names of the sinks whose events are read; default: all in the stream.
    sinks: tuple[str, ...] = field(default=(), converter=_names)
    #: As a venue: the venues whose events are read; default: all.
    venues: tuple[str, ...] = field(default=(), converter=_names)
    #: As a venue: the types of event that are read, such as ``trade``; default: all.
    types: tuple[str, ...] = field(default=(), converter=_names, validator=_check_types)
    #: As a venue: where reading begins if no store has a cursor: ``now``, ``first`` for the oldest message
    #: in the stream, a time such as ``2026-11-30T12:00:00Z``, or the number of a message.
    start: str | int = field(default="now", validator=_check_start)  # type: ignore[arg-type]
    #: As a venue: a name under which the cursor is kept in the bucket of the stream too, for a stack without
    #: a store; default: it is not.
    cursor: str = field(default="", validator=matches_re(r"[A-Za-z0-9_-]*"))
    #: Maximum time until the server answers.
    timeout: int = field(default=5_000_000_000, converter=duration_ns, validator=ge(100_000_000))
