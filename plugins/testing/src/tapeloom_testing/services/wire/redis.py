"""The commands of a connection to Redis, and their replies (RESP 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

__all__ = ["RedisDialogue", "redis_command"]

#: The first bytes of values that hold as many bytes, and as many other values, as they say.
TEXTS, LISTS, MAPS = b"$=!", b"*~>", b"%|"
#: The first byte of what the server sends unasked, such as a message of a subscription in RESP 3.
PUSH = b">"


def redis_command(name: str) -> Callable[[bytes], bool]:
    """Return a function that tells whether a request is a command, such as "EXEC" or "XADD"."""
    expected = name.upper().encode()
    return lambda request: request.upper() == expected


class RedisDialogue:
    """Commands as requests, by their names; the n-th reply belongs to the n-th command.

    This does not hold for a connection that subscribes to channels in RESP 2.
    """

    def __init__(self) -> None:
        self._sent, self._received = bytearray(), bytearray()
        self._commands = self._replies = 0

    def requests(self, data: bytes) -> Iterator[tuple[Hashable, bytes]]:
        """Yield the number and the name of each command."""
        self._sent += data
        for command in _values(self._sent):
            self._commands += 1
            # *3 $4 XADD ...: lines of which the third is the name; or a plain line of words
            name = command.split(b"\r\n", 3)[2] if command[:1] == b"*" else command.split()[0]
            yield self._commands, name

    def answers(self, data: bytes) -> Iterator[Hashable]:
        """Yield the number of each command that a reply belongs to."""
        self._received += data
        for reply in _values(self._received):
            if reply[:1] != PUSH:
                self._replies += 1
                yield self._replies


def _values(buffer: bytearray) -> Iterator[bytes]:
    """Take each complete value from the front of a buffer, and yield its bytes."""
    while buffer and (end := _end(buffer, 0)) is not None:
        value = bytes(buffer[:end])
        del buffer[:end]
        yield value


def _end(buffer: bytearray, start: int) -> int | None:
    """Return where the value that begins at *start* ends; None if its end is not there yet."""
    line = buffer.find(b"\r\n", start)
    if line < 0:
        return None
    kind, end = buffer[start], line + 2
    if kind in TEXTS:
        size = int(buffer[start + 1 : line])
        end += size + 2 if size >= 0 else 0
        return end if end <= len(buffer) else None
    if kind in LISTS or kind in MAPS:
        count = int(buffer[start + 1 : line]) * (2 if kind in MAPS else 1)
        for _ in range(count):
            inner = _end(buffer, end)
            if inner is None:
                return None
            end = inner
    return end
