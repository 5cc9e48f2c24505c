"""`Settings`: the keys of a ``[[sink]]`` with ``use = "files"``."""

from __future__ import annotations

from typing import Literal

from attrs import Attribute, field, frozen
from tapeloom.units import duration_ns, size_bytes

__all__ = ["Compression", "Format", "Settings"]

#: jsonl: one file for all types, a line of JSON for each event. csv: a file for each type.
Format = Literal["jsonl", "csv"]
#: How files are compressed; empty: not at all.
Compression = Literal["", "gzip", "zstd"]

_SECOND = 1_000_000_000  # ns


def _not_empty(_: object, attribute: Attribute[str], value: str) -> None:
    if not value.strip() or "\0" in value:
        raise ValueError(f"{attribute.name} = {value!r}: expected the path of a folder.")


def _at_least_a_second(_: object, attribute: Attribute[int], value: int) -> None:
    if value < _SECOND:
        raise ValueError(
            f"{attribute.name} = {value} ns would make a file for every batch."
            " Write a duration of 1s or more, as in '1h'."
        )


def _at_least_4_kb(_: object, attribute: Attribute[int], value: int) -> None:
    if value < 4_000:
        raise ValueError(
            f"{attribute.name} = {value} bytes would make a file for every batch."
            " Write a size of 4kB or more, as in '100MB'."
        )


@frozen(kw_only=True)
class Settings:
    """The keys of the sink.

    `rotate_every` is in nanoseconds here and a duration such as "1h" in the stack, `rotate_size` in bytes
    and a size such as "100MB".
    """

    path: str = field(
        default="events", validator=_not_empty
    )  #: folder of the files; it is created if it is missing
    format: Format = "jsonl"  #: what is written
    rotate_size: int = field(
        default=100_000_000, converter=size_bytes, validator=_at_least_4_kb
    )  #: size at which a file is complete, and the next one begins
    rotate_every: int = field(
        default=3600 * _SECOND, converter=duration_ns, validator=_at_least_a_second
    )  #: time after which a file is complete, and the next one begins
    compression: Compression = ""  #: how files are compressed
