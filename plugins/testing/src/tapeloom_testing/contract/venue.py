"""The contract of a venue: a class to inherit from, with a test for each guarantee."""

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

from . import (
    dialogue,
    endings,
    frames,
    history,
    keepalive_limits,
    naming,
    no_reply,
    soundness,
    truth,
)
from .composed import Subject
from .declared import VENUE, Capture, ContractViolation, NotApplicable
from .proving import Proving, cached_result
from .recording import Plant, Run, record

__all__ = ["VenueContract"]

#: The most frames of a capture that are parsed in batches of all sizes; more take too long.
_MANY = 5_000
#: The event loops that a venue may run on.
_LOOPS = ("asyncio", "trio")


class VenueContract(Proving):
    """The guarantees of a venue plugin, for each of its markets.

    Inherit from it in a class whose name begins with ``Test``, and declare what the venue has.
    """

    kind = "venue"
    guarantees = VENUE

    venue: str  #: the name of its entry point
    markets: Mapping[str, Sequence[str]]  #: market → symbols
    #: with parameters, such as "klines:1m"; per market, or the same for all
    channels: Mapping[str, Sequence[str]] | Sequence[str]
    settings: ClassVar[Mapping[str, Any]] = {}  #: its settings in the stack
    simulator: str | None = None  #: the venue to simulate, if it has another name
    history: Mapping[str, Sequence[str]] | Sequence[str] = ()  #: listing, trades, bars, book
    unit: int = 1_000_000  #: ns in the unit of the times of trades
    captures: ClassVar[Mapping[str, Capture]] = {}  #: name of the recording → its description
    secrets: ClassVar[Mapping[str, str]] = {}  #: name of a setting → a fake key
    #: real messages of kinds that the plugin does not support: each is counted as unrequested
    unknown: Sequence[str] = ()
    rate: float = 20.0  #: trades per second of market time
    seconds: float = 130.0  #: market seconds with trades
    speed: float = 200.0  #: market seconds per real second
    settle: float = 65.0  #: market seconds without trades at the end of a run
    streams: int | None = None  #: streams at the simulator once all is subscribed

    _runs: ClassVar[dict[Any, Any]] = {}

    def places(self) -> Sequence[str]:
        """Return the names of the venue's markets, like spot: the keys of `markets`."""
        return tuple(self.markets)

    def simulators(self) -> Registry:
        """Return the registry that contains the venue's server side."""
        return simulators()

    def table(self, market: str, simulation: Any) -> Mapping[str, Any]:
        """Return the venue's settings in a stack that connects to *simulation*."""
        return {**self.settings, **simulation.settings}

    # ------------------------------------------------------------------------------------ the tests

    def test_symbols_convert_to_native_names_and_back(self, place: str) -> None:
        """Each symbol has its own name at the venue; invalid symbols are refused."""
        self.prove("symbols", place)

    def test_a_subscription_is_requested_once_and_its_acknowledgement_decoded(
        self, place: str
    ) -> None:
        """The server side acknowledges and streams every subscription; the codec decodes the replies."""
        self.prove("acknowledge", place)

    def test_a_refusal_is_decoded_with_its_subscriptions(self, place: str) -> None:
        """Otherwise the feed would wait for an acknowledgement until the deadline."""
        self.prove("refuse", place)

    def test_an_unanswered_message_is_reported_and_sent_again(self, place: str) -> None:
        """The feed closes a connection without replies and subscribes again on a new one."""
        self.prove("silence", place)

    def test_dropped_subscriptions_are_not_sent_any_more(self, place: str) -> None:
        """The other subscriptions are still streamed."""
        self.prove("unsubscribe", place)

    def test_every_channel_yields_its_events_with_all_common_fields(self, place: str) -> None:
        """Type, venue, symbol, channel, recv, ts."""
        self.prove("events", place)

    def test_frames_in_batches_of_any_size_give_the_same_events(self, place: str) -> None:
        """Batches of 1, 7 and 64 frames, and a single batch."""
        self.prove("batches", place)

    def test_malformed_frames_are_reported_and_do_not_affect_valid_ones(self, place: str) -> None:
        """Truncated, plain text, empty, wrong types, deeply nested, invalid UTF-8."""
        self.prove("poison", place)

    def test_unknown_message_types_and_symbols_are_counted_and_yield_no_event(
        self, place: str
    ) -> None:
        """Those that nobody asked for are counted as unrequested; they are no rejects."""
        self.prove("unknown", place)

    def test_numbers_keep_the_digits_the_venue_sent(self, place: str) -> None:
        """No digit is added, removed or rounded."""
        self.prove("exact", place)

    def test_times_are_utc_in_ns_and_the_venues_own(self, place: str) -> None:
        """They are compared with the times of the simulated market."""
        self.prove("times", place)

    def test_the_side_is_the_takers(self, place: str) -> None:
        """It is empty if the venue does not send it."""
        self.prove("sides", place)

    def test_the_venues_rate_limits_are_declared_and_obeyed(self, place: str) -> None:
        """The simulator enforces the venue's limits."""
        self.prove("limits", place)

    def test_the_heartbeat_is_what_the_venue_expects(self, place: str) -> None:
        """Its reply is decoded as a Pong."""
        self.prove("heartbeat", place)

    def test_a_planned_disconnect_is_decoded_and_no_trade_is_lost_without_a_gap(
        self, place: str
    ) -> None:
        """The venue restarts while trades happen."""
        self.prove("farewell", place)

    def test_snapshot_and_updates_give_the_venues_book(self, place: str) -> None:
        """Sequence numbers are checked for gaps."""
        self.prove("book", place)

    def test_rest_returns_every_declared_kind_of_history(self, place: str) -> None:
        """The listing, trades, bars and books that `history` declares."""
        self.prove("history", place)

    def test_every_sent_event_is_delivered_once_in_order(self, place: str) -> None:
        """Each channel is compared with what the simulator sent."""
        self.prove("truth", place)

    def test_it_runs_on_declared_event_loops_and_is_refused_on_others(self, place: str) -> None:
        """The result is the same on each loop."""
        self.prove("backends", place)

    def test_the_same_frames_give_the_same_events(self, place: str) -> None:
        """The events do not depend on when the frames are parsed."""
        self.prove("deterministic", place)

    def test_every_recorded_frame_is_decoded(self, place: str) -> None:
        """Captures are frames recorded from the real venue."""
        self.prove("captures", place)

    def test_keys_are_in_no_repr_event_or_log_line(self, place: str) -> None:
        """The fake keys of `secrets` appear nowhere."""
        self.prove("secrets", place)

    def test_the_committed_conformance_equals_the_results(
        self, request: pytest.FixtureRequest
    ) -> None:
        """The conformance file of the package equals what was proven in this run."""
        self.level(request)

    # -------------------------------------------------------------------------------------- checks

    def check(self, guarantee: str, place: str) -> None:
        """Check one guarantee of one market. Raise ContractViolation or NotApplicable."""
        getattr(self, f"_{guarantee}")(self.subject(place))

    def subject(self, market: str) -> Subject:
        """Return one market with the declarations of this class."""
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
        """Return the recorded run against the simulated venue in one market.

        *backend* is the event loop, asyncio or trio; empty: the first that the venue supports. The run
        is recorded at the first call for a market and an event loop.
        """
        backend = backend or self._loops(subject)[0]

        def record_run() -> Run:
            # Bars of a minute are checked on the first event loop, so the second run is shorter.
            short = {} if backend == self._loops(subject)[0] else {"seconds": self.seconds / 4}
            return anyio.run(record, subject, self._plant(subject, **short), backend=backend)

        key = type(self), subject.market, backend
        return cached_result(record_run, self._runs, key)  # type: ignore[no-any-return]

    def _loops(self, subject: Subject) -> list[str]:
        registry = subject.registry()
        plan = subject.plan()
        plugins = [plugin for plugin in registry.describe() if plugin.name == self.venue]
        backends = {plugin.name: plugin.backends for plugin in plugins}
        allowed = set(backends.get(self.venue, _LOOPS))
        if plan.source is not None:
            allowed &= plan.source.backends
        return [backend for backend in _LOOPS if backend in allowed]

    def _frames(self, subject: Subject) -> tuple[Any, list[bytes]]:
        """Return a function that composes the feed of a run, and the frames of the run."""
        if subject.plan().codec is None:
            raise NotApplicable("it connects through a Source: core sees no frames")
        run = self._run(subject)
        received = [frame for batch in run.frames for frame in batch]
        if not received:
            raise ContractViolation("no frame was received in the run against the simulator.")
        return (lambda: subject.plan(run.given)), received

    def _claimed(self, guarantee: str, subject: Subject) -> list[str]:
        """Return the channels for which the guarantee is claimed."""
        return [
            channel
            for channel in subject.channels
            if not self.reason(guarantee, subject.market, channel)
        ]

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
        soundness.filled(self._run(subject), self._claimed("events", subject))

    def _times(self, subject: Subject) -> None:
        run, channels = self._run(subject), self._claimed("times", subject)
        soundness.times(run, channels)
        soundness.identified(run, channels, subject.plan().unidentified)

    def _truth(self, subject: Subject) -> None:
        run = self._run(subject)
        soundness.clean(run)
        truth.delivered(run, self._claimed("truth", subject), self.unit)
        if self.reason("sides", subject.market):
            truth.sides(run, subject.channels, told=False)

    def _sides(self, subject: Subject) -> None:
        if not _trade_channels(subject):
            raise NotApplicable("it has no channel of trades")
        truth.sides(self._run(subject), self._claimed("sides", subject), told=True)

    def _book(self, subject: Subject) -> None:
        if not any(channel.partition(":")[0] == "book" for channel in subject.channels):
            raise NotApplicable("it has no channel of books")
        truth.books(self._run(subject), self._claimed("book", subject))

    def _batches(self, subject: Subject) -> None:
        frames.batches(*self._frames(subject))

    def _poison(self, subject: Subject) -> None:
        frames.poison(*self._frames(subject))

    def _unknown(self, subject: Subject) -> None:
        frames.unknown(*self._frames(subject), self.unknown)

    def _exact(self, subject: Subject) -> None:
        make, received = self._frames(subject)
        frames.exact(make(), received)

    def _deterministic(self, subject: Subject) -> None:
        frames.deterministic(*self._frames(subject))

    def _limits(self, subject: Subject) -> None:
        if subject.plan().codec is not None:
            keepalive_limits.limits(subject, self._side())
        soundness.kept(self._run(subject))

    def _farewell(self, subject: Subject) -> None:
        if subject.plan().codec is not None:
            keepalive_limits.farewell(subject, self._side())
        channels = _trade_channels(subject)
        if not channels:
            raise NotApplicable("it has no channel of trades, by which a loss would show")
        trades_only = evolve(subject, channels=tuple(channels[:1]))
        plant = endings.restarting(partial(self._plant, trades_only))
        run = anyio.run(record, trades_only, plant, backend=self._loops(subject)[0])
        if not run.truth.connections:
            raise NotApplicable("it keeps no connection that could end")
        endings.survived(run, self.unit)

    def _history(self, subject: Subject) -> None:
        kinds = self._history_kinds(subject.market)
        if not kinds:
            raise NotApplicable("it has no REST interface, or none that is used")
        history.answered(subject, kinds, self.unit, self._side())

    def _history_kinds(self, market: str) -> list[str]:
        """Return the kinds of history that a market has over REST."""
        kinds = self.history.get(market, ()) if isinstance(self.history, Mapping) else self.history
        return list(kinds)

    def _backends(self, subject: Subject) -> None:
        loops = self._loops(subject)
        missing = [backend for backend in _LOOPS if importlib.util.find_spec(backend) is None]
        if missing:
            raise NotApplicable(f"{missing[0]} is not installed", here=True)
        for backend in _LOOPS:
            if backend not in loops:
                endings.refused(subject, backend)
                continue
            run = self._run(subject, backend)
            soundness.clean(run)
            truth.delivered(run, self._claimed("truth", subject), self.unit)
            truth.books(run, self._claimed("book", subject))

    def _captures(self, subject: Subject) -> None:
        captures = {
            name: capture
            for name, capture in self.captures.items()
            if capture.market == subject.market
        }
        if not captures:
            raise NotApplicable("nobody has recorded this market")
        folder = _folder_of_captures(type(self))
        for name, capture in captures.items():
            recorded = evolve(
                subject, symbols=tuple(capture.symbols), channels=tuple(capture.channels)
            )
            recorded.settings = {**self.settings, **capture.settings}
            payloads = _recorded(folder, name)
            frames.understood(recorded.plan(), payloads, capture.garbage)
            frames.batches(recorded.plan, payloads[:_MANY])

    def _secrets(self, subject: Subject) -> None:
        if not self.secrets:
            raise NotApplicable("it needs no key")
        endings.secretive(subject, self._run(subject))

    def proof(self, place: str, guarantees: list[str], without: dict[str, str]) -> Proof:
        """Return the conformance of one market, with the channels for which `truth` is claimed."""
        subject = self.subject(place)
        claimed = self._claimed("truth", subject) if "truth" in guarantees else subject.channels
        return Proof(list(claimed), self._history_kinds(place), guarantees, without)


def _trade_channels(subject: Subject) -> list[str]:
    kinds = ("trades", "agg_trades")
    return [channel for channel in subject.channels if channel.partition(":")[0] in kinds]


def _folder_of_captures(cls: type) -> Path:
    """Return the folder of captures nearest above the file that defines *cls*."""
    for parent in Path(inspect.getfile(cls)).resolve().parents:
        if (folder := captures_folder(parent)) is not None:
            return folder
    raise NotApplicable("there is no folder of captures: set TAPELOOM_CAPTURES", here=True)


def _recorded(folder: Path, name: str) -> list[bytes]:
    """Return the frames of a capture, which may be gzipped."""
    plain, packed = folder / f"{name}.ws.jsonl", folder / f"{name}.ws.jsonl.gz"
    if not plain.exists() and not packed.exists():
        raise NotApplicable(f"there is no recording {name!r} in the folder of captures", here=True)
    text = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
    return [json.loads(line)["frame"].encode() for line in text.splitlines() if line.strip()]
