"""`Market`: fed with the batches of a stream by one thread, read by screens in others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from decimal import localcontext
from threading import Lock
from typing import Literal, TypeAlias

from attrs import evolve
from tapeloom.events import OURS, BaseEvent, Event, Gap, GapState, Reject, Status, Trade
from tapeloom.plugin import StreamState
from tapeloom.units import duration_ns

from .bars import Marks
from .candles import EXACT, MINUTE, Sum
from .grouping import Kind, grouped
from .health import Health, health
from .instrument import Instrument
from .ledger import Ledger
from .limits import Limits
from .thinning import Thinning
from .views import Candle, GapEntry, LadderView, SymbolRow
from .windows import SECOND

#: How rows are ordered: by venue and symbol, or with the greatest first.
Order: TypeAlias = Literal["name", "rate", "gaps", "rejects", "age"]

#: States of a `Status` of a book after which its levels are not to be trusted.
_LOST = frozenset({"stale", "crossed"})
#: If so many times `Limits.pending` events wait, `add` waits for the thread that is reading them.
_MOST_PENDING = 4
#: How many events wait where trades are left out: what waits costs the stream more than to read it.
_FEW_PENDING = 256

_SORT: dict[Order, Callable[[Instrument, int], object]] = {
    "name": lambda found, _: (found.venue, found.symbol),
    "rate": lambda found, now: -found.event_rate.at(now),
    "gaps": lambda found, _: -found.gaps,
    "rejects": lambda found, _: -found.rejects,
    "age": lambda found, _: max(found.newest.values(), default=0),
}


class Market:
    """What screens show of a stream: prices, candles, ladders, tapes, gaps, health.

    One thread calls `add` with every batch, and it takes no more time than to put it aside. The screens'
    own threads sort it out when they read. All that is returned is a copy, or does not change.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._lock = Lock()
        # `add` only appends and counts, so it takes no lock: a deque may be used by two threads.
        self._pending: deque[Sequence[Event]] = deque()
        self._thinning = Thinning(self.limits.rate)
        self._added = 0  # events, written by the thread that adds
        self._read = 0  # events, written by who holds the lock
        self._instruments: dict[tuple[str, str], Instrument] = {}  # the most recently active last
        self._count, self._share = 1, self.limits.share(1)
        self._ledger = Ledger(self.limits.gaps, self.limits.events)
        self._states: tuple[StreamState | None, StreamState | None] = None, None
        self._newest = 0  # our time of the newest event

    # ----------------------------------------------------------------------------------- for the stream

    def add(self, events: Sequence[Event]) -> None:
        """Add a batch, which is not changed later; from one thread, whichever it is.

        If no screen has read for long, the batches that wait are sorted out here. So are trades of
        symbols that are looked at where there are many: to let them wait would cost more.
        """
        events = self._thinning.pass_on(events)
        if not events:
            return
        self._pending.append(events)
        self._added += len(events)
        waiting = self._added - self._read
        most = _FEW_PENDING if self._thinning.is_thin else self.limits.pending
        if waiting > most and self._lock.acquire(
            blocking=waiting > _MOST_PENDING * self.limits.pending
        ):
            try:
                self._add_pending()
            finally:
                self._lock.release()

    def refresh(self, state: StreamState) -> None:
        """Take what the stream says of itself; from any thread, once or a few times a second."""
        with self._lock:
            self._states = self._states[1], state

    def _sort_out(self) -> None:
        """Read all that waits; the lock is held."""
        self._add_pending()
        for (venue, channel), counted in self._thinning.pop_counted().items():
            for symbol, number in counted.numbers.items():
                if number:
                    last = counted.last[symbol]
                    self._newest = max(self._newest, last.recv)
                    self._instrument(venue, symbol).count_trades(channel, number, last, self._share)

    def _add_pending(self) -> None:
        """Read the batches that wait; the lock is held."""
        pending, batches = self._pending, []
        while pending:
            batches.append(pending.popleft())
        self._read += sum(map(len, batches))
        groups = grouped(batches)
        with localcontext(EXACT):
            # What is said about data comes after the data: a ladder knows by the times what is newer.
            for key, group in groups.items():
                if key[0] not in OURS:
                    self._add(key, group)
            for key, group in groups.items():
                if key[0] in OURS:
                    self._add_about(group)

    def _add(self, key: Kind, events: Sequence[Event]) -> None:
        kind, venue, symbol, channel = key
        self._newest = max(self._newest, events[-1].recv)
        found = self._instrument(venue, symbol)
        if kind is Trade:
            whole_since = self._thinning.whole_since((venue, symbol))
            if found.since_recv < whole_since:
                found.restart(whole_since)
        found.add(kind, channel, events, self._share, self.limits.levels)

    def _instrument(self, venue: str, symbol: str) -> Instrument:
        """Return the instrument, which becomes the most recently active; drop the least recent of too many."""
        instruments = self._instruments
        found = instruments.pop((venue, symbol), None)
        if found is None:
            found = Instrument(venue, symbol, self._share)
            if len(instruments) >= self.limits.symbols:
                del instruments[next(iter(instruments))]
        instruments[venue, symbol] = found
        count = len(instruments)
        if count != self._count:
            self._count, self._share = count, self.limits.share(count)
            if count & (count - 1) == 0:  # each time that their number has doubled
                for other in instruments.values():
                    other.trim(self._share)
        return found

    def _add_about(self, events: Sequence[Event]) -> None:
        for event in events:
            self._newest = max(self._newest, event.recv)
            if type(event) is Gap:
                self._add_gap(event)
            elif type(event) is Reject:
                self._ledger.rejects.append(event)
                if event.symbol:
                    self._instrument(event.venue, event.symbol).rejects += 1
            elif type(event) is Status:
                self._ledger.statuses.append(event)
                found = self._instruments.get((event.venue, event.symbol))
                if found is not None and event.state in _LOST:
                    found.lost(event)

    def _add_gap(self, gap: Gap) -> None:
        is_first = self._ledger.add_gap(gap)
        if not gap.symbol:
            found = [found for found in self._instruments.values() if found.venue == gap.venue]
        else:
            found = [self._instrument(gap.venue, gap.symbol)]
        for instrument in found:
            instrument.gaps += is_first
            if is_first:
                instrument.lost(gap)

    # ----------------------------------------------------------------------------------- for screens

    @property
    def now(self) -> int:
        """Our time: of the last state, or of a newer event; in a replay, the time of the tape. In ns."""
        state = self._states[1]
        return self._newest if state is None or state.is_replay else max(state.at, self._newest)

    def _ahead(self) -> dict[str, int]:
        """Return how far the clock of each venue is ahead of ours, in ns.

        What is known is the least of it; where that is below 0, it may be nothing but the way to us.
        """
        state = self._states[1]
        ahead: dict[str, int] = {}
        for feed in state.feeds if state is not None else ():
            ahead[feed.venue] = max(ahead.get(feed.venue, 0), feed.clock_offset or 0)
        return ahead

    def rows(
        self,
        match: str = "",
        *,
        order: Order = "name",
        count: int = 1_000,
        venue: str | None = None,
    ) -> list[SymbolRow]:
        """Return the first *count* symbols whose venue and symbol contain *match*, in any case."""
        self._thinning.look_at_table()
        with self._lock:
            self._sort_out()
            now, key, text = self.now, _SORT[order], match.casefold()
            found = [
                instrument
                for instrument in self._instruments.values()
                if instrument.symbol
                and (venue is None or instrument.venue == venue)
                and text in f"{instrument.venue} {instrument.symbol}".casefold()
            ]
            if order != "name":
                found.sort(key=lambda instrument: (instrument.venue, instrument.symbol))
            found.sort(key=lambda instrument: key(instrument, now))  # type: ignore[return-value,arg-type]
            ahead = self._ahead()
            return [
                instrument.row(now, ahead.get(instrument.venue, 0)) for instrument in found[:count]
            ]

    def row(self, venue: str, symbol: str) -> SymbolRow | None:
        """Return the row of one symbol; None before its first event."""
        with self._lock:
            found = self._found(venue, symbol)
            return None if found is None else found.row(self.now, self._ahead().get(venue, 0))

    def _found(self, venue: str, symbol: str) -> Instrument | None:
        """Return what is kept of a symbol that somebody looks at; the lock is held."""
        self._thinning.look_at((venue, symbol))
        self._sort_out()
        return self._instruments.get((venue, symbol))

    def symbols(self) -> list[tuple[str, str]]:
        """Return venue and symbol of all that have had an event, in order.

        Where trades are left out, also of those that are subscribed to.
        """
        with self._lock:
            self._sort_out()
            found = {key for key in self._instruments if key[1]}
            if self._thinning.is_thin and self._states[1] is not None:
                for feed in self._states[1].feeds:
                    found.update((feed.venue, symbol) for symbol in feed.symbols)
            return sorted(found)

    def candles(
        self, venue: str, symbol: str, interval: str | int, count: int = 500
    ) -> list[Candle]:
        """Return the last *count* candles, in order; there is none where nothing was traded.

        *interval* is a duration such as "5m", or in ns; whole seconds. They are made of trades, and of
        the stream's bars where there are no trades. Raises ValueError for another interval.
        """
        length = _length(interval)
        with self._lock:
            found = self._found(venue, symbol)
            return [] if found is None else self._candles(found, length, count)

    def _candles(self, found: Instrument, length: int, count: int) -> list[Candle]:
        series = found.minutes if length % MINUTE == 0 else found.seconds
        traded, barred = series.of(length, count), found.bars.candles(length, count)
        # The stream began in the midst of the first candle, unless nothing was dropped of the bars.
        first = found.since - found.since % length
        starts = sorted({*traded, *barred})[-count:]
        if not starts:
            return []
        marks = found.bars.marks(length, starts[0])
        gaps = self._ledger.candles_with_gaps(
            lambda gap: (
                gap.venue == found.venue
                and gap.symbol in ("", found.symbol)
                and found.concerns(gap)
            ),
            length,
            starts,
        )
        candles = []
        for start in starts:
            total = traded.get(start)
            if total is None or (start == first and start in barred):
                bar = barred[start]
                candles.append(_with_gap(bar, gaps.get(start, "")))
                continue
            mark = marks.get(start) or Marks()
            complete = mark.complete and start != first
            candles.append(_candle(start, total, gaps.get(start, ""), mark.revised, complete))
        return candles

    def tape(self, venue: str, symbol: str, count: int = 100) -> list[Trade]:
        """Return the last *count* trades in the order of their arrival, the newest first."""
        with self._lock:
            found = self._found(venue, symbol)
            return [] if found is None else [*found.tape][: -count - 1 : -1]

    def ladder(self, venue: str, symbol: str, levels: int = 20) -> LadderView | None:
        """Return the best *levels* of the book that was updated last; None without a book."""
        with self._lock:
            found = self._found(venue, symbol)
            ladder = None if found is None else found.ladder()
            return None if ladder is None else ladder.view(levels)

    def gaps(self, match: str = "", *, count: int = 1_000) -> list[GapEntry]:
        """Return the last *count* gaps whose venue, symbol, channel, cause or state contains *match*.

        The newest is the first. Each gap stands there once, as it was reported last.
        """
        text = match.casefold()
        with self._lock:
            self._sort_out()
            return self._ledger.gaps(count, lambda gap: text in _words(gap))

    @property
    def gap_count(self) -> int:
        """The number of gaps since the market began."""
        with self._lock:
            self._sort_out()
            return self._ledger.gap_count

    def rejects(self) -> list[Reject]:
        """Return the last rejects, the newest first."""
        with self._lock:
            self._sort_out()
            return [*self._ledger.rejects][::-1]

    def statuses(self) -> list[Status]:
        """Return the last changes of state, the newest first."""
        with self._lock:
            self._sort_out()
            return [*self._ledger.statuses][::-1]

    def health(self) -> Health:
        """Return what the last two states of the stream say."""
        with self._lock:
            return health(*self._states)


def _length(interval: str | int) -> int:
    length = duration_ns(interval)
    if length < SECOND or length % SECOND:
        raise ValueError(f"{interval!r} is no whole number of seconds. Write '1s', '5m', '4h'.")
    return length


def _words(event: BaseEvent) -> str:
    words = [getattr(event, name, "") for name in ("venue", "symbol", "channel", "cause", "state")]
    return " ".join(words).casefold()


def _candle(
    start: int, found: Sum, gap: GapState | Literal[""], revised: bool, complete: bool
) -> Candle:
    return Candle(
        start, found.open, found.high, found.low, found.close, found.volume, found.trades,
        "trades", gap, revised, complete,
    )  # fmt: skip


def _with_gap(bar: Candle, gap: GapState | Literal[""]) -> Candle:
    return evolve(bar, gap=gap)
