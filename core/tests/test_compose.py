"""Composition of a stack: order and settings of stages, wrappers, sources, and all mistakes at once."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Generator
from decimal import Decimal
from typing import Any

import anyio
import attrs
import pytest
import tapeloom
from tapeloom import (
    Event,
    FeedSpec,
    Gap,
    Registry,
    Reject,
    SinkSpec,
    Stack,
    StageSpec,
    Status,
    Trade,
)
from tapeloom._compose.composer import compose
from tapeloom._compose.plan import Composition
from tapeloom._connection.frame_intake import guarded
from tapeloom.errors import (
    BackendUnsupported,
    ConfigError,
    ConnectionFailed,
    ConnectionLost,
    FeedError,
    LoginRefused,
    Mistake,
    PluginBroken,
    PluginNotFound,
    StageFailed,
    TapeloomError,
    Throttled,
)
from tapeloom.harness import ComposedFeed
from tapeloom.hooks import hookimpl
from tapeloom.plugin import Endpoint, Frames, Guarantee, HistoryQuery, Resume, SinkBatch, SinkRun
from tapeloom_testing import FakeWire, VirtualClock, WireEnd


@attrs.frozen(kw_only=True)
class TagSettings:
    tag: str = "tag"
    loud: bool = False


class Tagger:
    """Its stage adds a Status with its tag to every batch that has an event."""

    @hookimpl
    def settings(self) -> type[Any]:
        return TagSettings

    @hookimpl
    def validate(self, feed: Any) -> Any:
        tag = feed.settings.tag

        def stage(events: list[Event]) -> list[Event]:
            return [*events, Status("acme", "", 0, 0, tag)] if events else events

        return stage


class Plain:
    """A stage without settings."""

    @hookimpl
    def aggregate(self, feed: Any) -> Any:
        return lambda events: [*events, Status("acme", "", 0, 0, "plain")]


class Spy:
    """Wraps the parser and stages of other plugins; it is not a stage itself."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl(wrapper=True)
    def parse(self, feed: Any) -> Generator[None, Any, Any]:
        inner = yield

        def parse(frames: Frames) -> list[Event]:
            self.seen.append("parse")
            return list(inner(frames))

        return parse

    @hookimpl(wrapper=True)
    def validate(self, feed: Any) -> Generator[None, Any, Any]:
        inner = yield
        if inner is None:
            return None

        def stage(events: list[Event]) -> list[Event]:
            self.seen.append("validate")
            return list(inner(events))

        return stage


class SpyStage(Spy):
    """A `Spy` that is also a stage."""

    @hookimpl
    def aggregate(self, feed: Any) -> Any:
        return lambda events: events


@attrs.define
class TaggedSink:
    """A sink that keeps only its setting."""

    tag: str
    guarantee: Guarantee = "at_most_once"

    async def open(self, run: SinkRun) -> Resume:
        return Resume()

    async def write(self, batch: SinkBatch) -> None:
        pass

    async def close(self) -> None:
        pass


class Store:
    @hookimpl
    def settings(self) -> type[Any]:
        return TagSettings

    @hookimpl
    def sink(self, settings: TagSettings) -> Any:
        return TaggedSink(settings.tag)


@pytest.fixture
def stocked(registry: Registry) -> Registry:
    registry.register(Tagger(), "tagger")
    registry.register(Plain(), "plain")
    registry.register(Store(), "store")
    return registry


def stack(*stages: str, tables: dict[str, StageSpec] | None = None, **more: Any) -> Stack:
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"], stages=stages)
    return Stack(feeds=(spec,), stages=tables or {}, **more)


def composed(registry: Registry, given: Stack) -> Composition:
    return compose(given, registry, VirtualClock(), 1).or_raise()


def mistakes(registry: Registry, given: Stack) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        composed(registry, given)
    return [str(mistake) for mistake in caught.value.mistakes]


def states(events: list[Event]) -> list[str]:
    return [event.state for event in events if isinstance(event, Status)]


TRADE = b'{"s": "BTCUSD", "t": 1, "p": "1.5", "q": "2", "i": 1}'


# ------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("order", [("a", "plain", "b"), ("b", "a", "plain"), ("plain", "b", "a")])
def test_stages_run_in_the_order_of_the_stack_each_with_its_own_settings(
    stocked: Registry, order: tuple[str, ...]
) -> None:
    tables = {
        "a": StageSpec("a", "tagger", {"tag": "A"}),
        "b": StageSpec("b", "tagger", {"tag": "B"}),
    }
    plan = ComposedFeed(composed(stocked, stack(*order, tables=tables)).plans[0])
    tags = {"a": "A", "b": "B", "plain": "plain"}

    assert states(plan.process([Status("acme", "", 0, 0, "in")])) == [
        "in",
        *(tags[name] for name in order),
    ]
    assert list(plan.stages) == list(order)


def test_stages_of_a_toml_file_run_in_its_order(stocked: Registry, tmp_path: Any) -> None:
    file = tmp_path / "stack.toml"
    file.write_text(
        """
        [[feed]]
        venue = "acme"
        symbols = ["BTC/USD"]
        channels = ["trades"]
        stages = ["late", "tagger", "early"]

        [stage.early]
        use = "tagger"
        tag = "E"

        [stage.late]
        use = "tagger"
        tag = "L"
        """
    )
    stream = tapeloom.open(file, registry=stocked)

    assert states(ComposedFeed(stream.plans[0]).process([Status("acme", "", 0, 0, "in")])) == [
        "in",
        "L",
        "tag",
        "E",
    ]


def test_each_feed_has_separate_stage_instances(registry: Registry, marker: Any) -> None:
    feeds = [FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("marker",)) for _ in range(2)]
    plans = composed(registry, Stack(feeds=tuple(feeds))).plans
    first, second = (ComposedFeed(plan).stages["marker"] for plan in plans)

    assert first is not second
    assert marker.stages == [first, second]


def test_only_hooks_of_plugins_in_the_stack_are_called(stocked: Registry) -> None:
    class Jealous:
        @hookimpl
        def connect(self, feed: Any) -> Any:
            raise AssertionError("nobody asked for this venue")

        @hookimpl(wrapper=True)
        def parse(self, feed: Any) -> Generator[None, Any, Any]:
            yield
            raise AssertionError("nobody asked to be wrapped")

    stocked.register(Jealous(), "jealous")

    assert composed(stocked, stack("tagger")).plans


# ---------------------------------------------------------------------------------------- wrappers


@pytest.mark.parametrize("kind", [Spy, SpyStage])
def test_a_plugin_in_the_stack_may_wrap_the_parser_and_the_stages_of_others(
    stocked: Registry, kind: type[Spy]
) -> None:
    spy = kind()
    stocked.register(spy, "spy")
    plan = ComposedFeed(composed(stocked, stack("tagger", "spy")).plans[0])
    events = plan.process(plan.parse(Frames([TRADE], 5)))

    assert spy.seen == ["parse", "validate"]
    assert [type(event) for event in events] == [Trade, Status]


class Quieter:
    """Wraps the transport, and has settings."""

    @attrs.frozen
    class Settings:
        word: str = "none"

    def __init__(self) -> None:
        self.dialled: list[str] = []

    @hookimpl
    def settings(self) -> type[Any]:
        return self.Settings

    @hookimpl(wrapper=True)
    def transport(self, feed: Any) -> Generator[None, Any, Any]:
        inner = yield

        def dial(endpoint: Endpoint) -> Any:
            self.dialled.append(f"{feed.stage_settings['quieter'].word} {endpoint.url}")
            return inner(endpoint)

        return dial


async def test_a_plugin_in_the_stack_may_wrap_any_transport(stocked: Registry) -> None:
    quieter = Quieter()
    stocked.register(quieter, "quieter")
    given = Stack(
        feeds=(FeedSpec("acme", ("BTC/USD",), ("trades",), stages=("quieter",)),),
        stages={"quieter": {"word": "hush"}},
    )

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(TRADE.decode())

    wire = FakeWire(answer)
    async with tapeloom.open(given, registry=stocked, dial=wire.dial) as stream:
        async for _ in stream.of(Trade):
            break
    (plan,) = stream.plans

    assert quieter.dialled == [f"hush {plan.endpoints[0].url}"]
    assert plan.transport.base_dial == wire.dial


def test_a_failing_parser_wrapper_rejects_one_frame_only(stocked: Registry) -> None:
    class Clumsy(SpyStage):
        @hookimpl(wrapper=True)
        def parse(self, feed: Any) -> Generator[None, Any, Any]:
            inner = yield

            def parse(frames: Frames) -> list[Event]:
                if any(b'"t": 2' in frame for frame in frames):
                    raise ZeroDivisionError("clumsy")
                return list(inner(frames))

            return parse

    stocked.register(Clumsy(), "clumsy")
    plan = ComposedFeed(composed(stocked, stack("clumsy")).plans[0])
    frames = [TRADE, TRADE.replace(b'"t": 1', b'"t": 2'), TRADE.replace(b'"i": 1', b'"i": 3')]
    events = plan.parse(Frames(frames, 5))

    assert [e.rule if isinstance(e, Reject) else e.id for e in events] == [1, "parser_error", 3]  # type: ignore[union-attr]


# ---------------------------------------------------------------------------------------- mistakes


def test_a_plugin_without_stage_hooks_is_a_mistake(stocked: Registry) -> None:
    assert mistakes(stocked, stack("store", "tagger")) == [
        "stage.store: the plugin 'store' is not a stage: it validates, aggregates and wraps nothing"
    ]


def test_settings_for_a_plugin_without_settings_are_mistakes(stocked: Registry) -> None:
    given = stack("plain", tables={"plain": StageSpec("plain", "plain", {"speed": 1, "depth": 2})})

    assert mistakes(stocked, given) == [
        "stage.plain.speed: the plugin 'plain' takes no settings",
        "stage.plain.depth: the plugin 'plain' takes no settings",
    ]


def test_a_plugin_that_is_not_a_venue_is_a_mistake_at_its_place(stocked: Registry) -> None:
    spec = FeedSpec("tagger", ["BTC/USD"], ["trades"])
    (mistake,) = mistakes(stocked, Stack(feeds=(spec,)))

    assert mistake.startswith("feed[0].venue: the plugin 'tagger' is not a venue")


def test_a_plugin_that_is_not_a_sink_is_a_mistake_at_its_place(stocked: Registry) -> None:
    given = stack(sinks=(SinkSpec("tagger"),))

    assert mistakes(stocked, given) == [
        "sink[0].use: the plugin 'tagger' is not a sink: it does not implement `sink`"
    ]


def test_an_unknown_event_type_of_a_sink_is_a_mistake_at_its_place(stocked: Registry) -> None:
    found = mistakes(stocked, stack(sinks=(SinkSpec("store", types=("trade", "bars", "candle")),)))

    assert found[0] == "sink[0].types[1]: 'bars' is not an event type. Did you mean 'bar'?"
    assert found[1].startswith("sink[0].types[2]: 'candle' is not an event type. Known: ")
    known = found[1].rpartition("Known: ")[2].split(", ")
    assert {"bar", "gap", "trade"} <= set(known)
    assert known == sorted(known)


def test_the_types_of_a_sink_are_not_judged_while_a_plugin_is_missing(stocked: Registry) -> None:
    sink = SinkSpec("store", types=("type_of_a_missing_plugin",))
    with pytest.raises(PluginNotFound, match="'markre'"):
        composed(stocked, stack("markre", sinks=(sink,)))

    unread = [Mistake("feed[1].stages", "expected an array")]
    given = compose(stack(sinks=(sink,)), stocked, VirtualClock(), mistakes=unread)

    assert list(given.mistakes) == unread


def test_an_unserved_channel_is_reported_with_the_served_ones(registry: Registry) -> None:
    spec = FeedSpec("acme", ["BTC/USD"], ["trades", "ticker"])

    assert mistakes(registry, Stack(feeds=(spec,))) == [
        "feed[0].channels: acme has no channel 'ticker' here; it has book, trades"
    ]


def test_a_symbol_that_the_market_cannot_have_is_a_mistake_at_its_feed(
    registry: Registry, acme: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def native(self: Any, symbol: str) -> str:
        raise tapeloom.errors.SymbolError(f"acme has no {symbol}")

    monkeypatch.setattr(type(acme.subscribe(None)), "native", native)

    assert mistakes(registry, stack()) == ["feed[0].symbols: acme has no BTC/USD"]


def test_mistakes_of_all_plugins_are_reported_at_once(stocked: Registry) -> None:
    feeds = (
        FeedSpec("acme", ["BTC/USD"], ["trades"], stages=("a", "plain")),
        FeedSpec("acme", ["BTC/USD"], ["ticker"], name="other"),
        FeedSpec("nowhere", ["BTC/USD"], ["trades"]),
    )
    given = Stack(
        feeds=feeds,
        stages={
            "a": StageSpec("a", "tagger", {"tag": 7, "laud": True}),
            "plain": StageSpec("plain", "plain", {"speed": 1}),
        },
        sinks=(SinkSpec("plain"),),
    )
    found = mistakes(stocked, given)

    assert len(found) == 6
    for part in (
        "stage.a.tag: ",
        "stage.a.laud: unknown key. Did you mean 'loud'?",
        "stage.plain.speed: ",
        "feed[1].channels: ",
        "sink[0].use: ",
        "no plugin named 'nowhere' is installed",
    ):
        assert any(part in mistake for mistake in found), part


def test_a_missing_plugin_alone_raises_plugin_not_found(registry: Registry) -> None:
    with pytest.raises(PluginNotFound, match="Did you mean 'marker'"):
        composed(registry, stack("markre"))


def test_an_invalid_sink_setting_is_a_mistake_of_the_stack(stocked: Registry) -> None:
    (mistake,) = mistakes(stocked, stack(sinks=(SinkSpec("store", table={"tag": 5}),)))

    assert mistake.startswith("sink[0].tag: ")


def test_a_sink_receives_its_settings(stocked: Registry) -> None:
    given = stack(sinks=(SinkSpec("store", table={"tag": "S"}), SinkSpec("store")))

    assert [plan.sink.tag for plan in composed(stocked, given).sinks] == ["S", "tag"]


class ConnectResult:
    """A venue whose `connect` returns what a test gives it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @hookimpl
    def connect(self, feed: Any) -> Any:
        return self.answer


@pytest.mark.parametrize(
    "answer", [Endpoint(url="ws://x"), "ws://x", 7, [7]], ids=["endpoint", "text", "number", "list"]
)
def test_connect_with_an_invalid_result_raises_plugin_broken(
    registry: Registry, answer: Any
) -> None:
    registry.register(ConnectResult(answer), "odd")
    with pytest.raises(PluginBroken, match="'odd'"):
        composed(registry, Stack(feeds=(FeedSpec("odd", ["BTC/USD"], ["trades"]),)))


def test_a_venue_with_endpoints_but_without_codec_raises_plugin_broken(registry: Registry) -> None:
    registry.register(ConnectResult([Endpoint(url="ws://x")]), "odd")
    with pytest.raises(TapeloomError, match=r"'odd'.*subscribe"):
        composed(registry, Stack(feeds=(FeedSpec("odd", ["BTC/USD"], ["trades"]),)))


def test_a_hook_that_raises_is_reported_with_its_plugin(registry: Registry) -> None:
    class Broken:
        @hookimpl
        def validate(self, feed: Any) -> Any:
            raise ZeroDivisionError("oops")

    registry.register(Broken(), "broken")
    with pytest.raises(PluginBroken, match=r"'broken'.*ZeroDivisionError: oops"):
        composed(registry, stack("broken"))


# ----------------------------------------------------------------------------- parsers and stages


def test_a_guarded_parser_rejects_only_the_failing_frame_in_order() -> None:
    def parse(frames: Frames) -> list[Event]:
        return [Status("v", "", int(frame), frames.recv, "x") for frame in frames]

    unreadable: list[tuple[int, bytes, str]] = []
    parsed = guarded(parse, "acme", lambda *call: unreadable.append(call))
    events = parsed(Frames([b"1", b"x\xff", b"3", b""], 9))

    assert [e.rule if isinstance(e, Reject) else e.ts for e in events] == [
        1,
        "parser_error",
        3,
        "parser_error",
    ]
    assert all(event.recv == 9 for event in events)
    assert "ValueError" in events[1].evidence  # type: ignore[union-attr]
    assert [call[:2] for call in unreadable] == [(9, b"x\xff"), (9, b"")]


class Breaking:
    """A stage that raises in the method named *where*."""

    def __init__(self, where: str) -> None:
        self.where = where

    @hookimpl
    def validate(self, feed: Any) -> Any:
        where = self.where

        class Stage:
            due = 0

            def __call__(self, events: list[Event]) -> list[Event]:
                return self._at("call", events)

            def tick(self, now: int) -> list[Event]:
                return self._at("tick", [])

            def flush(self) -> list[Event]:
                return self._at("flush", [])

            def _at(self, place: str, events: list[Event]) -> list[Event]:
                if where == place:
                    raise ZeroDivisionError("oops")
                return events

        return Stage()


@pytest.mark.parametrize("where", ["call", "tick", "flush"])
def test_a_stage_with_on_error_end_is_named_in_the_error(stocked: Registry, where: str) -> None:
    stocked.register(Breaking(where), "breaking")
    tables = {"mine": StageSpec("mine", "breaking", on_error="end")}
    pipeline = ComposedFeed(
        composed(stocked, stack("tagger", "mine", "plain", tables=tables)).plans[0]
    )
    run: dict[str, Callable[[], Any]] = {
        "call": lambda: pipeline.process([Status("acme", "", 0, 0, "x")]),
        "tick": lambda: pipeline.tick(5),
        "flush": pipeline.flush,
    }
    with pytest.raises(StageFailed, match="stage 'mine' raised ZeroDivisionError: oops") as caught:
        run[where]()

    assert caught.value.stage == "mine"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Moody:
    """A stage that counts the events it passed on, and raises at the trades in *bad*."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad
        self.made = 0

    @hookimpl
    def validate(self, feed: Any) -> Any:
        self.made += 1
        seen: list[Event] = []

        def stage(events: list[Event]) -> list[Event]:
            out: list[Event] = []
            for event in events:
                if isinstance(event, Trade) and event.id in self.bad:
                    raise ZeroDivisionError(f"at {event.id}")
                seen.append(event)
                out += [event, Status("acme", "", 0, 0, f"number {len(seen)}")]
            return out

        return stage


def trades(*ids: int) -> list[Event]:
    return [
        Trade("acme", "BTC/USD", n, n, Decimal(1), Decimal(1), "buy", n, channel="trades")
        for n in ids
    ]


def summary(events: list[Event]) -> list[Any]:
    """Return trades by their id, rejects as ("no", id), statuses by their state."""
    return [
        event.id
        if isinstance(event, Trade)
        else ("no", event.event.id)
        if isinstance(event, Reject) and isinstance(event.event, Trade)
        else event.state
        for event in events
        if isinstance(event, Trade | Reject | Status)
    ]


def test_a_stage_that_raises_is_restarted_and_only_that_event_is_rejected(
    stocked: Registry,
) -> None:
    moody = Moody(3)
    stocked.register(moody, "moody")
    plan = ComposedFeed(composed(stocked, stack("moody", "plain")).plans[0])
    before, at, after = (plan.process(trades(*ids)) for ids in ((1,), (2, 3, 4), (5,)))

    assert summary(before) == [1, "number 1", "plain"]
    assert summary(at) == ["stage_restarted", 2, "number 1", ("no", 3), 4, "number 2", "plain"]
    assert summary(after) == [5, "number 3", "plain"]
    assert moody.made == 2
    assert plan.feed.counters["stage_errors"] == 1
    (reject,) = (event for event in at if isinstance(event, Reject))
    assert reject.rule == "stage_failed"
    assert reject.evidence == "stage 'moody' raised ZeroDivisionError: at 3"


def test_a_stage_that_raises_repeatedly_is_disabled_and_other_stages_continue(
    stocked: Registry,
) -> None:
    moody = Moody(*range(100))
    stocked.register(moody, "moody")
    plan = ComposedFeed(composed(stocked, stack("moody", "plain")).plans[0])
    out = [summary(plan.process(trades(n))) for n in range(8)]

    assert out[:5] == [["stage_restarted", ("no", n), "plain"] for n in range(5)]
    assert out[5:] == [["stage_disabled", 5, "plain"], [6, "plain"], [7, "plain"]]
    assert moody.made == 6


def test_a_stage_with_on_error_disable_is_disabled_at_once(stocked: Registry) -> None:
    stocked.register(Moody(1), "moody")
    tables = {"moody": StageSpec("moody", on_error="disable")}
    pipeline = ComposedFeed(composed(stocked, stack("moody", "plain", tables=tables)).plans[0])

    assert summary(pipeline.process(trades(1, 2))) == ["stage_disabled", 1, 2, "plain"]
    assert summary(pipeline.process(trades(1))) == [1, "plain"]


@pytest.mark.parametrize("where", ["tick", "flush"])
def test_a_stage_that_raises_in_tick_or_flush_is_restarted(stocked: Registry, where: str) -> None:
    stocked.register(Breaking(where), "breaking")
    pipeline = ComposedFeed(composed(stocked, stack("breaking", "plain")).plans[0])
    run = {"tick": lambda: pipeline.tick(5), "flush": pipeline.flush}[where]

    assert summary(run()) == ["stage_restarted", "plain"]
    assert summary(pipeline.process(trades(1))) == [1, "plain"]


def test_events_of_a_tick_pass_through_later_stages_only(stocked: Registry, marker: Any) -> None:
    pipeline = ComposedFeed(composed(stocked, stack("tagger", "marker", "plain")).plans[0])
    marker.stages[0].due = 5

    assert pipeline.due == 5
    assert states(pipeline.tick(4)) == []
    assert states(pipeline.tick(5)) == ["ticked", "plain"]
    assert pipeline.due is None
    assert states(pipeline.flush()) == ["flushed", "plain"]


def test_history_queries_are_kept_until_a_listener_is_set(registry: Registry) -> None:
    plan = composed(registry, stack()).plans[0]
    received: list[HistoryQuery] = []
    plan.feed.query_history(HistoryQuery("book", "BTC/USD"))
    plan.queries.listen(received.append)
    plan.feed.query_history(HistoryQuery("book", "ETH/USD"))

    assert [query.symbol for query in received] == ["BTC/USD", "ETH/USD"]


# ----------------------------------------------------------------------------------------- sources


class Pump:
    """A source that runs the function that a test gives it."""

    def __init__(self, play: Any, backends: Any = ("asyncio", "trio")) -> None:
        self.backends = frozenset(backends)
        self.channels = frozenset({"trades"})
        self.resumes = False
        self.play = play

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        await self.play(deliver)

    def symbols_changed(self) -> None:
        pass


def pumping(registry: Registry, play: Any, backends: Any = ("asyncio", "trio")) -> Stack:
    registry.register(ConnectResult(Pump(play, backends)), "pump")
    return Stack(feeds=(FeedSpec("pump", ["BTC/USD"], ["trades"], stages=("tagger",)),))


async def test_events_of_a_source_pass_through_the_stages_until_it_returns(
    stocked: Registry,
) -> None:
    async def play(deliver: Any) -> None:
        for n in range(3):
            await deliver([Status("pump", "", n, n, f"n{n}")])
            await deliver([])

    async with tapeloom.open(pumping(stocked, play), registry=stocked) as stream:
        with anyio.fail_after(5):
            events = [event async for event in stream]

    assert states(events) == ["n0", "tag", "n1", "tag", "n2", "tag", "ended"]


async def test_stopping_a_stream_stops_its_source(stocked: Registry) -> None:
    async def play(deliver: Any) -> None:
        await deliver([Status("pump", "", 0, 0, "first")])
        await anyio.sleep_forever()

    async with tapeloom.open(pumping(stocked, play), registry=stocked) as stream:
        with anyio.fail_after(5):
            events = []
            async for event in stream:
                events.append(event)
                stream.stop()

    assert states(events) == ["first", "tag", "ended"]


async def test_a_source_that_fails_ends_its_feed_with_its_own_error(stocked: Registry) -> None:
    failed = ConnectionFailed("pump", "no such gateway")
    failed.retryable = False

    async def play(deliver: Any) -> None:
        await deliver([Status("pump", "", 0, 0, "first")])
        raise failed

    events: list[Event] = []
    with pytest.raises(ConnectionFailed, match="no such gateway") as caught, anyio.fail_after(5):
        async with tapeloom.open(pumping(stocked, play), registry=stocked) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401

    assert caught.value is failed
    assert states(events) == ["first", "tag", "failed"]


async def test_a_source_that_fails_is_restarted_and_its_gap_is_reported(stocked: Registry) -> None:
    runs: list[int] = []

    async def play(deliver: Any) -> None:
        n = 100 * len(runs)
        runs.append(n)
        price = Decimal(1)
        await deliver([Trade("pump", "BTC/USD", n + 5, n + 6, price, price, "buy", n)])
        if n < 200:
            raise (
                ConnectionLost("pump", "gone")
                if n
                else Throttled("pump", "wait", retry_after_seconds=9)
            )

    clock = VirtualClock()
    given = pumping(stocked, play)
    with anyio.fail_after(5):
        async with clock.running(), tapeloom.open(given, registry=stocked, clock=clock) as stream:
            events = [event async for event in stream]
    gaps = [event for event in events if isinstance(event, Gap)]

    assert runs == [0, 100, 200]
    assert [(gap.symbol, gap.channel, gap.since, gap.until) for gap in gaps] == [
        ("BTC/USD", "trades", 5, 105),
        ("BTC/USD", "trades", 105, 205),
    ]
    assert [e.state for e in events if isinstance(e, Status) and e.state == "reconnecting"] == [
        "reconnecting"
    ] * 2
    assert clock.monotonic() >= 9
    kinds = [type(e) for e in events if isinstance(e, Trade | Gap)]
    assert kinds == [Trade, Gap, Trade, Gap, Trade]


async def test_a_source_that_resumes_reports_no_gap(stocked: Registry) -> None:
    runs: list[int] = []

    async def play(deliver: Any) -> None:
        runs.append(1)
        await deliver([Trade("pump", "BTC/USD", 5, 6, Decimal(1), Decimal(1), "buy", "x")])
        if len(runs) == 1:
            raise ConnectionLost("pump", "gone")

    pump = Pump(play)
    pump.resumes = True
    stocked.register(ConnectResult(pump), "pump")
    clock = VirtualClock()
    feed = FeedSpec("pump", ["BTC/USD"], ["trades"])
    with anyio.fail_after(5):
        async with clock.running(), tapeloom.open(feed, registry=stocked, clock=clock) as stream:
            events = [event async for event in stream]

    assert len(runs) == 2
    assert not [event for event in events if isinstance(event, Gap)]


async def test_a_source_is_notified_when_symbols_change(stocked: Registry) -> None:
    pump = Pump(lambda _: anyio.sleep_forever())
    notified: list[list[str]] = []
    pump.symbols_changed = lambda: notified.append(list(stream.plans[0].feed.symbols))  # type: ignore[method-assign]
    stocked.register(ConnectResult(pump), "pump")
    feed = FeedSpec("pump", ["BTC/USD"], ["trades"])
    async with tapeloom.open(feed, registry=stocked) as stream:
        await stream.add("ETH/USD")
        await stream.drop("BTC/USD")

    assert notified == [["BTC/USD", "ETH/USD"], ["ETH/USD"]]


def test_a_channel_that_a_source_does_not_serve_is_a_mistake_of_the_stack(
    stocked: Registry,
) -> None:
    stocked.register(ConnectResult(Pump(None)), "pump")

    with pytest.raises(ConfigError, match="pump has no channel 'quotes' here; it has trades"):
        tapeloom.open(FeedSpec("pump", ["BTC/USD"], ["quotes"]), registry=stocked)


def test_a_mistake_raised_by_a_venue_has_the_place_of_its_feed(stocked: Registry) -> None:
    class Picky(ConnectResult):
        @hookimpl
        def connect(self, feed: Any) -> Any:
            raise ConfigError([Mistake("channels[0]", "not this one")])

    stocked.register(Picky(None), "picky")
    feeds = [FeedSpec("acme", ["BTC/USD"], ["trades"]), FeedSpec("picky", ["BTC/USD"], ["trades"])]

    with pytest.raises(ConfigError, match=r"feed\[1\]\.channels\[0\]: not this one"):
        tapeloom.open(feeds, registry=stocked)


async def test_a_book_without_history_request_is_resubscribed(registry: Registry) -> None:
    asked: list[str] = []

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        while True:
            message = json.loads(await end.take())
            asked.extend(f"{message['op']} {name}" for name in message["args"])
            end.push(json.dumps({"ok": message["id"]}))

    feed = FeedSpec("acme", ["BTC/USD"], ["book"])
    async with tapeloom.open(feed, registry=registry, dial=FakeWire(answer).dial) as stream:
        async for event in stream.of(Status):
            if event.state == "subscribed" and len(asked) == 1:
                stream.plans[0].feed.query_history(HistoryQuery("book", "BTC/USD", "book"))
            elif event.state == "subscribed":
                stream.stop()

    assert asked[:3] == ["sub BTCUSD@book", "unsub BTCUSD@book", "sub BTCUSD@book"]


async def test_a_source_is_rejected_on_an_unsupported_event_loop(
    stocked: Registry, anyio_backend: str
) -> None:
    async def play(deliver: Any) -> None:
        await deliver([Status("pump", "", 0, 0, "first")])

    given = pumping(stocked, play, ["asyncio"])
    async with tapeloom.open(given, registry=stocked) as stream:
        error: Exception | None = None
        try:
            with anyio.fail_after(5):
                events = [event async for event in stream]
        except BackendUnsupported as refused:
            error = refused

    if anyio_backend == "asyncio":
        assert states(events)[0] == "first"
    else:
        assert 'Set backend = "asyncio"' in str(error)


async def test_an_unsupported_history_query_of_a_source_is_reported(stocked: Registry) -> None:
    async def play(deliver: Any) -> None:
        stream.plans[0].feed.query_history(HistoryQuery("book", "BTC/USD"))
        await anyio.sleep_forever()

    async with tapeloom.open(pumping(stocked, play), registry=stocked) as stream:
        with anyio.move_on_after(1):
            async for event in stream.of(Status):
                if event.state == "request_failed":
                    break
            return
    pytest.fail("the query was neither answered nor refused")


async def test_a_failed_feed_does_not_end_the_others(stocked: Registry) -> None:
    async def play(deliver: Any) -> None:
        raise LoginRefused("pump", "no such account")

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        end.push(json.dumps({"ok": json.loads(await end.take())["id"]}), TRADE)
        await anyio.sleep_forever()

    feeds = (*pumping(stocked, play).feeds, FeedSpec("acme", ["BTC/USD"], ["trades"]))
    async with tapeloom.open(feeds, registry=stocked, dial=FakeWire(answer).dial) as stream:
        failed: FeedError | None = None
        seen: list[str] = []
        with anyio.fail_after(5):
            try:
                async for event in stream:
                    seen.append(event.state if isinstance(event, Status) else event.type)
                    if {"failed", "trade"} <= set(seen):
                        stream.stop()
            except FeedError as error:
                failed = error

    assert "trade" in seen
    assert seen[-1] == "ended"
    assert isinstance(failed, LoginRefused)


async def test_symbols_may_be_added_before_the_first_connection(registry: Registry) -> None:
    asked: list[str] = []

    async def answer(end: WireEnd, endpoint: Endpoint) -> None:
        while True:
            message = json.loads(await end.take())
            asked.extend(message["args"])
            end.push(json.dumps({"ok": message["id"]}))

    async with tapeloom.open(stack(), registry=registry, dial=FakeWire(answer).dial) as stream:
        await stream.add("ETH/USD")
        stream.consume()
        with anyio.fail_after(5):
            while len(asked) < 2:  # noqa: ASYNC110 - it is the outside that changes
                await anyio.sleep(0.001)

    assert asked[:2] == ["BTCUSD@trades", "ETHUSD@trades"]


async def test_an_unknown_feed_or_stage_is_reported_with_the_known_ones(registry: Registry) -> None:
    async with tapeloom.open(stack("marker"), registry=registry) as stream:
        with pytest.raises(ConfigError, match="there is no feed 'other': 'acme'"):
            await stream.add("ETH/USD", feed="other")
        with pytest.raises(ConfigError, match=r"there is no stage 'bars', only \['marker'\]"):
            stream.stage("bars")

        assert stream.stage("marker").due is None
