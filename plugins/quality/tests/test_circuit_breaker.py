"""The circuit breaker on jumps: it stops a wrong price, and never a market that has moved."""

import pytest
from tapeloom.plugin import TradeBatch


def rules(events):
    return [getattr(event, "rule", event.type) for event in events]


def prices(make, *texts, step=1, **more):
    return [make.trade(n, text, at=n * step, **more) for n, text in enumerate(texts, 1)]


def test_one_wrong_price_is_rejected_with_its_evidence(quality, make, counters):
    out = quality()(prices(make, "100", "1000", "101", "99"))

    assert rules(out) == ["trade", "jump", "trade", "trade"]
    assert out[1].evidence == "price 1000 is +900 % from 100, more than 10 %; 1 of 3 agree"
    assert counters == {"reject.jump": 1}


def test_a_real_move_of_15_percent_is_accepted(quality, make):
    """The guide's own check rejects every bar after such a move, for good."""
    out = quality()(prices(make, "100", "115", "115.1", "114.9", "116", "115", "100"))

    assert rules(out) == ["trade", "jump", "jump", "trade", "trade", "trade", "jump"]


def test_a_slow_market_is_accepted_after_confirm_after(quality, make):
    out = quality(confirmations=100)(prices(make, "100", "115", "115", "116", "117", step=2500))

    assert rules(out) == ["trade", "jump", "jump", "trade", "trade"]


def test_prices_that_never_agree_are_accepted_after_confirm_after(quality, make):
    wild = ["100" if n % 2 else "200" for n in range(40)]
    out = rules(quality(confirm_after="1s")(prices(make, "10", *wild, step=100)))

    assert out[:11] == ["trade"] + ["jump"] * 10
    assert out[11] == "trade"
    assert "trade" in out[12:]


def test_prices_that_disagree_do_not_confirm_each_other(quality, make):
    out = quality()(prices(make, "100", "150", "200", "250", "300", "301", "302"))

    assert rules(out) == ["trade"] + ["jump"] * 5 + ["trade"]


def test_a_good_price_between_closes_the_breaker(quality, make):
    out = quality()(prices(make, "100", "150", "150", "100", "150", "150", "100"))

    assert rules(out) == ["trade", "jump", "jump", "trade", "jump", "jump", "trade"]


def test_the_same_decimal_object_closes_the_breaker_too(quality, make):
    """A parser gives a price that has not moved as the object that it was."""
    trades = prices(make, "100", "100", "150", "150", "100", "150", "150", "150")
    for trade in trades:
        if trade.price == 100:
            trade.price = trades[0].price
    stage = quality()
    out = [event for trade in trades for event in stage(TradeBatch([trade], [0]))]

    assert rules(out) == ["trade", "trade", "jump", "jump", "trade", "jump", "jump", "trade"]


@pytest.mark.parametrize(
    ("price", "verdict"), [("110", "trade"), ("110.01", "jump"), ("90", "trade"), ("89.99", "jump")]
)
def test_the_limit_itself_is_allowed(quality, make, price, verdict):
    assert rules(quality()(prices(make, "100", price)))[1] == verdict


def test_a_price_may_drift_any_way_in_small_steps(quality, make):
    drift = [f"{100 * 1.02**n:.4f}" for n in range(100)]
    batch = prices(make, *drift, *reversed(drift))

    assert quality()(batch) is batch


def test_confirmations_of_one_accepts_at_once(quality, make):
    batch = prices(make, "100", "200", "50")

    assert quality(confirmations=1)(batch) is batch


def test_max_jump_is_a_setting(quality, make):
    out = quality(max_jump="1%")(prices(make, "100", "101.5"))

    assert out[1].evidence.endswith("more than 1 %; 1 of 3 agree")


def test_a_jump_in_one_symbol_does_not_open_another(quality, make):
    a = prices(make, "100", "200", "100")
    b = prices(make, "9", "9.1", "9.2", symbol="ETH/USDT")
    mixed = [event for pair in zip(a, b, strict=True) for event in pair]

    assert rules(quality()(mixed)) == ["trade", "trade", "jump", "trade", "trade", "trade"]


def test_a_late_trade_is_not_compared_with_the_current_price(quality, make):
    stage = quality()
    stage([make.trade(1, "100", at=0), make.trade(3, "100", at=10_000)])

    out = stage([make.trade(2, "200", at=1), make.trade(4, "105", at=10_001)])

    assert rules(out) == ["trade", "trade"]


def test_jumps_of_quotes_are_measured_at_the_mid_price(quality, make):
    batch = [make.quote("99", "101", 0), make.quote("150", "151", 1), make.quote("99", "102", 2)]

    out = quality()(batch)

    assert rules(out) == ["quote", "jump", "quote"]


def test_jumps_of_bars_are_measured_at_the_close_and_accepted(quality, make):
    before, after = "100 110 90 100", "100 130 90 115"
    batch = [make.bar(text, at=n * 60_000) for n, text in enumerate([before, after, after, after])]

    assert rules(quality()(batch)) == ["bar", "jump", "bar", "bar"]
    assert rules(quality(confirm_after="1h")(batch)) == ["bar", "jump", "jump", "bar"]


def test_jumps_of_tickers_are_measured_at_last(quality, make):
    batch = [make.ticker("100"), make.ticker("50", "100 110 40", at=1), make.ticker("101", at=2)]

    assert rules(quality()(batch)) == ["ticker", "jump", "ticker"]


def test_a_late_bar_is_neither_compared_nor_made_the_reference(quality, make):
    stage = quality()
    stage([make.bar("100 110 90 100", at=0), make.bar("100 200 90 105", at=60_000)])

    late = make.bar("100 200 90 200", at=0)
    after = make.bar("100 200 90 200", at=60_001)

    assert rules(stage([late, after])) == ["bar", "jump"]
