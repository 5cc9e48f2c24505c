"""Checks of bars and tickers: prices, sizes, high-low range, time, jumps and bars never closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.events import Bar
from tapeloom.plugin import Loss
from tapeloom.units import duration_ns

from ._reference import Reference
from ._rules import REPLAYED_ORIGINS, ZERO, Rules, is_non_negative

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from tapeloom.events import Event, Ticker
    from tapeloom.plugin import Gaps

__all__ = ["BarChecks", "TickerChecks"]

#: Length in ns of an interval without a fixed length, such as a month.
_UNLIMITED = 1 << 62
#: ns after the first event of the next bar within which the final event of a bar must arrive.
_CLOSE_TIMEOUT = 5_000_000_000


def _check_range(low: Decimal, high: Decimal, named: Iterable[tuple[str, Decimal | None]]) -> str:
    """Return evidence that a price is not between low and high, or an empty text."""
    if not is_non_negative(low) or not is_non_negative(high):
        return ""
    if high < low:
        return f"high {high} is below low {low}"
    for name, price in named:
        if price is not None and is_non_negative(price) and not low <= price <= high:
            return f"{name} {price} is outside {low} to {high}"
    return ""


def _check_stream(
    rules: Rules, reference: Reference, event: Bar | Ticker, price: Decimal | None, slack: int = 0
) -> tuple[str, str]:
    """Return the rule on time or jumps that an event breaks, and the evidence; empty texts if none.

    Without a *price*, only its time is checked.
    """
    is_bar = isinstance(event, Bar)
    if evidence := rules.check_ahead(event.ts, event.recv, reference.newest_ts, is_bar=is_bar):
        return "ahead", evidence
    if evidence := reference.check_time(event.ts, slack):
        return "backwards", evidence
    if event.ts >= reference.newest_ts:
        if price is not None and (evidence := reference.check_jump(price, event.ts)):
            return "jump", evidence
        reference.accept(event.ts, price)
    return "", ""


def _interval_ns(interval: str) -> int:
    """Return the length of an interval in ns; `_UNLIMITED` if it is not fixed, such as a month.

    The start of a bar may be this much before the newest start, because the final event of a bar may
    arrive after the first event of the next one.
    """
    try:
        return duration_ns(interval)
    except ValueError:
        return _UNLIMITED


class BarReference(Reference):
    """Reference of the bars of one symbol, channel and interval."""

    __slots__ = ("forming", "unclosed")

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.forming: Bar | None = None  #: the newest bar, None if it is closed
        self.unclosed: tuple[Bar, int] | None = (
            None  #: the bar before, if not closed, and since when (recv)
        )

    def track_close(self, bar: Bar) -> Bar | None:
        """Record a bar; return the bar before if it was not closed within `_CLOSE_TIMEOUT`.

        The final event of a bar may arrive after the first event of the next one, hence the timeout.
        """
        if bar.closed and self.unclosed is not None and bar.ts == self.unclosed[0].ts:
            self.unclosed = None
        forming = self.forming
        if forming is None or bar.ts >= forming.ts:
            if forming is not None and bar.ts > forming.ts:
                self.unclosed = forming, bar.recv
            self.forming = None if bar.closed else bar
        if self.unclosed is None or bar.recv - self.unclosed[1] < _CLOSE_TIMEOUT:
            return None
        unclosed, self.unclosed = self.unclosed[0], None
        return unclosed


class BarChecks:
    """Check bars. Every interval has a reference of its own."""

    def __init__(self, rules: Rules, gaps: Gaps) -> None:
        self._rules = rules
        self._gaps = gaps
        self._references: dict[tuple[str, str, str], BarReference] = {}
        self._interval_ns: dict[str, int] = {}

    def check(self, bar: Bar) -> list[Event] | None:
        """Return None for a valid bar, else the events that replace it."""
        rejected = self._check(bar)
        reference = self._references.get((bar.symbol, bar.channel, bar.interval))
        if (
            rejected
            or reference is None
            or bar.origin in REPLAYED_ORIGINS
            or "sequence" not in self._rules.enabled
        ):
            return rejected
        unclosed = reference.track_close(bar)
        return None if unclosed is None else [*self._report_unclosed(unclosed, bar), bar]

    def _report_unclosed(self, unclosed: Bar, bar: Bar) -> list[Event]:
        """Return the Gap of a bar that the venue never closed, unless it is known; it is fetched."""
        length = _interval_ns(unclosed.interval)
        until = unclosed.ts + length if length != _UNLIMITED else bar.ts
        loss = Loss(
            unclosed.symbol, unclosed.channel, since=unclosed.ts, until=until, recv=bar.recv
        )
        return self._gaps.open(loss)

    def _check(self, bar: Bar) -> list[Event] | None:
        rule, evidence = self._check_values(bar)
        # Revisions and replayed bars are older than the newest bar by nature.
        if not rule and not bar.revision and bar.origin not in REPLAYED_ORIGINS:
            key = bar.symbol, bar.channel, bar.interval
            reference = self._references.get(key)
            if reference is None:
                reference = self._references[key] = BarReference(self._rules)
                self._interval_ns[bar.interval] = _interval_ns(bar.interval)
            slack = self._interval_ns[bar.interval]
            rule, evidence = _check_stream(self._rules, reference, bar, bar.close, slack)
        return self._rules.reject(bar, rule, evidence) if rule else None

    def _check_values(self, bar: Bar) -> tuple[str, str]:
        rules, low, high = self._rules, bar.low, bar.high
        prices = (("open", bar.open), ("high", high), ("low", low), ("close", bar.close))
        if evidence := rules.check_prices(prices):
            return "price", evidence
        sizes = (
            ("volume", bar.volume),
            ("quote_volume", bar.quote_volume),
            ("buy_volume", bar.buy_volume),
            ("buy_quote_volume", bar.buy_quote_volume),
        )
        if evidence := rules.check_sizes(sizes):
            return "size", evidence
        if "range" in rules.enabled and (
            evidence := _check_range(low, high, (prices[0], prices[3]))
        ):
            return "range", evidence
        return "", ""


class TickerChecks:
    """Check tickers: `last`, if there is one, must be a price; if the volume is 0, the other prices may be zero."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._references: dict[tuple[str, str], Reference] = {}

    def check(self, ticker: Ticker) -> list[Event] | None:
        """Return None for a valid ticker, else the events that replace it."""
        rule, evidence = self._check_values(ticker)
        if not rule and ticker.origin not in REPLAYED_ORIGINS:
            key = ticker.symbol, ticker.channel
            reference = self._references.get(key)
            if reference is None:
                reference = self._references[key] = Reference(self._rules)
            rule, evidence = _check_stream(self._rules, reference, ticker, ticker.last)
        return self._rules.reject(ticker, rule, evidence) if rule else None

    def _check_values(self, ticker: Ticker) -> tuple[str, str]:
        rules, low, high = self._rules, ticker.low, ticker.high
        sizes = (("volume", ticker.volume), ("quote_volume", ticker.quote_volume))
        volume = ticker.volume
        traded = not (volume is not None and is_non_negative(volume) and volume == ZERO)
        prices: tuple[tuple[str, Decimal | None], ...] = (("last", ticker.last),)
        if traded:
            prices += (("open", ticker.open), ("high", high), ("low", low))
        if evidence := rules.check_prices(prices):
            return "price", evidence
        if evidence := rules.check_sizes(sizes):
            return "size", evidence
        if low is None or high is None or not traded or "range" not in rules.enabled:
            return "", ""
        if evidence := _check_range(low, high, prices[:1]):
            return "range", evidence
        return "", ""
