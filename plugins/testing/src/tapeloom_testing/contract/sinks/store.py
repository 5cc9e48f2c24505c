"""One new store of the sink under test: writes to it through core's own writer, and reads it back."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from attrs import frozen
from tapeloom import Registry, Stack
from tapeloom.errors import SinkError
from tapeloom.events import Event
from tapeloom.harness import SinkSpec, SystemClock, call_sink, compose_sink, write_all
from tapeloom.plugin import Clock, Resume, Sink, SinkRun

from tapeloom_testing.contract.declared import ContractViolation

__all__ = ["NAME", "HastyClock", "Store", "build_registry", "build_sink", "new_folders"]

#: The name of the sink in its stack.
NAME = "contract-sink"
#: Seconds until a sink that does not finish writing fails the test.
_PATIENCE = 30.0


class HastyClock(SystemClock):
    """The system's clock, with pauses of a millisecond: injected faults end at once."""

    async def sleep(self, seconds: float) -> None:
        """Sleep for a millisecond, or *seconds* if that is less."""
        await anyio.sleep(min(seconds, 0.001))


def build_registry(name: str, module: str) -> Registry:
    """Return the installed plugins; or only *module*, as the plugin *name*, if it is not empty."""
    if not module:
        return Registry()
    registry = Registry({})
    registry.register(importlib.import_module(module), name)
    return registry


def build_sink(
    use: str, table: Mapping[str, Any], registry: Registry, types: Sequence[str] = ()
) -> Sink:
    """Return a new object of the sink, as core composes it from its table in the stack."""
    spec = SinkSpec(use, NAME, tuple(types), table=dict(table))
    return compose_sink(Stack(sinks=(spec,)), registry=registry)


@contextmanager
def new_folders() -> Iterator[tuple[Path, Path]]:
    """Yield a new folder for a store, with a unique name, and one beside it for all else."""
    with tempfile.TemporaryDirectory(prefix="sink_", ignore_cleanup_errors=True) as name:
        store, other = Path(name) / Path(name).name, Path(name) / "other"
        store.mkdir()
        other.mkdir()
        yield store, other


@frozen
class Store:
    """A store: how a sink for it is made, and where events are set aside. *backend* is the event loop."""

    compose: Callable[[], Sink]
    folder: Path
    accepts_rejects: bool
    backend: str

    def write(
        self,
        events: Sequence[Event],
        *,
        epoch: int = 1,
        sizes: Sequence[int] = (1, 7, 64),
        wrap: Callable[[Sink], Sink] | None = None,
        clock: Clock | None = None,
    ) -> Counter[str]:
        """Write events with a new object of the sink, which *wrap* may change, and close it.

        Raises ContractViolation if the sink does not finish, or if events are set aside.
        """

        async def run() -> Counter[str]:
            sink = self.compose()
            with anyio.fail_after(_PATIENCE):
                return await write_all(
                    wrap(sink) if wrap is not None else sink,
                    events,
                    epoch=epoch,
                    folder=self.folder,
                    name=NAME,
                    sizes=sizes,
                    clock=clock or HastyClock(),
                    accepts_rejects=self.accepts_rejects,
                )

        try:
            counters = anyio.run(run, backend=self.backend)
        except TimeoutError:
            raise ContractViolation(
                f"the sink did not store {len(events)} events within {_PATIENCE:.0f} s. After an error it must"
                " open again, and return the number of the last event that is stored."
            ) from None
        except SinkError as error:
            raise ContractViolation(f"the store was expected to accept events: {error}") from error
        self.raise_if_set_aside()
        return counters

    def raise_if_set_aside(self) -> None:
        """Raise ContractViolation if core has set events aside, with the reason of the first."""
        path = self.folder / f"{NAME}.set-aside.jsonl"
        if path.exists():
            lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            raise ContractViolation(
                f"the sink refused {len(lines)} valid events. The first: {lines[0]['event']}, because"
                f" {lines[0]['reason']}"
            )

    def resume(self, epoch: int, name: str = NAME) -> Resume:
        """Open a new instance of the sink for a run and close it; return what `open` returned."""

        async def run() -> Any:
            sink = self.compose()
            with anyio.fail_after(_PATIENCE):
                try:
                    return await call_sink(sink.open, SinkRun(name, epoch))
                finally:
                    await call_sink(sink.close)

        result = anyio.run(run, backend=self.backend)
        if not isinstance(result, Resume):
            raise ContractViolation(f"`open` was expected to return a Resume, got {result!r:.200}")
        return result
