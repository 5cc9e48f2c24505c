"""Joins the fragments of messages, decompresses them, checks UTF-8 and the size limit."""

from __future__ import annotations

import codecs
import zlib

from .inflate import Inflate

#: Bits of a frame's first byte: final fragment, compressed, opcode (RFC 6455 §5.2, RFC 7692 §6).
FIN, RSV1, OPCODE = 0x80, 0x40, 0x0F
#: The opcode of text frames.
TEXT = 0x1
_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class ProtocolError(Exception):
    """The peer broke the protocol. `code` is the close code to send (RFC 6455 §7.4.1)."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


def check_utf8(payload: bytes) -> None:
    """Raise ProtocolError if the payload of a text message is not valid UTF-8 (RFC 6455 §8.1)."""
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        raise _invalid_utf8(error) from error


def _invalid_utf8(error: UnicodeDecodeError) -> ProtocolError:
    return ProtocolError(1007, f"a text message is not valid UTF-8: {error.reason}")


class MessageAssembler:
    """Assembles the messages of one connection, of up to *limit* bytes each.

    Each fragment is checked when it arrives: invalid UTF-8 and a message that inflates beyond the limit
    are reported before the message is complete. `unfinished` says that more fragments must follow.
    """

    __slots__ = ("_compressed", "_fragments", "_inflate", "_limit", "_text_decoder", "unfinished")

    def __init__(self, limit: int, inflate: Inflate | None) -> None:
        self._limit = limit
        self._inflate = inflate
        self._compressed = False  # the current message
        self._fragments = bytearray()
        self._text_decoder: codecs.IncrementalDecoder | None = None  # None for binary messages
        self.unfinished = False

    def check_size(self, size: int) -> None:
        """Raise ProtocolError if a fragment of *size* payload bytes is over the limit.

        Called with the frame header, before the payload has arrived.
        """
        # A compressed fragment may have up to the limit, and its content is checked once inflated. It
        # is larger than its content only if that does not compress.
        if size > (self._limit if self._compressed else self._limit - len(self._fragments)):
            raise self._over_limit()

    def add(self, first: int, fragment: bytes) -> bytes | None:
        """Add a fragment and return the message if it is complete; *first* is the frame's first byte."""
        final = first >= FIN
        if not self.unfinished:
            self._compressed = bool(first & RSV1)
        if self._compressed:
            fragment = self._decompress(fragment, final)
        if not self.unfinished:
            if final:
                self._compressed = False
                if first & OPCODE == TEXT and not fragment.isascii():
                    check_utf8(fragment)
                return fragment
            self.unfinished = True
            self._text_decoder = _utf8_decoder() if first & OPCODE == TEXT else None
        self._fragments += fragment
        if self._text_decoder is not None:
            try:
                self._text_decoder.decode(fragment, final)
            except UnicodeDecodeError as error:
                raise _invalid_utf8(error) from error
        if not final:
            return None
        message = bytes(self._fragments)
        self._fragments = bytearray()
        self.unfinished = self._compressed = False
        return message

    def _decompress(self, fragment: bytes, final: bool) -> bytes:
        assert self._inflate is not None
        room = self._limit - len(self._fragments)
        try:
            fragment = self._inflate.decompress(fragment, room, final)
        except zlib.error as error:
            raise ProtocolError(1007, f"a compressed message is invalid: {error}") from error
        if len(fragment) > room:
            raise self._over_limit()
        return fragment

    def _over_limit(self) -> ProtocolError:
        return ProtocolError(1009, f"a message is over the limit of {self._limit} bytes")
