"""What is asked over REST: answered once, through the stages, within the budget, or not at all."""

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
    """What the venue answers, one after another; the last one for ever. `asked`: paths, with times."""

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
    desk: HistoryClient
    got: list[Event] = field(factory=list)

    def ask(self, symbol: str = "BTC/USD", kind: Any = "book", **more: Any) -> None:
        self.plan.feed.query_history(HistoryQuery(kind, symbol, channel="book", **more))

    async def until(self, count: int) -> None:
        with anyio.fail_after(10):
            while len(self.got) < count:
                await self.clock.sleep(0.05)


@asynccontextmanager
async def desk(
    registry: Registry,
    *answers: Any,
    spec: FeedSpec | None = None,
    run: bool = True,
    activity: Callable[[Subscription], float] = lambda _: 0.0,
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
        one = HistoryClient(plan, rest, emit, activity=activity)
        async with clock.running(), anyio.create_task_group() as tasks:
            if run:
                tasks.start_soon(one.run)
            yield Rig(clock, http, plan, rest, one, got)
            tasks.cancel_scope.cancel()


# ------------------------------------------------------------------------------------- the answers


async def test_the_answer_comes_as_events(registry: Registry) -> None:
    async with desk(registry, BOOK) as rig:
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
    async with desk(
        registry, BOOK, spec=FeedSpec("acme", ["BTC/USD"], ["book"], stages=("counting",))
    ) as rig:
        rig.ask()
        await rig.until(2)

    assert [type(event) for event in rig.got] == [Book, Status]


async def test_what_was_wanted_before_anybody_listened_is_answered(registry: Registry) -> None:
    async with desk(registry, BOOK, run=False) as rig:
        rig.ask()
        rig.ask("ETH/USD")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rig.desk.run)
            await rig.until(2)
            tasks.cancel_scope.cancel()

    assert [event.symbol for event in rig.got] == ["BTC/USD", "ETH/USD"]


async def test_a_want_that_is_repeated_while_it_waits_is_answered_once(registry: Registry) -> None:
    async with desk(registry, BOOK) as rig:
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


async def test_no_window_holds_more_requests_than_the_budget(registry: Registry) -> None:
    async with desk(registry, BOOK) as rig:
        for n in range(35):
            rig.ask(f"S{n}/USD")
        await rig.until(35)
    times = rig.http.times

    # A request goes out a little after its budget was taken, never before.
    assert all(sum(start <= t < start + 0.9 for t in times) <= 10 for start in times)
    assert times[-1] >= 3


# ----------------------------------------------------------------------------------- what may fail


@pytest.mark.parametrize("failure", [(500, {}, b"down"), (503, {}, b""), CUT])
async def test_a_failure_that_may_pass_is_tried_again(registry: Registry, failure: Any) -> None:
    async with desk(registry, failure, failure, BOOK) as rig:
        rig.ask()
        await rig.until(1)

    assert isinstance(rig.got[0], Book)
    assert len(rig.http.asked) == 3


async def test_a_failure_that_stays_is_told_after_five_attempts(registry: Registry) -> None:
    async with desk(registry, (500, {}, b"down")) as rig:
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
async def test_a_pause_that_the_venue_asks_for_is_kept(
    registry: Registry, after: str, status: int
) -> None:
    async with desk(registry, (status, {"retry-after": after}, b"slower"), BOOK) as rig:
        rig.ask()
        rig.ask("ETH/USD")
        await rig.until(2)

    assert rig.http.times[1] - rig.http.times[0] >= 30
    assert all(isinstance(event, Book) for event in rig.got)


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_a_refused_request_is_told_in_the_words_of_the_venue_and_not_repeated(
    registry: Registry, status: int
) -> None:
    async with desk(registry, (status, {}, b"no such market"), BOOK) as rig:
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
async def test_an_answer_that_cannot_be_read_is_told_and_costs_no_other(
    registry: Registry, body: bytes
) -> None:
    async with desk(registry, body, BOOK) as rig:
        rig.ask()
        rig.ask("ETH/USD")
        await rig.until(2)
    first, second = rig.got

    assert isinstance(first, Status)
    assert first.state == "request_failed"
    assert isinstance(second, Book)


async def test_what_a_venue_has_no_history_of_is_told(registry: Registry) -> None:
    async with desk(registry, BOOK) as rig:
        rig.ask(kind="bars", interval="1m")
        await rig.until(1)
    (status,) = rig.got

    assert isinstance(status, Status)
    assert status.state == "request_failed"
    assert "no history of that kind" in status.detail
    assert rig.http.asked == []


# ------------------------------------------------------------------------------ the list of symbols


@pytest.mark.parametrize("dropped", [False, True])
async def test_a_hole_of_a_symbol_that_was_dropped_meanwhile_is_not_called_filled(
    registry: Registry, dropped: bool
) -> None:
    spec = FeedSpec("acme", ["BTC/USD"], ["trades"])
    async with desk(registry, b"[]", spec=spec) as rig:
        rig.plan.history.past_trades = True  # type: ignore[union-attr]
        gap = Gap("acme", "BTC/USD", 9, 9, 1, 9, "disconnect", channel="trades")
        rig.desk.missed(gap, None, None, tuple)
        if dropped:  # whose name is known no more, of that every answer is empty
            rig.plan.feed.symbols.clear()
        await rig.until(1)
    (last,) = rig.got

    assert isinstance(last, Gap)
    assert last.state == ("unrecoverable" if dropped else "filled")


async def test_a_symbol_that_is_not_listed_is_an_error_that_names_the_nearest(
    registry: Registry,
) -> None:
    spec = FeedSpec("acme", ["BTC/USDT", "ETH/USD"], ["trades"])
    async with desk(registry, LISTED, spec=spec, run=False) as rig:
        with pytest.raises(SymbolError, match=r"'BTC/USDT'.*Did you mean 'BTC/USD'") as caught:
            await check_symbols(rig.rest, rig.plan)

    assert "ETH/USD" not in str(caught.value)
    assert "acme does not list" in str(caught.value)


async def test_what_is_listed_is_entered(registry: Registry) -> None:
    async with desk(registry, LISTED, run=False) as rig:
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
async def test_a_venue_that_cannot_be_asked_is_no_reason_not_to_stream(
    registry: Registry, answer: Any
) -> None:
    async with desk(registry, answer, run=False) as rig:
        await check_symbols(rig.rest, rig.plan)

    assert rig.plan.feed.listing.native == {"BTC/USD": "BTCUSD"}
    assert rig.clock.monotonic() <= 11


async def test_an_address_that_is_none_is_an_error_and_no_traceback(registry: Registry) -> None:
    async with desk(registry, LISTED, run=False) as rig:
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


async def test_in_a_stream_answers_and_trades_come_to_the_same_consumer(registry: Registry) -> None:
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


# ---------------------------------------------------------------------------- for those who poll


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
async def test_a_refusal_in_an_answer_is_asked_again_if_the_venue_says_that_it_helps(
    registry: Registry, pause: float | None
) -> None:
    async with desk(registry, b"busy", BOOK) as rig:
        history: Any = rig.plan.history

        class Moody(type(history)):  # type: ignore[misc]
            def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
                if body == b"busy":
                    raise RequestRefused("too many visits", pause)
                return list(super().read_answer(request, body, recv))

        rig.plan.history = Moody(history.rest)
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

    with pytest.raises(RuntimeError, match="only while it runs"):
        await feed.fetch(Request(url="http://acme.invalid/"))


async def _nowhere(events: list[Event]) -> None:
    raise AssertionError(events)


async def test_books_come_first_and_then_what_concerns_the_most_active_symbols(
    registry: Registry,
) -> None:
    """After a lost connection all ask at once; the venue's budget is for all of them."""
    active = {"A/USD": 0.1, "B/USD": 9.0, "C/USD": 1.0}
    ten = b"[]"

    async with desk(
        registry, BOOK, ten, activity=lambda one: active[one.symbol], past_trades=True
    ) as rig:
        for symbol in active:
            rig.ask(symbol, "trades", after_id=1)
        rig.http.answers = [BOOK, BOOK, BOOK, ten]
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
