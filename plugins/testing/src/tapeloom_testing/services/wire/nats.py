"""What a client of NATS publishes with a request for an answer, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

__all__ = ["NatsDialogue", "nats_subject"]

#: Commands that are followed by as many bytes as their last word says, and a line end.
PUBLISHED = {b"PUB", b"HPUB"}
DELIVERED = {b"MSG", b"HMSG"}
#: The number of words of a command without a reply subject: name, subject, sizes; or with a
#: subscription's id after the subject.
WORDS_WITHOUT_REPLY = {b"PUB": 3, b"HPUB": 4, b"MSG": 4, b"HMSG": 5}


def nats_subject(prefix: str) -> Callable[[bytes], bool]:
    """Return a function that tells whether a message is published to a subject with a prefix."""
    expected = prefix.encode()
    return lambda request: request.startswith(expected)


class NatsDialogue:
    """Messages with a reply subject as requests, by their subjects.

    The answer is the first message that comes to the reply subject: for a message to a stream of
    JetStream, its acknowledgement. Messages without a reply subject have no answer, and are no requests.
    """

    def __init__(self) -> None:
        self._sent, self._received = bytearray(), bytearray()

    def requests(self, data: bytes) -> Iterator[tuple[Hashable, bytes]]:
        """Yield reply subject and subject of each published message that has both."""
        self._sent += data
        for words in _commands(self._sent):
            name = words[0].upper()
            if name in PUBLISHED and len(words) > WORDS_WITHOUT_REPLY[name]:
                yield words[2], words[1]

    def answers(self, data: bytes) -> Iterator[Hashable]:
        """Yield the subject of each message that the server delivers."""
        self._received += data
        for words in _commands(self._received):
            if words[0].upper() in DELIVERED:
                yield words[1]


def _commands(buffer: bytearray) -> Iterator[list[bytes]]:
    """Take each complete command, with its payload, from the front of a buffer; yield its words."""
    while (line := buffer.find(b"\r\n")) >= 0:
        words = bytes(buffer[:line]).split() or [b""]
        end = line + 2
        if words[0].upper() in PUBLISHED | DELIVERED:
            end += int(words[-1]) + 2
            if end > len(buffer):
                return
        del buffer[:end]
        yield words
