"""`Settings`: the table `[stage.books]`."""

from __future__ import annotations

from attrs import Attribute, field, frozen
from tapeloom.units import duration_ns

__all__ = ["Settings"]


def _whole(_: object, attribute: Attribute[int], value: int) -> None:
    least = attribute.metadata["least"]
    if type(value) is not int or value < least:
        raise ValueError(
            f"{attribute.name} = {value!r}: expected a whole number of {least} or more."
        )


def _long_enough(_: object, attribute: Attribute[int], value: int) -> None:
    if value < 1_000_000:
        raise ValueError(
            f"{attribute.name} = {value} ns is too short for a snapshot request."
            " Write a duration of 1ms or more, as in '10s'."
        )


@frozen(kw_only=True)
class Settings:
    """The table `[stage.books]`.

    `retry` is in nanoseconds here and a duration such as "10s" in the stack.
    """

    quotes: bool = True  #: emit a Quote when the best bid or ask changes
    depth: int = field(
        default=0, validator=_whole, metadata={"least": 0}
    )  #: levels per side of the Book events emitted; 0: none
    channels: tuple[str, ...] = ("book",)  #: channels for whose books quotes and depth are emitted
    buffer: int = field(default=10_000, validator=_whole, metadata={"least": 1})
    retry: int = field(default=10_000_000_000, converter=duration_ns, validator=_long_enough)
