"""Checks the server's response to the opening handshake (RFC 6455 §4.1) and its extensions."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping

from .inflate import Inflate

#: The offer of permessage-deflate. We send no compressed messages, so any client window suits us.
OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
#: The GUID that RFC 6455 §1.3 appends to the key.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Parameters of permessage-deflate without and with a value, and the values (RFC 7692 §7.1).
_FLAG_PARAMETERS = ("client_no_context_takeover", "server_no_context_takeover")
_WINDOW_PARAMETERS = ("client_max_window_bits", "server_max_window_bits")
_WINDOW_BITS = frozenset(map(str, range(8, 16)))


class HandshakeError(Exception):
    """The response does not match the request: wrong accept key, or an option that was not offered."""


def negotiate(request: Mapping[str, str], response: Mapping[str, str]) -> Inflate | None:
    """Check a response and return the decompressor of its messages, None without compression.

    *request* and *response* are the headers of the handshake by lower-case names. Raises
    HandshakeError.
    """
    digest = hashlib.sha1(
        request["sec-websocket-key"].encode() + _GUID, usedforsecurity=False
    ).digest()
    if response.get("sec-websocket-accept", "").strip() != b64encode(digest).decode():
        raise HandshakeError("Sec-WebSocket-Accept in the response does not match our key")
    offered = [name.strip() for name in request.get("sec-websocket-protocol", "").split(",")]
    if (chosen := response.get("sec-websocket-protocol", "").strip()) not in {"", *offered}:
        raise HandshakeError(f"the server chose the subprotocol {chosen!r}, which was not offered")
    extensions = response.get("sec-websocket-extensions", "").strip()
    if not extensions:
        return None
    return _negotiate_deflate(request.get("sec-websocket-extensions", ""), extensions)


def _negotiate_deflate(offer: str, extensions: str) -> Inflate:
    """Check the accepted extension, which can only be permessage-deflate (RFC 7692 §7.1)."""
    name, *parameters = [part.strip() for part in extensions.split(";")]
    if name.lower() != "permessage-deflate" or name.lower() not in offer.lower():
        raise HandshakeError(f"the server accepted {extensions!r}, which was not offered")
    seen = set()
    for parameter in parameters:
        key, equals, value = (part.strip() for part in parameter.partition("="))
        if value[:1] == value[-1:] == '"':
            value = value[1:-1]
        if key == "client_max_window_bits" and key not in offer:
            raise HandshakeError(f"the server set {parameter!r}, which was not offered")
        is_flag = key in _FLAG_PARAMETERS and not equals
        valid = value in _WINDOW_BITS if key in _WINDOW_PARAMETERS else is_flag
        if not valid or key in seen:
            raise HandshakeError(f"the server accepted permessage-deflate with {parameter!r}")
        seen.add(key)
    return Inflate(no_context_takeover="server_no_context_takeover" in seen)
