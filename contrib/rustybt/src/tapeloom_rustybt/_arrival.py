"""What `connect` waits for: a venue that can be reached, and its list of symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from tapeloom import Stream

__all__ = ["listed", "reach"]

_LISTED_WITHIN = 10.0  # seconds; core waits no longer for the venue's list either


async def reach(stream: Stream) -> None:
    """Open a connection and close it again, so that `connect` fails where the venue cannot be reached.

    Not where the venue allows a single one, nor where data comes over no WebSocket: there the first
    subscription tells.
    """
    plan = stream.plans[0]
    if not plan.endpoints or plan.endpoints[0].max_connections == 1:
        return
    async with plan.dial(plan.endpoints[0]):
        pass


async def listed(stream: Stream) -> None:
    """Wait for the venue's list of symbols, so that `subscribe` can refuse what is not on it."""
    plan = stream.plans[0]
    if not plan.endpoints or plan.history is None or plan.history.listing_request() is None:
        return
    symbols, known = plan.feed.symbols, plan.feed.listing.instruments
    with anyio.move_on_after(_LISTED_WITHIN):
        # With a symbol that is not on the list, it is the feed's failure that we wait for.
        while stream.error is None and not (known and known.keys() >= set(symbols)):  # noqa: ASYNC110 core has no word for it
            await anyio.sleep(0.01)
