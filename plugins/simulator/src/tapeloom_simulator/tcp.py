"""The server's end of one TCP connection that carries a venue's own messages and nothing else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import anyio

from .connection import GOODBYE, Connection

if TYPE_CHECKING:
    from .server_api import Framing

__all__ = ["TcpConnection"]


class TcpConnection(Connection):
    """One client over plain TCP. It is closed without a code, which only the truth keeps."""

    def __init__(self, framing: Framing, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._unframe = framing.new_unframer()

    def _last_words(self, code: int, reason: str) -> bytes:
        return b""

    async def _part(self, words: bytes) -> None:
        with contextlib.suppress(NotImplementedError):  # TLS has no half of an end
            await self.stream.send_eof()
        await anyio.sleep(GOODBYE)

    async def _read(self, first: bytes) -> None:
        block = first
        while True:
            try:
                texts = self._unframe(block)
            except ValueError:
                self._how = self._how or "unreadable"
                return
            for text in texts:
                if self._allowed():
                    self._answer(text)
            block = await self.stream.receive()
