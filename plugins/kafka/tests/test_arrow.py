"""With `format = "arrow"` the events of a type and symbol of a batch are one message."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest
from tapeloom.events import Trade
from tapeloom.plugin import SinkBatch, SinkRun
from tapeloom_kafka import KafkaSink, Settings

pa = pytest.importorskip("pyarrow")
columns = pytest.importorskip("tapeloom_columns")

EPOCH = 1_700_000_000_000_000_000


def rows(messages):
    """The events of all messages by their numbers, each with the key of its message."""
    found = {}
    for message in messages:
        table = pa.ipc.open_stream(message.value()).read_all()
        numbers, epochs = table["n"].to_pylist(), table["epoch"].to_pylist()
        assert set(epochs) == {EPOCH}
        for number, event in zip(numbers, columns.to_events(table), strict=True):
            assert number not in found
            found[number] = message.key().decode(), event
    return found


def test_all_types_of_events_arrive_once_and_exactly(table, market, write_all, messages):
    events = market(300)
    write_all(KafkaSink(Settings(**table, format="arrow")), events)
    found = rows(messages(table))

    assert sorted(found) == [*range(1, 301)]
    assert [found[number] for number in sorted(found)] == [(e.symbol, e) for e in events]


def test_a_batch_has_one_message_for_each_type_and_symbol(table, market, messages):
    events = market(100)
    sink = KafkaSink(Settings(**table, format="arrow"))
    sink.open(SinkRun("store", EPOCH))
    sink.write(SinkBatch(EPOCH, 1, events))
    sink.close()

    assert len(messages(table)) == len({(event.type, event.symbol) for event in events})


def test_a_message_that_is_too_large_is_halved(table, market, messages):
    trades = [event for event in market(900) if type(event) is Trade]
    settings = Settings(**table, format="arrow", options={"message.max.bytes": 10_000})
    sink = KafkaSink(settings)
    sink.open(SinkRun("store", EPOCH))
    sink.write(SinkBatch(EPOCH, 1, trades))
    sink.close()
    found = messages(table)

    assert len(found) > 2
    assert max(len(message.value()) for message in found) <= 9_000
    assert [event for _, event in (rows(found)[n] for n in range(1, len(trades) + 1))] == trades


def test_a_number_that_no_column_holds_is_set_aside(table, market, write_all, messages):
    events = market(10)
    wrong = Trade("acme", "BTC/USDT", 1, 1, Decimal("1E-30"), Decimal(1), "buy", 1)
    counters = write_all(KafkaSink(Settings(**table, format="arrow")), [*events, wrong], sizes=[11])
    kinds = Counter(event.type for _, event in rows(messages(table)).values())

    assert counters["sink_errors"] == 1
    assert kinds == Counter([*(event.type for event in events), "reject"])
