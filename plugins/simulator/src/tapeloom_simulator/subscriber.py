"""A connection, as those see it who put frames into its buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Subscriber"]


class Subscriber(Protocol):
    """What the hub needs of a connection."""

    def __hash__(self) -> int: ...

    @property
    def number(self) -> int:
        """Which connection this is."""
        ...

    def queue(self, frames: Sequence[bytes]) -> None:
        """Put frames into the buffer."""
        ...
