"""A book that stops following the venue, or never gets its snapshot, says so and is rebuilt."""

from __future__ import annotations

import pytest
from tapeloom.events import Gap, Quote, Status

SECOND = 1_000_000_000
TENTH = SECOND // 10
BEST = ([("10", "1")], [("11", "2")])
HUGE = 10**15


def states(events):
    return [event.state for event in events if type(event) is Status]


def gaps(events):
    return [event for event in events if type(event) is Gap]


class Deltas:
    """The deltas of one book, each `pause` after the one before, with any ids."""

    def __init__(self, delta, scheme, pause=TENTH):
        self.delta, self.scheme, self.pause = delta, scheme, pause
        self.recv = 100 * SECOND

    def __call__(self, first, last, bids=(), *, ts=None, previous=None, **more):
        self.recv += self.pause
        previous = first - 1 if previous is None else previous
        event = self.delta(
            None if self.scheme == "linked" else first,
            last,
            bids,
            previous=None if self.scheme == "counted" else previous,
            recv=self.recv,
            **more,
        )
        event.ts = self.recv if ts is None else ts
        return event


@pytest.fixture(params=["counted", "linked", "both"])
def deltas(request, delta):
    return Deltas(delta, request.param)


def test_ids_that_go_back_are_a_gap_and_the_book_is_rebuilt(bench, deltas, snapshot):
    rig = bench()
    rig.send(snapshot(1000, *BEST), deltas(1001, 1003))
    out = rig.send(deltas(1, 1, [("10", "7")]))

    assert [gap.missing for gap in gaps(out)] == [None]
    assert states(out) == ["stale"]
    assert "expected the update after 1003, received 1" in out[1].detail
    assert len(rig.wants) == 1

    rig.send(deltas(2, 2, [("10", "8")]))
    out = rig.send(snapshot(1, [("10", "7")], [("11", "2")], recv=deltas.recv))

    assert states(out) == ["synced"]
    assert (rig.book().sequence, rig.book().best_bid) == (2, (10, 8))


def test_ids_that_go_back_by_a_single_delta_are_not_taken_for_the_same_stream(
    bench, deltas, snapshot
):
    rig = bench()
    rig.send(snapshot(1000, *BEST), deltas(1001, 1003))
    out = rig.send(deltas(1002, 1002, [("10", "7")]), deltas(1003, 1004))

    assert states(out) == ["stale"]
    assert not rig.book().synced


def test_one_delta_with_a_huge_id_does_not_stop_the_book(bench, deltas, snapshot):
    rig = bench()
    rig.send(snapshot(1000, *BEST), deltas(1001, 1001))
    rig.send(deltas(1002, HUGE, [("10", "5")]))
    out = rig.send(deltas(1003, 1003, [("10", "6")]))

    assert states(out) == ["stale"]

    out = rig.send(deltas(1004, 1004), snapshot(1003, [("10", "6")], [("11", "2")]))

    assert states(out) == ["synced"]
    assert rig.book().sequence == 1004


def test_a_delta_with_a_huge_id_among_buffered_deltas_does_not_stop_the_book(
    bench, deltas, snapshot
):
    rig = bench()
    rig.send(deltas(1001, 1001), deltas(1002, HUGE), deltas(1003, 1003), deltas(1004, 1004))
    out = rig.send(snapshot(1003, *BEST))

    assert states(out) == ["synced"]
    assert rig.book().sequence == 1004


def test_without_a_newer_time_lower_ids_show_a_restart_after_five_seconds(bench, deltas, snapshot):
    rig = bench()
    rig.send(snapshot(1000, *BEST), deltas(1001, 1003, ts=7))
    out = rig.send(*(deltas(number, number, ts=7) for number in range(1, 51)))

    assert states(out) == []

    out = rig.send(*(deltas(number, number, ts=7) for number in range(51, 55)))

    assert states(out) == ["stale"]
    assert not rig.book().synced


def test_repeated_and_late_deltas_are_no_restart(bench, deltas, snapshot):
    rig = bench()
    first, second = deltas(1001, 1003, [("10", "5")]), deltas(1004, 1004, [("10", "6")])
    out = rig.send(snapshot(1000, *BEST), first, second)
    for _ in range(10):  # over ten seconds
        deltas.recv += SECOND
        out += rig.send(deltas(1002, 1002, ts=first.ts), deltas(1004, 1004, ts=deltas.recv))

    assert states(out) == ["synced"]
    assert gaps(out) == []
    assert rig.book().best_bid == (10, 6)


def test_a_requested_snapshot_with_a_huge_id_is_dropped_within_seconds(bench, deltas, snapshot):
    rig = bench()
    rig.send(deltas(1001, 1001))
    rig.send(snapshot(HUGE, *BEST, recv=deltas.recv))
    numbers = iter(range(1002, 2000))
    out, started = [], deltas.recv
    while not states(out):
        number = next(numbers)
        out += rig.send(deltas(number, number))

    assert states(out) == ["stale"]
    assert "newer than the deltas need" in out[-1].detail
    assert deltas.recv - started <= 5 * SECOND
    assert gaps(out) == []  # the stream itself is whole

    out = rig.send(snapshot(number, *BEST))

    assert states(out) == ["synced"]


def test_a_snapshot_ahead_of_the_stream_is_kept_if_the_stream_reaches_it(bench, deltas, snapshot):
    rig = bench()
    out = rig.send(deltas(1001, 1001), snapshot(1003, *BEST, recv=deltas.recv))
    for number in (1002, 1003, 1004):
        out += rig.send(deltas(number, number))

    assert states(out) == ["synced"]
    assert rig.book().sequence == 1004


# ------------------------------------------------------------------------------ snapshots in the stream


def test_deltas_buffered_before_a_snapshot_in_the_stream_are_applied_to_it(bench, deltas, snapshot):
    rig = bench()
    rig.send(deltas(1001, 1002), deltas(1003, 1003, [("9", "4")]), deltas(1004, 1004))
    out = rig.send(snapshot(1002, *BEST, origin="live"), deltas(1005, 1005))

    assert states(out) == ["synced"]
    assert gaps(out) == []
    assert rig.book().bids.top(2) == [(10, 1), (9, 4)]
    assert rig.book().sequence == 1005


def test_a_snapshot_in_the_stream_with_new_ids_drops_the_buffered_deltas(bench, deltas, snapshot):
    rig = bench()
    rig.send(deltas(1001, 1002, [("9", "4")]))
    out = rig.send(snapshot(1, *BEST, origin="live"), deltas(2, 2))

    assert states(out) == ["synced"]
    assert rig.book().bids.top(2) == [(10, 1)]


def test_a_late_snapshot_in_the_stream_is_no_gap_but_makes_the_book_stale(bench, deltas, snapshot):
    rig = bench()
    rig.send(snapshot(1000, *BEST), deltas(1001, 1004))
    out = rig.send(snapshot(1002, *BEST, origin="live"), deltas(1005, 1005))

    assert gaps(out) == []
    assert states(out) == ["stale"]
    assert len(rig.wants) == 1


def test_a_stale_snapshot_without_first_ids_is_requested_again(bench, delta, snapshot):
    rig = bench()
    rig.send(delta(None, 1015, previous=1010))
    out = rig.send(snapshot(1005, *BEST))

    assert states(out) == []
    assert len(rig.wants) == 2

    out = rig.send(snapshot(1012, *BEST))

    assert states(out) == ["synced"]
    assert rig.book().sequence == 1015


def test_a_snapshot_older_than_deltas_that_are_not_buffered_is_requested_again(
    bench, delta, snapshot
):
    rig = bench()
    rig.send(snapshot(0, *BEST), delta(1, 1), delta(2, 2, [("what", "1")]))
    out = rig.send(snapshot(1, *BEST))

    assert states(out) == []
    assert len(rig.wants) == 2


# ---------------------------------------------------------------------------------- no snapshot at all


def test_a_book_without_its_first_snapshot_is_reported_within_five_seconds(bench, deltas):
    rig = bench()
    rig.send(deltas(1, 1))
    due = deltas.recv + 5 * SECOND

    assert rig.stage.due == due
    assert rig.stage.tick(due - 1) == []

    (status,) = rig.stage.tick(due)

    assert (status.state, status.symbol, status.channel) == ("stale", "A/B", "book")
    assert "no snapshot within 5 s" in status.detail
    assert rig.book().state == "stale"
    assert states(rig.stage.tick(due + 60 * SECOND)) == []  # once


def test_a_book_that_is_reported_still_takes_its_snapshot(bench, deltas, snapshot):
    rig = bench()
    rig.send(deltas(1, 1))
    rig.stage.tick(deltas.recv + 5 * SECOND)
    out = rig.send(snapshot(0, *BEST))

    assert states(out) == ["synced"]
    assert len([event for event in out if type(event) is Quote]) == 1


def test_a_book_that_gets_its_snapshot_in_time_is_not_reported(bench, deltas, snapshot):
    rig = bench()
    rig.send(deltas(1, 1), snapshot(0, *BEST))

    assert rig.stage.due is None
    assert rig.stage.flush() == []


def test_a_book_without_ids_and_without_snapshot_is_reported(bench, delta):
    rig = bench()
    rig.send(delta(None, None, [("10", "1")], recv=SECOND))

    assert states(rig.stage.tick(6 * SECOND)) == ["stale"]


def test_a_book_without_snapshot_is_reported_at_the_end_of_the_feed(bench, deltas):
    rig = bench()
    rig.send(deltas(1, 1), deltas(2, 2))
    (status,) = rig.stage.flush()

    assert (status.state, status.recv) == ("stale", deltas.recv)
    assert "the feed ended before a snapshot arrived" in status.detail
    assert rig.stage.flush() == []


def test_a_removed_symbol_is_not_reported(bench, deltas):
    rig = bench()
    rig.send(deltas(1, 1))
    rig.feed.symbols.remove("A/B")

    assert rig.stage.tick(deltas.recv + 60 * SECOND) == []
    assert rig.stage.due is None
