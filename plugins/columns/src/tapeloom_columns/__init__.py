"""Events as Arrow columns and back: one schema for each event class, exact decimals, ns UTC times.

`schema` derives the columns from the fields of a class, `record_batches` makes them from events, and
`to_events` makes events from them. `split_exact` separates the events that do not fit exactly.
"""

from __future__ import annotations

from .errors import ColumnOverflow, SchemaMismatch
from .reading import to_events
from .schemas import EXTRA, VERSION, schema, unify
from .writing import portable, record_batches, split_exact

__all__ = [
    "EXTRA", "VERSION", "ColumnOverflow", "SchemaMismatch", "portable", "record_batches", "schema",
    "split_exact", "to_events", "unify",
]  # fmt: skip
