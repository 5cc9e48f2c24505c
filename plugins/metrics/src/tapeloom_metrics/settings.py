"""The settings of a ``[[sink]]`` with ``use = "metrics"``."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen
from attrs.validators import ge, le
from tapeloom import Secret
from tapeloom.errors import masked
from tapeloom.units import duration_ns

from .sessions import Session, parse_session

__all__ = ["Settings"]

#: Addresses that only this machine can reach.
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def _token(settings: Settings, attribute: Attribute[Any], value: Secret | None) -> None:
    if value is None and settings.host not in LOOPBACK:
        raise ValueError(
            f"{attribute.name}: host {settings.host!r} can be reached by other machines, so that a token is"
            ' needed: set token = { env = "NAME" }, or host = "127.0.0.1"'
        )


def _endpoint(_: object, attribute: Attribute[str], value: str) -> None:
    parts = urlsplit(value)
    if value and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError(
            f"{attribute.name}: expected an address such as 'http://127.0.0.1:4318/v1/metrics',"
            f" got {masked(value)!r}"
        )


def _sessions(value: Any) -> tuple[Session, ...]:
    if isinstance(value, str) or not all(isinstance(text, str | Session) for text in value):
        raise ValueError(
            f'expected texts such as ["alpaca Mon-Fri 09:30-16:00 America/New_York"], got {value!r}'
        )
    return tuple(text if isinstance(text, Session) else parse_session(text) for text in value)


@frozen(kw_only=True)
class Settings:
    """The settings of a ``[[sink]]`` with ``use = "metrics"``."""

    #: Address to listen at; by default only this machine can reach it.
    host: str = "127.0.0.1"
    #: Port to listen at; 0: one that is free, which the log names.
    port: int = field(default=9464, validator=[ge(0), le(65_535)])
    #: Token that clients must send as ``Authorization: Bearer …``; needed if `host` is not this machine.
    token: Secret | None = field(default=None, validator=_token)
    #: Whether counters of events and times of the last event have a label with the symbol.
    symbols: bool = False
    #: When venues trade, such as ``"alpaca Mon-Fri 09:30-16:00 America/New_York"``: outside of these times
    #: their silence is no alert. A venue that is not named trades always.
    sessions: tuple[Session, ...] = field(default=(), converter=_sessions)
    #: Where the metrics are sent by OTLP besides, such as ``http://127.0.0.1:4318/v1/metrics``; default:
    #: nowhere. It needs tapeloom-metrics[otlp].
    otlp_endpoint: str = field(default="", validator=_endpoint)
    #: How often they are sent.
    otlp_interval: int = field(default=15_000_000_000, converter=duration_ns, validator=ge(10**8))
