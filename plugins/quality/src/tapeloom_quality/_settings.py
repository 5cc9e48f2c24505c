"""`Settings`: the table of this stage in a stack."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from attrs import Attribute, converters, field, frozen
from tapeloom.errors import nearest
from tapeloom.units import duration_ns, fraction

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RULES", "TYPES", "Settings"]

#: Names of all rules, in the order in which they are checked.
RULES = (
    "price",
    "size",
    "range",
    "crossed",
    "duplicate",
    "order",
    "ahead",
    "backwards",
    "jump",
    "sequence",
)

#: The types of event that can be checked.
TYPES = ("trade", "quote", "book", "bar", "ticker")


def _known_names(known: tuple[str, ...]) -> Callable[[Any, Any, Any], None]:
    def check(_: object, attribute: Attribute[Any], names: Any) -> None:
        if isinstance(names, str):
            raise ValueError(f"{attribute.name} is a list of names. Write {[names]!r}.")  # noqa: TRY004 a mistake in a stack
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{attribute.name} does not accept {name!r}; it accepts {', '.join(known)}."
                    f"{nearest(name, known)}"
                )

    return check


def _above_zero(_: object, attribute: Attribute[Decimal], value: Decimal) -> None:
    if value <= 0:
        raise ValueError(
            f"{attribute.name} is a fraction above 0, such as '10%', and was {value}."
            ' To disable the rule, write off = ["jump"].'
        )


def _at_least_one(_: object, attribute: Attribute[int], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{attribute.name} is a number of events, 1 or more, and was {value!r}.")


@frozen(kw_only=True)
class Settings:
    """What is checked, and how strictly. Durations are nanoseconds after parsing.

    `max_jump` is the largest allowed step between two consecutive prices. A price level beyond it is
    accepted after `confirmations` events in a row that agree on it, or after `confirm_after`.
    `max_backwards` is how far the venue's time may run backwards, `max_ahead` how far it may be ahead of
    ours, offset included (None: not checked). `off` names rules to disable, `types` the types of events to check.
    """

    max_jump: Decimal = field(default=Decimal("0.1"), converter=fraction, validator=_above_zero)
    confirmations: int = field(default=3, validator=_at_least_one)
    confirm_after: int = field(default=5_000_000_000, converter=duration_ns)
    max_backwards: int = field(default=1_000_000_000, converter=duration_ns)
    max_ahead: int | None = field(
        default=10_000_000_000, converter=converters.optional(duration_ns)
    )
    off: tuple[str, ...] = field(default=(), validator=_known_names(RULES))
    types: tuple[str, ...] = field(default=TYPES, validator=_known_names(TYPES))
