"""The contract of a sink can fail: a sink with a defect breaks the guarantee that is about it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from tapeloom import encode
from tapeloom.events import Bar, Quote, Trade
from tapeloom.plugin import Guarantee
from tapeloom_testing.contract import ContractViolation, NotApplicable, SinkContract
from tapeloom_testing.contract.declared import SINK
from tapeloom_testing.contract.sinks.events import sink_events
from tapeloom_testing.contract.sinks.rows import Order, Row, Stored, difference, latest, to_row


@pytest.fixture(autouse=True)
def _sqlite_sink_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


class TestSqlite(SinkContract):
    sink = "sqlite"
    module = "sqlite_sink"
    secrets = ("hunter2",)
    guarantee: Guarantee = "exactly_once"
    is_async = False
    defect = ""

    def settings(self, folder: Path) -> Mapping[str, Any]:
        return {
            "path": str(folder / "events.db"),
            "guarantee": self.guarantee,
            "is_async": self.is_async,
            "defect": self.defect,
        }

    def stored(self, folder: Path) -> Sequence[Stored]:
        with contextlib.closing(sqlite3.connect(folder / "events.db")) as database:
            rows = database.execute("SELECT line FROM event ORDER BY epoch, n, rowid")
            return [json.loads(line) for (line,) in rows]

    @pytest.mark.slow
    def test_what_it_acknowledged_survives_the_end_of_the_process(self) -> None:
        super().test_what_it_acknowledged_survives_the_end_of_the_process()

    @pytest.mark.slow
    def test_its_guarantee_holds_when_the_process_is_killed(self) -> None:
        super().test_its_guarantee_holds_when_the_process_is_killed()

    def failing(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        text = folder / "text"
        text.write_text("This is no database, and longer than its header." * 9)
        table = {"password": "hunter2", "defect": self.defect}
        return {
            "the path is a folder": {"path": str(folder), **table},
            "the file is no database": {"path": str(text), **table},
        }


#: Defect → the guarantees that it breaks, among others, with a part of what is said then.
DEFECTS = {
    "ignores its cursor": {
        "acknowledgement": "too often",
        "restart": "too often",
        "positions": "stored positions of all runs, but",
    },
    "saves its cursor with the next batch": {
        "acknowledgement": "too often",
        "restart": "too often",
    },
    "buffers until it is closed": {"durable": "are missing", "killed": "are missing"},
    "drops a batch on retry": {"request": "are missing"},
    "raises on text ids": {"once": "invalid literal for int()"},
    "mixes runs": {"positions": "expected to return last=0"},
    "keeps to a thread": {"threads": "can only be used in that same thread"},
    "hides failures": {"failure": "`open` raised nothing"},
    "shows secrets": {"failure": "contains a secret"},
    "creates its store in check": {"check": "no such table"},
    "runs on one loop": {"backends": "no running event loop"},
}
CASES = [(defect, key, said) for defect, keys in DEFECTS.items() for key, said in keys.items()]
#: The guarantees that are proven with many processes.
SLOW = ("durable", "killed")
#: The guarantees of a sink that are about what is in its store.
OF_THE_STORE = ("once", "acknowledgement", "request", "restart", "positions", "durable")


def variant(**attributes: object) -> SinkContract:
    """Return the contract of the sink with other settings."""
    cls: type[SinkContract] = type("Variant", (TestSqlite,), attributes)
    return cls()


def parameters(*values: str, key: str) -> Any:
    """Return the parameters of a test, which is slow if its guarantee needs processes."""
    return pytest.param(*values, marks=[pytest.mark.slow] if key in SLOW else [])


@pytest.mark.parametrize(
    ("defect", "key", "said"), [parameters(*case, key=case[1]) for case in CASES]
)
def test_a_sink_with_a_defect_breaks_the_guarantee_that_is_about_it(
    defect: str, key: str, said: str
) -> None:
    is_async = key == "backends"
    outcome = variant(defect=defect, is_async=is_async).outcome(key, "")

    assert isinstance(outcome, ContractViolation)
    assert said in str(outcome)
    assert "hunter2" not in str(outcome)


def test_every_guarantee_of_a_sink_has_a_defect_that_breaks_it() -> None:
    assert {key for _, key, _ in CASES} == {*SINK}


@pytest.mark.parametrize("key", [parameters(key, key=key) for key in OF_THE_STORE])
@pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
def test_a_sink_that_promises_less_is_held_to_no_more(guarantee: Guarantee, key: str) -> None:
    assert variant(guarantee=guarantee).outcome(key, "") is None


@pytest.mark.parametrize("key", ["acknowledgement", "request", "backends", "failure"])
def test_a_sink_with_async_methods_is_proven_on_the_event_loop(key: str) -> None:
    contract = variant(is_async=True)

    assert contract.outcome(key, "") is None
    assert isinstance(contract.outcome("threads", ""), NotApplicable)


def test_a_sink_that_promises_at_most_once_must_not_repeat() -> None:
    attributes = {"guarantee": "at_most_once", "defect": "ignores its cursor"}
    outcome = variant(**attributes).outcome("acknowledgement", "")

    assert "too often" in str(outcome)


@pytest.mark.slow
def test_a_sink_that_promises_at_least_once_must_not_lose() -> None:
    attributes = {"guarantee": "at_least_once", "defect": "buffers until it is closed"}
    outcome = variant(**attributes).outcome("durable", "")

    assert "are missing" in str(outcome)


def test_a_sink_must_declare_a_guarantee_that_is_known() -> None:
    outcome = variant(defect="promises anything").outcome("once", "")

    assert "must be one of exactly_once, at_least_once, at_most_once" in str(outcome)


def test_secrets_that_are_in_no_settings_prove_nothing() -> None:
    outcome = variant(secrets=("absent",)).outcome("failure", "")

    assert "in no settings" in str(outcome)


@pytest.mark.slow
def test_a_sink_may_receive_a_few_types_only() -> None:
    contract = variant(types=("trade", "bar"))

    assert {event.type for event in contract._events(50)} == {"trade", "bar"}
    assert [contract.outcome(key, "") for key in ("once", "durable")] == [None, None]


# ---------------------------------------------------------------------------------- events and rows

TYPES = {"trade", "quote", "book", "bar", "ticker", "gap", "reject", "status"}


def test_the_events_of_the_contract_have_all_types_and_are_the_same_each_time() -> None:
    events = sink_events(1200)

    assert {event.type for event in events} >= TYPES
    assert events == sink_events(1200)
    assert events[:60] == sink_events(60)


def test_the_events_of_the_contract_have_what_makes_stores_merge_or_change_them() -> None:
    events = sink_events(1200)
    trades = [event for event in events if type(event) is Trade]
    equal = Counter(map(to_row, trades))
    reused = Counter((trade.symbol, trade.id) for trade in trades if trade.channel == "reused")

    assert max(equal.values()) == 3
    assert max(reused.values()) > 1
    assert {type(trade.id) for trade in trades} == {int, str}
    assert any(later.ts < trade.ts for trade, later in pairwise(trades))
    assert {bar.closed for bar in events if type(bar) is Bar} == {True, False}
    assert {bar.revision for bar in events if type(bar) is Bar} == {0, 1}
    assert {quote.bid is None for quote in events if type(quote) is Quote} == {True, False}


def test_an_event_and_its_json_and_its_columns_are_the_same_row() -> None:
    for event in sink_events(400):
        line = json.loads(encode(event))
        columns = {field.name: getattr(event, field.name) for field in attrs.fields(type(event))}

        assert to_row(event) == to_row(line) == to_row({"type": event.type, **columns})


PRICE = Trade("v", "S", 1, 2, Decimal("1.50"), Decimal(1), id=7)


@pytest.mark.parametrize(
    "other",
    [
        {"price": Decimal("1.51")},
        {"ts": 1000},
        {"id": "7"},
        {"side": "buy"},
        {"channel": "agg_trades"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_rows_differ_in_every_field_that_the_store_keeps(other: dict[str, Any]) -> None:
    changed = attrs.evolve(PRICE, **other)
    (name,) = other

    assert to_row(changed) != to_row(PRICE)
    assert to_row(changed, [f"trade.{name}"]) == to_row(PRICE, [name])


def test_numbers_are_compared_by_value() -> None:
    assert to_row(PRICE) == to_row(attrs.evolve(PRICE, price=Decimal("1.5000")))


def test_what_is_no_event_is_refused_with_the_reason() -> None:
    with pytest.raises(ContractViolation, match=r"its `type` and fields, got \{'price': 1\}"):
        to_row({"price": 1})
    with pytest.raises(ContractViolation, match=r"'price' of .* cannot be read"):
        to_row({"type": "trade", "price": "much"})


def test_each_promise_allows_what_it_allows() -> None:
    first, second, third = (to_row(attrs.evolve(PRICE, id=number)) for number in (1, 2, 3))
    stored = {
        "equal": [first, second],
        "lost": [first],
        "repeated": [first, second, second],
        "invented": [first, second, third],
        "swapped": [second, first],
    }

    def broken(guarantee: Guarantee) -> set[str]:
        return {
            name for name, rows in stored.items() if difference([first, second], rows, guarantee)
        }

    assert broken("exactly_once") == {"lost", "repeated", "invented", "swapped"}
    assert broken("at_least_once") == {"lost", "invented", "swapped"}
    assert broken("at_most_once") == {"repeated", "invented", "swapped"}


def test_the_order_is_compared_as_far_as_the_store_keeps_it() -> None:
    one, two, other = (
        to_row(attrs.evolve(PRICE, id=number, symbol=symbol))
        for number, symbol in ((1, "S"), (2, "S"), (3, "T"))
    )
    apart, swapped = [other, one, two], [two, one, other]

    def problem(stored: list[Row], order: Order) -> str:
        return difference([one, two, other], stored, "exactly_once", order)

    assert problem(apart, "symbol") == problem(swapped, "none") == ""
    assert "not in the order" in problem(apart, "all")
    assert "not in the order" in problem(swapped, "symbol")


def test_a_store_that_keeps_the_latest_is_expected_to_have_it_alone() -> None:
    price = Decimal(1)
    numbers = [price] * 5 + [None, None, None, None]
    forming = Bar("v", "S", 1, 2, "1m", *numbers, closed=False)
    closed = attrs.evolve(forming, closed=True)
    longer = attrs.evolve(forming, interval="5m")

    assert latest([forming, longer, PRICE, PRICE, closed], ["bar"]) == [
        longer, PRICE, PRICE, closed,
    ]  # fmt: skip
