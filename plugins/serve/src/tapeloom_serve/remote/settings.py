"""The settings of ``[venue.remote]``."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen
from attrs.validators import ge, in_, optional
from tapeloom import Secret

from tapeloom_serve.settings import ClientPolicy

__all__ = ["RemoteSettings"]


def _url(_: object, attribute: Attribute[Any], value: str) -> None:
    try:
        parts = urlsplit(value)
        is_valid = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or parts.query or parts.username is not None:
        raise ValueError(
            f"{attribute.name}: expected an address such as 'ws://127.0.0.1:8787/stream', without a query"
            " or a password; the token has a key of its own"
        )


@frozen(kw_only=True)
class RemoteSettings:
    """Where the stream is served, and what of it is received besides the feed's symbols and channels."""

    #: Address of the stream; by default that of a server with default settings.
    url: str = field(default="ws://127.0.0.1:8787/stream", validator=_url)
    #: The token of the server.
    token: Secret | None = None
    #: Venues whose events are received; default: all.
    venues: tuple[str, ...] = ()
    #: Types of event that are received, such as ``trade``; default: all.
    types: tuple[str, ...] = ()
    #: Size of the queue at the server, in events; 0: the server's own.
    queue_size: int = field(default=0, validator=ge(0))
    #: What the server does when that queue is full; default: what it does by itself.
    policy: ClientPolicy | None = field(
        default=None,
        validator=optional(in_(ClientPolicy.__args__)),  # type: ignore[attr-defined]
    )
