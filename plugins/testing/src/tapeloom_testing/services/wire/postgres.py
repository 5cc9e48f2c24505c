"""The statements of a connection to PostgreSQL, and when the server has executed them."""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Hashable, Iterator

__all__ = ["PostgresDialogue", "is_commit"]

#: Codes of a client's first message: a version of the protocol, or a question that the server
#: answers with a single byte (encryption by TLS or GSSAPI).
LOWEST_PROTOCOL = 196_608
ENCRYPTION = {80_877_103, 80_877_104}
#: Types of messages. The client's: a simple query; of an extended one, the statement, its use, and the
#: end. The server's: ready for the next query, and ready for the rows of a COPY.
SIMPLE, PARSE, BIND, SYNC = b"Q", b"P", b"B", b"S"
READY, COPY_IN = b"Z", b"G"

_COMMIT = re.compile(rb"(^|;)\s*(COMMIT|END)\b", re.IGNORECASE)


def is_commit(request: bytes) -> bool:
    """Return whether a statement, or a list of statements, has a COMMIT."""
    return _COMMIT.search(request) is not None


class PostgresDialogue:
    """Statements as requests, by their SQL; the answer is complete when the server is ready again.

    A prepared statement is a request when it is used. Holds for simple and extended queries, and for pipelines. The connection must not be encrypted.
    """

    def __init__(self) -> None:
        self._sent, self._received = bytearray(), bytearray()
        self._began = False
        self._single_bytes = 0  # answers to questions for encryption that are to come
        self._queries = 0
        self._statements: dict[bytes, bytes] = {}  # SQL by name; the unnamed one is replaced
        # Number and last message of each query whose end the server has not reported.
        self._open: deque[tuple[int, bytes]] = deque()

    def requests(self, data: bytes) -> Iterator[tuple[Hashable, bytes]]:
        """Yield the number of the query and the SQL of each statement."""
        self._sent += data
        while not self._began and self._take_startup():
            pass
        while self._began and (message := _take(self._sent)) is not None:
            kind, body = message
            if kind == SIMPLE:
                yield self._queries + 1, body.rstrip(b"\0")
            elif kind == PARSE:  # name and SQL end with a zero byte each
                name, sql, _ = body.split(b"\0", 2)
                self._statements[name] = sql
            elif kind == BIND:  # so do the names of portal and statement
                yield self._queries + 1, self._statements.get(body.split(b"\0", 2)[1], b"")
            if kind in {SIMPLE, SYNC}:
                self._queries += 1
                self._open.append((self._queries, kind))

    def answers(self, data: bytes) -> Iterator[Hashable]:
        """Yield the number of each query that the server has ended."""
        skipped = min(self._single_bytes, len(data))
        self._single_bytes -= skipped
        self._received += data[skipped:]
        while (message := _take(self._received)) is not None:
            kind, _ = message
            if kind == READY and self._open:  # the first one, after the start, belongs to no query
                yield self._open.popleft()[0]
            elif kind == COPY_IN and self._open and self._open[0][1] == SYNC:
                # The server ignores the Sync that came before the rows; another one follows them.
                self._open.popleft()

    def _take_startup(self) -> bool:
        if len(self._sent) < 8:
            return False
        size, code = struct.unpack("!II", self._sent[:8])
        if len(self._sent) < size:
            return False
        del self._sent[:size]
        self._began = code not in ENCRYPTION and code >= LOWEST_PROTOCOL
        self._single_bytes += code in ENCRYPTION
        return True


def _take(buffer: bytearray) -> tuple[bytes, bytes] | None:
    """Take a message from the front of a buffer: type and body; None if it is incomplete."""
    if len(buffer) < 5:
        return None
    (size,) = struct.unpack("!I", buffer[1:5])
    if len(buffer) < 1 + size:
        return None
    kind, body = bytes(buffer[:1]), bytes(buffer[5 : 1 + size])
    del buffer[: 1 + size]
    return kind, body
