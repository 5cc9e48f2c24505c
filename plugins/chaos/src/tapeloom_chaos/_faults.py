"""The vocabulary of faults, and when each is due.

The keys mean what they mean in a file of faults for the simulator.
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

__all__ = ["ON_DIAL", "ON_WIRE", "Done", "Dose", "Fault", "Ledger", "Relaying", "Settings"]

log = structlog.get_logger()

#: The keys of a fault that not every kind has, and what they are unless said.
_OWN: dict[str, dict[str, float]] = {
    "delay": {"seconds": 0.1},
    "stall": {"seconds": 30.0},
    "slow_dial": {"seconds": 5.0},
    "slow": {"rate": 1000},
    "answer": {"status": 502},
}


def _least(least: float) -> Callable[[Any, Any, Any], None]:
    def check(_: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
        if value is not None and value < least:
            raise ValueError(f"{attribute.name} is {least:g} or more, and was {value}.")

    return check


def _chance(value: float | str) -> float:
    return float(fraction(value))


def _likely(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} lies between 0 and 1, such as '0.1%', and was {value}.")


@frozen(kw_only=True)
class Fault:
    """How often one kind of fault is injected, and how it is.

    Each kind has its occasions: a message, a connection, a request. All of them pass before the
    first `at` seconds are over, and all after `until` (0: there is no end); then `after` more; of the
    rest every `every`-th one is spoiled, with probability `chance`, once in `period` seconds at most,
    and `count` times at most. Unless `count` is said, a fault that is certain comes once, and any other
    one without end (0).
    """

    chance: float = field(default=1.0, converter=_chance, validator=_likely)
    at: float = field(default=0.0, validator=_least(0))
    until: float = field(default=0.0, validator=_least(0))
    after: int = field(default=0, validator=_least(0))
    every: int = field(default=1, validator=_least(1))
    period: float = field(default=0.0, validator=_least(0))
    count: int | None = field(default=None, validator=_least(0))
    seconds: float | None = field(default=None, validator=_least(0))  #: how long
    rate: int | None = field(default=None, validator=_least(1))  #: bytes a second
    status: int | None = field(default=None, validator=_least(400))  #: of HTTP

    @property
    def most(self) -> float:
        """How often it may come."""
        certain = self.chance == 1 and self.every == 1 and not self.period
        return (1 if certain else 0) if self.count is None else self.count


def _fault(value: Fault | float | str | None) -> Fault | None:
    return value if value is None or isinstance(value, Fault) else Fault(chance=value, count=0)


def _suits(_: object, attribute: attrs.Attribute[Any], value: Fault | None) -> None:
    for key in ("seconds", "rate", "status"):
        if getattr(value, key, None) is not None and key not in _OWN.get(attribute.name, {}):
            raise ValueError(f"{attribute.name} has no {key!r}; leave it out.")


@frozen(kw_only=True)
class _Shared:
    seed: int = 0
    refuse: Fault | None = field(default=None, converter=_fault, validator=_suits)
    reset: Fault | None = field(default=None, converter=_fault, validator=_suits)
    close: Fault | None = field(default=None, converter=_fault, validator=_suits)
    half_open: Fault | None = field(default=None, converter=_fault, validator=_suits)
    stall: Fault | None = field(default=None, converter=_fault, validator=_suits)
    delay: Fault | None = field(default=None, converter=_fault, validator=_suits)
    split: Fault | None = field(default=None, converter=_fault, validator=_suits)


@frozen(kw_only=True)
class Settings(_Shared):
    """What is done to the messages and connections of a feed.

    Each fault is a probability, such as ``0.001`` or ``"0.1%"``, or a `Fault`. The same `seed` does
    the same to the same messages, however the network has packed them.
    """

    slow_dial: Fault | None = field(default=None, converter=_fault, validator=_suits)
    drop: Fault | None = field(default=None, converter=_fault, validator=_suits)
    corrupt: Fault | None = field(default=None, converter=_fault, validator=_suits)
    duplicate: Fault | None = field(default=None, converter=_fault, validator=_suits)
    reorder: Fault | None = field(default=None, converter=_fault, validator=_suits)


@frozen(kw_only=True)
class Relaying(_Shared):
    """What a relay does to the connections through it, and to what a server sends on them."""

    answer: Fault | None = field(default=None, converter=_fault, validator=_suits)
    slow: Fault | None = field(default=None, converter=_fault, validator=_suits)
    corrupt: Fault | None = field(default=None, converter=_fault, validator=_suits)


#: The kinds whose occasion is a connection that is being made. That of all others is a message, or
#: what one read of a socket brings.
ON_DIAL = ("refuse", "slow_dial")
ON_WIRE = ("refuse", "answer", "slow")


@frozen
class Done:
    """One fault that was injected."""

    fault: str
    at: float  #: seconds after the start
    connection: int  #: 1 is the first
    message: int = 0  #: 1 is the first of its connection; 0: it was about no message


class Dose:
    """One fault of one feed or relay: sees each occasion, and says when it is time."""

    def __init__(self, kind: str, fault: Fault, seed: str) -> None:
        self.kind = kind
        own = _OWN.get(kind, {})
        self.seconds = fault.seconds if fault.seconds is not None else own.get("seconds", 0.0)
        self.rate = fault.rate or int(own.get("rate", 0))
        self.status = fault.status or int(own.get("status", 0))
        self._fault = fault
        # Each has its own: to add one fault moves no other.
        self._random = random.Random(f"{seed} {kind}")
        self._left = fault.most or float("inf")
        self._seen = 0
        self._due = fault.at

    def strikes(self, age: float) -> bool:
        """Take note of an occasion, *age* seconds after the start; return whether to spoil it."""
        fault = self._fault
        if self._left <= 0 or age < self._due or (fault.until and age >= fault.until):
            return False
        self._seen += 1
        if self._seen <= fault.after or (self._seen - fault.after - 1) % fault.every:
            return False
        if fault.chance < 1 and self._random.random() >= fault.chance:
            return False
        self._left -= 1
        self._due = age + fault.period
        return True

    def below(self, limit: int) -> int:
        """Return a whole number from 0 to below *limit*, by chance."""
        return self._random.randrange(limit)


class Ledger:
    """The doses of one feed or relay, and all that they have done."""

    def __init__(self, settings: Any, name: str, clock: Callable[[], float]) -> None:
        self.done: list[Done] = []
        self.doses = {
            kind: Dose(kind, fault, f"{settings.seed} {name}")
            for kind, fault in attrs.asdict(settings, recurse=False).items()
            if isinstance(fault, Fault)
        }
        self._name = name
        self._clock = clock
        self._start: float | None = None

    @property
    def age(self) -> float:
        """Seconds since the first look."""
        now = self._clock()
        if self._start is None:
            self._start = now
        return now - self._start

    def some(self, kinds: Collection[str] = (), *, but: Collection[str] = ()) -> list[Dose]:
        """Return the doses of these *kinds*, or of all but some, in the order of the settings."""
        return [
            dose
            for kind, dose in self.doses.items()
            if (kind in kinds or not kinds) > (kind in but)
        ]

    def enter(self, kind: str, connection: int, message: int = 0) -> None:
        """Write down that it was done."""
        self.done.append(Done(kind, self.age, connection, message))
        log.info(
            "chaos_injected", feed=self._name, fault=kind, connection=connection, message=message
        )


def read(table: Mapping[str, Any]) -> Relaying:
    """Return the settings of a relay out of a table as TOML gives it.

    Raises ValueError where it holds what a relay does not know.
    """
    known = attrs.fields_dict(Relaying)
    for key in table:
        if key not in known:
            raise ValueError(
                f"a relay has no {key!r}.{nearest(key, known)} It has {', '.join(known)}."
            )
    given: dict[str, Any] = {
        key: Fault(**one) if isinstance(one, Mapping) else one for key, one in table.items()
    }
    return Relaying(**given)
