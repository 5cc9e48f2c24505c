"""A live frame: the latest events of one type as Arrow columns, bounded by time and by rows."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from threading import Lock
from typing import Any

import anyio
import pyarrow as pa  # type: ignore[import-untyped]
import structlog
from tapeloom import Consumer, Gap, Stream
from tapeloom.errors import TapeloomError, unwrap_single
from tapeloom.events import BaseEvent
from tapeloom.units import duration_ns
from tapeloom_columns import ColumnOverflow, portable, record_batches, schema, split_exact

from .chunks import Chunks

__all__ = ["Frame", "frame"]

log = structlog.get_logger()

#: The default of `rows`: 84 MB of trades, 212 MB of bars.
ROWS = 1_000_000
#: Events that wait as Python objects before they are converted together: with fewer an event costs more,
#: and an object needs about six times the memory of a row.
_PENDING = 128
#: How many gaps, and how many refusals, a frame keeps at most.
_MOST_GAPS, _MOST_REFUSALS = 10_000, 100


class Frame:
    """The latest events of one type, a row each, in order of arrival.

    polars, pandas, DuckDB and others read it through `__arrow_c_stream__`, at any moment and from any
    thread, while another one fills it. What was read does not change. Columns are those of
    `tapeloom_columns`: exact.
    """

    def __init__(
        self, event_class: type[BaseEvent], last: str | None = "1h", rows: int | None = ROWS
    ) -> None:
        """Make an empty frame, which `add` fills.

        It keeps the events received within *last* before the newest one, such as "1h", and at most
        *rows* of them; None is no limit. Raises ValueError for limits that are none, SchemaMismatch if
        the class has no columns.
        """
        if rows is not None and rows < 1:
            raise ValueError(f"rows is {rows}; expected a whole number of at least 1, or None")
        self.event_class = event_class  #: The class of the events.
        # Private: DuckDB would take a public `schema` for that of the stream.
        self._schema: pa.Schema = schema(event_class)
        self.error: TapeloomError | None = None  #: The error that ended the stream, if any.
        self.refused = 0  #: How many events were left out, because a value fits no exact column.
        self._last = None if last is None else duration_ns(last)
        self._rows = rows
        self._newest = 0  # the latest `recv`, in ns
        self._pending: list[BaseEvent] = []
        self._chunks = Chunks()
        self._gaps: dict[tuple[Hashable, ...], Gap] = {}
        self._refusals: deque[ColumnOverflow] = deque(maxlen=_MOST_REFUSALS)
        self._lock = Lock()

    def add(self, events: Iterable[BaseEvent]) -> None:
        """Add the events of the class, and the gaps, of a batch; ignore all others."""
        events = list(events)
        chosen = [event for event in events if type(event) is self.event_class]
        gaps = [event for event in events if isinstance(event, Gap)]
        with self._lock:
            self._pending += chosen
            for gap in gaps:
                self._gaps.pop(gap.identity, None)
                self._gaps[gap.identity] = gap
            if len(self._pending) >= _PENDING or len(self._gaps) > _MOST_GAPS:
                self._flush()

    def _flush(self) -> None:
        """Convert the pending events, and forget what is too old or too much."""
        pending, self._pending = self._pending, []
        for batch in self._convert(pending):
            self._chunks.append(batch)
        times = (event.recv for event in (*pending, *self._gaps.values()))
        self._newest = max(self._newest, max(times, default=0))
        if self._rows is not None:
            self._chunks.cut(max(self._chunks.rows - self._rows, 0))
        if self._last is not None:
            self._chunks.cut_before(self._newest - self._last)
            self._forget_gaps(self._newest - self._last)

    def _convert(self, events: Sequence[BaseEvent]) -> list[pa.RecordBatch]:
        try:
            return record_batches(events)
        except ColumnOverflow:
            fitting, refusals = split_exact(events)
        if not self.refused:  # a change of state; the others are counted
            log.warning("frame_incomplete", frame=self.event_class.type, reason=str(refusals[0]))
        self.refused += len(refusals)
        self._refusals += refusals
        return record_batches(fitting)

    def _forget_gaps(self, recv: int) -> None:
        """Forget the gaps that ended before *recv*, and the oldest of too many."""
        known = {key: gap for key, gap in self._gaps.items() if gap.recv >= recv}
        self._gaps = dict(islice(known.items(), max(len(known) - _MOST_GAPS, 0), None))

    # --------------------------------------------------------------------------------------- reading

    def __len__(self) -> int:
        """Return the number of rows."""
        with self._lock:
            self._flush()
            return self._chunks.rows

    def __repr__(self) -> str:
        return f"<Frame of {self.event_class.__name__}: {len(self)} rows, {len(self.gaps)} gaps>"

    def table(self) -> pa.Table:
        """Return the rows as a pyarrow table, exact in all columns, without a copy."""
        with self._lock:
            self._flush()
            return pa.Table.from_batches(self._chunks.all(), self._schema)

    def take(self) -> Frame:
        """Return the rows, and the gaps so far, as a frame of their own, and drop the rows here.

        The next call returns the rows after them: each row is returned once.
        """
        taken = Frame(self.event_class, last=None, rows=None)
        with self._lock:
            self._flush()
            taken._chunks, self._chunks = self._chunks, Chunks()
            taken._gaps, taken._newest = self._gaps.copy(), self._newest
        return taken

    def drop(self) -> None:
        """Forget all rows and gaps. The frame continues to be filled."""
        with self._lock:
            self._flush()
            self._chunks.clear()
            self._gaps.clear()

    @property
    def gaps(self) -> list[Gap]:
        """The gaps received within the time of the frame, each in its last state, of all channels.

        Those with the cause "overflow" are the events that the frame's own queue has dropped.
        """
        with self._lock:
            self._flush()
            return list(self._gaps.values())

    @property
    def refusals(self) -> list[ColumnOverflow]:
        """The last 100 refusals of events that fit no exact column; `refused` counts all of them."""
        with self._lock:
            self._flush()
            return list(self._refusals)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Return the rows as the capsule of an Arrow C stream.

        Columns of products, such as `quote_volume`, are texts in it: neither polars nor DuckDB reads
        decimals of 256 bits. Nothing is rounded.
        """
        empty = pa.RecordBatch.from_pylist([], self._schema)
        batches = [portable(batch) for batch in self.table().to_batches() or [empty]]
        return pa.Table.from_batches(batches).__arrow_c_stream__(requested_schema)

    # --------------------------------------------------------------------------------------- filling

    async def fill(self, consumer: Consumer[Any]) -> None:
        """Add the batches of a consumer until the stream ends, and keep the error that ended it."""
        try:
            while events := await consumer.batch():
                self.add(events)
        except TapeloomError as error:
            self.error = error


@asynccontextmanager
async def frame(
    stream: Stream, event_class: type[BaseEvent], last: str | None = "1h", rows: int | None = ROWS
) -> AsyncIterator[Frame]:
    """Fill a `Frame` from a stream while a block runs.

    ``async with frame(stream, Bar, last="1h") as bars: …``. A task of the block fills it. At the end
    of the block it holds all that was read until then, and stays readable. The error that ends the
    stream cancels the block and is raised there.
    """
    window = Frame(event_class, last, rows)
    with stream.consume(event_class, Gap, name=f"frame of {event_class.type}") as consumer:
        try:
            async with anyio.create_task_group() as tasks:

                async def fill() -> None:
                    await window.fill(consumer)
                    if window.error is not None:
                        tasks.cancel_scope.cancel()

                tasks.start_soon(fill)
                yield window
                tasks.cancel_scope.cancel()  # the task ends where it has to wait: its queue is empty
        except BaseExceptionGroup as group:
            raise unwrap_single(group) from None
    if window.error is not None:
        raise window.error
