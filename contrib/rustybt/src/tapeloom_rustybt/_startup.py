"""What `connect` waits for: a reachable venue, and its list of symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from tapeloom import Stream

__all__ = ["check_reachable", "wait_for_listing"]

#: How long to wait for the list of symbols; core waits no longer either.
_LISTING_TIMEOUT_SECONDS = 10.0


async def check_reachable(stream: Stream) -> None:
    """Open a connection and close it again. Raises ConnectionFailed if the venue cannot be reached.

    Does nothing if the venue allows only one connection, or if it has no WebSocket: then the first
    subscription fails instead.
    """
    plan = stream.plans[0]
    if not plan.endpoints or plan.endpoints[0].max_connections == 1:
        return
    async with plan.dial(plan.endpoints[0]):
        pass


async def wait_for_listing(stream: Stream) -> None:
    """Wait for the venue's list of symbols, so that `subscribe` can refuse unlisted symbols."""
    plan = stream.plans[0]
    if not plan.endpoints or plan.history is None or plan.history.listing_request() is None:
        return
    symbols, known = plan.feed.symbols, plan.feed.listing.instruments
    with anyio.move_on_after(_LISTING_TIMEOUT_SECONDS):
        # If a symbol is not listed, the loop ends when the feed has failed.
        while stream.error is None and not (known and known.keys() >= set(symbols)):  # noqa: ASYNC110 core sets no event for it
            await anyio.sleep(0.01)
