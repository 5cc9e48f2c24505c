"""Every fault of the simulator, at every WebSocket venue, with every transport, on every event loop
that this knows: the ledger balances.

The loop's time is virtual: each run is two minutes of the market, and takes as long as its work.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
import tapeloom
import tapeloom_simulator as simulator
from attrs import define, evolve, field, frozen
from tapeloom import Book, Event, FeedSpec, Gap, Network, Quote, Stack, Status, Trade
from tapeloom.errors import FeedError
from tapeloom_simulator import (
    EPOCH,
    Account,
    Fault,
    Ledger,
    Truth,
    count_reports,
    impossible_quotes,
    venue_server,
)
from tapeloom_simulator.faults import COMMON
from tapeloom_testing import LoopClock, virtual_backend

SECOND = 1_000_000_000
#: Seconds of a run; when the fault strikes; and up to how long before the end the books are closed.
LASTS, STRIKES, SETTLES = 120, 30, 25


@frozen
class VenueCase:
    """A venue and a market, and what is streamed of it."""

    venue: str
    market: str
    symbols: tuple[str, str]
    channels: tuple[str, ...] = ("trades", "quotes", "book")
    unit: int = 1_000_000
    settings: Mapping[str, Any] = field(factory=dict)

    @property
    def name(self) -> str:
        return f"{self.venue} {self.market}"

    def feed(self, channels: Sequence[str]) -> FeedSpec:
        return FeedSpec(
            self.venue, self.symbols, tuple(channels), market=self.market,
            stages=("quality", "books", "bars"),
        )  # fmt: skip


KEYS = {"key_id": "PKNOTAKEY", "secret_key": "not-a-secret-either"}
PLACES = [
    VenueCase("binance", "spot", ("BTC/USDT", "ETH/USDT")),
    VenueCase(
        "binance", "usdm", ("BTC/USDT:USDT", "ETH/USDT:USDT"), settings={"futures_trades": "raw"}
    ),
    VenueCase("bybit", "linear", ("BTC/USDT:USDT", "ETH/USDT:USDT")),
    VenueCase(
        "hyperliquid", "perp", ("BTC/USDC:USDC", "ETH/USDC:USDC"), ("trades", "quotes", "book:20")
    ),
    VenueCase("alpaca", "crypto", ("BTC/USD", "ETH/USD"), unit=1, settings={"slot_pause": "2s"}),
]
#: How each fault is injected; where nothing is said: once, in the middle.
INJECTED: dict[str, list[dict[str, Any]]] = {
    "ack_delay": [{"seconds": 2}],
    "ack_missing": [{}],
    "clock_skew_ms": [{"at": STRIKES, "value": 5000}],
    "data_before_ack": [{}],
    "dial_limit": [{}],
    "disconnect": [{"at": STRIKES, "how": "abrupt"}, {"at": STRIKES + 25, "how": "clean"}],
    "empty_page": [{}, {"kind": "disconnect", "at": STRIKES, "how": "abrupt"}],
    "huge_batch": [{"at": STRIKES, "value": 1200}],
    "late_trade": [{"at": STRIKES, "value": 4}],
    "lingering_session": [{"kind": "disconnect", "at": STRIKES, "how": "abrupt"}, {"seconds": 5}],
    "max_age": [{"seconds": 40}],
    "misroute_silence": [{}],
    "no_ping": [{"count": 0}],
    "ping_no_pong": [{"count": 0, "at": STRIKES}],
    "rate_limit_rest": [{"count": 2, "value": 429}],
    "rate_limit_ws": [{}],
    "silent_stall": [{"at": STRIKES, "how": "stream"}, {"at": STRIKES + 30, "how": "all"}],
    "stale_snapshot": [{"kind": "drop_diff", "at": STRIKES}, {"at": STRIKES}],
    "sub_error": [{"after": 1}],
    "token_loop": [{}, {"kind": "disconnect", "at": STRIKES, "how": "abrupt"}],
}
OR = " or "
#: What must be told of each fault: all of these signs.
NAMED: dict[str, tuple[str, ...]] = {
    "clock_skew_ms": ("status venue_clock_jumped",),
    "crossed_book": ("reject crossed",),
    "dial_limit": ("status reconnecting",),
    "disconnect": ("status reconnecting", "gap disconnect", "status stale"),
    "drop_diff": ("gap sequence", "status stale"),
    "dup_trade": ("reject duplicate",),
    "duplicate_block": ("reject duplicate",),
    "history_batch": ("reject duplicate",),
    "late_trade": ("gap sequence",),
    "lingering_session": ("status reconnecting", "gap disconnect"),
    "malformed_json": ("reject unreadable_frame",),
    "max_age": ("status reconnecting", "gap disconnect"),
    "misroute_silence": ("status stalled", "gap stall"),
    "missing_fields": ("reject unreadable_frame",),
    "missing_final_kline": ("gap sequence",),
    "plain_text_frame": ("reject unreadable_frame",),
    "rate_limit_rest": ("counter requests",),
    "rate_limit_ws": ("status reconnecting",),
    "resnapshot": ("reject duplicate",),
    "server_shutdown": ("status reconnecting", "gap disconnect"),
    "silent_stall": ("status stalled", "gap stall"),
    "slow_client": ("status reconnecting", "gap disconnect"),
    "stale_snapshot": ("status stale", "counter requests"),
    "sub_error": ("status refused",),
}
#: What differs at one venue.
DIFFERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("alpaca crypto", "lingering_session"): ("status login_refused", "gap disconnect"),
    ("alpaca crypto", "sub_error"): ("status refused", "error SubscriptionRefused"),
    # A book that comes every five seconds is not missed so soon; the connection as a whole is.
    ("hyperliquid perp", "silent_stall"): ("status reconnecting", "gap disconnect"),
    # It gives notice and goes at once: whether the successor is there by then is a matter of luck.
    **dict.fromkeys(
        (("binance spot", "server_shutdown"), ("binance usdm", "server_shutdown")),
        (f"status replaced{OR}status reconnecting", "gap disconnect"),
    ),
}
_ORDER = "trades have no numbers that follow each other; each comes once, in the venue's order"
#: Faults of which nothing need be told, because nothing is lost and nothing is wrong; and why.
HARMLESS: dict[str, str] = {
    "ack_delay": "the answer comes within its time",
    "ack_missing": "data shows that the venue agreed",
    "book_time_regress": "books come whole, and this one is not older than the last",
    "candle_gap": "the next word about the candle says it again",
    "chain_halt": "the venue stands still, and says nothing that could be missed",
    "data_before_ack": "data proves the subscription",
    "empty_page": "an empty page of the past is followed by the next",
    "empty_side": "a side without orders is None, and the other is true",
    "huge_batch": "it is taken like any other",
    "no_ping": "data is a sign of life",
    "ping_no_pong": "data is a sign of life",
    "reorder": "both trades come in one read, so none is missing",
    "restart": "a book that begins anew is taken whole",
    "token_loop": "a page that leads to itself ends the fetching",
    "updated_bar": "a bar may be revised",
}
#: The same, at one venue.
HARMLESS_HERE: dict[tuple[str, str], str] = {
    **{(name, kind): _ORDER for name in ("bybit linear", "hyperliquid perp", "alpaca crypto")
       for kind in ("late_trade",)},
    ("bybit linear", "clock_skew_ms"): "events bear the time of the matching engine",
    ("binance usdm", "clock_skew_ms"): "events bear the time of the matching engine",
    ("alpaca crypto", "clock_skew_ms"): "events bear the time of the matching engine",
    ("hyperliquid perp", "missing_final_kline"): "the next candle closes it",
    ("alpaca crypto", "missing_final_kline"): "a bar is told once, by REST where it did not come",
}  # fmt: skip
#: Faults that nobody can see; and what bounds the harm.
UNSEEN: dict[tuple[str, str], str] = {
    ("alpaca crypto", "drop_diff"): "nothing numbers the updates; `book_resync` bounds the harm"
}
#: Faults that a venue cannot have; and why.
ABSENT: dict[tuple[str, str], str] = {
    **dict.fromkeys((("binance spot", "ping_no_pong"), ("binance usdm", "ping_no_pong"), ("binance usdm", "no_ping"), ("bybit linear", "no_ping"), ("hyperliquid perp", "no_ping"), ("alpaca crypto", "no_ping")), "clients are not pinged by it, or do not ping"),
    **{(name, "stale_snapshot"): "books come in the stream"
       for name in ("bybit linear", "hyperliquid perp", "alpaca crypto")},
    **{("hyperliquid perp", kind): "every book is whole" for kind in ("drop_diff", "huge_batch")},
    ("binance spot", "sub_error"): "one message asks for everything",
    ("binance usdm", "sub_error"): "one message asks for everything",
    ("alpaca crypto", "correction"): "only stocks have it",
    ("alpaca crypto", "cancel"): "only stocks have it",
}  # fmt: skip
#: Which of them need a channel of bars, and which take longer.
WITH_BARS = {"missing_final_kline", "candle_gap", "updated_bar"}
LONGER = {"misroute_silence": 330.0, "dial_limit": 400.0}


def faults_of(kind: str) -> list[Fault]:
    """Return what is injected to see how *kind* is borne."""
    given = INJECTED.get(kind, [{"at": STRIKES}])
    return [Fault(**{"kind": kind, **one}) for one in given]


@define
class Outcome:
    """What came of one run."""

    accounts: list[Account]
    told: Counter[str]
    injected: dict[str, int]
    invented: list[Quote]
    wrong: list[str]  #: the last quotes that are not the market's
    halves: list[Quote]  #: the quotes with an empty side


async def run(
    place: VenueCase,
    faults: Sequence[Fault],
    channels: Sequence[str],
    lasts: float = LASTS,
    transport: str = "",
) -> Outcome:
    # The market begins at EPOCH, the loop may have run before.
    clock = LoopClock(EPOCH - round(anyio.current_time() * SECOND))
    async with simulator.serve(
        place.venue, symbols=place.symbols, seed=3, rate=8, faults=faults
    ) as sim:
        stack = Stack(
            feeds=(place.feed(channels),),
            venues={place.venue: {**sim.settings, **place.settings}},
            network=Network(transport=transport),
        )
        events: list[Event] = []
        async with tapeloom.open(stack, clock=clock, seed=1) as stream:
            error = await collect(stream, events, lasts)
            told = count_reports(events, stream.counters) + error
            injected = sim.truth.fault_counts()  # but what strikes the last words of a client
        return outcome(place, sim, events, told, injected)


async def collect(stream: tapeloom.Stream, events: list[Event], lasts: float) -> Counter[str]:
    """Take what comes for so long; return what ended the stream before, as a sign."""
    try:
        with anyio.move_on_after(lasts):
            async for batch in stream.batches():
                events += batch
    except FeedError as error:
        return Counter({f"error {type(error).__name__}": 1})
    return Counter()


def outcome(
    place: VenueCase,
    sim: simulator.Simulation,
    events: list[Event],
    told: Counter[str],
    injected: dict[str, int],
) -> Outcome:
    """Close the books."""
    ledger = Ledger(sim.truth, unit=place.unit, slack=2 * SECOND)
    ledger.add(events)
    until = sim.market.now - SETTLES * SECOND
    accounts = [ledger.accounts([symbol], begun(sim, symbol), until)[0] for symbol in place.symbols]
    quotes = [event for event in events if type(event) is Quote]
    invented = [
        one for symbol in place.symbols for one in impossible_quotes(sim.truth, symbol, quotes)
    ]
    wrong = [
        f"{symbol}: the last quote of {channel} is {last.bid} / {last.ask} at {last.ts}"
        for symbol in place.symbols
        for channel in place.channels[1:]
        if (last := latest(quotes, symbol, channel)) is not None and not recent(sim, symbol, last)
    ]
    halves = [quote for quote in quotes if quote.bid is None or quote.ask is None]
    return Outcome(accounts, told, injected, invented, wrong, halves)


def latest(quotes: Sequence[Quote], symbol: str, channel: str) -> Any:
    mine = [one for one in quotes if one.symbol == symbol and one.channel == channel]
    return mine[-1] if mine else None


def recent(sim: simulator.Simulation, symbol: str, quote: Quote) -> bool:
    """Whether the market had this best bid and ask in the last seconds: some books come in steps."""
    mine = quote.bid, quote.bid_size, quote.ask, quote.ask_size
    real = [
        tuple(one[2:]) for one in sim.truth.quotes(symbol) if one.ts > sim.market.now - 10 * SECOND
    ]
    return mine in real


def begun(sim: simulator.Simulation, symbol: str) -> int:
    """Return from when on the trades of *symbol* were sent."""
    sent = [one.since for one in sim.truth.sent if one.symbol == symbol and one.channel == "trades"]
    return min(sent, default=sim.market.now) + 1


# ------------------------------------------------------------------------------------- the matrix


def kinds_of(place: VenueCase) -> list[str]:
    """Return the faults that this venue can have, the common ones first."""
    market = simulator.SimulatedMarket(place.symbols, seed=0, rate=1)
    own = getattr(venue_server(place.venue, market), "faults", {})
    return [*COMMON, *own]


CASES = [(place, kind) for place in PLACES for kind in kinds_of(place)]
NAMES = [f"{place.venue}-{place.market}-{kind}" for place, kind in CASES]
#: The event loops, and what dials on them: core, or a plugin.
BACKENDS = ("asyncio", "trio", "asyncio-picows")
RUNS = [
    pytest.param(place, kind, backend, id=f"{backend}-{name}")
    for backend in BACKENDS
    for (place, kind), name in zip(CASES, NAMES, strict=True)
]
#: What is told in a run without any fault, by venue case and backend.
CALM: dict[tuple[str, str], Counter[str]] = {}
PAGE = Path(__file__).parents[1] / "docs/reference/faults.md"
MARKS = "<!-- made by pytest tests/test_faults.py --write-contract -->", "<!-- end -->"


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(backend: str) -> tuple[str, dict[str, Any]]:
    return virtual_backend(backend.partition("-")[0])


async def calm(place: VenueCase, backend: str) -> Counter[str]:
    if (place.name, backend) not in CALM:
        outcome = await run(place, (), place.channels, transport=backend.partition("-")[2])
        assert [str(one) for one in outcome.accounts if not one.balanced] == []
        assert outcome.wrong == outcome.invented == []
        CALM[place.name, backend] = outcome.told
    return CALM[place.name, backend]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "kind", "backend"), RUNS, indirect=["backend"])
async def test_the_ledger_balances_and_the_fault_is_named(
    place: VenueCase, kind: str, backend: str
) -> None:
    usual = await calm(place, backend)
    channels = (*place.channels, "klines:1m") if kind in WITH_BARS else place.channels
    lasts, transport = LONGER.get(kind, LASTS), backend.partition("-")[2]
    outcome = await run(place, faults_of(kind), channels, lasts, transport)
    told = set(outcome.told - usual)
    injected = outcome.injected.get(kind, 0)

    if (place.name, kind) in ABSENT:
        assert not injected
        return
    assert injected
    for account in outcome.accounts:
        if kind in ("late_trade", "reorder"):
            account.out_of_order.clear()  # it is the venue that put them so
        assert account.balanced, str(account)
    if (place.name, kind) not in UNSEEN:
        assert outcome.invented == []
        assert outcome.wrong == []
    untold = [one for one in expected(place, kind) if told.isdisjoint(one.split(OR))]
    assert untold == []


@pytest.mark.parametrize("backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
async def test_a_quote_with_an_empty_side_is_delivered_as_none(
    place: VenueCase, backend: str
) -> None:
    faults = [Fault(kind="empty_side", channel="quotes", at=STRIKES)]
    outcome = await run(place, faults, place.channels)
    (half,) = outcome.halves

    assert outcome.injected == {"empty_side": 1}
    assert outcome.invented == []
    assert outcome.told["reject price"] == 0
    assert (half.bid, half.bid_size, half.channel) == (None, None, "quotes")
    assert half.ask is not None
    assert half.ask_size is not None


@pytest.mark.parametrize("backend", ["asyncio"], indirect=True)
async def test_a_book_whose_snapshot_never_comes_is_reported_within_seconds(backend: str) -> None:
    faults = [
        Fault(kind="rate_limit_rest", after=1, count=0, value=429)
    ]  # the first is the listing
    events: list[Event] = []
    async with simulator.serve("binance", symbols=["BTC/USDT"], seed=3, faults=faults) as sim:
        feed = FeedSpec("binance", ("BTC/USDT",), ("book",), stages=("books",))
        stack = Stack(feeds=(feed,), venues={"binance": sim.settings})
        async with tapeloom.open(stack, clock=LoopClock(EPOCH), seed=1) as stream:
            await collect(stream, events, 20.0)
    first = next(event for event in events if type(event) is Book)
    (stale,) = [event for event in events if type(event) is Status and event.state == "stale"]

    assert 5 * SECOND <= stale.recv - first.recv <= 6 * SECOND
    assert (stale.symbol, stale.channel) == ("BTC/USDT", "book")
    assert "no snapshot within 5 s" in stale.detail


def expected(place: VenueCase, kind: str) -> tuple[str, ...]:
    """Return what must be told."""
    key = place.name, kind
    if key in UNSEEN or key in HARMLESS_HERE or kind in HARMLESS:
        return ()
    return DIFFERS.get(key, NAMED[kind])


def cell(place: VenueCase, kind: str) -> str:
    """Say what becomes of a fault, as the tests above hold it."""
    key = place.name, kind
    if key not in CASE_KEYS:
        return ""
    if key in ABSENT:
        return f"cannot be: {ABSENT[key]}"
    if key in UNSEEN:
        return f"cannot be seen: {UNSEEN[key]}"
    harmless = HARMLESS_HERE.get(key) or HARMLESS.get(kind)
    if harmless:
        return f"harmless: {harmless}"
    return ", ".join(f"`{one}`" for one in expected(place, kind)).replace(OR, f"`{OR}`")


CASE_KEYS = {(place.name, kind) for place, kind in CASES}


def table() -> str:
    """Return the matrix as the page shows it."""
    kinds = list(dict.fromkeys(kind for _, kind in CASES))
    rows = [["fault", *(place.name for place in PLACES)], ["---"] * (len(PLACES) + 1)]
    rows += [[f"`{kind}`", *(cell(place, kind) for place in PLACES)] for kind in kinds]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_page_of_the_faults_shows_what_is_held(request: pytest.FixtureRequest) -> None:
    made = f"{MARKS[0]}\n\n{table()}\n\n{MARKS[1]}"
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(MARKS[0])}.*{re.escape(MARKS[1])}", re.DOTALL)
    wanted = pattern.sub(lambda _: made, text)
    if request.config.getoption("--write-contract"):
        PAGE.write_text(wanted, encoding="utf-8")
        return

    assert text == wanted, "run pytest tests/test_faults.py --write-contract"


def test_the_ledger_finds_what_is_lost_repeated_invented_or_out_of_order() -> None:
    market = simulator.SimulatedMarket(["BTC/USDT"], seed=1, rate=50)
    truth = Truth(market)
    truth.record_steps(market.advance(market.epoch + 10 * SECOND, 10_000))
    real = truth.trades("BTC/USDT")
    came = [
        Trade("v", "BTC/USDT", one.ts, one.ts, one.price, one.size, one.side, one.id, "trades")
        for one in real
    ]
    gap = Gap("v", "BTC/USDT", came[7].ts, 0, came[3].ts, came[7].ts, "sequence", 3, "unrecoverable", "trades")  # fmt: skip

    def account(events: Sequence[Event]) -> Account:
        ledger = Ledger(truth, unit=1, slack=0)
        ledger.add(events)
        return ledger.accounts(["BTC/USDT"], 0, market.now)[0]

    assert account(came).balanced
    assert [one.id for one in account(came[:5] + came[6:]).lost] == [6]
    assert account([*came[:5], *came[4:]]).duplicated == [came[4]]
    assert account([came[1], came[0], *came[2:]]).out_of_order == [came[0]]
    assert account([*came, evolve(came[0], price=came[0].price + 1)]).unknown
    assert account([*came[:4], gap, *came[7:]]).in_gaps == 3
    assert account([*came[:4], gap, *came[7:]]).balanced
    refused = Status("v", "BTC/USDT", came[8].ts, 0, "refused", "", "trades")
    assert account([*came[:8], refused]).while_stalled == len(came) - 8
    assert account([*came[:8], refused]).balanced
    assert account([*came[:8], refused, came[20]]).lost
    assert account([*came[:4], evolve(gap, missing=9), *came[7:]]).wrong_gaps
    filled = [*came[:4], gap, *came[7:], evolve(gap, state="filled", missing=0)]
    assert [one.id for one in account(filled).lost] == [5, 6, 7]
