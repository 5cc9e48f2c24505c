"""Login and subscribe messages are encoded, and replies decoded; settings and limits."""

from __future__ import annotations

import json

import pytest
import tapeloom_alpaca
from hypothesis import given, settings
from hypothesis import strategies as st
from tapeloom import Secret
from tapeloom.errors import ConfigError, SymbolError
from tapeloom.plugin import Ack, Notice, Refusal, Subscription, Unrequested


def asked(codec, *subscriptions: tuple[str, str]) -> dict[str, object]:
    (message,) = codec.encode_subscribe([Subscription(*message) for message in subscriptions], 5)
    assert message.id == 5
    return json.loads(message.text)


def test_each_channel_of_stocks_has_its_list_and_bars_have_two(make) -> None:
    codec = tapeloom_alpaca.subscribe(make())
    texts = ("trades", "quotes", "klines:1m", "klines:1d", "x-statuses", "x-lulds")

    assert asked(codec, *(("BRK.B/USD", text) for text in texts)) == {
        "action": "subscribe",
        **{
            name: ["BRK.B"]
            for name in (
                "trades",
                "quotes",
                "bars",
                "dailyBars",
                "statuses",
                "lulds",
                "updatedBars",
            )
        },
    }


def test_crypto_symbols_are_unchanged_and_have_books(make) -> None:
    codec = tapeloom_alpaca.subscribe(make("crypto", ("BTC/USD",)))

    assert asked(codec, ("BTC/USD", "book"), ("ETH/BTC", "book"), ("ETH/BTC", "trades")) == {
        "action": "subscribe",
        "orderbooks": ["BTC/USD", "ETH/BTC"],
        "trades": ["ETH/BTC"],
    }


def test_unsubscribe_messages_await_no_reply(make) -> None:
    codec = tapeloom_alpaca.subscribe(make())
    (message,) = codec.encode_unsubscribe([Subscription("AAPL/USD", "klines:1m")], 3)

    assert json.loads(message.text) == {
        "action": "unsubscribe",
        "bars": ["AAPL"],
        "updatedBars": ["AAPL"],
    }
    assert message.id is None


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 4500))
def test_many_subscriptions_take_few_messages_and_none_is_lost(make, count) -> None:
    codec = tapeloom_alpaca.subscribe(make())
    wanted = [Subscription(f"S{n}/USD", "trades") for n in range(count)]
    messages = codec.encode_subscribe(wanted, 1)

    assert [
        subscription for message in messages for subscription in message.subscriptions
    ] == wanted
    assert [name for message in messages for name in json.loads(message.text)["trades"]] == [
        f"S{n}" for n in range(count)
    ]
    assert [message.id for message in messages] == [*range(1, 1 - (-count // 2000))]


def test_a_subscription_set_acknowledges_every_subscription_in_it(make) -> None:
    codec = tapeloom_alpaca.subscribe(make(symbols=("AAPL/USD", "AMD/USD")))
    reply = codec.decode_reply(
        b'[{"T":"subscription","trades":["AAPL","MSFT"],"quotes":["AMD"],"bars":["*"],'
        b'"updatedBars":["AAPL"],"dailyBars":["AAPL"],"corrections":["AAPL"]}]'
    )

    assert reply == Ack(
        subscriptions=(
            Subscription("AAPL/USD", "trades"),
            Subscription("AMD/USD", "quotes"),
            Subscription("AAPL/USD", "klines:1d"),
        )
    )


def passing(text: str, pause: float = 0.0) -> Refusal:
    return Refusal(text, permanent=False, oldest_pending=True, retry_after_seconds=pause)


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ('{"T":"success","msg":"connected"}', Notice("connected")),
        ('{"T":"success","msg":"authenticated"}', Ack("login")),
        (
            '{"T":"error","code":402,"msg":"auth failed"}',
            Refusal("auth failed (code 402): Check key_id and secret_key.", oldest_pending=True),
        ),
        (
            '{"T":"error","code":403,"msg":"already authenticated"}',
            Notice("already_authenticated", "already authenticated (code 403)"),
        ),
        ('{"T":"error","code":404,"msg":"auth timeout"}', passing("auth timeout (code 404)")),
        (
            '{"T":"error","code":405,"msg":"symbol limit exceeded"}',
            Refusal(
                "symbol limit exceeded (code 405): Subscribe to fewer symbols, or use a larger plan.",
                oldest_pending=True,
            ),
        ),
        (
            '{"T":"error","code":406,"msg":"connection limit exceeded"}',
            passing("connection limit exceeded (code 406)", 45.0),
        ),
        (
            '{"T":"error","code":407,"msg":"slow client"}',
            Notice("slow_client", "slow client (code 407)", closes_connection=True),
        ),
        (
            '{"T":"error","code":500,"msg":"internal error"}',
            Notice("internal_error", "internal error (code 500)", closes_connection=True),
        ),
        ('{"T":"error","code":999}', passing("refused (code 999)")),
        ('{"T":"b","S":"AAPL"}', None),
        ('{"msg":"connected"}', None),
        ("", None),
        ('{"T":"success"},{"T":"success"}', None),
    ],
)
def test_each_reply_is_decoded(make, said, reply) -> None:
    codec = tapeloom_alpaca.subscribe(make(slot_pause="45s"))

    assert codec.decode_reply(f"[{said}]".encode()) == reply


@pytest.mark.parametrize("code", [400, 401, 402, 405, 408, 409, 410, 411])
def test_permanent_errors_are_refusals_with_a_remedy(make, code) -> None:
    reply = tapeloom_alpaca.subscribe(make()).decode_reply(
        f'[{{"T":"error","code":{code},"msg":"no"}}]'.encode()
    )

    assert reply.permanent
    assert reply.oldest_pending
    assert reply.reason.startswith(f"no (code {code}): ")


@settings(max_examples=100, deadline=None)
@given(frame=st.binary(max_size=80))
def test_garbage_is_not_a_reply(make, frame) -> None:
    assert tapeloom_alpaca.subscribe(make()).decode_reply(frame) is None


# ------------------------------------------------------------------------------ names and addresses


@pytest.mark.parametrize(
    ("market", "settings_", "url"),
    [
        ("stocks", {}, "wss://stream.data.alpaca.markets/v2/iex"),
        ("", {"feed": "sip"}, "wss://stream.data.alpaca.markets/v2/sip"),
        ("stocks", {"feed": "overnight"}, "wss://stream.data.alpaca.markets/v1beta1/overnight"),
        (
            "stocks",
            {"feed": "test", "sandbox": True},
            "wss://stream.data.sandbox.alpaca.markets/v2/test",
        ),
        ("crypto", {"feed": "sip"}, "wss://stream.data.alpaca.markets/v1beta3/crypto/us"),
        ("crypto", {"base_url": "http://127.0.0.1:1"}, "ws://127.0.0.1:1/v1beta3/crypto/us"),
    ],
)
def test_a_market_has_one_address_and_one_connection(make, market, settings_, url) -> None:
    symbols = ("BTC/USD",) if market == "crypto" else ("AAPL/USD",)
    (endpoint,) = tapeloom_alpaca.connect(make(market, symbols, **settings_))

    assert (endpoint.url, endpoint.max_connections) == (url, 1)
    (login,) = endpoint.opening
    assert json.loads(login.text) == {
        "action": "auth",
        "key": "PKNOTAKEY",
        "secret": "not-a-secret-either",
    }
    assert (login.id, login.is_login) == ("login", True)


@pytest.mark.parametrize(
    ("market", "symbol"),
    [("stocks", "AAPL/EUR"), ("stocks", "AAPL/USD:USD"), ("crypto", "BTC/USDT:USDT")],
)
def test_a_symbol_that_the_market_cannot_have_is_refused(make, market, symbol) -> None:
    with pytest.raises(SymbolError, match="Use one like"):
        make(market, (symbol,))


@pytest.mark.parametrize(
    ("market", "channels", "settings_", "problem"),
    [
        ("stock", ("trades",), {}, "Did you mean 'stocks'"),
        ("stocks", ("book",), {}, "no channel 'book' for stocks"),
        ("crypto", ("x-statuses",), {}, "no channel 'x-statuses' for crypto"),
        ("stocks", ("klines:5m",), {}, "it has trades, quotes, klines:1m, klines:1d"),
        ("stocks", ("x-statuses",), {"mode": "poll"}, "no channel 'x-statuses'"),
        ("stocks", ("trades",), {"mode": "poll", "feed": "test"}, "has no REST"),
    ],
)
def test_an_unknown_market_or_channel_is_a_config_error(
    make, market, channels, settings_, problem
) -> None:
    with pytest.raises(ConfigError, match=problem):
        make(market, channels=channels, **settings_)


def test_a_single_key_is_refused() -> None:
    with pytest.raises(ValueError, match="belong together"):
        tapeloom_alpaca.Settings(key_id=Secret("PKNOTAKEY"))


def test_no_repr_shows_a_key(make) -> None:
    feed = make(symbols=("AAPL/USD",))
    codec, (endpoint,) = tapeloom_alpaca.subscribe(feed), tapeloom_alpaca.connect(feed)
    history = tapeloom_alpaca.history(feed)
    shown = "".join(
        map(repr, (feed, endpoint, codec.__dict__, history.__dict__, history.listing_request()))
    )

    assert "PKNOTAKEY" not in shown
    assert "not-a-secret-either" not in shown


NEWS = {
    "T": "n", "id": 24843171, "headline": "Apple Leader in Phone Sales in China",
    "created_at": "2022-01-05T22:00:37Z", "symbols": ["AAPL"], "trades": 5,
}  # fmt: skip


def test_an_item_of_a_type_that_nobody_asked_for_is_unrequested(make) -> None:
    codec = tapeloom_alpaca.subscribe(make())

    assert codec.decode_reply(json.dumps([NEWS]).encode()) == Unrequested("n")
    assert codec.decode_reply(b'[{"T":"t","S":"AAPL"}]') is None
