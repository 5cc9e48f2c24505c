"""Mistakes that newcomers make are found by ``tapeloom check``, and its remedies name what exists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from tapeloom._runtime.rate_limits import RateLimit
from tapeloom.cli._main import main
from tapeloom.plugin import Listing
from tapeloom.symbols import Instrument
from tapeloom.units import Rate
from tapeloom_testing import VirtualClock

Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Check:
    """Check a stack of one feed; return the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(venue: str = "binance", more: str = "", **feed: list[str]) -> tuple[int, str]:
        keys = {"symbols": ["BTC/USDT"], "channels": ["trades"], **feed}
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        text = "\n".join(["[[feed]]", f'venue = "{venue}"', *lines, more, ""])
        Path("stack.toml").write_text(text)
        code = main(["check", "stack.toml"])
        structlog.reset_defaults()
        return code, "".join(capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("feed", "problem"),
    [
        (
            {"channels": ["quotes"], "stages": ["bars"]},
            "line 4: feed[0].channels: the stage 'bars' would do nothing: it uses events of the type trade. Add 'trades' or 'agg_trades' to the channels.",
        ),
        (
            {"stages": ["books"]},
            "line 4: feed[0].channels: the stage 'books' would do nothing: it uses events of the type book. Add 'book' to the channels.",
        ),
        (
            {"stages": ["bars", "quality"]},
            "line 5: feed[0].stages: 'bars' stands before 'quality', and would use each trade before it is checked. Write stages = [\"quality\", \"bars\"].",
        ),
        (
            {"channels": ["book"], "stages": ["books", "quality"]},
            "line 5: feed[0].stages: 'books' stands before 'quality', and would use each book before it is checked.",
        ),
        (
            {"channels": ["candles:1m"]},
            "line 4: feed[0].channels[0]: 'candles:1m' is not a channel. Did you mean 'klines:1m'?",
        ),
        ({"channels": ["ohlcv"]}, "'ohlcv' is not a channel. Did you mean 'klines:1m'?"),
        ({"channels": ["depth"]}, "'depth' is not a channel. Did you mean 'book'?"),
        ({"channels": ["bookTicker"]}, "'bookTicker' is not a channel. Did you mean 'quotes'?"),
        (
            {"symbols": ["AAPL"]},
            "line 3: feed[0].symbols[0]: 'AAPL' is not a unified symbol. The currency of its price is missing: write 'AAPL/USD' if that is the US dollar.",
        ),
    ],
)
def test_a_stack_that_cannot_work_is_refused_with_the_remedy(
    check: Check, feed: dict[str, list[str]], problem: str
) -> None:
    code, printed = check(**feed)

    assert code == 2
    assert problem in printed
    assert "nothing is wrong" not in printed


@pytest.mark.parametrize("channel", ["klines:1m", "book", "quotes"])
def test_a_channel_that_is_proposed_exists(check: Check, channel: str) -> None:
    code, printed = check(channels=[channel])

    assert (code, printed.splitlines()[-1]) == (0, "nothing is wrong with it")


def test_a_jump_above_100_percent_has_to_be_written_as_such(check: Check) -> None:
    code, printed = check(stages=["quality"], more="[stage.quality]\nmax_jump = 10")

    assert code == 2
    assert "line 7: stage.quality.max_jump: 10 is 1000%. Write '10%', or '1000%' if" in printed
    assert check(stages=["quality"], more='[stage.quality]\nmax_jump = "1000%"')[0] == 0


def test_an_unknown_plugin_is_no_name_of_a_package(check: Check) -> None:
    code, printed = check("deribitt")

    assert code == 2
    assert "no plugin named 'deribitt' is installed. Install the package that has it;" in printed
    assert "pip install" not in printed


def test_a_start_that_takes_minutes_says_how_long_and_why(check: Check) -> None:
    symbols = [f"A{number}/USDT" for number in range(600)]
    code, printed = check(symbols=symbols, channels=["book"], stages=["books"])

    assert code == 0
    assert (
        "the start takes at least 300 s until each book is complete: 601 requests of the weight"
        " 30,020 in all, and api.binance.com allows 6,000 in 60 s." in printed
    )
    assert "the start takes" not in check(symbols=symbols[:50], channels=["book"])[1]


@pytest.mark.parametrize(
    ("symbol", "hint"),
    [
        ("AAPL/USD", ""),  # and not 'AAVE/USDT', which is something else
        ("BTC/USD", " Did you mean 'BTC/USDT'?"),
        ("ETHH/USDT", " Did you mean 'ETH/USDT'?"),
    ],
)
def test_a_symbol_that_a_venue_does_not_list_is_compared_with_what_it_lists(
    symbol: str, hint: str
) -> None:
    listing = Listing()
    bases = ["AAVE", "BTC", "ETH", "SOL"]
    listing.update(
        Instrument(f"{base}/USDT", f"{base}USDT", "spot", base, "USDT") for base in bases
    )

    assert listing.problem(symbol) == f"does not list {symbol!r}.{hint}"


async def test_that_long_does_the_rate_limit_take() -> None:
    """The listing weighs 20, and each of 600 snapshots 50."""
    async with VirtualClock().running() as clock:
        limit = RateLimit(Rate(6000, 60.0), clock)
        for weight in [20, *[50] * 600]:
            await limit.acquire(weight)

    assert clock.monotonic() == pytest.approx(300, rel=0.01)
