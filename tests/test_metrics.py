"""The metrics of a stream equal what its consumer saw, under every fault; the alert rules fire on stalls.

The loop's time is virtual, and the metrics are read from the sink itself. promtool tests the rules with
series that are taken from these runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from attrs import define, field
from tapeloom import Book, Event, Gap, Registry, Reject, SinkSpec, Stack, Status
from tapeloom.errors import FeedError
from tapeloom.events import OURS
from tapeloom.hooks import hookimpl
from tapeloom_metrics import Settings
from tapeloom_metrics.command import text_of
from tapeloom_metrics.metrics_sink import MetricsSink
from tapeloom_simulator import EPOCH, Fault
from tapeloom_testing import LoopClock, virtual_backend
from test_faults import LONGER, PLACES, WITH_BARS, VenueCase, faults_of, kinds_of

SECOND = 1_000_000_000
BINANCE = PLACES[0]
#: Seconds of a run: the faults strike after 30 and 55 to 60.
LASTS = 100
#: Faults whose counts are compared in every run of the tests; the others take longer.
QUICK = ("disconnect", "dup_trade", "drop_diff")
KINDS = [
    pytest.param(kind, marks=[] if kind in QUICK else [pytest.mark.slow])
    for kind in kinds_of(BINANCE)
]

Labels = tuple[tuple[str, str], ...]


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return virtual_backend(request.param)


class Observed:
    """A plugin whose sink the test holds."""

    def __init__(self, settings: Settings) -> None:
        self.made = MetricsSink(settings)

    @hookimpl
    def sink(self) -> MetricsSink:
        return self.made

    def samples(self) -> dict[str, dict[Labels, float]]:
        """Return the samples of now by name and labels."""
        found: dict[str, dict[Labels, float]] = defaultdict(dict)
        for family in self.made.registry.collect():
            for sample in family.samples:
                found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
        return found


@define
class Seen:
    """What a run showed: the events of a consumer, and the samples at the end or every few seconds."""

    events: list[Event] = field(factory=list)
    samples: list[dict[str, dict[Labels, float]]] = field(factory=list)
    counters: Counter[str] = field(factory=Counter)
    books: Counter[str] = field(factory=Counter)


async def watched(
    place: VenueCase,
    faults: Sequence[Fault],
    lasts: float,
    channels: Sequence[str] = (),
    every: float = 0,
    rate: float = 8,
    sessions: Sequence[str] = (),
) -> Seen:
    """Run a venue with faults; take samples every so many seconds, or once at the end."""
    seen, observed = Seen(), Observed(Settings(port=0, sessions=sessions))
    registry = Registry()
    registry.register(observed, "observed")
    clock = LoopClock(EPOCH - round(anyio.current_time() * SECOND))
    async with simulator.serve(
        place.venue, symbols=place.symbols, seed=3, rate=rate, faults=faults
    ) as sim:
        stack = Stack(
            feeds=(place.feed(channels or place.channels),),
            venues={place.venue: {**sim.settings, **place.settings}},
            sinks=(SinkSpec("observed", "metrics"),),
        )
        async with tapeloom.open(stack, registry=registry, clock=clock, seed=1) as stream:
            consumer = stream.consume(name="strategy")
            with anyio.move_on_after(lasts):
                async with anyio.create_task_group() as tasks:
                    if every:
                        tasks.start_soon(take_samples, observed, seen, every)
                    await read(consumer, seen)
                    tasks.cancel_scope.cancel()
            stream.stop()
            await read(consumer, seen)
            seen.counters = stream.counters
            kept = stream.stage("books").books
            seen.books = Counter(book.state for book in kept.values())
        if not every:
            seen.samples.append(observed.samples())
    return seen


async def read(consumer: tapeloom.Consumer[Event], seen: Seen) -> None:
    """Take events until the end."""
    try:
        while batch := await consumer.batch():
            seen.events += batch
    except FeedError:
        pass  # the events before it were delivered


async def take_samples(observed: Observed, seen: Seen, every: float) -> None:
    while True:
        seen.samples.append(observed.samples())
        await anyio.sleep(every)


def by_labels(samples: Mapping[Labels, float], *names: str) -> Counter[tuple[str, ...]]:
    """Return samples summed by some of their labels, without those that are 0."""
    found: Counter[tuple[str, ...]] = Counter()
    for labels, value in samples.items():
        found[tuple(dict(labels)[name] for name in names)] += int(value)
    return +found


def verdicts(events: Sequence[Event]) -> Counter[tuple[str, ...]]:
    """Return how often each gap came to each state: a repeated report of the same state is none."""
    states: dict[Any, list[str]] = defaultdict(list)
    for event in events:
        if type(event) is Gap:
            key = event.identity, event.cause
            if not states[key] or states[key][-1] != event.state:
                states[key].append(event.state)
    return Counter((cause, state) for (_, cause), some in states.items() for state in some)


@pytest.mark.parametrize("kind", KINDS)
async def test_metrics_equal_what_a_consumer_saw_under_this_fault(kind: str) -> None:
    channels = (*BINANCE.channels, "klines:1m") if kind in WITH_BARS else BINANCE.channels
    seen = await watched(BINANCE, faults_of(kind), LONGER.get(kind, LASTS), channels)
    (samples,), events, counters = seen.samples, seen.events, seen.counters
    rejects = Counter((event.rule,) for event in events if type(event) is Reject)
    statuses = Counter((event.state,) for event in events if type(event) is Status)
    ages = [
        event
        for event in events
        if type(event) not in OURS
        and event.type != "bar"
        and event.origin == "live"  # type: ignore[union-attr]
        and event.ts != event.recv
    ]

    assert len(events) > 500
    assert by_labels(samples["tapeloom_events_total"], "channel", "type") == Counter(
        (event.channel, event.type) for event in events
    )
    assert by_labels(samples["tapeloom_events_total"], "feed", "venue") == {
        ("binance", "binance"): len(events)
    }
    assert by_labels(samples["tapeloom_gaps_total"], "cause", "verdict") == verdicts(events)
    assert by_labels(samples["tapeloom_rejects_total"], "rule") == rejects
    assert by_labels(samples["tapeloom_statuses_total"], "state") == statuses
    assert by_labels(samples["tapeloom_reconnects_total"], "cause") == +Counter(
        {("lost",): counters["reconnects"], ("replaced",): counters["replacements"]}
    )
    assert statuses["reconnecting",] == counters["reconnects"]
    assert by_labels(samples["tapeloom_connections_opened_total"])[()] == statuses["connected",]
    assert by_labels(samples["tapeloom_backfilled_events_total"])[()] == sum(
        getattr(event, "origin", "") == "backfill" for event in events
    )
    assert by_labels(samples["tapeloom_frames_total"])[()] == counters["frames"]
    assert 0 < by_labels(samples["tapeloom_event_age_seconds_count"])[()] <= len(ages)
    assert by_labels(samples["tapeloom_books"], "state") == Counter(
        {(state,): count for state, count in seen.books.items()}
    )
    assert by_labels(samples["tapeloom_dropped_total"], "consumer") == {}
    assert by_labels(samples["tapeloom_queue_received_total"], "consumer")["metrics",] == len(
        events
    )


# -------------------------------------------------------------------------------------- alert rules

#: Seconds between two scrapes.
SCRAPE = 5
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed: Debian's package prometheus has it",
)


def run_promtool(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def series_of(seen: Seen) -> list[dict[str, str]]:
    """Return the samples of a run as the series of a rule test."""
    names = {
        (name, labels) for samples in seen.samples for name in samples for labels in samples[name]
    }
    rows = []
    for name, labels in sorted(names):
        if not name.startswith("tapeloom_"):
            continue
        values = [samples[name].get(labels) for samples in seen.samples]
        text = " ".join("_" if value is None else repr(value) for value in values)
        inside = ",".join(
            f"{key}={json.dumps(value)}"
            for key, value in (*labels, ("job", "tapeloom"), ("instance", "here"))
        )
        rows.append({"series": f"{name}{{{inside}}}", "values": text})
    up = " ".join(["1"] * len(seen.samples))
    return [*rows, {"series": 'up{job="tapeloom",instance="here"}', "values": up}]


def firing(seen: Seen, folder: Path) -> set[str]:
    """Return the alerts that fire at any scrape of a run, by promtool."""
    (folder / "rules.yml").write_text(text_of("rules"), "utf-8")
    seconds = (len(seen.samples) - 1) * SCRAPE
    expr = f'count by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{seconds}s]))'
    # promtool compares; asked for nothing, it prints what it got.
    test = {
        "interval": f"{SCRAPE}s",
        "input_series": series_of(seen),
        "promql_expr_test": [{"expr": expr, "eval_time": f"{seconds}s"}],
    }
    tests = {
        "rule_files": ["rules.yml"], "evaluation_interval": f"{SCRAPE}s", "tests": [test],
    }  # fmt: skip
    path = folder / "test.yml"
    path.write_text(json.dumps(tests), "utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=60
    )
    text = done.stdout + done.stderr
    got = text.partition("got:")[2] if "FAILED" in text else ""
    assert got or "SUCCESS" in text, text
    return {part.partition('"')[0] for part in got.split('alertname="')[1:]}


@promtool
def test_the_names_of_all_metrics_pass_promtool() -> None:
    from prometheus_client import generate_latest

    observed = Observed(Settings(port=0))

    async def main() -> None:
        async with simulator.serve("binance", symbols=BINANCE.symbols, seed=3, rate=50) as sim:
            registry = Registry()
            registry.register(observed, "observed")
            stack = Stack(
                feeds=(BINANCE.feed(BINANCE.channels),),
                venues={"binance": sim.settings},
                sinks=(SinkSpec("observed", "metrics"),),
            )
            async with tapeloom.open(stack, registry=registry) as stream:
                async for batch in stream.batches():
                    if any(type(event) is Book for event in batch):
                        break

    anyio.run(main)

    assert (
        run_promtool("check", "metrics", stdin=generate_latest(observed.made.registry).decode())
        == ""
    )


@promtool
def test_the_alert_rules_pass_promtool(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(text_of("rules"), "utf-8")

    assert "SUCCESS: 15 rules found" in run_promtool("check", "rules", str(tmp_path / "rules.yml"))


#: Faults, how long the run is, and the alerts that must fire: all of them and no other.
STALLS = {
    "one stream, until it is subscribed again": (
        [Fault(kind="silent_stall", at=60, how="stream")], 150, {"TapeloomStalled", "TapeloomDataLost"},
    ),
    "trades, for good": (
        [Fault(kind="silent_stall", at=60, how="stream", channel="trades", count=0, per_stream=True)],
        300, {"TapeloomStalled", "TapeloomDataLost"},
    ),
    "everything, for good": (
        [Fault(kind="silent_stall", at=60, how="all", count=0)], 400,
        {"TapeloomStalled", "TapeloomDataLost", "TapeloomBooksNotSynced", "TapeloomReconnectsOften"},
    ),
}  # fmt: skip


@promtool
@pytest.mark.parametrize("name", STALLS)
async def test_alerts_fire_on_an_injected_stall(name: str, tmp_path: Path) -> None:
    faults, lasts, alerts = STALLS[name]
    seen = await watched(BINANCE, faults, lasts, every=SCRAPE)

    assert firing(seen, tmp_path) == alerts


@promtool
async def test_no_alert_fires_in_a_calm_run(tmp_path: Path) -> None:
    seen = await watched(BINANCE, (), 600, (*BINANCE.channels, "klines:1m"), every=SCRAPE, rate=1)

    assert firing(seen, tmp_path) == set()


@promtool
@pytest.mark.slow
async def test_no_alert_fires_on_quiet_channels_that_core_takes_for_stalled(tmp_path: Path) -> None:
    """Each symbol has a trade in four minutes: core subscribes again and again, to be sure."""
    channels = (*BINANCE.channels, "klines:1m")
    seen = await watched(BINANCE, (), 1200, channels, every=SCRAPE, rate=1 / 120)
    stalled = [event for event in seen.events if type(event) is Status and event.state == "stalled"]

    assert len(stalled) > 10
    assert firing(seen, tmp_path) == set()


@promtool
async def test_no_alert_fires_on_the_silence_of_a_closed_market(tmp_path: Path) -> None:
    """The market, which had trades each second, closes a minute after the start, at 00:01 UTC."""
    closes = [Fault(kind="silent_stall", at=60, how="all", count=0)]
    open_hours = ["binance Mon-Sun 00:00-00:01 UTC"]
    seen = await watched(BINANCE, closes, 400, every=SCRAPE, sessions=open_hours)
    gaps = [event for event in seen.events if type(event) is Gap]

    assert len(gaps) > 10
    assert firing(seen, tmp_path) == set()
