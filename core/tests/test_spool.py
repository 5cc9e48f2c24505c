"""The spool of a sink and its format, and the positions: exact, bounded, and whole after a crash."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom._stream.sinks.positions import Positions, parse, texts
from tapeloom._stream.sinks.spool import Spool
from tapeloom._stream.sinks.spool_format import pack, unpack
from tapeloom.errors import SinkRefused, SinkUnavailable
from tapeloom.events import Bar, Book, Event, Gap, Quote, Reject, Status, Ticker, Trade
from tapeloom.plugin import Subscription

NS = 1_700_000_000_000_000_000
KEY = ("acme", "BTC/USD", "trades")


def trade(number: int, event_id: int | str | None = None, **more: Any) -> Trade:
    named = number if event_id is None else event_id
    return Trade("acme", "BTC/USD", NS + number, NS + number, Decimal("1.50"), Decimal(2), "buy", named, **more)  # fmt: skip


def trades(first: int, last: int) -> list[Event]:
    return [trade(number) for number in range(first, last + 1)]


times = st.integers(0, 2**63 - 1)
numbers = st.decimals(allow_nan=False, allow_infinity=False)
some = st.one_of(st.none(), numbers)
text = st.text(max_size=8)
names = st.sampled_from(["BTC/USD", "ETH/USD", "", "Ünï\ud800"])
levels = st.lists(st.tuples(numbers.map(str), numbers.map(str)).map(list), max_size=3)
events = st.one_of(
    st.builds(
        Trade, text, names, times, times, numbers, numbers,
        st.sampled_from(["buy", "sell", None]), st.one_of(st.integers(), text), text,
    ),
    st.builds(Quote, text, names, times, times, some, some, some, some, st.none() | times),
    st.builds(Book, text, names, times, times, st.just("delta"), levels, levels, st.none() | times),
    st.builds(
        Bar, text, names, times, times, text, numbers, numbers, numbers, numbers, numbers,
        some, some, some, st.none() | times, st.booleans(), st.booleans(), times,
    ),
    st.builds(Ticker, text, names, times, times, some, some, some, some, some, some),
    st.builds(
        Gap, text, names, times, times, times, times, st.just("stall"), st.none() | times,
        st.just("open"), text, st.one_of(st.none(), times, text),
    ),
    st.builds(Status, text, names, times, times, text, text),
    st.builds(Reject, text, names, times, times, text, text, st.builds(trade, times)),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(events, min_size=1, max_size=12))
def test_packed_events_are_read_back_exactly_with_their_digits_and_in_order(
    batch: list[Event],
) -> None:
    found = unpack(pack(batch))

    assert found == batch
    assert repr(found) == repr(batch)  # 1.50 is equal to 1.5, and True to 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'[["trade",{}]]', b'[["nothing",["x"]]]'])
def test_a_body_that_is_no_batch_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(body[:20] + b"\x00")


# ---------------------------------------------------------------------------------------- the file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "store.spool"


def opened(path: Path, limit: int = 1_000_000, epoch: int = 7) -> Spool:
    spool = Spool(path, limit)
    spool.open(epoch)
    return spool


def test_events_are_read_back_by_number_across_batches(path: Path) -> None:
    spool = opened(path)
    for first in range(1, 100, 10):
        assert spool.append(trades(first, first + 9))

    assert spool.read(0, 5) == (1, trades(1, 10))
    assert spool.read(37, 10) == (38, trades(38, 50))
    assert spool.read(100, 10) == (101, [])
    spool.close()


def test_a_reopened_spool_goes_on_with_its_run_its_numbers_and_its_positions(path: Path) -> None:
    spool = opened(path, epoch=7)
    spool.append(trades(1, 10))
    spool.save(4, {"key": "value"})
    spool.append(trades(11, 12))
    spool.close()
    again = Spool(path, 1_000_000)
    positions = again.open(8)
    numbers = (again.epoch, again.stored, again.accepted, again.last, again.count)

    assert positions == {"key": "value"}
    assert numbers == (7, 4, 10, 12, 12)  # a batch is deleted as a whole
    assert again.append(trades(13, 13))
    assert again.read(11, 9) == (12, trades(12, 13))
    again.close()


def test_numbers_go_on_after_everything_was_stored(path: Path) -> None:
    spool = opened(path)
    spool.append(trades(1, 10))
    spool.save(10)
    spool.close()
    again = opened(path)

    assert (again.last, again.count, again.bytes) == (10, 0, 0)
    again.append(trades(11, 11))
    assert again.read(10, 5) == (11, trades(11, 11))
    again.close()


def test_a_spool_takes_no_more_than_its_limit_until_events_are_stored(path: Path) -> None:
    spool = opened(path, limit=2_000)
    count = 0
    while spool.append(trades(count * 10 + 1, count * 10 + 10)):
        count += 1

    assert 1 <= count < 20
    assert spool.bytes <= 2_000
    spool.save(10)
    assert spool.append(trades(count * 10 + 1, count * 10 + 10))
    spool.close()


def test_a_full_disk_is_told_and_nothing_that_was_acknowledged_is_lost(path: Path) -> None:
    spool = opened(path, limit=10**9)
    spool.append(trades(1, 10))
    spool._database.execute("PRAGMA max_page_count=12")  # type: ignore[union-attr]
    with pytest.raises(SinkUnavailable, match=r"is full.*Free space"):
        for first in range(11, 10_000, 100):
            spool.append(trades(first, first + 99))
    last = spool.last
    spool._database.execute("PRAGMA max_page_count=1000000")  # type: ignore[union-attr]
    spool.append(trades(last + 1, last + 1))

    assert spool.read(0, 10**6) == (1, trades(1, last + 1))
    spool.close()


def test_a_file_that_is_no_spool_and_a_newer_version_are_refused_with_what_to_do(
    path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("this is not a database, but a long enough text to be looked at" * 20)
    with pytest.raises(SinkRefused, match=r"cannot be opened: .*move it away"):
        Spool(other, 1000).open(1)
    opened(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(SinkRefused, match="has version 99, expected 2"):
        Spool(path, 1000).open(1)


def test_what_was_appended_survives_kill_9(path: Path) -> None:
    program = """
        import os, signal, sys
        from decimal import Decimal
        from pathlib import Path
        from tapeloom._stream.sinks.spool import Spool
        from tapeloom.events import Trade
        spool = Spool(Path(sys.argv[1]), 10**9)
        spool.open(1)
        for n in range(1, 10**6):
            spool.append([Trade("acme", "BTC/USD", n, n, Decimal(1), Decimal(1), "buy", n)])
            print(n, flush=True)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(path)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    acknowledged = 0
    while acknowledged < 60:
        acknowledged = int(child.stdout.readline())
    child.kill()
    acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
    child.wait()
    child.stdout.close()
    spool = opened(path)
    _, found = spool.read(0, 10**6)

    assert [event.ts for event in found][:acknowledged] == [*range(1, acknowledged + 1)]
    assert len(found) in (acknowledged, acknowledged + 1)
    spool.close()


# ---------------------------------------------------------------------------------------- positions


def folded(*batches: list[Event]) -> Positions:
    positions = Positions()
    for batch in batches:
        positions.update(positions.after(batch))
    return positions


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=20), st.integers(1, 7))
def test_positions_do_not_depend_on_how_events_are_cut_and_survive_their_text(
    batch: list[Event], size: int
) -> None:
    whole = folded(batch)
    cut = folded(*(batch[start : start + size] for start in range(0, len(batch), size)))
    again = Positions()
    again.restore(texts(whole.after(batch)))

    assert cut.by_venue() == whole.by_venue()
    for changed in texts(whole.after(batch)).values():
        assert parse(changed).to_text() == changed


def test_the_position_is_the_highest_number_also_where_trades_came_out_of_order() -> None:
    positions = folded([trade(5), trade(7), trade(6)])

    assert positions.by_venue()["acme"][Subscription("BTC/USD", "trades")].last == trade(7)


def test_the_position_with_backfilled_trades_is_newer_than_the_one_before_them() -> None:
    gap = Gap("acme", "BTC/USD", NS + 9, NS + 9, NS + 3, NS + 9, "disconnect", 5, "open", "trades", 3, 9)  # fmt: skip
    before = folded([trade(3), gap, trade(9)])
    after = before.copy()
    after.update(after.after([trade(4, origin="backfill"), trade(5, origin="backfill")]))
    merged = after.copy()
    merged.merge(before)
    (position,) = merged.by_venue()["acme"].values()

    assert position.open[0].found == {4, 5}
    assert position.ts == NS + 9


def test_what_a_store_has_is_known_by_number_by_recent_names_and_in_open_gaps() -> None:
    gap = Gap("acme", "BTC/USD", NS + 9, NS + 9, NS + 3, NS + 9, "disconnect", 5, "open", "trades", 3, 9)  # fmt: skip
    numbered = folded([trade(3), gap, trade(9), trade(5, origin="backfill")])
    named = folded([trade(3, "c"), trade(4, "d")])

    assert [n for n in range(1, 13) if numbered.has(trade(n))] == [1, 2, 3, 5, 9]
    assert [name for n, name in enumerate("abcde", 1) if named.has(trade(n, name))] == [*"abcd"]


def test_a_final_gap_is_no_longer_open() -> None:
    def gap(state: Any) -> Gap:
        return Gap("acme", "BTC/USD", 9, 9, 3, 9, "disconnect", 5, state, "trades", 3, 9)

    (open_gap,) = folded([gap("open")]).by_venue()["acme"].values()
    (closed,) = folded([gap("open")], [gap("filled")]).by_venue()["acme"].values()

    assert [item.gap for item in open_gap.open] == [gap("open")]
    assert closed.open == ()


def test_a_subscription_with_nothing_but_a_gap_stands_where_the_gap_begins() -> None:
    gap = Gap("acme", "BTC/USD", 9, 9, 3, 9, "disconnect", None, "unrecoverable", "quotes")
    status = Status("acme", "ETH/USD", 9, 9, "stale", "", "book")
    (key,) = folded([gap, status]).by_venue()["acme"].items()

    assert (key[0], key[1].ts) == (Subscription("BTC/USD", "quotes"), 3)


@pytest.mark.parametrize("text", ["", "5", "{}", '{"ts": "x"}', '{"ts": 1, "last": 5}', "[[[["])
def test_a_text_that_is_no_position_is_named_and_skipped(text: str) -> None:
    positions = Positions()

    assert positions.restore({'["acme","BTC/USD","trades"]': text, "nothing": text}) == [
        '["acme","BTC/USD","trades"]', "nothing",
    ]  # fmt: skip
    assert positions.by_venue() == {}
