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
from decimal import Decimal
from functools import partial
from pathlib import Path

import anyio
import chaos_venue
import pytest
import structlog
from chaos_venue.faults import FAULTS
from chaos_venue.ledger import COUNTS, Row, View, accounts, table
from chaos_venue.market import Market
from chaos_venue.runs import STAGES, run
from chaos_venue.venue import Marks
from chaos_venue.wires import Binance, Hyperliquid, Wire
from tapeloom import Bar, Gap, Reject, Trade
from tapeloom_testing import LoopClock, virtual_backend

MS = 1_000_000
#: Seconds of a fault, and of quiet after it: the last attempts to reconnect may be a minute apart.
FAULT_SECONDS, QUIET_SECONDS = 30.0, 70.0


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
@pytest.mark.parametrize("fault", FAULTS)
def test_no_trade_is_lost_without_a_report_or_doubled_and_no_complete_bar_is_wrong(
    fault: str,
) -> None:
    name, options = virtual_backend("asyncio")
    seed = 1 + [*FAULTS].index(fault)
    rows = anyio.run(partial(both, fault, seed), backend=name, backend_options=options)
    print(table(rows))

    assert [row for row in rows if row.problems] == []
    faulty = [row for row in rows if row.fault == fault]
    assert len(faulty) == 6  # three venues, with quality and without
    assert all(row.trades > 400 and row.bars > 20 for row in faulty)


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


def test_a_loss_that_only_numbers_show_is_hidden_where_they_are_not_compared(
    known: KnownMarket,
) -> None:
    known.marks.hidden.add((known.symbol.native, known.symbol.trades[40].number))
    assert known.counts(*without(known, 40))["untold"] == 1
    assert known.counts(*without(known, 40), numbers=False)["hidden"] == 1


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
