"""The interface of a connection that the hub and the injector use."""

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
        """The number of the connection; 1 is the first one opened."""
        ...

    def queue(self, frames: Sequence[bytes]) -> None:
        """Append frames to the send buffer."""
        ...
