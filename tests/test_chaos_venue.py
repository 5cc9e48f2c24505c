"""Streams from venues that share no code with tapeloom: under every fault each loss is reported.

``python tests/chaos_venue --minutes 10 --seed 1`` is the long run, in real time; ``nox -s chaos`` the
same. Here time is virtual, on real sockets of the loopback interface.
"""

from __future__ import annotations

import ast
import asyncio
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random

import anyio
import chaos_venue
import pytest
import structlog
from chaos_venue.faults import FAULTS
from chaos_venue.ledger import COUNTS, Row, View, accounts, table
from chaos_venue.market import Market
from chaos_venue.runs import STAGES, long_phases, run
from chaos_venue.venue import Marks
from chaos_venue.wires import Binance, Hyperliquid, Wire
from tapeloom import Bar, Gap, Reject, Trade
from tapeloom_testing import LoopClock, virtual_backend

MS = 1_000_000
#: Seconds of a fault, and of quiet after it: the last attempts to reconnect may be a minute apart.
FAULT_SECONDS, QUIET_SECONDS = 30.0, 70.0
#: Seeds with which clocks are set so that losses are hard to tell: between two disconnects, and both
#: clocks, back to the time of bars that have just closed.
CLOCK_SEEDS = [("clock jumps", seed) for seed in (701, 717)]


@pytest.fixture
def quiet() -> Iterator[None]:
    """Log nothing: thousands of warnings are as they must be."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


async def both(fault: str, seed: int) -> list[Row]:
    """Stream with `quality` and without, at once."""
    seconds = math.inf if fault == "close codes" else FAULT_SECONDS  # each code is used once
    phases = [(fault, seconds, QUIET_SECONDS)]
    rows = await asyncio.gather(*(run(stages, phases, seed, LoopClock()) for stages in STAGES))
    return [row for some in rows for row in some]


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("fault", "seed"), [*((fault, seed) for seed, fault in enumerate(FAULTS, 1)), *CLOCK_SEEDS]
)
def test_no_trade_is_lost_without_a_report_or_doubled_and_no_complete_bar_is_wrong(
    fault: str, seed: int
) -> None:
    name, options = virtual_backend("asyncio")
    rows = anyio.run(partial(both, fault, seed), backend=name, backend_options=options)
    print(table(rows))

    assert [row for row in rows if row.problems] == []
    faulty = [row for row in rows if row.fault == fault]
    assert len(faulty) == 6  # three venues, with quality and without
    assert all(row.trades > 400 and row.bars > 20 for row in faulty)


#: Long runs that were not balanced once: a gap that had grown was called filled; trades were missed by
#: the times of an answer; bars lacked an unreadable frame. On a busy machine no stall was found.
LONG_RUNS = [
    (41, "plain", False),
    (41, "quality", False),
    (47, "quality", False),
    (37, "plain", True),
]
LONG_SECONDS = 540.0
#: Mean seconds between two times at which the event loop is blocked, and for how many seconds it is.
BUSY_EVERY, BUSY_SECONDS = 1.5, (0.02, 0.1, 0.3, 0.6, 1.2, 3.5)


async def keep_busy(random: Random) -> None:
    """Block the event loop again and again: both clocks go on, and what arrives waits."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(random.expovariate(1 / BUSY_EVERY))
        loop.now += random.choice(BUSY_SECONDS)  # type: ignore[attr-defined]  # of virtual time


async def long_run(stages: str, seed: int, *, is_busy: bool) -> list[Row]:
    """Run all faults in turn on the same streams, as the long run in real time does."""
    clock = LoopClock()
    busy = asyncio.create_task(keep_busy(Random(seed))) if is_busy else None
    rows = await run(stages, long_phases(LONG_SECONDS, seed, clock), seed, clock)
    if busy is not None:
        busy.cancel()
    return rows


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("seed", "stages", "is_busy"), LONG_RUNS)
def test_faults_in_turn_leave_nothing_untold_also_on_a_busy_machine(
    seed: int, stages: str, is_busy: bool
) -> None:
    name, options = virtual_backend("asyncio")
    play = partial(long_run, stages, seed, is_busy=is_busy)
    rows = anyio.run(play, backend=name, backend_options=options)
    print(table(rows))

    assert [row for row in rows if row.problems] == []
    assert sum(row.trades for row in rows) > 10_000


# ------------------------------------------------------------------------------ the ledger itself


class KnownMarket:
    """A market of one symbol over some seconds, and what a perfect stream delivers of it."""

    def __init__(self, wire: Wire, seconds: int = 20) -> None:
        self.now_ms = 1_700_000_000_000
        symbols = wire.symbols((20.0,))
        self.market = Market(symbols, wire.ids, 7, lambda: self.now_ms)
        for _ in range(seconds * 20):
            self.now_ms += 50
            self.market.make()
        self.symbol, self.marks = symbols[0], Marks()
        self.symbol.required_from = 3
        self.ids = [t.number if wire.ids == "numbers" else t.name for t in self.symbol.trades]
        self.trades = [
            Trade(
                "acme", self.symbol.unified, t.ts_ms * MS, t.ts_ms * MS, t.price, t.size,
                "buy" if t.is_buy else "sell", event_id,
            )
            for t, event_id in zip(self.symbol.trades, self.ids, strict=True)
        ]  # fmt: skip

    def bar(self, second: int) -> Bar:
        """Return the true bar of a second."""
        start = (1_700_000_000 + second) * 1000 * MS
        inside = [t for t in self.trades if start <= t.ts < start + 1000 * MS]
        prices, volume = [t.price for t in inside], sum((t.size for t in inside), Decimal(0))
        return Bar(
            "acme", self.symbol.unified, start, start, "1s", prices[0], max(prices), min(prices),
            prices[-1], volume, None, None, None, len(inside),
        )  # fmt: skip

    def gap(self, first: int, last: int, state: str, *, by_id: bool = True) -> Gap:
        """Return a gap that holds the trades from *first* to *last*."""
        before, after = self.trades[first - 1], self.trades[last + 1]
        ids = (before.id, after.id) if by_id else (None, None)
        return Gap(
            "acme", self.symbol.unified, after.ts, after.ts, before.ts, after.ts, "disconnect", None,
            state, "trades", *ids,  # type: ignore[arg-type]
        )  # fmt: skip

    def counts(self, *events: object, numbers: bool = True, repeats: bool = True) -> dict[str, int]:
        """Return the counts of the account that are not 0."""
        view = View(compares_numbers=numbers, removes_repeats=repeats)
        (row,) = accounts(("acme", ""), self.market, self.marks, view, events)
        return {name: getattr(row, name) for name in COUNTS if getattr(row, name)}


@pytest.fixture(params=[Binance(), Hyperliquid()], ids=["numbers", "hashes"])
def known(request: pytest.FixtureRequest) -> KnownMarket:
    return KnownMarket(request.param)


def without(known: KnownMarket, *numbers: int) -> list[Trade]:
    return [trade for place, trade in enumerate(known.trades) if place not in numbers]


def test_a_perfect_stream_has_no_problems(known: KnownMarket) -> None:
    sent = len(known.trades) - 3
    assert known.counts(*known.trades, known.bar(5)) == {"trades": sent, "bars": 1}
    # What came before the subscription was not promised.
    assert known.counts(*known.trades[3:])["trades"] == sent


def test_the_ledger_finds_a_lost_trade_that_stands_in_no_gap(known: KnownMarket) -> None:
    assert known.counts(*without(known, 40))["untold"] == 1
    # Neither a gap that is called filled nor one beside the trade reports it.
    assert known.counts(*without(known, 40), known.gap(40, 40, "filled"))["untold"] == 1
    assert known.counts(*without(known, 40), known.gap(60, 80, "partial"))["untold"] == 1
    # The last report of a gap counts.
    both = known.gap(40, 40, "open"), known.gap(40, 40, "filled")
    assert known.counts(*without(known, 40), *both)["untold"] == 1


def test_a_lost_trade_in_a_gap_or_a_reject_is_no_problem(known: KnownMarket) -> None:
    expected = {"trades": len(known.trades) - 3, "lost": 1, "told": 1}
    for by_id in (True, False):
        gap = known.gap(40, 40, "unrecoverable", by_id=by_id)
        assert known.counts(*without(known, 40), gap) == expected
    lost = known.trades[40]
    reject = Reject("acme", lost.symbol, lost.ts, lost.recv, "jump", "", lost, "trades")
    assert known.counts(*without(known, 40), reject) == expected


def test_a_gap_without_a_final_report_is_a_problem(known: KnownMarket) -> None:
    counts = known.counts(*without(known, 40), known.gap(40, 40, "open"))
    assert (counts["told"], counts["open"]) == (1, 1)


def test_the_ledger_finds_a_trade_that_was_delivered_twice_or_altered(known: KnownMarket) -> None:
    again, altered = known.trades[40], known.trades[41]
    assert known.counts(*known.trades, again)["doubled"] == 1
    altered = Trade(*[getattr(altered, name) for name in ("venue", "symbol", "ts", "recv")],
                    altered.price + 1, altered.size, altered.side, altered.id)  # fmt: skip
    events = [*known.trades]
    events[41] = altered
    assert known.counts(*events)["altered"] == 1
    # Where no stage removes repeated trades, each copy that the venue sent may be delivered, and no more.
    known.marks.repeated[known.symbol.native, known.symbol.trades[40].number] = 1
    assert "doubled" not in known.counts(*known.trades, again, repeats=False)
    assert known.counts(*known.trades, again, again, repeats=False)["doubled"] == 1


def test_the_ledger_finds_a_wrong_bar_that_is_called_complete(known: KnownMarket) -> None:
    for name, value in {"volume": Decimal(1), "trades": 1, "open": Decimal(1), "close": Decimal(1),
                        "high": Decimal(1), "low": Decimal(1)}.items():  # fmt: skip
        bar = known.bar(5)
        setattr(bar, name, value)
        assert known.counts(*known.trades, bar)["wrong"] == 1
        bar.complete = False
        assert "wrong" not in known.counts(*known.trades, bar)


@pytest.mark.parametrize("told_by", ["reject", "gap"])
@pytest.mark.parametrize(("closed_since", "wrong"), [(9, 1), (10, 0)])
def test_a_bar_that_lacks_a_rejected_or_lost_trade_is_wrong_while_it_can_be_revised(
    known: KnownMarket, closed_since: int, wrong: int, told_by: str
) -> None:
    """The venue's clock was set back: the last trade of the bar came after *closed_since* more bars."""
    bar, later = known.bar(5), known.bar(5 + closed_since)
    *_, last = (trade for trade in known.trades if bar.ts <= trade.ts < bar.ts + 1000 * MS)
    number = known.trades.index(last)
    bar.trades, bar.volume = bar.trades - 1, bar.volume - last.size
    bar.close = known.trades[number - 1].price
    prices = [t.price for t in known.trades[:number] if t.ts >= bar.ts]
    bar.high, bar.low = max(prices), min(prices)
    told: object = Reject("acme", last.symbol, last.ts, last.recv, "ahead", "", last, "trades")
    if told_by == "gap":
        told = known.gap(number, number, "unrecoverable")
    counts = known.counts(*without(known, number), bar, later, told)

    assert counts.get("wrong", 0) == wrong
    assert known.counts(*without(known, number), bar, told, later)["wrong"] == 1
    assert known.counts(*without(known, number), told, bar, later)["wrong"] == 1


@pytest.mark.parametrize(("interval", "wrong"), [("1s", 0), ("5s", 1)])
def test_only_the_bars_that_a_late_trade_names_may_lack_it(
    known: KnownMarket, interval: str, wrong: int
) -> None:
    bar, later = known.bar(5), known.bar(6)
    *_, last = (trade for trade in known.trades if bar.ts <= trade.ts < bar.ts + 1000 * MS)
    before = [t for t in known.trades if bar.ts <= t.ts and t.ts <= last.ts and t is not last]
    prices = [t.price for t in before]
    bar.trades, bar.volume, bar.close = len(before), bar.volume - last.size, prices[-1]
    bar.high, bar.low = max(prices), min(prices)
    evidence = f"the bar of {last.ts} is closed: {interval} closed up to {later.ts}"
    late = Reject("acme", last.symbol, last.ts, last.recv, "late_trade", evidence, last, "trades")

    assert known.counts(*known.trades, bar, later, late).get("wrong", 0) == wrong


def test_a_loss_that_only_numbers_show_is_hidden_where_they_are_not_compared(
    known: KnownMarket,
) -> None:
    known.marks.hidden.add((known.symbol.native, known.symbol.trades[40].number))
    assert known.counts(*without(known, 40))["untold"] == 1
    assert known.counts(*without(known, 40), numbers=False)["hidden"] == 1


def test_a_bar_that_lacks_a_hidden_trade_is_no_problem_even_if_a_later_gap_holds_its_time(
    known: KnownMarket,
) -> None:
    """A gap may reach back by an hour, because a clock was set; the bars of then can no longer be revised."""
    bar = known.bar(5)
    *_, last = (number for number, t in enumerate(known.trades) if t.ts < bar.ts + 1000 * MS)
    bar.trades -= 1
    gap = known.gap(last - 1, last + 9, "partial", by_id=False)
    known.marks.hidden.add((known.symbol.native, known.symbol.trades[last].number))
    events = *without(known, last), bar, gap

    assert "wrong" not in known.counts(*events, numbers=False)
    assert known.counts(*events)["wrong"] == 1


def test_a_trade_of_a_clock_that_showed_nothing_else_must_lie_between_the_trades_that_a_gap_names() -> (
    None
):
    """Between two events the venue's clock was set and set back: no time of the gap can hold the trade."""
    known = KnownMarket(Hyperliquid())
    for number in (40, 41):
        made = known.symbol.trades[number]
        known.symbol.trades[number] = replace(made, ts_ms=made.ts_ms + 45_000, clock=1)
    gap = known.gap(40, 41, "partial")

    counts = known.counts(*without(known, 40, 41), gap, numbers=False)
    assert (counts["hidden"], counts.get("untold")) == (2, None)
    # A gap elsewhere, one that is called filled and one that names no trade do not report it.
    others = known.gap(60, 61, "partial"), known.gap(40, 41, "filled")
    for other in (*others, known.gap(40, 41, "partial", by_id=False)):
        assert known.counts(*without(known, 40, 41), other, numbers=False)["untold"] == 2
    # Whoever has seen another trade of that clock can know of it.
    seen = known.trades[41]
    seen.ts += 45_000 * MS
    assert known.counts(*without(known, 40), gap, numbers=False)["untold"] == 1


def test_the_venue_imports_nothing_but_the_standard_library() -> None:
    """All modules but `runs` and the command, which stream with tapeloom."""
    folder = Path(chaos_venue.__file__).parent
    for file in sorted(folder.glob("*.py")):
        if file.name in ("runs.py", "__main__.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            unknown = [n for n in names if n.partition(".")[0] not in sys.stdlib_module_names]
            assert unknown == [], file
