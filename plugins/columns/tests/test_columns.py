"""Columns from events and back: exact or refused, for every event class and for a class of a plugin."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.events import (
    BY_TYPE,
    Bar,
    Book,
    Event,
    Gap,
    Levels,
    Quote,
    Reject,
    Status,
    Ticker,
    Trade,
)
from tapeloom.events.base import BaseEvent, _registered
from tapeloom_columns import (
    VERSION,
    ColumnOverflow,
    SchemaMismatch,
    portable,
    record_batches,
    schema,
    split_exact,
    to_events,
    unify,
)

Cause = Literal["hourly", "forced"]


@attrs.define
class Funding(BaseEvent):
    """An event class as a plugin may define it, with a field of every kind."""

    type: ClassVar[str] = "columns_funding"

    venue: str
    symbol: str
    ts: int
    recv: int
    rate: Decimal
    paid: Decimal | None = attrs.field(metadata={"tapeloom": "product"})
    due: int | None = attrs.field(metadata={"tapeloom": "time"})
    pool: str = attrs.field(metadata={"tapeloom": "category"})
    skew: float | None
    settled: bool | None
    marks: tuple[Decimal, ...]
    counts: list[int] | None
    notes: list[str]
    book: Levels | None
    cause: Cause | str
    trade: Trade | None
    order_id: int | str | None = None
    channel: str = "funding"


@pytest.fixture(autouse=True)
def _forget_classes() -> Iterator[None]:
    """Leave no class of a test behind: a store makes a table for each type that there is."""
    before = {**BY_TYPE}
    yield
    for name in {*BY_TYPE} - {*before}:
        del _registered[name]


CLASSES = [Trade, Quote, Book, Bar, Ticker, Gap, Reject, Status, Funding]
NS = 1_700_000_000_000_000_000
#: A number of 77 digits that pyarrow 26 stores in a decimal256 as a negative one.
WIDE = "7619189886735720151469282925707975993927.0364181543319337630639462575651840906"


def trade(price: str = "42001.50", size: str = "0.5", number: int | str = 1, **more: Any) -> Trade:
    return Trade(
        "acme", "BTC/USDT", NS, NS + 7, Decimal(price), Decimal(size), "buy", number, **more
    )


def bar(product: str) -> Bar:
    whole = Decimal(2)
    return Bar("acme", "A/B", NS, NS, "1m", *[whole] * 5, Decimal(product), None, None, 3)


# ------------------------------------------------------------------------------------- any event


INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PRINTABLE = st.text("abc ÄÖ'\"", max_size=8)


def decimals(digits: int, scale: int) -> st.SearchStrategy[Decimal]:
    """Decimals that fit, with more or fewer zeros at the end, from the largest to the smallest."""
    most = 10**digits - 1
    scaled = st.builds(
        lambda n, e: Decimal(n).scaleb(-e), st.integers(-(10**9), 10**9), st.integers(0, scale)
    )
    return scaled | st.integers(-most, most).map(lambda n: Decimal(f"{n}E-{scale}"))


def values(hint: Any, mark: str | None, name: str) -> st.SearchStrategy[Any]:
    """Values of a field that must survive the round trip."""
    if hint == Levels:
        text = decimals(30, 10).map(str) | st.sampled_from(["0E-8", "1.50000000", "00.1", "1E-40"])
        return st.lists(st.lists(text, min_size=2, max_size=2), max_size=4)
    if get_origin(hint) in (Union, UnionType):
        return st.one_of([values(part, mark, name) for part in get_args(hint)])
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) in (list, tuple):
        items = st.lists(values(get_args(hint)[0], None, name), max_size=3)
        return items.map(get_origin(hint))
    if isinstance(hint, type) and issubclass(hint, BaseEvent):
        return events(Trade if hint in (Reject, BaseEvent) else hint)
    return {
        Decimal: decimals(76, 36) if mark == "product" else decimals(38, 18),
        int: INT64,
        str: PRINTABLE if name in {"evidence", "detail"} else TEXT,
        bool: st.booleans(),
        float: st.floats(allow_nan=False),
        NoneType: st.none(),
    }[hint]


def events(cls: type[BaseEvent]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(
        cls,
        **{
            field.name: values(hints[field.name], field.metadata.get("tapeloom"), field.name)
            for field in attrs.fields(cls)
        },
    )


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.type)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_events_of_every_class_come_back_equal(cls: type[Event], data: st.DataObject) -> None:
    made = data.draw(st.lists(events(cls), min_size=1, max_size=6))
    (batch,) = record_batches(made)
    back = to_events(batch, cls)

    assert batch.schema.equals(schema(cls), check_metadata=True)
    assert back == made
    assert [[*map(type, attrs.astuple(event, recurse=False))] for event in back] == [
        [*map(type, attrs.astuple(event, recurse=False))] for event in made
    ]
    assert to_events(batch.slice(1), cls) == made[1:]
    assert to_events(portable(batch), cls) == made


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_files_of_arrow_and_parquet_give_the_same_events(tmp_path_factory, data) -> None:
    cls = data.draw(st.sampled_from(CLASSES))
    made = data.draw(st.lists(events(cls), min_size=1, max_size=6))
    (batch,) = record_batches(made, {"epoch": 7, "n": list(range(len(made)))})
    file = tmp_path_factory.mktemp("files") / "events.parquet"
    pq.write_table(pa.table(batch), file, compression="zstd")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)

    assert to_events(pq.read_table(file, partitioning=None), cls) == made
    assert to_events(pa.ipc.open_stream(sink.getvalue()).read_all(), cls) == made


# ------------------------------------------------------------------------------ exact or refused


ANY_DECIMAL = st.decimals(allow_nan=True, allow_infinity=True) | st.builds(
    lambda n, zeros, e: Decimal(f"{n}{'0' * zeros}E{e}"),
    st.integers(-(10**80), 10**80),
    st.integers(0, 80),
    st.integers(-420, 60),
)


@pytest.mark.parametrize(
    ("make", "field", "digits", "scale"),
    [(trade, "price", 38, 18), (bar, "quote_volume", 76, 36)],
    ids=["decimal128", "decimal256"],
)
@settings(max_examples=400, deadline=None)
@given(number=ANY_DECIMAL)
def test_a_number_is_stored_exactly_or_refused_and_refused_only_if_it_does_not_fit(
    make: Any, field: str, digits: int, scale: int, number: Decimal
) -> None:
    event = make(str(number))
    fits = number.is_finite() and (
        (scaled := Fraction(number) * 10**scale).denominator == 1 and abs(scaled) < 10**digits
    )
    fitting, refused = split_exact([make("1"), event])
    if refused:
        assert not fits
        assert refused[0].event is event
        assert refused[0].field == field
        with pytest.raises(ColumnOverflow):
            record_batches([make("1"), event])
    else:
        (batch,) = record_batches(fitting)
        assert fits
        assert getattr(to_events(batch)[1], field) == number


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (trade("1.5E-19"), "price"),
        (trade("1E20"), "price"),
        (trade("1E-57"), "price"),
        (bar(WIDE), "quote_volume"),
        (bar("7E-273"), "quote_volume"),
        (trade("NaN"), "price"),
        (trade(size="-Infinity"), "size"),
        (bar("1E-37"), "quote_volume"),
        (Book("acme", "A/B", NS, NS, "delta", [], [], 2**63), "first_id"),
        (Book("acme", "A/B", NS, NS, "delta", [["1", "2", "3"]], []), "raw_bids"),
        (attrs.evolve(trade(), ts=2**63), "ts"),
        (attrs.evolve(trade(), symbol="\ud800"), "symbol"),
        (attrs.evolve(trade(), price=1.5), "price"),
    ],
    ids=[
        "too_fine",
        "too_large",
        "beyond_the_table_of_pyarrow",
        "of_77_digits",
        "product_beyond_the_table",
        "nan",
        "infinite",
        "product",
        "id",
        "level",
        "time",
        "surrogate",
        "float",
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_event_and_field(
    event: Event, field: str
) -> None:
    good = trade()
    with pytest.raises(ColumnOverflow, match=f"{event.type}.{field}") as caught:
        record_batches([good, event, good])

    assert caught.value.event is event
    assert caught.value.field == field
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_split_exact_sets_aside_only_the_events_that_do_not_fit_and_keeps_the_order() -> None:
    tiny, huge, product = trade("1E-19", "1E-30"), trade(size="1E30"), bar("1E-40")
    gap = Gap("acme", "A/B", NS, NS, NS, NS, "stall")
    good = [trade(number=1), gap, bar("1E-30"), trade(number=2)]
    fitting, refused = split_exact([good[0], tiny, good[1], product, good[2], huge, good[3]])

    assert fitting == good
    assert [(refusal.event, refusal.field) for refusal in refused] == [
        (tiny, "price"),
        (product, "quote_volume"),
        (huge, "size"),
    ]
    assert [len(batch) for batch in record_batches(fitting)] == [2, 1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "1." + "0" * 57,
        "67" + "0" * 17 + "." + "0" * 57,
        "0E+50",
        "0E-400",
        "5" + "0" * 30 + "E-30",
        "1E19",
    ],
)
def test_a_number_that_fits_is_stored_however_long_it_is_written(text: str) -> None:
    (batch,) = record_batches([trade(text), trade(f"-{text}")])

    assert [event.price for event in to_events(batch)] == [Decimal(text), -Decimal(text)]


def test_numbers_that_cancel_out_are_refused_all_the_same() -> None:
    bars = [bar("1"), bar(WIDE), bar(f"-{WIDE}"), bar("2")]

    assert split_exact(bars)[0] == [bars[0], bars[3]]


# ------------------------------------------------------------------------ what changes its spelling


def test_trailing_zeros_are_not_kept_and_no_others_appear() -> None:
    (batch,) = record_batches(
        [trade("42001.500"), trade("100"), trade("0.00000010"), trade("-0.0")]
    )

    assert [str(event.price) for event in to_events(batch)] == [
        "42001.5",
        "100",
        "1.00000000000E-7",
        "0E-18",
    ]


def test_small_numbers_keep_their_exponent() -> None:
    (batch,) = record_batches([trade("1E-10"), trade("1E-18")])

    assert [event.price for event in to_events(batch)] == [Decimal("1E-10"), Decimal("1E-18")]


def test_a_slice_of_books_holds_the_levels_of_its_own_rows() -> None:
    books = [Book("a", "A/B", n, n, "delta", [[str(n), "1"]] * n, []) for n in range(4)]
    (batch,) = record_batches(books)

    assert to_events(batch.slice(2, 1)) == books[2:3]


def test_no_list_is_not_an_empty_list() -> None:
    common = ("acme", "A/B", NS, NS, Decimal(1), None, None, "pool", None, None, ())
    made = [Funding(*common, counts, [], None, "hourly", None) for counts in (None, [], [1])]
    (batch,) = record_batches(made)

    assert to_events(batch, Funding) == made


def test_levels_keep_the_texts_of_the_venue_and_decimals_become_texts() -> None:
    texts = Book("acme", "A/B", NS, NS, "snapshot", [("1.10", "0E-8")], [["2", "3.000"]])
    numbers = Book("acme", "A/B", NS, NS, "delta", [(Decimal("1.10"), Decimal("0E-8"))], [])
    (batch,) = record_batches([texts, numbers])
    back = to_events(batch)

    assert back[0].raw_bids == [["1.10", "0E-8"]]
    assert back[0].raw_asks == [["2", "3.000"]]
    assert back[1].raw_bids == [["1.10", "0E-8"]]
    assert back[1].bids == numbers.bids


def test_an_id_stays_a_number_or_a_name_and_a_number_beyond_64_bits_becomes_text() -> None:
    (batch,) = record_batches([trade(number=7), trade(number="7"), trade(number=2**63)])

    assert batch["id"].to_pylist() == ["7", "7", str(2**63)]
    assert batch["seq"].to_pylist() == [7, None, None]
    assert [event.id for event in to_events(batch)] == [7, "7", str(2**63)]


# --------------------------------------------------------------------------------- batches, extras


def test_each_class_gets_one_batch_in_order_with_its_own_rows_of_the_extra_columns() -> None:
    gap = Gap("acme", "A/B", NS, NS, NS, NS, "stall")
    mixed = [gap, trade(number=1), bar("2"), trade(number=2), gap]
    gaps, trades, bars = record_batches(mixed, {"epoch": 9, "n": [5, 6, 7, 8, 9], "k": 3})

    assert (to_events(gaps), to_events(trades), to_events(bars)) == (
        [gap, gap],
        [mixed[1], mixed[3]],
        [mixed[2]],
    )
    assert (gaps["n"].to_pylist(), trades["n"].to_pylist()) == ([5, 9], [6, 8])
    assert trades["epoch"].to_pylist() == [9, 9]
    assert trades.schema == schema(Trade, ["epoch", "n", "k"])
    assert [str(trades[name].type) for name in ("epoch", "n", "k")] == ["int64", "int64", "int32"]


def test_a_column_with_one_text_in_all_rows_holds_the_text_once() -> None:
    (batch,) = record_batches([trade(number=number) for number in range(1_000)])

    assert batch["venue"].dictionary.to_pylist() == ["acme"]
    assert batch["venue"].type == schema(Trade).field("venue").type
    assert set(batch["venue"].to_pylist()) == {"acme"}


def test_no_events_give_no_batch() -> None:
    assert record_batches([]) == []
    assert split_exact([]) == ([], [])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"n": [1]}, "expected 2 numbers for 'n'"),
        ({"k": 2**31}, "expected numbers of int32 for 'k'"),
        ({"row": 1}, "expected extra columns of"),
    ],
)
def test_extra_columns_that_cannot_be_right_are_refused(extra: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record_batches([trade(), trade()], extra)


# --------------------------------------------------------------------------- older and newer files


def as_old(batch: pa.RecordBatch, *missing: str, **metadata: str) -> pa.Table:
    table = pa.table(batch).drop_columns(list(missing))
    return table.replace_schema_metadata(
        {
            **batch.schema.metadata,
            **{f"tapeloom.{key}".encode(): text for key, text in metadata.items()},
        }
    )


def test_a_field_that_an_old_file_lacks_gets_its_default_or_none() -> None:
    book = Book("acme", "A/B", NS, NS, "delta", [["1", "2"]], [], 4, 5, 3, channel="book:10")
    bars = to_events(as_old(*record_batches([bar("2")]), "trades", "revision"))
    (old,) = to_events(as_old(*record_batches([book]), "first_id", "depth", "origin"))

    assert old == attrs.evolve(book, first_id=None)
    assert bars == [attrs.evolve(bar("2"), trades=None)]


def test_a_field_without_a_default_must_be_there() -> None:
    with pytest.raises(SchemaMismatch, match="expected a column 'price' of trade"):
        to_events(as_old(*record_batches([trade()]), "price"))


def test_old_and_new_files_are_read_together_in_the_unified_schema(tmp_path) -> None:
    (batch,) = record_batches([trade()], {"epoch": 1})
    old = as_old(batch, "origin").append_column("removed", pa.array([True]))
    unified = unify(old.schema, Trade)
    pq.write_table(old, tmp_path / "1.parquet")
    pq.write_table(pa.table(*[record_batches([trade(number=2)])[0]]), tmp_path / "2.parquet")
    table = pq.read_table(tmp_path, schema=unified)

    assert unified.names == [*schema(Trade).names, "epoch", "removed"]
    assert table.schema.metadata == schema(Trade).metadata
    assert table["origin"].to_pylist() == [None, "live"]
    assert table["removed"].to_pylist() == [True, None]


def test_a_newer_version_is_refused() -> None:
    newer = as_old(*record_batches([trade()]), version=str(VERSION + 1))
    for read in (lambda: to_events(newer), lambda: unify(newer.schema, Trade)):
        with pytest.raises(SchemaMismatch, match=f"version {VERSION} or older, got version 2"):
            read()


def test_columns_that_have_lost_digits_or_belong_to_another_class_are_refused() -> None:
    table = pa.table(*record_batches([trade()]))
    micro = table.set_column(2, "ts", table["ts"].cast(pa.timestamp("us", "UTC"), safe=False))
    floats = table.set_column(4, "price", table["price"].cast(pa.float64()))

    for wrong, message in (
        (micro, r"trade.ts as timestamp\[ns, tz=UTC\], got timestamp\[us"),
        (floats, r"trade.price as decimal128\(38, 18\), got double"),
        (as_old(table, type="dream"), "expected an event type of trade.* got 'dream'"),
        (table.replace_schema_metadata(), "another tool has dropped it"),
    ):
        with pytest.raises(SchemaMismatch, match=message):
            to_events(wrong)
    with pytest.raises(SchemaMismatch, match="columns of 'gap', got those of 'trade'"):
        to_events(table, Gap)


def test_columns_that_another_tool_has_decoded_are_read(tmp_path) -> None:
    made = [trade(number=1), trade(number="x", origin="backfill")]
    table = pa.table(*record_batches(made))
    for number, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type) or pa.types.is_string(field.type):
            table = table.set_column(number, field.name, table[number].cast(pa.large_utf8()))
    plain = table.set_column(2, "ts", table["ts"].cast(pa.int64())).replace_schema_metadata()

    assert to_events(plain, Trade) == made


def test_a_hive_dataset_whose_key_is_left_out_of_the_files_is_read(tmp_path) -> None:
    made = [trade(number=1), trade(number=2)]
    (batch,) = record_batches(made)
    folder = tmp_path / "venue=acme"
    folder.mkdir()
    pq.write_table(pa.table(batch).drop_columns("venue"), folder / "1.parquet")

    assert to_events(pq.read_table(tmp_path)) == made


# -------------------------------------------------------------------------------------- classes


def test_a_field_without_a_column_is_named() -> None:
    @attrs.define
    class Bad(BaseEvent):
        type: ClassVar[str] = "columns_bad"
        venue: str
        symbol: str
        ts: int
        recv: int
        table: dict[str, int]
        channel: str = "bad"

    @attrs.define
    class Marked(BaseEvent):
        type: ClassVar[str] = "columns_marked"
        venue: str = attrs.field(metadata={"tapeloom": "product"})
        symbol: str
        ts: int
        recv: int
        channel: str = "marked"

    @attrs.define
    class Twice(BaseEvent):
        type: ClassVar[str] = "columns_twice"
        venue: str
        symbol: str
        ts: int
        recv: int
        id: int | str
        seq: int
        channel: str = "twice"

    @attrs.define
    class Local(BaseEvent):
        type: ClassVar[str] = "columns_local"
        venue: str
        symbol: str
        ts: int
        recv: int
        level: Unknown  # noqa: F821
        channel: str = "local"

    for cls, message in (
        (Local, "name 'Unknown' is not defined"),
        (Bad, "got dict.* for Bad.table"),
        (Marked, "for Marked.venue .mark 'product'."),
        (Twice, r"Twice, got \['seq'\] twice"),
        (int, "expected an attrs class of events"),
    ):
        with pytest.raises(SchemaMismatch, match=message):
            schema(cls)


def test_a_class_with_keyword_fields_in_any_order_comes_back() -> None:
    @attrs.define(kw_only=True)
    class Alert(BaseEvent):
        type: ClassVar[str] = "columns_alert"
        ts: int = 5
        venue: str
        symbol: str = "A/B"
        recv: int = 6
        channel: str = "alerts"
        level: int = 1

    made = [Alert(venue="acme", level=3), Alert(ts=6, venue="b")]
    (batch,) = record_batches(made)

    assert to_events(batch, Alert) == made
    assert to_events(pa.table(batch).drop_columns("level"), Alert)[0] == Alert(venue="acme")
