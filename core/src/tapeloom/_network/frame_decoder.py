"""The receiving half of RFC 6455: decodes WebSocket frames, many per call.

`FrameDecoder.feed` gets the bytes of one read and returns every message that is complete. An unfragmented,
uncompressed message of up to 64 KiB costs a few comparisons and a slice (fast path); every other frame
goes through `_decode_frame`.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from .inflate import Inflate
from .message_assembly import FIN, OPCODE, RSV1, TEXT, MessageAssembler, ProtocolError, check_utf8

_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA
_RESERVED, _MASKED = 0x70, 0x80
#: First bytes of frames that are whole messages, that start a message, that are control frames, and
#: that may come after the first fragment of a message.
_WHOLE = frozenset({FIN | TEXT, FIN | _BINARY})
_START = _WHOLE | {TEXT, _BINARY}
_CONTROL = frozenset({FIN | _CLOSE, FIN | _PING, FIN | _PONG})
_AFTER_FRAGMENT = _CONTROL | {_CONTINUATION, FIN | _CONTINUATION}
_NONE: frozenset[int] = frozenset()
#: The largest payload length in 7 bits, which is also the limit of control frames, and in 16 bits.
_MAX_7_BIT, _MAX_16_BIT = 125, 0xFFFF
#: A frame's first two bytes, and the 16-bit length that follows if the 7-bit length is 126.
_header = Struct("!BBH").unpack_from
#: Reads of an unfinished frame that are kept before they are joined: each has a memory overhead.
_MAX_PARTS = 1000


class Control(NamedTuple):
    """A control frame: its opcode and its payload."""

    opcode: int
    payload: bytes

    @property
    def is_ping(self) -> bool:
        """Whether this is a ping, to be answered by a pong with the same payload."""
        return self.opcode == _PING

    @property
    def is_close(self) -> bool:
        """Whether this is a close frame."""
        return self.opcode == _CLOSE

    def close_reason(self) -> tuple[int | None, str]:
        """Return the close code and reason of a close frame; (None, "") if it has none."""
        if not self.payload:
            return None, ""
        return int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode()


class FrameDecoder:
    """Decodes the frames of one server; *limit* is the largest message in bytes.

    *inflate* decompresses messages if permessage-deflate was negotiated. `control` collects the control
    frames. `ended` is set after a close frame or a protocol error, which is then in `error`; nothing is
    decoded after that.
    """

    __slots__ = (
        "_allowed",
        "_allowed_start",
        "_assembler",
        "_fast",
        "_fast_start",
        "_need",
        "_parts",
        "_size",
        "control",
        "ended",
        "error",
    )

    def __init__(self, limit: int, inflate: Inflate | None = None) -> None:
        self._assembler = MessageAssembler(limit, inflate)
        self._parts: list[bytes] = []  # the reads that an incomplete frame consists of
        self._size = 0  # bytes in `_parts`
        self._need = 0  # bytes that the incomplete frame has at least
        compressed = {first | RSV1 for first in _START} if inflate is not None else _NONE
        self._allowed_start = _START | compressed | _CONTROL
        # The fast path does not compare lengths with the limit.
        self._fast_start = _WHOLE if limit >= _MAX_16_BIT else _NONE
        self._allowed, self._fast = self._allowed_start, self._fast_start
        self.control: list[Control] = []
        self.ended = False
        self.error: ProtocolError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that *data* completes, in order.

        On a protocol error or a message over the limit, return the messages before it and set `error`.
        """
        out: list[bytes] = []
        if self.ended:
            return out
        if self._parts:
            # A frame that spans many reads is joined once, not at each read.
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._need:
                if len(self._parts) > _MAX_PARTS:
                    self._parts = [b"".join(self._parts)]
                return out
            data = b"".join(self._parts)
            self._parts = []
        add, fast = out.append, self._fast
        position, end = 0, len(data)
        last = end - 4  # the last position at which the four bytes of `_header` are available
        try:
            while position < end:
                if position <= last:
                    first, length, length_16 = _header(data, position)
                    if first in fast:
                        if length == 126 and length_16 > 125:
                            start = position + 4
                            stop = start + length_16
                        elif length < 126:
                            start = position + 2
                            stop = start + length
                        else:
                            stop = end + 1
                        if stop <= end:
                            payload = data[start:stop]
                            if not payload.isascii() and first & TEXT:
                                check_utf8(payload)
                            add(payload)
                            position = stop
                            continue
                stop = self._decode_frame(data, position, add)
                if stop > end:
                    self._parts = [data[position:]]
                    self._size, self._need = end - position, stop - position
                    break
                position, fast = stop, self._fast
        except ProtocolError as error:
            self.error, self.ended = error, True
        return out

    def _decode_frame(self, data: bytes, position: int, add: Callable[[bytes], None]) -> int:
        """Decode the frame of any kind at *position* and return the position after it.

        For an incomplete frame, return the end of the frame, or of its header if that is incomplete;
        both are beyond the end of *data*. A close frame ends at the end of *data*: what follows it is
        discarded.
        """
        start = position + 2
        if start > len(data):
            return start
        first, length = data[position], data[position + 1]
        control = first in _CONTROL
        if first not in self._allowed or length >= _MASKED or (control and length > _MAX_7_BIT):
            raise self._invalid_header(first, length)
        if length > _MAX_7_BIT:
            size, minimum = (2, _MAX_7_BIT + 1) if length == 126 else (8, _MAX_16_BIT + 1)
            start += size
            if start > len(data):
                return start
            length = int.from_bytes(data[start - size : start], "big")
            if length < minimum or length >> 63:
                raise ProtocolError(1002, f"a payload length of {length} encoded in {size} bytes")
        if not control:
            self._assembler.check_size(length)
        stop = start + length
        if stop > len(data):
            return stop
        payload = data[start:stop]
        if not control:
            message = self._assembler.add(first, payload)
            if message is None:
                self._allowed, self._fast = _AFTER_FRAGMENT, _NONE
            else:
                self._allowed, self._fast = self._allowed_start, self._fast_start
                add(message)
        else:
            if first & OPCODE == _CLOSE:
                _check_close(payload)
                self.ended, stop = True, len(data)
            self.control.append(Control(first & OPCODE, payload))
        return stop

    def _invalid_header(self, first: int, length: int) -> ProtocolError:
        opcode = first & OPCODE
        if length >= _MASKED:
            reason = "the server sent a masked frame"
        elif first & _RESERVED and first not in self._allowed_start:
            reason = f"reserved bits are set in the frame header {first:#x}"
        elif opcode > _PONG or _BINARY < opcode < _CLOSE:
            reason = f"unknown opcode {opcode:#x}"
        elif opcode >= _CLOSE:
            reason = f"invalid control frame {first:#x} of length {length}"
        elif opcode == _CONTINUATION:
            reason = "a continuation frame without a message to continue"
        else:
            reason = "a new message started before the fragmented one ended"
        return ProtocolError(1002, reason)


def _check_close(payload: bytes) -> None:
    """Raise ProtocolError for a close code that may not be sent (RFC 6455 §7.4, IANA's registry)."""
    if not payload:
        return
    code = int.from_bytes(payload[:2], "big")
    registered = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
    if len(payload) == 1 or not (registered or 3000 <= code <= 4999):
        raise ProtocolError(1002, f"a close frame with the invalid code {payload[:2].hex()!r}")
    check_utf8(payload[2:])
