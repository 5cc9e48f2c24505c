"""What a server may answer to the opening handshake (RFC 6455 §4.1), and what is agreed with it."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping

from .inflate import Inflate

#: What asks for compressed messages. We send none ourselves, so any window of ours is small enough.
OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BARE = ("client_no_context_takeover", "server_no_context_takeover")
_SIZED = ("client_max_window_bits", "server_max_window_bits")
_BITS = frozenset(map(str, range(8, 16)))


class HandshakeError(Exception):
    """The server has not understood the handshake, or takes what was not offered."""


def agreed(asked: Mapping[str, str], answer: Mapping[str, str]) -> Inflate | None:
    """Return what reads compressed messages, None where there will be none.

    *asked* and *answer* are the headers of the handshake, by names in small letters. Raises
    HandshakeError.
    """
    digest = hashlib.sha1(
        asked["sec-websocket-key"].encode() + _GUID, usedforsecurity=False
    ).digest()
    if answer.get("sec-websocket-accept", "").strip() != b64encode(digest).decode():
        raise HandshakeError("what it answered does not belong to our key")
    offered = [one.strip() for one in asked.get("sec-websocket-protocol", "").split(",")]
    if (chosen := answer.get("sec-websocket-protocol", "").strip()) not in {"", *offered}:
        raise HandshakeError(f"it chose the subprotocol {chosen!r}, which was not offered")
    extensions = answer.get("sec-websocket-extensions", "").strip()
    if not extensions:
        return None
    return _inflate(asked.get("sec-websocket-extensions", ""), extensions)


def _inflate(offer: str, extensions: str) -> Inflate:
    """Read the one extension that can have been accepted, and its parameters (RFC 7692 §7.1)."""
    name, *parameters = [part.strip() for part in extensions.split(";")]
    if name.lower() != "permessage-deflate" or name.lower() not in offer.lower():
        raise HandshakeError(f"it accepted the extension {extensions!r}, which was not offered")
    seen = set()
    for parameter in parameters:
        key, equals, value = (part.strip() for part in parameter.partition("="))
        if value[:1] == value[-1:] == '"':
            value = value[1:-1]
        if key == "client_max_window_bits" and key not in offer:
            raise HandshakeError(f"it set {parameter!r}, which was not offered")
        good = value in _BITS if key in _SIZED else key in _BARE and not equals
        if not good or key in seen:
            raise HandshakeError(f"it accepted permessage-deflate with {parameter!r}")
        seen.add(key)
    return Inflate(forget="server_no_context_takeover" in seen)
