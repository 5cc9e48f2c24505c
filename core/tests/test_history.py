"""HistoryClient and RestClient: queries are answered once, within the rate limit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
import tapeloom
from attrs import define, field
from tapeloom import Book, Event, FeedSpec, Gap, Registry, Stack, Status, Trade
from tapeloom._compose.composer import compose
from tapeloom._compose.plan import FeedPlan
from tapeloom._history.listing_check import check_symbols
from tapeloom._history.query_queue import HistoryClient
from tapeloom._history.rest_client import RestClient
from tapeloom._runtime.rate_limits import RateLimits
from tapeloom._stream.pipeline import Pipeline
from tapeloom.errors import ConnectionFailed, RequestRefused, SymbolError
from tapeloom.hooks import hookimpl
from tapeloom.plugin import HistoryQuery, Request, Subscription
from tapeloom_testing import FakeVenue, FakeWire, VirtualClock, WireEnd

BOOK = b'{"b": [["1.5", "2"]], "a": [["1.6", "3"]], "u": 7}'
LISTED = b'["BTC/USD", "ETH/USD"]'
CUT = object()


class Answers(dict[str, Any]):
    """The venue's answers in order, the last one repeated; `asked` holds (seconds, path)."""

    def __init__(self, clock: VirtualClock, *answers: Any) -> None:
        super().__init__()
        self.clock = clock
        self.asked: list[tuple[float, str]] = []
        self.answers = list(answers)

    def get(self, path: str, default: Any = None) -> Any:
        self.asked.append((self.clock.monotonic(), path))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is CUT:
            raise anyio.EndOfStream
        return answer if isinstance(answer, tuple) else (200, {}, answer)

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.asked]


@define
class Rig:
    clock: VirtualClock
    http: Answers
    plan: FeedPlan
    rest: RestClient
    client: HistoryClient
    got: list[Event] = field(factory=list)

    def ask(self, symbol: str = "BTC/USD", kind: Any = "book", **more: Any) -> None:
        self.plan.feed.query_history(HistoryQuery(kind, symbol, channel="book", **more))

    async def until(self, count: int) -> None:
        with anyio.fail_after(10):
            while len(self.got) < count:
                await self.clock.sleep(0.05)


@asynccontextmanager
async def history_client(
    registry: Registry,
    *answers: Any,
    spec: FeedSpec | None = None,
    run: bool = True,
    event_rate: Callable[[Subscription], float] = lambda _: 0.0,
    **settings: Any,
) -> AsyncIterator[Rig]:
    clock = VirtualClock()
    http = Answers(clock, *answers)
    venue = FakeVenue(lambda client: anyio.sleep_forever(), http=http)
    async with venue.serve(), httpx.AsyncClient(trust_env=False) as client:
        spec = spec or FeedSpec("acme", ["BTC/USD"], ["book"])
        stack = Stack(feeds=(spec,), venues={"acme": {"rest": venue.url("http"), **settings}})
        plan = compose(stack, registry, clock, 1).plans[0]
        got: list[Event] = []
        pipeline = Pipeline(plan.feed, plan.steps)

        async def emit(events: list[Event]) -> None:
            got.extend(pipeline(events))

        rest = RestClient(plan, client, RateLimits(clock))
        history = HistoryClient(plan, rest, emit, event_rate=event_rate)
        async with clock.running(), anyio.create_task_group() as tasks:
            if run:
                tasks.start_soon(history.run)
            yield Rig(clock, http, plan, rest, history, got)
            tasks.cancel_scope.cancel()


# ------------------------------------------------------------------------------------- answers


async def test_the_answer_is_emitted_as_events(registry: Registry) -> None:
    async with history_client(registry, BOOK) as rig:
        rig.ask()
        await rig.until(1)
    (book,) = rig.got

    assert isinstance(book, Book)
    assert (book.symbol, book.kind, book.last_id, book.origin) == (
        "BTC/USD",
        "snapshot",
        7,
        "history",
    )


async def test_the_answer_goes_through_the_stages(registry: Registry) -> None:
    class Counting:
        @hookimpl
        def validate(self, feed: Any) -> Any:
            def stage(events: list[Event]) -> list[Event]:
                extra = [Status("acme", "", 0, 0, "staged") for e in events if isinstance(e, Book)]
                return [*events, *extra]

            return stage

    registry.register(Counting(), "counting")
    async with history_client(
        registry, BOOK, spec=FeedSpec("acme", ["BTC/USD"], ["book"], stages=("counting",))
    ) as rig:
        rig.ask()
        await rig.until(2)

    assert [type(event) for event in rig.got] == [Book, Status]


async def test_queries_before_the_client_runs_are_answered(registry: Registry) -> None:
    async with history_client(registry, BOOK, run=False) as rig:
        rig.ask()
        rig.ask("ETH/USD")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rig.client.run)
            await rig.until(2)
            tasks.cancel_scope.cancel()

    assert [event.symbol for event in rig.got] == ["BTC/USD", "ETH/USD"]


async def test_a_query_repeated_while_queued_is_answered_once(registry: Registry) -> None:
    async with history_client(registry, BOOK) as rig:
        for _ in range(3):
            rig.ask()
            rig.ask("ETH/USD")
        await rig.until(2)
        await rig.clock.sleep(5)
        answered = len(rig.got)
        rig.ask()
        await rig.until(3)

    assert answered == 2
    assert [path for _, path in rig.http.asked] == [
        "/book?s=BTC/USD",
        "/book?s=ETH/USD",
        "/book?s=BTC/USD",
    ]


async def test_no_window_holds_more_requests_than_the_rate_limit(registry: Registry) -> None:
    async with history_client(registry, BOOK) as rig:
        for n in range(35):
            rig.ask(f"S{n}/USD")
        await rig.until(35)
    times = rig.http.times

    # A request goes out a little after its weight was acquired, never before.
    assert all(sum(start <= t < start + 0.9 for t in times) <= 10 for start in times)
    assert times[-1] >= 3


# ----------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("failure", [(500, {}, b"down"), (503, {}, b""), CUT])
async def test_a_temporary_failure_is_retried(registry: Registry, failure: Any) -> None:
    async with history_client(registry, failure, failure, BOOK) as rig:
        rig.ask()
        await rig.until(1)

    assert isinstance(rig.got[0], Book)
    assert len(rig.http.asked) == 3


async def test_a_lasting_failure_is_reported_after_five_attempts(registry: Registry) -> None:
    async with history_client(registry, (500, {}, b"down")) as rig:
        rig.ask()
        await rig.until(1)
        await rig.clock.sleep(100)
    (status,) = rig.got

    assert isinstance(status, Status)
    assert (status.state, status.symbol, status.channel) == ("request_failed", "BTC/USD", "book")
    assert "HTTP 500" in status.detail
    assert len(rig.http.asked) == 5


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("after", ["30", "Tue, 14 Nov 2023 22:13:51 GMT"])  # the clock's, and 31 s
async def test_a_pause_that_the_venue_demands_is_kept(
    registry: Registry, after: str, status: int
) -> None:
    async with history_client(registry, (status, {"retry-after": after}, b"slower"), BOOK) as rig:
        rig.ask()
        rig.ask("ETH/USD")
        await rig.until(2)

    assert rig.http.times[1] - rig.http.times[0] >= 30
    assert all(isinstance(event, Book) for event in rig.got)


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_a_refused_request_is_reported_with_the_reason_of_the_venue_and_not_repeated(
    registry: Registry, status: int
) -> None:
    async with history_client(registry, (status, {}, b"no such market"), BOOK) as rig:
        rig.ask()
        rig.ask("ETH/USD")
        await rig.until(2)
    first, second = rig.got

    assert isinstance(first, Status)
    assert first.state == "request_failed"
    assert f"HTTP {status}" in first.detail
    assert "no such market" in first.detail
    assert isinstance(second, Book)
    assert len(rig.http.asked) == 2


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"b": []}', b"null", b"\xff\xfe", b""])
async def test_an_unreadable_answer_is_reported_and_does_not_affect_the_next(
    registry: Registry, body: bytes
) -> None:
    async with history_client(registry, body, BOOK) as rig:
        rig.ask()
        rig.ask("ETH/USD")
        await rig.until(2)
    first, second = rig.got

    assert isinstance(first, Status)
    assert first.state == "request_failed"
    assert isinstance(second, Book)


async def test_a_query_that_the_venue_cannot_answer_is_reported(registry: Registry) -> None:
    async with history_client(registry, BOOK) as rig:
        rig.ask(kind="bars", interval="1m")
        await rig.until(1)
    (status,) = rig.got

    assert isinstance(status, Status)
    assert status.state == "request_failed"
    assert "no history of the kind 'bars'" in status.detail
    assert rig.http.asked == []


# ------------------------------------------------------------------------------ listing


@pytest.mark.parametrize("dropped", [False, True])
async def test_a_gap_of_a_symbol_dropped_meanwhile_is_not_reported_as_filled(
    registry: Registry, dropped: bool
) -> None:
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"])
    async with history_client(registry, b"[]", spec=spec) as rig:
        rig.plan.history.past_trades = True  # type: ignore[union-attr]
        gap = Gap("acme", "BTC/USD", 9, 9, 1, 9, "disconnect", channel="trades")
        rig.client.on_gap(gap, None, None, tuple)
        if dropped:  # it has no native name any more, so every answer is empty
            rig.plan.feed.symbols.clear()
        await rig.until(1)
    (last,) = rig.got

    assert isinstance(last, Gap)
    assert last.state == ("unrecoverable" if dropped else "filled")


async def test_an_unlisted_symbol_is_refused_by_name_and_the_others_stay(
    registry: Registry,
) -> None:
    spec = FeedSpec("acme", ["BTC/USDT", "ETH/USD"], ["trades"])
    async with history_client(registry, LISTED, spec=spec, run=False) as rig:
        (refused,) = await check_symbols(rig.rest, rig.plan)

    assert (refused.state, refused.symbol, refused.channel) == ("refused", "BTC/USDT", "")
    assert refused.detail == "acme does not list 'BTC/USDT'. Did you mean 'BTC/USD'?"
    assert rig.plan.feed.symbols == ["ETH/USD"]
    assert rig.plan.feed.listing.native == {"ETH/USD": "ETHUSD"}


async def test_it_is_an_error_if_no_listed_symbol_is_left(registry: Registry) -> None:
    spec = FeedSpec("acme", ["BTC/USDT", "OLD/USD"], ["trades"])
    listed = b'["BTC/USD", ["OLD/USD", "", false]]'
    async with history_client(registry, listed, spec=spec, run=False) as rig:
        with pytest.raises(SymbolError, match=r"'BTC/USDT'.*Did you mean 'BTC/USD'.*'OLD/USD'"):
            await check_symbols(rig.rest, rig.plan)


@pytest.mark.parametrize(
    ("listed", "symbols", "left", "details"),
    [
        (
            b'["BTC/USD", ["OLD/USD", "", false]]',
            ["OLD/USD", "BTC/USD"],
            ["BTC/USD"],
            ["acme lists 'OLD/USD' as delisted or expired. Remove it from the feed's symbols."],
        ),
        # The venue as a whole is halted: that passes.
        (b'[["OLD/USD", "", false]]', ["OLD/USD"], ["OLD/USD"], []),
        # An old instrument with the name of a new one.
        (b'[["BTC/USD", "B1", false], ["BTC/USD", "B2", true]]', ["BTC/USD"], ["BTC/USD"], []),
        (
            b'[["X/USD", "X1", true], ["X/USD", "X2", true], ["UX/USD", "X2", true], "BTC/USD"]',
            ["X/USD", "UX/USD"],
            ["UX/USD"],
            ["acme has several instruments 'X/USD': X1, X2. Write 'UX/USD' for X2."],
        ),
        (
            b'[["X/USD", "X2", true], ["UX/USD", "X2", true]]',
            ["X/USD", "UX/USD"],
            ["UX/USD"],
            ["acme has one instrument for 'X/USD' and 'UX/USD'. Write one of them."],
        ),
    ],
)
async def test_symbols_that_the_listing_speaks_against_are_refused_with_a_remedy(
    registry: Registry, listed: bytes, symbols: list[str], left: list[str], details: list[str]
) -> None:
    spec = FeedSpec("acme", symbols, ["trades"])
    async with history_client(registry, listed, spec=spec, run=False) as rig:
        refused = await check_symbols(rig.rest, rig.plan)

    assert [status.detail for status in refused] == details
    assert rig.plan.feed.symbols == left
    assert [*rig.plan.feed.listing.native] == left
    assert {rig.plan.feed.listing.unified[name] for name in rig.plan.feed.listing.native.values()}


async def test_a_symbol_added_later_has_the_name_that_the_venue_lists(registry: Registry) -> None:
    async with history_client(registry, b'["BTC/USD", ["X/USD", "@20", true]]', run=False) as rig:
        await check_symbols(rig.rest, rig.plan)
        rig.plan.add_symbols(["X/USD"])

    assert rig.plan.feed.listing.native["X/USD"] == "@20"


async def test_listed_instruments_are_entered_in_the_feed(registry: Registry) -> None:
    async with history_client(registry, LISTED, run=False) as rig:
        await check_symbols(rig.rest, rig.plan)

    assert sorted(rig.plan.feed.listing.instruments) == ["BTC/USD", "ETH/USD"]


@pytest.mark.parametrize(
    "answer",
    [
        (500, {}, b""),
        (404, {}, b"gone"),
        (429, {"retry-after": "86400"}, b"banned"),
        b"<html>",
        b"[1]",
        CUT,
    ],
)
async def test_a_venue_without_a_listing_answer_is_streamed_all_the_same(
    registry: Registry, answer: Any
) -> None:
    async with history_client(registry, answer, run=False) as rig:
        await check_symbols(rig.rest, rig.plan)

    assert rig.plan.feed.listing.native == {"BTC/USD": "BTCUSD"}
    assert rig.clock.monotonic() <= 11


async def test_an_invalid_url_is_a_permanent_connection_error(registry: Registry) -> None:
    async with history_client(registry, LISTED, run=False) as rig:
        rig.plan.history.rest = "http://nonsense:port"  # type: ignore[union-attr]
        with pytest.raises(ConnectionFailed, match="nonsense") as caught:
            await check_symbols(rig.rest, rig.plan)

    assert not caught.value.retryable


# ------------------------------------------------------------------------------------- in a stream


async def acking(end: WireEnd, *frames: str) -> None:
    end.push(json.dumps({"ok": json.loads(await end.take())["id"]}), *frames)
    await anyio.sleep_forever()


TRADE = '{"s": "BTCUSD", "t": 1, "p": "1.5", "q": "2", "i": 1}'


@asynccontextmanager
async def streaming(
    registry: Registry, *answers: Any, symbols: tuple[str, ...] = ("BTC/USD",)
) -> AsyncIterator[tuple[tapeloom.Stream, FakeWire, Callable[[], None]]]:
    clock = VirtualClock()
    wire = FakeWire(lambda end, endpoint: acking(end, TRADE))
    venue = FakeVenue(lambda client: anyio.sleep_forever(), http=Answers(clock, *answers))
    async with venue.serve():
        stack = Stack(
            feeds=(FeedSpec("acme", symbols, ("trades",)),),
            venues={"acme": {"rest": venue.url("http"), "silence": 1e9}},
        )
        async with (
            clock.running(),
            tapeloom.open(stack, registry=registry, dial=wire.dial, clock=clock, seed=1) as stream,
        ):
            yield (
                stream,
                wire,
                lambda: stream.plans[0].feed.query_history(HistoryQuery("book", "BTC/USD")),
            )


async def test_in_a_stream_answers_and_trades_reach_the_same_consumer(registry: Registry) -> None:
    async with streaming(registry, LISTED, BOOK) as (stream, _, want):
        kinds = set()
        with anyio.fail_after(10):
            async for event in stream.of(Trade, Book):
                kinds.add(type(event))
                if kinds == {Trade, Book}:
                    break
                want()

    assert kinds == {Trade, Book}


async def test_in_a_stream_an_unlisted_symbol_ends_it_before_anything_is_dialled(
    registry: Registry,
) -> None:
    caught = None
    async with streaming(registry, LISTED, symbols=("BTX/USD",)) as (stream, wire, _):
        try:
            async for _ in stream.of(Trade):
                pass
        except SymbolError as error:
            caught = error

    assert "Did you mean 'BTC/USD'?" in str(caught)
    assert wire.ends == []


async def test_in_a_stream_a_venue_without_rest_streams_all_the_same(registry: Registry) -> None:
    async with streaming(registry, CUT) as (stream, _, _):
        with anyio.fail_after(10):
            trade = await anext(stream.of(Trade))

    assert trade.id == 1


# ---------------------------------------------------------------------------- fetch


async def test_a_request_with_a_body_is_a_post_of_json(registry: Registry) -> None:
    seen: list[tuple[str, str, bytes]] = []

    def venue(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.headers.get("content-type", ""), request.content))
        return httpx.Response(200, content=b"[]")

    clock = VirtualClock()
    plan = compose(Stack(feeds=(FeedSpec("acme", ["BTC/USD"], ["book"]),)), registry, clock).plans[
        0
    ]
    async with httpx.AsyncClient(transport=httpx.MockTransport(venue)) as client:
        HistoryClient(plan, RestClient(plan, client, RateLimits(clock)), _nowhere)
        await plan.feed.fetch(Request(url="http://acme.invalid/info", body=b'{"type":"book"}'))
        await plan.feed.fetch(Request(url="http://acme.invalid/info"))

    assert seen == [("POST", "application/json", b'{"type":"book"}'), ("GET", "", b"")]


@pytest.mark.parametrize("pause", [30.0, None])
async def test_a_refusal_in_an_answer_is_retried_if_it_names_a_pause(
    registry: Registry, pause: float | None
) -> None:
    async with history_client(registry, b"busy", BOOK) as rig:
        history: Any = rig.plan.history

        class Refusing(type(history)):  # type: ignore[misc]
            def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
                if body == b"busy":
                    raise RequestRefused("too many visits", pause)
                return list(super().read_answer(request, body, recv))

        rig.plan.history = Refusing(history.rest)
        rig.ask()
        await rig.until(1)
        passed = rig.clock.monotonic()

    if pause is None:
        assert [event.state for event in rig.got if isinstance(event, Status)] == ["request_failed"]
        assert len(rig.http.asked) == 1
    else:
        assert [type(event) for event in rig.got] == [Book]
        assert passed >= 30


async def test_nothing_can_be_fetched_for_a_feed_that_does_not_run(registry: Registry) -> None:
    stack = Stack(feeds=(FeedSpec("acme", ["BTC/USD"], ["book"]),))
    feed = compose(stack, registry, VirtualClock()).plans[0].feed

    with pytest.raises(RuntimeError, match="only while the feed runs"):
        await feed.fetch(Request(url="http://acme.invalid/"))


async def _nowhere(events: list[Event]) -> None:
    raise AssertionError(events)


async def test_books_come_first_and_then_the_symbols_with_the_highest_event_rate(
    registry: Registry,
) -> None:
    """After a lost connection all symbols query at once; they share the venue's rate limit."""
    active = {"A/USD": 0.1, "B/USD": 9.0, "C/USD": 1.0}
    no_trades = b"[]"

    async with history_client(
        registry,
        BOOK,
        no_trades,
        event_rate=lambda subscription: active[subscription.symbol],
        past_trades=True,
    ) as rig:
        for symbol in active:
            rig.ask(symbol, "trades", after_id=1)
        rig.http.answers = [BOOK, BOOK, BOOK, no_trades]
        for symbol in active:
            rig.ask(symbol)
        with anyio.fail_after(10):
            while len(rig.http.asked) < 6:
                await rig.clock.sleep(0.05)

    asked = [path.partition("&")[0] for _, path in rig.http.asked]
    assert asked == [
        *(f"/book?s={symbol}" for symbol in ("B/USD", "C/USD", "A/USD")),
        *(f"/trades?s={symbol}" for symbol in ("B/USD", "C/USD", "A/USD")),
    ]
