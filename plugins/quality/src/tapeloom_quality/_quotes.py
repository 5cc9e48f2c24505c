"""Checks of quotes: prices, sizes, crossed sides, sequence, time and jumps of the mid price.

An empty side has neither price nor size; a quote with one has no mid price.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from ._reference import Reference
from ._rules import INFINITY, REPLAYED_ORIGINS, ZERO, Rules, is_non_negative

if TYPE_CHECKING:
    from tapeloom.events import Event, Quote

__all__ = ["QuoteChecks"]


class QuoteReference(Reference):
    """Reference of the quotes of one symbol, channel and origin."""

    __slots__ = ("_restart_confirmations", "_restart_sequence", "ask", "bid", "sequence")

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.bid = self.ask = ZERO  # of the last good quote with both sides
        self.sequence = -1
        self._restart_confirmations = 0
        self._restart_sequence = -1

    def check_sequence(self, quote: Quote) -> tuple[str, str]:
        """Return the rule that the quote's sequence number breaks, and the evidence.

        Numbers that increase from a lower start while time advances mean the venue restarted its
        numbering. The same number at a later time is a refresh and passes.
        """
        sequence = quote.sequence
        if sequence is None or sequence > self.sequence:
            return "", ""
        if sequence == self.sequence:
            if quote.ts > self.newest_ts:
                return "", ""
            return "duplicate", f"sequence {sequence} was already received"
        self._restart_confirmations = (
            self._restart_confirmations + 1
            if self._restart_confirmations and sequence > self._restart_sequence
            else 1
        )
        self._restart_sequence = sequence
        if quote.ts <= self.newest_ts:
            self._restart_confirmations = 0
        if self._restart_confirmations >= self._rules.confirmations:
            return "", ""
        if self._restart_confirmations:
            self.force_full_check()
        return "order", f"sequence {sequence} is below the last, {self.sequence}"

    def accept_quote(self, quote: Quote, mid_price: Decimal | None) -> None:
        """Make a valid quote the new reference."""
        if quote.bid is None or quote.ask is None:
            self.accept_time(quote.ts)
        else:
            self.accept(quote.ts, mid_price)
            self.bid, self.ask = quote.bid, quote.ask
        if quote.sequence is not None:
            self.sequence = quote.sequence
        self._restart_confirmations = 0


class QuoteChecks:
    """Check quotes."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._ahead = rules.ahead
        self._references: dict[tuple[str, str, str], QuoteReference] = {}

    def check(self, quote: Quote) -> list[Event] | None:
        """Return None for a valid quote, else the events that replace it."""
        key = quote.symbol, quote.channel, quote.origin
        reference = self._references.get(key)
        if reference is None:
            reference = self._references[key] = QuoteReference(self._rules)
        bid, ask, sequence, ts = quote.bid, quote.ask, quote.sequence, quote.ts
        try:
            if (
                reference.band_low < bid < ask < reference.band_high  # type: ignore[operator]
                and ZERO <= quote.bid_size < INFINITY  # type: ignore[operator]
                and ZERO <= quote.ask_size < INFINITY  # type: ignore[operator]
                and ts >= reference.newest_ts
                and (sequence is None or sequence > reference.sequence)
                and ts <= quote.recv + self._ahead.allowed
                and self._ahead.is_usual
                and quote.origin not in REPLAYED_ORIGINS
            ):
                reference.newest_ts, reference.bid, reference.ask = ts, bid, ask  # type: ignore[assignment]
                if sequence is not None:
                    reference.sequence = sequence
                return None
        except (InvalidOperation, TypeError):  # comparing a NaN, or None, raises
            pass
        rule, evidence = self._check_values(quote)
        if not rule and quote.origin not in REPLAYED_ORIGINS:
            rule, evidence = self._check_stream(reference, quote)
        return self._rules.reject(quote, rule, evidence) if rule else None

    def _check_values(self, quote: Quote) -> tuple[str, str]:
        rules, bid, ask = self._rules, quote.bid, quote.ask
        if evidence := rules.check_prices((("bid", bid), ("ask", ask))):
            return "price", evidence
        sizes = (("bid_size", quote.bid_size), ("ask_size", quote.ask_size))
        if evidence := rules.check_sizes(sizes):
            return "size", evidence
        for side, price, size in (("bid", bid, quote.bid_size), ("ask", ask, quote.ask_size)):
            if (rule := "size" if size is None else "price") in rules.enabled and (
                (price is None) != (size is None)
            ):
                return rule, f"{side} {price} with {side}_size {size}: an empty side has neither"
        if (
            "crossed" in rules.enabled
            and bid is not None
            and ask is not None
            and is_non_negative(bid)
            and is_non_negative(ask)
            and bid >= ask
        ):
            return "crossed", f"bid {bid} is not below ask {ask}"
        return "", ""

    def _check_stream(self, reference: QuoteReference, quote: Quote) -> tuple[str, str]:
        rules = self._rules
        rule, evidence = reference.check_sequence(quote)
        if rule in rules.enabled:
            return rule, evidence
        if evidence := rules.check_ahead(quote.ts, quote.recv, reference.newest_ts):
            return "ahead", evidence
        if evidence := reference.check_time(quote.ts):
            return "backwards", evidence
        mid_price = self._mid_price(quote.bid, quote.ask)
        if reference.last_price is not None:
            reference.last_price = (
                self._mid_price(reference.bid, reference.ask) or reference.last_price
            )
        if mid_price is not None and (evidence := reference.check_jump(mid_price, quote.ts)):
            return "jump", evidence
        reference.accept_quote(quote, mid_price)
        return "", ""

    def _mid_price(self, bid: Decimal | None, ask: Decimal | None) -> Decimal | None:
        if bid is None or ask is None or not is_non_negative(bid) or not is_non_negative(ask):
            return None
        return self._rules.context.divide(self._rules.context.add(bid, ask), 2)
