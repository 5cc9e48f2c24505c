"""What the sink asks of Kafka, against librdkafka's mock cluster.

The mock is in memory, shows messages of aborted transactions to readers of committed ones, and lets
replaced producers commit. So these tests show that the client is used rightly, not that Kafka stores each
event once.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path

import pytest
from confluent_kafka import Producer
from tapeloom.errors import BatchRefused, SinkUnavailable
from tapeloom.events import Trade, decode
from tapeloom.plugin import Resume, SinkBatch, SinkRun
from tapeloom_kafka import KafkaSink, Settings

EPOCH = 1_700_000_000_000_000_000
WRITER = Path(__file__).with_name("writing_process.py")


class LosingSink:
    """A fault injector: every *nth* write fails, before the inner sink writes or after."""

    def __init__(self, inner, nth, *, before):
        self.inner, self.nth, self.before, self.count = inner, nth, before, 0
        self.guarantee = inner.guarantee

    def open(self, run):
        return self.inner.open(run)

    def write(self, batch):
        self.count += 1
        is_lost = self.count % self.nth == 0
        if not (is_lost and self.before):
            self.inner.write(batch)
        if is_lost:
            raise SinkUnavailable("the answer was lost")

    def close(self):
        self.inner.close()


@pytest.mark.parametrize("transactions", [True, False])
def test_all_types_of_events_arrive_once_and_unchanged(
    transactions, table, market, write_all, stored
):
    events = market(400)
    write_all(KafkaSink(Settings(**table, transactions=transactions)), events)

    assert stored(table) == events


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("nth", [2, 3])
def test_a_batch_whose_answer_is_lost_is_not_written_again(
    nth, before, table, market, write_all, stored
):
    events = market(35)
    sink = LosingSink(KafkaSink(Settings(**table)), nth, before=before)
    counters = write_all(sink, events, sizes=[7])

    assert counters["sink_retries"] >= 1
    assert stored(table) == events


def test_messages_of_a_symbol_are_in_order_in_one_partition(table, market, write_all, messages):
    trades = [event for event in market(600) if type(event) is Trade]
    write_all(KafkaSink(Settings(**table)), trades)
    partitions = defaultdict(set)
    got = defaultdict(list)
    for message in messages(table, "trade"):
        symbol = message.key().decode()
        partitions[symbol].add(message.partition())
        got[symbol].append(decode(message.value()))

    assert {len(numbers) for numbers in partitions.values()} == {1}
    assert got == {
        symbol: [event for event in trades if event.symbol == symbol] for symbol in partitions
    }
    assert len(got) == 2


def test_a_run_that_starts_again_continues_after_what_is_stored(table, market, write_all, stored):
    events = market(60)
    write_all(KafkaSink(Settings(**table)), events[:23], sizes=[10])
    write_all(KafkaSink(Settings(**table)), events, sizes=[9])

    assert stored(table) == events


def test_a_tape_that_is_replayed_twice_is_stored_once_also_after_another_one(
    table, market, write_all, stored
):
    first, second = market(40, seed=1), market(40, seed=2)
    for epoch, events in ((EPOCH + 1, second), (EPOCH, first), (EPOCH, first), (EPOCH + 1, second)):
        write_all(KafkaSink(Settings(**table)), events, epoch=epoch)

    assert stored(table) == [*first, *second]


@pytest.mark.parametrize("transactions", [True, False])
def test_another_run_has_nothing_stored_but_the_newest_positions(transactions, table, market):
    sink = KafkaSink(Settings(**table, transactions=transactions))
    events = market(4)
    assert sink.open(SinkRun("store", EPOCH)) == Resume()
    sink.write(SinkBatch(EPOCH, 1, events[:2], {"a": "1", "b": "ü"}))
    sink.write(SinkBatch(EPOCH, 3, events[2:], {"b": "2"}))
    sink.close()

    assert sink.open(SinkRun("store", EPOCH)) == Resume(4, {"a": "1", "b": "2"})
    sink.close()
    assert sink.open(SinkRun("store", EPOCH + 1)) == Resume(0, {"a": "1", "b": "2"})
    sink.close()


def test_what_is_written_before_the_commit_is_in_the_same_transaction_as_the_cursor(
    table, market, monkeypatch
):
    calls = []

    class Recording(Producer):
        def begin_transaction(self):
            calls.append("begin")
            super().begin_transaction()

        def produce(self, topic, *args, **options):
            calls.append(topic.rpartition(".")[0].partition(".")[2] or "event")
            super().produce(topic, *args, **options)

        def commit_transaction(self, *args):
            calls.append("commit")
            super().commit_transaction(*args)

    monkeypatch.setattr("tapeloom_kafka._sink.Producer", Recording)
    sink = KafkaSink(Settings(**table))
    sink.open(SinkRun("store", EPOCH))
    sink.write(SinkBatch(EPOCH, 1, market(3), {"a": "1"}))
    sink.close()

    assert calls == ["begin", "event", "event", "event", "cursor", "cursor", "commit"]


def test_the_guarantee_is_what_the_setting_gives():
    assert KafkaSink(Settings()).guarantee == "exactly_once"
    assert KafkaSink(Settings(transactions=False)).guarantee == "at_least_once"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("TAPELOOM_DURABILITY_RUNS", "3"))))
def test_after_kills_of_the_process_nothing_is_missing_and_what_is_repeated_has_its_number(
    seed, table, messages
):
    """What a killed process has not committed is repeated.

    Without transactions, where the cursor is sent when the events are stored. The mock shows what no
    transaction has committed: of a process that is killed within one it may have the cursor alone.
    """
    rng, count, table = random.Random(seed), 15_000, {**table, "transactions": False}
    expected = runpy.run_path(str(WRITER))["events"](count)
    command = [sys.executable, str(WRITER), json.dumps(table), str(count)]
    kills = 0
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        while True:
            process.stdin.write("\n")
            process.stdin.flush()
            pid = int(process.stdout.readline())
            if kills < 2:
                threading.Event().wait(rng.uniform(0.05, 0.25))
                os.kill(pid, signal.SIGKILL)
                kills += 1
            if (status := int(process.stdout.readline())) == 0:
                break
            assert status == signal.SIGKILL
        process.stdin.close()
    found = defaultdict(list)
    for message in messages(table):
        found[int(dict(message.headers())["n"])].append(decode(message.value()))

    assert set(found) == set(range(1, count + 1))
    assert all({*map(repr, events)} == {repr(expected[n - 1])} for n, events in found.items())


def test_a_message_that_is_too_large_is_refused_before_anything_is_written(table, market, messages):
    large = Trade("acme", "BTC/USDT", 1, 1, Decimal(1), Decimal(1), "buy", "x" * 2_000_000)
    sink = KafkaSink(Settings(**table))
    sink.open(SinkRun("store", EPOCH))
    with pytest.raises(
        BatchRefused, match=r"at most 999000 bytes, got 200\d+\. Raise \"message\.max"
    ):
        sink.write(SinkBatch(EPOCH, 1, [*market(3), large]))
    sink.close()

    assert messages(table) == []


def test_core_sets_a_message_aside_that_is_too_large_and_writes_the_others(
    table, market, write_all, stored
):
    events = market(20)
    large = Trade("acme", "BTC/USDT", 1, 1, Decimal(1), Decimal(1), "buy", "x" * 500_000)
    limited = Settings(**table, options={"message.max.bytes": 300_000})
    counters = write_all(KafkaSink(limited), [*events, large, *events], sizes=[20, 2, 20])

    assert counters["sink_errors"] == 2  # the Reject in its place holds it, and is refused as well
    kinds = Counter(event.type for event in stored(table))
    assert kinds == Counter(event.type for event in [*events, *events])


@pytest.mark.parametrize("text", ["\ud800 alone", "\x00", 'quote " and \\', "ünïcode 🎉"])
def test_any_text_is_written_exactly_and_as_valid_utf_8(text, table, messages):
    event = Trade("acme", "BTC/USDT", 1, 2, Decimal(1), Decimal(2), "buy", text)
    sink = KafkaSink(Settings(**table))
    sink.open(SinkRun("store", EPOCH))
    sink.write(SinkBatch(EPOCH, 1, [event]))
    sink.close()
    (message,) = messages(table)

    assert decode(message.value().decode()) == event
