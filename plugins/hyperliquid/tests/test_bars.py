"""Bars are closed, revised and marked as complete, although the venue marks none of this."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import tapeloom_hyperliquid
from attrs import evolve
from tapeloom.events import Bar
from tapeloom.plugin import Frames, HistoryQuery

MS, MINUTE = 1_000_000, 60_000
PERP = "BTC/USDC:USDC"


def frame(channel: str, data: Any) -> bytes:
    return json.dumps({"channel": channel, "data": data}).encode()


def candle(minute: int, n: int = 1, coin: str = "BTC", **more: Any) -> dict[str, Any]:
    start = minute * MINUTE
    return {
        "t": start, "T": start + MINUTE - 1, "s": coin, "i": "1m", "o": "71400.0", "c": "71411.0",
        "h": "71422.0", "l": "71389.0", "v": f"{n}.20407", "n": n,
    } | more  # fmt: skip


def push(minute: int, n: int = 1, coin: str = "BTC") -> bytes:
    return frame("candle", candle(minute, n, coin))


def quote(time: int) -> bytes:
    return frame("bbo", {"coin": "BTC", "time": time, "bbo": [None, None]})


def answer(method: str = "subscribe") -> bytes:
    about = {"type": "candle", "coin": "BTC", "interval": "1m"}
    return frame("subscriptionResponse", {"method": method, "subscription": about})


def bars(feed, *frames: bytes) -> list[Bar]:
    events = tapeloom_hyperliquid.parse(feed)(Frames(frames, 7))
    return [event for event in events if type(event) is Bar]


def states(bars_: list[Bar]) -> list[tuple[int, int, bool]]:
    """Return of each bar its minute, its trades, and whether it is closed."""
    return [(bar.ts // MS // MINUTE, bar.trades, bar.closed) for bar in bars_]


@pytest.fixture
def feed(make):
    return make(channels=("klines:1m", "quotes"))


def test_a_bar_has_the_digits_of_the_venue(feed) -> None:
    (bar,) = bars(feed, push(3, 20))
    numbers = [Decimal(t) for t in ("71400.0", "71422.0", "71389.0", "71411.0", "20.20407")]

    assert bar == Bar(
        "hyperliquid", PERP, 3 * MINUTE * MS, 7, "1m", *numbers, None, None, None,
        20, False, True, 0, "klines:1m", "live",
    )  # fmt: skip


@pytest.mark.parametrize("number", [1, "1.00", 1.0])
def test_numbers_may_be_text_or_json_numbers(feed, number) -> None:
    (bar,) = bars(feed, frame("candle", candle(1, o=number)))

    assert bar.open == 1


def test_the_next_bar_closes_the_one_before_once(feed) -> None:
    bars_ = bars(feed, push(1, 1), push(1, 2), push(2, 1), push(3, 1))

    assert states(bars_) == [
        (1, 1, False),
        (1, 2, False),
        (1, 2, True),
        (2, 1, False),
        (2, 1, True),
        (3, 1, False),
    ]
    assert all(bar.complete and not bar.revision for bar in bars_)


def test_an_array_of_bars_is_parsed_like_single_bars(feed, make) -> None:
    together = frame("candle", [candle(1), candle(1, 2), candle(2)])
    other = make(channels=("klines:1m", "quotes"))

    assert bars(feed, together) == bars(other, push(1), push(1, 2), push(2))


def test_the_venues_time_closes_a_bar_without_a_successor(feed) -> None:
    before, after = 2 * MINUTE - 1 + 4_999, 2 * MINUTE - 1 + 5_000
    bars_ = bars(feed, push(1, 3), quote(before), quote(after), quote(after + 1), push(2))

    assert states(bars_) == [(1, 3, False), (1, 3, True), (2, 1, False)]
    assert states(bars(feed, push(1), quote(before))) == [(1, 1, False)]


def test_a_closed_bar_comes_before_the_event_that_made_it_due(feed) -> None:
    events = tapeloom_hyperliquid.parse(feed)(Frames([push(1), quote(3 * MINUTE)], 7))

    assert [event.type for event in events] == ["bar", "bar", "quote"]


def test_the_local_clock_closes_no_bar(feed) -> None:
    parse = tapeloom_hyperliquid.parse(feed)
    parse(Frames([push(1)], 7))
    events = parse(Frames([push(1, 2)], 10**18))

    assert states(events) == [(1, 2, False)]


def test_a_bar_of_another_coin_advances_the_venues_time(make) -> None:
    feed = make(symbols=(PERP, "ETH/USDC:USDC"), channels=("klines:1m",))
    bars_ = bars(feed, push(1), push(1, coin="ETH"), push(3, coin="ETH"))

    assert [(bar.symbol[:3], bar.closed) for bar in bars_] == [
        ("BTC", False),
        ("ETH", False),
        ("ETH", True),
        ("BTC", True),
        ("ETH", False),
    ]


def test_bar_grace_is_a_setting(make) -> None:
    feed = make(channels=("klines:1m", "quotes"), bar_grace="1m")
    over = 2 * MINUTE - 1 + MINUTE

    assert states(bars(feed, push(1), quote(over - 1))) == [(1, 1, False)]
    assert states(bars(feed, push(1), quote(over))) == [(1, 1, False), (1, 1, True)]


def test_a_bar_that_changes_after_its_close_is_a_revision(feed) -> None:
    late = 2 * MINUTE + 10_000
    bars_ = bars(feed, push(1), quote(late), push(1), push(1, 2), push(1, 3), push(2), push(1, 4))
    again = [bar for bar in bars_ if bar.revision]

    assert [(bar.trades, bar.revision, bar.closed) for bar in again] == [
        (2, 1, True),
        (3, 1, True),
        (4, 1, True),
    ]
    assert [bar.trades for bar in bars_ if bar.closed and not bar.revision] == [1]


def wants(feed) -> list[HistoryQuery]:
    asked: list[HistoryQuery] = []
    feed.query_history = asked.append
    return asked


def test_a_bar_interrupted_by_a_reconnect_is_not_complete(feed) -> None:
    bars_ = bars(feed, answer(), push(1, 5), answer(), push(3, 1), push(4, 1))
    closed = [bar for bar in bars_ if bar.closed]

    assert [(bar.ts // MS // MINUTE, bar.complete) for bar in closed] == [(1, False), (3, True)]


def test_a_bar_that_is_sent_again_after_a_reconnect_is_complete(feed) -> None:
    bars_ = bars(feed, push(1, 5), answer("unsubscribe"), answer(), push(1, 9), push(2))

    assert [(bar.trades, bar.complete) for bar in bars_ if bar.closed] == [(9, True)]


@pytest.mark.parametrize("fill", [False, True])
def test_skipped_bars_are_requested_if_fill_bars_is_set(make, fill) -> None:
    feed = make(channels=("klines:1m",), fill_bars=fill)
    asked = wants(feed)
    bars(feed, push(1), push(2), push(5))

    wanted = [HistoryQuery("bars", PERP, "klines:1m", "1m", 3 * MINUTE * MS, 5 * MINUTE * MS)]
    assert asked == (wanted if fill else [])


def test_bars_lost_at_a_reconnect_are_left_to_core(make) -> None:
    feed = make(channels=("klines:1m",), fill_bars=True)
    asked = wants(feed)
    bars(feed, push(1), answer(), push(5))

    assert not asked


def test_bars_of_a_removed_symbol_are_forgotten(feed) -> None:
    parse = tapeloom_hyperliquid.parse(feed)
    parse(Frames([push(1)], 7))
    feed.listing.remove(PERP)
    parse(Frames([answer("unsubscribe")], 7))
    feed.listing.add(PERP, "BTC")
    events = parse(Frames([answer(), push(4)], 7))

    assert states([e for e in events if type(e) is Bar]) == [(4, 1, False)]


def test_bars_of_another_interval_are_counted_as_unrequested(feed) -> None:
    assert bars(feed, frame("candle", candle(1, i="5m")), frame("candle", candle(1, i="9m"))) == []
    assert feed.counters["unrequested"] == 2


def test_a_closed_bar_has_the_fields_of_the_open_one(feed) -> None:
    opened, closed, _ = bars(feed, push(1, 4), push(2))

    assert closed == evolve(opened, closed=True)
