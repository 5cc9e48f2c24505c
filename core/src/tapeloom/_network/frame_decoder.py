"""WebSocket frames out of bytes: the receiving half of RFC 6455, many frames at a time.

One call of `feed` takes what one read brought and returns every message that is complete. A whole
message of up to 64 KiB costs a few comparisons and a slice; all else is on the slow branch.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from .inflate import Inflate
from .message_assembly import DEFLATED, FIN, OPCODE, TEXT, Messages, ProtocolError, judge

_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA
_RESERVED, _MASKED = 0x70, 0x80
#: First bytes of frames, by what may come: a message or the start of one, others, inside a message.
_WHOLE = frozenset({FIN | TEXT, FIN | _BINARY})
_START = _WHOLE | {TEXT, _BINARY}
_CONTROL = frozenset({FIN | _CLOSE, FIN | _PING, FIN | _PONG})
_REST = _CONTROL | {_CONTINUATION, FIN | _CONTINUATION}
_NONE: frozenset[int] = frozenset()
#: The largest payload of a control frame, and the largest lengths in no and in two bytes more.
_SHORT, _MEDIUM = 125, 0xFFFF
#: A frame's first two bytes, and the length that stands in the next two where it is of that size.
_head = Struct("!BBH").unpack_from
#: Reads of an unfinished frame that are kept apart: each costs some memory of its own.
_MOST_PARTS = 1000


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
        if not self.payload:
            return None, ""
        return int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode()


class Decoder:
    """Frames from a server, of messages up to *limit* bytes; *inflate* where they may be compressed.

    `control` collects the control frames for whoever answers them. `ended` says that nothing more is
    read: after a close frame, and where the peer broke the protocol; then `error` says how.
    """

    __slots__ = (
        "_expected",
        "_messages",
        "_need",
        "_parts",
        "_plain",
        "_size",
        "_start",
        "_whole",
        "control",
        "ended",
        "error",
    )

    def __init__(self, limit: int, inflate: Inflate | None = None) -> None:
        self._messages = Messages(limit, inflate)
        self._parts: list[bytes] = []  # bytes of a frame that is not complete
        self._size = 0
        self._need = 0  # bytes without which the incomplete frame cannot be finished
        deflated = {first | DEFLATED for first in _START} if inflate is not None else _NONE
        self._start = _START | deflated | _CONTROL
        # On the fast branch no length is held against the limit.
        self._plain = _WHOLE if limit >= _MEDIUM else _NONE
        self._expected, self._whole = self._start, self._plain
        self.control: list[Control] = []
        self.ended = False
        self.error: ProtocolError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that *data* completes, in order.

        Where the peer breaks the protocol, or a message is over the limit, what was whole before it
        is returned and `error` is set.
        """
        out: list[bytes] = []
        if self.ended:
            return out
        if self._parts:
            # A frame larger than a read is joined once, not once a read.
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._need:
                if len(self._parts) > _MOST_PARTS:
                    self._parts = [b"".join(self._parts)]
                return out
            data = b"".join(self._parts)
            self._parts = []
        add, whole = out.append, self._whole
        position, end = 0, len(data)
        last = end - 4  # where a header can begin of which four bytes are here
        try:
            while position < end:
                if position <= last:
                    first, length, medium = _head(data, position)
                    if first in whole:
                        if length == 126 and medium > 125:
                            start = position + 4
                            stop = start + medium
                        elif length < 126:
                            start = position + 2
                            stop = start + length
                        else:
                            stop = end + 1
                        if stop <= end:
                            payload = data[start:stop]
                            if not payload.isascii() and first & TEXT:
                                judge(payload)
                            add(payload)
                            position = stop
                            continue
                stop = self._frame(data, position, add)
                if stop > end:
                    self._parts = [data[position:]]
                    self._size, self._need = end - position, stop - position
                    break
                position, whole = stop, self._whole
        except ProtocolError as error:
            self.error, self.ended = error, True
        return out

    def _frame(self, data: bytes, position: int, add: Callable[[bytes], None]) -> int:
        """Take the frame at *position*, whatever it is, and return where it ends.

        Where it is not all there, that is beyond the end of *data*, or the end of its header is. What
        follows a close frame belongs to it.
        """
        start = position + 2
        if start > len(data):
            return start
        first, length = data[position], data[position + 1]
        control = first in _CONTROL
        if first not in self._expected or length >= _MASKED or (control and length > _SHORT):
            raise self._unexpected(first, length)
        if length > _SHORT:
            more, least = (2, _SHORT + 1) if length == 126 else (8, _MEDIUM + 1)
            start += more
            if start > len(data):
                return start
            length = int.from_bytes(data[start - more : start], "big")
            if length < least or length >> 63:
                raise ProtocolError(1002, f"a length of {length} in {more} bytes")
        if not control:
            self._messages.expect(length)
        stop = start + length
        if stop > len(data):
            return stop
        payload = data[start:stop]
        if not control:
            message = self._messages.take(first, payload)
            if message is None:
                self._expected, self._whole = _REST, _NONE
            else:
                self._expected, self._whole = self._start, self._plain
                add(message)
        else:
            if first & OPCODE == _CLOSE:
                _judge_close(payload)
                self.ended, stop = True, len(data)
            self.control.append(Control(first & OPCODE, payload))
        return stop

    def _unexpected(self, first: int, length: int) -> ProtocolError:
        opcode = first & OPCODE
        if length >= _MASKED:
            words = "the server sent a masked frame"
        elif first & _RESERVED and first not in self._start:
            words = f"reserved bits are set in the frame header {first:#x}"
        elif opcode > _PONG or _BINARY < opcode < _CLOSE:
            words = f"there is no opcode {opcode:#x}"
        elif opcode >= _CLOSE:
            words = f"bad control frame {first:#x}, length {length}"
        elif opcode == _CONTINUATION:
            words = "the rest of a message that has no start"
        else:
            words = "a new message inside another one"
        return ProtocolError(1002, words)


def _judge_close(payload: bytes) -> None:
    """Refuse a close frame with a code that no peer may send (RFC 6455 §7.4, IANA's registry)."""
    if not payload:
        return
    code = int.from_bytes(payload[:2], "big")
    registered = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
    if len(payload) == 1 or not (registered or 3000 <= code <= 4999):
        raise ProtocolError(1002, f"a close frame with {payload[:2].hex()!r} for a code")
    judge(payload[2:])
