"""Lines are the same as those of core, and are made once."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Trade, encode
from tapeloom_serve import lines

NAMES = st.text(max_size=12)
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [Decimal("1E-30"), Decimal("1E-999"), Decimal("1E+45"), Decimal("0E-10"), Decimal("5.00")]
)


@given(
    st.builds(
        Trade,
        venue=NAMES,
        symbol=NAMES,
        ts=st.integers(),
        recv=st.integers(),
        price=NUMBERS,
        size=NUMBERS,
        side=st.sampled_from(["buy", "sell", None]),
        id=st.integers() | NAMES,
        channel=NAMES,
        origin=st.sampled_from(["live", "history", "backfill"]),
    )
)
@settings(deadline=None)
def test_the_line_of_a_trade_is_that_of_core(trade):
    assert lines.line(trade) == encode(trade)


def test_the_line_of_an_event_is_made_once(make_trade, monkeypatch):
    made = []
    monkeypatch.setattr(lines, "line", lambda event: made.append(event) or "line")
    trades = [make_trade(1), make_trade(2)]
    found = lines.Lines(trades)

    texts = [found.of(event) for event in [*trades, *trades]]

    assert (texts, made) == (["line"] * 4, trades)
