"""The server's side of RFC 6455, and of HTTP as far as a venue needs it, on streams of asyncio."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import struct
from typing import NamedTuple

#: RFC 6455, section 1.3: what both sides append to the key of a handshake.
_ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Opcodes, section 5.2.
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
#: The longest message that the server accepts, in bytes.
_MAX_PAYLOAD = 1 << 20


class HttpRequest(NamedTuple):
    """A request: the method, the target with its query, the headers by lower-case name, the body."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def is_upgrade(self) -> bool:
        """Whether the request asks for a WebSocket."""
        return self.headers.get("upgrade", "").lower() == "websocket"


async def read_request(reader: asyncio.StreamReader) -> HttpRequest:
    """Read one request. Raises IncompleteReadError at the end of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = int(headers.get("content-length", "0"))
    body = await reader.readexactly(length) if length else b""
    return HttpRequest(method, target, headers, body)


def http_response(status: int, body: bytes, *headers: str) -> bytes:
    """Return a response with a body."""
    lines = [
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def upgrade_response(request: HttpRequest) -> bytes:
    """Return the response that accepts a WebSocket (section 4.2.2)."""
    key = request.headers["sec-websocket-key"].encode()
    accept = base64.b64encode(hashlib.sha1(key + _ACCEPT_SUFFIX).digest()).decode()
    lines = (
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return one unfragmented, unmasked frame (section 5.2)."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 127, size)
    return head + payload


def close_frame(code: int | None, reason: str = "") -> bytes:
    """Return a close frame; without a code it has no payload (section 5.5.1)."""
    payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
    return frame(payload, CLOSE)


async def _read_frame(reader: asyncio.StreamReader) -> tuple[bool, int, bytes]:
    """Read one frame of a client: whether it is the last of its message, the opcode, the payload."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", await reader.readexactly(8))
    if not second & 0x80 or size > _MAX_PAYLOAD:
        raise ConnectionError("expected masked frames of up to 1 MiB")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(size)
    return bool(first & 0x80), first & 0x0F, bytes(b ^ mask[i & 3] for i, b in enumerate(payload))


async def read_message(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one message, or one control frame between the parts of a message (section 5.4)."""
    opcode, parts = 0, b""
    while True:
        is_last, kind, payload = await _read_frame(reader)
        if kind >= CLOSE:
            return kind, payload
        opcode, parts = kind or opcode, parts + payload
        if is_last:
            return opcode, parts


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a TCP reset (RST): what was not read is lost."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
