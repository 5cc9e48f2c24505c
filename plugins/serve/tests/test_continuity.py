"""What a client of a remote stream missed: a gap for each subscription, unless the numbers go on."""

from __future__ import annotations

from decimal import Decimal

import pytest
from tapeloom import Book, Gap, Quote, Status
from tapeloom_serve.remote.continuity import Continuity


def quote(ts, channel="quotes"):
    one = Decimal(1)
    return Quote("venue", "BTC/USDT", ts, ts, one, one, one, one, None, channel)


def test_without_a_loss_events_pass_as_they_are(make_trade):
    events = [make_trade(1), make_trade(5)]

    assert Continuity().process(events) is events


def test_a_loss_is_a_gap_before_the_first_event_of_each_subscription(make_trade):
    found = Continuity()
    found.process([make_trade(1, "A"), make_trade(7, "B"), make_trade(9, "C")])
    found.lose("disconnect")

    out = found.process([make_trade(4, "A"), make_trade(5, "A"), make_trade(9, "B")])
    later = found.process([make_trade(12, "C"), make_trade(13, "C"), make_trade(1, "D")])

    gaps = [event for event in out + later if type(event) is Gap]
    assert [(gap.symbol, gap.after_id, gap.before_id, gap.missing, gap.cause) for gap in gaps] == [
        ("A", 1, 4, 2, "disconnect"),
        ("B", 7, 9, 1, "disconnect"),
        ("C", 9, 12, 2, "disconnect"),
    ]
    assert [type(event).__name__ for event in out] == ["Gap", "Trade", "Trade", "Gap", "Trade"]
    assert (gaps[0].since, gaps[0].until) == (make_trade(1).ts, make_trade(4).ts)


def test_there_is_no_gap_where_the_numbers_go_on(make_trade):
    found = Continuity()
    found.process([make_trade(1)])
    found.lose("disconnect")

    assert found.process([make_trade(2), make_trade(4)]) == [make_trade(2), make_trade(4)]


def test_an_older_trade_does_not_end_the_gap(make_trade):
    found = Continuity()
    found.process([make_trade(5)])
    found.lose("disconnect")

    assert found.process([make_trade(3)]) == [make_trade(3)]
    assert type(found.process([make_trade(8)])[0]) is Gap


def test_statuses_end_no_gap(make_trade):
    found = Continuity()
    found.process([quote(1)])
    found.lose("disconnect")
    status = Status("venue", "BTC/USDT", 3, 3, "stale", "", "quotes")

    assert found.process([status]) == [status]
    gap, _ = found.process([quote(4)])
    assert (gap.since, gap.until, gap.missing, gap.channel) == (1, 4, None, "quotes")


def test_a_latest_state_is_delivered_once_but_a_book_always():
    book = Book("venue", "BTC/USDT", 5, 5, "snapshot", [], [])
    found = Continuity()
    found.process([quote(4), book], 2)
    found.lose("disconnect")

    again = found.process([quote(4), book], 2)
    newer = found.process([quote(6)], 1)

    assert again == [book]
    assert [type(event) for event in newer] == [Gap, Quote]


def test_a_restart_continues_from_the_text_of_the_run_before(make_trade):
    before, after = Continuity(), Continuity()
    before.process([make_trade(1), quote(5)])
    after.restore(before.to_text())
    after.lose("restart")

    out = after.process([make_trade(4), quote(9)])

    assert [type(event).__name__ for event in out] == ["Gap", "Trade", "Gap", "Quote"]
    assert (out[0].cause, out[0].missing, out[2].since) == ("restart", 2, 5)


@pytest.mark.parametrize("text", ["", "1", "[[1]]", "{", "[1]"])
def test_another_text_is_refused(text):
    with pytest.raises(ValueError):
        Continuity().restore(text)
