"""The settings of a ``[[sink]]`` with ``use = "serve"``."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Literal

from attrs import Attribute, field, frozen
from attrs.validators import ge, gt, in_, le
from tapeloom import Secret
from tapeloom.units import duration_ns

__all__ = ["ClientPolicy", "Settings", "is_loopback"]

#: drop_oldest: The oldest events are dropped. conflate: Only the latest event of each type, venue, symbol
#: and channel is kept. error: The client is disconnected. None of them makes the stream wait.
ClientPolicy = Literal["drop_oldest", "conflate", "error"]

_SECOND = 1_000_000_000  # ns
#: The shortest token, in characters: shorter ones can be guessed.
_MIN_TOKEN = 16


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine can connect to *host*."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _path(_: object, attribute: Attribute[str], value: str) -> None:
    if not re.fullmatch(r"(/[\w.~-]+)+", value):
        raise ValueError(f"{attribute.name}: expected a path such as '/stream', got {value!r}")


def _token(settings: Settings, attribute: Attribute[Any], value: Secret | None) -> None:
    if value is None:
        if not is_loopback(settings.host):
            raise ValueError(
                f"{attribute.name}: {settings.host!r} can be reached from other machines, which needs a"
                ' token: write token = { env = "NAME" }, or host = "127.0.0.1"'
            )
    elif len(value.reveal()) < _MIN_TOKEN or not re.fullmatch(r"[!-~]+", value.reveal()):
        raise ValueError(
            f"{attribute.name}: expected at least {_MIN_TOKEN} characters of ASCII without spaces"
        )


@frozen(kw_only=True)
class Settings:
    """The settings of the server. Durations are stored in nanoseconds."""

    #: Address to listen on. Another one than a loopback address needs a `token`.
    host: str = "127.0.0.1"
    #: Port to listen on; 0: any free one.
    port: int = field(default=8787, validator=[ge(0), le(65535)])
    #: What clients have to send, as ``Authorization: Bearer TOKEN`` or ``?token=TOKEN``; default: nothing.
    token: Secret | None = field(default=None, validator=_token)
    #: Path of the stream.
    path: str = field(default="/stream", validator=_path)
    #: Origins of web pages, besides the server's own, that may connect, such as ``https://example.org``.
    origins: tuple[str, ...] = ()
    #: Maximum number of clients that receive the stream.
    max_clients: int = field(default=200, validator=ge(1))
    #: Maximum number of open connections. The oldest that has sent no request makes room for a new one.
    max_connections: int = field(default=1000, validator=ge(1))
    #: Size of each client's queue, in events, unless the client asks for less.
    queue_size: int = field(default=10_000, validator=ge(1))
    #: What happens when the queue of a client is full, unless the client chooses.
    policy: ClientPolicy = field(default="drop_oldest", validator=in_(ClientPolicy.__args__))  # type: ignore[attr-defined]
    #: How long a client may take to send its request.
    request_timeout: int = field(default=10 * _SECOND, converter=duration_ns, validator=gt(0))
    #: How long a client may read nothing of what waits for it, before it is disconnected.
    send_timeout: int = field(default=30 * _SECOND, converter=duration_ns, validator=gt(0))
    #: How many of the newest trades are kept for ``/trades.arrow``; five times as many bars are kept for charts.
    window: int = field(default=10_000, validator=ge(1))
