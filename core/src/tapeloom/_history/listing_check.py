"""Holds the symbols of a feed against what its venue lists."""

from __future__ import annotations

import structlog

from tapeloom._compose.plan import FeedPlan
from tapeloom.errors import ConnectionFailed, SymbolError, nearest

from .rest_client import RestClient

log = structlog.get_logger()

#: How many seconds a stream waits for the venue's list of symbols before it starts without.
_PATIENCE = 10.0


async def check_symbols(rest: RestClient, plan: FeedPlan) -> None:
    """Hold the feed's symbols against what the venue lists.

    A venue that cannot be asked is no reason not to stream: the names made by rule then stand.

    Raises SymbolError for a symbol that the venue does not list, with the nearest that it does.
    """
    try:
        listed = await rest.listing(_PATIENCE)
    except Exception as error:
        if isinstance(error, ConnectionFailed) and not error.retryable:
            raise
        log.warning("symbols_unchecked", feed=plan.feed.name, reason=str(error))
        return
    if not listed:
        return
    plan.feed.listing.update(listed)
    known = plan.feed.listing.instruments
    where = f"{plan.feed.venue} {plan.feed.market}".rstrip()
    unknown = [symbol for symbol in plan.feed.symbols if symbol not in known]
    if unknown:
        raise SymbolError(
            f"feed {plan.feed.name!r}: "
            + " ".join(
                f"{where} does not list {symbol!r}.{nearest(symbol, known)}" for symbol in unknown
            )
        )
