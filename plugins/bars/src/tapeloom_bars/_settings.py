"""What may stand under ``[stage.bars]``."""

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
        raise ValueError("there is no interval. Name one or more: every = ['1s', '1m'].")
    for name, text in zip(names, texts, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"{text!r} is {name!r}, and that stands here twice. Name it once.")
    return names


def _at_least(least: int) -> Any:
    def check(_: object, attribute: attrs.Attribute[int], value: int) -> None:
        if value < least:
            raise ValueError(f"{attribute.name} is {value}. Write {least} or more.")

    return check


@attrs.frozen(kw_only=True)
class Settings:
    """Which bars are made, and what happens to late trades and empty intervals."""

    every: tuple[str, ...] = attrs.field(default=("1m",), converter=_names)
    channel: str = ""  #: whose trades count; empty: "trades" or "agg_trades", whichever comes first
    lateness: int = attrs.field(default=500_000_000, converter=duration_ns, validator=_at_least(0))
    revise: bool = True  #: send a closed bar again when a late trade belongs to it
    keep: int = attrs.field(default=10, validator=_at_least(0))  #: intervals that can be revised
    empty: Literal["skip", "fill"] = attrs.field(
        default="skip", validator=attrs.validators.in_(("skip", "fill"))
    )
    fill_limit: int = attrs.field(default=86_400, validator=_at_least(1))  #: fills in a row
    history: bool = False  #: count trades that the venue replays from before the subscription

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """What `every` says, shortest first."""
        intervals = [Interval.parse(name) for name in self.every]
        return tuple(sorted(intervals, key=lambda interval: interval.length))
