"""Subscription requests are encoded, and replies are decoded."""

from __future__ import annotations

import json

import pytest
import tapeloom_binance
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.plugin import Ack, Notice, Refusal, Subscription, Unrequested

PERP = "BTC/USDT:USDT"


def streams(codec, *subscriptions: tuple[str, str]) -> list[str]:
    messages = codec.encode_subscribe([Subscription(*pair) for pair in subscriptions], 1)
    return [name for message in messages for name in json.loads(message.text)["params"]]


def test_every_channel_has_its_stream(make) -> None:
    spot = tapeloom_binance.subscribe(make())
    channels = ("trades", "agg_trades", "book", "book:5", "quotes", "klines:1M", "ticker")

    assert streams(spot, *(("BTC/USDT", channel) for channel in channels)) == [
        "btcusdt@trade",
        "btcusdt@aggTrade",
        "btcusdt@depth@100ms",
        "btcusdt@depth5@100ms",
        "btcusdt@bookTicker",
        "btcusdt@kline_1M",
        "btcusdt@ticker",
    ]


@pytest.mark.parametrize(
    ("market", "speed", "wanted"),
    [
        ("spot", "1000ms", ["x@depth", "x@depth20"]),
        ("usdm", "250ms", ["x@depth", "x@depth20"]),
        ("usdm", "500ms", ["x@depth@500ms", "x@depth20@500ms"]),
    ],
)
def test_a_book_is_requested_at_the_configured_speed(make, market, speed, wanted) -> None:
    symbol = {"spot": "BTC/USDT", "usdm": PERP}[market]
    codec = tapeloom_binance.subscribe(make(market, (symbol,), depth_speed=speed))
    stream_names = streams(codec, (symbol, "book"), (symbol, "book:20"))

    assert stream_names == [stream.replace("x@", "btcusdt@") for stream in wanted]


def test_trades_of_futures_are_aggregates_unless_raw_ones_are_configured(make) -> None:
    default = tapeloom_binance.subscribe(make("usdm", (PERP,)))
    raw = tapeloom_binance.subscribe(make("usdm", (PERP,), futures_trades="raw"))

    assert streams(default, (PERP, "trades")) == ["btcusdt@aggTrade"]
    assert streams(raw, (PERP, "trades"), (PERP, "agg_trades")) == [
        "btcusdt@trade",
        "btcusdt@aggTrade",
    ]


def test_the_name_that_the_venue_lists_is_used(make) -> None:
    feed = make(symbols=("LUNA/USDT",))
    feed.listing.add("LUNA/USDT", "LUNA2USDT")

    assert streams(tapeloom_binance.subscribe(feed), ("LUNA/USDT", "trades")) == ["luna2usdt@trade"]


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 450), first=st.integers(1, 1_000_000))
def test_many_subscriptions_take_few_messages_and_none_is_lost(make, count, first) -> None:
    codec = tapeloom_binance.subscribe(make())
    wanted = [Subscription(f"C{n}/USDT", "book:20") for n in range(count)]
    messages = codec.encode_subscribe(wanted, first)
    sent = [json.loads(message.text) for message in messages]

    assert [
        subscription for message in messages for subscription in message.subscriptions
    ] == wanted
    assert [name for request in sent for name in request["params"]] == [
        f"c{n}usdt@depth20@100ms" for n in range(count)
    ]
    assert (
        [request["id"] for request in sent]
        == [m.id for m in messages]
        == [*range(first, first + len(sent))]
    )
    assert len(messages) == -(-count // 100)
    assert all(len(message.text.encode()) < 4096 for message in messages)


def test_unsubscribe_requests_name_the_streams(make) -> None:
    codec = tapeloom_binance.subscribe(make())
    (message,) = codec.encode_unsubscribe([Subscription("BTC/USDT", "quotes")], 3)

    assert json.loads(message.text) == {
        "method": "UNSUBSCRIBE",
        "params": ["btcusdt@bookTicker"],
        "id": 3,
    }


@pytest.mark.parametrize(
    ("frame", "reply"),
    [
        ('{"result":null,"id":1}', Ack(1)),
        ('{"id":"a7","result":null}', Ack("a7")),
        (
            '{"code":2,"msg":"Invalid request: unknown variant SUBSCRIB"}',
            Refusal("Invalid request: unknown variant SUBSCRIB (code 2)"),
        ),
        ('{"code":0,"msg":"Unknown property","id":4}', Refusal("Unknown property (code 0)", 4)),
        ('{"error":{"code":3,"msg":"Invalid JSON"},"id":null}', Refusal("Invalid JSON (code 3)")),
        (
            '{"error":{"code":-1003,"msg":"Too many requests"},"id":2}',
            Refusal("Too many requests (code -1003)", 2, permanent=False),
        ),
        ('{"result":["btcusdt@trade"],"id":3}', Notice("answer", "['btcusdt@trade'] to message 3")),
        ('{"result":true,"id":6}', Notice("answer", "True to message 6")),
        (
            '{"e":"serverShutdown","E":1770123456789}',
            Notice("serverShutdown", closes_connection=True),
        ),
        (
            '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
            Notice("serverShutdown", closes_connection=True),
        ),
        ('{"e":"newEvent","E":1}', None),
        ('{"result":null,"id":', None),
        ("[]", None),
        ("", None),
        ("{}", None),
    ],
)
def test_each_reply_is_decoded(make, frame, reply) -> None:
    assert tapeloom_binance.subscribe(make()).decode_reply(frame.encode()) == reply


@settings(max_examples=100, deadline=None)
@given(frame=st.binary(max_size=80))
def test_garbage_is_not_a_reply(make, frame) -> None:
    assert tapeloom_binance.subscribe(make()).decode_reply(frame) is None


def test_deeply_nested_json_is_not_a_reply(make) -> None:
    assert tapeloom_binance.subscribe(make()).decode_reply(b'{"result":' + b"[" * 100_000) is None


CONTRACT_INFO = {
    "e": "contractInfo", "E": 1669647330375, "s": "APTUSD_PERP", "ps": "APTUSD",
    "ct": "PERPETUAL", "dt": 4133404800000, "ot": 1666594800000, "cs": "TRADING", "st": 2,
}  # fmt: skip
EQUITY_UPDATE = {"e": "EquityUpdate", "E": 1791285203779, "S": "PRE_MARKET", "id": {"a": 1}}


@pytest.mark.parametrize(
    ("stream", "data"),
    [("!contractInfo", CONTRACT_INFO), ("tradingSession", EQUITY_UPDATE), ("!bracket", [])],
)
def test_a_stream_of_no_symbol_is_unrequested(make, stream, data) -> None:
    frame = json.dumps({"stream": stream, "data": data}).encode()

    assert tapeloom_binance.subscribe(make()).decode_reply(frame) == Unrequested(stream)


@pytest.mark.parametrize(
    "text", ['{"stream":"btcusdt@trade","data":{}}', '{"stream":"!contractInfo"}', "{}", "[]"]
)
def test_broken_market_data_is_not_unrequested(make, text) -> None:
    assert tapeloom_binance.subscribe(make()).decode_reply(text.encode()) is None
