"""The merge of replicas against a model: what the venue sent, and which part of it each node received."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.events import Book, Event, Gap, Quote, Reject, Status, Trade
from tapeloom_nats.recognition import WINDOW, Ids, Keys
from tapeloom_nats.replicas import HOLD, Replicas

MS = 1_000_000
SECOND = 1_000_000_000
ONE = Decimal(1)
START = 1_700_000_000 * SECOND


def trade(n: int, symbol: str = "BTC/USDT", *, recv: int = 0) -> Trade:
    return Trade("acme", symbol, START + n * MS, recv or START, ONE, ONE, "buy", n)


def named(n: int, origin: Any = "live") -> Trade:
    """A trade of which the id is no number."""
    return evolve(trade(n), id=f"t{n}", origin=origin)


def quote(n: int, size: int = 1) -> Quote:
    return Quote("acme", "BTC/USDT", START + n * MS, START, ONE, ONE, ONE, Decimal(size))


def hole(after: int, before: int, symbol: str = "BTC/USDT") -> Gap:
    since, until = START + after * MS, START + before * MS
    return Gap(
        "acme", symbol, until, START, since, until, "disconnect", before - after - 1,
        "unrecoverable", "trades", after, before,
    )  # fmt: skip


class Stream:
    """A shard in a stream: numbers the messages, and lets time pass."""

    def __init__(self, replicas: int = 2) -> None:
        self.counters: Counter[str] = Counter()
        self.merge = Replicas(lambda name, count: self.counters.update({name: count}))
        self.merge.expected = replicas
        self.number = 0
        self.at = START
        self.out: list[Event] = []
        self.started: set[int] = set()

    def send(self, slot: int, *events: Event, after: int = MS) -> list[Event]:
        self.number += 1
        self.at += after
        if slot not in self.started:
            self.started.add(slot)
            self.out += self.merge.begin(slot, self.number, self.at)
        out = self.merge.add(slot, events, self.number, self.at)
        self.out += out
        return out

    def end(self, slot: int) -> None:
        self.number += 1
        self.out += self.merge.end(slot, self.number, self.at)

    def restart(self, slot: int) -> None:
        self.number += 1
        self.out += self.merge.begin(slot, self.number, self.at)

    def begin(self, slot: int) -> None:
        self.number += 1
        self.started.add(slot)
        self.out += self.merge.begin(slot, self.number, self.at, begun=True)

    @property
    def ids(self) -> list[Any]:
        return [event.id for event in self.out if isinstance(event, Trade)]

    @property
    def gaps(self) -> list[tuple[Any, Any]]:
        return [(e.after_id, e.before_id) for e in self.out if isinstance(e, Gap)]


# ---------------------------------------------------------------------------------- against a model


@frozen
class Copy:
    """What a node publishes of the trades 0 … count - 1: pieces, each its ids or a hole before them."""

    lost: frozenset[int]
    cuts: Sequence[int]  #: sizes of its messages

    def messages(self, count: int) -> list[list[Event]]:
        events: list[Event] = []
        last = None
        for n in range(count):
            if n in self.lost:
                continue
            if last is not None and n != last + 1:
                events.append(hole(last, n))
            events.append(trade(n))
            last = n
        found, sizes = [], list(self.cuts)
        while events:
            size = sizes[len(found) % len(sizes)]
            found.append(events[:size])
            events = events[size:]
        return found


def interleaved(
    copies: Sequence[Sequence[list[Event]]], turns: Sequence[int]
) -> list[tuple[int, list[Event]]]:
    """Return the messages of all copies, each with its slot, in an order that *turns* decide."""
    waiting = {slot: [*messages] for slot, messages in enumerate(copies) if messages}
    found: list[tuple[int, list[Event]]] = []
    while waiting:
        slots = [*waiting]
        slot = slots[turns[len(found) % len(turns)] % len(slots)]
        found.append((slot, waiting[slot].pop(0)))
        if not waiting[slot]:
            del waiting[slot]
    return found


def lost_ranges(count: int) -> st.SearchStrategy[frozenset[int]]:
    """Ranges of trades that a node does not receive; it has the first and the last one."""
    one = st.tuples(st.integers(1, count - 2), st.integers(1, 12)).map(
        lambda item: range(item[0], min(item[0] + item[1], count - 1))
    )
    return st.lists(one, max_size=5).map(lambda ranges: frozenset(n for r in ranges for n in r))


COUNT = 60
turns = st.lists(st.integers(0, 1), min_size=1, max_size=40)
copies = st.builds(Copy, lost_ranges(COUNT), st.lists(st.integers(1, 9), min_size=1, max_size=6))


@settings(max_examples=60, deadline=None)
@given(first=copies, second=copies, turns=turns)
def test_numbered_trades_are_the_union_in_order_and_each_common_hole_is_named_once(
    first: Copy, second: Copy, turns: list[int]
) -> None:
    stream = Stream()
    for slot, events in interleaved([first.messages(COUNT), second.messages(COUNT)], turns):
        stream.send(slot, *events)

    common = first.lost & second.lost
    assert stream.ids == [n for n in range(COUNT) if n not in common]
    named = [n for low, high in stream.gaps for n in range(low + 1, high)]
    assert sorted(named) == sorted(common)
    assert stream.merge.held == 0


@settings(max_examples=40, deadline=None)
@given(first=copies, second=copies, dies_at=st.integers(0, 40), turns=turns)
def test_a_node_that_dies_leaves_no_gap_and_one_that_takes_its_place_repeats_nothing(
    first: Copy, second: Copy, dies_at: int, turns: list[int]
) -> None:
    stream = Stream()
    survivor = evolve(first, lost=frozenset())
    copies = [survivor.messages(COUNT), second.messages(COUNT)[:dies_at]]
    for slot, events in interleaved(copies, turns):
        stream.send(slot, *events)
    # Another node takes the slot, sees what is new, and the first one says that it ends.
    stream.restart(1)
    stream.send(1, trade(COUNT - 1), trade(COUNT))
    stream.end(0)
    stream.send(1, trade(COUNT + 1))

    assert stream.ids == list(range(COUNT + 2))
    assert stream.gaps == []


@settings(max_examples=40, deadline=None)
@given(
    times=st.lists(st.integers(0, 12), min_size=1, max_size=30).map(sorted),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    turns=turns,
)
def test_equal_quotes_without_a_number_are_counted_not_dropped(
    times: list[int], sizes: tuple[int, int], turns: list[int]
) -> None:
    truth: list[Event] = [quote(n + 1) for n in times]  # all alike within one time
    stream = Stream()
    cut = [[truth[n : n + size] for n in range(0, len(truth), size)] for size in sizes]
    for slot, events in interleaved(cut, turns):
        stream.send(slot, *events)

    assert stream.out == truth


# -------------------------------------------------------------------------------------- single cases


def test_what_follows_a_hole_waits_until_the_other_copy_has_passed_it() -> None:
    stream = Stream()
    stream.send(0, trade(1), trade(2))
    stream.send(1, trade(1))
    assert stream.send(0, hole(2, 5), trade(5)) == []
    assert stream.merge.held == 1

    assert stream.send(1, trade(2), trade(3)) == [trade(3)]
    stream.send(1, trade(4), trade(5), trade(6))

    assert stream.ids == [1, 2, 3, 4, 5, 6]
    assert stream.gaps == []


def test_what_is_held_is_passed_on_when_the_other_copy_is_silent_for_too_long() -> None:
    stream = Stream()
    stream.send(0, trade(1))
    stream.send(1, trade(1))
    stream.send(0, hole(1, 4), trade(4))
    assert stream.ids == [1]
    stream.send(0, trade(5), after=HOLD)

    assert stream.ids == [1, 4, 5]
    assert stream.gaps == [(1, 4)]


def test_the_only_copy_is_passed_on_at_once_with_its_gaps() -> None:
    stream = Stream(replicas=1)
    events = [trade(1), hole(1, 4), trade(4), Status("acme", "", 1, 1, "connected")]

    assert stream.send(0, *events) == events


def test_a_gap_of_a_whole_node_concerns_each_of_its_subscriptions() -> None:
    stream = Stream()
    symbols = ("BTC/USDT", "ETH/USDT")
    for slot in (0, 1):
        stream.send(slot, *(trade(1, symbol) for symbol in symbols))
    whole = Gap("acme", "", START, START, START, START + 4 * MS, "disconnect")
    stream.send(0, whole, *(trade(4, symbol) for symbol in symbols))
    for symbol in symbols:
        stream.send(1, *(trade(n, symbol) for n in (2, 3, 4)))

    assert stream.gaps == []
    assert Counter(stream.ids) == {1: 2, 2: 2, 3: 2, 4: 2}


def test_a_gap_that_another_copy_has_filled_is_not_reported_when_its_node_fills_it_too() -> None:
    stream = Stream()
    for slot in (0, 1):
        stream.send(slot, trade(1))
    opened = evolve(hole(1, 4), state="open")
    stream.send(0, opened, trade(4))
    stream.send(1, trade(2), trade(3), trade(4))
    backfill = [evolve(trade(n), origin="backfill") for n in (2, 3)]
    stream.send(0, *backfill, evolve(opened, state="filled"))

    assert stream.ids == [1, 2, 3, 4]
    assert stream.gaps == []


def test_books_of_deltas_without_ids_come_from_one_copy_at_a_time() -> None:
    def delta(n: int) -> Book:
        return Book(
            "acme", "BTC/USDT", START + n * MS, START, "delta", [["1", "1"]], [], channel="book"
        )

    stream = Stream()
    stream.send(0, delta(1))
    stream.send(1, delta(1), delta(2))
    stream.send(0, delta(2))
    stream.send(1, delta(3), after=HOLD)

    assert [type(event).__name__ for event in stream.out] == ["Book", "Book", "Gap", "Book"]


@settings(max_examples=200, deadline=None)
@given(pauses=st.lists(st.sampled_from([0, 1, 100, 400, 700, 1100, 5000, 60_000]), max_size=60))
def test_a_key_is_known_as_long_as_its_event_does_not_lie_below_the_floor(
    pauses: list[int],
) -> None:
    """What is neither known nor below the floor would be passed on again when it comes again."""
    keys, at, times = Keys(), START, list[int]()
    for count, pause in enumerate(pauses):
        at += pause * MS
        keys.add(count, at, count)
        times.append(at)
        unknown = [index for index in range(count) if index not in keys]
        assert all(index < keys.floor for index in unknown)
        assert all(times[index] < at - WINDOW for index in unknown)


def test_between_ids_that_are_forgotten_and_the_next_ones_nothing_was_passed_on() -> None:
    ids = Ids()
    ids.add(5, START)
    ids.add(20, START + 2 * WINDOW)

    assert ids.floor == 6
    assert 5 not in ids
    assert 20 in ids


def test_a_gap_that_is_held_waits_for_the_other_slot_as_what_follows_it_does() -> None:
    """Nobody streamed the shard for a while. Two nodes have begun, and the second one continues after the first."""
    stream = Stream(replicas=1)
    stream.send(1, *map(trade, range(1, 4)))
    stream.at += 4 * SECOND
    stream.begin(1)
    stream.send(1, after=5 * SECOND)
    stream.begin(0)
    stream.send(0, trade(8))
    stream.begin(1)
    stream.send(1, hole(8, 10), trade(10), after=SECOND)
    stream.send(1, trade(11), after=4 * SECOND)

    assert stream.ids == [1, 2, 3, 8, 10, 11]
    assert stream.gaps == [(3, 8), (8, 10)]


def test_of_two_slots_that_have_waited_long_enough_the_earlier_events_come_first() -> None:
    stream = Stream(replicas=1)
    stream.send(1, *map(trade, range(1, 4)))
    stream.at += 4 * SECOND
    stream.begin(1)
    stream.begin(0)
    stream.begin(2)
    stream.send(1, hole(8, 10), trade(10))
    stream.send(0, trade(8))
    for _ in range(4):
        stream.send(2, after=SECOND)  # it lives, and might bring what is before
    stream.send(1, trade(11))

    assert stream.ids == [1, 2, 3, 8, 10, 11]
    assert stream.gaps == [(3, 8), (8, 10)]


def test_memory_is_bounded_by_time() -> None:
    stream = Stream()
    for n in range(3000):
        stream.send(n % 2, quote(n + 1), trade(2 * n), after=WINDOW // 100)

    subscriptions = list(stream.merge._subscriptions.values())
    assert all(len(of.seen._times) < 220 for of in subscriptions)
    assert stream.merge.oldest is not None
    assert stream.number - stream.merge.oldest < 130


def test_who_was_first_is_counted_with_the_lead() -> None:
    stream = Stream()
    for n in range(10):
        stream.send(1, trade(n))
        stream.send(0, trade(n), after=2 * MS)

    assert stream.counters["replica_first.1"] >= 9
    assert stream.counters["replica_lead_us.1"] == 2000 * stream.counters["replica_first.1"]


@pytest.mark.parametrize("slots", [1, 2])
@settings(max_examples=25, deadline=None)
@given(first=copies, second=copies, stop=st.integers(1, 40), turns=turns)
def test_reading_again_from_the_oldest_message_gives_the_same_from_any_cursor_on(
    slots: int, first: Copy, second: Copy, stop: int, turns: list[int]
) -> None:
    copies = [copy.messages(COUNT) for copy in (first, second)[:slots]]
    log = interleaved(copies, turns)
    stop = min(stop, len(log))
    whole, begun = Stream(), Stream()
    outputs = [whole.send(slot, *events) for slot, events in log]
    for slot, events in log[:stop]:
        begun.send(slot, *events)
    oldest = begun.merge.oldest or 1
    again = Stream()
    again.number, again.at = oldest - 1, START + (oldest - 1) * MS
    repeated = [again.send(slot, *events) for slot, events in log[oldest - 1 :]]

    assert repeated[stop - oldest + 1 :] == outputs[stop:]


def test_copies_that_differ_under_one_id_are_counted_and_the_later_one_is_rejected() -> None:
    stream = Stream()
    stream.send(0, trade(1))
    stream.send(1, trade(1))
    stream.send(0, trade(2))
    other = evolve(trade(2), price=Decimal(7))
    (reject,) = stream.send(1, other)

    assert isinstance(reject, Reject)
    assert (reject.rule, reject.event, reject.channel) == ("duplicate", other, "trades")
    assert "1, 1, buy under this number, this one" in reject.evidence
    assert stream.counters["replica_conflicts"] == 1
    assert stream.ids == [1, 2]


def test_a_copy_that_says_less_or_comes_later_is_no_conflict() -> None:
    stream = Stream()
    for slot in (0, 1):
        stream.send(slot, trade(0))
    stream.send(0, trade(1), quote(1))
    stream.send(1, evolve(trade(1, recv=START + 5), side=None, origin="backfill"), quote(1))

    assert stream.counters["replica_repeats"] == 3
    assert not any(isinstance(event, Reject) for event in stream.out)


def test_what_is_kept_to_compare_is_bounded_by_time_and_ends_with_the_repetition() -> None:
    stream = Stream()
    for n in range(500):
        stream.send(0, trade(n), after=WINDOW // 100)
        stream.send(1, trade(-1 - n))  # it never confirms what the other has
    assert len(stream.merge._unconfirmed) <= 202
    for n in range(500, 1200):
        stream.send(0, trade(n), after=WINDOW // 100)
        stream.send(1, trade(n))

    assert len(stream.merge._unconfirmed) == 0


def test_a_status_says_which_copy_is_ahead_and_by_how_much_when_that_changes() -> None:
    stream = Stream()
    for minute in range(5):
        first, second = (0, 1) if minute < 3 else (1, 0)
        for n in range(600):
            number = minute * 600 + n
            stream.send(first, trade(number, recv=stream.at + 98 * MS), after=98 * MS)
            stream.send(second, trade(number, recv=stream.at + 2 * MS), after=2 * MS)

    found = [event for event in stream.out if isinstance(event, Status)]
    assert [event.state for event in found] == ["replica_ahead"] * 2
    slots = ["slot 0" in found[0].detail, "slot 1" in found[1].detail]
    assert slots == [True, True]
    assert all("p50 2.00 ms" in event.detail for event in found)
    assert all((event.ts - START) // SECOND % 60 == 40 for event in found)


def test_copies_that_take_turns_in_being_first_give_no_status() -> None:
    stream = Stream()
    for n in range(2000):
        stream.send(n % 2, trade(n), after=98 * MS)
        stream.send(1 - n % 2, trade(n), after=2 * MS)

    assert not any(isinstance(event, Status) for event in stream.out)


# --------------------------------------------------------------------------- a copy that has just begun


def test_what_a_node_lost_that_died_while_its_shard_moved_is_a_gap() -> None:
    """The new owner began beside the old one, so it did not continue after what that had published."""
    stream = Stream(replicas=1)
    stream.send(0, *(trade(n) for n in range(1, 11)))
    stream.send(1, trade(14))
    stream.send(1, trade(15), after=HOLD)
    stream.send(1, trade(16))

    assert stream.ids == [*range(1, 11), 14, 15, 16]
    assert stream.gaps == [(10, 14)]
    gap = next(event for event in stream.out if isinstance(event, Gap))
    assert (gap.cause, gap.state, gap.missing) == ("restart", "unrecoverable", 3)
    assert (gap.since, gap.until) == (trade(10).ts, trade(14).ts)
    assert stream.out.index(gap) == 10


def test_a_copy_that_begins_right_behind_one_that_died_leaves_no_gap() -> None:
    stream = Stream(replicas=1)
    stream.send(0, *(trade(n) for n in range(1, 11)))
    stream.send(1, trade(11))
    stream.send(1, trade(12), after=HOLD)

    assert stream.ids == [*range(1, 13)]
    assert stream.gaps == []


def test_behind_an_end_there_is_no_gap_though_events_have_no_numbers() -> None:
    """The end says that another copy has all that follows; a venue may be silent for a while."""
    stream = Stream(replicas=1)
    stream.send(0, quote(1), quote(2))
    stream.send(1)
    stream.end(0)
    stream.send(1, quote(9), after=SECOND)
    stream.send(1, quote(10), after=HOLD)

    assert [event.ts for event in stream.out] == [quote(n).ts for n in (1, 2, 9, 10)]


def test_quotes_of_a_node_that_died_without_an_end_are_followed_by_a_gap() -> None:
    stream = Stream(replicas=1)
    stream.send(0, quote(1), quote(2))
    stream.send(1, quote(9))
    stream.send(1, quote(10), after=HOLD)

    assert [type(event) for event in stream.out] == [Quote, Quote, Gap, Quote, Quote]


def test_what_a_copy_brings_too_late_comes_as_a_backfill_of_the_gap_that_was_reported() -> None:
    stream = Stream(replicas=1)
    stream.send(0, *(trade(n) for n in range(1, 11)))
    stream.send(1, trade(14))
    stream.send(1, trade(15), after=HOLD)
    stream.send(0, *(trade(n) for n in range(11, 15)))

    late = [e.id for e in stream.out if isinstance(e, Trade) and e.origin == "backfill"]
    live = [e.id for e in stream.out if isinstance(e, Trade) and e.origin == "live"]
    assert (late, live) == ([11, 12, 13], [*range(1, 11), 14, 15])
    assert stream.gaps == [(10, 14)]


def test_a_gap_that_its_node_tells_twice_while_it_is_held_is_passed_on() -> None:
    stream = Stream(replicas=2)
    stream.send(0, trade(1), trade(2))
    stream.send(1, trade(1), trade(2))
    opened = evolve(hole(2, 6), state="open")
    stream.send(0, opened, hole(2, 6), trade(6))
    stream.send(0, trade(7), after=HOLD)

    assert stream.ids == [1, 2, 6, 7]
    assert [e.state for e in stream.out if isinstance(e, Gap)] == ["open", "unrecoverable"]


def test_what_has_become_of_a_gap_comes_with_the_events_that_fill_it() -> None:
    stream = Stream(replicas=1)
    stream.send(0, trade(1), trade(2))
    stream.send(1, trade(2))
    opened = evolve(hole(2, 6), state="open")
    filling = [evolve(trade(n), origin="backfill") for n in range(3, 6)]
    stream.send(1, opened, *filling, evolve(opened, state="filled"), trade(6))
    stream.send(1, trade(7), after=HOLD)

    assert stream.ids == [*range(1, 8)]
    assert [e.state for e in stream.out if isinstance(e, Gap)] in ([], ["open", "filled"])


def test_a_successor_that_has_received_nothing_hands_nothing_over() -> None:
    """Slot 0 dies, its successor is silent and ends, and slot 1 began beside the successor."""
    stream = Stream(replicas=1)
    stream.send(0, *(trade(n) for n in range(1, 11)))
    stream.restart(0)
    stream.send(1)
    stream.end(0)
    stream.send(1, trade(14), after=SECOND)
    stream.send(1, trade(15))

    assert stream.ids == [*range(1, 11), 14, 15]
    assert stream.gaps == [(10, 14)]


def test_a_quiet_symbol_is_handed_over_twice_without_a_gap() -> None:
    stream = Stream(replicas=1)
    stream.send(0, quote(1))
    stream.send(1)
    stream.end(0)
    stream.send(2)
    stream.end(1)
    stream.send(2, quote(9), after=2 * HOLD)
    stream.send(2, quote(10))

    assert [event.ts for event in stream.out] == [quote(n).ts for n in (1, 9, 10)]


def test_a_gap_behind_which_nothing_came_is_passed_on_when_its_copy_ends_or_another_node_begins() -> (
    None
):
    ended, taken = Stream(replicas=1), Stream(replicas=1)
    for stream in (ended, taken):
        stream.send(0, trade(1))
        stream.restart(0)
        stream.send(0, hole(1, 5))
    ended.end(0)
    taken.restart(0)

    assert ended.gaps == taken.gaps == [(1, 5)]


def test_a_gap_behind_which_nothing_came_is_left_out_when_another_copy_has_passed_it() -> None:
    stream = Stream()
    stream.send(0, trade(1))
    stream.send(1, trade(1))
    stream.send(1, hole(1, 4))
    stream.send(0, trade(2), trade(3), trade(4))
    stream.end(1)

    assert stream.ids == [1, 2, 3, 4]
    assert stream.gaps == []


def test_who_begins_after_an_end_does_not_have_what_the_heir_missed_that_died() -> None:
    """Slot 0 hands over to slot 1, which dies at once; the node that takes slot 0 began too late."""
    stream = Stream(replicas=1)
    stream.send(0, trade(1), trade(2))
    stream.send(1, trade(2))
    stream.end(0)
    stream.begin(0)
    stream.send(0, trade(9), after=2 * HOLD)

    assert stream.ids == [1, 2, 9]
    assert stream.gaps == [(2, 9)]


@pytest.mark.parametrize(("acquired", "gaps"), [(False, [(2, 9)]), (True, [])])
def test_a_node_is_no_heir_before_it_publishes_all_that_comes(
    acquired: bool, gaps: list[tuple[int, int]]
) -> None:
    stream = Stream(replicas=1)
    stream.send(0, trade(1), trade(2))
    stream.begin(1)
    if acquired:
        stream.send(1, Status("acme", "ETH/USDT", START, START, "acquired", "shard 0"))
    stream.end(0)
    stream.send(1, trade(9), after=2 * HOLD)

    assert stream.ids == [1, 2, 9]
    assert stream.gaps == gaps


def test_a_copy_without_numbers_that_comes_too_late_to_be_recognised_is_left_out() -> None:
    """Its node was paused for longer than anything is remembered; another one had its shard meanwhile."""

    def named(n: int) -> Trade:
        return evolve(trade(n * 1000), id=f"t{n}")

    stream = Stream(replicas=1)
    for n in range(30):
        stream.send(0, named(n), after=SECOND)
        if n == 5:
            stream.send(1, named(n))
    stream.send(1, *(named(n) for n in range(6, 31)))

    assert stream.ids == [f"t{n}" for n in range(31)]
    assert stream.counters["replica_late"] > 10
    assert stream.counters["replica_repeats"] > 5


def test_a_gap_behind_which_nothing_comes_is_held_for_a_while_only() -> None:
    stream = Stream(replicas=1)
    stream.send(0, trade(1))
    stream.restart(0)
    stream.send(0, hole(1, 5))
    before = list(stream.gaps)
    stream.send(0, trade(1, "ETH/USDT"), after=HOLD)
    after = list(stream.gaps)
    stream.send(0, trade(5))

    assert (before, after) == ([], [(1, 5)])
    assert stream.gaps == [(1, 5)]
    assert stream.ids == [1, 1, 5]


def test_a_gap_that_goes_on_is_told_again_though_a_part_of_it_has_come() -> None:
    """Its node filled a part of it and died; what is left is told by the next one, from the same begin."""

    def until(n: int, state: Any) -> Gap:
        return evolve(hole(1, n), after_id="t1", before_id=None, missing=None, state=state)

    stream = Stream(replicas=1)
    stream.send(0, evolve(trade(1), id="t1"))
    stream.restart(0)
    stream.send(0, until(5, "open"))
    stream.send(0, trade(1, "ETH/USDT"), after=HOLD)
    stream.send(0, evolve(trade(3), id="t3", origin="backfill"), until(5, "filled"))
    stream.restart(0)
    stream.send(0, until(9, "unrecoverable"))
    stream.send(0, trade(2, "ETH/USDT"), after=HOLD)

    told = [((e.until - START) // MS, e.state) for e in stream.out if isinstance(e, Gap)]
    assert told == [(5, "open"), (5, "filled"), (9, "unrecoverable")]


def test_a_gap_that_two_nodes_tell_and_fill_is_told_and_filled_once() -> None:
    """Both continue after the same event, because their leases had ended together."""
    opened = evolve(hole(1, 4), state="open")
    filling = [evolve(trade(n), origin="backfill") for n in (2, 3)]
    stream = Stream(replicas=1)
    stream.send(0, trade(1))
    stream.restart(0)
    stream.begin(1)
    stream.send(1, opened, trade(4), *filling, evolve(opened, state="filled"), trade(5))
    stream.send(0, opened, trade(4), *filling, evolve(opened, state="filled"), trade(5))
    stream.end(0)
    stream.send(1, trade(6))

    assert sorted(stream.ids) == [*range(1, 7)]
    assert [e.state for e in stream.out if isinstance(e, Gap)] == ["open", "filled"]


def test_past_trades_that_come_too_late_to_be_recognised_are_passed_on_within_a_gap_only() -> None:
    """A node that could not publish for long has fetched what nobody else has, and what another node had."""

    lost = evolve(hole(2, 6), after_id="t2", before_id="t6", missing=None)
    stream = Stream(replicas=1)
    stream.send(0, named(1), named(2))
    stream.restart(0)
    stream.send(0, lost, named(6), named(7))
    stream.send(0, named(8), after=HOLD)
    stream.send(0, *(named(n) for n in range(20, 24)), after=2 * WINDOW)
    stream.send(0, named(30), after=2 * WINDOW)
    stream.send(1, *(named(n, "history") for n in range(3, 9)), named(31))
    stream.end(0)
    stream.send(1, named(32))

    assert stream.ids == [f"t{n}" for n in (1, 2, 6, 7, 8, 20, 21, 22, 23, 30, 3, 4, 5, 31, 32)]


def test_numbered_trades_that_come_far_too_late_are_passed_on_within_a_gap_only() -> None:
    """A node could not publish for long. Meanwhile the other one lost some, and its ranges were forgotten."""
    stream = Stream()
    stream.send(0, trade(1), trade(2))
    stream.send(0, hole(2, 6), trade(6), trade(7), after=2 * HOLD)
    stream.send(0, hole(7, 10), trade(10), after=2 * WINDOW)
    stream.send(0, trade(11), after=2 * WINDOW)
    stream.send(1, *(trade(n) for n in range(1, 12)))
    stream.send(1, trade(12))
    stream.send(0, trade(12))

    assert stream.ids == [1, 2, 6, 7, 10, 11, 3, 4, 5, 8, 9, 12]
    assert [event.origin for event in stream.out if isinstance(event, Trade)][6:11] == [
        "backfill"
    ] * 5


def test_a_node_that_was_away_for_less_says_nothing_about_the_rest_of_a_gap() -> None:
    """Both continue after the same trade. What one of them has is passed on; that it lost less is not."""
    stream = Stream(replicas=1)
    stream.send(0, trade(1), trade(2))
    stream.send(1)
    stream.end(0)
    stream.restart(0)
    stream.send(0, hole(2, 8), trade(8), trade(9))
    stream.send(0, trade(10), after=HOLD)
    stream.send(0, trade(11), after=2 * WINDOW)
    less = evolve(hole(2, 4), before_id=None, missing=None)
    stream.send(1, less, evolve(hole(2, 4), state="filled"), *(trade(n) for n in (4, 5, 6)))
    stream.send(1, *(trade(n) for n in (7, 8, 9, 10, 11)))
    stream.send(1, trade(12), after=HOLD)

    assert stream.ids == [1, 2, 8, 9, 10, 11, 4, 5, 6, 7, 12]
    told = [(gap.before_id, gap.state) for gap in stream.out if isinstance(gap, Gap)]
    assert told == [(8, "unrecoverable")]


def filled_in_part() -> tuple[Stream, Gap]:
    """Slot 0 has lost the trades 3 to 8 and fetched two of them, half a minute ago."""
    lost = evolve(hole(2, 9), after_id="t2", before_id="t9", missing=None)
    stream = Stream(replicas=1)
    stream.send(0, named(1), named(2))
    stream.restart(0)
    stream.send(0, lost, named(9))
    stream.send(0, named(10), after=HOLD)
    stream.send(0, *(named(n, "backfill") for n in (4, 5)), evolve(lost, state="partial"))
    for n in range(20, 50):
        stream.send(0, named(n), after=SECOND)
    return stream, lost


def test_a_gap_that_was_filled_in_part_is_not_filled_by_what_may_have_come_before() -> None:
    stream, lost = filled_in_part()
    stream.send(
        1, *(named(n, "history") for n in range(3, 9)), evolve(lost, state="filled"), named(49)
    )
    stream.send(0, named(6, "backfill"))

    assert stream.ids == [f"t{n}" for n in (1, 2, 9, 10, 4, 5, *range(20, 50), 6)]
    assert [e.state for e in stream.out if isinstance(e, Gap)] == ["unrecoverable", "partial"]


def test_a_gap_is_filled_page_by_page_however_long_that_takes() -> None:
    lost = evolve(hole(2, 60), after_id="t2", before_id="t60", missing=None, state="open")
    stream = Stream(replicas=1)
    stream.send(0, *(named(n) for n in (1, 2)))
    stream.restart(0)
    stream.send(0, lost, named(60))
    stream.send(0, named(61), after=HOLD)
    for n in range(3, 60):
        stream.send(0, named(n, "backfill"), after=7 * SECOND)
        stream.send(0, named(100 + n))
    stream.send(0, evolve(lost, state="filled"))

    assert {f"t{n}" for n in range(1, 62)} < {*stream.ids}
    assert len(stream.ids) == len({*stream.ids})
    assert [e.state for e in stream.out if isinstance(e, Gap)] == ["open", "filled"]


def test_the_first_event_of_a_new_node_waits_for_that_of_the_other_however_long_both_were_quiet() -> (
    None
):
    stream = Stream()
    stream.send(0, named(1))
    stream.send(1, named(1))
    stream.restart(1)
    for n in range(10):
        stream.send(0, trade(n, "ETH/USDT"), after=SECOND)
    stream.send(1, named(2), named(3))
    stream.send(0, named(2), named(3))

    assert stream.gaps == []
    assert [event.id for event in stream.out if event.symbol == "BTC/USDT"] == ["t1", "t2", "t3"]


def test_another_node_of_a_slot_does_not_go_on_to_fill_what_the_one_before_has_filled() -> None:
    stream, _ = filled_in_part()
    stream.restart(0)
    stream.send(0, *(named(n, "history") for n in range(3, 50)), named(50))

    assert stream.ids == [f"t{n}" for n in (1, 2, 9, 10, 4, 5, *range(20, 51))]


def test_a_gap_that_another_node_tells_longer_does_not_let_what_came_in_it_come_again() -> None:
    lost = evolve(hole(2, 5), after_id="t2", before_id="t5", missing=None)
    longer = evolve(lost, until=START + 8 * MS, before_id="t8")
    stream = Stream(replicas=1)
    stream.send(0, named(1), named(2))
    stream.restart(0)
    stream.send(0, lost, named(5), named(6), named(8))
    stream.send(0, named(9), after=HOLD)
    stream.send(0, evolve(longer, state="partial"))
    for n in range(20, 50):
        stream.send(0, named(n), after=SECOND)
    stream.send(1, *(named(n, "history") for n in range(3, 9)), named(50))
    stream.send(0, named(50))

    assert stream.ids == [f"t{n}" for n in (1, 2, 5, 6, 8, 9, *range(20, 51))]
