"""What is remembered of one symbol's channel: the newest time and the last good price.

Both memories are circuit breakers. Closed: what fits passes and becomes the reference. Open: what
does not fit is rejected, and remembered as a suspect. Half-open: what comes next decides. If it fits
the reference, the breaker closes where it was; if enough events agree on the new level, that is the
new reference. So one wrong event does no harm, and no real change blocks a symbol for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._rules import INFINITY, ZERO, Rules, positive, seconds

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["Line"]

_NEVER = -(1 << 63)


class Line:
    """The time and price of one symbol's channel.

    Every price strictly between `low` and `high` is within `max_jump` of the last good one, and
    positive, and finite; `within` is one that is known to be there, or None. The band is empty while a
    breaker is open, so that a check against it alone is safe, and cheap.
    """

    __slots__ = (
        "_agreed",
        "_opened",
        "_rules",
        "_suspect",
        "_turned",
        "_turned_ts",
        "high",
        "last",
        "low",
        "ts",
        "within",
    )

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.ts = _NEVER  #: the newest good time
        self.last: Decimal | None = None  #: the last good price
        self.low = self.high = INFINITY
        self.within: Decimal | None = None
        self._suspect: Decimal | None = None  # the last price that jumped
        self._agreed = 0  # so many suspects in a row agree
        self._opened = 0  # when the first of them came
        self._turned = 0  # so many times in a row lie before `ts`
        self._turned_ts = 0  # the last of them

    @property
    def begun(self) -> bool:
        """Whether a good event has come."""
        return self.ts != _NEVER

    def shut(self) -> None:
        """Empty the band: the next event is looked at closely."""
        self.low = self.high = INFINITY
        self.within = None

    def good(self, ts: int, price: Decimal | None) -> None:
        """Take an event as the new reference, and close what it has opened."""
        self.ts = max(ts, self.ts)
        self._turned = self._agreed = 0
        self._suspect = None
        if price is not None and positive(price):
            self.last = price
            if not self.low < price < self.high:
                self._anchor(price)

    def _anchor(self, price: Decimal) -> None:
        self.within = price
        if self._rules.max_jump is None:
            self.low, self.high = ZERO, INFINITY
            return
        context, band = self._rules.context, self._rules.band
        reach = context.multiply(price, band)
        self.low, self.high = context.subtract(price, reach), context.add(price, reach)

    def turned(self, ts: int, slack: int = 0) -> str:
        """Return evidence that the venue's time ran back, or nothing.

        Events in a row that agree on an earlier time (the venue's clock was set) are believed.
        """
        limit = self._rules.backwards
        if limit is None or ts >= self.ts - limit - slack:
            return ""
        agrees = self._turned and ts >= self._turned_ts - limit - slack
        self._turned = self._turned + 1 if agrees else 1
        self._turned_ts = ts
        if self._turned >= self._rules.confirm:
            self.ts = ts
            return ""
        self.shut()
        return (
            f"ts is {seconds(self.ts - ts)} before the newest, more than {seconds(limit + slack)};"
            f" {self._turned} of {self._rules.confirm} agree"
        )

    def jumped(self, price: Decimal, ts: int) -> str:
        """Return evidence that the price jumped, or nothing.

        A new level on which enough events in a row agree, or that still stands after `hold`, is
        believed.
        """
        limit, last = self._rules.max_jump, self.last
        if limit is None or last is None or not positive(price) or not self._far(price, last):
            return ""
        if self._suspect is None:
            self._agreed, self._opened = 1, ts
        else:
            self._agreed = 1 if self._far(price, self._suspect) else self._agreed + 1
        self._suspect = price
        if self._agreed >= self._rules.confirm or ts - self._opened >= self._rules.hold:
            return ""
        self.shut()
        context = self._rules.context
        step = context.divide(context.multiply(context.subtract(price, last), 100), last)
        return (
            f"price {price} is {step:+.4g} % from {last}, more than {self._rules.limit};"
            f" {self._agreed} of {self._rules.confirm} agree"
        )

    def _far(self, price: Decimal, other: Decimal) -> bool:
        context, limit = self._rules.context, self._rules.max_jump
        if limit is None:
            return False
        return context.abs(context.subtract(price, other)) > context.multiply(limit, other)
