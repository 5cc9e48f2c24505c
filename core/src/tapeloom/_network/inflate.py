"""The receiving half of permessage-deflate (RFC 7692): decompression with a size limit."""

from __future__ import annotations

import zlib

#: The bytes that the sender removes from the end of every message (RFC 7692 §7.2.1).
_TAIL = b"\x00\x00\xff\xff"
#: Ends of a deflate stream in one frame, at most: each copies the rest of the frame.
_MAX_STREAM_ENDS = 64


def _new_stream() -> zlib._Decompress:
    # The largest window decodes data of any window size. With a smaller window, whether a distance
    # beyond it is rejected would depend on how the input is split.
    return zlib.decompressobj(-zlib.MAX_WBITS)


class Inflate:
    """Decompresses the messages of one connection, one fragment at a time.

    *no_context_takeover*: each message is compressed by itself (``server_no_context_takeover``).

    Invalid data raises zlib.error. A message that lacks its end is not always detected at once: mostly
    the `_TAIL` is then decoded as data in the middle of a block; otherwise the next message is invalid.
    """

    __slots__ = ("_has_data", "_no_context_takeover", "_stream")

    def __init__(self, no_context_takeover: bool) -> None:
        self._no_context_takeover = no_context_takeover
        self._stream = _new_stream()
        self._has_data = False  # whether the current message has had any byte

    def decompress(self, payload: bytes, limit: int, final: bool) -> bytes:
        """Return the content of *payload*: at most *limit* bytes, or *limit* + 1 if there are more.

        *final* marks the last fragment of a message. After a result over the limit, the object cannot
        be used any more.
        """
        stream = self._stream
        out = b""
        self._has_data = self._has_data or bool(payload)
        ends = 0
        while payload:
            if stream.eof:
                # A sender may end the stream with a final block instead of flushing it (RFC 7692
                # §7.2.3.4). Senders that do so do not refer back to the stream that they ended.
                stream = self._stream = _new_stream()
                ends += 1
                if ends > _MAX_STREAM_ENDS:
                    raise zlib.error(f"more than {_MAX_STREAM_ENDS} deflate streams in one frame")
            out += stream.decompress(payload, limit + 1 - len(out))
            if len(out) > limit:
                return out
            payload = stream.unused_data
        if final:
            if not self._has_data:
                raise zlib.error("a compressed message of no bytes; an empty one has one byte")
            if not stream.eof and (stream.decompress(_TAIL, 1) or stream.unused_data):
                raise zlib.error("the message ends inside a block")
            self._has_data = False
            if self._no_context_takeover:
                self._stream = _new_stream()
        return out
