"""Bars and tickers: prices, sizes, the range of high and low, time and jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.events import Gap
from tapeloom.plugin import HistoryQuery
from tapeloom.units import duration_ns

from ._line import Line
from ._rules import PAST, ZERO, Rules, amount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from decimal import Decimal

    from tapeloom.events import Bar, Event, Ticker

__all__ = ["Bars", "Tickers"]

_ANY = 1 << 62
#: For so many ns after the first word of the next bar, the last word of one is waited for.
_PATIENCE = 5_000_000_000


def _outside(low: Decimal, high: Decimal, named: Iterable[tuple[str, Decimal | None]]) -> str:
    """Return evidence that these do not lie between low and high, or nothing."""
    if not amount(low) or not amount(high):
        return ""
    if high < low:
        return f"high {high} is below low {low}"
    for name, price in named:
        if price is not None and amount(price) and not low <= price <= high:
            return f"{name} {price} is outside {low} to {high}"
    return ""


def _untimely(
    rules: Rules, line: Line, event: Bar | Ticker, price: Decimal, slack: int = 0
) -> tuple[str, str]:
    """Return the rule that an event breaks in its place in the stream, and the evidence."""
    if evidence := rules.early(event.ts, event.recv):
        return "ahead", evidence
    if evidence := line.turned(event.ts, slack):
        return "backwards", evidence
    if event.ts >= line.ts:
        if evidence := line.jumped(price, event.ts):
            return "jump", evidence
        line.good(event.ts, price)
    return "", ""


def _slack(interval: str) -> int:
    """Return by how much the start of a bar may lie before the newest.

    The last of a bar may come after the first of the next one. An interval that is no fixed time,
    such as a month, has no limit.
    """
    try:
        return duration_ns(interval)
    except ValueError:
        return _ANY


class BarLine(Line):
    """One symbol's bars of one interval in one channel."""

    __slots__ = ("forming", "overdue")

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.forming: Bar | None = None  #: the newest, as long as it was not closed
        self.overdue: tuple[Bar, int] | None = None  #: the one before, and since when

    def follow(self, bar: Bar) -> Bar | None:
        """Take the next bar; return one that has ended and was never closed.

        The last word of a bar may come after the first of the next, so it has some seconds.
        """
        if bar.closed and self.overdue is not None and bar.ts == self.overdue[0].ts:
            self.overdue = None
        forming = self.forming
        if forming is None or bar.ts >= forming.ts:
            if forming is not None and bar.ts > forming.ts:
                self.overdue = forming, bar.recv
            self.forming = None if bar.closed else bar
        if self.overdue is None or bar.recv - self.overdue[1] < _PATIENCE:
            return None
        late, self.overdue = self.overdue[0], None
        return late


class Bars:
    """Judges bars. An interval is a line of its own."""

    def __init__(self, rules: Rules, want: Callable[[HistoryQuery], None]) -> None:
        self._rules = rules
        self._want = want
        self._lines: dict[tuple[str, str, str], BarLine] = {}
        self._slack: dict[str, int] = {}

    def judge(self, bar: Bar) -> list[Event] | None:
        """Return None for a bar that passes, else what stands in its place."""
        rejected = self._judged(bar)
        line = self._lines.get((bar.symbol, bar.channel, bar.interval))
        if rejected or line is None or bar.origin in PAST or "sequence" not in self._rules.on:
            return rejected
        late = line.follow(bar)
        return None if late is None else [self._unclosed(late, bar), bar]

    def _unclosed(self, late: Bar, bar: Bar) -> Gap:
        """Tell of a bar that the venue never closed, and ask for it."""
        self._rules.count("gaps")
        length = _slack(late.interval)
        until = late.ts + length if length != _ANY else bar.ts
        self._want(
            HistoryQuery(
                "bars", late.symbol, late.channel, late.interval,
                since=late.ts, until=until, before_id=until,
            )
        )  # fmt: skip
        return Gap(
            late.venue, late.symbol, until, bar.recv, late.ts, until,
            "sequence", None, "open", late.channel,
        )  # fmt: skip

    def _judged(self, bar: Bar) -> list[Event] | None:
        rule, evidence = self._broken(bar)
        # A revision is an older bar once more, and history is older altogether.
        if not rule and not bar.revision and bar.origin not in PAST:
            key = bar.symbol, bar.channel, bar.interval
            line = self._lines.get(key)
            if line is None:
                line = self._lines[key] = BarLine(self._rules)
                self._slack[bar.interval] = _slack(bar.interval)
            slack = self._slack[bar.interval]
            rule, evidence = _untimely(self._rules, line, bar, bar.close, slack)
        return self._rules.reject(bar, rule, evidence) if rule else None

    def _broken(self, bar: Bar) -> tuple[str, str]:
        rules, low, high = self._rules, bar.low, bar.high
        prices = (("open", bar.open), ("high", high), ("low", low), ("close", bar.close))
        if evidence := rules.prices(prices):
            return "price", evidence
        sizes = (
            ("volume", bar.volume),
            ("quote_volume", bar.quote_volume),
            ("buy_volume", bar.buy_volume),
            ("buy_quote_volume", bar.buy_quote_volume),
        )
        if evidence := rules.sizes(sizes):
            return "size", evidence
        if "range" in rules.on and (evidence := _outside(low, high, (prices[0], prices[3]))):
            return "range", evidence
        return "", ""


class Tickers:
    """Judges tickers: `last` must be a price; where nothing was traded, the rest may be zero."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._lines: dict[tuple[str, str], Line] = {}

    def judge(self, ticker: Ticker) -> list[Event] | None:
        """Return None for a ticker that passes, else what stands in its place."""
        rule, evidence = self._broken(ticker)
        if not rule and ticker.origin not in PAST:
            key = ticker.symbol, ticker.channel
            line = self._lines.get(key)
            if line is None:
                line = self._lines[key] = Line(self._rules)
            rule, evidence = _untimely(self._rules, line, ticker, ticker.last)
        return self._rules.reject(ticker, rule, evidence) if rule else None

    def _broken(self, ticker: Ticker) -> tuple[str, str]:
        rules, low, high = self._rules, ticker.low, ticker.high
        sizes = (("volume", ticker.volume), ("quote_volume", ticker.quote_volume))
        volume = ticker.volume
        traded = not (volume is not None and amount(volume) and volume == ZERO)
        prices: tuple[tuple[str, Decimal | None], ...] = (("last", ticker.last),)
        if traded:
            prices += (("open", ticker.open), ("high", high), ("low", low))
        if evidence := rules.prices(prices):
            return "price", evidence
        if evidence := rules.sizes(sizes):
            return "size", evidence
        if low is None or high is None or not traded or "range" not in rules.on:
            return "", ""
        if evidence := _outside(low, high, prices[:1]):
            return "range", evidence
        return "", ""
