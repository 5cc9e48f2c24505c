"""HistoryClient and RestClient: queries are answered once, within the rate limit."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
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
from tapeloom.plugin import HistoryQuery, Loss, Request, Subscription
from tapeloom_testing import FakeVenue, FakeWire, LoopClock, VirtualClock, WireEnd, virtual_backend

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
        if isinstance(answer, dict):
            answer = answer[path.partition("?")[0]]
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
    until_taken: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
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
            with anyio.CancelScope(shield=True):  # as a stream does
                await until_taken()

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


async def _release(taken: anyio.Event) -> None:
    """Let the consumer go on after the tasks of the client have been cancelled."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    taken.set()


async def test_an_answer_that_waits_for_a_slow_consumer_arrives_also_if_the_feed_ends_meanwhile(
    registry: Registry,
) -> None:
    taken = anyio.Event()
    spec = FeedSpec("acme", ["BTC/USD", "ETH/USD"], ["book"])
    async with (
        anyio.create_task_group() as releasing,
        history_client(registry, BOOK, spec=spec, until_taken=taken.wait) as rig,
    ):
        rig.ask("BTC/USD")
        rig.ask("ETH/USD")
        with anyio.fail_after(10):
            while len(rig.http.asked) < 2 or not rig.got:
                await rig.clock.sleep(0.05)
        await rig.clock.sleep(1.0)  # the second answer has come, and waits behind the first
        before = len(rig.got)
        releasing.start_soon(_release, taken)

    assert before == 1
    assert {event.symbol for event in rig.got} == {"BTC/USD", "ETH/USD"}


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
        loss = Loss("BTC/USD", "trades", since=1, until=9, recv=9, cause="disconnect")
        (told,) = rig.plan.gaps.open(loss)
        if dropped:  # it has no native name any more, so every answer is empty
            rig.plan.feed.symbols.clear()
        await rig.until(1)
    (last,) = rig.got

    assert isinstance(told, Gap)
    assert isinstance(last, Gap)
    assert (told.state, last.state) == ("open", "unrecoverable" if dropped else "filled")


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


async def test_a_halted_symbol_is_reported_and_subscribed_to(registry: Registry) -> None:
    spec = FeedSpec("acme", ["BTC/USD", "ETH/USD"], ["trades"])
    listed = b'["BTC/USD", ["ETH/USD", "", true, true]]'
    async with history_client(registry, listed, spec=spec, run=False) as rig:
        (status,) = await check_symbols(rig.rest, rig.plan)

    assert (status.state, status.symbol) == ("halted", "ETH/USD")
    assert rig.plan.feed.symbols == ["BTC/USD", "ETH/USD"]


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


# ------------------------------------------------------- answers that are too large or too slow


class Trickling:
    """A venue that sends one byte of each answer to *slow* paths, and the rest never."""

    def __init__(self, slow: str, answers: dict[str, bytes]) -> None:
        self.slow, self.answers = slow, answers
        self.asked: list[str] = []

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        gone = anyio.BrokenResourceError, anyio.EndOfStream
        async with stream:
            with suppress(*gone):
                while True:
                    path = (await stream.receive()).split()[1].decode()
                    self.asked.append(path)
                    body = next(body for part, body in self.answers.items() if part in path)
                    await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
                    if self.slow in path:
                        for byte in body:
                            await stream.send(bytes([byte]))
                            await anyio.sleep(5)  # of virtual time
                    else:
                        await stream.send(body)


@asynccontextmanager
async def trickling(
    registry: Registry, slow: str, *symbols: str, stages: tuple[str, ...] = ()
) -> AsyncIterator[tuple[Trickling, tapeloom.Stream]]:
    listed = json.dumps(symbols).encode()
    venue = Trickling(slow, {"/symbols": listed, "/book": BOOK})
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    stack = Stack(
        feeds=(FeedSpec("acme", symbols, ("trades",), stages=stages),),
        venues={"acme": {"rest": f"http://127.0.0.1:{port}", "silence": 1e9}},
    )
    wire = FakeWire(lambda end, endpoint: acking(end, TRADE))
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, venue.serve)
        async with tapeloom.open(
            stack, registry=registry, dial=wire.dial, clock=LoopClock(), seed=1
        ) as stream:
            yield venue, stream
        tasks.cancel_scope.cancel()


class TestSlowAnswers:
    """In virtual time: the event loop's own, so that sockets and deadlines share it."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        return virtual_backend(request.param)

    async def test_an_answer_that_trickles_is_told_and_delays_no_other(
        self, registry: Registry
    ) -> None:
        symbols = ["BTC/USD", *(f"S{n}/USD" for n in range(6))]
        books: dict[str, float] = {}
        failed: list[tuple[str, str, float]] = []
        async with trickling(registry, "BTC", *symbols) as (venue, stream):
            began = anyio.current_time()
            with anyio.fail_after(100):
                async for event in stream:
                    if isinstance(event, Trade):
                        for symbol in symbols:
                            query = HistoryQuery("book", symbol)
                            stream.plans[0].feed.query_history(query)
                    elif isinstance(event, Book):
                        books[event.symbol] = anyio.current_time() - began
                    elif isinstance(event, Status) and event.state == "request_failed":
                        at = anyio.current_time() - began
                        failed.append((event.symbol, event.detail, at))
                        break

        assert sorted(books) == symbols[1:]
        assert max(books.values()) < 2
        ((symbol, detail, at),) = failed
        assert symbol == "BTC/USD"
        assert "did not complete its answer to /book within 15 s" in detail
        assert 30 <= at < 40
        assert sum("BTC" in path for path in venue.asked) == 2

    async def test_a_listing_that_trickles_does_not_keep_the_stream_from_starting(
        self, registry: Registry
    ) -> None:
        async with trickling(registry, "/symbols", "BTC/USD") as (_, stream):
            with anyio.fail_after(11):
                trade = await anext(stream.of(Trade))

        assert trade.symbol == "BTC/USD"


async def test_an_answer_that_is_too_large_is_told_once_and_the_next_is_read(
    registry: Registry,
) -> None:
    bomb = (200, {"content-encoding": "gzip"}, gzip.compress(b"[" + b" " * 40_000_000, 9))
    async with streaming(registry, LISTED, bomb, BOOK) as (stream, _, want):
        got: list[Event] = []
        with anyio.fail_after(20):
            async for event in stream:
                got.append(event)
                if isinstance(event, Trade) or len(got) == 4:
                    want()
                if isinstance(event, Book):
                    break

    failed = [event for event in got if isinstance(event, Status) and "failed" in event.state]
    assert [event.state for event in failed] == ["request_failed"]
    assert "/book: the answer has more than 32 MiB" in failed[0].detail


# ---------------------------------------------------------------------------------- long pauses


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((429, {"retry-after": "3153600000"}, b"slower"), "more than 7 days"),
        ((429, {"retry-after": "Tue, 14 Nov 2123 22:13:51 GMT"}, b"slower"), "more than 7 days"),
        ((418, {"retry-after": "86400"}, b"banned"), "86400 s"),
    ],
)
async def test_a_request_does_not_wait_for_a_pause_of_days_but_says_so(
    registry: Registry, answer: Any, told: str
) -> None:
    async with history_client(registry, answer, BOOK) as rig:
        rig.ask()
        await rig.until(1)
        rig.ask("ETH/USD")
        await rig.until(2)
        soon = rig.clock.monotonic()
        await rig.clock.sleep(7 * 86_400)
        rig.ask()
        await rig.until(3)
    first, second, last = rig.got

    assert isinstance(first, Status)
    assert first.state == "request_failed"
    assert told in first.detail
    assert isinstance(second, Status)
    assert "127.0.0.1 has asked for a pause, of which" in second.detail
    assert soon < 10
    assert isinstance(last, Book)
    assert len(rig.http.asked) == 2


async def test_a_refusal_with_a_pause_of_years_is_told_and_bounded(registry: Registry) -> None:
    async with history_client(registry, b"busy", BOOK) as rig:
        history: Any = rig.plan.history

        class Refusing(type(history)):  # type: ignore[misc]
            def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
                if body == b"busy":
                    raise RequestRefused("too many visits", 1e12)
                return list(super().read_answer(request, body, recv))

        history.read_answer = Refusing(history.rest).read_answer
        rig.ask()
        await rig.until(1)
        await rig.clock.sleep(7 * 86_400)
        rig.ask()
        await rig.until(2)
    first, last = rig.got

    assert isinstance(first, Status)
    assert "too many visits" in first.detail
    assert "more than 7 days" in first.detail
    assert isinstance(last, Book)


# ------------------------------------------------------------------------------- the rate limit


async def test_a_book_gets_its_snapshot_at_once_while_gaps_are_filled(registry: Registry) -> None:
    """Backfill that would use the rate limit for minutes leaves a fifth of it to snapshots."""
    answers = {"/trades": b"[]", "/book": BOOK}
    async with history_client(registry, answers, past_trades=True) as rig:
        for n in range(200):
            rig.ask(f"S{n}/USD", "trades", after_id=1)
        await rig.clock.sleep(5.05)
        asked_at = rig.clock.monotonic()
        rig.ask()
        await rig.until(1)
        took = rig.clock.monotonic() - asked_at
    times = rig.http.times

    assert isinstance(rig.got[0], Book)
    assert took < 0.3
    assert all(sum(start <= t < start + 0.9 for t in times) <= 10 for start in times)


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

        history.read_answer = Refusing(history.rest).read_answer
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


async def test_the_symbols_with_the_highest_event_rate_come_first_in_each_queue(
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
    for kind in ("book", "trades"):
        by_rate = [f"/{kind}?s={symbol}" for symbol in ("B/USD", "C/USD", "A/USD")]
        assert [path for path in asked if path.startswith(f"/{kind}")] == by_rate
