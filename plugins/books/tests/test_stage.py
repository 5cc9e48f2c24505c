from __future__ import annotations

from decimal import Decimal

import pluggy
import pytest
import tapeloom_books
from tapeloom.events import Book, Gap, Quote, Status, Trade
from tapeloom.plugin import HistoryQuery, TimedStage

SECOND = 1_000_000_000
ONE = ([("10", "1")], [("11", "2")])
BOOK_WANTED = HistoryQuery("book", "A/B", "book")


def told(events, kind=Status):
    return [event for event in events if type(event) is kind]


def states(events):
    return [event.state for event in told(events)]


def test_the_plugin_offers_a_timed_stage_and_its_settings(bench):
    manager = pluggy.PluginManager("tapeloom")
    manager.register(tapeloom_books)

    assert isinstance(tapeloom_books.aggregate(bench().feed), TimedStage)
    assert tapeloom_books.settings() is tapeloom_books.Settings


def test_the_first_delta_requests_a_snapshot_once_and_is_buffered(bench, delta):
    rig = bench()
    first, second = delta(1, 5, *ONE), delta(6, 9)
    out = rig.send(first, second)

    assert [first, second] == out
    assert rig.wants == [BOOK_WANTED]
    assert rig.book().state == "waiting"
    assert rig.book().best_bid is None


def test_a_snapshot_and_the_buffered_deltas_make_a_book(bench, delta, snapshot):
    rig = bench()
    rig.send(delta(1, 5, [("9", "7")]), delta(6, 9, [("10", "3")]), delta(10, 12, [("8", "1")]))
    answer = snapshot(7, *ONE, recv=99)
    out = rig.send(answer)
    quote = out[2]

    assert [Book, Status, Quote] == [type(event) for event in out]
    assert out[0] is answer
    assert (out[1].state, out[1].channel, out[1].recv) == ("synced", "book", 99)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (10, 3, 11, 2)
    assert (
        quote.sequence, quote.channel, quote.origin, quote.ts, quote.recv,
    ) == (12, "book", "built_from_book", 12_000, 99)  # fmt: skip
    assert [price for price, _ in rig.book().bids] == [10, 8]
    assert rig.book().updates == 2
    assert rig.stage.due is None


def test_a_quote_is_sent_only_when_price_or_size_at_the_top_changes(bench, delta, snapshot):
    rig = bench()
    rig.send(snapshot(0, *ONE))
    out = rig.send(
        delta(1, 1, [("9", "5")]),
        delta(2, 2, [("10.0", "1.00")], [("11", "2")]),  # the same numbers, spelled otherwise
        delta(3, 3, [("10", "4")]),
        delta(4, 4, [("10", "0")]),
        delta(5, 5, [("9", "0")]),  # no bid is left
        delta(6, 6, [("9", "5")]),
    )

    bids = [(q.bid, q.bid_size) for q in told(out, Quote)]

    assert bids == [(10, 4), (9, 5), (None, None), (9, 5)]
    assert [Book, Book, Book, Quote, Book, Quote, Book, Quote, Book, Quote] == [
        type(event) for event in out
    ]


def test_a_gap_is_reported_before_the_delta_after_it(bench, delta, snapshot):
    rig = bench()
    rig.send(snapshot(0, *ONE), delta(1, 3))
    out = rig.send(delta(8, 9, recv=5))

    assert [Gap, Status, Book] == [type(event) for event in out]
    lost = 9000, 5, 3000, 9000, "sequence", 4, "unrecoverable", "book", 3, 8
    assert Gap("acme", "A/B", *lost) == out[0]
    assert out[1].state == "stale"
    assert rig.wants == [BOOK_WANTED]
    assert rig.book().best_bid is None

    out = rig.send(snapshot(8, *ONE))

    assert [Book, Status, Quote] == [type(event) for event in out]
    assert out[1].state == "synced"


def test_a_gap_of_linked_deltas_has_no_missing_count(bench, delta, snapshot):
    rig = bench()
    rig.send(snapshot(10, *ONE), delta(8, 12, previous=7), delta(20, 25, previous=12))
    out = rig.send(delta(30, 35, previous=27))

    assert [gap.missing for gap in told(out, Gap)] == [None]
    assert states(out) == ["stale"]


@pytest.mark.parametrize("early", [2, 3, 5])
def test_a_gap_among_buffered_deltas_is_reported_and_earlier_ones_are_dropped(
    bench, delta, snapshot, early
):
    rig = bench()
    out = rig.send(delta(1, 2, [("9", "9")]), delta(3, 4), delta(7, 8, [("8", "8")]))

    assert [Book, Book, Gap, Book] == [type(event) for event in out]
    assert [gap.missing for gap in told(out, Gap)] == [2]

    rig.send(snapshot(early, *ONE))  # from before the hole: of no use

    assert rig.wants == [BOOK_WANTED] * 2
    assert not rig.book().synced

    rig.send(snapshot(6, *ONE))

    assert [price for price, _ in rig.book().bids] == [10, 8]


def test_a_gap_in_one_symbol_does_not_affect_the_others(bench, delta, snapshot):
    rig = bench()
    rig.send(snapshot(0, *ONE), snapshot(0, *ONE, symbol="C/D"))
    out = rig.send(delta(1, 1, symbol="C/D"), delta(5, 5), delta(2, 2, [("10", "6")], symbol="C/D"))

    assert rig.wants == [BOOK_WANTED]
    assert rig.book("C/D").synced
    assert [(quote.symbol, quote.bid_size) for quote in told(out, Quote)] == [("C/D", 6)]


def test_a_snapshot_that_is_too_old_is_requested_again(bench, delta, snapshot):
    rig = bench()
    rig.send(delta(10, 12))
    out = rig.send(snapshot(8, *ONE))

    assert states(out) == []
    assert rig.wants == [BOOK_WANTED] * 2
    assert not rig.book().synced

    rig.send(snapshot(9, *ONE))

    assert rig.book().synced
    assert rig.book().sequence == 12


def test_a_snapshot_without_deltas_is_used_until_a_delta_shows_it_is_too_old(
    bench, delta, snapshot
):
    rig = bench()
    out = rig.send(snapshot(8, *ONE), delta(10, 12))

    assert states(out) == ["synced", "stale"]
    assert told(out, Gap) == []  # the stream itself has no hole
    assert rig.wants == [BOOK_WANTED]


def test_the_pause_doubles_after_each_useless_snapshot(bench, delta, snapshot):
    rig = bench(retry="10s")
    rig.send(delta(10, 12, recv=SECOND))
    for second in range(1, 100):
        rig.send(snapshot(8, *ONE, recv=second * SECOND))
        rig.stage.tick(second * SECOND)

    # after 1, 1 and 2 s as each answer came, then 40 s later; the next is 80 s after that
    assert len(rig.wants) == 4
    assert rig.stage.due == (2 + 40 + 80) * SECOND


def test_an_unanswered_request_is_repeated_after_retry(bench, delta):
    rig = bench(retry="2s")
    rig.send(delta(1, 1, recv=SECOND))

    assert rig.stage.due == 3 * SECOND
    assert rig.stage.tick(3 * SECOND - 1) == []
    assert len(rig.wants) == 1

    rig.stage.tick(3 * SECOND)

    assert len(rig.wants) == 2
    assert rig.stage.due == 6 * SECOND  # then the late snapshot is reported
    assert states(rig.stage.tick(6 * SECOND)) == ["stale"]
    assert rig.stage.due == 7 * SECOND


def test_a_failed_request_is_repeated_sooner_than_an_unanswered_one(bench, delta):
    rig = bench(retry="10s")
    rig.send(delta(1, 1, recv=SECOND))
    failure = Status("acme", "A/B", 0, 2 * SECOND, "request_failed", "HTTP 500", "book")
    out = rig.send(failure, failure)

    assert [failure, failure] == out
    assert len(rig.wants) == 1
    assert rig.stage.due == 3 * SECOND

    rig.stage.tick(rig.stage.due)

    assert len(rig.wants) == 2


def test_no_snapshot_is_requested_for_a_removed_symbol(bench, delta):
    rig = bench(retry="2s")
    rig.send(delta(1, 1))
    rig.feed.symbols.remove("A/B")
    rig.stage.tick(100 * SECOND)

    assert len(rig.wants) == 1
    assert rig.stage.due is None


def test_a_disconnect_makes_the_book_stale_until_a_new_snapshot(bench, delta, snapshot):
    rig = bench()
    rig.send(snapshot(0, *ONE), delta(1, 1))
    lost = Gap("acme", "A/B", 50, 60, 40, 50, "disconnect", channel="book")
    elsewhere = Gap("acme", "A/B", 50, 60, 40, 50, "disconnect", channel="trades")

    assert [elsewhere] == rig.send(elsewhere)

    out = rig.send(lost)

    assert [lost, out[1]] == out
    assert (out[1].state, out[1].detail) == ("stale", "disconnect")

    out = rig.send(delta(40, 41, [("9", "9")]))

    assert len(out) == 1  # no quote, and no second gap: this one was announced
    assert rig.wants == [BOOK_WANTED]

    out = rig.send(snapshot(39, *ONE))

    assert states(out) == ["synced"]
    assert len(told(out, Quote)) == 1  # told again although it is what it was


def test_an_emptied_side_of_a_book_is_a_quote_without_that_side(bench, delta, snapshot):
    rig = bench()
    out = rig.send(
        snapshot(0, *ONE),
        delta(1, 1, [], [("11", "0")]),
        delta(2, 2, [], [("12", "0.00")]),  # a level that was not there
        delta(3, 3, [("10", "0")]),
        delta(4, 4, [], [("11", "3")]),
    )

    assert [(q.bid, q.bid_size, q.ask, q.ask_size) for q in told(out, Quote)] == [
        (10, 1, 11, 2),
        (10, 1, None, None),
        (None, None, None, None),
        (None, None, 11, 3),
    ]
    assert states(out) == ["synced"]


def test_the_first_quote_of_an_empty_book_has_no_sides(bench, snapshot):
    out = bench().send(snapshot(1, origin="live"))

    assert [(q.bid, q.bid_size, q.ask, q.ask_size) for q in told(out, Quote)] == [(None,) * 4]


def test_a_book_may_be_crossed_for_one_event(bench, delta, snapshot):
    rig = bench()
    rig.send(snapshot(0, *ONE))
    out = rig.send(delta(1, 1, [("11", "5")]), delta(2, 2, [], [("11", "0"), ("12", "1")]))

    assert states(out) == []
    assert [(quote.bid, quote.ask) for quote in told(out, Quote)] == [(11, 12)]


def test_a_book_that_stays_crossed_is_rebuilt(bench, delta, snapshot):
    rig = bench()
    rig.send(snapshot(0, *ONE))
    out = rig.send(delta(1, 1, [("11", "5")]), delta(2, 2, [("11.5", "1")]))

    assert [Book, Book, Status] == [type(event) for event in out]
    assert states(out) == ["crossed"]
    assert rig.book().state == "crossed"
    assert rig.book().best_bid is None
    assert rig.wants == [BOOK_WANTED]

    rig.send(delta(3, 3, [("9", "9")]))
    out = rig.send(snapshot(2, *ONE))

    assert states(out) == ["synced"]
    assert [price for price, _ in rig.book().bids] == [10, 9]


def test_a_snapshot_in_the_stream_needs_no_request(bench, delta, snapshot):
    rig = bench()
    out = rig.send(
        snapshot(100, *ONE, origin="live"),
        delta(101, 101, [("10", "2")]),
        snapshot(1, [("5", "1")], [("6", "1")], origin="live"),  # the venue started anew
        delta(2, 2, [("5", "9")]),
    )

    assert rig.wants == []
    assert states(out) == ["synced"]
    assert [(q.bid, q.bid_size) for q in told(out, Quote)] == [(10, 1), (10, 2), (5, 1), (5, 9)]


def test_missing_ids_after_a_snapshot_in_the_stream_are_a_gap(bench, delta, snapshot):
    rig = bench()
    out = rig.send(snapshot(100, *ONE, origin="live"), delta(102, 102))

    assert [gap.missing for gap in told(out, Gap)] == [1]
    assert states(out) == ["synced", "stale"]


def test_without_ids_snapshots_replace_and_deltas_apply(bench, delta, snapshot):
    rig = bench()
    rig.send(delta(None, None, [("9", "9")]))

    assert rig.wants == [BOOK_WANTED]

    rig.send(snapshot(None, *ONE), delta(None, None, [("9", "8")]))

    assert list(rig.book().bids) == [(10, 1), (9, 8)]


def test_partial_books_pass_and_give_quotes_only_if_configured(bench, snapshot):
    partial = [snapshot(n, *ONE, origin="live", depth=5, channel="book:5") for n in (1, 2)]
    silent, loud = bench(), bench(channels=("book:5",))

    assert told(silent.send(*partial), Quote) == []
    assert silent.book(channel="book:5").best_bid == (10, 1)

    out = loud.send(*partial)

    assert [quote.channel for quote in told(out, Quote)] == ["book:5"]


def test_a_late_snapshot_does_not_replace_a_synced_book(bench, delta, snapshot):
    rig = bench()
    rig.send(delta(1, 1), snapshot(0, *ONE), delta(2, 2, [("10", "8")]))
    out = rig.send(snapshot(1, *ONE))

    assert len(out) == 1
    assert rig.book().best_bid == (10, 8)


def test_an_old_delta_passes_and_is_not_applied(bench, delta, snapshot):
    rig = bench()
    rig.send(snapshot(0, *ONE), delta(1, 2, [("10", "8")]), delta(3, 3, [("10", "9")]))
    out = rig.send(delta(1, 2, [("10", "8")]))

    assert len(out) == 1
    assert rig.book().best_bid == (10, 9)


def test_depth_follows_each_change_of_the_top(bench, delta, snapshot):
    rig = bench(depth=2, quotes=False)
    out = rig.send(
        snapshot(0, *ONE),
        delta(1, 1, [("9", "1")], recv=4),
        delta(2, 2, [("8", "1")]),
        delta(3, 3, [("9.0", "1.0")]),
    )
    tops = [event for event in told(out, Book) if event.origin == "built_from_book"]

    assert [Book, Status, Book, Book, Book, Book, Book] == [type(event) for event in out]
    assert tops == [out[2], out[4]]
    assert Book(
        "acme", "A/B", 1000, 4, "snapshot", [("10", "1"), ("9", "1")], [("11", "2")],
        None, 1, None, 2, "book", "built_from_book",
    ) == out[4]  # fmt: skip


def test_events_of_a_books_stage_are_ignored_by_another(bench, snapshot):
    rig = bench()
    said = snapshot(5, *ONE, origin="built_from_book", depth=2)

    assert rig.send(said) == [said]
    assert rig.stage.books == {}


def test_more_deltas_than_the_buffer_holds_cost_a_second_request(bench, delta, snapshot):
    rig = bench(buffer=3)
    rig.send(*(delta(n, n) for n in range(1, 6)))
    rig.send(snapshot(1, *ONE))

    assert len(rig.wants) == 2

    rig.send(snapshot(3, *ONE))

    assert rig.book().sequence == 5


@pytest.mark.parametrize("size", ["NaN", "sNaN", "Infinity", "many"])
def test_a_size_that_is_no_number_gives_no_quote(bench, delta, snapshot, size):
    rig = bench()
    rig.send(snapshot(0, *ONE))
    out = rig.send(delta(1, 1, [("10.5", size)]), delta(2, 2, [("10.5", "3")]))

    assert [Decimal(3)] == [quote.bid_size for quote in told(out, Quote)]


def test_a_level_that_cannot_be_read_makes_the_book_stale(bench, delta, snapshot):
    rig = bench()
    rig.send(snapshot(0, *ONE))
    out = rig.send(delta(1, 1, [("what", "1")]))

    assert [Book, Status] == [type(event) for event in out]
    assert states(out) == ["stale"]
    assert rig.wants == [BOOK_WANTED]

    rig.send(delta(2, 2))
    rig.send(snapshot(1, *ONE))

    assert rig.book().synced


def test_batches_without_books_pass_as_they_are(bench):
    batch = [Trade("acme", "A/B", 1, 1, Decimal(1), Decimal(1))]

    assert bench().stage(batch) is batch


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": -1}, "depth = -1: expected a whole number of 0 or more"),
        ({"depth": True}, "depth = True"),
        ({"buffer": 0}, "buffer = 0: expected a whole number of 1 or more"),
        ({"retry": "soon"}, "'soon' is not a duration"),
        ({"retry": "0s"}, "retry = 0 ns is too short"),
    ],
)
def test_invalid_settings_are_refused_with_the_allowed_values(wrong, message):
    with pytest.raises(ValueError, match=message):
        tapeloom_books.Settings(**wrong)
