"""The stage: a quick look at every event, and a close one at those that do not pass it.

A trade that is like the one before it, as nearly all are, is settled here by comparisons against
what its line holds ready. A batch in which nothing is wrong is returned as it came, the same list.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import InvalidOperation
from operator import length_hint
from typing import TYPE_CHECKING, Any, TypeAlias

from tapeloom.events import Bar, Book, Event, Gap, Quote, Reject, Ticker, Trade
from tapeloom.plugin import TradeBatch

from ._bars import Bars, Tickers
from ._books import Books
from ._quotes import Quotes
from ._rules import INFINITY, ZERO, Rules
from ._series import Series
from ._trades import Trades

if TYPE_CHECKING:
    from collections import Counter

    from tapeloom.plugin import HistoryQuery, Stage

    from ._settings import Settings

__all__ = ["quality"]

_NO_LIMIT = 1 << 63
#: Returns None for an event that passes, else what stands in its place.
_Judge: TypeAlias = Callable[[Any], list[Event] | None]


def _judges(
    rules: Rules, trades: Trades, types: tuple[str, ...], want: Callable[[HistoryQuery], None]
) -> dict[type[Event], _Judge]:
    """Return who judges which type of event. Trades are judged by the stage itself."""
    known: dict[type[Event], _Judge] = {
        Quote: Quotes(rules).judge,
        Book: Books(rules).judge,
        Bar: Bars(rules, want).judge,
        Ticker: Tickers(rules).judge,
    }
    judges = {cls: judge for cls, judge in known.items() if cls.type in types}
    if Trade.type in types:
        judges |= {Gap: trades.gap, Reject: trades.rejected}
    return judges


def _pass(_: object) -> None:
    """Judge nothing, want nothing."""


def quality(
    settings: Settings, counters: Counter[str], want: Callable[[HistoryQuery], None] = _pass
) -> Stage:
    """Return the stage that these settings describe."""
    rules = Rules(settings, counters)
    trades = Trades(rules, want)
    judge_of = _judges(rules, trades, settings.types, want).get
    judge_trade: _Judge = trades.judge if Trade.type in settings.types else _pass
    lines_of, ahead = trades.lines, rules.ahead

    unknown = Series(rules)  # its band is empty: whatever is compared with it fails
    numbered: list[Series] = []  # what is remembered, by the numbers of `TradeBatch`

    def quick(events: TradeBatch) -> int:
        """Take good trades until one needs a closer look; return how many were taken."""
        numbers = iter(events.subscription_ids)
        latest = _NO_LIMIT if ahead is None else events[0].recv + ahead
        try:
            for event, number in zip(events, numbers, strict=True):
                line = numbered[number]
                price = event.price
                if (
                    (last := event.id) == line.next
                    and (price is line.within or line.low < price < line.high)
                    and ZERO < event.size < INFINITY
                    and line.ts <= (ts := event.ts) <= latest
                ):
                    line.next = last + 1
                    line.ts = ts
                    line.last = line.within = price
                else:
                    break
            else:
                events.validated = True
                return len(events)
        except (IndexError, InvalidOperation):
            pass  # a new symbol; a NaN, which compares with nothing
        return len(events) - length_hint(numbers) - 1

    def learn(events: TradeBatch) -> None:
        """Remember which number stands for what."""
        for event, number in zip(events, events.subscription_ids, strict=True):
            numbered.extend([unknown] * (number + 1 - len(numbered)))
            if numbered[number] is unknown:
                numbered[number] = lines_of[event.channel].get(event.symbol, unknown)

    # The quick look stands in the loops: in a function of its own it would cost a tenth more.
    def stage(events: list[Event]) -> list[Event]:
        if not events or type(events) is not TradeBatch or Trade.type not in settings.types:
            return look(events, events)
        done = quick(events)
        if done == len(events):
            return events
        out = look(events, events[done:])
        learn(events)
        return out

    def look(events: list[Event], left: list[Event]) -> list[Event]:
        """Look at the events that are *left* of a batch; return the whole of it."""
        out: list[Event] | None = None
        channel: str | None = None  # of the trade before
        line_of: dict[str, Series] = {}
        rest = iter(left)
        for event in rest:
            if type(event) is Trade:
                if event.channel is not channel:
                    channel = event.channel
                    line_of = lines_of[channel]
                try:
                    line = line_of[event.symbol]
                    if (
                        (number := event.id) == line.next
                        and ((price := event.price) is line.within or line.low < price < line.high)
                        and ZERO < event.size < INFINITY
                        and (ts := event.ts) >= line.ts
                        and event.origin == "live"
                        and (ahead is None or ts <= event.recv + ahead)
                    ):
                        line.next = number + 1
                        line.ts = ts
                        line.last = line.within = price
                        if out is not None:
                            out.append(event)
                        continue
                except (KeyError, InvalidOperation):
                    pass  # a new symbol; a NaN, which compares with nothing
                instead = judge_trade(event)
            elif (judge := judge_of(type(event))) is not None:
                instead = judge(event)
            else:
                instead = None
            if instead is not None:
                if out is None:
                    out = events[: len(events) - length_hint(rest) - 1]
                out += instead
            elif out is not None:
                out.append(event)
        return events if out is None else out

    return stage
