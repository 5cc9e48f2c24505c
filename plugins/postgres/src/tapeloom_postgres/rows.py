"""Makes rows of events: the text that COPY reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Context, Decimal
from hashlib import blake2b
from operator import attrgetter
from typing import Any

import attrs
from tapeloom.errors import BatchRefused
from tapeloom.events import BaseEvent, Book, Quote, Ticker, Trade

from .columns import Encoded, level_text
from .tables import Table

__all__ = ["canonical", "keys_of", "rows"]

#: The fields that have the number of an event. Equal numbers are counted, too: Bybit repeats those of quotes.
#: A trade's number is its id, which is a column of the key.
_NUMBERS = {Quote: "sequence", Book: "last_id"}
#: Event classes of which the key says all that an event says; of others, it says their identity.
_MARKET = frozenset({Trade, Quote, Book, Ticker})
#: Fields that are columns of the key, or say how an event came.
_COMMON = frozenset({"venue", "symbol", "channel", "ts", "recv", "origin", "id"})
#: Removes zeros at the end of numbers, and rounds none that `numeric` can hold.
_EXACT = Context(prec=200_000)
_SEPARATOR = "\x1f"


def keys_of(table: Table, events: Sequence[BaseEvent]) -> tuple[list[str], list[int]]:
    """Return the keys of events of one class, and the indexes of those of which equal ones are counted.

    The key is empty, and nothing is counted, where other columns tell events apart, such as `id`.
    """
    event_class = table.event_class
    found = [""] * len(events)
    if "key" not in table.key:
        return found, []
    if event_class in _NUMBERS:
        numbers = list(map(attrgetter(_NUMBERS[event_class]), events))
        found = ["" if number is None else str(number) for number in numbers]
        counted = list(range(len(events)))
        unnumbered = [index for index, key in enumerate(found) if not key]
    elif "id" in table.key:
        names = list(map(attrgetter("id"), events))
        counted = [] if all(names) else [i for i, name in enumerate(names) if name in ("", None)]
        unnumbered = counted
    else:
        unnumbered = counted = list(range(len(events)))
    chosen = events if len(unnumbered) == len(events) else [events[i] for i in unnumbered]
    for index, text in zip(unnumbered, _contents(event_class, chosen), strict=True):
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
        found[index] = digest.hexdigest()
    return found, counted


def _contents(event_class: type[BaseEvent], events: Sequence[BaseEvent]) -> Iterable[str]:
    """Return texts that say what makes each event equal to another."""
    if event_class not in _MARKET:
        return [canonical(event.identity) for event in events]
    texts = []
    for field in attrs.fields(event_class):  # type: ignore[arg-type]
        if field.name not in _COMMON:
            values = list(map(attrgetter(field.name), events))
            convert = level_text if field.name.startswith("raw_") else canonical
            texts.append(list(map(convert, values)))
    return map(_SEPARATOR.join, zip(*texts, strict=True))


def canonical(value: Any) -> str:
    """Return a text that is the same for equal values: 1.0 and 1.00 are."""
    if isinstance(value, Decimal):
        text = str(value)
        if text[-1] != "0" and "E" not in text:  # it has no zeros to remove, as most numbers
            return text
        return str(value.normalize(_EXACT)) if value else "0"
    if isinstance(value, tuple | list):
        return f"({_SEPARATOR.join(map(canonical, value))})"
    return canonical(value.identity) if isinstance(value, BaseEvent) else str(value)


def rows(
    table: Table,
    epoch: int,
    numbers: Sequence[int],
    events: Sequence[BaseEvent],
    keys: Encoded,
    counts: Encoded,
) -> bytes:
    """Return the rows of events of one class as COPY reads them.

    *numbers* are those of the events; *keys* and *counts* tell equal ones apart. Raises BatchRefused for what
    PostgreSQL cannot store.
    """
    fields: dict[str, list[Any]] = {}
    encoded: list[Encoded] = []
    for column in table.columns:
        if column.field not in fields:
            fields[column.field] = list(map(attrgetter(column.field), events))
        encoded.append(column.encode(fields[column.field]))
    encoded += [str(epoch), numbers, keys, counts]
    # What all rows have is a part of the template; `%` formats a row in a third of the time of a join.
    parts = [part.replace("%", "%%") if isinstance(part, str) else "%s" for part in encoded]
    varying = [part for part in encoded if not isinstance(part, str)]
    body = "\n".join(map("\t".join(parts).__mod__, zip(*varying, strict=True)))
    if "\0" in body:
        raise BatchRefused("a text has a NUL character, which PostgreSQL cannot store.")
    try:
        return f"{body}\n".encode()
    except UnicodeEncodeError as error:
        raise BatchRefused(
            f"a text has a surrogate, U+{ord(body[error.start]):04X}, which is no character and cannot be stored."
        ) from None
