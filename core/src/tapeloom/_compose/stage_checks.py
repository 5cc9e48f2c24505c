"""Checks that the stages of a feed receive what they use, and check events before others use them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from tapeloom.errors import Mistake
from tapeloom.plugin import channel_parts

from .plan import StageStep

#: The type of the events of each common channel.
_TYPES = {
    "trades": "trade",
    "agg_trades": "trade",
    "quotes": "quote",
    "book": "book",
    "klines": "bar",
    "ticker": "ticker",
}


def check_stages(channels: Sequence[str], steps: Sequence[StageStep]) -> Iterator[Mistake]:
    """Yield the mistakes in the channels and the order of the stages that say which events they use.

    Events of a venue's own channel, and of a stage that does not say what it adds, may be of any type.
    """
    names = [channel_parts(channel)[0] for channel in channels]
    given = {_TYPES.get(name, "") for name in names or ("",)}  # a relay may leave them out: all
    users: list[StageStep] = []
    for step in steps:
        uses: frozenset[str] | None = getattr(step.stage, "uses", None)
        if uses is None:
            given.add("")
            continue
        if step.validates:
            yield from _used_unchecked(step, uses, users, steps)
            continue
        if not uses & given and "" not in given:
            missing = [repr(name) for name, given_type in _TYPES.items() if given_type in uses]
            yield Mistake(
                "channels",
                f"the stage {step.name!r} would do nothing: it uses events of the type"
                f" {' or '.join(sorted(uses))}. Add {' or '.join(missing)} to the channels.",
            )
        users.append(step)
        given |= getattr(step.stage, "adds", frozenset())


def _used_unchecked(
    step: StageStep, checks: frozenset[str], users: Sequence[StageStep], steps: Sequence[StageStep]
) -> Iterator[Mistake]:
    """Yield the mistake that *step* checks events only after one of *users* has used them."""
    for user in users:
        if both := checks & user.stage.uses:  # type: ignore[attr-defined]
            order = list(dict.fromkeys(other.name for other in steps))
            order.insert(order.index(user.name), order.pop(order.index(step.name)))
            yield Mistake(
                "stages",
                f"{user.name!r} stands before {step.name!r}, and would use each {min(both)} before"
                f" it is checked. Write stages = {json.dumps(order)}.",
            )
            return
