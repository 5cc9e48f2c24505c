"""Trades: what is rejected, by which rule, and what the ids tell."""

from decimal import Context, Decimal, Inexact, localcontext

import pytest
from tapeloom.events import Gap, Reject, Status, Trade
from tapeloom.plugin import TradeBatch


def rules(events):
    return [getattr(event, "rule", event.type) for event in events]


def test_a_batch_without_a_fault_is_returned_as_the_same_list(quality, make, counters):
    stage = quality()
    batches = [[make.trade(n, at=n) for n in range(k, k + 50)] for k in (1, 51, 101)]

    assert all(stage(batch) is batch for batch in batches)
    assert not counters


@pytest.mark.parametrize("settings", [{}, {"max_ahead": "1s"}])
def test_an_empty_batch_is_returned_unchanged(quality, settings):
    batch = TradeBatch()

    assert quality(**settings)(batch) is batch


def test_events_that_are_not_checked_pass_in_place(quality, make):
    status = Status("v", "BTC/USDT", 0, 0, "live")
    batch = [make.trade(1), status, make.trade(1), status, make.trade(2)]

    out = quality()(batch)

    assert rules(out) == ["trade", "status", "duplicate", "status", "trade"]
    assert out[1] is status
    assert len(batch) == 5


@pytest.mark.parametrize("price", ["0", "-1", "NaN", "sNaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_price_must_be_a_number_above_zero(quality, make, counters, price, earlier):
    before = [make.trade(n) for n in range(1, earlier + 1)]
    bad = make.trade(earlier + 1, price)

    out = quality()([*before, bad, make.trade(earlier + 2)])

    reject = out[earlier]
    assert rules(out) == ["trade"] * earlier + ["price", "trade"]
    assert reject.event is bad
    assert price in reject.evidence
    assert (reject.venue, reject.symbol, reject.channel) == ("v", "BTC/USDT", "trades")
    assert (reject.ts, reject.recv) == (bad.ts, bad.recv)
    assert counters == {"reject.price": 1}


@pytest.mark.parametrize("size", ["0", "-1", "NaN", "sNaN", "Infinity"])
def test_a_size_must_be_a_number_above_zero(quality, make, size):
    out = quality()([make.trade(1), make.trade(2, size=size), make.trade(3)])

    assert rules(out) == ["trade", "size", "trade"]
    assert size in out[1].evidence


def test_a_nan_never_becomes_the_reference(quality, make):
    stage = quality(off=["price", "size"])
    batch = [
        make.trade(1, "NaN"),
        make.trade(2, "sNaN", "NaN"),
        make.trade(3),
        make.trade(4, "200"),
    ]

    assert rules(stage(batch)) == ["trade", "trade", "trade", "jump"]


def test_an_id_already_received_is_a_duplicate(quality, make):
    out = quality()([make.trade(n, at=at) for n, at in ((7, 0), (8, 1), (8, 1), (7, 0), (9, 2))])

    assert rules(out) == ["trade", "trade", "duplicate", "duplicate", "trade"]
    assert "8" in out[2].evidence


def test_a_duplicate_is_the_second_one_even_if_it_is_the_same_object(quality, make):
    first, second = make.trade(1), make.trade(2)

    out = quality()([first, first, second])

    assert out[0] is first
    assert rules(out) == ["trade", "duplicate", "trade"]


def test_a_gap_in_the_ids_is_reported_before_the_trade_after_it(quality, make, counters):
    after = make.trade(15, at=30)
    out = quality()([make.trade(10, at=20), after])

    gap = out[1]
    assert rules(out) == ["trade", "gap", "trade"]
    assert gap == Gap(
        "v", "BTC/USDT", after.ts, after.recv, out[0].ts, after.ts,
        "sequence", 4, "unrecoverable", "trades", 10, 15,
    )  # fmt: skip
    assert counters == {"missing": 4}


def test_a_late_trade_with_a_missing_id_passes_once(quality, make):
    stage = quality()
    stage([make.trade(1, at=0), make.trade(5, at=10_000)])

    late = [make.trade(n, "500", at=1) for n in (3, 2, 4, 3)]
    out = stage([*late, make.trade(6, at=10_001)])

    assert rules(out) == ["trade", "trade", "trade", "duplicate", "trade"]


def test_a_trade_from_before_the_first_is_late_not_a_duplicate(quality, make):
    out = quality()([make.trade(n, at=0) for n in (5, 3, 4, 4, 3, 6)])

    assert rules(out) == ["trade", "trade", "trade", "duplicate", "duplicate", "trade"]


def test_ids_of_rejected_trades_are_not_missing(quality, make):
    out = quality()([make.trade(1), make.trade(2, "0"), make.trade(3), make.trade(3, "0")])

    assert rules(out) == ["trade", "price", "trade", "price"]


def test_a_trade_rejected_upstream_advances_the_ids(quality, make):
    fund = make.trade(2)
    reject = Reject("v", "BTC/USDT", fund.ts, fund.recv, "insurance_fund", "X", fund, "trades")
    other = Reject("", "", 0, 0, "unreadable_frame", "{")
    batch = [make.trade(1), reject, other, make.trade(3)]

    assert quality()(batch) is batch


def test_a_gap_before_a_trade_rejected_upstream_is_reported(quality, make):
    fund = make.trade(5)
    reject = Reject("v", "BTC/USDT", fund.ts, fund.recv, "insurance_fund", "X", fund, "trades")

    out = quality()([make.trade(1), reject, make.trade(6)])

    assert rules(out) == ["trade", "gap", "insurance_fund", "trade"]
    assert out[1].missing == 3


def test_each_gap_in_the_ids_is_reported_whatever_gaps_came_before(quality, make):
    one, two = make.trade(1, at=0), make.trade(2, at=50)
    ended = Gap("v", "BTC/USDT", two.ts, 0, one.ts, two.ts, "disconnect", 0, "filled", "trades")

    out = quality()([one, ended, two, ended, make.trade(4, at=60), make.trade(8, at=70)])

    assert rules(out) == ["trade", "gap", "trade", "gap", "gap", "trade", "gap", "trade"]


def test_a_missing_trade_is_late_when_it_arrives(quality, make):
    one, two = make.trade(1, at=0), make.trade(5, at=5000)

    out = quality()([one, two, make.trade(3, at=10), make.trade(3, at=10)])

    assert rules(out) == ["trade", "gap", "trade", "trade", "duplicate"]


@pytest.mark.parametrize("origin", ["backfill", "history"])
def test_replayed_trades_fill_gaps_and_do_not_change_the_live_ids(quality, make, origin):
    stage = quality()
    stage([make.trade(10, at=0), make.trade(14, at=60_000)])

    old = [make.trade(n, "50", at=-99_000, origin=origin) for n in (1, 2, 11, 12, 12, 13, 14, 30)]
    out = stage([*old, make.trade(15, at=60_001)])

    assert rules(out) == ["trade"] * 4 + ["duplicate", "trade", "duplicate", "trade", "trade"]


def test_live_trades_already_received_as_history_are_duplicates(quality, make):
    history = [make.trade(n, at=n, origin="history") for n in range(1, 6)]
    live = [make.trade(n, at=n) for n in range(4, 9)]

    assert rules(quality()([*history, *live])) == ["trade"] * 5 + ["duplicate"] * 2 + ["trade"] * 3


def test_old_history_before_the_first_live_trade_is_not_a_gap(quality, make):
    batch = [make.trade(1, at=-9, origin="history"), make.trade(900, at=0), make.trade(901, at=1)]

    assert quality()(batch) is batch


def test_text_ids_are_remembered_individually(quality, make, counters):
    out = quality()([make.trade(n) for n in ("b", "a", "b", "", "", "c", "a")])

    assert rules(out) == ["trade", "trade", "duplicate", "trade", "trade", "trade", "duplicate"]
    assert "'b'" in out[2].evidence
    assert counters == {"reject.duplicate": 2}


def test_at_least_4096_text_ids_are_remembered_but_not_all(quality, make):
    stage = quality()
    stage([make.trade(f"{n}") for n in range(20_000)])

    out = stage([make.trade("15904"), make.trade("0")])

    assert rules(out) == ["duplicate", "trade"]


def test_restarted_ids_do_not_block_the_symbol(quality, make):
    stage = quality()
    stage([make.trade(n, at=n) for n in range(1000, 1010)])

    out = stage([make.trade(n, at=2000 + n) for n in range(1, 8)])

    assert rules(out) == ["order", "order"] + ["trade"] * 5
    assert stage([make.trade(5, at=2005)])[0].rule == "duplicate"


def test_replayed_trades_do_not_restart_the_ids(quality, make):
    stage = quality()
    trades = [make.trade(n, at=n) for n in range(50)]
    stage(trades)

    assert set(rules(stage(trades))) == {"duplicate"}


def test_a_single_wrong_id_causes_no_reject_of_a_good_trade(quality, make):
    stage = quality()
    ids = [1, 2, 10**9, 3, 4, 5, 6, 7, 9, 10]

    out = stage([make.trade(n, at=at) for at, n in enumerate(ids)])

    assert [event.id for event in out if type(event) is Trade] == ids
    assert [event.missing for event in out if type(event) is Gap] == [10**9 - 3, 1]


def test_time_may_run_back_within_the_tolerance_only(quality, make):
    out = quality(max_backwards="1s")(
        [
            make.trade(1, at=5000),
            make.trade(2, at=4000),
            make.trade(3, at=3999),
            make.trade(4, at=5000),
        ]
    )

    assert rules(out) == ["trade", "trade", "backwards", "trade"]
    assert "1.001 s" in out[2].evidence


def test_a_clock_that_was_set_back_does_not_block_the_symbol(quality, make):
    out = quality()([make.trade(n, at=at) for n, at in enumerate([90_000, 0, 1, 2, 3, 4], 1)])

    assert rules(out) == ["trade", "backwards", "backwards", "trade", "trade", "trade"]


def test_a_single_future_time_rejects_fewer_good_trades_than_confirmations(quality, make):
    times = [0, 1, 10**7, 2, 3, 4, 5]

    out = quality()([make.trade(n, at=at) for n, at in enumerate(times, 1)])

    assert rules(out)[3:] == ["backwards", "backwards", "trade", "trade"]


def test_time_from_the_future_is_rejected_where_a_limit_is_set(quality, make):
    batch = [make.trade(1, at=2000, recv=0), make.trade(2, at=3001, recv=1000)]

    assert quality()(batch) is batch
    assert rules(quality(max_ahead="2s")(batch)) == ["trade", "ahead"]


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        ("price", {"price": "0"}),
        ("size", {"size": "0"}),
        ("duplicate", {"id": 1}),
        ("backwards", {"at": -2000}),
        ("ahead", {"at": 9000, "recv": 0}),
        ("jump", {"price": "200"}),
    ],
)
def test_a_rule_that_is_off_rejects_nothing(quality, make, rule, fields):
    batch = [make.trade(1), make.trade(**({"id": 2} | fields)), make.trade(3)]
    strict = rules(quality(max_ahead="1s")(batch))
    lax = rules(quality(max_ahead="1s", off=(rule,))(batch))

    assert rule in strict
    assert rule not in lax


def test_the_sequence_rule_can_be_off(quality, make):
    batch = [make.trade(1), make.trade(9)]

    assert quality(off=("sequence",))(batch) is batch


def test_types_that_are_not_named_are_not_checked(quality, make):
    batch = [make.trade(1, "-1"), make.trade(1), make.quote("2", "1")]

    assert rules(quality(types=("quote",))(batch)) == ["trade", "trade", "crossed"]


def test_each_symbol_and_channel_is_checked_independently(quality, make):
    pairs = [("BTC/USDT", "trades"), ("ETH/USDT", "trades"), ("BTC/USDT", "aggtrades")]
    batch = [
        make.trade(
            k * 100 + n, 10 ** (2 * k), at=(3 - k) * 10_000 + n, symbol=symbol, channel=channel
        )
        for n in range(5)
        for k, (symbol, channel) in enumerate(pairs)
    ]

    assert quality()(batch) is batch


def test_two_stages_share_nothing(quality, make):
    batch = [make.trade(n) for n in (1, 2, 3)]

    assert quality()(batch) is batch
    assert quality()(batch) is batch


def test_the_output_of_one_stage_passes_another(quality, make):
    first = quality()(
        [make.trade(n, p) for n, p in ((1, "1"), (2, "0"), (3, "2"), (4, "1"), (4, "1"))]
    )

    assert quality()(first) is first


def test_only_64_ranges_of_missing_ids_are_kept(quality, make):
    stage = quality()
    stage([make.trade(n * 10) for n in range(1, 200)])

    out = stage([make.trade(15), make.trade(1985)])

    assert rules(out) == ["duplicate", "trade"]


def test_a_trade_of_an_old_gap_that_is_fetched_late_is_delivered(quality, make):
    stage = quality()
    stage([make.trade(n * 10) for n in range(1, 200)])

    out = stage([make.trade(15, origin="backfill"), make.trade(1991, origin="backfill")])
    again = stage([make.trade(20), make.trade(1990, origin="backfill")])

    assert rules(out) == ["trade", "trade"]
    assert rules(again) == ["duplicate", "duplicate"]


def test_a_hostile_decimal_context_changes_nothing(quality, make):
    batch = [make.trade(1, "100.123456789"), make.trade(2, "107.123"), make.trade(3, "150.5")]
    with localcontext(Context(prec=1, traps=[Inexact])):
        out = quality()(batch)

    assert rules(out) == ["trade", "trade", "jump"]
    assert isinstance(out[0].price, Decimal)


# ------------------------------------------------------------------------- times ahead of our clock

HOUR = 3_600_000


def test_a_time_of_the_future_is_rejected_by_default(quality, make):
    batch = [
        make.trade(1, at=5000),
        make.trade(2, at=5000 + HOUR, recv=5001),
        make.trade(3, at=5002),
    ]

    assert rules(quality()(batch)) == ["trade", "ahead", "trade"]


def test_a_time_of_the_future_is_rejected_in_the_first_event_too(quality, make):
    stage = quality()

    assert rules(stage([make.trade(1, at=5000 + HOUR, recv=5000)])) == ["ahead"]
    assert rules(stage([make.trade(2, at=5001, recv=5001)])) == ["trade"]


@pytest.mark.parametrize("text_ids", [False, True])
def test_a_clock_of_the_venue_that_was_set_is_followed_once_many_agree(quality, make, text_ids):
    def trade(n, **fields):
        return make.trade(f"x{n}" if text_ids else n, at=5000 + n + jump, recv=5000 + n, **fields)

    stage, jump = quality(), 0
    usual = [event for n in range(1, 30) for event in stage([trade(n)])]
    jump = HOUR
    after = [event for n in range(30, 60) for event in stage([trade(n)])]

    assert set(rules(usual)) == {"trade"}
    assert rules(after)[:20] == ["ahead"] * 19 + ["trade"]
    assert set(rules(after)[20:]) == {"trade"}


@pytest.mark.parametrize("batched", [False, True])
def test_many_times_of_the_future_are_not_followed_while_others_are_right(quality, make, batched):
    trades = []
    for n in range(1, 100, 2):
        trades.append(make.trade(n, at=5000 + n, recv=5000 + n))
        trades.append(make.trade(n + 1, at=5000 + n + HOUR, recv=5000 + n))
    stage = quality()
    out = stage(trades) if batched else [event for one in trades for event in stage([one])]

    assert rules(out) == ["trade", "ahead"] * 50
