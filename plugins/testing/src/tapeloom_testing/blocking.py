"""Calls a sink whose methods are async from a test that is not."""

from __future__ import annotations

import asyncio  # noqa: TID251 as a stream on asyncio calls it
from collections.abc import Sequence
from typing import Any, ClassVar

from tapeloom.plugin import Resume, SinkBatch, SinkRun

__all__ = ["BlockingSink"]


class BlockingSink:
    """A sink with plain methods: each runs the one of an async sink to its end, on a loop of its own.

    Other attributes are those of the async sink.
    """

    _made: ClassVar[list[BlockingSink]] = []

    def __init__(self, sink: Any) -> None:
        self.sink = sink
        self._runner = asyncio.Runner()
        self._made.append(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sink, name)

    def open(self, run: SinkRun) -> Resume:
        """Open the sink and return what its store has."""
        resume: Resume = self._runner.run(self.sink.open(run))
        return resume

    def write(self, batch: SinkBatch) -> None:
        """Write a batch."""
        self._runner.run(self.sink.write(batch))

    def close(self) -> None:
        """Close the sink. It may be opened again."""
        self._runner.run(self.sink.close())

    def check(self) -> Sequence[str]:
        """Return the lines of a sink that can be checked."""
        lines: Sequence[str] = self._runner.run(self.sink.check())
        return lines

    @classmethod
    def close_all(cls) -> None:
        """Close all sinks that were made, and their loops. To be called after each test."""
        while cls._made:
            made = cls._made.pop()
            made.close()
            made._runner.close()  # noqa: SLF001 its own class
