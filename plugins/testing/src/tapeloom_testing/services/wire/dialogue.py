"""What a proxy knows of a protocol: which requests a client sends, and which answer is whose."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Protocol

__all__ = ["Dialogue", "RawDialogue"]


class Dialogue(Protocol):
    """Both directions of one connection, read from its first byte.

    A request has a key, and its answer has the same key. Both methods take the bytes as they were
    read, cut anywhere, and keep what is incomplete.
    """

    def requests(self, data: bytes) -> Iterator[tuple[Hashable, bytes]]:
        """Yield key and text of each request that the client completes with *data*."""
        ...

    def answers(self, data: bytes) -> Iterator[Hashable]:
        """Yield the key of each request whose answer the server completes with *data*."""
        ...


class RawDialogue:
    """A protocol that is not known: each read of the client is a request, the next read its answer.

    A pattern is not found where it is cut by the border of two reads.
    """

    def __init__(self) -> None:
        self._reads = 0
        self._answered = 0

    def requests(self, data: bytes) -> Iterator[tuple[Hashable, bytes]]:
        """Yield what was read, with its number."""
        self._reads += 1
        yield self._reads, data

    def answers(self, data: bytes) -> Iterator[Hashable]:
        """Yield the numbers of all reads before this answer; *data* is not looked at."""
        yield from range(self._answered + 1, self._reads + 1)
        self._answered = self._reads
