"""The state of a sink: the number of the last event of each run that is stored, and the positions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from attrs import Factory, define
from tapeloom.errors import SinkRefused

from . import disk
from .journal import Record

__all__ = ["State", "load"]

NAME = "state.json"
_VERSION = 1


@define
class State:
    """Where a sink stands."""

    last: dict[int, int] = Factory(dict)  #: number of the last event that is stored, by run
    positions: dict[str, str] = Factory(dict)  #: the newest positions, by key

    def add(self, records: Sequence[Record]) -> None:
        """Take account of records of a journal."""
        for record in records:
            self.last[record.epoch] = max(self.last.get(record.epoch, 0), record.last)
            self.positions.update(record.positions)

    def copy(self) -> State:
        """Return a copy, which later changes do not concern."""
        return State(dict(self.last), dict(self.positions))

    def save(self, folder: Path) -> None:
        """Write it to the folder of the sink, durably."""
        tables = {
            "version": _VERSION,
            "last": {str(epoch): last for epoch, last in self.last.items()},
            "positions": self.positions,
        }
        disk.write(folder / NAME, json.dumps(tables, separators=(",", ":")).encode())


def load(folder: Path) -> State | None:
    """Return the state in the folder of a sink; None if there is none. Raises SinkRefused."""
    path = folder / NAME
    try:
        tables = json.loads(path.read_bytes())
        if tables["version"] != _VERSION:
            raise SinkRefused(
                f"{str(path)!r} has version {tables['version']}, expected {_VERSION}."
                " Install the tapeloom-parquet that wrote it, or a newer one."
            )
        last = {int(epoch): int(last) for epoch, last in tables["last"].items()}
        return State(last, dict(tables["positions"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SinkRefused(
            f"{str(path)!r} is not a state of this sink: {error!r}. Restore it from a backup, or set"
            " another `name` for the sink."
        ) from error
