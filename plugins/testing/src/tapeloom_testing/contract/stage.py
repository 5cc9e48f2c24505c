"""The contract of a stage: it processes generated streams of events (Hypothesis)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tapeloom import FeedSpec, Stack, StageSpec
from tapeloom.events import Event, Reject
from tapeloom.harness import ComposedFeed, compose_feed
from tapeloom.plugin import TimedStage

from tapeloom_testing.clock import VirtualClock

from .composed import cut
from .declared import STAGE, ContractViolation, NotApplicable
from .null_venue import NullVenue
from .proving import Proving, first_difference
from .streams import HOSTILE, START, SYMBOLS, VENUE, changed, spoiled, strange, streams

__all__ = ["StageContract"]

#: Sizes of the batches whose output must equal that of a single batch.
_SIZES = (1, 7, 64)
#: Events per batch where the size of the batches does not matter.
_BATCH_SIZE = 7
#: Generated streams for each guarantee.
_EXAMPLES = 25
#: The most times that `tick` is called after one event; a stage may always be due again.
_MAX_TICKS = 100
_checked = hypothesis_settings(
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking an example takes up to a minute
    suppress_health_check=list(HealthCheck),
)


class StageContract(Proving):
    """The guarantees of a stage.

    Inherit from it in a class whose name begins with ``Test``. Only the output for a stream of
    events is checked, never private state.
    """

    kind = "stage"
    guarantees = STAGE

    stage: str  #: the name of its entry point
    settings: ClassVar[Mapping[str, Any]] = {}  #: its settings in the stack
    channels: Sequence[str] = ("trades", "quotes", "book", "klines:1m", "ticker")

    def test_events_in_batches_of_any_size_give_the_same_output(self) -> None:
        """Batches of 1, 7 and 64 events, and a single batch."""
        self.prove("batches", "")

    def test_what_it_does_not_understand_is_passed_on_in_place(self) -> None:
        """Statuses, rejects and tickers of an unknown symbol keep their place in the stream."""
        self.prove("passes", "")

    def test_its_input_is_not_changed(self) -> None:
        """Other consumers share the same events."""
        self.prove("unchanged", "")

    def test_nan_and_infinity_raise_nothing(self) -> None:
        """Any number of any event may be NaN or infinite."""
        self.prove("hostile", "")

    def test_what_goes_in_comes_out_or_stands_in_a_reject(self) -> None:
        """No event disappears without a Reject."""
        self.prove("accounted", "")

    def test_a_stage_that_acts_on_time_keeps_the_rules_of_one(self) -> None:
        """After `tick(now)`, `due` is later than now, or None."""
        self.prove("timed", "")

    def test_the_same_events_give_the_same_output(self) -> None:
        """A second run gives equal events."""
        self.prove("deterministic", "")

    def test_the_committed_conformance_equals_the_results(
        self, request: pytest.FixtureRequest
    ) -> None:
        """The conformance file of the package equals what was proven in this run."""
        self.level(request)

    # -------------------------------------------------------------------------------------- checks

    def pipeline(self) -> tuple[ComposedFeed, VirtualClock]:
        """Return a feed with a new instance of the stage, as core composes it, and its clock."""
        registry, clock = self.registry(), VirtualClock(START)
        registry.register(NullVenue(), VENUE)
        feed = FeedSpec(VENUE, SYMBOLS, tuple(self.channels), stages=("contract-stage",))
        spec = StageSpec("contract-stage", self.stage, dict(self.settings), "end")
        stack = Stack(feeds=(feed,), stages={"contract-stage": spec})
        return compose_feed(stack, registry=registry, clock=clock), clock

    def _output(
        self, events: Sequence[Event], size: int = 0, *, still: bool = False
    ) -> list[Event]:
        """Return the output for *events* in batches of *size* (0: a single batch).

        Before each batch, a stage that is due at the `recv` of its first event is ticked; not if
        *still*.
        """
        pipeline, _ = self.pipeline()
        out: list[Event] = []
        for batch in cut(list(events), size):
            out += [] if still or not batch else _ticked(pipeline, batch[0].recv)
            out += pipeline.process(list(batch))
        return out + pipeline.flush()

    def _batches(self) -> None:
        @_checked
        @given(streams())
        def holds(events: list[Event]) -> None:
            # All events have the same time: otherwise a timed stage may depend on the batches.
            events = [changed(event, recv=START) for event in events]
            whole = self._output(events, still=True)
            for size in _SIZES:
                _same(
                    whole, self._output(events, size, still=True), f"in batches of {size}", events
                )

        holds()

    def _deterministic(self) -> None:
        @_checked
        @given(streams())
        def holds(events: list[Event]) -> None:
            first, second = (self._output(events, _BATCH_SIZE) for _ in range(2))
            _same(first, second, "a second time", events)

        holds()

    def _passes(self) -> None:
        unknown = strange()

        @_checked
        @given(streams(), st.integers(0, 60))
        def holds(events: list[Event], at: int) -> None:
            mixed = [*events[:at], *unknown, *events[at:]]
            out = self._output(mixed)
            kept = [event for event in out if any(event is other for other in unknown)]
            if kept != unknown:
                raise ContractViolation(
                    f"the stage does not know {unknown!r} and must pass them on; passed on: {kept!r}"
                )
            start = next(index for index, event in enumerate(out) if event is unknown[0])
            follow = out[start : start + len(unknown)]
            if [type(event) for event in follow] != [type(event) for event in unknown]:
                raise ContractViolation(
                    "the stage moved unknown events apart: pass them on in their place."
                )

        holds()

    def _unchanged(self) -> None:
        @_checked
        @given(streams())
        def holds(events: list[Event]) -> None:
            before, batch = deepcopy(events), list(events)
            pipeline, _ = self.pipeline()
            pipeline.process(batch)
            changed = [(old, new) for old, new in zip(before, events, strict=True) if old != new]
            if changed:
                raise ContractViolation(
                    f"the stage changed an event: {changed[0][0]!r} became {changed[0][1]!r}. Other"
                    " consumers share it: make a copy with attrs.evolve."
                )

        holds()

    def _hostile(self) -> None:
        @_checked
        @given(streams(), st.sampled_from(HOSTILE), st.integers(0, 4))
        def holds(events: list[Event], value: Decimal, which: int) -> None:
            hostile = [
                spoiled(event, value, which + at) if at % 3 == 0 else event
                for at, event in enumerate(events)
            ]
            try:
                self._output(hostile, _BATCH_SIZE)
            except Exception as error:
                bad = next((event for event in hostile if str(value) in repr(event)), None)
                raise ContractViolation(
                    f"{value} makes the stage raise {error!r}, as in {bad!r}"
                ) from error

        holds()

    def _accounted(self) -> None:
        @_checked
        @given(streams())
        def holds(events: list[Event]) -> None:
            """Raise ContractViolation unless each event, its Reject or a changed copy comes out."""
            out = self._output(events, _BATCH_SIZE)
            accounted = {id(event) for event in out}
            accounted |= {id(event.event) for event in out if type(event) is Reject}
            for event in events:
                # A changed copy has the same type, symbol, time and channel.
                if id(event) not in accounted and not _like(event, out):
                    raise ContractViolation(
                        f"the output contains neither this event nor a Reject of it: {event!r}"
                    )

        holds()

    def _timed(self) -> None:
        pipeline, _ = self.pipeline()
        timed = [stage for stage in pipeline.stages.values() if isinstance(stage, TimedStage)]
        if not timed:
            raise NotApplicable("it does not act on time")

        @_checked
        @given(streams())
        def holds(events: list[Event]) -> None:
            pipeline, _ = self.pipeline()
            stage: Any = next(iter(pipeline.stages.values()))
            for event in events:
                stage([event])
                for _ in range(_MAX_TICKS):
                    due = stage.due
                    if due is None:
                        break
                    if type(due) is not int:
                        raise ContractViolation(
                            f"`due` must be a time in ns (int) or None, and is {due!r}"
                        )
                    stage.tick(due)
                    if stage.due is not None and stage.due <= due:
                        raise ContractViolation(
                            f"`tick({due})` left `due` at {stage.due}: it must be later, or None."
                        )
                else:
                    break  # a stage may always be due again

        holds()


def _ticked(pipeline: ComposedFeed, now: int) -> list[Event]:
    """Tick the stages that are due at *now* (ns); return their events."""
    due = pipeline.due
    return pipeline.tick(now) if due is not None and due <= now else []


def _like(event: Event, out: Sequence[Event]) -> bool:
    """Return whether *out* has an event of the same type, symbol, time and channel."""
    key = (event.type, event.symbol, event.ts, event.channel)
    return any((other.type, other.symbol, other.ts, other.channel) == key for other in out)


def _same(expected: Sequence[Event], got: Sequence[Event], how: str, events: Sequence[Any]) -> None:
    if list(expected) == list(got):
        return
    at = first_difference(expected, got)
    raise ContractViolation(
        f"{how}, {len(events)} events give {len(got)} instead of {len(expected)}. They differ from index {at} on:"
        f" {expected[at : at + 1]!r} became {got[at : at + 1]!r}"
    )
