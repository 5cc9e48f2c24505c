"""What a connection asks of the session it belongs to."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Protocol

from tapeloom.events import Event
from tapeloom.plugin import Endpoint, Subscription

if TYPE_CHECKING:
    from tapeloom._compose.plan import Plan
    from tapeloom._runtime.rate_limits import Budget

    from .connection import Connection
    from .frame_intake import FrameIntake

__all__ = ["Owner"]


class Owner(Protocol):
    """What a connection asks of the session it belongs to."""

    @property
    def plan(self) -> Plan:
        """The feed, composed."""
        ...

    @property
    def intake(self) -> FrameIntake:
        """What the connections of the feed share as they read."""
        ...

    @property
    def endpoint(self) -> Endpoint:
        """Where to, and the venue's rules."""
        ...

    @property
    def label(self) -> str:
        """What people call it."""
        ...

    @property
    def wanted(self) -> list[Subscription]:
        """The subscriptions, which change in place."""
        ...

    @property
    def messages(self) -> Budget | None:
        """What may be sent to this host."""
        ...

    def live(self, some: Sequence[Subscription], said: int | None = None) -> None:
        """Take note that these are live; *said*: when the venue's own word of it came."""
        ...

    def refused(self, some: Sequence[Subscription], said: int) -> None:
        """Take note that the venue does not give us these, by its word of then."""
        ...

    def watch(self, connection: Connection) -> None:
        """Look, from time to time, for what has fallen silent."""
        ...

    def excuse(self) -> None:
        """Hold no silence against the venue: it was we who did not listen."""
        ...

    def take(self, connection: Connection, events: list[Event]) -> Awaitable[None]:
        """Take what a read has brought; return what is to be waited for."""
        ...

    async def tell(self, state: str, detail: str) -> None:
        """Put a Status into the stream."""
        ...

    def retire(self, connection: Connection) -> bool:
        """Begin to replace it; return False where nothing can take its place before it has ended."""
        ...
