"""Checks the symbols of a feed against the instruments that its venue lists."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from tapeloom._compose.plan import FeedPlan
from tapeloom.errors import ConnectionFailed
from tapeloom.events import Status
from tapeloom.plugin import Feed

from .rest_client import RestClient

log = structlog.get_logger()

#: Seconds a feed waits for the venue's listing before it starts without it.
_TIMEOUT_SECONDS = 10.0


async def check_symbols(rest: RestClient, plan: FeedPlan) -> Sequence[Status]:
    """Update the feed's listing, and remove the feed's symbols that the venue has no data of.

    Return a Status for each of them, and for each symbol that is halted. If the venue does not answer,
    the feed starts all the same, with native names formed by rule.

    Raises SymbolError if no symbol is left.
    """
    try:
        listed = await rest.listing(_TIMEOUT_SECONDS)
    except Exception as error:
        if isinstance(error, ConnectionFailed) and not error.retryable:
            raise
        log.warning("symbols_unchecked", feed=plan.feed.name, reason=str(error))
        return []
    plan.facts.record(plan.feed.clock.time_ns(), "listing")
    plan.feed.listing.update(listed)
    refused = plan.feed.refuse_symbols(f"{plan.feed.venue} {plan.feed.market}".rstrip())
    for status in refused:
        log.warning("subscription_refused", feed=plan.feed.name, reason=status.detail)
    plan.record_symbols(unlisted=[status.symbol for status in refused])
    return [plan.facts.status(status) for status in (*refused, *_halted(plan.feed))]


def _halted(feed: Feed) -> list[Status]:
    now, listed = feed.clock.time_ns(), feed.listing.instruments
    detail = "the venue lists it as halted: no data comes until trading is resumed"
    return [
        Status(feed.venue, symbol, now, now, "halted", detail)
        for symbol in feed.symbols
        if symbol in listed and listed[symbol].halted
    ]
