"""`validate_bar`: the guide's checks and its circuit breaker, by the rules of tapeloom-quality."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import structlog
from tapeloom import Reject

from ._stages import alone

if TYPE_CHECKING:
    from .bar import OHLCVBar

__all__ = ["BarValidator", "validate_bar"]

log = structlog.get_logger()


class BarValidator:
    """Checks bars, each symbol by itself.

    A price that is no number above 0, a negative volume, a high below the low, an open or close
    outside of them, a close more than *max_jump* from the one before: each makes a bar invalid. The
    breaker opens at the first bar of a new level and closes again where the price comes back, or
    where *confirm* bars in a row agree on the new level, or once *hold* has passed in the bars' time.
    """

    def __init__(self, max_jump: str = "10%", confirm: int = 3, hold: str = "1d") -> None:
        self._stage = alone(
            "quality", "validate", max_jump=max_jump, confirmations=confirm, confirm_after=hold
        )

    def __call__(self, bar: OHLCVBar) -> bool:
        """Tell whether *bar* is sound; where it is not, log the rule and the evidence."""
        for event in self._stage([bar.bar()]):
            if isinstance(event, Reject):
                log.warning(
                    "bar_invalid",
                    symbol=bar.symbol,
                    timestamp=bar.timestamp.isoformat(),
                    rule=event.rule,
                    evidence=event.evidence,
                )
                return False
        return True


@cache
def _validator() -> BarValidator:
    return BarValidator()


def validate_bar(bar: OHLCVBar) -> bool:
    """Tell whether *bar* is sound, by one `BarValidator` with the guide's 10 % for the whole process."""
    return _validator()(bar)
