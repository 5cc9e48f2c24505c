"""Frames of every kind, and garbage between them, are parsed into events."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
import tapeloom_hyperliquid
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.events import Book, Quote, Reject, Ticker, Trade
from tapeloom.plugin import Frames

PERP, MS = "BTC/USDC:USDC", 1_000_000
ALL = ("trades", "quotes", "book:20", "book:5", "klines:1m", "ticker")


def frame(channel: str, data: Any) -> bytes:
    return json.dumps({"channel": channel, "data": data}, separators=(",", ":")).encode()


def fill(tid: int = 981894269203506, time: int = 8, **more: Any) -> dict[str, Any]:
    return {
        "coin": "BTC", "side": "A", "px": "68517.0", "sz": "0.005", "time": time,
        "hash": "0x00", "tid": tid, "users": ["0xbuyer", "0xseller"],
    } | more  # fmt: skip


def side(*levels: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"px": px, "sz": sz, "n": 4} for px, sz in levels]


def book(time: int = 8, levels: int = 20, **more: Any) -> dict[str, Any]:
    bids = side(*((f"{100 - n}.0", "0.97139") for n in range(levels)))
    asks = side(*((f"{101 + n}", "1.50") for n in range(levels)))
    return {"coin": "BTC", "time": time, "levels": [bids, asks]} | more


def parsed(feed, *frames: bytes, recv: int = 7) -> list[Any]:
    return tapeloom_hyperliquid.parse(feed)(Frames(frames, recv))


def test_side_b_is_a_buy_and_side_a_a_sell(make) -> None:
    feed = make()
    sold, bought = parsed(
        feed, frame("trades", [fill()]), frame("trades", [fill(7, side="B", px="0.10")])
    )

    assert sold == Trade(
        "hyperliquid", PERP, 8 * MS, 7, Decimal("68517.0"), Decimal("0.005"), "sell",
        "981894269203506", "trades", "history",
    )  # fmt: skip
    assert (bought.side, bought.id, bought.origin, str(bought.price)) == (
        "buy",
        "7",
        "live",
        "0.10",
    )


def test_an_unknown_side_is_rejected(make) -> None:
    (reject,) = parsed(make(), frame("trades", [fill(side="C")]))

    assert reject.rule == "unreadable_frame"


def test_an_empty_batch_gives_no_event(make) -> None:
    assert parsed(make(), frame("trades", [])) == []


@pytest.mark.parametrize(
    ("channels", "data", "channel", "depth"),
    [
        (("book:20",), book(), "book:20", 20),
        (("book:20", "book:5"), book(), "book:20", 20),
        (("book:20", "book:5"), book(levels=5, fast=True), "book:5", 5),
        (("book:20", "book:5"), book(fast=False), "book:20", 20),
        (("book:5",), book(levels=5), "book:5", 5),
        (("book:5",), book(), "book:5", 5),
    ],
)
def test_a_book_is_a_snapshot_of_its_channel(make, channels, data, channel, depth) -> None:
    (event,) = parsed(make(channels=channels), frame("l2Book", data))

    assert (event.kind, event.channel, event.depth) == ("snapshot", channel, depth)
    assert (event.ts, event.first_id, event.last_id, event.previous_id) == (
        8 * MS,
        None,
        None,
        None,
    )
    assert event.raw_bids[0] == ("100.0", "0.97139")
    assert event.raw_asks[0] == ("101", "1.50")
    assert len(event.bids) == len(event.asks) == depth


def test_a_book_of_the_other_speed_is_counted_as_unrequested(make) -> None:
    feed = make(channels=("book:20",))

    assert parsed(feed, frame("l2Book", book(fast=True))) == []
    assert feed.counters["unrequested"] == 1


def test_an_older_book_is_rejected_and_one_of_the_same_time_is_not(make) -> None:
    feed = make(channels=("book:20", "book:5"))
    events = parsed(
        feed,
        *(frame("l2Book", book(time)) for time in (8, 9, 7, 9)),
        frame("l2Book", book(6, fast=True)),
    )

    assert [(type(e), e.ts // MS, e.channel) for e in events] == [
        (Book, 8, "book:20"),
        (Book, 9, "book:20"),
        (Reject, 7, "book:20"),
        (Book, 9, "book:20"),
        (Book, 6, "book:5"),
    ]
    assert events[2].rule == "backwards"
    assert events[2].event.ts == 7 * MS


def test_a_new_subscription_resets_the_time_of_a_book(make) -> None:
    about = {"type": "l2Book", "coin": "BTC", "fast": False, "nSigFigs": None, "mantissa": None}
    answer = frame("subscriptionResponse", {"method": "subscribe", "subscription": about})
    feed = make(channels=("book:20",))
    events = parsed(feed, frame("l2Book", book(9)), answer, frame("l2Book", book(7)))

    assert [event.ts // MS for event in events if type(event) is Book] == [9, 7]


def test_an_empty_side_of_a_quote_is_none(make) -> None:
    bid, ask = ({"px": "68674.0", "sz": "0.97", "n": 4}, {"px": "68675.0", "sz": "0.04", "n": 1})
    feed = make(channels=("quotes",))
    frames = [
        frame("bbo", {"coin": "BTC", "time": 8, "bbo": sides})
        for sides in ([bid, ask], [bid, None], [None, ask], [None, None])
    ]
    whole, *halves = parsed(feed, *frames)
    prices = [Decimal(text) for text in ("68674.0", "0.97", "68675.0", "0.04")]

    assert whole == Quote("hyperliquid", PERP, 8 * MS, 7, *prices, None, "quotes")
    assert [(q.bid, q.bid_size, q.ask, q.ask_size) for q in halves] == [
        (*prices[:2], None, None),
        (None, None, *prices[2:]),
        (None, None, None, None),
    ]


CONTEXT = {
    "funding": "0.0000125", "openInterest": "231067.2", "prevDayPx": "4.8744",
    "dayNtlVlm": "387891.57", "premium": None, "oraclePx": "4.9185", "markPx": "4.919",
    "midPx": None, "impactPxs": None, "dayBaseVlm": "79000.1",
}  # fmt: skip
SPOT_CONTEXT = {
    "prevDayPx": "0.20", "dayNtlVlm": "8906.0", "markPx": "0.14", "midPx": "0.1401",
    "circulatingSupply": "596318371.13", "coin": "PURR/USDC",
}  # fmt: skip


def test_a_tickers_last_is_not_the_mark_price_and_it_has_the_figures_of_the_venue(make) -> None:
    feed = make(channels=("ticker",))
    spot = make("spot", ("PURR/USDC",), ("ticker",))
    (perp,) = parsed(feed, frame("activeAssetCtx", {"coin": "BTC", "ctx": CONTEXT}))
    (pair,) = parsed(spot, frame("activeSpotAssetCtx", {"coin": "PURR/USDC", "ctx": SPOT_CONTEXT}))

    def figures(*texts: str | None) -> list[Decimal | None]:
        return [None if text is None else Decimal(text) for text in texts]

    expected = figures(None, "4.8744", None, None, "79000.1", "387891.57")
    assert perp == Ticker("hyperliquid", PERP, 7, 7, *expected, None, "ticker")
    expected = figures(None, "0.20", None, None, None, "8906.0")
    assert pair == Ticker("hyperliquid", "PURR/USDC", 7, 7, *expected, None, "ticker")


def test_native_names_are_case_sensitive(make) -> None:
    feed = make(symbols=("KPEPE/USDC:USDC",))
    events = parsed(
        feed, frame("trades", [fill(coin="KPEPE")]), frame("trades", [fill(coin="kPEPE")])
    )

    assert [event.symbol for event in events] == ["KPEPE/USDC:USDC"]
    assert feed.counters["unrequested"] == 1


def test_unrequested_data_is_counted(make) -> None:
    feed = make()
    frames = [
        frame("trades", [fill(1, coin="ETH"), fill(2, coin="ETH")]),
        frame("l2Book", book()),
        frame("bbo", {"coin": "BTC", "time": 8, "bbo": [None, None]}),
        frame("activeAssetCtx", {"coin": "BTC", "ctx": CONTEXT}),
    ]

    assert parsed(feed, *frames) == []
    assert feed.counters["unrequested"] == 5


def test_a_symbol_that_is_added_later_is_parsed(make) -> None:
    feed = make()
    parse = tapeloom_hyperliquid.parse(feed)
    text = frame("trades", [fill(coin="ETH")])
    before = parse(Frames([text]))
    feed.listing.add("ETH/USDC:USDC", "ETH")

    assert (before, [event.symbol for event in parse(Frames([text]))]) == ([], ["ETH/USDC:USDC"])


def test_key_order_and_whitespace_make_no_difference(make) -> None:
    text = json.dumps({"data": [dict(reversed(fill().items()))], "channel": "trades"}, indent=2)

    assert parsed(make(), text.encode()) == parsed(make(), frame("trades", [fill()]))


# ------------------------------------------------------------------------------------ many at once

CANDLE = {
    "t": 0, "T": 59_999, "s": "BTC", "i": "1m", "o": "1", "c": "2", "h": "3", "l": "0.5",
    "v": "10.0", "n": 4,
}  # fmt: skip
ACK = {"method": "subscribe", "subscription": {"type": "trades", "coin": "BTC"}}


def _good(draw: st.DrawFn) -> bytes:
    time = draw(st.integers(0, 200_000))
    kinds = {
        "trades": lambda: [fill(draw(st.integers(1, 6)), time) for _ in range(draw(st.integers(0, 3)))],
        "l2Book": lambda: book(time, 2, fast=draw(st.booleans())),
        "bbo": lambda: {"coin": "BTC", "time": time, "bbo": [None, None]},
        "candle": lambda: CANDLE | {"t": (t := time // 60_000 * 60_000), "T": t + 59_999, "n": time},
        "subscriptionResponse": lambda: ACK,
    }  # fmt: skip
    kind = draw(st.sampled_from(sorted(kinds)))
    return frame(kind, kinds[kind]())


@st.composite
def good_frames(draw: st.DrawFn) -> list[bytes]:
    return [_good(draw) for _ in range(draw(st.integers(1, 25)))]


@settings(max_examples=100, deadline=None)
@given(frames=good_frames(), cuts=st.lists(st.integers(0, 25)))
def test_the_batching_of_frames_makes_no_difference(make, frames, cuts) -> None:
    whole = parsed(make(channels=ALL), *frames)
    parse = tapeloom_hyperliquid.parse(make(channels=ALL))
    ends = sorted({0, len(frames), *(cut for cut in cuts if cut < len(frames))})
    parts = [frames[a:b] for a, b in pairwise(ends)]

    assert [event for part in parts for event in parse(Frames(part, 7))] == whole


GARBAGE = [
    b"", b"{", b"null", b"[]", b"\xff\xfe", b"upstream connect error", b"[" * 50_000,
    b'{"channel":"trades"}', b'{"channel":"trades","data":[{}]}', b'{"channel":"bbo","data":null}',
    b'{"channel":"l2Book","data":{"coin":"BTC","time":1,"levels":[[]]}}',
    b'{"channel":"candle","data":{"t":1}}', b'{"channel":["trades"],"data":[]}',
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(frames=good_frames(), odd=st.lists(st.sampled_from(GARBAGE) | st.binary(max_size=30)))
def test_garbage_is_rejected_and_valid_frames_are_parsed(make, frames, odd) -> None:
    clean = parsed(make(channels=ALL), *frames)
    mixed = [frame_ for pair in zip(frames, odd, strict=False) for frame_ in pair]
    mixed += frames[len(odd) :]
    events = parsed(make(channels=ALL), *mixed)
    bad = sum(getattr(event, "rule", "") == "unreadable_frame" for event in events)
    noted = sum(getattr(event, "rule", "") == "unreadable_frame" for event in clean)

    assert bad - noted == min(len(odd), len(frames))
    assert [e for e in events if getattr(e, "rule", "") != "unreadable_frame"] == [
        e for e in clean if getattr(e, "rule", "") != "unreadable_frame"
    ]
