"""WebSocket frames out of bytes: the receiving half of RFC 6455, many frames at a time.

One call of `feed` takes what one read brought and returns every message that is complete. A whole
unfragmented message costs a few comparisons and a slice; all else is on the slow branch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Control", "Decoder", "ProtocolError"]

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FIN = 0x80
_WHOLE = frozenset({_FIN | _TEXT, _FIN | _BINARY})


class ProtocolError(Exception):
    """The peer broke the protocol. `code` is the close code to answer with (RFC 6455 §7.4.1)."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


class Control(NamedTuple):
    """A control frame: its opcode and its payload."""

    opcode: int
    payload: bytes

    @property
    def is_ping(self) -> bool:
        """The peer asks for a pong with the same payload."""
        return self.opcode == _PING

    @property
    def is_close(self) -> bool:
        """The peer ends the connection."""
        return self.opcode == _CLOSE

    def close_reason(self) -> tuple[int | None, str]:
        """Return the close code and text, (None, "") where the peer gave none."""
        if len(self.payload) < 2:
            return None, ""
        return int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode(errors="replace")


class Decoder:
    """Frames from a server. `control` collects the control frames for whoever answers them."""

    __slots__ = (
        "_limit",
        "_need",
        "_parts",
        "_pending",
        "_pending_size",
        "_size",
        "control",
        "error",
    )

    def __init__(self, limit: int) -> None:
        self._limit = limit  # the largest message, in bytes
        self._parts: list[bytes] = []  # bytes of a frame that is not complete
        self._size = 0
        self._need = 0  # bytes without which the incomplete frame cannot be finished
        self._pending: list[bytes] | None = None  # fragments of a message
        self._pending_size = 0
        self.control: list[Control] = []
        self.error: ProtocolError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that *data* completes, in order.

        Where the peer breaks the protocol, or a message is over the limit, what was whole before it
        is returned and `error` is set; nothing can be read after that.
        """
        if self._parts:
            # A frame larger than a read is joined once, not once a read.
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._need:
                return []
            data = b"".join(self._parts)
            self._parts = []
        out: list[bytes] = []
        try:
            self._decode(data, out)
        except ProtocolError as error:
            self.error = error
        return out

    def _decode(self, data: bytes, out: list[bytes]) -> None:
        add = out.append
        whole = _WHOLE
        position, end = 0, len(data)
        need = 2
        while end - position >= 2:
            first = data[position]
            length = data[position + 1]
            if length < 126:
                start = position + 2
            else:
                start = position + (4 if length == 126 else 10 if length == 127 else 2)
                if start > end:
                    need = start - position
                    break
                length = self._long(data, position, start, length)
            stop = start + length
            if stop > end:
                need = stop - position
                break
            if first in whole and self._pending is None:
                add(data[start:stop])
            else:
                self._slow(first, data[start:stop], add)
            position = stop
        if position < end:
            self._parts = [data[position:]]
            self._size = end - position
            self._need = need

    def _long(self, data: bytes, position: int, start: int, length: int) -> int:
        if length & 0x80:
            raise ProtocolError(1002, "the server sent a masked frame")
        size = int.from_bytes(data[position + 2 : start], "big")
        if size > self._limit:
            raise ProtocolError(1009, f"a message of {size} bytes is over the limit {self._limit}")
        return size

    def _slow(self, first: int, payload: bytes, add: Callable[[bytes], None]) -> None:
        if first & 0x70:
            raise ProtocolError(1002, f"reserved bits are set in the frame header {first:#x}")
        opcode, final = first & 0x0F, first & _FIN
        if opcode >= _CLOSE:
            if not final or len(payload) > 125 or opcode > _PONG:
                raise ProtocolError(1002, f"bad control frame {first:#x}, {len(payload)} bytes")
            self.control.append(Control(opcode, payload))
            return
        if (opcode == _CONTINUATION) is (self._pending is None) or opcode > _BINARY:
            raise ProtocolError(1002, f"unexpected frame {first:#x}")
        if self._pending is None:
            self._pending, self._pending_size = [], 0
        self._pending.append(payload)
        self._pending_size += len(payload)
        if self._pending_size > self._limit:
            raise ProtocolError(1009, f"a fragmented message is over the limit {self._limit}")
        if final:
            add(b"".join(self._pending))
            self._pending = None
