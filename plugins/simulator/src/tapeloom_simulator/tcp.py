"""The server's end of one plain TCP connection that carries the venue's messages."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import anyio

from .connection import CLOSE_WAIT_SECONDS, Connection

if TYPE_CHECKING:
    from .server_api import Framing

__all__ = ["TcpConnection"]


class TcpConnection(Connection):
    """One client over plain TCP. No close code is sent; only the ground truth records it."""

    def __init__(self, framing: Framing, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._unframe = framing.new_unframer()

    def _closing_bytes(self, code: int, reason: str) -> bytes:
        return b""

    async def _send_closing(self, closing: bytes) -> None:
        with contextlib.suppress(NotImplementedError):  # TLS cannot close one direction only
            await self.stream.send_eof()
        await anyio.sleep(CLOSE_WAIT_SECONDS)

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
                    self._process_text(text)
            block = await self.stream.receive()
