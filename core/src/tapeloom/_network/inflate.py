"""Compressed messages back to what they were: the receiving half of RFC 7692, within a bound."""

from __future__ import annotations

import zlib

#: What the sender leaves off the end of every message (RFC 7692 §7.2.1).
_TAIL = b"\x00\x00\xff\xff"
#: Each end of a stream inside a frame costs a copy of what follows it.
_MOST_ENDS = 64


def _stream() -> zlib._Decompress:
    # The largest window reads what was written with any. A smaller one would take or refuse bytes
    # that point too far back by how they were split.
    return zlib.decompressobj(-zlib.MAX_WBITS)


class Inflate:
    """The compressed messages of one connection, piece by piece.

    *forget*: each message stands for itself (``server_no_context_takeover``).

    zlib.error says that the bytes are not what deflate gives. One thing is not always seen in the
    message that it happens to: that it lacks its end. Mostly what completes a message then turns to
    characters in the middle of a block; otherwise the next message makes no sense.
    """

    __slots__ = ("_any", "_forget", "_stream")

    def __init__(self, forget: bool) -> None:
        self._forget = forget
        self._stream = _stream()
        self._any = False  # of this message something has come

    def piece(self, payload: bytes, most: int, final: bool) -> bytes:
        """Return what *payload* holds: at most *most* bytes, and one more where it holds more.

        With *final*, the message ends with it. Where it holds too much nothing can be read after it.
        """
        stream = self._stream
        out = b""
        self._any = self._any or bool(payload)
        ends = 0
        while payload:
            if stream.eof:
                # A sender that knows no flush may end the stream instead (RFC 7692 §7.2.3.4). No
                # sender that has ended one points back into it.
                stream = self._stream = _stream()
                ends += 1
                if ends > _MOST_ENDS:
                    raise zlib.error("the stream ends again and again")
            out += stream.decompress(payload, most + 1 - len(out))
            if len(out) > most:
                return out
            payload = stream.unused_data
        if final:
            if not self._any:
                raise zlib.error("an empty message is one byte, not none")
            if not stream.eof and (stream.decompress(_TAIL, 1) or stream.unused_data):
                raise zlib.error("the message ends inside a block")
            self._any = False
            if self._forget:
                self._stream = _stream()
        return out
