"""What the stage promises, one claim at a time. Times are in ms after a full minute."""

from __future__ import annotations

from decimal import Context, Decimal, getcontext

import pytest
from tapeloom.events import Bar, Gap, Quote, Reject, Trade
from tapeloom.plugin import TimedStage
from tapeloom_bars import Bars, Settings

MS = 1_000_000
BEGIN = 28_333_334 * 60_000 * MS


def trade(ms, price="1", size="1", *, recv=None, id="", symbol="A/B", side=None, **more):
    at = BEGIN + ms * MS
    recv = at if recv is None else BEGIN + recv * MS
    return Trade("v", symbol, at, recv, Decimal(price), Decimal(size), side, id, **more)


def gap(since, until, *, channel="trades", symbol="A/B", verdict="open"):
    since, until = BEGIN + since * MS, BEGIN + until * MS
    return Gap("v", symbol, until, until, since, until, "disconnect", None, verdict, channel)


def stage(every="1s", **settings):
    return Bars(Settings(every=every, **settings))


def bars(events):
    return [event for event in events if type(event) is Bar]


def starts(events):
    return [(bar.ts - BEGIN) // MS for bar in bars(events)]


def at(ms):
    return BEGIN + ms * MS


# ------------------------------------------------------------------------------- where trades go


def test_a_trade_on_the_boundary_belongs_to_the_new_bar():
    out = stage(lateness=0)([trade(999, "5"), trade(1000, "6"), trade(2000, "7")])

    assert [(bar.ts, bar.close) for bar in bars(out)] == [(at(0), 5), (at(1000), 6)]


def test_a_bar_precedes_the_trade_that_closed_it():
    first, second = trade(100), trade(1000)

    out = stage(lateness=0)([first, second])

    assert [type(event) for event in out] == [Trade, Bar, Trade]
    assert out[1].recv == second.recv


def test_weeks_begin_on_monday():
    friday = trade(0, id=1)
    later = trade(8 * 86_400_000, id=2)

    (bar,) = bars(stage("1w", lateness=0)([friday, later]))

    assert bar.time.isoweekday() == 1
    assert bar.ts <= friday.ts < bar.ts + 7 * 86_400_000 * MS


def test_days_begin_at_midnight_utc():
    (bar,) = bars(stage("1d", lateness=0)([trade(0), trade(86_400_000)]))

    assert (bar.time.hour, bar.time.minute, bar.time.second) == (0, 0, 0)


def test_bars_closed_by_one_trade_are_ordered_by_end_and_then_by_length():
    out = stage(("1m", "1s", "3s"), lateness="1s")([trade(58_500), trade(59_500), trade(61_000)])

    assert [(bar.interval, bar.ts) for bar in bars(out)] == [
        ("1s", at(58_000)),
        ("1s", at(59_000)),
        ("3s", at(57_000)),
        ("1m", at(0)),
    ]


def test_bars_of_different_symbols_are_independent():
    run = stage(lateness=0)

    out = run([trade(100), trade(5000, symbol="C/D")])

    assert bars(out) == []
    assert [bar.symbol for bar in bars(run.flush())] == ["A/B", "C/D"]


def test_the_same_list_is_returned_if_no_bar_was_added():
    events = [trade(1), Quote("v", "A/B", at(2), at(2), *[Decimal(1)] * 4), trade(3)]

    assert stage()(events) is events


def test_rejected_trades_do_not_count():
    bad = trade(1)
    run = stage()

    run([Reject("v", "A/B", bad.ts, bad.recv, "rule", "", bad, "trades")])

    assert run.flush() == []


# ---------------------------------------------------------------------------- open, close and sums


def test_open_and_close_go_by_time_and_not_by_arrival():
    out = stage()([trade(500, "2"), trade(900, "3"), trade(100, "1"), trade(1600)])

    (bar,) = bars(out)
    assert (bar.open, bar.high, bar.low, bar.close) == (1, 3, 1, 3)


def test_open_and_close_go_by_id_where_times_are_equal():
    out = stage()([trade(5, "2", id=2), trade(5, "3", id=3), trade(5, "1", id=1), trade(1600)])

    (bar,) = bars(out)
    assert (bar.open, bar.close) == (1, 3)


def test_open_and_close_go_by_arrival_if_ids_are_text():
    out = stage()(
        [trade(5, "2", id="b"), trade(5, "3", id="c"), trade(5, "1", id="a"), trade(1600)]
    )

    (bar,) = bars(out)
    assert (bar.open, bar.close) == (2, 1)


def test_sums_are_exact_and_do_not_change_the_decimal_context():
    before = getcontext().prec
    tiny, huge = "0.000000000000000001", "123456789012345678901234567890"
    run = stage()

    run([trade(1, tiny, huge, side="buy"), trade(2, huge, tiny), trade(3, huge, huge)])

    (bar,) = run.flush()
    assert str(bar.volume) == "246913578024691357802469135780.000000000000000001"
    exact = 2 * int(huge) * 10**18 + int(huge) ** 2 * 10**36
    assert int(bar.quote_volume.scaleb(36, Context(prec=200))) == exact
    assert getcontext().prec == before


def test_long_runs_of_trades_are_summed_completely():
    run = stage(("1s", "1m"))
    run([trade(n // 2, str(1 + n % 7), id=n) for n in range(1000)])

    assert {(bar.trades, bar.volume, bar.quote_volume) for bar in run.flush()} == {
        (1000, 1000, sum(1 + n % 7 for n in range(1000)))
    }


def test_only_the_side_buy_counts_as_buy_volume():
    run = stage()
    run([trade(1, "2", "3", side="buy"), trade(2, "5", "7", side="sell"), trade(3, "11", "13")])

    (bar,) = run.flush()
    assert (bar.volume, bar.quote_volume) == (23, 6 + 35 + 143)
    assert (bar.buy_volume, bar.buy_quote_volume, bar.trades) == (3, 6, 3)


@pytest.mark.parametrize("text", ["NaN", "-NaN", "sNaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["price", "size"])
def test_a_trade_that_is_not_finite_is_rejected_and_in_no_bar(text, field):
    bad = trade(1500, **{field: text})
    run = stage(lateness=0)

    out = run([trade(1200, "2"), bad, trade(1700, "3"), trade(2000), trade(3000)])

    reject, bar, complete = [e for e in out if type(e) is not Trade]
    assert (type(reject), reject.rule) == (Reject, "not_finite")
    assert reject.event is bad
    assert (bar.trades, bar.open, bar.close, bar.complete) == (2, 2, 3, False)
    assert complete.complete


# -------------------------------------------------------------------------------------- late trades


def test_a_bar_waits_for_late_trades_and_later_bars_do_not_change():
    out = stage(lateness="500ms")([trade(900, "1"), trade(1400, "2"), trade(950, "3"), trade(1500)])

    assert starts(out) == [0]
    assert bars(out)[0].close == 3


def test_a_late_trade_sends_its_bar_again_after_itself():
    late = trade(800, "9")

    out = stage(lateness=0)([trade(900, "1"), trade(1400, "2"), late, trade(2000)])

    place = next(index for index, event in enumerate(out) if event is late)
    again = out[place + 1]
    assert (again.ts, again.revision, again.open, again.close) == (at(0), 1, 9, 1)
    assert again.recv == late.recv
    assert (bars(out)[-1].trades, bars(out)[-1].open) == (1, 2)


def test_a_late_trade_of_an_interval_that_closed_empty_sends_it_as_a_revision():
    out = stage(lateness=0)([trade(900), trade(2100), trade(1500, "7")])

    assert [(bar.revision, bar.close) for bar in bars(out)] == [(0, 1), (1, 7)]


def test_without_revisions_a_late_trade_is_reported_and_passed_on():
    late = trade(800)

    out = stage(lateness=0, revise=False)([trade(900), trade(1400), late])

    assert out[-2] is late
    assert (out[-1].rule, out[-1].event) == ("late_trade", late)
    assert "1s" in out[-1].evidence


def test_a_trade_older_than_the_bars_kept_is_reported():
    out = stage(lateness=0, keep=2)([trade(900), trade(3000), trade(1000), trade(999)])

    assert [type(event) for event in out[-4:]] == [Trade, Bar, Trade, Reject]


def test_a_late_trade_counts_where_its_bar_is_still_open():
    run = stage(("1s", "1m"), lateness=0, revise=False)

    run([trade(900), trade(1400), trade(800)])

    assert [(bar.interval, bar.trades) for bar in run.flush()] == [("1s", 1), ("1m", 3)]


# ------------------------------------------------------------------------------------ passing time


def test_it_is_a_timed_stage_without_a_deadline_at_first():
    run = stage()

    assert isinstance(run, TimedStage)
    assert run.due is None
    assert run.tick(at(0)) == []


@pytest.mark.parametrize("offset", [-1500, 0, 1500])
def test_a_bar_ends_on_the_clock_of_the_venue(offset):
    run = stage(lateness="500ms")

    run([trade(100, recv=100 + offset + 40)])

    assert run.due == at(1500 + offset + 40)
    assert run.tick(run.due - 1) == []
    (bar,) = run.tick(run.due)
    assert (bar.ts, bar.recv) == (at(0), at(1500 + offset + 40))
    assert run.due is None


def test_delayed_trades_never_make_a_bar_end_earlier():
    run = stage(lateness=0)
    run([trade(100, recv=120)])
    before = run.due

    run([trade(200, recv=800)])

    assert run.due == before == at(1020)


def test_the_estimate_forgets_what_is_older_than_two_minutes():
    run = stage(lateness=0)
    run([trade(0, recv=0), trade(30_000, recv=60_000), trade(90_000, recv=120_000)])

    assert run.due == at(91_000 + 30_000)


def test_bars_closed_by_time_are_ordered_by_end_interval_and_symbol():
    run = stage(("1s", "2s"), lateness=0)
    run([trade(500, symbol="C/D"), trade(600, symbol="A/B"), trade(1500, symbol="C/D")])

    out = run.tick(at(10_000))

    assert [(bar.symbol, bar.interval, bar.ts) for bar in out] == [
        ("A/B", "1s", at(0)),
        ("C/D", "1s", at(1000)),
        ("A/B", "2s", at(0)),
        ("C/D", "2s", at(0)),
    ]


def test_the_first_trade_after_a_pause_is_not_late_however_delayed():
    run = stage(lateness=0)
    run([trade(100)])
    run.tick(at(5000))

    out = run([trade(2500, recv=9000)])

    assert bars(out) == []
    assert starts(run.tick(at(9000))) == [2000]


def test_flush_returns_forming_bars_as_not_closed_and_not_complete():
    run = stage(("1s", "1m"), lateness=0)
    run([trade(100), trade(1100), trade(2100)])

    out = run.flush()

    assert [(bar.interval, bar.ts) for bar in out] == [("1s", at(2000)), ("1m", at(0))]
    assert not any(bar.closed or bar.complete for bar in out)


# ----------------------------------------------------------------------------------- empty and gaps


def test_empty_intervals_are_filled_with_the_close_before():
    out = stage(lateness=0, empty="fill")([trade(100, "1"), trade(200, "3"), trade(3100)])

    _, one, two = bars(out)
    assert (one.ts, two.ts) == (at(1000), at(2000))
    assert (one.open, one.high, one.low, one.close) == (3, 3, 3, 3)
    assert (one.volume, one.trades, one.origin, one.complete) == (0, 0, "empty", True)


def test_filling_continues_without_trades_up_to_its_limit():
    run = stage(lateness=0, empty="fill", fill_limit=3)
    run([trade(100)])

    assert starts(run.tick(at(2000))) == [0, 1000]
    assert run.due == at(3000)
    assert starts(run.tick(at(60_000))) == [2000, 3000]
    assert run.due is None
    assert starts(run([trade(70_000), trade(71_000)])) == [70_000]


def test_the_first_bar_is_not_complete_and_the_next_one_is():
    out = stage(lateness=0)([trade(0), trade(1000), trade(2000)])

    assert [bar.complete for bar in bars(out)] == [False, True]


@pytest.mark.parametrize(("channel", "symbol"), [("trades", "A/B"), ("", "A/B"), ("", "")])
def test_a_gap_marks_open_and_later_bars(channel, symbol):
    hole = gap(1500, 3000, channel=channel, symbol=symbol)
    run = stage(lateness=0)

    out = run([trade(0), trade(1100), hole, *[trade(ms) for ms in (2100, 3100, 4100, 5100)]])

    assert {bar.ts: bar.complete for bar in bars(out)} == {
        at(0): False,
        at(1000): False,
        at(2000): False,
        at(3000): False,
        at(4000): True,
    }


def test_a_gap_of_another_channel_or_symbol_marks_nothing():
    run = stage(lateness=0)

    out = run(
        [
            trade(0),
            trade(1100),
            gap(1100, 1200, channel="book"),
            gap(1100, 1200, symbol="C/D"),
            trade(2000),
        ]
    )

    assert bars(out)[-1].complete


def test_a_gap_revises_closed_bars_and_so_does_its_filling():
    run = stage(lateness=0)
    run([trade(0), trade(1100), trade(2100)])

    opened = bars(run([gap(1500, 1600)]))
    filled = bars(run([gap(1500, 1600, verdict="filled")]))

    assert [(bar.ts, bar.revision, bar.complete) for bar in opened] == [(at(1000), 1, False)]
    assert [(bar.ts, bar.revision, bar.complete) for bar in filled] == [(at(1000), 2, True)]


def test_a_gap_that_is_reported_again_with_a_later_end_is_one_gap():
    run = stage(lateness=0)
    run([trade(0), trade(1100), trade(2100)])
    run([gap(1500, 1600)])
    longer = gap(1500, 2200)

    assert [bar.ts for bar in bars(run([longer, trade(3100)]))] == [at(2000)]
    filled = bars(run([gap(1500, 2200, verdict="filled")]))
    assert [(bar.ts, bar.complete) for bar in filled] == [(at(1000), True), (at(2000), True)]


def rejected(rule, event=None, *, recv=1500, symbol="A/B", channel="trades"):
    ts = event.ts if event is not None else at(recv)
    return Reject("v", symbol, ts, at(recv), rule, "", event, channel)


@pytest.mark.parametrize(
    ("reject", "complete"),
    [
        (rejected("jump", trade(1500, "9")), False),
        (rejected("ahead", trade(3_600_000, recv=1500)), False),
        (rejected("unreadable_frame", symbol="", channel=""), False),
        (rejected("parser_error", symbol="", channel=""), False),
        (rejected("duplicate", trade(1100)), True),
        (rejected("jump", trade(1500, symbol="C/D"), symbol="C/D"), True),
        (rejected("unreadable_frame", channel="book"), True),
        (rejected("jump", Quote("v", "A/B", at(1500), at(1500), *[Decimal(1)] * 4)), True),
    ],
    ids=["jump", "ahead", "frame", "parser", "duplicate", "other symbol", "other channel", "quote"],
)
def test_a_bar_is_complete_only_if_no_trade_in_it_was_rejected(reject, complete):
    run = stage(lateness=0)
    open_bars = bars(run([trade(0), trade(1100), reject, trade(2100), trade(3100)]))
    closed = stage(lateness=0)
    closed([trade(0), trade(1100), trade(2100)])
    revised = bars(closed([reject]))

    assert [(bar.ts, bar.complete) for bar in open_bars[1:]] == [
        (at(1000), complete),
        (at(2000), True),
    ]
    assert [(bar.ts, bar.complete) for bar in revised] == ([] if complete else [(at(1000), False)])


def test_the_trade_of_a_bad_frame_may_be_older_than_the_frame_by_the_lateness():
    run = stage(lateness=300 * MS)
    run([trade(0), trade(1100), trade(2100)])
    bad = rejected("unreadable_frame", recv=2250, symbol="", channel="")
    closed = bars(run([bad, trade(3400), trade(4400)]))

    assert [(bar.ts, bar.complete) for bar in closed] == [
        (at(1000), False),
        (at(2000), False),
        (at(3000), True),
    ]


@pytest.mark.parametrize("ours", [0, 45_000], ids=["the venue's", "ours"])
def test_the_trade_of_a_bad_frame_follows_the_last_one_also_if_a_clock_was_set(ours):
    """A clock was set by 45 s, so the largest offset of the last minute is wrong."""
    run = stage(lateness=0)
    seen = 45_000 - ours
    run([trade(0, recv=-seen), trade(40_100, recv=40_100 - seen)])
    if not ours:
        run([trade(40_200, recv=40_200)])  # the venue's was set back
    bad = rejected("unreadable_frame", recv=40_900, symbol="", channel="")
    out = run([bad, trade(41_100, recv=41_100), trade(42_100, recv=42_100)])
    closed = [(bar.ts, bar.complete) for bar in bars(out)]

    assert (at(40_000), False) in closed


def test_a_past_trade_with_a_time_that_has_not_come_is_not_in_a_complete_bar():
    """While the trade was made, the venue's clock was ahead: nothing else of that second has come yet."""
    run = stage(lateness=0)
    run([trade(0), trade(1100), trade(2100)])
    past = [trade(ms, recv=2200, origin="backfill") for ms in (2150, 5300, 6300, 7300)]
    closed = bars(run([*past, *(trade(1000 * n + 150) for n in range(2, 12))]))
    final = {bar.ts: bar.complete for bar in closed}

    assert [final[at(1000 * n)] for n in (2, 5, 6, 7, 8)] == [True, False, False, False, True]
    assert run.due - at(11_000) < 1500 * MS  # and the clock does not follow it


def test_a_trade_rejected_as_ahead_is_missing_now_and_where_its_time_says():
    run = stage(lateness=0)
    run([trade(0), trade(1100), rejected("ahead", trade(4500, recv=1500))])
    closed = bars(run([trade(second) for second in (2100, 3100, 4100, 5100, 6100)]))

    assert [bar.ts for bar in closed if not bar.complete] == [at(1000), at(4000)]


def test_more_gaps_than_the_limit_are_joined():
    run = stage("1h", lateness=0)
    run([trade(0), trade(3_600_000)])

    run([gap(3_600_000 + n, 3_600_000 + n, channel="") for n in range(0, 3000, 2)])

    assert [bar.complete for bar in bars(run([trade(7_200_000)]))] == [False]


# --------------------------------------------------------------------------- which trades are counted


def test_a_feed_with_two_channels_of_trades_counts_one():
    run = stage()
    run([trade(1, channel="agg_trades"), trade(1), trade(2, channel="agg_trades"), trade(2)])

    assert [bar.trades for bar in run.flush()] == [2]


def test_the_channel_can_be_chosen():
    run = stage(channel="trades")
    run([trade(1, channel="agg_trades"), trade(1), trade(1, channel="agg_trades")])

    assert [bar.trades for bar in run.flush()] == [1]


def test_history_is_passed_on_and_counted_only_if_asked_for():
    old, new = trade(1, origin="history"), trade(500)
    events = [old, new]
    run, asked = stage(), stage(history=True)

    assert run(events) is events
    asked(events)
    assert [bar.trades for bar in run.flush()] == [1]
    assert [bar.trades for bar in asked.flush()] == [2]


def test_backfilled_trades_revise_their_bars():
    run = stage(lateness=0)

    out = run([trade(0), trade(1100), trade(2100), trade(1500, "8", origin="backfill")])

    assert (bars(out)[-1].ts, bars(out)[-1].revision, bars(out)[-1].close) == (at(1000), 1, 8)


# ------------------------------------------------------------------- times that are not believed

HOUR = 3_600_000
YEAR = 365 * 24 * HOUR


def live(run, first, last, *, step=100, symbols=("A/B", "C/D"), jump=0):
    """Run a batch of a trade of each symbol every *step* ms, with a tick after each; return the events."""
    out = []
    for ms in range(first, last, step):
        out += run([trade(ms + jump, recv=ms + 5, symbol=symbol) for symbol in symbols])
        if run.due is not None and run.due <= at(ms + 6):
            out += run.tick(at(ms + 6))
    return out


def rules(events):
    return [event.rule for event in events if type(event) is Reject]


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
@pytest.mark.parametrize("empty", ["skip", "fill"])
@pytest.mark.parametrize("ahead", [HOUR, YEAR], ids=["an hour", "a year"])
def test_one_trade_of_the_future_is_rejected_and_disturbs_no_bar(ahead, empty, together):
    run = stage(empty=empty, lateness=0)
    before = live(run, 0, 5000)
    before += live(run, 5000, 5500)
    bad = trade(5500 + ahead, recv=5505)
    good = trade(5500, recv=5505)
    hit = run([bad, good]) if together else run([bad]) + run([good])
    after = live(run, 5600, 20_000)

    assert rules(hit) == ["ahead"]
    assert bad in hit
    assert rules(before + after) == []
    assert {bar.revision for bar in bars(before + hit + after)} == {0}
    assert starts(before + hit + after) == [n * 1000 for n in range(19) for _ in "AC"]
    assert {bar.origin for bar in bars(before + hit + after)} == {"built_from_trades"}
    broken = [(bar.symbol, bar.ts) for bar in bars(after) if not bar.complete]
    assert broken == [("A/B", at(5000))]  # it lacks the trade


def test_the_bar_of_a_trade_of_the_future_is_not_complete_when_its_time_comes():
    run = stage(lateness=0)
    out = live(run, 0, 5000) + run([trade(25_500, recv=5005)]) + live(run, 5100, 30_000)

    assert rules(out) == ["ahead"]
    broken = [bar.ts for bar in bars(out) if bar.symbol == "A/B" and not bar.complete]
    assert broken == [at(0), at(4000), at(25_000)]


def test_a_trade_that_our_own_clock_shows_in_the_future_revises_the_closed_bar_of_its_time():
    """Our clock is set back by an hour, and the venue's by two seconds."""
    run = stage(lateness=0)
    before = live(run, 0, 5000, symbols=("A/B",))
    late = trade(3500, recv=5005 - HOUR)
    out = run([late])

    assert [(bar.ts, bar.complete) for bar in bars(before)] == [
        (at(n * 1000), n > 0) for n in range(4)
    ]
    assert [type(event) for event in out] == [Trade, Reject, Bar]
    assert rules(out) == ["ahead"]
    (revised,) = bars(out)
    assert (revised.ts, revised.revision, revised.complete) == (at(3000), 1, False)


def test_a_first_trade_of_the_future_is_rejected_too():
    run = stage(empty="fill", lateness=0)
    first = run([trade(YEAR, recv=5)])
    after = live(run, 100, 5000)

    assert rules(first + after) == ["ahead"]
    assert starts(after) == [n * 1000 for n in range(4) for _ in "AC"]


def test_a_trade_of_the_future_within_its_bar_does_not_close_the_bars_of_others():
    run = Bars(Settings(every=("1s", "1h"), lateness=0))
    out = live(run, 0, 2000)
    out += run([trade(1_800_000, recv=2005)])  # half an hour ahead, in the bar of the hour
    out += live(run, 2100, 6000)

    assert rules(out) == ["ahead"]
    assert [bar.revision for bar in bars(out)] == [0] * 10
    assert {bar.interval for bar in bars(out)} == {"1s"}


@pytest.mark.parametrize("ahead", [HOUR, YEAR], ids=["an hour", "a year"])
@pytest.mark.parametrize("empty", ["skip", "fill"])
def test_a_clock_of_the_venue_that_was_set_is_followed_once_many_trades_agree(empty, ahead):
    run = stage(empty=empty, lateness=0)
    before = live(run, 0, 5000)
    after = live(run, 5000, 20_000, jump=ahead)
    followed = [bar for bar in bars(after) if bar.ts >= at(ahead)]

    assert rules(before) == []
    assert rules(after) == ["ahead"] * 19
    assert len(followed) >= 2 * 13
    assert len(bars(after)) < 2 * (15 + 15)  # no more are filled than fit into the time that passed
    broken = {bar.ts for bar in followed if not bar.complete}
    assert broken == {at(5000 + ahead)}  # it lacks the trades that were rejected


def test_a_few_trades_in_a_minute_are_many_for_a_quiet_symbol():
    run = stage(lateness=0)
    run([trade(0, recv=5)])
    out = [event for n in range(1, 5) for event in run([trade(HOUR + 30_000 * n, recv=30_000 * n)])]

    assert rules(out) == ["ahead", "ahead"]


def test_trades_that_do_not_agree_are_never_followed():
    run = stage(lateness=0)
    out = live(run, 0, 1000)
    out += run([trade(HOUR * (n % 7 + 1), recv=1005) for n in range(200)])
    out += [e for n in range(40) for e in (*run([trade(HOUR, recv=1010)]), *live(run, 1010, 1011))]

    assert rules(out) == ["ahead"] * 240


def test_a_clock_of_ours_that_is_behind_costs_the_first_trades_only():
    run = stage(lateness=0)
    out = live(run, 0, 10_000, jump=15_000)

    assert rules(out) == ["ahead"] * 19
    assert len(bars(out)) >= 2 * 8


def test_a_first_trade_of_the_past_fills_no_more_than_the_time_that_passed():
    run = stage(empty="fill", lateness=0)
    out = run([trade(-YEAR, recv=5)]) + live(run, 100, 5000)

    assert len([bar for bar in bars(out) if bar.origin == "empty"]) <= 1000 + 2 + 5


def test_a_quiet_minute_is_filled_completely():
    run = stage(empty="fill", lateness=0)
    out = live(run, 0, 2000) + live(run, 62_000, 64_000)

    assert sorted(starts(out)) == [n * 1000 for n in range(63) for _ in "AC"]


def test_a_burst_after_a_pause_is_filled_completely():
    run = stage(empty="fill", lateness=0)
    out = run([trade(0, recv=5)])
    out += run([trade(ms, recv=40_000) for ms in (1000, 20_000, 39_900)])

    assert starts(out) == [n * 1000 for n in range(39)]


def test_a_clock_that_was_set_back_narrows_the_bound_again():
    run = stage(lateness=0)
    live(run, 0, 5000, jump=HOUR)
    out = live(run, 5000, 300_000, step=1000)
    out += run([trade(HOUR + 300_000, recv=300_005)])

    assert rules(out)[-1] == "ahead"


def test_a_clock_that_stays_ahead_keeps_its_bound():
    run = stage(lateness=0)
    out = live(run, 0, 5000, jump=HOUR)
    for minute in range(5):
        out += live(run, 60_000 * minute + 5000, 60_000 * (minute + 1) + 5000, step=1000, jump=HOUR)
        out += run([trade(3 * HOUR, recv=60_000 * (minute + 1) + 5000)])

    assert rules(out) == ["ahead"] * (19 + 5)
