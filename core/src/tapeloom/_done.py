"""What is awaited where there is nothing to wait for.

On the hot path functions are plain, and return an awaitable: nearly always this one, which whoever
called need not even await. A coroutine for each step of each batch would cost as much as the step.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

__all__ = ["DONE"]


class _Done:
    """An awaitable that has nothing to wait for."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


DONE: Final = _Done()
