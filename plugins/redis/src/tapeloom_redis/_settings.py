"""The settings of a ``[[sink]]`` with ``use = "redis"``."""

from __future__ import annotations

import string
from typing import Any
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen
from attrs.validators import ge, gt
from tapeloom import Secret
from tapeloom.units import duration_ns

__all__ = ["Settings"]

#: What `stream` may name in braces.
STREAM_FIELDS = ("type", "venue", "symbol", "channel")
#: First words of the keys that the sink uses itself, below the prefix.
OWN_KEYS = ("cursor", "positions", "latest")
_SCHEMES = ("redis", "rediss", "unix")


def _url(_: Settings, attribute: Attribute[Any], value: str | Secret) -> None:
    text = value.reveal() if isinstance(value, Secret) else value
    expected = "expected an address such as 'redis://127.0.0.1:6379/0', 'rediss://…' for TLS or 'unix:///…'"
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme in _SCHEMES and bool(parts.hostname or parts.scheme == "unix")
        is_valid = is_valid and (parts.scheme == "unix" or parts.port != 0)
    except ValueError:
        is_valid = False
    if not is_valid:  # the message does not show the URL, because it may hold a password
        raise ValueError(f"{attribute.name}: {expected}")
    if isinstance(value, str) and (parts.password or "password=" in parts.query):
        raise ValueError(
            f"{attribute.name}: a password must not be in the stack itself: write"
            ' password = { env = "NAME" }, or the whole address as url = { env = "NAME" }'
        )


def _stream(_: Settings, attribute: Attribute[str], value: str) -> None:
    allowed = ", ".join(f"{{{name}}}" for name in STREAM_FIELDS)
    try:
        parts = list(string.Formatter().parse(value))
    except ValueError:
        parts = [("", "?", "", None)]
    names = [name for _, name, _, _ in parts if name is not None]
    plain = all(not spec and conversion is None for _, _, spec, conversion in parts)
    if not value or not plain or any(name not in STREAM_FIELDS for name in names):
        raise ValueError(
            f"{attribute.name}: expected a text that may contain {allowed}, got {value!r}"
        )
    if value.partition(":")[0] in OWN_KEYS:
        raise ValueError(
            f"{attribute.name}: {value!r} begins with a word that the sink uses for keys of its own"
            f" ({', '.join(OWN_KEYS)}). Choose another."
        )


def _prefix(_: Settings, attribute: Attribute[str], value: str) -> None:
    if not value or not value.isprintable():
        raise ValueError(f"{attribute.name}: expected a text such as 'tapeloom', got {value!r}")


def _username(settings: Settings, attribute: Attribute[str], value: str) -> None:
    if value and settings.password is None:
        raise ValueError(f"{attribute.name}: a user needs a password: set password as well")


@frozen(kw_only=True)
class Settings:
    """The settings of a ``[[sink]]`` with ``use = "redis"``. Durations are stored in nanoseconds."""

    #: Address of the server: ``redis://HOST:PORT/DATABASE``, ``rediss://`` with TLS, or
    #: ``unix://PATH``. An address with a password is read from a secret.
    url: str | Secret = field(default="redis://127.0.0.1:6379/0", validator=_url)
    #: Password of the user; an alternative to one in `url`.
    password: Secret | None = None
    #: Name of the user (ACL); empty: the server's default user.
    username: str = field(default="", validator=_username)
    #: Path of a PEM file with the certificates to trust, for ``rediss://``; empty: those of the system.
    ca: str = ""
    #: First part of all keys. Sinks with different prefixes share nothing.
    prefix: str = field(default="tapeloom", validator=_prefix)
    #: The stream of an event, below the prefix: a text that may contain ``{type}``, ``{venue}``,
    #: ``{symbol}`` and ``{channel}``. By default there is one stream for each type of event.
    stream: str = field(default="{type}", validator=_stream)
    #: About how many of the newest events each stream keeps; 0: all.
    max_length: int = field(default=0, validator=ge(0))
    #: Whether to keep the newest event of each type, venue, symbol and channel in hashes as well.
    latest: bool = False
    #: Whether to publish each event as well, on the channel that is named as its stream. Subscribers
    #: receive it once or not at all.
    publish: bool = False
    #: How long to wait for a connection or an answer.
    timeout: int = field(default=5_000_000_000, converter=duration_ns, validator=gt(0))

    @property
    def address(self) -> str:
        """The address in plain text, for the client only."""
        return self.url.reveal() if isinstance(self.url, Secret) else self.url
