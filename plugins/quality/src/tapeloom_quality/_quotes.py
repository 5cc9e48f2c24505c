"""Quotes: prices, sizes, crossed sides, order, time and jumps of the middle."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from ._line import Line
from ._rules import INFINITY, PAST, ZERO, Rules, amount

if TYPE_CHECKING:
    from tapeloom.events import Event, Quote

__all__ = ["Quotes"]


class QuoteLine(Line):
    """One symbol's quotes in one channel."""

    __slots__ = ("_run", "_tried", "ask", "bid", "sequence")

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.bid = self.ask = ZERO  # of the last good quote
        self.sequence = -1
        self._run = 0
        self._tried = -1

    def reordered(self, quote: Quote) -> tuple[str, str]:
        """Return the rule that the quote's number breaks, and the evidence.

        Numbers in a row that grow from a lower start while time goes on are a series begun anew.
        The same number again at a later time is a refresh.
        """
        number = quote.sequence
        if number is None or number > self.sequence:
            return "", ""
        if number == self.sequence:
            if quote.ts > self.ts:
                return "", ""
            return "duplicate", f"sequence {number} came before"
        self._run = self._run + 1 if self._run and number > self._tried else 1
        self._tried = number
        if quote.ts <= self.ts:
            self._run = 0
        if self._run >= self._rules.confirm:
            return "", ""
        if self._run:
            self.shut()
        return "order", f"sequence {number} is below the last, {self.sequence}"

    def settle(self, quote: Quote, middle: Decimal | None) -> None:
        """Take a good quote as the new reference."""
        self.good(quote.ts, middle)
        if quote.sequence is not None:
            self.sequence = quote.sequence
        self._run = 0
        self.bid, self.ask = quote.bid, quote.ask


class Quotes:
    """Judges quotes."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._ahead = rules.ahead
        self._lines: dict[tuple[str, str, str], QuoteLine] = {}

    def judge(self, quote: Quote) -> list[Event] | None:
        """Return None for a quote that passes, else what stands in its place."""
        key = quote.symbol, quote.channel, quote.origin
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = QuoteLine(self._rules)
        bid, ask, number, ts = quote.bid, quote.ask, quote.sequence, quote.ts
        try:
            if (
                line.low < bid < ask < line.high
                and ZERO <= quote.bid_size < INFINITY
                and ZERO <= quote.ask_size < INFINITY
                and ts >= line.ts
                and (number is None or number > line.sequence)
                and (self._ahead is None or ts <= quote.recv + self._ahead)
                and quote.origin not in PAST
            ):
                line.ts, line.bid, line.ask = ts, bid, ask
                if number is not None:
                    line.sequence = number
                return None
        except InvalidOperation:  # a NaN, which no comparison takes
            pass
        rule, evidence = self._broken(quote)
        if not rule and quote.origin not in PAST:
            rule, evidence = self._untimely(line, quote)
        return self._rules.reject(quote, rule, evidence) if rule else None

    def _broken(self, quote: Quote) -> tuple[str, str]:
        rules, bid, ask = self._rules, quote.bid, quote.ask
        if evidence := rules.prices((("bid", bid), ("ask", ask))):
            return "price", evidence
        sizes = (("bid_size", quote.bid_size), ("ask_size", quote.ask_size))
        if evidence := rules.sizes(sizes):
            return "size", evidence
        if "crossed" in rules.on and amount(bid) and amount(ask) and bid >= ask:
            return "crossed", f"bid {bid} is not below ask {ask}"
        return "", ""

    def _untimely(self, line: QuoteLine, quote: Quote) -> tuple[str, str]:
        rules = self._rules
        rule, evidence = line.reordered(quote)
        if rule in rules.on:
            return rule, evidence
        if evidence := rules.early(quote.ts, quote.recv):
            return "ahead", evidence
        if evidence := line.turned(quote.ts):
            return "backwards", evidence
        middle = self._middle(quote.bid, quote.ask)
        if line.last is not None:
            line.last = self._middle(line.bid, line.ask) or line.last
        if middle is not None and (evidence := line.jumped(middle, quote.ts)):
            return "jump", evidence
        line.settle(quote, middle)
        return "", ""

    def _middle(self, bid: Decimal, ask: Decimal) -> Decimal | None:
        if not amount(bid) or not amount(ask):
            return None
        return self._rules.context.divide(self._rules.context.add(bid, ask), 2)
