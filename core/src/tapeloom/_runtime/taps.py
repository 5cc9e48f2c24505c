"""Who listens to what comes in, before anybody understands it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tapeloom.plugin import Request


class FrameTap(Protocol):
    """Listens to one feed: the tape that is being recorded, and the memory of the last seconds."""

    def frames(self, connection: int, recv: int, payloads: Sequence[bytes], size: int) -> None:
        """Take what one read has brought, `size` bytes in all; connections count from 1."""
        ...

    def answer(self, recv: int, request: Request, body: bytes) -> None:
        """Take an answer over REST."""
        ...

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        """Take a frame that nobody could read, and why; `frames` has brought it already."""
        ...

    async def run(self) -> None:
        """Do what has to be done from time to time, until cancelled."""
        ...
