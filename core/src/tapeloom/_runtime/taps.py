"""The interface of taps: they receive all raw frames and REST answers of a feed before parsing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tapeloom.plugin import Request


class FrameTap(Protocol):
    """Receives the raw data of one feed: the tape recorder and the flight recorder are taps."""

    def frames(self, connection: int, recv: int, payloads: Sequence[bytes], size: int) -> None:
        """Process the frames of one read, *size* bytes in total; connections count from 1."""
        ...

    def answer(self, recv: int, request: Request, body: bytes) -> None:
        """Process the answer to a REST request."""
        ...

    def unreadable(self, recv: int, frame: bytes, error: str) -> None:
        """Process a frame that could not be parsed, with the error; `frames` had it before."""
        ...

    async def run(self) -> None:
        """Do periodic work until cancelled."""
        ...
