"""Compares what a stream delivered with the truth of a market. Events are read by their fields alone.

Each trade since the first that was sent must be delivered once, or be told: it lies in a gap that is not
filled, or in a reject. A bar that is called complete must be the bar of the true trades.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from .market import Market, Symbol, TrueTrade
from .venue import Marks, key

_MS = 1_000_000  #: ns
_INTERVALS = {"1s": 1000, "5s": 5000, "1m": 60_000}  #: ms
#: How many closed bars of an interval can be revised; older ones stay as they are.
_REVISABLE_BARS = 10


@dataclass
class Row:
    """The account of one kind of fault at one venue; counts of trades unless said otherwise."""

    venue: str
    stages: str
    fault: str
    trades: int = 0
    lost: int = 0  #: not delivered live
    filled: int = 0  #: delivered later, from the venue's history
    told: int = 0  #: never delivered, and in a gap or a reject
    #: Never delivered, and nobody can see it: without numbers, or by the time of a clock that showed nothing.
    hidden: int = 0
    untold: int = 0  #: never delivered, and nothing says so
    doubled: int = 0  #: deliveries too many
    altered: int = 0  #: delivered with another value, or never made
    bars: int = 0  #: bars called complete
    wrong: int = 0  #: of these, bars that are not those of the true trades
    open: int = 0  #: gaps without a final report
    examples: list[str] = field(default_factory=list, repr=False)

    @property
    def problems(self) -> int:
        """The number of broken promises."""
        return self.untold + self.doubled + self.altered + self.wrong + self.open

    def add(self, other: Row) -> None:
        """Add the counts of another row."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.examples += other.examples


COUNTS = tuple(one.name for one in fields(Row) if one.type == "int")


@dataclass(frozen=True)
class View:
    """What a stream can know: whether it compares numbers, and whether it recognises repeated trades."""

    compares_numbers: bool
    removes_repeats: bool


def accounts(
    names: tuple[str, str], market: Market, marks: Marks, view: View, events: Iterable[Any]
) -> list[Row]:
    """Return a row for each phase of the market; *names* are those of the venue and the stages."""
    by_symbol: dict[str, list[Any]] = defaultdict(list)
    evidence = []
    for event in events:
        by_symbol[event.symbol].append(event)
        if event.type == "reject" and event.event is None:
            evidence.append(event.evidence)
    texts = "\n".join(evidence)
    reported = {name for start, names in marks.corrupt if start in texts for name in names}
    rows: dict[str, Row] = {}
    all_accounts = []
    for symbol in market.symbols.values():
        account = _Account(symbol, market.ids == "numbers", view, marks, reported)
        account.read(by_symbol[symbol.unified])
        account.read([event for event in by_symbol[""] if event.type == "gap"])
        all_accounts.append(account)
    seen_clocks = {clock for account in all_accounts for clock in account.seen_clocks()}
    for account in all_accounts:
        for phase, row in account.rows(names, seen_clocks):
            rows.setdefault(phase, Row(*names, phase)).add(row)
    return [*rows.values()]


class _Account:
    """The account of one symbol."""

    def __init__(
        self,
        symbol: Symbol,
        is_numbered: bool,
        view: View,
        marks: Marks,
        reported: set[tuple[str, int]],
    ) -> None:
        self.symbol, self.is_numbered, self.view, self.marks = symbol, is_numbered, view, marks
        self.by_id = {self._id(trade): trade for trade in symbol.trades}
        self.origins: dict[int | str, list[str]] = defaultdict(list)
        self.gaps: dict[tuple[Any, ...], Any] = {}
        self.rejected = {self._id(trade) for trade in symbol.trades if key(trade) in reported}
        #: All reports of gaps, each with its key in `gaps` and the newest closed bars by then.
        self.reports: list[tuple[tuple[Any, ...], Any, dict[str, int]]] = []
        #: By interval, rejected because their bar had closed, or told after it could no longer be revised.
        self.late: set[tuple[str, int | str]] = set()
        self.came_live: set[int | str] = set()  # by the stream, delivered or rejected
        self.seen: set[int] = set()
        self.bars: dict[tuple[str, int], Any] = {}
        self.newest_closed: dict[str, int] = {}  # start of the newest closed bar by interval, in ns
        self.altered: list[Any] = []
        self.intervals: dict[tuple[str, int], list[TrueTrade]] = defaultdict(list)
        for trade in symbol.trades:
            for interval, length in _INTERVALS.items():
                self.intervals[interval, trade.ts_ms // length * length].append(trade)

    def _id(self, trade: TrueTrade) -> int | str:
        return trade.number if self.is_numbered else trade.name

    def read(self, events: Sequence[Any]) -> None:
        """Take note of events of this symbol, in their order."""
        for event in events:
            if event.type == "trade":
                self.origins[event.id].append(event.origin)
                self._note_live(event)
                if not self._is_true(event):
                    self.altered.append(event)
            elif event.type == "gap" and event.channel in ("", "trades"):
                key = event.symbol, event.channel, event.since, event.after_id
                self.gaps[key] = event
                self.reports.append((key, event, {**self.newest_closed}))
            elif event.type == "reject" and getattr(event.event, "type", "") == "trade":
                self._note_late(event)
                self._note_live(event.event)
                self.rejected.add(event.event.id)
            elif event.type == "bar":
                self.bars[event.interval, event.ts] = event
                if event.closed:
                    newest = max(event.ts, self.newest_closed.get(event.interval, 0))
                    self.newest_closed[event.interval] = newest

    def _note_live(self, trade: Any) -> None:
        if trade.origin == "live":
            self.came_live.add(trade.id)

    def _note_late(self, reject: Any) -> None:
        """Note which bars lack a rejected trade for ever: they closed long ago, and the reject says so."""
        trade = reject.event
        for interval, length_ms in _INTERVALS.items():
            length, newest = length_ms * _MS, self.newest_closed.get(interval)
            is_named = (
                reject.rule == "late_trade" and f" {interval} closed up to" in reject.evidence
            )
            if is_named or _is_final(trade.ts, length, newest):
                self.late.add((interval, trade.id))

    def _note_told_late(self, trade: TrueTrade) -> None:
        """Note which bars lack a lost trade for ever: they closed long before a gap told of it."""
        closed = next(
            closed
            for key, gap, closed in self.reports
            if self.gaps[key].state != "filled" and self._holds(gap, trade)
        )
        for interval, length_ms in _INTERVALS.items():
            if _is_final(trade.ts_ms * _MS, length_ms * _MS, closed.get(interval)):
                self.late.add((interval, self._id(trade)))

    def seen_clocks(self) -> set[int]:
        """Return from which settings of the venue's clock a live trade came, delivered or rejected.

        A trade that is fetched later does not show what the clock was when it was made.
        """
        return {trade.clock for name in self.came_live if (trade := self.by_id.get(name))}

    def _is_true(self, event: Any) -> bool:
        trade = self.by_id.get(event.id)
        return trade is not None and (
            (event.ts, event.price, event.size, event.side)
            == (trade.ts_ms * _MS, trade.price, trade.size, "buy" if trade.is_buy else "sell")
        )

    def _holds(self, gap: Any, trade: TrueTrade) -> bool:
        """Return whether a trade lies in a gap: by its number if the gap has one, else by its time."""
        ts = trade.ts_ms * _MS
        if self.is_numbered and type(gap.after_id) is int:
            if type(gap.before_id) is int:
                return gap.after_id < trade.number < gap.before_id
            return trade.number > gap.after_id and ts <= gap.until
        return gap.since <= ts <= gap.until

    def _is_between(self, gap: Any, trade: TrueTrade) -> bool:
        """Return whether a trade lies between those that a gap names, in the order of the venue."""
        after, before = self.by_id.get(gap.after_id), self.by_id.get(gap.before_id)
        if after is None or (before is None and gap.before_id is not None):
            return False
        return after.number < trade.number and (before is None or trade.number < before.number)

    def rows(self, names: tuple[str, str], seen_clocks: set[int]) -> Iterator[tuple[str, Row]]:
        """Yield the account of each phase.

        *seen_clocks*: from which settings of the venue's clock a live trade of any symbol came.
        """
        self.seen = seen_clocks
        rows: dict[str, Row] = {}

        def row(trade: TrueTrade) -> Row:
            return rows.setdefault(trade.phase, Row(*names, trade.phase))

        unfilled = [gap for gap in self.gaps.values() if gap.state != "filled"]
        blind: set[int] = set()  # numbers of trades that the stream cannot know of, or knows twice
        required = self.symbol.trades[self.symbol.required_from or 0 :]
        for trade in required if self.symbol.required_from is not None else ():
            self._judge(trade, unfilled, row(trade), blind)
        for (interval, ts), bar in self.bars.items():
            self._judge_bar(interval, ts // _MS, bar, blind, row)
        last = row(self.symbol.trades[-1]) if self.symbol.trades else Row(*names, "")
        still_open = [gap for gap in unfilled if gap.state == "open"]
        last.open += len(still_open)
        last.altered += len(self.altered)
        last.examples += [f"open: {gap}" for gap in still_open[:2]]
        last.examples += [f"altered: {event}" for event in self.altered[:2]]
        yield from rows.items()

    def _judge(self, trade: TrueTrade, unfilled: Sequence[Any], row: Row, blind: set[int]) -> None:
        origins = self.origins.get(self._id(trade), ())
        row.trades += 1
        copies = 0 if self.view.removes_repeats else self.marks.repeated[key(trade)]
        doubled = max(len(origins) - 1 - copies, 0)
        row.doubled += doubled
        if doubled:
            row.examples.append(f"doubled {trade} {origins}")
        if copies:
            blind.add(trade.number)
        row.lost += "live" not in origins
        # The venue's clock was set and set back between two events: nobody can know what it showed then.
        is_unseen = trade.clock not in self.seen
        is_hidden = key(trade) in self.marks.hidden and not self.view.compares_numbers
        if not origins and (is_unseen or is_hidden):
            blind.add(trade.number)
        if origins:
            row.filled += "live" not in origins
        elif self._id(trade) in self.rejected:
            row.told += 1
        elif any(self._holds(gap, trade) for gap in unfilled):
            row.told += 1
            self._note_told_late(trade)
        elif is_hidden or (is_unseen and any(self._is_between(gap, trade) for gap in unfilled)):
            row.hidden += 1
        else:
            row.untold += 1
            near = [gap for gap in self.gaps.values() if self._holds(gap, trade)]
            row.examples.append(f"untold {trade}; gaps called filled: {near}")

    def _judge_bar(self, interval: str, start_ms: int, bar: Any, blind: set[int], row: Any) -> None:
        trades = self.intervals[interval, start_ms]
        if not (bar.closed and bar.complete) or any(trade.number in blind for trade in trades):
            return
        account = row(trades[0] if trades else self.symbol.trades[-1])
        account.bars += 1
        in_time = [trade for trade in trades if (interval, self._id(trade)) not in self.late]
        if not any(self._is_bar_of(bar, some) for some in (trades, in_time)):
            account.wrong += 1
            account.examples.append(f"wrong {bar} of {len(trades)} trades {trades[:3]}")

    def _is_bar_of(self, bar: Any, trades: Sequence[TrueTrade]) -> bool:
        if not trades:
            return False
        prices = [trade.price for trade in trades]
        order = sorted(trades, key=lambda trade: (trade.ts_ms, trade.number))
        first, last = order[0], order[-1]
        opens, closes = {first.price}, {last.price}
        if not self.is_numbered:  # of the trades of one millisecond nobody knows the order
            opens = {trade.price for trade in trades if trade.ts_ms == first.ts_ms}
            closes = {trade.price for trade in trades if trade.ts_ms == last.ts_ms}
        sums = len(trades), max(prices), min(prices), sum((t.size for t in trades), Decimal(0))
        return (
            (bar.trades, bar.high, bar.low, bar.volume) == sums
            and bar.open in opens
            and bar.close in closes
        )


def _is_final(ts: int, length: int, newest: int | None) -> bool:
    """Return whether the bar of *ts* can no longer be revised; all in ns, *newest* as `newest_closed`."""
    return newest is not None and ts // length * length + _REVISABLE_BARS * length <= newest


def totals(rows: Iterable[Row]) -> Counter[str]:
    """Return the sums of all counts."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update({name: getattr(row, name) for name in COUNTS})
    return counts


def table(rows: Sequence[Row]) -> str:
    """Return the rows as lines of text, with the sums in the last one and examples below."""
    names = ("venue", "stages", "fault", *COUNTS)
    sums: Mapping[str, int] = totals(rows)
    lines = [names, *(tuple(str(getattr(row, name)) for name in names) for row in rows)]
    lines.append(("all", "", "", *(str(sums[name]) for name in COUNTS)))
    widths = [max(len(line[place]) for line in lines) for place in range(len(names))]
    texts = [
        "  ".join(
            cell.ljust(width) if place < 3 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    texts += [
        f"! {row.venue} {row.stages} {row.fault}: {text}"
        for row in rows
        for text in row.examples[:5]
    ]
    return "\n".join(texts)
