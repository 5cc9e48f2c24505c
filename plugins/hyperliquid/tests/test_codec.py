"""Subscribe messages are encoded, and replies decoded."""

from __future__ import annotations

import json

import pytest
import tapeloom_hyperliquid
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom.plugin import Ack, Notice, Pong, Refusal, Subscription, Unrequested

PERP = "BTC/USDC:USDC"
ALL = ("trades", "quotes", "book:20", "book:5", "klines:1M", "ticker")


def subscriptions(*channels: str, symbol: str = PERP) -> list[Subscription]:
    return [Subscription(symbol, channel) for channel in channels]


def test_every_subscription_is_a_message_with_an_id(make) -> None:
    codec = tapeloom_hyperliquid.subscribe(make(channels=ALL))
    messages = codec.encode_subscribe(subscriptions(*ALL), 4)

    assert [message.id for message in messages] == [4, 5, 6, 7, 8, 9]
    assert [message.subscriptions for message in messages] == [(s,) for s in subscriptions(*ALL)]
    assert [json.loads(message.text) for message in messages] == [
        {"method": "subscribe", "subscription": about}
        for about in (
            {"type": "trades", "coin": "BTC"},
            {"type": "bbo", "coin": "BTC"},
            {"type": "l2Book", "coin": "BTC", "fast": False},
            {"type": "l2Book", "coin": "BTC", "fast": True},
            {"type": "candle", "coin": "BTC", "interval": "1M"},
            {"type": "activeAssetCtx", "coin": "BTC"},
        )
    ]


def test_unsubscribe_messages_repeat_the_subscriptions(make) -> None:
    codec = tapeloom_hyperliquid.subscribe(make(channels=ALL))
    added, dropped = (
        ask(subscriptions(*ALL), 1) for ask in (codec.encode_subscribe, codec.encode_unsubscribe)
    )

    assert [m.text.replace("unsubscribe", "subscribe") for m in dropped] == [m.text for m in added]
    assert all('"method":"unsubscribe"' in message.text for message in dropped)


def test_the_listed_name_of_a_symbol_is_used(make) -> None:
    feed = make("spot", ("BTC/USDC",))
    feed.listing.add("BTC/USDC", "@142")
    (message,) = tapeloom_hyperliquid.subscribe(feed).encode_subscribe(
        [Subscription("BTC/USDC", "trades")], 1
    )

    assert json.loads(message.text)["subscription"]["coin"] == "@142"


def acknowledged(about: dict[str, object], method: str = "subscribe") -> bytes:
    data = {"method": method, "subscription": about}
    return json.dumps({"channel": "subscriptionResponse", "data": data}).encode()


@pytest.mark.parametrize("method", ["subscribe", "unsubscribe"])
def test_an_ack_is_matched_by_its_subscription(make, method) -> None:
    codec = tapeloom_hyperliquid.subscribe(make(channels=ALL))
    more = {"nSigFigs": None, "mantissa": None}
    for about, channel in (
        ({"type": "trades", "coin": "BTC"}, "trades"),
        ({"type": "bbo", "coin": "BTC"}, "quotes"),
        ({"type": "l2Book", "coin": "BTC", "fast": False, **more}, "book:20"),
        ({"type": "l2Book", "coin": "BTC", "fast": True, **more}, "book:5"),
        ({"type": "candle", "coin": "BTC", "interval": "1M"}, "klines:1M"),
        ({"type": "activeAssetCtx", "coin": "BTC"}, "ticker"),
    ):
        reply = codec.decode_reply(acknowledged(about, method))
        assert reply == Ack(subscriptions=(Subscription(PERP, channel),))


@pytest.mark.parametrize("channel", ["book:5", "book:20"])
def test_an_ack_without_fast_is_for_the_feeds_book_channel(make, channel) -> None:
    codec = tapeloom_hyperliquid.subscribe(make(channels=("trades", channel)))
    reply = codec.decode_reply(acknowledged({"type": "l2Book", "coin": "BTC", "nSigFigs": None}))

    assert reply == Ack(subscriptions=(Subscription(PERP, channel),))


@pytest.mark.parametrize(
    "about",
    [
        {"type": "trades", "coin": "ETH"},
        {"type": "bbo", "coin": "BTC"},
        {"type": "candle", "coin": "BTC", "interval": "5m"},
        {"type": "userFills", "user": "0x0"},
    ],
)
def test_an_ack_of_a_foreign_subscription_names_none(make, about) -> None:
    codec = tapeloom_hyperliquid.subscribe(make(channels=("trades", "klines:1m")))

    assert codec.decode_reply(acknowledged(about)) == Ack()


ABOUT = '{"type":"trades","coin":"BTC"}'
OURS = (Subscription(PERP, "trades"),)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (f"Already subscribed: {ABOUT}", Ack(subscriptions=OURS)),
        (f"Already unsubscribed: {ABOUT}", Ack(subscriptions=OURS)),
        (
            f"Invalid subscription {ABOUT}",
            Refusal(f"Invalid subscription {ABOUT}", subscriptions=OURS),
        ),
        (
            f'Error parsing JSON into valid websocket request: {{"method":"x","subscription":{ABOUT}}}',
            Refusal(
                'Error parsing JSON into valid websocket request: {"method":"x","subscription":'
                f"{ABOUT}}}",
                subscriptions=OURS,
            ),
        ),
        (
            "Error parsing JSON into valid websocket request: {",
            Refusal("Error parsing JSON into valid websocket request: {", oldest_pending=True),
        ),
        (
            "Cannot track more than 1000 total subscriptions.",
            Refusal(
                "Cannot track more than 1000 total subscriptions.",
                permanent=False,
                oldest_pending=True,
            ),
        ),
    ],
)
def test_an_error_is_classified_by_its_first_words(make, text, reply) -> None:
    frame = json.dumps({"channel": "error", "data": text}).encode()

    assert tapeloom_hyperliquid.subscribe(make()).decode_reply(frame) == reply


@pytest.mark.parametrize(
    ("frame", "reply"),
    [
        (b'{"channel":"pong"}', Pong()),
        (
            b"Websocket connection established.",
            Notice("greeting", "Websocket connection established."),
        ),
        (b'{"channel":"notification","data":{}}', Unrequested("notification")),
        (b'{"channel":"error","data":{}}', None),
        (b'{"channel":"error"}', None),
        (b'{"channel":"subscriptionResponse"}', None),
        (b'{"channel":7}', None),
        (b"[]", None),
        (b"", None),
        (b'{"channel":' + b"[" * 100_000, None),
    ],
)
def test_control_frames_are_decoded(make, frame, reply) -> None:
    assert tapeloom_hyperliquid.subscribe(make()).decode_reply(frame) == reply


@settings(max_examples=100, deadline=None)
@given(frame=st.binary(max_size=80))
def test_garbage_is_not_a_reply(make, frame) -> None:
    reply = tapeloom_hyperliquid.subscribe(make()).decode_reply(frame)

    assert reply is None or frame.startswith(b"Websocket connection established")


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_an_error_with_any_text_is_a_refusal_or_an_ack(make, text) -> None:
    frame = json.dumps({"channel": "error", "data": text}).encode()

    assert isinstance(tapeloom_hyperliquid.subscribe(make()).decode_reply(frame), Refusal | Ack)


@pytest.mark.parametrize(
    "text",
    [
        '{"channel":"allMids","data":{"mids":{"BTC":"84143.5","@107":"92.945"}}}',
        '{"channel":"userFills","data":{"isSnapshot":true,"user":"0x1","fills":[]}}',
        '{"channel":"notification","data":{"notification":"hello"}}',
        '{"channel":"fastAssetCtxs"}',
    ],
)
def test_a_channel_that_nobody_asked_for_is_unrequested(make, text) -> None:
    reply = tapeloom_hyperliquid.subscribe(make()).decode_reply(text.encode())

    assert reply == Unrequested(json.loads(text)["channel"])


@pytest.mark.parametrize("text", ['{"channel":"trades","data":5}', '{"channel":{"a":1}}', "{}"])
def test_broken_market_data_is_not_unrequested(make, text) -> None:
    assert tapeloom_hyperliquid.subscribe(make()).decode_reply(text.encode()) is None
