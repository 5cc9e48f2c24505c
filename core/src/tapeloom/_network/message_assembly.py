"""What frames add up to: messages in one piece or in several, compressed or not, text or not."""

from __future__ import annotations

import codecs
import zlib

from .inflate import Inflate

#: The first byte of a frame: its last piece, compressed, what it is (RFC 6455 §5.2, RFC 7692 §6).
FIN, DEFLATED, OPCODE = 0x80, 0x40, 0x0F
TEXT = 0x1
_utf8 = codecs.getincrementaldecoder("utf-8")


class ProtocolError(Exception):
    """The peer broke the protocol. `code` is the close code to answer with (RFC 6455 §7.4.1)."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


def judge(text: bytes) -> None:
    """Refuse a text that is none (RFC 6455 §8.1)."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise _no_text(error) from error


def _no_text(error: UnicodeDecodeError) -> ProtocolError:
    return ProtocolError(1007, f"a text that is not UTF-8: {error.reason}")


class Messages:
    """The messages of one connection, of up to *limit* bytes each, one after the other.

    Each piece is judged when it comes: what is no text, or inflates beyond the limit, is not waited
    for. `unfinished` says that the message has more pieces.
    """

    __slots__ = ("_inflate", "_inflating", "_limit", "_pieces", "_text", "unfinished")

    def __init__(self, limit: int, inflate: Inflate | None) -> None:
        self._limit = limit
        self._inflate = inflate
        self._inflating = False  # this message is compressed
        self._pieces = bytearray()
        self._text: codecs.IncrementalDecoder | None = None  # what judges them, if they are text
        self.unfinished = False

    def expect(self, size: int) -> None:
        """Refuse a piece of *size* bytes, before it has come, if it is too large."""
        # One that is compressed is larger than what it holds only where compression does not pay.
        if size > (self._limit if self._inflating else self._limit - len(self._pieces)):
            raise self._too_large()

    def take(self, first: int, piece: bytes) -> bytes | None:
        """Return the message that *piece* completes; *first* is the first byte of its frame."""
        final = first >= FIN
        if not self.unfinished:
            self._inflating = bool(first & DEFLATED)
        if self._inflating:
            piece = self._inflated(piece, final)
        if not self.unfinished:
            if final:
                self._inflating = False
                if first & OPCODE == TEXT and not piece.isascii():
                    judge(piece)
                return piece
            self.unfinished = True
            self._text = _utf8() if first & OPCODE == TEXT else None
        self._pieces += piece
        if self._text is not None:
            try:
                self._text.decode(piece, final)
            except UnicodeDecodeError as error:
                raise _no_text(error) from error
        if not final:
            return None
        message = bytes(self._pieces)
        self._pieces = bytearray()
        self.unfinished = self._inflating = False
        return message

    def _inflated(self, piece: bytes, final: bool) -> bytes:
        assert self._inflate is not None
        room = self._limit - len(self._pieces)
        try:
            piece = self._inflate.piece(piece, room, final)
        except zlib.error as error:
            raise ProtocolError(1007, f"a compressed message is broken: {error}") from error
        if len(piece) > room:
            raise self._too_large()
        return piece

    def _too_large(self) -> ProtocolError:
        return ProtocolError(1009, f"a message is over the limit of {self._limit} bytes")
