"""`Settings`: the keys of a ``[[sink]]`` with ``use = "parquet"``."""

from __future__ import annotations

from attrs import Attribute, field, frozen
from tapeloom.units import duration_ns, size_bytes

__all__ = ["Settings"]

_SECOND = 1_000_000_000  # ns


def _not_empty(_: object, attribute: Attribute[str], value: str) -> None:
    if not value.strip() or "\0" in value:
        raise ValueError(f"{attribute.name} = {value!r}: expected the path of a folder.")


def _at_least_a_second(_: object, attribute: Attribute[int], value: int) -> None:
    if value < _SECOND:
        raise ValueError(
            f"{attribute.name} = {value} ns would make a file for every batch."
            " Write a duration of 1s or more, as in '60s'."
        )


def _at_least_64_kb(_: object, attribute: Attribute[int], value: int) -> None:
    if value < 64_000:
        raise ValueError(
            f"{attribute.name} = {value} bytes would make a file for every batch."
            " Write a size of 64kB or more, as in '64MB'."
        )


def _at_least_1000(_: object, attribute: Attribute[int], value: int) -> None:
    if type(value) is not int or value < 1000:
        raise ValueError(
            f"{attribute.name} = {value!r}: expected a whole number of 1000 or more;"
            " readers are slow with small row groups."
        )


@frozen(kw_only=True)
class Settings:
    """The keys of the sink.

    `max_age` is in nanoseconds here and a duration such as "60s" in the stack, `max_size` in bytes and a
    size such as "64MB".
    """

    path: str = field(
        default="data", validator=_not_empty
    )  #: folder of the files; it is created if it is missing
    max_age: int = field(
        default=60 * _SECOND, converter=duration_ns, validator=_at_least_a_second
    )  #: how long events stay in the journal, where readers do not see them
    max_size: int = field(
        default=64_000_000, converter=size_bytes, validator=_at_least_64_kb
    )  #: maximum size of the journal; the Parquet files made from it have about a tenth
    row_group: int = field(
        default=122_880, validator=_at_least_1000
    )  #: maximum number of rows of a row group
