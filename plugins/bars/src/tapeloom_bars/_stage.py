"""The stage: finds each trade's symbol, and puts bars where they belong in the batch."""

from __future__ import annotations

from decimal import Decimal
from operator import length_hint
from typing import TYPE_CHECKING

from tapeloom.events import Event, Gap, Trade
from tapeloom.plugin import TradeBatch

from ._accumulator import exactly
from ._series import Series
from ._settings import Settings
from ._venue import Venue

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._series import Closing

__all__ = ["Bars"]

#: Stands for a symbol that is not known yet, or that does not count: nothing is ever in order for it.
UNKNOWN = Series("", "", Settings(every="1s"))
_MOST = Decimal("Infinity")
_LEAST = -_MOST

#: Where something is put in: place in the batch, what goes before the event there, what after it.
_Splice = tuple[int, list[Event], list[Event]]


class Bars:
    """Adds bars to the events of a feed: a `TimedStage`.

    Every event is passed on, in place. A bar stands before the trade that closed it, a revision
    and a `Reject` after the event that caused it. What comes out does not depend on how events are
    cut into batches.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._venue = Venue()
        self._numbered: list[Series] = []  # by the numbers of `TradeBatch`
        self._unwanted = "" if settings.history else "history"

    def __call__(self, events: list[Event]) -> list[Event]:
        """Return *events* with bars among them; the very same list where there are none."""
        splices: list[_Splice] = []
        if type(events) is TradeBatch:
            exactly(self._take_trades, events, splices)
        else:
            self._take(events, splices)
        return _spliced(events, splices) if splices else events

    def _take_trades(self, events: TradeBatch, splices: list[_Splice]) -> None:
        """Add up trades, and look closely at those with which something begins or ends."""
        series_of = self._numbered
        trades = iter(events)
        numbered = zip(trades, events.subscription_ids, strict=True)
        while (found := self._add_up(numbered, events.validated)) is not None:
            trade, number = found
            place = len(events) - length_hint(trades) - 1
            if number < len(series_of) and (series := series_of[number]) is not UNKNOWN:
                self._hear(trade)
                self._rollover(series, trade, place, splices)
            else:
                self._take((trade,), splices, place)
                self._learn(trade, number)

    def _add_up(self, trades: Iterator[tuple[Trade, int]], sound: bool) -> tuple[Trade, int] | None:
        """Add trades that are in order to the running sums; return the first one that is not."""
        venue, series_of, least, most = self._venue, self._numbered, _LEAST, _MOST
        peak = None
        try:
            for trade, number in trades:
                series = series_of[number]
                total = series.running
                last = total.ts
                ts = trade.ts
                price = trade.price
                size = trade.size
                value = price * size
                if not (last <= ts < series.until and (sound or least < value < most)):
                    return trade, number
                if peak is None:
                    peak = venue.hear(trade.recv)
                if ts > peak:
                    peak = ts
                # Where the price has not moved, as a rule, a parser gives the same object.
                if price is not total.close:
                    if price > total.high:
                        total.high = price
                    elif price < total.low:
                        total.low = price
                if trade.side == "buy":
                    total.bought += size
                    total.bought_quote += value
                else:
                    total.sold += size
                    total.sold_quote += value
                total.trades += 1
                if ts != last:
                    total.ts = ts
                    total.close = price
                    total.last_id = trade.id
                else:
                    total.tie(trade)
        except IndexError:
            return trade, number  # its symbol comes for the first time
        finally:
            if peak is not None:
                venue.lift(peak)
        return None

    def _learn(self, trade: Trade, number: int) -> None:
        """Remember what that number stands for, if it counts."""
        numbered, series = self._numbered, self._venue.series[trade.symbol]
        numbered.extend([UNKNOWN] * (number + 1 - len(numbered)))
        if series.channel == trade.channel:
            numbered[number] = series

    def _take(self, events: Sequence[Event], splices: list[_Splice], first: int = 0) -> None:
        """Look closely at events, of which the first one is at the place *first*."""
        venue, unwanted = self._venue, self._unwanted
        known = venue.series
        for place, event in enumerate(events, first):
            if type(event) is Trade:
                try:
                    series = known[event.symbol]
                except KeyError:
                    series = venue.add(event.venue, event.symbol, self._settings)
                if (
                    event.channel is not series.channel or event.origin == unwanted
                ) and not series.admits(event):
                    continue
                self._hear(event)
                if not series.take(event):
                    self._rollover(series, event, place, splices)
            elif type(event) is Gap and (changed := self._gap(event)):
                splices.append((place, [], changed))

    def _hear(self, trade: Trade) -> None:
        """Take note of its times."""
        venue = self._venue
        if trade.ts > venue.hear(trade.recv):
            venue.lift(trade.ts)

    def _rollover(self, series: Series, trade: Trade, place: int, splices: list[_Splice]) -> None:
        """Take a trade with which something begins or ends."""
        before, after = series.rollover(trade)
        self._venue.queue(series)
        if before or after:
            splices.append((place, before, after))

    @property
    def due(self) -> int | None:
        """When, on the clock that stamps `recv`, the earliest bar ends and has waited its lateness."""
        series = self._venue.first()
        return None if series is None else series.wake - self._venue.ahead

    def tick(self, now: int) -> list[Event]:
        """Return the bars that have ended by *now*, ordered by end, interval and symbol."""
        rejects: list[Event] = []
        closings: list[Closing] = []
        venue = self._venue
        projected = now + venue.ahead
        while (series := venue.first()) is not None and series.wake <= projected:
            bad, closed = series.tick(projected, now)
            venue.queue(series)
            rejects += bad
            closings += closed
        return _ordered(rejects, closings)

    def flush(self) -> list[Event]:
        """Return the bars that are still forming: neither closed nor complete."""
        rejects: list[Event] = []
        closings: list[Closing] = []
        for series in self._venue.series.values():
            bad, forming = series.flush(self._venue.seen)
            rejects += bad
            closings += forming
        return _ordered(rejects, closings)

    def _gap(self, gap: Gap) -> list[Event]:
        series = self._venue.series
        found = [series[gap.symbol]] if gap.symbol in series else []
        if not gap.symbol:
            found = list(series.values())
        return _ordered([], [closing for one in found for closing in one.gap(gap)])


def _ordered(rejects: list[Event], closings: list[Closing]) -> list[Event]:
    closings.sort(key=lambda closing: closing[:3])
    rejects.extend(closing[3] for closing in closings)
    return rejects


def _spliced(events: list[Event], splices: list[_Splice]) -> list[Event]:
    out: list[Event] = []
    done = 0
    for index, before, after in splices:
        out += events[done:index]
        out += before
        out.append(events[index])
        out += after
        done = index + 1
    out += events[done:]
    return out
