"""The settings of faults, and the schedule that decides when each is injected.

The keys mean the same as in a fault file for the simulator.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs
import structlog
from attrs import field, frozen
from tapeloom.errors import nearest
from tapeloom.units import fraction

__all__ = [
    "ON_CONNECTION",
    "ON_DIAL",
    "Fault",
    "FaultInjector",
    "FaultSchedule",
    "InjectedFault",
    "RelaySettings",
    "Settings",
]

log = structlog.get_logger()

#: The faults of a feed whose occasion is a dial; the occasion of all others is a message.
ON_DIAL = ("refuse", "slow_dial")
#: The faults of a relay whose occasion is a connection; that of all others is one socket read.
ON_CONNECTION = ("refuse", "answer", "slow")
#: The keys that only some kinds of fault have, with their defaults.
_OPTIONAL_KEYS: dict[str, dict[str, float]] = {
    "delay": {"seconds": 0.1},
    "stall": {"seconds": 30.0},
    "slow_dial": {"seconds": 5.0},
    "slow": {"rate": 1000},
    "answer": {"status": 502},
}


def _at_least(minimum: float) -> Callable[[Any, Any, Any], None]:
    def check(_: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
        if value is not None and value < minimum:
            raise ValueError(f"{attribute.name} must be {minimum:g} or more, not {value}.")

    return check


def _probability(value: float | str) -> float:
    return float(fraction(value))


def _is_probability(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} must be between 0 and 1, such as '0.1%', not {value}.")


@frozen(kw_only=True)
class Fault:
    """When one kind of fault is injected, and its parameters.

    Each kind has its own occasions: messages, connections or requests. No fault is injected in the
    first `at` seconds, after `until` seconds (0: no end), or into the first `after` occasions of the
    time between. Of the rest, every `every`-th occasion is hit with probability `chance`, at most once
    per `period` seconds and at most `count` times (0: no limit). Without `count`, a fault that hits
    every occasion is injected once, any other one without limit.
    """

    chance: float = field(default=1.0, converter=_probability, validator=_is_probability)
    at: float = field(default=0.0, validator=_at_least(0))
    until: float = field(default=0.0, validator=_at_least(0))
    after: int = field(default=0, validator=_at_least(0))
    every: int = field(default=1, validator=_at_least(1))
    period: float = field(default=0.0, validator=_at_least(0))
    count: int | None = field(default=None, validator=_at_least(0))
    seconds: float | None = field(default=None, validator=_at_least(0))  #: duration of the fault
    rate: int | None = field(default=None, validator=_at_least(1))  #: bytes a second
    status: int | None = field(
        default=None, validator=_at_least(400)
    )  #: the HTTP status of `answer`

    @property
    def limit(self) -> float:
        """How many times the fault may be injected; 0: no limit."""
        certain = self.chance == 1 and self.every == 1 and not self.period
        return (1 if certain else 0) if self.count is None else self.count


def _fault(value: Fault | float | str | None) -> Fault | None:
    return value if value is None or isinstance(value, Fault) else Fault(chance=value, count=0)


def _check_keys(_: object, attribute: attrs.Attribute[Any], value: Fault | None) -> None:
    for key in ("seconds", "rate", "status"):
        if getattr(value, key, None) is not None and key not in _OPTIONAL_KEYS.get(
            attribute.name, {}
        ):
            raise ValueError(f"{attribute.name} has no key {key!r}; leave it out.")


@frozen(kw_only=True)
class _CommonSettings:
    seed: int = 0
    refuse: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    reset: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    close: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    half_open: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    stall: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    delay: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    split: Fault | None = field(default=None, converter=_fault, validator=_check_keys)


@frozen(kw_only=True)
class Settings(_CommonSettings):
    """The faults injected into the messages and connections of a feed.

    Each fault is a probability, such as ``0.001`` or ``"0.1%"``, or a `Fault`. The same `seed`
    injects the same faults into the same messages, however they are grouped into reads.
    """

    slow_dial: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    drop: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    corrupt: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    duplicate: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    reorder: Fault | None = field(default=None, converter=_fault, validator=_check_keys)


@frozen(kw_only=True)
class RelaySettings(_CommonSettings):
    """The faults that a relay injects into connections and into the bytes that the server sends."""

    answer: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    slow: Fault | None = field(default=None, converter=_fault, validator=_check_keys)
    corrupt: Fault | None = field(default=None, converter=_fault, validator=_check_keys)


@frozen
class InjectedFault:
    """One fault that was injected."""

    fault: str
    at: float  #: seconds after the start
    connection: int  #: 1 is the first
    message: int = 0  #: 1 is the first of its connection; 0: a fault of the connection


class FaultSchedule:
    """Decides for each occasion whether one fault of a feed or relay is injected."""

    def __init__(self, kind: str, fault: Fault, seed: str) -> None:
        self.kind = kind
        defaults = _OPTIONAL_KEYS.get(kind, {})
        self.seconds = fault.seconds if fault.seconds is not None else defaults.get("seconds", 0.0)
        self.rate = fault.rate or int(defaults.get("rate", 0))
        self.status = fault.status or int(defaults.get("status", 0))
        self._fault = fault
        # One generator per fault: adding a fault does not change when the others hit.
        self._random = random.Random(f"{seed} {kind}")
        self._left = fault.limit or float("inf")
        self._seen = 0
        self._next_at = fault.at

    def is_due(self, age: float) -> bool:
        """Count an occasion *age* seconds after the start; return whether to inject the fault."""
        fault = self._fault
        if self._left <= 0 or age < self._next_at or (fault.until and age >= fault.until):
            return False
        self._seen += 1
        if self._seen <= fault.after or (self._seen - fault.after - 1) % fault.every:
            return False
        if fault.chance < 1 and self._random.random() >= fault.chance:
            return False
        self._left -= 1
        self._next_at = age + fault.period
        return True

    def random_below(self, limit: int) -> int:
        """Return a random integer from 0 to *limit* - 1."""
        return self._random.randrange(limit)


class FaultInjector:
    """The fault schedules of one feed or relay, and the faults injected so far."""

    def __init__(self, settings: Any, name: str, clock: Callable[[], float]) -> None:
        self.injected: list[InjectedFault] = []
        self.schedules = {
            kind: FaultSchedule(kind, fault, f"{settings.seed} {name}")
            for kind, fault in attrs.asdict(settings, recurse=False).items()
            if isinstance(fault, Fault)
        }
        self._name = name
        self._clock = clock
        self._start: float | None = None

    @property
    def age(self) -> float:
        """Seconds since this was first read."""
        now = self._clock()
        if self._start is None:
            self._start = now
        return now - self._start

    def schedules_of(
        self, kinds: Collection[str] = (), *, excluding: Collection[str] = ()
    ) -> list[FaultSchedule]:
        """Return the schedules of *kinds* (empty: all) except *excluding*, in the order of the settings."""
        return [
            schedule
            for kind, schedule in self.schedules.items()
            if (kind in kinds or not kinds) > (kind in excluding)
        ]

    def record(self, kind: str, connection: int, message: int = 0) -> None:
        """Record and log an injected fault."""
        self.injected.append(InjectedFault(kind, self.age, connection, message))
        log.info(
            "chaos_injected", feed=self._name, fault=kind, connection=connection, message=message
        )


def read_settings(table: Mapping[str, Any]) -> RelaySettings:
    """Return the settings of a relay from a parsed TOML table.

    Raises ValueError for an unknown key or an invalid value.
    """
    known = attrs.fields_dict(RelaySettings)
    for key in table:
        if key not in known:
            raise ValueError(
                f"a relay has no fault {key!r}.{nearest(key, known)} It has {', '.join(known)}."
            )
    given: dict[str, Any] = {
        key: Fault(**value) if isinstance(value, Mapping) else value for key, value in table.items()
    }
    return RelaySettings(**given)
