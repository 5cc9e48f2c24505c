"""Subscription requests are encoded, and replies are decoded."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tapeloom_bybit
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.plugin import Ack, Notice, Pong, Refusal, Subscription, Unrequested

PERP = "BTC/USDT:USDT"


def topics(codec: Any, *pairs: tuple[str, str]) -> list[list[str]]:
    messages = codec.encode_subscribe([Subscription(*pair) for pair in pairs], 1)
    return [json.loads(message.text)["args"] for message in messages]


def reply_frame(text: str, success: bool = False, **more: Any) -> bytes:
    return json.dumps({"success": success, "ret_msg": text, "op": "subscribe"} | more).encode()


@pytest.mark.parametrize("market", ["spot", "linear"])
def test_every_channel_has_its_topic(make, market) -> None:
    feed = make(market)
    channels = ("trades", "quotes", "book", "book:1", "book:50", "klines:1h", "klines:1M", "ticker")
    codec = tapeloom_bybit.subscribe(feed)
    heads = ("publicTrade", "orderbook.1", "orderbook.1000", "orderbook.1", "orderbook.50")
    wanted = [f"{head}.BTCUSDT" for head in (*heads, "kline.60", "kline.M", "tickers")]

    assert topics(codec, *((feed.symbols[0], channel) for channel in channels)) == [wanted]


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

    assert [
        subscription for message in messages for subscription in message.subscriptions
    ] == wanted
    assert [name for request in sent for name in request["args"]] == [
        f"orderbook.50.C{n}USDT" for n in range(count)
    ]
    assert [message.id for message in messages] == [*range(first, first + len(messages))]
    assert [request["req_id"] for request in sent] == [
        f"{message.id}-{len(message.subscriptions)}" for message in messages
    ]
    assert len(messages) == -(-count // 10)
    assert {request["op"] for request in sent} <= {"subscribe"}


def test_five_hundred_of_the_longest_topics_fit_on_a_connection(make) -> None:
    codec = tapeloom_bybit.subscribe(make("linear"))
    (endpoint,) = tapeloom_bybit.connect(make("linear"))
    subscriptions = [Subscription("1000000BABYDOGE/USDT:USDT", "book")] * endpoint.max_subscriptions
    # Equal subscriptions become one topic, so the text of one topic is multiplied.
    (message,) = codec.encode_subscribe(subscriptions, 1)
    (topic,) = json.loads(message.text)["args"]

    assert len(f'"{topic}",') * endpoint.max_subscriptions <= 21_000


def test_unsubscribe_requests_name_the_topics(make) -> None:
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
        (reply_frame("subscribe", True, req_id="7-10"), Ack(7)),
        (reply_frame("", True, req_id="7-1", conn_id="c"), Ack(7)),
        (reply_frame("", True, req_id="8-1", op="unsubscribe"), Ack(8)),
        (
            reply_frame("", True, req_id=""),
            Notice("subscribe", "was acknowledged without the id of a request"),
        ),
        (reply_frame("pong", True, op="ping"), Pong()),
        (b'{"op":"pong","args":["1672916271846"],"conn_id":"c"}', Pong()),
        (
            reply_frame("error:handler not found,topic:x", req_id="3-1"),
            Refusal("error:handler not found,topic:x", 3),
        ),
        (reply_frame("error:already subscribed,topic:publicTrade.BTCUSDT", req_id="3-1"), Ack(3)),
        (
            reply_frame("Too many visits!", req_id="3-1", retCode=10006),
            Refusal("Too many visits!", 3, permanent=False),
        ),
        (reply_frame("", req_id="3-1", retCode=10016), Refusal("code 10016", 3, permanent=False)),
        (
            reply_frame("Request timeout", req_id="3-1"),
            Refusal("Request timeout", 3, permanent=False),
        ),
        (
            b'{"retCode":10001,"retMsg":"?","op":"subscribe","req_id":"3-1"}',
            Refusal("code 10001", 3),
        ),
        (reply_frame("", True, req_id="9" * 5000), None),
        (b'{"topic":"system.status","data":[]}', None),
        (b'{"op":"subscribe"}', None),
        (b"{}", None),
        (b"[]", None),
        (b"", None),
        (b'{"success":' + b"[" * 100_000, None),
    ],
)
def test_each_reply_is_decoded(make, frame, reply) -> None:
    assert tapeloom_bybit.subscribe(make()).decode_reply(frame) == reply


def test_a_topic_refused_in_a_batch_is_requested_separately_before_it_is_refused_permanently(
    make,
) -> None:
    codec = tapeloom_bybit.subscribe(make())
    subscriptions = [("BTC/USDT", "trades"), ("BAD/USDT", "trades"), ("ETH/USDT", "trades")]
    reason = "Invalid symbol :[publicTrade.BADUSDT]"
    first_requests = topics(codec, *subscriptions)
    first = codec.decode_reply(reply_frame(reason, req_id="1-3"))
    second_requests = topics(codec, *subscriptions)
    second = codec.decode_reply(reply_frame(reason, req_id="3-1"))

    assert len(first_requests) == 1
    assert first == Refusal(reason, 1, permanent=False)
    assert second_requests == [
        ["publicTrade.BTCUSDT", "publicTrade.ETHUSDT"],
        ["publicTrade.BADUSDT"],
    ]
    assert second == Refusal(reason, 3, permanent=True)


def test_after_a_refusal_without_a_topic_every_topic_is_requested_separately(make) -> None:
    codec = tapeloom_bybit.subscribe(make())
    subscriptions = [("BTC/USDT", "trades"), ("ETH/USDT", "trades")]
    first = codec.decode_reply(reply_frame("Params Error", req_id="1-2"))
    second_requests = topics(codec, *subscriptions)

    assert first == Refusal("Params Error", 1, permanent=False)
    assert second_requests == [["publicTrade.BTCUSDT"], ["publicTrade.ETHUSDT"]]
    assert codec.decode_reply(reply_frame("Params Error", req_id="3-1")) == Refusal(
        "Params Error", 3
    )


def test_a_refusal_without_an_id_refers_to_the_oldest_request(make) -> None:
    codec = tapeloom_bybit.subscribe(make())
    reason = "Invalid symbol :[orderbook.50.NOSUCHSYM]"
    first, second = (codec.decode_reply(reply_frame(reason)) for _ in range(2))

    assert first == Refusal(reason, permanent=False, oldest_pending=True)
    assert second == Refusal(reason, permanent=True, oldest_pending=True)


def test_an_already_subscribed_topic_is_acknowledged(make) -> None:
    codec = tapeloom_bybit.subscribe(make())
    twice = "error:already subscribed,topic:publicTrade.BTCUSDT"
    first = codec.decode_reply(reply_frame(twice, req_id="1-2"))

    assert first == Refusal(twice, 1, permanent=False)
    assert codec.decode_reply(reply_frame(twice, req_id="3-1")) == Ack(3)


@settings(max_examples=100, deadline=None)
@given(frame=st.binary(max_size=80))
def test_garbage_is_not_a_reply(make, frame) -> None:
    assert tapeloom_bybit.subscribe(make()).decode_reply(frame) is None


def test_an_operation_that_is_no_reply_is_unrequested(make) -> None:
    codec = tapeloom_bybit.subscribe(make())

    assert codec.decode_reply(b'{"op":"system.notice","data":[]}') == Unrequested("system.notice")
    assert codec.decode_reply(b'{"topic":"publicTrade.BTCUSDT","data":5}') is None
