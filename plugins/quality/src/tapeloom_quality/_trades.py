"""Trades: price, size, ids, time and jumps."""

from __future__ import annotations

from collections import defaultdict
from decimal import InvalidOperation
from typing import TYPE_CHECKING

from tapeloom.events import Event, Gap, Reject, Trade
from tapeloom.plugin import HistoryQuery

from ._rules import INFINITY, PAST, ZERO, Rules, positive
from ._series import Seen, Series

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Trades"]


class Trades:
    """Judges the trades that the stage's own quick look does not settle.

    `lines` holds what is remembered, by channel and symbol. `judge` returns None for a trade that
    passes as it is, else what stands in its place.
    """

    def __init__(self, rules: Rules, want: Callable[[HistoryQuery], None]) -> None:
        self._rules = rules
        self._want = want
        self._ids = "duplicate" in rules.on or "order" in rules.on or "sequence" in rules.on
        self.lines: dict[str, dict[str, Series]] = defaultdict(dict)

    def line(self, trade: Trade) -> Series:
        """Return what is remembered of this trade's symbol and channel."""
        lines = self.lines[trade.channel]
        if trade.symbol not in lines:
            lines[trade.symbol] = Series(self._rules)
        return lines[trade.symbol]

    def judge(self, trade: Trade) -> list[Event] | None:
        """Look closely at a trade."""
        line = self.line(trade)
        if type(trade.id) is str and self._fits(line, trade) and line.name(trade.id):
            line.ts, line.last = trade.ts, trade.price
            return None
        live = trade.origin not in PAST
        newer = trade.ts > line.ts
        seen, before = self._see(line, trade, live=live, newer=newer)
        rule, evidence = self._broken(line, trade, seen)
        # A late trade, or one from history, says nothing of what comes now.
        if not rule and live and (seen != "late" or newer):
            rule, evidence = self._untimely(line, trade)
            if not rule:
                line.good(trade.ts, trade.price)
                if line.pending:
                    line.shut()
        if rule:
            return before + self._rules.reject(trade, rule, evidence)
        return [*before, trade] if before else None

    def _fits(self, line: Series, trade: Trade) -> bool:
        """Tell at a glance that a trade is good, but for its id: what the stage does for numbers."""
        try:
            return (
                line.low < trade.price < line.high
                and ZERO < trade.size < INFINITY
                and trade.ts >= line.ts
                and trade.origin == "live"
                and (self._rules.ahead is None or trade.ts <= trade.recv + self._rules.ahead)
            )
        except InvalidOperation:  # a NaN, which no comparison takes
            return False

    def _see(
        self, line: Series, trade: Trade, *, live: bool, newer: bool
    ) -> tuple[Seen, list[Event]]:
        """Enter the id; return what it is, and the Gap that goes before it."""
        if not self._ids:
            return "fresh", []
        seen, missing = line.see(trade.id, live=live, newer=newer)
        excused = line.excused
        if live and seen == "fresh":
            line.excused = False
        if line.pending:
            line.shut()
        if not missing:
            return seen, []
        self._rules.count("missing", missing)
        if excused or "sequence" not in self._rules.on:
            return seen, []
        self._rules.count("gaps")
        since = line.ts if line.begun else trade.ts
        until = max(since, trade.ts)
        gap = Gap(
            trade.venue, trade.symbol, until, trade.recv, since, until,
            "sequence", missing, "open", trade.channel,
        )  # fmt: skip
        last = trade.id - missing - 1 if isinstance(trade.id, int) else None
        self._want(
            HistoryQuery(
                "trades", trade.symbol, trade.channel,
                since=since, until=until, after_id=last, before_id=trade.id,
            )
        )  # fmt: skip
        return seen, [gap]

    def _broken(self, line: Series, trade: Trade, seen: Seen) -> tuple[str, str]:
        """Return the rule that this trade breaks by itself, and the evidence."""
        on = self._rules.on
        if evidence := self._rules.prices((("price", trade.price),)):
            return "price", evidence
        if "size" in on and not positive(trade.size):
            return "size", f"size {trade.size} is no number above 0"
        if seen == "duplicate" and seen in on:
            if isinstance(trade.id, int) and line.next is not None:
                return seen, f"id {trade.id} came before; the last is {line.next - 1}"
            return seen, f"id {trade.id!r} came before"
        if seen == "order" and seen in on:
            return seen, f"id {trade.id} is below {line.first}, the first, and its ts is the newest"
        return "", ""

    def _untimely(self, line: Series, trade: Trade) -> tuple[str, str]:
        """Return the rule that this trade breaks in its place in the stream, and the evidence."""
        if evidence := self._rules.early(trade.ts, trade.recv):
            return "ahead", evidence
        if evidence := line.turned(trade.ts):
            return "backwards", evidence
        if evidence := line.jumped(trade.price, trade.ts):
            return "jump", evidence
        return "", ""

    def gap(self, gap: Gap) -> None:
        """Take note that a hole is announced: the ids will show it, and need not tell again.

        A Gap about the past (a verdict that changed) is no announcement.
        """
        channels = [gap.channel] if gap.channel else list(self.lines)
        for channel in channels:
            lines = self.lines.get(channel, {})
            found = [lines.get(gap.symbol)] if gap.symbol else list(lines.values())
            for line in found:
                if line is not None and gap.until >= line.ts:
                    line.excused = True
                    line.shut()

    def rejected(self, reject: Reject) -> list[Event] | None:
        """Take note of a trade that was rejected upstream: it was seen, not lost."""
        trade = reject.event
        if type(trade) is not Trade or not isinstance(trade.id, int):
            return None
        line = self.line(trade)
        live = trade.origin not in PAST
        _, before = self._see(line, trade, live=live, newer=trade.ts > line.ts)
        return [*before, reject] if before else None
