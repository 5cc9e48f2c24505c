"""Polling delivers every trade and bar once, and loses none at failures."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
import tapeloom_alpaca
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.errors import ConnectionLost, RequestFailed, SymbolError, Throttled
from tapeloom.events import Bar, Book, Event, Quote, Reject, Status, Trade
from tapeloom.plugin import Feed, Request
from tapeloom_alpaca.times import format_time, parse_time

START = 1_800_000_000_000_000_000  # where the feed's clock begins: 2027-01-15 08:00
SECOND = 1_000_000_000
Rows = dict[str, list[dict[str, Any]]]


class Rest:
    """Alpaca's REST as far as a poller sees it: what was published, in pages, by time."""

    def __init__(self, feed: Feed, *, limit: int = 1000) -> None:
        self.rows: dict[str, Rows] = {"trades": {}, "bars": {}}
        self.latest: dict[str, Any] = {}
        self.limit = limit
        self.takes = 0.0  # seconds for an answer
        self.calls: list[str] = []
        self.corrupt: Callable[[dict[str, str], dict[str, Any]], None] = lambda query, answer: None
        self.bodies: list[bytes | Exception] = []  # met first, one by one
        self.feed = feed
        feed.fetch = self.fetch

    def trade(self, native: str, at: float, number: int, **more: Any) -> None:
        ts = format_time(START + int(at * SECOND))
        row = {"t": ts, "x": "V", "p": 1.50, "s": 2, "i": number, **more}
        self.rows["trades"].setdefault(native, []).append(row)

    def bar(self, native: str, minute: int, **more: Any) -> None:
        ts = format_time(START + minute * 60 * SECOND)
        row = {"t": ts, "o": 1, "h": 2, "l": 1, "c": 2, "v": 10, "n": 3, "vw": 1.5, **more}
        rows = self.rows["bars"].setdefault(native, [])
        rows[:] = [row for row in rows if row["t"] != ts] + [row]

    async def fetch(self, request: Request) -> bytes:
        await self.feed.clock.sleep(self.takes)
        if self.bodies:
            body = self.bodies.pop(0)
            if isinstance(body, Exception):
                raise body
            return body
        parts = urlsplit(request.url)
        self.calls.append(parts.path)
        query = {key: value for key, (value,) in parse_qs(parts.query).items()}
        kind = "trades" if "trades" in parts.path else "bars" if "bars" in parts.path else ""
        if not kind:
            return json.dumps(self.latest[parts.path.rpartition("/")[2]]).encode()
        names = query["symbols"].split(",")
        if "latest" in parts.path:
            found = {name: self.rows[kind][name][-1] for name in names if name in self.rows[kind]}
            return json.dumps({kind: found}).encode()
        answer = self._page(kind, names, query)
        self.corrupt(query, answer)
        return json.dumps(answer).encode()

    def _page(self, kind: str, names: list[str], query: dict[str, str]) -> dict[str, Any]:
        since, until = (
            parse_time(query["start"]),
            parse_time(query.get("end", "2100-01-01T00:00:00Z")),
        )
        found = [
            (name, row)
            for name in sorted(names)
            for row in sorted(self.rows[kind].get(name, []), key=lambda row: row["t"])
            if since <= parse_time(row["t"]) <= until
        ]
        first = int(query.get("page_token", "0"))
        items: Rows = {}
        for name, row in found[first : first + self.limit]:
            items.setdefault(name, []).append(row)
        more = first + self.limit < len(found)
        return {kind: items, "next_page_token": str(first + self.limit) if more else None}


class Polled:
    """A poller that runs, and what it has delivered."""

    def __init__(self, feed: Feed, **more: Any) -> None:
        self.rest, self.events = Rest(feed, **more), list[Event]()
        self.source = tapeloom_alpaca.connect(feed)

    async def take(self, events: list[Event]) -> None:
        self.events += events

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if type(event) is kind]

    @property
    def ids(self) -> list[int]:
        return [int(trade.id.partition(":")[2]) for trade in self.of(Trade)]


@asynccontextmanager
async def running(polled: Polled) -> AsyncIterator[Callable[[float], Any]]:
    """Run a poller in virtual time; give what lets time pass."""
    clock = polled.rest.feed.clock
    async with clock.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(polled.source.run, polled.take)
        await clock.sleep(0.1)  # the first round has found what was there
        yield clock.sleep
        tasks.cancel_scope.cancel()


QUICK = {"mode": "poll", "poll_every": "5s", "poll_delay": "2s", "poll_overlap": "10s"}


async def test_trades_start_after_the_latest_and_come_once(make) -> None:
    polled = Polled(make(**QUICK))
    polled.rest.trade("AAPL", -60, 1)
    async with running(polled) as wait:
        await wait(1)
        for number in range(2, 40):
            polled.rest.trade("AAPL", number / 2, number)
        await wait(40)

    assert polled.ids == list(range(2, 40))
    assert {trade.origin for trade in polled.of(Trade)} == {"live"}
    assert {trade.channel for trade in polled.of(Trade)} == {"trades"}


async def test_trades_with_equal_times_come_once_each(make) -> None:
    polled = Polled(make(**QUICK))
    async with running(polled) as wait:
        for number, exchange in ((1, "V"), (1, "Q"), (2, "V")):
            polled.rest.trade("AAPL", 1, number, x=exchange)
        await wait(10)
        polled.rest.trade("AAPL", 1, 3)
        await wait(10)

    assert [trade.id for trade in polled.of(Trade)] == ["V:1", "Q:1", "V:2", "V:3"]


async def test_a_trade_that_is_published_late_is_delivered(make) -> None:
    polled = Polled(make(**QUICK))
    async with running(polled) as wait:
        polled.rest.trade("AAPL", 8, 1)
        await wait(20)
        polled.rest.trade("AAPL", 2, 2)  # within the overlap
        await wait(10)

    assert polled.ids == [1, 2]


async def test_poll_delay_leaves_out_the_latest_trades(make) -> None:
    polled = Polled(make(**QUICK | {"poll_every": "1s", "poll_delay": "3s"}))
    async with running(polled) as wait:
        polled.rest.trade("AAPL", 0.5, 1)
        await wait(3.2)
        early = polled.ids
        await wait(1)

    assert (early, polled.ids) == ([], [1])


async def test_a_slow_local_clock_loses_nothing_without_poll_delay(make) -> None:
    polled = Polled(make(channels=("trades", "klines:1m"), **QUICK | {"poll_delay": "0s"}))
    async with running(polled) as wait:
        polled.rest.bar("AAPL", 60)
        polled.rest.trade("AAPL", 3600, 1)
        await wait(20)
        early = polled.of(Bar)
        polled.rest.trade("AAPL", 3665, 2)
        await wait(20)

    assert polled.ids == [1, 2]
    assert early == []
    assert [bar.closed for bar in polled.of(Bar)] == [True]


async def test_all_pages_are_read_and_sorted_by_time(make) -> None:
    polled = Polled(make(symbols=("AAPL/USD", "MSFT/USD"), **QUICK), limit=7)
    async with running(polled) as wait:
        for number in range(1, 61):
            polled.rest.trade("AAPL" if number % 3 else "MSFT", 1 + number / 100, number)
        await wait(20)

    assert polled.ids == list(range(1, 61))


async def test_trades_published_during_paging_are_not_lost(make) -> None:
    symbols = ("AAPL/USD", "MSFT/USD")
    polled = Polled(make(symbols=symbols, **QUICK | {"poll_delay": "0s"}), limit=5)
    async with running(polled) as wait:
        for number in range(1, 51):
            polled.rest.trade("MSFT", 1 + number / 100, number)
        polled.rest.takes = 5.0  # ten pages of MSFT: those of AAPL are long past
        await wait(20)
        polled.rest.trade("AAPL", 20, 100)
        await wait(20)
        polled.rest.trade("MSFT", 40, 51)
        await wait(200)

    assert polled.ids == [*range(1, 51), 51, 100]


async def test_an_empty_page_does_not_end_the_paging(make) -> None:
    polled = Polled(make(**QUICK), limit=10)
    held: list[Any] = []

    def empty(query: dict[str, str], answer: dict[str, Any]) -> None:
        if "page_token" in query and not held:
            held.append(answer["trades"])
            answer["trades"] = None
            answer["next_page_token"] = f"0{query['page_token']}"

    polled.rest.corrupt = empty
    async with running(polled) as wait:
        for number in range(1, 31):
            polled.rest.trade("AAPL", 1 + number / 100, number)
        await wait(4.9)
        await wait(5)

    assert held
    assert polled.ids == list(range(1, 31))


async def test_a_repeated_token_ends_the_paging_and_loses_nothing(make) -> None:
    polled = Polled(make(**QUICK), limit=10)
    looped: list[int] = []

    def loop(query: dict[str, str], answer: dict[str, Any]) -> None:
        if query.get("page_token") == "10" and len(looped) < 3:
            looped.append(len(polled.rest.calls))
            answer["next_page_token"] = "10"

    polled.rest.corrupt = loop
    async with running(polled) as wait:
        for number in range(1, 31):
            polled.rest.trade("AAPL", 1 + number / 100, number)
        await wait(6)
        calls = len(polled.rest.calls)
        await wait(30)

    assert calls < 6
    assert polled.ids == list(range(1, 31))
    assert [event.state for event in polled.of(Status)].count("token_loop") == 3
    assert polled.rest.feed.counters["token_loops"] == 3


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RequestFailed("f", "gone", 502), ConnectionLost),
        (RequestFailed("f", "no answer", 0), ConnectionLost),
        (Throttled("f", "slowly"), Throttled),
        (RequestFailed("f", "forbidden", 403), RequestFailed),
    ],
)
async def test_a_failure_neither_loses_nor_repeats_trades(make, error, raised) -> None:
    polled = Polled(make(**QUICK), limit=10)

    def fail(query: dict[str, str], answer: dict[str, Any]) -> None:
        if "page_token" in query:
            polled.rest.corrupt = lambda query, answer: None
            raise error

    polled.rest.trade("AAPL", -1, 1)
    with pytest.raises(raised) as caught:
        async with running(polled) as wait:
            await wait(1)
            for number in range(2, 32):
                polled.rest.trade("AAPL", 1 + number / 100, number)
            polled.rest.corrupt = fail
            await wait(20)
    before = polled.ids
    async with running(polled) as wait:
        await wait(20)

    assert type(caught.value) is raised
    assert before == []
    assert polled.ids == list(range(2, 32))


async def test_an_unreadable_answer_is_rejected_and_requested_again(make) -> None:
    polled = Polled(make(**QUICK), limit=10)
    polled.rest.bodies = [b'{"trades":']
    async with running(polled) as wait:
        await wait(6)
        await wait(1)
        for number in range(1, 31):
            polled.rest.trade("AAPL", 8 + number / 100, number)
        polled.rest.bodies = [b"<html>"]
        await wait(20)

    assert [event.rule for event in polled.of(Reject)] == ["unreadable_answer"] * 2
    assert polled.ids == list(range(1, 31))


async def test_symbols_are_added_and_removed(make) -> None:
    polled = Polled(make(**QUICK))
    feed = polled.rest.feed
    async with running(polled) as wait:
        polled.rest.trade("AAPL", 1, 1)
        polled.rest.trade("MSFT", 1, 50)
        await wait(7)
        feed.symbols.append("MSFT/USD")
        polled.source.symbols_changed()
        await wait(5)
        polled.rest.trade("AAPL", 9, 2)
        polled.rest.trade("MSFT", 12, 51)
        await wait(10)
        feed.symbols.remove("AAPL/USD")
        polled.source.symbols_changed()
        polled.rest.trade("AAPL", 23, 3)
        polled.rest.trade("MSFT", 23, 52)
        await wait(10)

    assert [(trade.symbol[:4], trade.id) for trade in polled.of(Trade)] == [
        ("AAPL", "V:1"), ("AAPL", "V:2"), ("MSFT", "V:51"), ("MSFT", "V:52"),
    ]  # fmt: skip


async def test_an_invalid_symbol_is_refused_and_removed(make) -> None:
    polled = Polled(make(**QUICK))
    polled.rest.feed.symbols.append("AAPL/EUR")

    with pytest.raises(SymbolError):
        polled.source.symbols_changed()
    assert polled.rest.feed.symbols == ["AAPL/USD"]


async def test_symbols_are_requested_in_groups_of_100(make) -> None:
    symbols = tuple(f"S{number}/USD" for number in range(250))
    polled = Polled(make(symbols=symbols, **QUICK))
    async with running(polled) as wait:
        await wait(1)
        polled.rest.trade("S249", 2, 9)
        polled.rest.trade("S0", 2, 8)
        await wait(9)

    assert polled.ids == [8, 9]
    assert polled.rest.calls[:6] == ["/v2/stocks/trades/latest", "/v2/stocks/trades"] * 3


async def test_a_bar_is_closed_once_and_revised_when_it_changes(make) -> None:
    polled = Polled(make(channels=("klines:1m",), poll_bars_every="15s", **QUICK))
    polled.rest.bar("AAPL", -2)
    async with running(polled) as wait:
        await wait(1)
        polled.rest.bar("AAPL", 0)  # here before its end: it is still forming
        await wait(62)
        early = polled.of(Bar)
        await wait(20)
        polled.rest.bar("AAPL", 0, v=11, n=4)
        await wait(20)
        polled.rest.bar("AAPL", 1)
        await wait(60)
    bars = polled.of(Bar)

    assert early == []
    assert [(bar.ts // 60_000_000_000 - 30_000_000, bar.revision, int(bar.volume)) for bar in bars] == [
        (0, 0, 10), (0, 1, 11), (1, 0, 10),
    ]  # fmt: skip
    assert {(bar.closed, bar.channel, bar.interval) for bar in bars} == {(True, "klines:1m", "1m")}


async def test_sampled_channels_report_it_and_deliver_changes(make) -> None:
    polled = Polled(make("crypto", ("BTC/USD",), ("quotes", "book", "klines:1d"), **QUICK))
    at = format_time(START)
    polled.rest.latest = {
        "quotes": {"quotes": {"BTC/USD": {"t": at, "bp": 1.50, "bs": 2, "ap": 3, "as": 4}}},
        "orderbooks": {"orderbooks": {"BTC/USD": {"t": at, "b": [{"p": 1, "s": 2}], "a": []}}},
        "snapshots": {
            "snapshots": {"BTC/USD": {"dailyBar": {
                "t": at, "o": 1, "h": 2, "l": 1, "c": 2, "v": 10, "n": 3, "vw": 1.5}}}
        },
    }  # fmt: skip
    async with running(polled) as wait:
        await wait(21)
        polled.rest.latest["quotes"]["quotes"]["BTC/USD"]["bp"] = 2
        await wait(21)

    assert [(event.state, event.channel) for event in polled.of(Status)] == [
        ("sampled", "quotes"), ("sampled", "book"), ("sampled", "klines:1d"), ("subscribed", ""),
    ]  # fmt: skip
    assert [str(quote.bid) for quote in polled.of(Quote)] == ["1.5", "2"]
    assert [(book.kind, book.origin) for book in polled.of(Book)] == [("snapshot", "live")]
    assert [(bar.interval, bar.closed) for bar in polled.of(Bar)] == [("1d", False)]


async def test_each_channel_is_polled_at_its_interval(make) -> None:
    polled = Polled(make(channels=("trades", "klines:1m"), poll_bars_every="20s", **QUICK))
    async with running(polled) as wait:
        await wait(60.5)
    calls = polled.rest.calls

    assert calls.count("/v2/stocks/trades") == 13
    assert calls.count("/v2/stocks/bars") == 4


@settings(max_examples=10, deadline=None)
@given(
    trades=st.lists(
        st.tuples(st.sampled_from(["AAPL", "MSFT"]), st.integers(1, 300), st.integers(0, 60)),
        max_size=60,
    ),
    limit=st.integers(1, 9),
    every=st.integers(1, 70),
    takes=st.sampled_from([0.0, 0.2, 2.0]),
    delay=st.sampled_from(["0s", "2s"]),
)
def test_every_trade_of_any_market_is_delivered_once(
    make, trades, limit, every, takes, delay
) -> None:
    """Trades at any tenth of a second, published up to six seconds late, while pages are read."""
    own = QUICK | {"poll_every": f"{every}00ms", "poll_delay": delay}
    polled = Polled(make(symbols=("AAPL/USD", "MSFT/USD"), **own), limit=limit)

    async def run() -> None:
        async with running(polled) as wait:
            polled.rest.takes = takes
            published = sorted((at + late, number) for number, (_, at, late) in enumerate(trades))
            now = 0
            for when, number in published:
                await wait((when - now) / 10)
                now = when
                native, at, _ = trades[number]
                polled.rest.trade(native, 1 + at / 10, number)
            await wait(200)

    anyio.run(run)

    assert sorted(polled.ids) == list(range(len(trades)))
