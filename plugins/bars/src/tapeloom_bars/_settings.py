"""`Settings`: the table ``[stage.bars]``."""

from __future__ import annotations

from typing import Any, Literal

import attrs
from tapeloom.units import duration_ns

from ._interval import Interval

__all__ = ["Settings"]


def _names(every: str | tuple[str, ...]) -> tuple[str, ...]:
    texts = (every,) if isinstance(every, str) else tuple(every)
    names = tuple(Interval.parse(text).name for text in texts)
    if not names:
        raise ValueError("no interval is given. Give one or more: every = ['1s', '1m'].")
    for name, text in zip(names, texts, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"{text!r} is {name!r}, which is given twice. Give it once.")
    return names


def _at_least(least: int) -> Any:
    def check(_: object, attribute: attrs.Attribute[int], value: int) -> None:
        if value < least:
            raise ValueError(f"{attribute.name} is {value}. Write {least} or more.")

    return check


@attrs.frozen(kw_only=True)
class Settings:
    """Intervals of the bars, and the handling of late trades and empty intervals."""

    every: tuple[str, ...] = attrs.field(default=("1m",), converter=_names)
    channel: str = ""  #: channel whose trades count; empty: the first of "trades" and "agg_trades" with a trade
    lateness: int = attrs.field(default=500_000_000, converter=duration_ns, validator=_at_least(0))
    revise: bool = True  #: send a closed bar again when a late trade belongs to it
    keep: int = attrs.field(
        default=10, validator=_at_least(0)
    )  #: number of closed intervals that can be revised
    empty: Literal["skip", "fill"] = attrs.field(
        default="skip", validator=attrs.validators.in_(("skip", "fill"))
    )
    fill_limit: int = attrs.field(
        default=86_400, validator=_at_least(1)
    )  #: maximum of filled bars in a row
    #: how far a trade's time may be ahead of our clock, offset included
    max_ahead: int = attrs.field(
        default=10_000_000_000, converter=duration_ns, validator=_at_least(0)
    )
    history: bool = False  #: include trades the venue replays from before the subscription

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The intervals of `every`, shortest first."""
        intervals = [Interval.parse(name) for name in self.every]
        return tuple(sorted(intervals, key=lambda interval: interval.length))
