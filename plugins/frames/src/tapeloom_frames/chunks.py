"""The record batches of a frame: few, compact, in order of arrival, cut off at their beginning."""

from __future__ import annotations

from itertools import takewhile

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

#: Rows up to which chunks are merged, however few there are: buffers are padded to 64 bytes.
_MIN_MERGED_ROWS = 256
#: No merged chunk has a larger part of all rows. Rows that were cut off a chunk are freed with the rest
#: of it, so this is the part of the memory that may be held in vain.
_LARGEST_PART = 1 / 16


class Chunks:
    """Rows of one schema, which has a column `recv`. Not thread-safe."""

    def __init__(self) -> None:
        self.rows = 0  #: How many rows there are.
        self._batches: list[pa.RecordBatch] = []
        self._cut = 0  # rows of the first batch that are no longer there

    def append(self, batch: pa.RecordBatch) -> None:
        """Add rows at the end.

        Chunks of the same size are merged, as digits are carried in a counter, so that a row is copied
        as often as the logarithm of their number.
        """
        self.rows += batch.num_rows
        most = max(_MIN_MERGED_ROWS, int(self.rows * _LARGEST_PART))
        while self._batches and (last := self._batches[-1]).num_rows <= batch.num_rows:
            if last.num_rows + batch.num_rows > most:
                break
            if len(self._batches) == 1:
                last, self._cut = last.slice(self._cut), 0
            self._batches.pop()
            batch = pa.concat_batches([last, batch])
        self._batches.append(batch)

    def cut(self, count: int) -> None:
        """Remove this many rows, or all of them, at the beginning."""
        count = min(count, self.rows)
        self.rows -= count
        self._cut += count
        while self._batches and self._cut >= self._batches[0].num_rows:
            self._cut -= self._batches.pop(0).num_rows

    def cut_before(self, recv: int) -> None:
        """Remove the rows at the beginning that were received before *recv*, in ns."""
        old = sum(
            batch.num_rows for batch in takewhile(lambda batch: _recv(batch, -1) < recv, self.all())
        )
        self.cut(old)
        if self.rows and _recv(first := self.all()[0], 0) < recv:
            times = first["recv"].view(pa.int64())
            self.cut(pc.index(pc.greater_equal(times, recv), True).as_py())

    def all(self) -> list[pa.RecordBatch]:
        """Return the rows, without a copy."""
        if not self._cut:
            return self._batches.copy()
        return [self._batches[0].slice(self._cut), *self._batches[1:]]

    def clear(self) -> None:
        """Remove all rows."""
        self.cut(self.rows)


def _recv(batch: pa.RecordBatch, row: int) -> int:
    """Return the time of receipt of a row, in ns."""
    recv: int = batch["recv"].view(pa.int64())[row].as_py()
    return recv
