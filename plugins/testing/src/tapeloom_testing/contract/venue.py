"""The contract of a venue: a class to inherit from, each of its tests a claim."""

from __future__ import annotations

import gzip
import importlib.util
import inspect
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from attrs import evolve
from tapeloom import Registry
from tapeloom.harness import Proof
from tapeloom_simulator import simulators

from tapeloom_testing.recordings import captures as captures_folder

from . import dialogue, endings, frames, history, keepalive_limits, naming, no_reply, truth
from .composed import Subject
from .declared import VENUE, Capture, ContractViolation, NotApplicable
from .proving import Proving, remembered
from .recording import Plant, Run, record

__all__ = ["VenueContract"]

_MANY = 5_000  # recorded frames that are read in every way
_LOOPS = ("asyncio", "trio")


class VenueContract(Proving):
    """Everything that a venue's plugin promises, market by market.

    Inherit from it in a class whose name begins with ``Test``, and declare what the venue has.
    """

    kind = "venue"
    guarantees = VENUE

    venue: str  #: the name of its entry point
    markets: Mapping[str, Sequence[str]]  #: market → symbols
    channels: Mapping[str, Sequence[str]] | Sequence[str]  #: with parameters; by market, or for all
    settings: ClassVar[Mapping[str, Any]] = {}  #: its table in the stack
    simulator: str | None = None  #: the venue that is simulated, where it is another one
    history: Mapping[str, Sequence[str]] | Sequence[str] = ()  #: listing, trades, bars, book
    unit: int = 1_000_000  #: ns in the unit of the times of trades
    captures: ClassVar[Mapping[str, Capture]] = {}
    secrets: ClassVar[Mapping[str, str]] = {}  #: setting → an obvious fake
    unknown: Sequence[str] = ()  #: messages of kinds that the parser does not know
    rate: float = 20.0  #: trades a second of market time
    seconds: float = 130.0  #: of market time
    speed: float = 200.0  #: market seconds in one of ours
    settle: float = 65.0  #: market seconds to go on without trades
    streams: int | None = None  #: what the simulator sees followed when all is subscribed

    _runs: ClassVar[dict[Any, Any]] = {}

    def name(self) -> str:
        """Return the name of the plugin."""
        return self.venue

    def places(self) -> Sequence[str]:
        """Return the markets."""
        return tuple(self.markets)

    def registry(self) -> Registry:
        """Return the plugins among which the venue is found."""
        return Registry()

    def simulators(self) -> Registry:
        """Return the simulators among which the venue's server side is found."""
        return simulators()

    def table(self, market: str, simulation: Any) -> Mapping[str, Any]:
        """Return the venue's table in a stack that is to use a simulation."""
        return {**self.settings, **simulation.settings}

    # -------------------------------------------------------------------------------- the battery

    def test_symbols_are_spelled_there_and_back(self, place: str) -> None:
        """Each has a name of its own, and nonsense has none."""
        self.prove("symbols", place)

    def test_a_subscription_is_asked_for_once_and_its_acknowledgement_understood(
        self, place: str
    ) -> None:
        """The venue's side agrees, sends what was asked for, and the codec reads it."""
        self.prove("acknowledge", place)

    def test_a_refusal_is_understood_and_names_what_was_refused(self, place: str) -> None:
        """A refusal without a name would leave the feed waiting."""
        self.prove("refuse", place)

    def test_a_message_without_an_answer_is_told_and_asked_again(self, place: str) -> None:
        """A deaf venue is left."""
        self.prove("silence", place)

    def test_what_is_dropped_is_sent_no_longer(self, place: str) -> None:
        """And what is left still is."""
        self.prove("unsubscribe", place)

    def test_every_channel_gives_its_events_with_every_field_filled(self, place: str) -> None:
        """Type, venue, symbol, channel, recv, ts."""
        self.prove("events", place)

    def test_frames_in_batches_of_any_size_give_the_same_events(self, place: str) -> None:
        """One by one, 7, 64, all at once."""
        self.prove("batches", place)

    def test_garbage_between_good_frames_costs_none_and_is_accounted_for(self, place: str) -> None:
        """Cut off, plain text, empty, wrong types, deep, no UTF-8."""
        self.prove("poison", place)

    def test_unknown_kinds_and_symbols_are_counted_and_become_no_event(self, place: str) -> None:
        """What nobody asked for leaves a trace."""
        self.prove("unknown", place)

    def test_numbers_are_kept_as_the_venue_wrote_them(self, place: str) -> None:
        """Digit by digit."""
        self.prove("exact", place)

    def test_times_are_utc_in_ns_and_the_venues_own(self, place: str) -> None:
        """Held against the market's time."""
        self.prove("times", place)

    def test_the_side_is_the_takers(self, place: str) -> None:
        """Or none, where the venue tells none."""
        self.prove("sides", place)

    def test_the_venues_limits_are_declared_and_kept(self, place: str) -> None:
        """The simulator enforces them."""
        self.prove("limits", place)

    def test_the_heartbeat_is_what_the_venue_expects(self, place: str) -> None:
        """And its answer is understood."""
        self.prove("heartbeat", place)

    def test_a_planned_end_is_understood_and_nothing_is_lost_over_it_in_silence(
        self, place: str
    ) -> None:
        """The venue restarts in the middle of the market."""
        self.prove("farewell", place)

    def test_snapshot_and_updates_give_the_venues_book(self, place: str) -> None:
        """By the rule of its sequence."""
        self.prove("book", place)

    def test_rest_answers_what_it_is_said_to_answer(self, place: str) -> None:
        """The list, trades, bars and books of the history."""
        self.prove("history", place)

    def test_what_is_delivered_is_what_the_venue_sent_once_each_in_order(self, place: str) -> None:
        """Channel by channel, against the truth."""
        self.prove("truth", place)

    def test_it_runs_on_each_event_loop_it_names_and_is_refused_on_others(self, place: str) -> None:
        """With the same result."""
        self.prove("backends", place)

    def test_the_same_frames_give_the_same_events(self, place: str) -> None:
        """Whenever they are read."""
        self.prove("deterministic", place)

    def test_every_recorded_frame_is_understood(self, place: str) -> None:
        """Real frames, recorded by others."""
        self.prove("captures", place)

    def test_keys_are_in_no_repr_event_or_log_line(self, place: str) -> None:
        """Wherever they could leak."""
        self.prove("secrets", place)

    def test_the_committed_level_is_the_one_that_is_proven(
        self, request: pytest.FixtureRequest
    ) -> None:
        """What the package says of itself is what was just shown."""
        self.level(request)

    # ------------------------------------------------------------------------------- how each goes

    def check(self, word: str, place: str) -> None:
        """Prove one guarantee of one market. Raises Broken or Lacking."""
        getattr(self, f"_{word}")(self.subject(place))

    def subject(self, market: str) -> Subject:
        """Return one market, as it is declared."""
        channels = self.channels[market] if isinstance(self.channels, Mapping) else self.channels
        symbols = tuple(self.markets[market])
        return Subject(
            self.venue,
            market,
            symbols,
            tuple(channels),
            self.settings,
            self.secrets,
            self.registry,
            self.simulators,
        )

    def _side(self) -> str:
        return self.simulator or self.venue

    def _server(self, subject: Subject, market: Any) -> Any:
        server = subject.venue_server(market, self._side())
        if server is None and self.simulator is not None:
            raise NotApplicable(
                f"the server side of {self.simulator!r} is not installed", here=True
            )
        if server is None:
            raise NotApplicable("the plugin has no `simulate`")
        return server

    def _plant(self, subject: Subject, **changes: Any) -> Plant:
        return Plant(
            **{
                "serves": lambda market: self._server(subject, market),
                "table": lambda simulation: self.table(subject.market, simulation),
                "rate": self.rate,
                "seconds": self.seconds,
                "speed": self.speed,
                "settle": self.settle,
                "streams": self.streams,
                **changes,
            }
        )

    def _run(self, subject: Subject, backend: str = "") -> Run:
        """Return the run of a market; it is recorded once."""
        backend = backend or self._loops(subject)[0]

        def made() -> Run:
            # The second event loop need not show all over again what closes after a minute.
            short = {} if backend == self._loops(subject)[0] else {"seconds": self.seconds / 4}
            return anyio.run(record, subject, self._plant(subject, **short), backend=backend)

        key = type(self), subject.market, backend
        return remembered(made, self._runs, key)  # type: ignore[no-any-return]

    def _loops(self, subject: Subject) -> list[str]:
        registry = subject.registry()
        plan = subject.plan()
        shown = {one.name: one.backends for one in registry.describe() if one.name == self.venue}
        allowed = set(shown.get(self.venue, _LOOPS))
        if plan.source is not None:
            allowed &= plan.source.backends
        return [one for one in _LOOPS if one in allowed]

    def _frames(self, subject: Subject) -> tuple[Any, list[bytes]]:
        """Return what makes a parser for the frames of a run, and the frames."""
        if subject.plan().codec is None:
            raise NotApplicable("it connects through a Source: core sees no frames")
        run = self._run(subject)
        together = [frame for batch in run.frames for frame in batch]
        if not together:
            raise ContractViolation("no frame came.")
        return (lambda: subject.plan(run.given)), together

    def _claimed(self, word: str, subject: Subject) -> list[str]:
        return [one for one in subject.channels if not self.reason(word, subject.market, one)]

    def _symbols(self, subject: Subject) -> None:
        naming.symbols(subject)

    def _acknowledge(self, subject: Subject) -> None:
        dialogue.acknowledge(subject, self._side())

    def _refuse(self, subject: Subject) -> None:
        dialogue.refuse(subject, self._side())

    def _silence(self, subject: Subject) -> None:
        no_reply.silence(subject, self._side(), self._loops(subject)[0])

    def _unsubscribe(self, subject: Subject) -> None:
        dialogue.unsubscribe(subject, self._side())

    def _heartbeat(self, subject: Subject) -> None:
        keepalive_limits.heartbeat(subject, self._side())

    def _events(self, subject: Subject) -> None:
        truth.filled(self._run(subject), self._claimed("events", subject))

    def _times(self, subject: Subject) -> None:
        truth.times(self._run(subject), self._claimed("times", subject))

    def _truth(self, subject: Subject) -> None:
        run = self._run(subject)
        truth.clean(run)
        truth.delivered(run, self._claimed("truth", subject), self.unit)
        if self.reason("sides", subject.market):
            truth.sides(run, subject.channels, told=False)

    def _sides(self, subject: Subject) -> None:
        if not any(one.partition(":")[0] in ("trades", "agg_trades") for one in subject.channels):
            raise NotApplicable("it has no channel of trades")
        truth.sides(self._run(subject), self._claimed("sides", subject), told=True)

    def _book(self, subject: Subject) -> None:
        if not any(one.partition(":")[0] == "book" for one in subject.channels):
            raise NotApplicable("it has no channel of books")
        truth.books(self._run(subject), self._claimed("book", subject))

    def _batches(self, subject: Subject) -> None:
        frames.batches(*self._frames(subject))

    def _poison(self, subject: Subject) -> None:
        frames.poison(*self._frames(subject))

    def _unknown(self, subject: Subject) -> None:
        frames.unknown(*self._frames(subject), self.unknown)

    def _exact(self, subject: Subject) -> None:
        make, some = self._frames(subject)
        frames.exact(make(), some)

    def _deterministic(self, subject: Subject) -> None:
        frames.deterministic(*self._frames(subject))

    def _limits(self, subject: Subject) -> None:
        if subject.plan().codec is not None:
            keepalive_limits.limits(subject, self._side())
        truth.kept(self._run(subject))

    def _farewell(self, subject: Subject) -> None:
        if subject.plan().codec is not None:
            keepalive_limits.farewell(subject, self._side())
        words = ("trades", "agg_trades")
        told = [one for one in subject.channels if one.partition(":")[0] in words][:1]
        if not told:
            raise NotApplicable("it has no channel of trades, by which a loss would show")
        alone = evolve(subject, channels=tuple(told))
        plant = endings.restarting(partial(self._plant, alone))
        run = anyio.run(record, alone, plant, backend=self._loops(subject)[0])
        if not run.truth.connections:
            raise NotApplicable("it keeps no connection that could end")
        endings.survived(run, self.unit)

    def _history(self, subject: Subject) -> None:
        kinds = self._past(subject.market)
        if not kinds:
            raise NotApplicable("it has no REST interface, or none that is used")
        history.answered(subject, kinds, self.unit, self._side())

    def _past(self, market: str) -> list[str]:
        some = self.history.get(market, ()) if isinstance(self.history, Mapping) else self.history
        return list(some)

    def _backends(self, subject: Subject) -> None:
        loops = self._loops(subject)
        missing = [one for one in _LOOPS if importlib.util.find_spec(one) is None]
        if missing:
            raise NotApplicable(f"{missing[0]} is not installed", here=True)
        for backend in _LOOPS:
            if backend not in loops:
                endings.refused(subject, backend)
                continue
            run = self._run(subject, backend)
            truth.clean(run)
            truth.delivered(run, self._claimed("truth", subject), self.unit)
            truth.books(run, self._claimed("book", subject))

    def _captures(self, subject: Subject) -> None:
        mine = {name: one for name, one in self.captures.items() if one.market == subject.market}
        if not mine:
            raise NotApplicable("nobody has recorded this market")
        folder = _folder_of_captures(type(self))
        for name, one in mine.items():
            known = evolve(subject, symbols=tuple(one.symbols), channels=tuple(one.channels))
            known.settings = {**self.settings, **one.settings}
            some = _recorded(folder, name)
            frames.understood(known.plan(), some, one.garbage)
            frames.batches(known.plan, some[:_MANY])

    def _secrets(self, subject: Subject) -> None:
        if not self.secrets:
            raise NotApplicable("it needs no key")
        endings.secretive(subject, self._run(subject))

    def proof(self, place: str, words: list[str], without: dict[str, str]) -> Proof:
        """Return the channels whose events are true, and all guarantees."""
        subject = self.subject(place)
        claimed = self._claimed("truth", subject) if "truth" in words else subject.channels
        return Proof(list(claimed), self._past(place), words, without)


def _folder_of_captures(cls: type) -> Path:
    for parent in Path(inspect.getfile(cls)).resolve().parents:
        if (folder := captures_folder(parent)) is not None:
            return folder
    raise NotApplicable("there is no folder of captures: set TAPELOOM_CAPTURES", here=True)


def _recorded(folder: Path, name: str) -> list[bytes]:
    plain, packed = folder / f"{name}.ws.jsonl", folder / f"{name}.ws.jsonl.gz"
    if not plain.exists() and not packed.exists():
        raise NotApplicable(f"there is no recording {name!r} in the folder of captures", here=True)
    text = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
    return [json.loads(line)["frame"].encode() for line in text.splitlines() if line.strip()]
