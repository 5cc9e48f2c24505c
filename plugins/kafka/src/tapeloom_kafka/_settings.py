"""The settings of a ``[[sink]]`` with ``use = "kafka"``."""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Mapping
from typing import Any, Literal

from attrs import Attribute, field, frozen
from attrs.validators import ge, gt, in_
from tapeloom import Secret
from tapeloom.units import duration_ns

__all__ = ["Settings", "topic_name"]

#: What Kafka allows as the name of a topic.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
#: Options of the client that the sink sets itself, and the setting to use instead.
_OWN_OPTIONS = {
    "bootstrap.servers": "servers",
    "transactional.id": "transactions",
    "enable.idempotence": "transactions",
    "isolation.level": "transactions",
    "compression.type": "compression",
    "sasl.username": "username",
    "sasl.password": "password",
    "sasl.mechanism": "mechanism",
    "sasl.mechanisms": "mechanism",
    "security.protocol": "tls",
    "ssl.ca.location": "ca",
}
_SECRET_OPTION = re.compile(r"password|secret|\.pem$|jaas|token", re.IGNORECASE)
_COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

#: What the client logs; to nowhere, unless a program adds a handler.
_LOG = logging.getLogger("tapeloom_kafka")
_LOG.addHandler(logging.NullHandler())

Option = str | int | float | bool | Secret


def topic_name(template: str, **names: str) -> str:
    """Return the name of a topic. Raises ValueError if Kafka does not allow it."""
    name = template.format(**names)
    if not _TOPIC.fullmatch(name) or name in {".", ".."}:
        raise ValueError(
            f"expected the name of a topic, of at most 249 letters, digits, '.', '_' and '-', got {name!r}"
        )
    return name


def _template(**allowed: str) -> Any:
    """Return a validator of a topic's name that may contain the fields *allowed*, with an example each."""
    known = ", ".join(f"{{{name}}}" for name in allowed)

    def check(_: Settings, attribute: Attribute[str], value: str) -> None:
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(value) if name is not None]
            if unknown := set(fields) - {*allowed}:
                raise ValueError(f"it contains {{{unknown.pop()}}}")
            topic_name(value, **allowed)
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{attribute.name}: expected the name of a topic that may contain {known}, got {value!r}: {error}"
            ) from None

    return check


def _servers(_: Settings, attribute: Attribute[str], value: str) -> None:
    for server in value.split(","):
        host, separator, port = server.strip().rpartition(":")
        if not separator or not host or "/" in host or "@" in host or not port.isdecimal():
            raise ValueError(
                f"{attribute.name}: expected addresses such as 'broker-1:9092,broker-2:9092'"
            )


def _username(settings: Settings, attribute: Attribute[str], value: str) -> None:
    if bool(value) != (settings.password is not None):
        raise ValueError(f"{attribute.name} and password belong together: set both, or neither")


def _options(_: Settings, attribute: Attribute[Any], value: Mapping[str, Option]) -> None:
    for name, option in value.items():
        if name in _OWN_OPTIONS:
            raise ValueError(
                f"{attribute.name}: the sink sets {name!r} itself: use the setting {_OWN_OPTIONS[name]}"
            )
        if _SECRET_OPTION.search(name) and not isinstance(option, Secret):
            raise ValueError(
                f"{attribute.name}: {name!r} is a secret, which must not be in the stack itself: write"
                f' "{name}" = {{ env = "NAME" }}'
            )


@frozen(kw_only=True)
class Settings:
    """The settings of a ``[[sink]]`` with ``use = "kafka"``. Durations are stored in nanoseconds."""

    #: Addresses of brokers, ``HOST:PORT,HOST:PORT``; the client finds the others.
    servers: str = field(default="127.0.0.1:9092", validator=_servers)
    #: The topic of an event: a text that may contain ``{type}`` and ``{venue}``.
    topic: str = field(
        default="tapeloom.{type}", validator=_template(type="trade", venue="binance")
    )
    #: The compacted topic with the sink's cursor and positions; may contain ``{sink}``. Each sink needs
    #: its own.
    cursor_topic: str = field(default="tapeloom.cursor.{sink}", validator=_template(sink="kafka"))
    #: ``json``: a message for each event. ``arrow``: a message for all events of one type and symbol of
    #: a batch, as an Arrow IPC stream; needs the package tapeloom-columns.
    format: Literal["json", "arrow"] = field(default="json", validator=in_(("json", "arrow")))
    #: Whether each batch is written in a transaction: exactly once. Without: at least once.
    transactions: bool = True
    #: Compression of batches of messages.
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = field(
        default="lz4", validator=in_(_COMPRESSIONS)
    )
    #: Partitions of topics that the sink creates; 0: the broker's default.
    partitions: int = field(default=0, validator=ge(0))
    #: Replicas of topics that the sink creates; 0: the broker's default.
    replicas: int = field(default=0, validator=ge(0))
    #: Password of the user (SASL).
    password: Secret | None = None
    #: Name of the user (SASL); empty: no login.
    username: str = field(default="", validator=_username)
    #: How the password is sent.
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = field(
        default="SCRAM-SHA-512", validator=in_(_MECHANISMS)
    )
    #: Whether connections use TLS.
    tls: bool = False
    #: Path of a PEM file with the certificates to trust, for TLS; empty: those of the system.
    ca: str = ""
    #: How long to wait for brokers.
    timeout: int = field(default=8_000_000_000, converter=duration_ns, validator=gt(0))
    #: Further options of the client, by librdkafka's names; secrets as ``{ env = "NAME" }``.
    options: Mapping[str, Option] = field(factory=dict, validator=_options)

    @property
    def seconds(self) -> float:
        """`timeout` in seconds."""
        return self.timeout / 1e9

    def client(self) -> dict[str, Any]:
        """Return what every client of the brokers is configured with, secrets in plain text."""
        login = "sasl_" if self.username else ""
        found: dict[str, Any] = {
            "bootstrap.servers": self.servers,
            "client.id": "tapeloom",
            "security.protocol": f"{login}{'ssl' if self.tls else 'plaintext'}",
            "log_level": 0,  # what fails is raised
            "logger": _LOG,  # else the client prints
        }
        if self.password is not None:
            found["sasl.mechanism"] = self.mechanism
            found["sasl.username"] = self.username
            found["sasl.password"] = self.password.reveal()
        if self.ca:
            found["ssl.ca.location"] = self.ca
        for name, option in self.options.items():
            found[name] = option.reveal() if isinstance(option, Secret) else option
        return found
