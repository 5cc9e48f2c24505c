"""The table of this plugin in a stack."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from attrs import Attribute, converters, field, frozen
from tapeloom.errors import nearest
from tapeloom.units import duration_ns, fraction

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RULES", "TYPES", "Settings"]

#: Every rule by name, in the order in which they are asked.
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


def _words(known: tuple[str, ...]) -> Callable[[Any, Any, Any], None]:
    def check(_: object, attribute: Attribute[Any], words: Any) -> None:
        if isinstance(words, str):
            raise ValueError(f"{attribute.name} is a list of words. Write {[words]!r}.")  # noqa: TRY004 a mistake in a stack
        for word in words:
            if word not in known:
                raise ValueError(
                    f"{attribute.name} knows no {word!r}; it takes {', '.join(known)}."
                    f"{nearest(word, known)}"
                )

    return check


def _above_zero(_: object, attribute: Attribute[Decimal], value: Decimal) -> None:
    if value <= 0:
        raise ValueError(
            f"{attribute.name} is a fraction above 0, such as '10%', and was {value}."
            ' To do without the rule, write off = ["jump"].'
        )


def _at_least_one(_: object, attribute: Attribute[int], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{attribute.name} is a number of events, 1 or more, and was {value!r}.")


@frozen(kw_only=True)
class Settings:
    """What is checked, and how strictly. Durations are nanoseconds once read.

    `max_jump` is the largest step between two prices that follow each other. A level beyond it is
    believed after `confirmations` events in a row that agree on it, or once `confirm_after` has passed. `max_backwards`
    is how far the venue's time may run back, `max_ahead` how far it may be ahead of ours (None: as far
    as it likes). `off` names rules to do without, `types` the events to check.
    """

    max_jump: Decimal = field(default=Decimal("0.1"), converter=fraction, validator=_above_zero)
    confirmations: int = field(default=3, validator=_at_least_one)
    confirm_after: int = field(default=5_000_000_000, converter=duration_ns)
    max_backwards: int = field(default=1_000_000_000, converter=duration_ns)
    max_ahead: int | None = field(default=None, converter=converters.optional(duration_ns))
    off: tuple[str, ...] = field(default=(), validator=_words(RULES))
    types: tuple[str, ...] = field(default=TYPES, validator=_words(TYPES))
