"""Bounds of what a venue sends: times, ids and numbers; and the check of events against them.

Core checks every event of a parser, a REST answer or a source once, before anything else sees it. So no
code behind this check fails at a date that does not exist, a number that has a million digits when it is
written out, or a number that is none. The check costs a tenth of the time of a trade. A parser that makes
sure of it while it reads says so with an attribute `within_bounds`, and is not checked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Clamped, Context, Decimal, InvalidOperation, Overflow, Rounded
from itertools import chain
from operator import attrgetter
from typing import Any

from tapeloom.events import Bar, Book, Event, Gap, Quote, Reject, Status, Ticker, Trade

__all__ = ["INT_LIMIT", "MAX_ID_LENGTH", "number", "reject_out_of_bounds"]

#: Times in ns are from 0 to below this, which is in the year 2262; other integers may also be negative,
#: down to minus this. So each of them fits into 64 bits.
INT_LIMIT = 1 << 63
#: Maximum number of characters of a text id.
MAX_ID_LENGTH = 128
#: Maximum number of digits of a number. It is below 10**41, and its last digit is at most the 40th decimal.
_MAX_DIGITS = 40
#: Raises ArithmeticError instead of rounding a number that is not within the bounds.
_BOUNDED = Context(
    prec=_MAX_DIGITS,
    Emax=_MAX_DIGITS,
    Emin=-1,
    traps=[Clamped, InvalidOperation, Overflow, Rounded],
)
_check_number = _BOUNDED.plus
_is_finite = Decimal.is_finite
#: Return a text as a Decimal with all its digits, as fast as `Decimal` itself. Raises ArithmeticError if
#: it is no number or not within the bounds. It accepts NaN and Infinity: see `reject_out_of_bounds`.
number: Callable[[str], Decimal] = _BOUNDED.create_decimal
#: The integers and the numbers of each type of event. The first integer is the time.
_FIELDS: dict[type[Event], tuple[tuple[str, ...], tuple[str, ...]]] = {
    Trade: (("ts", "recv"), ("price", "size")),
    Quote: (("ts", "sequence"), ("bid", "bid_size", "ask", "ask_size")),
    Book: (("ts", "first_id", "last_id", "previous_id", "depth"), ()),
    Bar: (
        ("ts", "trades", "revision"),
        (
            "open",
            "high",
            "low",
            "close",
            "volume",
            "quote_volume",
            "buy_volume",
            "buy_quote_volume",
        ),
    ),
    Ticker: (("ts", "trades"), ("last", "open", "high", "low", "volume", "quote_volume")),
    Gap: (("ts", "since", "until", "missing"), ()),
    Reject: (("ts", "recv"), ()),
    Status: (("ts", "recv"), ()),
}
#: The same of a plugin's own type: only its times are known.
_TIMES: tuple[tuple[str, ...], tuple[str, ...]] = (("ts", "recv"), ())
_INTEGERS: dict[type[Event], Callable[[Event], tuple[int | None, ...]]] = {
    cls: attrgetter(*integers) for cls, (integers, _) in _FIELDS.items()
}
_times = attrgetter(*_TIMES[0])
_NUMBERS: dict[type[Event], Callable[[Event], tuple[Decimal | None, ...]]] = {
    cls: attrgetter(*numbers) for cls, (_, numbers) in _FIELDS.items() if numbers
}


def reject_out_of_bounds(events: list[Event]) -> list[Event]:
    """Return *events* with a Reject in place of each event with a value that is not within the bounds.

    It is the same list if there is none. The Reject has no event, because nothing behind it may see the
    value; its evidence names the field and shows the beginning of the value.
    """
    limit, check, trade = INT_LIMIT, _check_number, Trade
    for event in events:
        if type(event) is trade:
            try:
                if (
                    0 <= event.ts < limit
                    and _is_valid_id(event.id)
                    and check(event.price).is_finite()
                    and check(event.size).is_finite()
                ):
                    continue
            except (ArithmeticError, TypeError):
                pass
        elif _is_within(event):
            continue
        return [event if _is_within(event) else _reject(event) for event in events]
    return events


def _is_valid_id(value: int | str) -> bool:
    if type(value) is str:
        return len(value) <= MAX_ID_LENGTH and value.isprintable()
    return -INT_LIMIT < value < INT_LIMIT  # type: ignore[operator]


def _is_within(event: Event) -> bool:
    """Return whether all values of *event* are within the bounds."""
    cls = type(event)
    try:
        for integer in _INTEGERS.get(cls, _times)(event):
            if integer is not None and not -INT_LIMIT < integer < INT_LIMIT:
                return False
        if cls in _NUMBERS:
            for value in _NUMBERS[cls](event):
                if value is not None and not _check_number(value).is_finite():
                    return False
        if type(event) is Trade:
            return event.ts >= 0 and _is_valid_id(event.id)
        if type(event) is Book:
            return event.ts >= 0 and not _bad_levels(event)
        if type(event) is Reject and event.event is not None:
            return event.ts >= 0 and _is_within(event.event)
    except (ArithmeticError, TypeError, ValueError):
        return False
    return event.ts >= 0


def _bad_levels(book: Book) -> list[Any]:
    """Return the prices and sizes of *book* that are not within the bounds."""
    values: list[Any] = [*chain.from_iterable(book.raw_bids), *chain.from_iterable(book.raw_asks)]
    with suppress(ArithmeticError, TypeError, ValueError):
        if all(map(_is_finite, map(number, values))):
            return []
    return [value for value in values if not _is_number(value)]


def _is_number(value: Any) -> bool:
    try:
        return number(value).is_finite()
    except (ArithmeticError, TypeError, ValueError):
        return False


def _reject(event: Event) -> Reject:
    return Reject(
        event.venue, event.symbol, event.recv, event.recv, "out_of_bounds",
        "; ".join(_faults(event)) or "a value is of another type than expected", None, event.channel,
    )  # fmt: skip


def _faults(event: Event) -> Iterable[str]:
    """Yield a description of each value of *event* that is not within the bounds."""
    integers, numbers = _FIELDS.get(type(event), _TIMES)
    for name in integers:
        value = getattr(event, name)
        if value is not None and not (
            isinstance(value, int)
            and -INT_LIMIT < value < INT_LIMIT
            and (value >= 0 or name != "ts")
        ):
            least = "0" if name == "ts" else "-2**63"
            yield f"{name} is {_shown(value)}; expected an integer from {least} to 2**63"
    for name in numbers:
        value = getattr(event, name)
        if value is not None and not _is_number(value):
            yield f"{name} is {_shown(value)}; {_EXPECTED}"
    if type(event) is Trade and not _is_valid_id(event.id):
        yield (
            f"id is {_shown(event.id)}; expected an integer below 2**63 or at most"
            f" {MAX_ID_LENGTH} printable characters"
        )
    if type(event) is Book:
        for bad in _bad_levels(event)[:1]:
            yield f"a level has {_shown(bad)}; {_EXPECTED}"
    if type(event) is Reject and event.event is not None:
        yield f"{event.rule}: {event.evidence}"
        yield from _faults(event.event)


_EXPECTED = (
    f"expected a finite number of at most {_MAX_DIGITS} digits and below 10**{_MAX_DIGITS + 1}"
)


def _shown(value: object) -> str:
    """Return the beginning of *value* as text."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"  # str() refuses the largest ones
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
