"""The faults that can be injected: their kinds, their settings, and reading them from a file."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen
from tapeloom.errors import ConfigError, Mistake, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

__all__ = ["COMMON", "Fault", "check", "load"]

#: The faults that every venue can have; a venue may have more of its own.
COMMON = (
    "ack_delay",
    "ack_missing",
    "clock_skew_ms",
    "crossed_book",
    "data_before_ack",
    "dial_limit",
    "disconnect",
    "drop_diff",
    "dup_trade",
    "empty_side",
    "huge_batch",
    "late_trade",
    "lingering_session",
    "malformed_json",
    "max_age",
    "misroute_silence",
    "missing_fields",
    "missing_final_kline",
    "no_ping",
    "ping_no_pong",
    "plain_text_frame",
    "rate_limit_rest",
    "rate_limit_ws",
    "reorder",
    "server_shutdown",
    "silent_stall",
    "stale_snapshot",
    "sub_error",
)

#: The channels a fault applies to if its `channel` is not set.
CHANNELS: dict[str, frozenset[str]] = {
    "drop_diff": frozenset({"book"}),
    "crossed_book": frozenset({"book", "quotes"}),
    "empty_side": frozenset({"book", "quotes"}),
    "huge_batch": frozenset({"book"}),
    "dup_trade": frozenset({"trades", "agg_trades"}),
    "late_trade": frozenset({"trades", "agg_trades"}),
    "reorder": frozenset({"trades", "agg_trades"}),
    "missing_final_kline": frozenset({"klines"}),
}


def _positive(_: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and value < 0:
        raise ValueError(f"{attribute.name} must be 0 or more, not {value}")


@frozen(kw_only=True)
class Fault:
    """One fault to inject.

    Each kind has its occasions: a data frame of a stream it applies to, a message or a ping of a client,
    a dial, a REST call. No fault happens at the first `after` occasions, before the market is `at`
    seconds old, or after it is `until` seconds old. At every `every`-th of the other occasions it happens
    with probability `chance`, `count` times at most (0: no limit). `symbol`, `channel` and `connection`
    (1 is the first one opened) restrict it. With `per_stream`, occasions are counted
    separately for each stream of each connection.

    `kind` is one of `COMMON`, or one that only the simulated venue has.
    """

    kind: str
    at: float | None = attrs.field(default=None, validator=_positive)
    until: float | None = attrs.field(default=None, validator=_positive)
    after: int = attrs.field(default=0, validator=_positive)
    every: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    count: int = attrs.field(default=1, validator=_positive)
    chance: float = attrs.field(default=1.0, validator=[_positive, attrs.validators.le(1)])
    symbol: str = ""
    channel: str = ""
    connection: int | None = None
    per_stream: bool = False
    how: str = ""  #: disconnect: "clean" or "abrupt"; silent_stall: "stream" or "all"
    seconds: float | None = attrs.field(default=None, validator=_positive)  #: a duration or an age
    value: int | None = None  #: ms of skew, updates of lag, frames held back, HTTP status, levels

    def __attrs_post_init__(self) -> None:
        allowed = {"disconnect": ("", "clean", "abrupt"), "silent_stall": ("", "stream", "all")}
        if self.how not in allowed.get(self.kind, ("",)):
            choices = " or ".join(
                repr(choice) for choice in allowed.get(self.kind, ("",)) if choice
            )
            raise ValueError(
                f"how of {self.kind} must be {choices or 'left out'}, not {self.how!r}"
            )


def check(faults: Sequence[Fault], own: Collection[str] = (), source: str = "faults") -> None:
    """Check that the kind of each fault is a common one or one of the venue's *own*.

    Raises ConfigError that lists all unknown kinds.
    """
    if mistakes := [
        Mistake(f"fault[{place}]", _unknown(fault.kind, own))
        for place, fault in enumerate(faults)
        if fault.kind not in COMMON and fault.kind not in own
    ]:
        raise ConfigError(mistakes, source)


def _unknown(kind: str, own: Collection[str]) -> str:
    known = sorted({*COMMON, *own})
    hint = nearest(str(kind), known) or f" There are: {', '.join(known)}."
    return f"there is no fault of the kind {kind!r}.{hint}"


def load(path: Path, own: Collection[str] = ()) -> list[Fault]:
    """Read faults from a TOML file of [[fault]] tables; *own* are the venue's own kinds.

    Raises ConfigError that lists all mistakes in the file, or OSError.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError([Mistake("", f"is no TOML: {problem}")], str(path)) from problem
    mistakes = [
        Mistake(key, f"unknown table.{nearest(key, ['fault'])} Write [[fault]].")
        for key in tables
        if key != "fault"
    ]
    faults: list[Fault] = []
    items = tables.get("fault", [])
    for place, table in enumerate(items if isinstance(items, list) else [items]):
        try:
            faults.append(_fault(table, own))
        except (TypeError, ValueError) as problem:
            mistakes.append(Mistake(f"fault[{place}]", str(problem)))
    if mistakes:
        raise ConfigError(mistakes, str(path))
    return faults


def _fault(table: dict[str, Any], own: Collection[str]) -> Fault:
    fields = [field.name for field in attrs.fields(Fault)]
    for key in table:
        if key not in fields:
            raise ValueError(f"unknown key {key!r}.{nearest(key, fields)}")
    if "kind" not in table:
        raise ValueError(f"kind is missing. There are: {', '.join(sorted({*COMMON, *own}))}.")
    if table["kind"] not in COMMON and table["kind"] not in own:
        raise ValueError(_unknown(table["kind"], own))
    return Fault(**table)
