"""Repeated trades are dropped, rejected, or marked as history or backfill."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tapeloom_hyperliquid
from tapeloom.events import Reject, Trade
from tapeloom.plugin import Frames


def frame(channel: str, data: Any) -> bytes:
    return json.dumps({"channel": channel, "data": data}).encode()


def batch(*tids: int, coin: str = "BTC") -> bytes:
    """Return a batch of trades whose times are their ids."""
    rest = {"side": "B", "px": "1", "sz": "2", "hash": "0x0", "users": []}
    return frame("trades", [{"coin": coin, "time": tid, "tid": tid, **rest} for tid in tids])


def answer(coin: str = "BTC", method: str = "subscribe") -> bytes:
    about = {"type": "trades", "coin": coin}
    return frame("subscriptionResponse", {"method": method, "subscription": about})


def origins(feed, *frames: bytes) -> list[tuple[str, str]]:
    """Return the id of every trade and where it comes from, or the rule that rejected it."""
    found = []
    for event in tapeloom_hyperliquid.parse(feed)(Frames(frames, 7)):
        if type(event) is Trade:
            found.append((event.id, event.origin))
        elif type(event) is Reject and event.event is not None:
            found.append((event.event.id, event.rule))
    return found


def test_the_first_batch_after_the_first_ack_is_history(make) -> None:
    assert origins(make(), answer(), batch(1, 2), batch(3), batch(4, 5)) == [
        ("1", "history"),
        ("2", "history"),
        ("3", "live"),
        ("4", "live"),
        ("5", "live"),
    ]


def test_the_first_batch_of_a_recording_without_acks_is_history(make) -> None:
    assert origins(make(), batch(1, 2), batch(3)) == [
        ("1", "history"),
        ("2", "history"),
        ("3", "live"),
    ]


def test_after_a_reconnect_known_trades_are_dropped_and_missed_ones_are_backfill(make) -> None:
    feed = make()
    frames = [answer(), batch(1, 2), batch(3), answer(), batch(1, 2, 3, 4, 5), batch(6)]

    assert origins(feed, *frames)[3:] == [("4", "backfill"), ("5", "backfill"), ("6", "live")]
    assert feed.counters["repeated_trades"] == 3


def test_trades_before_the_first_subscription_are_history_after_a_reconnect_too(make) -> None:
    frames = [answer(), batch(3, 4), batch(6), answer(), batch(1, 2, 3, 4, 5, 6, 7)]

    assert origins(make(), *frames)[3:] == [
        ("1", "history"),
        ("2", "history"),
        ("5", "backfill"),
        ("7", "backfill"),
    ]


def test_a_batch_of_past_trades_is_sorted_by_time(make) -> None:
    assert origins(make(), answer(), batch(3, 1, 2)) == [(n, "history") for n in "123"]


def test_a_batch_before_its_ack_is_history_and_the_next_is_live(make) -> None:
    assert origins(make(), batch(1, 2), answer(), batch(3)) == [
        ("1", "history"),
        ("2", "history"),
        ("3", "live"),
    ]


def test_a_batch_of_known_and_new_trades_belongs_to_a_late_ack(make) -> None:
    feed = make()
    frames = [answer(), batch(1), batch(2), batch(1, 2, 3), answer(), batch(4)]

    assert origins(feed, *frames)[2:] == [("3", "backfill"), ("4", "live")]
    assert feed.counters["repeated_trades"] == 2


def test_a_repeated_block_is_rejected(make) -> None:
    assert origins(make(), answer(), batch(1), batch(2, 3), batch(2, 3), batch(4))[3:] == [
        ("2", "duplicate"),
        ("3", "duplicate"),
        ("4", "live"),
    ]


def test_a_trade_is_identified_by_time_and_id(make) -> None:
    """The venue's key is time, coin and id."""
    later = batch(2).replace(b'"time": 2', b'"time": 9')

    assert origins(make(), answer(), batch(1), batch(2), later)[1:] == [
        ("2", "live"),
        ("2", "live"),
    ]


def test_a_coin_without_past_trades_is_live_from_its_first_trade(make) -> None:
    """An empty batch names no coin: it is that of the one that waits."""
    assert origins(make(), answer(), batch(), batch(1)) == [("1", "live")]


def test_an_empty_batch_is_assigned_once_the_other_coins_have_sent_theirs(make) -> None:
    symbols = ("BTC/USDC:USDC", "ETH/USDC:USDC")
    frames = [answer(), answer("ETH"), batch(), batch(1), batch(2, coin="ETH"), batch(3)]

    assert origins(make(symbols=symbols), *frames) == [
        ("1", "history"),
        ("2", "live"),
        ("3", "live"),
    ]


def test_an_empty_batch_without_a_pending_coin_is_ignored(make) -> None:
    symbols = ("BTC/USDC:USDC", "ETH/USDC:USDC")
    frames = [batch(), answer(), answer("ETH"), batch(1), batch(2, coin="ETH")]

    assert origins(make(symbols=symbols), *frames) == [("1", "history"), ("2", "history")]


def test_an_empty_batch_counts_for_its_own_connection_only(make) -> None:
    symbols = ("BTC/USDC:USDC", "ETH/USDC:USDC")
    both = [answer(), answer("ETH"), batch()]
    frames = [*both, *both, batch(1), batch(2, coin="ETH")]

    assert origins(make(symbols=symbols), *frames) == [("1", "history"), ("2", "live")]


def test_trades_are_remembered_over_a_resubscription(make) -> None:
    frames = [answer(), batch(1), batch(2), answer(method="unsubscribe"), answer(), batch(1, 2, 5)]

    assert origins(make(), *frames)[2:] == [("5", "backfill")]


def test_trades_of_a_removed_symbol_are_forgotten(make) -> None:
    feed = make()
    parse = tapeloom_hyperliquid.parse(feed)
    parse(Frames([answer(), batch(1), batch(2)]))
    feed.listing.remove("BTC/USDC:USDC")
    parse(Frames([answer(method="unsubscribe")]))
    feed.listing.add("BTC/USDC:USDC", "BTC")
    events = parse(Frames([answer(), batch(2, 5)]))

    assert [(e.id, e.origin) for e in events if type(e) is Trade] == [
        ("2", "history"),
        ("5", "history"),
    ]


def test_the_memory_is_bounded_and_keeps_the_set_number_of_trades(make) -> None:
    feed = make(remembered_trades=100)
    frames = [answer(), *(batch(n) for n in range(1, 1001)), batch(901), batch(1)]
    parse = tapeloom_hyperliquid.parse(feed)
    events = parse(Frames(frames, 7))
    seen = parse._dedup._seen["BTC"]

    assert [type(event) for event in events[-2:]] == [Reject, Trade]
    assert len(seen.recent) + len(seen.older) <= 201


def test_missed_trades_are_backfill_also_if_the_venues_clock_was_set_back(make) -> None:
    """Their times lie before the first subscription, but no trade after them was known."""
    frames = answer(), batch(101, 102), batch(103), answer(), batch(4, 5)
    found = origins(make(), *frames)

    assert found[-2:] == [("4", "backfill"), ("5", "backfill")]


@pytest.mark.parametrize("newest_first", [False, True])
def test_past_trades_keep_their_order_where_the_venues_clock_was_set_back(
    make, newest_first: bool
) -> None:
    """Trade 9 was made before 6: in between the clock was set back."""
    order = [2, 3, 7, 8, 9, 6, 7_1, 8_1]
    past = order[::-1] if newest_first else order
    frames = answer(), batch(1, 2), batch(3), answer(), batch(*past)
    found = [trade_id for trade_id, origin in origins(make(), *frames) if origin == "backfill"]

    assert found == ["7", "8", "9", "6", "71", "81"]
