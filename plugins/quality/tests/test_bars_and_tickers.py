"""Bars and tickers: the guide's rules, and what must not trip over them."""

import pytest


def rules(events):
    return [getattr(event, "rule", event.type) for event in events]


@pytest.mark.parametrize(
    ("bar", "rule", "evidence"),
    [
        ("100 90 110 100", "range", "high 90 is below low 110"),
        ("100 110 90 111", "range", "close 111 is outside 90 to 110"),
        ("100 110 90 89", "range", "close 89 is outside 90 to 110"),
        ("111 110 90 100", "range", "open 111 is outside 90 to 110"),
        ("89 110 90 100", "range", "open 89 is outside 90 to 110"),
        ("0 110 0 100", "price", "open 0"),
        ("100 110 -1 100", "price", "low -1"),
        ("100 NaN 90 100", "price", "high NaN"),
        ("100 110 90 sNaN", "price", "close sNaN"),
        ("100 Infinity 90 100", "price", "high Infinity"),
    ],
)
def test_an_invalid_bar_is_rejected(quality, make, bar, rule, evidence):
    out = quality()([make.bar(), make.bar(bar, at=60_000), make.bar(at=120_000)])

    assert rules(out) == ["bar", rule, "bar"]
    assert evidence in out[1].evidence


@pytest.mark.parametrize("bad", ["-1", "NaN", "sNaN", "Infinity"])
def test_volumes_are_numbers_of_zero_or_more(quality, make, bad):
    sums = [f"{bad} 1 1", f"1 {bad} 1", f"1 1 {bad}"]
    batch = [make.bar(volume=bad), *(make.bar(sums=text) for text in sums), make.bar(volume="0")]

    assert rules(quality()(batch)) == ["size"] * 4 + ["bar"]


def test_a_flat_bar_passes(quality, make):
    batch = [make.bar("100 100 100 100", "0", sums="0 0 0", origin="empty")]

    assert quality()(batch) is batch


def test_a_forming_bar_may_be_sent_repeatedly(quality, make):
    forming = [make.bar(f"100 110 90 {100 + n % 5}", origin="live", closed=False) for n in range(9)]
    batch = [*forming, make.bar(origin="live"), make.bar(at=60_000, origin="live", closed=False)]

    assert quality()(batch) is batch


def test_the_final_event_of_a_bar_may_arrive_after_the_first_of_the_next(quality, make):
    batch = [make.bar(at=at, origin="live") for at in (0, 60_000, 0, 60_000, 120_000)]

    assert quality()(batch) is batch


def test_a_bar_from_long_ago_is_rejected(quality, make):
    out = quality()([make.bar(at=600_000), make.bar(at=0), make.bar(at=660_000)])

    assert rules(out) == ["bar", "backwards", "bar"]


def test_bars_pass_again_after_the_clock_was_set_back(quality, make):
    out = quality()([make.bar(at=at * 60_000) for at in (600, 0, 1, 2, 3, 4)])

    assert rules(out) == ["bar", "backwards", "backwards", "bar", "bar", "bar"]


def test_months_have_no_fixed_length_and_pass(quality, make):
    batch = [make.bar(at=at, interval="1M", origin="live") for at in (2_678_400_000, 0)]

    assert quality()(batch) is batch


def test_revisions_and_replayed_bars_are_checked_by_value_only(quality, make):
    cheap = "10 11 9 10"
    batch = [
        make.bar(at=6_000_000),
        make.bar(cheap, at=0, revision=1),
        make.bar(cheap, at=1, origin="backfill"),
        make.bar("10 9 11 10", at=0, revision=2),
        make.bar(at=6_060_000),
    ]

    assert rules(quality()(batch)) == ["bar", "bar", "bar", "range", "bar"]


def test_every_interval_has_its_own_reference(quality, make):
    batch = [make.bar(at=9_000_000, interval="1s"), make.bar("50 50 50 50", at=0, interval="1h")]

    assert quality()(batch) is batch


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"last": "0"}, "price"),
        ({"last": "NaN"}, "price"),
        ({"prices": "100 90 110"}, "range"),
        ({"last": "111"}, "range"),
        ({"prices": "0 110 90"}, "price"),
        ({"volume": "-1"}, "size"),
        ({"volume": "NaN"}, "size"),
    ],
)
def test_an_invalid_ticker_is_rejected(quality, make, fields, rule):
    assert rules(quality()([make.ticker(**fields)])) == [rule]


def test_a_ticker_without_a_trade_in_its_day_passes(quality, make):
    batch = [make.ticker(prices="0 0 0", volume="0")]

    assert quality()(batch) is batch


def test_the_range_rule_can_be_off(quality, make):
    batch = [make.bar("100 90 110 100"), make.ticker("111")]

    assert quality(off=("range",))(batch) is batch


def test_a_ticker_without_a_last_price_is_checked_by_its_other_figures(quality, make):
    check = quality()
    good, bad, late = (make.ticker(at=at) for at in (3_600_000, 3_600_001, 1))
    for ticker in (good, bad, late):
        ticker.last = ticker.high = ticker.low = None
    bad.volume = -bad.volume
    passed, *rejects = check([good, bad, late])

    assert passed is good
    assert rules(rejects) == ["size", "backwards"]
