"""The contract of a sink: it proves what the sink promises with its `guarantee`.

Batches are written by core's own writer, with its numbers, retries and positions.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from attrs import frozen
from tapeloom import Registry
from tapeloom.errors import SinkRefused, SinkUnavailable
from tapeloom.events import Event
from tapeloom.harness import call_sink
from tapeloom.plugin import Guarantee, Sink, SinkRun

from .declared import SINK, ContractViolation, NotApplicable
from .proving import Proving
from .sinks.child import Task
from .sinks.events import START, sink_events
from .sinks.faults import Fault, FaultySink, in_threads
from .sinks.processes import RUNS, Processes, running_processes
from .sinks.rows import Order, Row, Stored, difference, latest, to_row
from .sinks.store import NAME, Store, build_registry, build_sink, new_folders

__all__ = ["SinkContract"]

#: The event loops that a sink may run on.
_LOOPS = ("asyncio", "trio")
_DAY = 86_400_000_000_000  # ns
#: Maximum number of characters of the message of an error.
_MAX_MESSAGE = 600
#: Number of events that a process writes before it is killed.
_KILLED_COUNT = 250
#: Sizes of batches, in turn: single events, small ones, and the largest that is tested.
_ALL_SIZES, _SMALL_SIZES = (1, 7, 64, 500, 3), (5, 1, 32)


@frozen(eq=False)
class _Tested:
    """A new store, its settings, and the processes' task for it."""

    path: Path
    table: Mapping[str, Any]
    store: Store
    task: Task


class SinkContract(Proving):
    """The guarantees of a sink. Inherit from it in a class whose name begins with ``Test``."""

    kind = "sink"
    guarantees = SINK

    sink: str  #: the name of its entry point
    module: str = ""  #: the module of the plugin, if it is not installed
    types: Sequence[str] = ()  #: the event types it is given, as in a stack; empty: all
    #: fields that the store does not keep, of all types or of one: "recv", "trade.origin"
    not_kept: Sequence[str] = ()
    #: types of which the store keeps only the newest, of a bar the newest of its interval and start
    keeps_latest: Sequence[str] = ()
    order: Order = (
        "all"  #: what `stored` returns in order: "all", the events of a "symbol", or "none"
    )
    secrets: Sequence[str] = ()  #: texts in the settings of `failing` that no message may contain

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Return the settings of a sink whose store is in *folder*, or named like it.

        Each test has a new folder with a unique name: it must stand for a new, empty store.
        """
        raise NotImplementedError

    def stored(self, folder: Path) -> Sequence[Stored]:
        """Return what is in the store, read without the sink: events, or their fields as mappings."""
        raise NotImplementedError

    def failing(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Return settings with which the store cannot be opened, by what is wrong; may use *folder*."""
        return {}

    def registry(self) -> Registry:
        """Return the installed plugins, or only the one of `module`."""
        return build_registry(self.sink, self.module)

    def test_everything_written_arrives_once_in_order(self) -> None:
        """Events of all types are written in batches of 1 to 500."""
        self.prove("once", "")

    def test_its_guarantee_holds_when_acknowledgements_are_lost(self) -> None:
        """`write` stores the batch, and then raises: each time, and every third time."""
        self.prove("acknowledgement", "")

    def test_its_guarantee_holds_when_batches_do_not_reach_the_store(self) -> None:
        """`write` raises before the store has the batch, or `open` when it has opened the store."""
        self.prove("request", "")

    def test_its_guarantee_holds_after_a_restart_with_batches_cut_anew(self) -> None:
        """The same events are written from the start, in the same run, by a new object."""
        self.prove("restart", "")

    def test_a_new_run_begins_at_zero_with_the_stored_positions(self) -> None:
        """`open` returns the number of each run, and the newest positions of all."""
        self.prove("positions", "")

    def test_what_it_acknowledged_survives_the_end_of_the_process(self) -> None:
        """The process ends right after an acknowledgement, without closing the sink."""
        self.prove("durable", "")

    def test_its_guarantee_holds_when_the_process_is_killed(self) -> None:
        """`kill -9` at random moments; TAPELOOM_DURABILITY_RUNS is the number of runs, 10 by default."""
        self.prove("killed", "")

    def test_a_store_that_cannot_be_opened_is_reported_without_secrets(self) -> None:
        """`open` and `check` raise SinkRefused or SinkUnavailable."""
        self.prove("failure", "")

    def test_check_describes_the_store_and_changes_nothing(self) -> None:
        """It returns lines; the store has the same events, files and numbers as before."""
        self.prove("check", "")

    def test_its_plain_methods_may_be_called_in_any_thread(self) -> None:
        """`open`, `write` and `close` are called in a thread each."""
        self.prove("threads", "")

    def test_it_runs_on_each_event_loop_it_names(self) -> None:
        """Lost acknowledgements included."""
        self.prove("backends", "")

    def test_the_committed_conformance_equals_the_results(
        self, request: pytest.FixtureRequest
    ) -> None:
        """The conformance file of the package equals what was proven in this run."""
        self.level(request)

    # ------------------------------------------------------------------------------------- the parts

    def _compose(self, table: Mapping[str, Any]) -> Sink:
        return build_sink(self.sink, table, self.registry(), self.types)

    def _loops(self) -> list[str]:
        with new_folders() as (path, _):
            named = getattr(self._compose(self.settings(path)), "backends", frozenset(_LOOPS))
        return [backend for backend in _LOOPS if backend in named]

    @contextmanager
    def _tested(self, backend: str = "", count: int = 0) -> Iterator[_Tested]:
        """Yield a new store; *count* is the number of events that processes write."""
        with new_folders() as (path, other):
            table = self.settings(path)
            backend = backend or self._loops()[0]
            accepts_rejects = not self.types or "reject" in self.types
            task = Task(
                use=self.sink,
                module=self.module,
                table=dict(table),
                types=tuple(self.types),
                backend=backend,
                folder=str(other),
                count=count,
                sizes=_SMALL_SIZES,
                seed=3,
            )
            store = Store(partial(self._compose, table), other, accepts_rejects, backend)
            yield _Tested(path, table, store, task)

    def _guarantee(self, sink: Sink) -> Guarantee:
        guarantee: Any = getattr(sink, "guarantee", None)
        if guarantee not in get_args(Guarantee):
            raise ContractViolation(
                f"`guarantee` of the sink must be one of {', '.join(get_args(Guarantee))}, got {guarantee!r}"
            )
        declared: Guarantee = guarantee
        return declared

    def _events(self, count: int, seed: int = 1, start: int = START) -> list[Event]:
        return sink_events(count, seed=seed, start=start, types=self.types)

    def _rows(self, path: Path) -> list[Row]:
        return [to_row(item, self.not_kept) for item in self.stored(path)]

    def _compare(
        self, tested: _Tested, events: Sequence[Event], guarantee: Guarantee | None = None
    ) -> None:
        """Raise ContractViolation if the store breaks a guarantee, by default that of the sink."""
        guarantee = guarantee or self._guarantee(tested.store.compose())
        expected = [to_row(event, self.not_kept) for event in latest(events, self.keeps_latest)]
        if problem := difference(expected, self._rows(tested.path), guarantee, self.order):
            raise ContractViolation(problem)

    # ------------------------------------------------------------------------------------ the checks

    def _once(self) -> None:
        with self._tested() as tested:
            self._guarantee(tested.store.compose())
            events = self._events(1200)
            tested.store.write(events, sizes=_ALL_SIZES)
            self._compare(tested, events, "exactly_once")

    def _with_faults(self, fault: Fault, every: int, backend: str = "") -> None:
        with self._tested(backend) as tested:
            events = self._events(200)
            sinks: list[FaultySink] = []

            def wrap(sink: Sink) -> Sink:
                sinks.append(FaultySink(sink, fault, every))
                return sinks[-1]

            tested.store.write(events, sizes=_SMALL_SIZES, wrap=wrap)
            assert sinks[0].faults, "no fault was injected"
            try:
                self._compare(tested, events)
            except ContractViolation as error:
                raise ContractViolation(
                    f"after {sinks[0].faults} faults ({fault}), {error}"
                ) from None

    def _acknowledgement(self) -> None:
        self._with_faults("acknowledgement", 1)
        self._with_faults("acknowledgement", 3)

    def _request(self) -> None:
        self._with_faults("request", 2)
        self._with_faults("request", 3)
        self._with_faults("opening", 1)

    def _restart(self) -> None:
        with self._tested() as tested:
            events = self._events(300)
            tested.store.write(events[:170], sizes=(64, 7))
            tested.store.write(events, sizes=(50, 3))
            tested.store.write(events, sizes=(300,))
            self._compare(tested, events)

    def _positions(self) -> None:
        with self._tested() as tested:
            store, known = tested.store, dict[str, str]()
            is_exact = self._guarantee(store.compose()) == "exactly_once"
            runs = {1: self._events(120), 2: self._events(90, seed=2, start=START + _DAY)}
            for epoch, events in runs.items():
                self._expect_resume(tested, epoch, 0, known, is_exact)
                sinks: list[FaultySink] = []

                def wrap(sink: Sink, sinks: list[FaultySink] = sinks) -> Sink:
                    sinks.append(FaultySink(sink))
                    return sinks[-1]

                store.write(events, epoch=epoch, wrap=wrap)
                known |= sinks[0].positions
            self._expect_resume(tested, 3, 0, known, is_exact)
            if is_exact:
                for epoch, events in runs.items():
                    self._expect_resume(tested, epoch, len(events), known, is_exact)
                self._expect_apart(tested)
            self._compare(tested, [event for events in runs.values() for event in events])

    def _expect_resume(
        self, tested: _Tested, epoch: int, last: int, known: Mapping[str, str], is_exact: bool
    ) -> None:
        resume = tested.store.resume(epoch)
        if resume.last != last:
            raise ContractViolation(
                f"`open` was expected to return last={last} for run {epoch}, got {resume.last}. The number"
                " belongs to the epoch of the run."
            )
        found = dict(resume.positions)
        if found != known and (found or is_exact):
            wrong = {key for key in {*known, *found} if known.get(key) != found.get(key)}
            key = min(wrong)
            raise ContractViolation(
                f"`open` was expected to return the newest of {len(known)} stored positions of all runs, but"
                f" {len(wrong)} differ. The first is {key!r}: expected {known.get(key)!r:.200}, got"
                f" {found.get(key)!r:.200}"
            )

    def _expect_apart(self, tested: _Tested) -> None:
        """Check that a sink of another name in the same store begins at 0, or is refused."""
        try:
            resume = tested.store.resume(1, f"{NAME}-2")
        except SinkRefused:
            return
        if resume.last or resume.positions:
            raise ContractViolation(
                f"a second sink of another name begins at 0 in the same store, but `open` returned {resume!r}."
                " Keep the numbers and positions by the name of the sink."
            )

    def _durable(self) -> None:
        with self._tested(count=60) as tested:
            with running_processes(tested.store.folder / "errors") as processes:
                processes.write_and_exit(tested.task, 4)
            tested.store.raise_if_set_aside()
            self._compare(tested, self._written_by(tested.task))

    def _killed(self) -> None:
        with new_folders() as (_, other), running_processes(other / "errors") as processes:
            kills = sum(self._kill(processes, seed) for seed in range(1, RUNS + 1))
        if not kills:
            raise ContractViolation(f"no process was killed in {RUNS} runs")

    def _kill(self, processes: Processes, seed: int) -> int:
        """Write to a new store with processes that are killed; return how many were."""
        with self._tested(count=_KILLED_COUNT) as tested:
            kills = processes.kill_at_random(tested.task, seed)
            tested.store.raise_if_set_aside()
            try:
                self._compare(tested, self._written_by(tested.task))
            except ContractViolation as error:
                raise ContractViolation(f"run {seed}, killed {kills} times: {error}") from None
            return kills

    def _written_by(self, task: Task) -> list[Event]:
        return sink_events(task.count, seed=task.seed, types=self.types)

    def _failure(self) -> None:
        with new_folders() as (path, _):
            cases = self.failing(path)
            if not cases:
                raise NotApplicable(
                    "`failing` has no settings with which the store cannot be opened"
                )
            given = repr(cases)
            if absent := [secret for secret in self.secrets if secret not in given]:
                raise ContractViolation(
                    f"{len(absent)} of `secrets` are in no settings of `failing`: nothing can show them"
                )
            for wrong, table in cases.items():
                self._fails(wrong, table)

    def _fails(self, wrong: str, table: Mapping[str, Any]) -> None:
        sink = self._compose(table)
        calls = [("open", partial(call_sink, sink.open, SinkRun(NAME, 1)))]
        if hasattr(sink, "check"):
            calls.append(("check", partial(call_sink, sink.check)))
        for name, call in calls:

            async def run(name: str = name, call: Any = call) -> None:
                try:
                    await call()
                finally:
                    if name == "open":
                        await call_sink(sink.close)

            try:
                anyio.run(run, backend=self._loops()[0])
            except (SinkRefused, SinkUnavailable) as error:
                self._expect_message(f"{name} ({wrong})", str(error))
            except Exception as error:
                raise ContractViolation(
                    f"`{name}` was expected to raise SinkRefused or SinkUnavailable ({wrong}), got {error!r}"
                ) from error
            else:
                raise ContractViolation(f"`{name}` raised nothing ({wrong})")

    def _expect_message(self, place: str, text: str) -> None:
        for secret in self.secrets:
            if secret in text:
                raise ContractViolation(
                    f"{place}: the message contains a secret: {text.replace(secret, '***')!r}"
                )
        is_sentence = text.isprintable() and text.endswith(".") and " " in text
        if not is_sentence or len(text) > _MAX_MESSAGE:
            raise ContractViolation(
                f"{place}: expected a sentence on one line, of at most {_MAX_MESSAGE} characters, that ends"
                f" with a full stop and names the remedy, got {text!r:.400}"
            )

    def _check(self) -> None:
        with self._tested() as tested:
            if not hasattr(tested.store.compose(), "check"):
                raise NotApplicable("it has no `check`")
            before = sorted(tested.path.rglob("*"))
            try:
                self._lines(tested)
            except (SinkRefused, SinkUnavailable) as error:  # a store that is still to be created
                self._expect_message("check (new store)", str(error))
            except Exception as error:
                raise ContractViolation(f"`check` of a new store raised {error!r}") from error
            if sorted(tested.path.rglob("*")) != before:
                raise ContractViolation("`check` created files in the folder of a new store")
            events = self._events(100)
            tested.store.write(events)
            rows, resume = self._rows(tested.path), tested.store.resume(1)
            lines = self._lines(tested)
            if not lines or not all(
                isinstance(line, str) and line.strip() and line.isprintable() for line in lines
            ):
                raise ContractViolation(f"`check` must return printable lines, got {lines!r:.300}")
            if self._rows(tested.path) != rows or tested.store.resume(1) != resume:
                raise ContractViolation("`check` changed what is in the store")

    def _lines(self, tested: _Tested) -> list[Any]:
        check = tested.store.compose().check  # type: ignore[attr-defined]  # it has one
        return list(anyio.run(call_sink, check, backend=tested.store.backend))

    def _threads(self) -> None:
        with self._tested() as tested:
            sink, events = tested.store.compose(), self._events(60)
            methods = (sink.open, sink.write, sink.close)
            if all(map(inspect.iscoroutinefunction, methods)):
                raise NotApplicable("its methods are async")
            with ExitStack() as stack:
                pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in methods]
                tested.store.write(events, wrap=lambda sink: in_threads(sink, pools))
            self._compare(tested, events, "exactly_once")

    def _backends(self) -> None:
        loops = self._loops()
        if not loops:
            raise ContractViolation(f"`backends` must name one of {', '.join(_LOOPS)}")
        for backend in loops:
            if importlib.util.find_spec(backend) is None:
                raise NotApplicable(f"{backend} is not installed", here=True)
            self._with_faults("acknowledgement", 2, backend)
