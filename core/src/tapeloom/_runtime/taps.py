"""The interface of taps: they receive all raw frames and REST answers of a feed before parsing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tapeloom.plugin import Request


class FrameTap(Protocol):
    """Receives the raw data of one feed: the tape recorder and the flight recorder are taps."""

    def frames(self, connection: int, recv: int, payloads: Sequence[bytes], size: int) -> None:
        """Record the frames of one read at *recv* (ns), *size* bytes in total.

        *connection* is the number of the feed's connection: 1 is its first, 2 the next.
        """
        ...

    def answer(self, recv: int, request: Request, body: bytes) -> None:
        """Record the answer to a REST request."""
        ...

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        """Record that a frame, which `frames` got before, could not be parsed, and the error."""
        ...

    async def run(self) -> None:
        """Do periodic work until cancelled."""
        ...
