"""What is sent to subscribe, and how the answers are read."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tapeloom_bybit
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.plugin import Ack, Notice, Pong, Refusal, Subscription

PERP = "BTC/USDT:USDT"


def topics(codec: Any, *some: tuple[str, str]) -> list[list[str]]:
    messages = codec.encode_subscribe([Subscription(*each) for each in some], 1)
    return [json.loads(message.text)["args"] for message in messages]


def answer(text: str, success: bool = False, **more: Any) -> bytes:
    return json.dumps({"success": success, "ret_msg": text, "op": "subscribe"} | more).encode()


@pytest.mark.parametrize("market", ["spot", "linear"])
def test_every_channel_has_its_topic(make, market) -> None:
    feed = make(market)
    words = ("trades", "quotes", "book", "book:1", "book:50", "klines:1h", "klines:1M", "ticker")
    codec = tapeloom_bybit.subscribe(feed)
    heads = ("publicTrade", "orderbook.1", "orderbook.1000", "orderbook.1", "orderbook.50")
    wanted = [f"{head}.BTCUSDT" for head in (*heads, "kline.60", "kline.M", "tickers")]

    assert topics(codec, *((feed.symbols[0], word) for word in words)) == [wanted]


def test_the_name_that_the_venue_lists_is_used(make) -> None:
    feed = make("linear")
    feed.listing.add(PERP, "BTCUSDT2")

    assert topics(tapeloom_bybit.subscribe(feed), (PERP, "trades")) == [["publicTrade.BTCUSDT2"]]


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 250), first=st.integers(1, 10**6))
def test_many_subscriptions_go_ten_at_a_time_and_none_is_lost(make, count, first) -> None:
    codec = tapeloom_bybit.subscribe(make())
    wanted = [Subscription(f"C{n}/USDT", "book:50") for n in range(count)]
    messages = codec.encode_subscribe(wanted, first)
    sent = [json.loads(message.text) for message in messages]

    assert [one for message in messages for one in message.subscriptions] == wanted
    assert [name for each in sent for name in each["args"]] == [
        f"orderbook.50.C{n}USDT" for n in range(count)
    ]
    assert [message.id for message in messages] == [*range(first, first + len(messages))]
    assert [each["req_id"] for each in sent] == [
        f"{message.id}-{len(message.subscriptions)}" for message in messages
    ]
    assert len(messages) == -(-count // 10)
    assert {each["op"] for each in sent} <= {"subscribe"}


def test_five_hundred_of_the_longest_topics_fit_on_a_connection(make) -> None:
    codec = tapeloom_bybit.subscribe(make("linear"))
    (endpoint,) = tapeloom_bybit.connect(make("linear"))
    some = [Subscription("1000000BABYDOGE/USDT:USDT", "book")] * endpoint.max_subscriptions
    # The same one over and over is asked for once, so the text of one is counted so often.
    (message,) = codec.encode_subscribe(some, 1)
    (topic,) = json.loads(message.text)["args"]

    assert len(f'"{topic}",') * endpoint.max_subscriptions <= 21_000


def test_dropping_is_unsubscribing(make) -> None:
    (message,) = tapeloom_bybit.subscribe(make()).encode_unsubscribe(
        [Subscription("BTC/USDT", "quotes")], 3
    )

    assert json.loads(message.text) == {
        "req_id": "3-1",
        "op": "unsubscribe",
        "args": ["orderbook.1.BTCUSDT"],
    }


@pytest.mark.parametrize(
    ("frame", "reply"),
    [
        (answer("subscribe", True, req_id="7-10"), Ack(7)),
        (answer("", True, req_id="7-1", conn_id="c"), Ack(7)),
        (answer("", True, req_id="8-1", op="unsubscribe"), Ack(8)),
        (answer("", True, req_id=""), Notice("subscribe", "was agreed to unasked")),
        (answer("pong", True, op="ping"), Pong()),
        (b'{"op":"pong","args":["1672916271846"],"conn_id":"c"}', Pong()),
        (
            answer("error:handler not found,topic:x", req_id="3-1"),
            Refusal("error:handler not found,topic:x", 3),
        ),
        (answer("error:already subscribed,topic:publicTrade.BTCUSDT", req_id="3-1"), Ack(3)),
        (
            answer("Too many visits!", req_id="3-1", retCode=10006),
            Refusal("Too many visits!", 3, permanent=False),
        ),
        (answer("", req_id="3-1", retCode=10016), Refusal("code 10016", 3, permanent=False)),
        (answer("Request timeout", req_id="3-1"), Refusal("Request timeout", 3, permanent=False)),
        (
            b'{"retCode":10001,"retMsg":"?","op":"subscribe","req_id":"3-1"}',
            Refusal("code 10001", 3),
        ),
        (b'{"topic":"system.status","data":[]}', None),
        (b'{"op":"subscribe"}', None),
        (b"{}", None),
        (b"[]", None),
        (b"", None),
        (b'{"success":' + b"[" * 100_000, None),
    ],
)
def test_each_answer_is_read(make, frame, reply) -> None:
    assert tapeloom_bybit.subscribe(make()).decode_reply(frame) == reply


def test_what_was_refused_in_company_is_asked_for_alone_before_it_is_refused_for_good(make) -> None:
    codec = tapeloom_bybit.subscribe(make())
    some = [("BTC/USDT", "trades"), ("BAD/USDT", "trades"), ("ETH/USDT", "trades")]
    reason = "Invalid symbol :[publicTrade.BADUSDT]"
    together = topics(codec, *some)
    first = codec.decode_reply(answer(reason, req_id="1-3"))
    apart = topics(codec, *some)
    second = codec.decode_reply(answer(reason, req_id="3-1"))

    assert len(together) == 1
    assert first == Refusal(reason, 1, permanent=False)
    assert apart == [["publicTrade.BTCUSDT", "publicTrade.ETHUSDT"], ["publicTrade.BADUSDT"]]
    assert second == Refusal(reason, 3, permanent=True)


def test_a_refusal_that_names_no_topic_lets_each_be_asked_for_alone(make) -> None:
    codec = tapeloom_bybit.subscribe(make())
    some = [("BTC/USDT", "trades"), ("ETH/USDT", "trades")]
    first = codec.decode_reply(answer("Params Error", req_id="1-2"))
    apart = topics(codec, *some)

    assert first == Refusal("Params Error", 1, permanent=False)
    assert apart == [["publicTrade.BTCUSDT"], ["publicTrade.ETHUSDT"]]
    assert codec.decode_reply(answer("Params Error", req_id="3-1")) == Refusal("Params Error", 3)


def test_a_refusal_without_a_number_means_the_oldest_request(make) -> None:
    codec = tapeloom_bybit.subscribe(make())
    reason = "Invalid symbol :[orderbook.50.NOSUCHSYM]"
    first, second = (codec.decode_reply(answer(reason)) for _ in range(2))

    assert first == Refusal(reason, permanent=False, oldest_pending=True)
    assert second == Refusal(reason, permanent=True, oldest_pending=True)


def test_what_was_accepted_in_company_after_all_is_agreed_to(make) -> None:
    codec = tapeloom_bybit.subscribe(make())
    twice = "error:already subscribed,topic:publicTrade.BTCUSDT"
    first = codec.decode_reply(answer(twice, req_id="1-2"))

    assert first == Refusal(twice, 1, permanent=False)
    assert codec.decode_reply(answer(twice, req_id="3-1")) == Ack(3)


@settings(max_examples=100, deadline=None)
@given(frame=st.binary(max_size=80))
def test_garbage_is_no_answer(make, frame) -> None:
    assert tapeloom_bybit.subscribe(make()).decode_reply(frame) is None
