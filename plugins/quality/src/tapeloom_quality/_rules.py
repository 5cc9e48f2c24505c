"""The rules that more than one type of event shares, and the verdict."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import TYPE_CHECKING

from tapeloom.events import Event, Reject

from ._settings import RULES, Settings

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

__all__ = ["INFINITY", "PAST", "ZERO", "Rules", "amount", "positive", "seconds"]

ZERO = Decimal(0)
INFINITY = Decimal("Infinity")

#: The origins of events from before: they are judged by what they say, not by when they come.
PAST = frozenset(("history", "backfill"))


def positive(value: Decimal) -> bool:
    """Tell whether *value* is a number above zero; NaN and Infinity are none."""
    return value.is_finite() and value > ZERO


def amount(value: Decimal) -> bool:
    """Tell whether *value* is a number, zero or above; NaN and Infinity are none."""
    return value.is_finite() and value >= ZERO


def seconds(nanoseconds: int) -> str:
    """Write a duration for a person."""
    # In whole numbers: what a venue sends may be too large for a float.
    whole, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".") + " s"


class Rules:
    """The settings in the form in which they are asked, and the one place that rejects.

    Arithmetic has a context of its own, so that nobody's precision or traps change a verdict.
    """

    __slots__ = (
        "_counters",
        "ahead",
        "backwards",
        "band",
        "confirm",
        "context",
        "hold",
        "limit",
        "max_jump",
        "on",
    )

    def __init__(self, settings: Settings, counters: Counter[str]) -> None:
        self.on = frozenset(RULES) - frozenset(settings.off)
        self.confirm = settings.confirmations
        self.hold = settings.confirm_after
        self.max_jump = settings.max_jump if "jump" in self.on else None
        self.ahead = settings.max_ahead if "ahead" in self.on else None
        self.backwards = settings.max_backwards if "backwards" in self.on else None
        self.context = Context(prec=60, traps=[])
        # Two prices within this fraction of a third are within `max_jump` of each other: for a band
        # of b, the larger is at most (1 + b) / (1 - b) times the smaller, and m / (m + 3) keeps that
        # below 1 + m with room for rounding.
        m = settings.max_jump
        self.limit = f"{self.context.multiply(m, 100).normalize(self.context):f} %"
        self.band = self.context.divide(m, self.context.add(m, 3))
        self._counters = counters

    def count(self, name: str, number: int = 1) -> None:
        """Count something that is no good event."""
        self._counters[name] += number

    def reject(self, event: Event, rule: str, evidence: str) -> list[Event]:
        """Return what stands in the place of *event*."""
        self._counters[f"reject.{rule}"] += 1
        return [
            Reject(
                event.venue, event.symbol, event.ts, event.recv,
                rule, evidence, event, event.channel,
            )
        ]  # fmt: skip

    def prices(self, named: Iterable[tuple[str, Decimal | None]]) -> str:
        """Return evidence against the first of these that is no price, or nothing. None is no word."""
        if "price" in self.on:
            for name, price in named:
                if price is not None and not positive(price):
                    return f"{name} {price} is no number above 0"
        return ""

    def sizes(self, named: Iterable[tuple[str, Decimal | None]]) -> str:
        """Return evidence against the first of these that is no size, or nothing. None is no word."""
        if "size" in self.on:
            for name, size in named:
                if size is not None and not amount(size):
                    return f"{name} {size} is no number of 0 or more"
        return ""

    def early(self, ts: int, recv: int) -> str:
        """Return evidence against a time from the future, or nothing."""
        if self.ahead is None or ts <= recv + self.ahead:
            return ""
        return f"ts is {seconds(ts - recv)} ahead of recv, more than {seconds(self.ahead)}"
