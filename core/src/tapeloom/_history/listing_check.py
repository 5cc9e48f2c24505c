"""Checks the symbols of a feed against the instruments that its venue lists."""

from __future__ import annotations

import structlog

from tapeloom._compose.plan import FeedPlan
from tapeloom.errors import ConnectionFailed, SymbolError, nearest

from .rest_client import RestClient

log = structlog.get_logger()

#: Seconds a feed waits for the venue's listing before it starts without it.
_TIMEOUT_SECONDS = 10.0


async def check_symbols(rest: RestClient, plan: FeedPlan) -> None:
    """Update the feed's listing, and check the feed's symbols against it.

    If the venue does not answer, the feed starts all the same, with native names formed by rule.

    Raises SymbolError for a symbol that the venue does not list, with the nearest one it lists.
    """
    try:
        listed = await rest.listing(_TIMEOUT_SECONDS)
    except Exception as error:
        if isinstance(error, ConnectionFailed) and not error.retryable:
            raise
        log.warning("symbols_unchecked", feed=plan.feed.name, reason=str(error))
        return
    if not listed:
        return
    plan.feed.listing.update(listed)
    known = plan.feed.listing.instruments
    venue = f"{plan.feed.venue} {plan.feed.market}".rstrip()
    unknown = [symbol for symbol in plan.feed.symbols if symbol not in known]
    if unknown:
        raise SymbolError(
            f"feed {plan.feed.name!r}: "
            + " ".join(
                f"{venue} does not list {symbol!r}.{nearest(symbol, known)}" for symbol in unknown
            )
        )
