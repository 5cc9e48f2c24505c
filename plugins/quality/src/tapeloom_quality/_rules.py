"""`Rules`: checks shared by several types of events, and the creation of rejects."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import TYPE_CHECKING

from tapeloom.events import Event, Reject
from tapeloom.plugin import TimeLimit

from ._settings import RULES, Settings

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

__all__ = [
    "INFINITY",
    "REPLAYED_ORIGINS",
    "ZERO",
    "Rules",
    "format_seconds",
    "is_non_negative",
    "is_positive",
]

ZERO = Decimal(0)
INFINITY = Decimal("Infinity")

#: Origins of replayed events: their values are checked, but not their time or order.
REPLAYED_ORIGINS = frozenset(("history", "backfill"))


def is_positive(value: Decimal) -> bool:
    """Return whether *value* is finite and above zero."""
    return value.is_finite() and value > ZERO


def is_non_negative(value: Decimal) -> bool:
    """Return whether *value* is finite and zero or above."""
    return value.is_finite() and value >= ZERO


def format_seconds(nanoseconds: int) -> str:
    """Return a duration in seconds as text, such as "1.5 s"."""
    # Integer arithmetic: a time sent by a venue may be too large for a float.
    whole, remainder = divmod(nanoseconds, 1_000_000_000)
    return f"{whole}.{remainder:09d}".rstrip("0").rstrip(".") + " s"


class Rules:
    """The settings prepared for the checks, and the method that creates every reject.

    Arithmetic uses its own decimal context, so the caller's precision and traps change no result.
    """

    __slots__ = (
        "_counters",
        "ahead",
        "band_fraction",
        "bars_ahead",
        "confirm_after",
        "confirmations",
        "context",
        "enabled",
        "max_backwards",
        "max_jump",
        "max_jump_text",
    )

    def __init__(self, settings: Settings, counters: Counter[str]) -> None:
        self.enabled = frozenset(RULES) - frozenset(settings.off)
        self.confirmations = settings.confirmations
        self.confirm_after = settings.confirm_after
        self.max_jump = settings.max_jump if "jump" in self.enabled else None
        max_ahead = settings.max_ahead if "ahead" in self.enabled else None
        self.ahead = TimeLimit(
            max_ahead
        )  #: of events whose time is that of something that happened
        self.bars_ahead = TimeLimit(max_ahead)  #: of bars, whose time is their start
        self.max_backwards = settings.max_backwards if "backwards" in self.enabled else None
        self.context = Context(prec=60, traps=[])
        # If two prices are within this fraction of one reference price, they are within `max_jump` of
        # each other: for a fraction of b, the larger is at most (1 + b) / (1 - b) times the smaller, and m / (m + 3) keeps that
        # below 1 + m with room for rounding.
        max_jump = settings.max_jump
        self.max_jump_text = f"{self.context.multiply(max_jump, 100).normalize(self.context):f} %"
        self.band_fraction = self.context.divide(max_jump, self.context.add(max_jump, 3))
        self._counters = counters

    def count(self, name: str, number: int = 1) -> None:
        """Increase a counter of the feed."""
        self._counters[name] += number

    def reject(self, event: Event, rule: str, evidence: str) -> list[Event]:
        """Return the reject that replaces *event*, and count it."""
        self._counters[f"reject.{rule}"] += 1
        return [
            Reject(
                event.venue, event.symbol, event.ts, event.recv,
                rule, evidence, event, event.channel,
            )
        ]  # fmt: skip

    def check_prices(self, named: Iterable[tuple[str, Decimal | None]]) -> str:
        """Return evidence for the first invalid price, or an empty text. None is skipped."""
        if "price" in self.enabled:
            for name, price in named:
                if price is not None and not is_positive(price):
                    return f"{name} {price} is not a number above 0"
        return ""

    def check_sizes(self, named: Iterable[tuple[str, Decimal | None]]) -> str:
        """Return evidence for the first invalid size, or an empty text. None is skipped."""
        if "size" in self.enabled:
            for name, size in named:
                if size is not None and not is_non_negative(size):
                    return f"{name} {size} is not a number of 0 or more"
        return ""

    def check_ahead(
        self, ts: int, recv: int, last_ts: int | None = None, *, is_bar: bool = False
    ) -> str:
        """Return evidence that a time is too far ahead of `recv`, or an empty text.

        Enough events in a row that agree on an offset of the venue's clock pass, and one that follows
        *last_ts*, the newest time of its subscription.
        """
        if is_bar and ts <= recv + self.ahead.allowed:
            return ""
        limit = self.bars_ahead if is_bar else self.ahead
        if not limit.exceeds(ts, recv, last_ts):
            return ""
        return (
            f"ts is {format_seconds(ts - recv)} ahead of recv, more than {format_seconds(limit.allowed)};"
            f" {limit.agreed}"
        )
