"""The stage: finds each trade's symbol, and puts bars where they belong in the batch."""

from __future__ import annotations

from decimal import Decimal
from operator import length_hint
from typing import TYPE_CHECKING

from tapeloom.events import Event, Gap, Trade
from tapeloom.feeds import LiveTrades

from ._series import Series
from ._settings import Settings
from ._tally import exactly
from ._venue import Venue

if TYPE_CHECKING:
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
        self._numbered: list[Series] = []  # by the numbers of `LiveTrades`
        self._unwanted = "" if settings.history else "history"

    def __call__(self, events: list[Event]) -> list[Event]:
        """Return *events* with bars among them; the very same list where there are none."""
        if type(events) is LiveTrades:
            return exactly(self._take_trades, events)
        return exactly(self._take, events, 0)

    def _take_trades(self, events: LiveTrades) -> list[Event]:
        """Add up trades as long as nothing ends; then look at them one by one."""
        done = self._add_up(events)
        if done == len(events):
            return events
        out = self._take(events, done)
        self._learn(events)
        return out

    def _add_up(self, events: LiveTrades) -> int:
        """Add trades that are in order to the running sums; return how many there were."""
        venue, numbered, least, most = self._venue, self._numbered, _LEAST, _MOST
        sound, peak = events.sound, None
        numbers = iter(events.lines)
        try:
            for event, number in zip(events, numbers, strict=True):
                series = numbered[number]
                ts = event.ts
                low = series.low
                price = event.price
                size = event.size
                value = price * size
                if not (low <= ts < series.until and (sound or least < value < most)):
                    break
                if peak is None:
                    peak = venue.hear(event.recv)
                if ts > peak:
                    peak = ts
                total = series.running
                if price > total.high:
                    total.high = price
                elif price < total.low:
                    total.low = price
                if event.side == "buy":
                    total.bought += size
                    total.bought_quote += value
                else:
                    total.sold += size
                    total.sold_quote += value
                total.trades += 1
                if ts != low:
                    series.low = ts
                    total.last = event
                else:
                    total.tie(event)
            else:
                return len(events)
        except IndexError:
            pass  # a symbol that comes for the first time
        finally:
            if peak is not None:
                venue.lift(peak)
        return len(events) - length_hint(numbers) - 1

    def _learn(self, events: LiveTrades) -> None:
        """Remember which number stands for what counts."""
        numbered, known = self._numbered, self._venue.series
        for event, number in zip(events, events.lines, strict=True):
            numbered.extend([UNKNOWN] * (number + 1 - len(numbered)))
            if numbered[number] is UNKNOWN and known[event.symbol].channel == event.channel:
                numbered[number] = known[event.symbol]

    def _take(self, events: list[Event], done: int) -> list[Event]:
        """Look at every event from the place *done* on."""
        splices: list[_Splice] = []
        venue, unwanted = self._venue, self._unwanted
        known, seen, peak = venue.series, None, 0
        for place, event in enumerate(events[done:] if done else events, done):
            if type(event) is Trade:
                try:
                    series = known[event.symbol]
                except KeyError:
                    series = venue.add(event.venue, event.symbol, self._settings)
                if (
                    event.channel is not series.channel or event.origin == unwanted
                ) and not series.admits(event):
                    continue
                if event.recv is not seen:
                    seen = event.recv
                    peak = venue.hear(seen)
                if event.ts > peak:
                    peak = venue.lift(event.ts)
                if series.take(event):
                    continue
                before, after = series.turn(event)
                venue.queue(series)
                if before or after:
                    splices.append((place, before, after))
            elif type(event) is Gap and (changed := self._gap(event)):
                splices.append((place, [], changed))
        return _spliced(events, splices) if splices else events

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
            bad, closed = exactly(series.tick, projected, now)
            venue.queue(series)
            rejects += bad
            closings += closed
        return _ordered(rejects, closings)

    def flush(self) -> list[Event]:
        """Return the bars that are still forming: neither closed nor complete."""
        rejects: list[Event] = []
        closings: list[Closing] = []
        for series in self._venue.series.values():
            bad, forming = exactly(series.flush, self._venue.seen)
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
