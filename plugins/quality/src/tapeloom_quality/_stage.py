"""The quality stage: a fast path for the common case, and the full checks for all other events.

Nearly every trade is like the one before it. Such a trade is validated here by comparisons with values
that its `TradeReference` holds ready. A batch without a fault is returned as the same list object.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import InvalidOperation
from operator import length_hint
from typing import TYPE_CHECKING, Any, TypeAlias

from tapeloom.events import Bar, Book, Event, Quote, Reject, Ticker, Trade
from tapeloom.plugin import TradeBatch

from ._bars import BarChecks, TickerChecks
from ._books import BookChecks
from ._quotes import QuoteChecks
from ._rules import INFINITY, ZERO, Rules
from ._trade_reference import TradeReference
from ._trades import TradeChecks

if TYPE_CHECKING:
    from collections import Counter

    from tapeloom.plugin import Gaps, Stage

    from ._settings import Settings

__all__ = ["quality"]

#: Returns None for a valid event, else the events that replace it.
_Check: TypeAlias = Callable[[Any], list[Event] | None]


def _checks(
    rules: Rules, trades: TradeChecks, types: tuple[str, ...], gaps: Gaps
) -> dict[type[Event], _Check]:
    """Return the check for each type of event except trades, which the stage checks itself."""
    all_checks: dict[type[Event], _Check] = {
        Quote: QuoteChecks(rules).check,
        Book: BookChecks(rules).check,
        Bar: BarChecks(rules, gaps).check,
        Ticker: TickerChecks(rules).check,
    }
    checks = {cls: check for cls, check in all_checks.items() if cls.type in types}
    if Trade.type in types:
        checks[Reject] = trades.record_reject
    return checks


def _accept(_: object) -> None:
    """Accept any event."""


def quality(settings: Settings, counters: Counter[str], gaps: Gaps) -> Stage:
    """Return the quality stage for *settings*."""
    rules = Rules(settings, counters)
    trades = TradeChecks(rules, gaps)
    check_of = _checks(rules, trades, settings.types, gaps).get
    check_trade: _Check = trades.check if Trade.type in settings.types else _accept
    references_of, ahead = trades.references, rules.ahead

    unknown = TradeReference(rules)  # its band is empty, so every event gets the full check
    by_subscription_id: list[TradeReference] = []  # index: subscription id of `TradeBatch`

    def fast_path(events: TradeBatch) -> int:
        """Accept valid trades until one needs the full check; return how many were accepted.

        A parser makes such a batch, so its numbers are finite: core has checked its bounds.
        """
        subscription_ids = iter(events.subscription_ids)
        latest_ts = events[0].recv + ahead.allowed
        try:
            for event, subscription_id in zip(events, subscription_ids, strict=True):
                reference = by_subscription_id[subscription_id]
                price = event.price
                if (
                    (trade_id := event.id) == reference.next_id
                    and (
                        price is reference.known_good
                        or reference.band_low < price < reference.band_high
                    )
                    and event.size > ZERO
                    and reference.newest_ts <= (ts := event.ts) <= latest_ts
                ):
                    reference.next_id = trade_id + 1
                    reference.newest_ts = ts
                    reference.last_price = reference.known_good = price
                else:
                    break
            else:
                events.validated = True
                return len(events)
        except (IndexError, InvalidOperation):
            pass  # a new symbol; a NaN, which compares with nothing
        return len(events) - length_hint(subscription_ids) - 1

    def record_subscriptions(events: TradeBatch) -> None:
        """Record the reference of each subscription id."""
        for event, subscription_id in zip(events, events.subscription_ids, strict=True):
            by_subscription_id.extend([unknown] * (subscription_id + 1 - len(by_subscription_id)))
            if by_subscription_id[subscription_id] is unknown:
                by_subscription_id[subscription_id] = references_of[event.channel].get(
                    event.symbol, unknown
                )

    # The fast path is written out in both loops: a call per trade would cost a tenth more.
    def stage(events: list[Event]) -> list[Event]:
        if not events or type(events) is not TradeBatch or Trade.type not in settings.types:
            return check_each(events, events)
        done = 0 if ahead.pending else fast_path(events)
        if done and not ahead.is_usual:
            ahead.exceeds(events[done - 1].ts, events[0].recv)  # the clocks may have come closer
        if done == len(events):
            return events
        out = check_each(events, events[done:])
        record_subscriptions(events)
        return out

    def check_each(events: list[Event], remaining: list[Event]) -> list[Event]:
        """Check the *remaining* events of the batch *events*; return the whole batch."""
        out: list[Event] | None = None
        channel: str | None = None  # channel of the trade before
        by_symbol: dict[str, TradeReference] = {}
        iterator = iter(remaining)
        for event in iterator:
            if type(event) is Trade:
                if event.channel is not channel:
                    channel = event.channel
                    by_symbol = references_of[channel]
                try:
                    reference = by_symbol[event.symbol]
                    if (
                        (trade_id := event.id) == reference.next_id
                        and (
                            (price := event.price) is reference.known_good
                            or reference.band_low < price < reference.band_high
                        )
                        and ZERO < event.size < INFINITY
                        and (ts := event.ts) >= reference.newest_ts
                        and event.origin == "live"
                        and ts <= event.recv + ahead.allowed
                        and (ahead.is_usual or not ahead.exceeds(ts, event.recv))
                    ):
                        reference.next_id = trade_id + 1
                        reference.newest_ts = ts
                        reference.last_price = reference.known_good = price
                        if out is not None:
                            out.append(event)
                        continue
                except (KeyError, InvalidOperation):
                    pass  # a new symbol; a NaN, which compares with nothing
                replacement = check_trade(event)
            elif (check := check_of(type(event))) is not None:
                replacement = check(event)
            else:
                replacement = None
            if replacement is not None:
                if out is None:
                    out = events[: len(events) - length_hint(iterator) - 1]
                out += replacement
            elif out is not None:
                out.append(event)
        return events if out is None else out

    stage.uses = frozenset(settings.types)  # type: ignore[attr-defined]
    return stage
