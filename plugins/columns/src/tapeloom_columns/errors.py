"""The errors of this package: a value that does not fit exactly, and a schema that does not match."""

from __future__ import annotations

from typing import Any

from tapeloom.errors import TapeloomError, printable
from tapeloom.events.base import BaseEvent

__all__ = ["ColumnOverflow", "SchemaMismatch"]


class ColumnOverflow(TapeloomError, ValueError):
    """A value of an event cannot be stored exactly in its column; nothing was rounded or written."""

    def __init__(self, event: BaseEvent, field: str, value: Any, column: str) -> None:
        self.event = event  #: The event that cannot be stored.
        self.field = field  #: The name of the field.
        self.value = value  #: The value that does not fit.
        self.column = column  #: The Arrow type of the column, as text.
        super().__init__(
            f"expected a value of {event.type}.{field} that {column} holds exactly, got"
            f" {printable(repr(value))} ({event.venue} {event.symbol}, ts {event.ts});"
            " set this event aside, as `split_exact` does"
        )

    def __reduce__(self) -> tuple[type[ColumnOverflow], tuple[BaseEvent, str, Any, str]]:
        return type(self), (self.event, self.field, self.value, self.column)


class SchemaMismatch(TapeloomError, TypeError):
    """An event class has no columns, or columns are not those of the event class."""
