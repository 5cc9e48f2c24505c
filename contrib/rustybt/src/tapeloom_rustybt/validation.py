"""`validate_bar`: the guide's checks and circuit breaker, with the stage of tapeloom-quality."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import structlog
from tapeloom import Reject

from ._stages import make_stage

if TYPE_CHECKING:
    from .bar import OHLCVBar

__all__ = ["BarValidator", "validate_bar"]

log = structlog.get_logger()


class BarValidator:
    """Checks bars, separately for each symbol.

    A bar is invalid if a price is not a number above 0, the volume is negative, the high is below the
    low, open or close lie outside of them, or the close differs by more than *max_jump* from the
    last one. After such a jump, bars stay invalid until the price comes back, until *confirm* bars in
    a row have the new level, or until *hold* has passed in the bars' time.
    """

    def __init__(self, max_jump: str = "10%", confirm: int = 3, hold: str = "1d") -> None:
        self._stage = make_stage(
            "quality", "validate", max_jump=max_jump, confirmations=confirm, confirm_after=hold
        )

    def __call__(self, bar: OHLCVBar) -> bool:
        """Return whether *bar* is valid; if not, log the rule and the evidence."""
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
    """Return whether *bar* is valid, by a `BarValidator` that the whole process shares.

    The validator remembers the last bar of each symbol, so the result depends on earlier calls.
    """
    return _validator()(bar)
