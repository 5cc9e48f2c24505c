"""Every recorded message of the stream and of REST is parsed."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import msgspec
import tapeloom_alpaca
from tapeloom.events import Bar, Quote, Reject, Status, Trade
from tapeloom.plugin import Ack, Frames, Notice, Request, Subscription
from tapeloom_alpaca.wire import BarMessage, QuoteMessage, TradeMessage

STREAMED = ("trades", "quotes", "klines:1m", "klines:1d", "x-statuses", "x-lulds")


def frames(path: Path) -> Frames:
    return Frames([json.loads(line)["frame"].encode() for line in path.read_text().splitlines()], 7)


def test_every_example_of_the_documentation_becomes_an_event(captures, make) -> None:
    symbols = ("AAPL", "AMD", "SPY", "EEM", "GOOGL", "IONM")
    feed = make(symbols=tuple(f"{name}/USD" for name in symbols), channels=STREAMED)
    events = tapeloom_alpaca.parse(feed)(frames(captures / "docs_message_examples.ws.jsonl"))

    assert [type(event) for event in events] == [Trade, Quote, Bar, *[Status] * 4]
    assert [event.state for event in events[3:]] == [
        "trade_corrected", "trade_cancelled", "price_band", "trading_status",
    ]  # fmt: skip
    assert feed.counters == {"unsupported": 1}  # the imbalance of an auction


def test_a_recorded_session_of_the_test_stream_is_parsed(captures, make) -> None:
    feed = make(symbols=("FAKEPACA/USD",), channels=("quotes", "klines:1m"), feed="test")
    codec = tapeloom_alpaca.subscribe(feed)
    recorded = frames(captures / "docs_transcript_test_stream.ws.jsonl")
    replies = [codec.decode_reply(frame) for frame in recorded[:3]]
    events = tapeloom_alpaca.parse(feed)(Frames(recorded[3:], 7))

    assert replies == [
        Notice("connected"),
        Ack("login"),
        Ack(
            subscriptions=(
                Subscription("FAKEPACA/USD", "quotes"),
                Subscription("FAKEPACA/USD", "klines:1m"),
            )
        ),
    ]
    assert [type(event) for event in events] == [Quote, Quote, Bar]
    assert events[0].ts == 1_721_807_813_639_713_735
    assert events[2].vwap == Decimal("133.7")


def test_every_rest_answer_is_parsed(captures, make) -> None:
    kinds = ("bars", "trades", "quotes")
    read: dict[str, int] = {}
    for path in sorted(captures.glob("go.rest.*.json")):
        body = path.read_bytes()
        shape = json.loads(body)
        kind = (
            next((kind for kind in kinds if kind in shape), None) if type(shape) is dict else None
        )
        if kind is None:
            continue
        symbols = tuple(f"{name}/USD" for name in shape[kind]) or ("AAPL/USD",)
        request = Request(url=f"https://any.example/v2/stocks/{kind}?timeframe=15Min")
        events = tapeloom_alpaca.history(make(symbols=symbols)).read_answer(request, body, 7)
        expected = sum(
            len(items) if isinstance(items, list) else 1 for items in shape[kind].values()
        )
        # Prices in another currency are no prices of SYMBOL/USD.
        assert len(events) == (expected if shape.get("currency", "USD") == "USD" else 0), path.name
        read[path.name] = len(events)

    assert len(read) == 18
    assert sum(read.values()) == 25


def test_withdrawn_past_trades_are_rejected(captures, make) -> None:
    body = (captures / "go.rest.GetTrades_Update_1.json").read_bytes()
    history = tapeloom_alpaca.history(make(symbols=("A/USD",)))
    events = history.read_answer(Request(url="https://any.example/v2/stocks/trades"), body, 7)

    assert [(type(event), event.rule) for event in events] == [(Reject, "trade_void")] * 2


def test_the_parts_of_a_snapshot_are_decoded_by_the_message_structs(captures) -> None:
    shape = json.loads((captures / "go.rest.Snapshot_1.json").read_bytes())["AAPL"]
    classes = {"latestTrade": TradeMessage, "latestQuote": QuoteMessage}

    for name, item in shape.items():
        message = msgspec.json.decode(json.dumps(item), type=classes.get(name, BarMessage))
        assert message.t == item["t"]
