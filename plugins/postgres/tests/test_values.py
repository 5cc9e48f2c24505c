"""What an event says is what the table has: numbers, times, texts, books, own classes, added fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, ClassVar, Literal

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tapeloom.errors import BatchRefused
from tapeloom.events import BaseEvent, Book, Gap, Quote, Reject, Status, Trade, decode, event_class
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_postgres import PostgresSink, Settings
from tapeloom_postgres.rows import canonical
from tapeloom_testing.contract.sinks.rows import difference, to_row
from tapeloom_testing.services import PostgresServer

Read = Callable[..., list[dict[str, Any]]]
TS = 1_700_000_000_000_000_001
MANY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False) | st.builds(
    Decimal, st.from_regex(r"-?[0-9]{1,40}(\.[0-9]{1,40})?(E[+-]?[0-9]{1,3})?", fullmatch=True)
)
TIMES = st.integers(-(2**63), 2**63 - 1)
IDS = st.integers(-(2**70), 2**70) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20
)


class Store:
    """A sink with a number of its own for each event that is written."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.sink = PostgresSink(Settings(dsn=dsn, schema=schema))
        self.last = self.sink.open(SinkRun("s", 1)).last

    def write(self, *events: BaseEvent) -> None:
        self.sink.write(SinkBatch(1, self.last + 1, events))
        self.last += len(events)

    def refuses(self, event: BaseEvent, match: str) -> None:
        with pytest.raises(BatchRefused, match=match):
            self.write(event)
        self.sink.open(SinkRun("s", 1))


@pytest.fixture
def store(server: PostgresServer, schema: str):
    store = Store(server.dsn, schema)
    yield store
    store.sink.close()


def newest(read: Read, schema: str, count: int) -> list[dict[str, Any]]:
    return read(schema)[-count:]


def assert_stored(events: Sequence[BaseEvent], rows: list[dict[str, Any]]) -> None:
    expected, found = [to_row(event) for event in events], [to_row(row) for row in rows]
    assert difference(expected, found, "exactly_once") == ""


@MANY
@given(
    st.lists(
        st.builds(
            Trade, TEXTS, TEXTS, TIMES, TIMES, NUMBERS, NUMBERS, st.sampled_from(["buy", "sell", None]),
            IDS.filter(bool), TEXTS,
        ),
        min_size=1, max_size=9, unique_by=lambda event: (event.ts, event.venue, event.symbol, event.channel, str(event.id)),
    )
)  # fmt: skip
def test_numbers_times_and_texts_are_stored_exactly(
    store: Store, schema: str, read: Read, events: list[Trade]
) -> None:
    with psycopg.connect(store.sink._settings.dsn) as database:
        database.execute(f'TRUNCATE "{schema}".trade')
    store.write(*events)

    rows = newest(read, schema, len(events))
    for event, row in zip(events, rows, strict=True):
        if type(event.id) is int and abs(event.id) >= 2**63:
            row["id"] = int(row["id"])  # a number that bigint cannot hold is a text
    assert_stored(events, rows)


def test_every_digit_is_kept_zeros_at_the_end_too(store: Store, schema: str, read: Read) -> None:
    texts = [
        "1.10",
        "1E-7",
        "0.000",
        "1E+30",
        "-0.10",
        "9" * 60 + "." + "9" * 60,
        "NaN",
        "Infinity",
    ]
    store.write(*(Trade("v", "s", TS, TS, Decimal(text), Decimal(1), id=text) for text in texts))

    found = [format(row["price"], "f") for row in read(schema)]

    assert found == [format(Decimal(text), "f") for text in texts]


@pytest.mark.parametrize("text", ["1E-16384", "1.5E-16383", "1E+131072", "sNaN"])
def test_a_number_that_numeric_would_round_or_cannot_hold_is_refused(
    store: Store, text: str
) -> None:
    store.refuses(Trade("v", "s", TS, TS, Decimal(text), Decimal(1)), "numeric")


@pytest.mark.parametrize(
    ("event", "match"),
    [
        (Trade("v", "s", TS, TS, Decimal(1), Decimal(1), id="a\0b"), "NUL"),
        (Trade("v", "s\ud800", TS, TS, Decimal(1), Decimal(1)), r"surrogate, U\+D800"),
        (Trade("v", "s", 2**63, TS, Decimal(1), Decimal(1), id=1), "out of range"),
        (Trade("v", "s", TS, TS, "dear", Decimal(1), id=1), "invalid input"),
        (Trade("v", "s", TS, TS, None, Decimal(1), id="x" * 9_000_000), "index row"),
        (Book("v", "s", TS, TS, "delta", [["1"]], []), "no pair"),
        (Book("v", "s", TS, TS, "delta", [["1", "2},{3,4"]], []), "no number"),
        (Book("v", "s", TS, TS, "delta", [["1", "e"]], []), "invalid input"),
    ],
)
def test_what_postgresql_cannot_store_is_refused_in_one_sentence(
    store: Store, schema: str, read: Read, event: BaseEvent, match: str
) -> None:
    store.refuses(event, match)

    store.write(Status("v", "s", TS, TS, "live"))
    assert len(read(schema)) == 1


def test_the_reject_of_a_refused_event_is_stored_with_the_event(
    store: Store, schema: str, read: Read
) -> None:
    event = Trade("v", "s", TS, TS, Decimal("1.10"), Decimal(1), id="a\0b\ud800")
    store.write(Reject("v", "s", TS, TS, "sink_refused", "a\0b", event))

    assert_stored([Reject("v", "s", TS, TS, "sink_refused", "a\0b", event)], read(schema))


def test_levels_of_books_are_arrays_of_exact_numbers(
    store: Store, schema: str, read: Read, server: PostgresServer
) -> None:
    bids = [("100.10", "1.500"), (Decimal("1E-7"), Decimal(0))]
    events = [
        Book("v", "s", TS, TS, "snapshot", bids, []),
        Book("v", "s", TS, TS, "delta", [], bids),
    ]
    store.write(*events)

    assert_stored(events, read(schema))
    with psycopg.connect(server.dsn) as database:
        best = database.execute(f'SELECT bids[1][1]::text FROM "{schema}".book').fetchone()
    assert best == ("100.10",)


def test_ids_are_texts_with_the_number_beside_them(store: Store, schema: str, read: Read) -> None:
    ids = [7, "007", "", 2**63 - 1, 2**63]
    store.write(*(Trade("v", "s", TS, TS, Decimal(1), Decimal(1), id=name) for name in ids))
    store.write(Gap("v", "s", TS, TS, TS, TS, "sequence", after_id=5, before_id="b"))

    rows = read(schema, full=True)
    assert [(row["id"], row["seq"]) for row in rows[:-1]] == [
        ("7", 7), ("007", None), ("", None), (str(2**63 - 1), 2**63 - 1), (str(2**63), None),
    ]  # fmt: skip
    names = ("after_id", "after_seq", "before_id", "before_seq")
    assert [rows[-1][name] for name in names] == ["5", 5, "b", None]


@event_class
class Measured(BaseEvent):
    """An event class of a plugin with all kinds of fields."""

    type: ClassVar[str] = "postgres_measured"

    venue: str
    symbol: str
    ts: int
    recv: int
    ratio: float
    prices: tuple[Decimal, ...]
    mood: Literal["up", "down"] | None = None
    cause: Trade | None = None
    note: str | None = None
    channel: str = "measured"


def test_an_event_class_of_a_plugin_has_a_table_of_its_own(
    store: Store, schema: str, read: Read
) -> None:
    cause = Trade("v", "s", TS, TS, Decimal("1.10"), Decimal(1), id="a\0")
    events = [
        Measured("v", "s", TS, TS, 0.1, (Decimal("1.10"), Decimal(2)), "up", cause, "tab\there\\"),
        Measured("v", "s", TS, TS, -math.inf, ()),
        Measured("v", "s", TS, TS, -math.inf, ()),
    ]
    store.write(*events)

    rows = read(schema, full=True)
    assert [(row["ratio"], row["prices"], row["mood"], row["note"], row["k"]) for row in rows] == [
        (0.1, ["1.10", "2"], "up", "tab\there\\", 0), (-math.inf, [], None, None, 0), (-math.inf, [], None, None, 1),
    ]  # fmt: skip
    assert decode(psycopg.types.json.json.dumps(rows[0]["cause"])) == cause


def test_a_class_that_is_defined_while_the_sink_runs_gets_a_table_and_a_field_a_column(
    store: Store, schema: str, read: Read
) -> None:
    def define(*names: str) -> Any:
        fields = dict.fromkeys(("ts", "recv", *names), int)
        kinds = {"venue": str, "symbol": str, "channel": str, **fields}
        return event_class(
            type("Grown", (BaseEvent,), {"type": "postgres_grown", "__annotations__": kinds})
        )

    store.write(define("first")("v", "s", "c", TS, TS, 1))
    store.write(define("first", "second")("v", "s", "c", TS, TS, 1, 2))

    assert [(row["first"], row["second"]) for row in read(schema)] == [(1, None), (1, 2)]


@pytest.mark.parametrize(
    ("name", "kinds", "match"),
    [
        ("_hidden", {}, "no name for a table"),
        ("x" * 60, {}, "no name for a table"),
        ("postgres_clash", {"n": int}, "field 'n'"),
        ("postgres_unread", {"level": "Unknown"}, "Import the name outside"),
    ],
)
def test_a_class_that_cannot_have_a_table_is_refused_and_no_other_event(
    store: Store, schema: str, read: Read, name: str, kinds: dict[str, Any], match: str
) -> None:
    common = {"venue": str, "symbol": str, "channel": str, "ts": int, "recv": int}
    cls: Any = event_class(
        type("Odd", (BaseEvent,), {"type": name, "__annotations__": {**common, **kinds}})
    )

    store.refuses(cls("v", "s", "c", TS, TS, *[1 for _ in kinds]), match)
    store.write(Status("v", "s", TS, TS, "live"))
    assert len(read(schema)) == 1


@MANY
@given(NUMBERS, st.integers(0, 30))
def test_equal_numbers_have_equal_keys_and_others_have_not(number: Decimal, zeros: int) -> None:
    sign, digits, exponent = number.as_tuple()
    same = Decimal((sign, (*digits, *[0] * zeros), exponent - zeros))

    assert canonical(same) == canonical(number)
    assert canonical(number * 10) != canonical(number) or not number


def test_quotes_that_differ_by_trailing_zeros_only_are_counted_as_equal(
    store: Store, schema: str, read: Read
) -> None:
    store.write(
        *(Quote("v", "s", TS, TS, Decimal(text), None, None, None) for text in ("1", "1.0"))
    )

    assert [row["k"] for row in read(schema, full=True)] == [0, 1]
