"""WebSocket frames as a server writes them: unmasked, whole, a header and the payload."""

from __future__ import annotations

__all__ = ["frame"]

_TEXT = 0x81
_SMALL = 126
_MEDIUM = 65_536
# Headers of the lengths that market data has; joining two bytes objects beats packing each time.
_HEADERS = [
    bytes([_TEXT, size]) if size < _SMALL else bytes([_TEXT, _SMALL]) + size.to_bytes(2, "big")
    for size in range(4096)
]


def frame(text: str) -> bytes:
    """Return the bytes of one text message."""
    payload = text.encode()
    size = len(payload)
    if size < 4096:
        return _HEADERS[size] + payload
    if size < _MEDIUM:
        return bytes([_TEXT, _SMALL]) + size.to_bytes(2, "big") + payload
    return bytes([_TEXT, 127]) + size.to_bytes(8, "big") + payload
