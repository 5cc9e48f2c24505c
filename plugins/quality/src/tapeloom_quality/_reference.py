"""`Reference`: newest time and last good price of one subscription, and the circuit breakers on them.

Closed: a valid event passes and becomes the reference. Open: a deviating event is rejected and becomes
the candidate for a new reference. Half-open: the next event decides. If it agrees with the reference,
the breaker closes; if enough events in a row agree with the candidate, the candidate becomes the
reference. So a single wrong event is stopped, and a real change never blocks a symbol for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._rules import INFINITY, ZERO, Rules, format_seconds, is_positive

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["Reference"]

#: `newest_ts` before the first event.
_NEVER = -(1 << 63)


class Reference:
    """Newest time and last good price of one subscription (symbol and channel).

    Every price strictly between `band_low` and `band_high` is finite, positive, and within `max_jump`
    of the last good price. `known_good` is a price known to be in the band, or None. The band is empty
    while a breaker is open, so the fast path needs no check but the band.
    """

    __slots__ = (
        "_candidate_price",
        "_candidate_ts",
        "_opened_at",
        "_price_confirmations",
        "_rules",
        "_time_confirmations",
        "band_high",
        "band_low",
        "known_good",
        "last_price",
        "newest_ts",
    )

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.newest_ts = _NEVER  #: ts of the newest good event, ns
        self.last_price: Decimal | None = None  #: the last good price
        self.band_low = self.band_high = INFINITY
        self.known_good: Decimal | None = None
        self._candidate_price: Decimal | None = None  # last price rejected as a jump
        self._price_confirmations = 0  # number of candidates in a row that agree
        self._opened_at = 0  # ts of the first of them: the breaker opened
        self._time_confirmations = 0  # number of events in a row with an earlier time
        self._candidate_ts = 0  # ts of the last of them

    @property
    def has_event(self) -> bool:
        """Whether a good event was received."""
        return self.newest_ts != _NEVER

    def force_full_check(self) -> None:
        """Empty the band, so that the next event gets the full check."""
        self.band_low = self.band_high = INFINITY
        self.known_good = None

    def accept(self, ts: int, price: Decimal | None) -> None:
        """Make an event the new reference, and close the breakers."""
        self.accept_time(ts)
        self._price_confirmations = 0
        self._candidate_price = None
        if price is not None and is_positive(price):
            self.last_price = price
            if not self.band_low < price < self.band_high:
                self._set_band(price)

    def accept_time(self, ts: int) -> None:
        """Make the time of an event without a price the new reference; prices are left as they are."""
        self.newest_ts = max(ts, self.newest_ts)
        self._time_confirmations = 0

    def _set_band(self, price: Decimal) -> None:
        self.known_good = price
        if self._rules.max_jump is None:
            self.band_low, self.band_high = ZERO, INFINITY
            return
        context, band = self._rules.context, self._rules.band_fraction
        reach = context.multiply(price, band)
        self.band_low, self.band_high = context.subtract(price, reach), context.add(price, reach)

    def check_time(self, ts: int, slack: int = 0) -> str:
        """Return evidence that the venue's time ran backwards, or an empty text.

        Enough events in a row that agree on an earlier time (the venue's clock was set back) pass.
        """
        limit = self._rules.max_backwards
        if limit is None or ts >= self.newest_ts - limit - slack:
            return ""
        agrees = self._time_confirmations and ts >= self._candidate_ts - limit - slack
        self._time_confirmations = self._time_confirmations + 1 if agrees else 1
        self._candidate_ts = ts
        if self._time_confirmations >= self._rules.confirmations:
            self.newest_ts = ts
            return ""
        self.force_full_check()
        return (
            f"ts is {format_seconds(self.newest_ts - ts)} before the newest, more than {format_seconds(limit + slack)};"
            f" {self._time_confirmations} of {self._rules.confirmations} agree"
        )

    def check_jump(self, price: Decimal, ts: int) -> str:
        """Return evidence that the price jumped, or an empty text.

        A new price level passes once enough events in a row agree on it, or after `confirm_after`.
        """
        limit, last = self._rules.max_jump, self.last_price
        if (
            limit is None
            or last is None
            or not is_positive(price)
            or not self._exceeds_jump(price, last)
        ):
            return ""
        if self._candidate_price is None:
            self._price_confirmations, self._opened_at = 1, ts
        else:
            self._price_confirmations = (
                1
                if self._exceeds_jump(price, self._candidate_price)
                else self._price_confirmations + 1
            )
        self._candidate_price = price
        if (
            self._price_confirmations >= self._rules.confirmations
            or ts - self._opened_at >= self._rules.confirm_after
        ):
            return ""
        self.force_full_check()
        context = self._rules.context
        step = context.divide(context.multiply(context.subtract(price, last), 100), last)
        return (
            f"price {price} is {step:+.4g} % from {last}, more than {self._rules.max_jump_text};"
            f" {self._price_confirmations} of {self._rules.confirmations} agree"
        )

    def _exceeds_jump(self, price: Decimal, other: Decimal) -> bool:
        context, limit = self._rules.context, self._rules.max_jump
        if limit is None:
            return False
        return context.abs(context.subtract(price, other)) > context.multiply(limit, other)
