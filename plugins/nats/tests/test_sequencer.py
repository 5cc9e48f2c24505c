"""The order of events: batches of several shards, copies with fences, and what is read again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tapeloom.events import Event, Gap, Quote, Reject, Status, Trade
from tapeloom_nats.messages import HEADER, Header, body_of, header_text, shard_of, subject_of
from tapeloom_nats.restart import Memory
from tapeloom_nats.sequencer import Sequencer

ONE = Decimal(1)
START = 1_700_000_000_000_000_000
MS = 1_000_000
SECOND = 1000 * MS
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT", "ADA/USDT")
PREFIX = "events"


def trade(n: int, symbol: str = "") -> Trade:
    symbol = symbol or SYMBOLS[n % len(SYMBOLS)]
    return Trade("acme", symbol, START + n * MS, START, ONE, ONE, "buy", n + 1)


class Log:
    """A stream: messages with their numbers and times."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, int, str, Mapping[str, str], bytes]] = []
        self.waited = 0  #: in ns

    def wait(self, seconds: float, *, is_silent: bool = False) -> None:
        """Let time pass. Each second the stream takes a message of something else, unless it takes none."""
        for _ in range(int(seconds) if not is_silent else 0):
            self.waited += SECOND
            self._add(f"{PREFIX}.other", {}, b"")
            seconds -= 1
        self.waited += round(seconds * SECOND)

    def _add(self, subject: str, headers: Mapping[str, str], data: bytes) -> None:
        number = len(self.messages) + 1
        at = START + self.waited + number * MS
        self.messages.append((number, at, subject, headers, data))

    def publish(
        self,
        subject: str,
        header: Header,
        events: Sequence[Event] = (),
        numbers: Sequence[int] = (),
        *,
        parts: int = 1,
    ) -> None:
        body = b""
        if events:
            size, body = body_of(events, numbers, {})
            header = replace(header, first=numbers[0], count=len(events), events_bytes=size)
        length = -(-len(body) // parts) or 1
        for part in range(parts):
            piece = replace(header, part=part + 1, parts=parts)
            data = body[part * length : (part + 1) * length]
            self._add(subject, {HEADER: header_text(piece)}, data)

    def batch(
        self, first: int, events: Sequence[Event], shards: int, *, parts: int = 1, lost: int = -1
    ) -> None:
        """Publish a batch as a sink does; the message with the index *lost* is not stored."""
        by_shard: dict[str, list[int]] = {}
        for index, event in enumerate(events):
            by_shard.setdefault(shard_of(event.venue, event.symbol, shards), []).append(index)
        last = first + len(events) - 1
        header = Header(1, "sink", 1, 0, last, 0, 0, "w", shards, 0, len(by_shard))
        for place, (shard, indexes) in enumerate(by_shard.items()):
            if place != lost:
                of_shard = [events[index] for index in indexes]
                numbers = [first + index for index in indexes]
                subject = subject_of(PREFIX, "sink", shard)
                self.publish(subject, header, of_shard, numbers, parts=parts)

    def copy(
        self, slot: int, fence: int, events: Sequence[Event] = (), first: int = 1, **header: Any
    ) -> None:
        """Publish a message of a node in a cluster."""
        given = Header(1, "sink", 100 + fence, 0, first + len(events) - 1, 0, fence, "w")
        given = replace(given, **{"slot": slot, "node": f"node-{fence}", "replicas": 2, **header})
        numbers = range(first, first + len(events))
        self.publish(f"{PREFIX}.sink.0.{slot}", given, events, numbers)


def read(log: Log, start: int = 1, after: int = 0) -> tuple[list[Event], Counter[str]]:
    """Return what follows from the messages after *after*, when reading begins at *start*."""
    counters: Counter[str] = Counter()
    sequencer = Sequencer(PREFIX, lambda name, count: counters.update({name: count}))
    out: list[Event] = []
    for message in log.messages[start - 1 :]:
        events = sequencer.add(*message)
        if message[0] > after:
            out += events
    return out, counters


def test_events_of_a_batch_in_several_shards_are_joined_in_the_order_of_their_numbers() -> None:
    log = Log()
    events = [trade(n) for n in range(20)]
    log.batch(1, events[:11], 4)
    log.batch(12, events[11:], 4)

    assert len(log.messages) == 4
    assert read(log)[0] == events


def test_a_batch_of_which_a_message_was_never_stored_waits_for_the_next_message_of_its_sink() -> (
    None
):
    log = Log()
    events = [trade(n) for n in range(9)]
    log.batch(1, events, 4, lost=0)
    assert read(log)[0] == []
    log.batch(10, [trade(9), trade(10)], 4)

    lost = shard_of("acme", events[0].symbol, 4)
    kept = [event for event in events if shard_of("acme", event.symbol, 4) != lost]
    assert kept
    assert read(log)[0] == [*kept, trade(9), trade(10)]


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    shards=st.sampled_from([1, 3, 6]),
    parts=st.sampled_from([1, 3]),
    data=st.data(),
)
def test_reading_again_from_the_oldest_message_gives_what_follows_any_cursor(
    sizes: list[int], shards: int, parts: int, data: st.DataObject
) -> None:
    log = Log()
    number = 0
    for size in sizes:
        events = [trade(number + n) for n in range(size)]
        log.batch(number + 1, events, shards, parts=parts)
        number += size
    stop = data.draw(st.integers(0, len(log.messages)))
    sequencer = Sequencer(PREFIX)
    before: list[Event] = []
    for message in log.messages[:stop]:
        before += sequencer.add(*message)
    after, _ = read(log, sequencer.oldest(stop), stop)

    assert before + after == [trade(n) for n in range(number)]


# ------------------------------------------------------------------------------------------ copies


def test_messages_of_a_node_that_lost_its_lease_are_dropped() -> None:
    log = Log()
    log.copy(0, 5)
    log.copy(0, 5, [trade(0, "BTC/USDT")])
    log.copy(0, 9)  # another node has taken the slot
    log.copy(0, 5, [trade(1, "BTC/USDT")], first=2)  # the first one wakes up
    log.copy(0, 9, [trade(2, "BTC/USDT")])
    log.copy(1, 3, [trade(n, "BTC/USDT") for n in range(3)])  # a lower fence of another slot counts

    events, counters = read(log)
    assert [event.id for event in events if isinstance(event, Trade)] == [1, 2, 3]
    assert counters["fenced_messages"] == 1
    assert not [event for event in events if isinstance(event, Gap)]


def test_a_fence_that_was_seen_before_a_restart_still_counts_after_it() -> None:
    log = Log()
    log.copy(0, 9, [trade(0, "BTC/USDT")])
    before = Sequencer(PREFIX)
    before.add(*log.messages[0])
    after = Sequencer(PREFIX)
    after.raise_fences(before.fences)
    log.copy(0, 5, [trade(1, "BTC/USDT")], first=2)

    assert after.add(*log.messages[1]) == []


def test_a_move_over_a_spare_slot_has_no_gap_and_no_repetition() -> None:
    log = Log()
    log.copy(0, 5, [trade(n, "BTC/USDT") for n in range(3)])
    log.copy(1, 6, [trade(n, "BTC/USDT") for n in range(2, 4)])
    log.copy(0, 5, [trade(3, "BTC/USDT")], first=4)
    log.copy(0, 5, ended=True)
    log.copy(1, 6, [trade(4, "BTC/USDT")], first=3)

    events, _ = read(log)
    assert events == [trade(n, "BTC/USDT") for n in range(5)]


def test_a_status_without_a_symbol_comes_once_though_each_shard_of_a_node_has_it() -> None:
    log = Log()
    status = Status("acme", "", START, START, "connected")
    for shard in (0, 1, 2):
        header = Header(1, "sink", 100, 0, 1, 0, 5, "w", slot=0, node="a", replicas=1)
        log.publish(f"{PREFIX}.sink.{shard}.0", header, [status], [1])

    assert read(log)[0] == [status]


def test_subjects_that_are_not_of_this_form_are_left_alone() -> None:
    log = Log()
    for subject in (f"{PREFIX}.sink", f"{PREFIX}.a.b.c", f"{PREFIX}.a.b.1.2", "other.sink.0"):
        log.messages.append((1, START, subject, {}, b"anything"))

    assert read(log)[0] == []


def test_what_a_node_missed_that_has_a_slot_again_is_a_gap_but_not_behind_another_fence_alone() -> (
    None
):
    """Its run is the same. Only `begun` says that it did not read the shard in between."""
    log = Log()
    run = {"epoch": 7, "replicas": 1}
    log.copy(0, 5, [trade(n, "BTC/USDT") for n in range(3)], **run)
    log.copy(0, 9, first=4, **run)
    log.copy(0, 9, [trade(3, "BTC/USDT")], first=4, **run)
    log.copy(0, 12, first=5, begun=True, **run)
    log.copy(0, 12, [trade(6, "BTC/USDT")], first=5, **run)
    events, _ = read(log)

    assert [event.id for event in events if isinstance(event, Trade)] == [1, 2, 3, 4, 7]
    gaps = [(event.after_id, event.before_id) for event in events if isinstance(event, Gap)]
    assert gaps == [(4, 7)]


def test_a_fence_without_events_shows_that_its_node_lives() -> None:
    """The stream took nothing of it for a while: it read on, and has yet to publish what it holds."""
    log = Log()
    log.copy(0, 5, [trade(n, "BTC/USDT") for n in range(3)], epoch=7)
    log.wait(7)
    log.copy(0, 9, first=4, epoch=7)
    log.copy(1, 10, begun=True)
    log.copy(1, 10, [trade(n, "BTC/USDT") for n in (6, 7)])
    log.copy(0, 9, [trade(n, "BTC/USDT") for n in range(3, 8)], first=4, epoch=7)

    assert read(log)[0] == [trade(n, "BTC/USDT") for n in range(8)]


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_time_in_which_the_stream_took_nothing_makes_no_node_dead(is_silent: bool) -> None:
    """The servers chose a leader for 7 s. What both nodes hold is published after that, one by one."""
    log = Log()
    log.copy(0, 5, [trade(n, "BTC/USDT") for n in range(3)], epoch=7)
    log.wait(7, is_silent=is_silent)
    log.copy(1, 10, begun=True)
    log.copy(1, 10, [trade(n, "BTC/USDT") for n in (6, 7)])
    log.copy(0, 9, [trade(n, "BTC/USDT") for n in range(3, 8)], first=4, epoch=7)

    events, _ = read(log)
    gaps = [event for event in events if isinstance(event, Gap)]
    assert bool(gaps) is not is_silent
    if is_silent:
        assert events == [trade(n, "BTC/USDT") for n in range(8)]


def test_a_server_that_sets_its_clock_back_or_far_ahead_makes_no_node_dead() -> None:
    log = Log()
    log.copy(0, 5, [trade(n, "BTC/USDT") for n in range(3)], epoch=7)
    log.wait(-3600, is_silent=True)
    log.copy(1, 10, begun=True)
    log.wait(7200, is_silent=True)
    log.copy(1, 10, [trade(n, "BTC/USDT") for n in (6, 7)])
    log.copy(0, 9, [trade(n, "BTC/USDT") for n in range(3, 8)], first=4, epoch=7)

    assert read(log)[0] == [trade(n, "BTC/USDT") for n in range(8)]


def named(n: int, symbol: str) -> Trade:
    """A trade of which the id is no number."""
    return Trade("acme", symbol, START + n * MS, START, ONE, ONE, "buy", f"x{n}")


def quote(n: int, symbol: str) -> Quote:
    """A quote without a number; each second one is at the same time as the one before, and equal."""
    return Quote("acme", symbol, START + n // 2 * MS, START + n, ONE, ONE, ONE, ONE, None, "trades")


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["goes on", "another node"]),
            st.sampled_from(SYMBOLS[:3]),
            st.integers(0, 3),  # trades that are lost before it
            st.sampled_from([0, 1, 4, 14]),  # seconds before it
            st.booleans(),  # whether the stream took nothing meanwhile
        ),
        min_size=2,
        max_size=25,
    ),
    is_named=st.booleans(),
    data=st.data(),
)
def test_a_restarted_reader_goes_on_as_one_that_was_not_whatever_was_quiet_meanwhile(
    steps: list[tuple[str, str, int, int, bool]], is_named: bool, data: st.DataObject
) -> None:
    log = Log()
    fence, first, made = 1, 1, Counter[str]()
    for what, symbol, lost, wait, is_silent in steps:
        log.wait(wait, is_silent=is_silent)
        if what == "another node":
            fence, first = fence + 1, 1
            log.copy(0, fence, begun=True, replicas=1)
        else:
            made[symbol] += lost + 1
            make = named if is_named else trade
            log.copy(0, fence, [make(made[symbol], symbol)], first, replicas=1)
            first += 1
    _, following = both(log, data.draw(st.integers(0, len(log.messages))))
    for expected, events in following:
        assert events == expected


def both(log: Log, stop: int) -> tuple[list[Event], list[tuple[list[Event], list[Event]]]]:
    """Return what a reader passes on until message *stop*, and what it does for each one after that.

    Beside the latter is what a reader does that was restarted behind *stop*.
    """
    once = Sequencer(PREFIX)
    before = [event for message in log.messages[:stop] for event in once.add(*message)]
    again, first = restarted(once, stop)
    repeated = [again.add(*message) for message in log.messages[first - 1 :]]
    expected = [once.add(*message) for message in log.messages[stop:]]
    return before, list(zip(expected, repeated[stop - first + 1 :], strict=True))


def restarted(once: Sequencer, stop: int) -> tuple[Sequencer, int]:
    """Return another sequencer with what one keeps after a message, and from where on it is to read again."""
    memory = msgspec.json.decode(msgspec.json.encode(once.memory(stop)), type=Memory)
    again = Sequencer(PREFIX)
    again.remember(memory)
    return again, memory.first


def untold(number: int, make: Any) -> Gap:
    """A gap of which the end is not known, behind a trade."""
    last = make(number, SYMBOLS[0])
    until, after_id = START + (number + 9) * MS, getattr(last, "id", None)
    return Gap(
        "acme", SYMBOLS[0], until, START, last.ts, until, "restart", None, "open", "trades", after_id
    )  # fmt: skip


#: What a slot does; which one; how many trades of it that it has not published yet; seconds before it; whether the
#: stream took nothing meanwhile; where its trades come from.
SlotStep = tuple[str, int, int, float, bool, Any]


def slot_steps(seconds: Sequence[float], most: int) -> st.SearchStrategy[list[SlotStep]]:
    """Return steps of three slots that publish the same trades, late or again."""
    actions = ["goes on", "goes on", "another node", "gap", "fill", "stale", "end"]
    step = st.tuples(
        st.sampled_from(actions),
        st.integers(0, 2),
        st.integers(0, 4),
        st.sampled_from(seconds),
        st.booleans(),
        st.sampled_from(["live", "live", "backfill", "history"]),
    )
    return st.lists(step, min_size=2, max_size=most)


def log_of(steps: Sequence[SlotStep], kind: Any, replicas: int) -> Log:
    """Return the messages of three slots."""
    log, newest = Log(), 1
    fences, firsts, done = [1] * 3, [1] * 3, [0] * 3
    told: dict[int, Gap] = {}
    run: dict[str, Any] = {"replicas": replicas}
    for what, slot, ahead, wait, is_silent, origin in steps:
        log.wait(min(wait, 0.2 if kind is quote else wait), is_silent=is_silent)
        if what == "another node":
            fences[slot], firsts[slot] = max(fences) + 1, 1
            log.copy(slot, fences[slot], begun=True, **run)
        elif what == "end":
            log.copy(slot, fences[slot], ended=True, **run)
            fences[slot], firsts[slot] = max(fences) + 1, 1
            log.copy(slot, fences[slot], begun=True, **run)
        elif what == "stale":
            log.copy(slot, max(fences[slot] - 1, 0), [kind(newest, SYMBOLS[0])], 10_000, **run)
        elif what == "gap":
            told[slot] = untold(done[slot], kind)
            log.copy(slot, fences[slot], [told[slot]], firsts[slot], **run)
            firsts[slot] += 1
        elif what == "fill" and slot in told:
            filled = evolve(told.pop(slot), state="filled")
            log.copy(slot, fences[slot], [filled], firsts[slot], **run)
            firsts[slot] += 1
        else:
            newest = max(newest, done[slot] + ahead)
            made = [kind(n, SYMBOLS[0]) for n in range(done[slot], newest + 1)][-6:]
            if kind is not quote:
                made = [evolve(event, origin=origin) for event in made]
            log.copy(slot, fences[slot], made, firsts[slot], **run)
            firsts[slot] += len(made)
            done[slot] = newest
    return log


@settings(max_examples=400, deadline=None)
@given(
    steps=slot_steps([0, 0, 0.4, 1, 2], 24),
    kind=st.sampled_from([trade, named, quote]),
    replicas=st.integers(1, 2),
    data=st.data(),
)
def test_a_restarted_reader_passes_on_the_very_same(
    steps: list[SlotStep], kind: Any, replicas: int, data: st.DataObject
) -> None:
    """Nothing of it is so old that it would not be recognised."""
    log = log_of(steps, kind, replicas)
    _, following = both(log, data.draw(st.integers(1, len(log.messages))))
    for expected, events in following:
        assert _comparable(events) == _comparable(expected)


@settings(max_examples=400, deadline=None)
@given(
    steps=slot_steps([0, 0, 1, 2, 4, 14], 40),
    kind=st.sampled_from([trade, named, quote]),
    replicas=st.integers(1, 2),
    data=st.data(),
)
def test_a_restarted_reader_holds_and_drops_what_one_that_was_not_does(
    steps: list[SlotStep], kind: Any, replicas: int, data: st.DataObject
) -> None:
    """One that is held is passed on when it would be."""
    log = log_of(steps, kind, replicas)
    fills = any(origin == "backfill" for *_, origin in steps)
    before, following = both(log, data.draw(st.integers(1, len(log.messages))))
    passed = {event.identity for event in before}
    for expected, events in following:
        if kind is named:  # what is too old is recognised for up to three seconds more or less
            again_passed, once_passed = (
                {event.identity for event in found if isinstance(event, Trade)} & passed
                for found in (events, expected)
            )
            # What fills a gap that is not known is passed on whatever it is.
            assert again_passed <= once_passed or fills
            events = [event for event in events if event.identity not in passed]
            expected = [event for event in expected if event.identity not in passed]
            passed |= {event.identity for event in expected if isinstance(event, Trade)}
        assert _comparable(events) == _comparable(expected)


def _comparable(events: Sequence[Event]) -> list[Event]:
    """Return events without what copies are compared for: differences, and who is ahead. That is not kept."""
    return [event for event in events if not isinstance(event, Reject | Status)]


def test_a_restarted_reader_repeats_no_past_trades_of_a_symbol_that_was_quiet() -> None:
    """It has read again what came in the last seconds: the keys of these trades are not among that."""
    log = Log()
    log.copy(0, 5, [named(n, SYMBOLS[0]) for n in range(3)], replicas=1)
    for number in range(23):
        log.wait(1)
        log.copy(0, 5, [named(number, SYMBOLS[1])], first=4 + number, replicas=1)
    past = [evolve(named(n, SYMBOLS[0]), origin="history") for n in range(3)]
    log.copy(1, 6, [*past, named(3, SYMBOLS[0])], begun=True, replicas=1)
    log.copy(0, 5, ended=True, replicas=1)
    stop = len(log.messages) - 2
    once = Sequencer(PREFIX)
    for message in log.messages[:stop]:
        once.add(*message)
    again, first = restarted(once, stop)
    events = [event for message in log.messages[first - 1 :] for event in again.add(*message)]

    assert first > 1
    assert events == [named(3, SYMBOLS[0])]
