"""What was: trades as Arrow, and bars in TradingView's protocol, from bounded memory."""

from __future__ import annotations

from decimal import Decimal

import httpx
import pytest
from tapeloom import Bar
from tapeloom_serve.selection import EVERYTHING
from tapeloom_serve.window import Window

MINUTE = 60_000_000_000


def bar(n, symbol="BTC/USDT", interval="1m", close="2"):
    prices = [Decimal(text) for text in ("1", "3", "0.5", close)]
    return Bar("venue", symbol, n * MINUTE, 0, interval, *prices, Decimal(7), None, None, None, 1)


def add(window, *events):
    by_key = {}
    for index, event in enumerate(events):
        by_key.setdefault((event.type, event.venue, event.symbol, event.channel), []).append(index)
    window.add(events, by_key)


def test_the_newest_trades_and_bars_are_kept_and_no_more(make_trade):
    window = Window(10)
    for n in range(100):
        add(window, make_trade(n), bar(n, "A/USD"), bar(n, "B/USD"))

    assert window.trades(EVERYTHING) == [make_trade(n) for n in range(90, 100)]
    kept = [len(window.candles(("venue", symbol, "1m"))) for symbol in ("A/USD", "B/USD")]
    assert kept == [25, 25]


def test_a_bar_that_comes_again_replaces_itself():
    window = Window(10)
    add(window, bar(1, close="2"), bar(2), bar(1, close="2.5"))

    assert [candle.close for candle in window.candles(("venue", "BTC/USDT", "1m"))] == [2.5, 2.0]


def get(served, path, **query):
    return httpx.get(f"http://{served.address}{path}", params=query, timeout=60)


def test_trades_are_served_as_arrow(served, make_trade):
    pa = pytest.importorskip("pyarrow")
    columns = pytest.importorskip("tapeloom_columns")
    served.publish(make_trade(1, "A/USD"), make_trade(2, "B/USD"), make_trade(3, "A/USD"))

    answer = get(served, "/trades.arrow", symbol="A/USD")

    table = pa.ipc.open_stream(answer.content).read_all()
    assert columns.to_events(table) == [make_trade(1, "A/USD"), make_trade(3, "A/USD")]
    assert answer.headers["tapeloom-refused"] == "0"
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    assert get(served, "/trades.arrow", symbol="C/USD").content == b""


def test_a_chart_gets_its_symbols_and_bars(served):
    served.publish(*[bar(n) for n in range(10)], bar(1, "ETH/USDT", "4h"))
    name = "venue:BTC/USDT"

    assert get(served, "/udf/config").json()["supported_resolutions"] == ["1", "240"]
    found = get(served, "/udf/search", query="btc", limit="30").json()
    assert [item["full_name"] for item in found] == [name]
    assert get(served, "/udf/symbols", symbol=name).json()["supported_resolutions"] == ["1"]
    assert get(served, "/udf/symbols", symbol="nothing").status_code == 404
    assert get(served, "/udf/time").text.isdigit()
    query = {"symbol": name, "resolution": "1"}
    part = get(served, "/udf/history", **query, **{"from": 120, "to": 300}).json()
    assert part == {
        "s": "ok", "t": [120, 180, 240], "o": [1.0] * 3, "h": [3.0] * 3, "l": [0.5] * 3,
        "c": [2.0] * 3, "v": [7.0] * 3,
    }  # fmt: skip
    last = get(served, "/udf/history", **query, **{"from": 0, "to": 600, "countback": 2}).json()
    assert last["t"] == [480, 540]
    assert get(served, "/udf/history", **query, **{"from": 900, "to": 990}).json() == {
        "s": "no_data"
    }


@pytest.mark.parametrize(
    "query",
    [
        {"symbol": "venue:X/USD", "resolution": "1"},
        {"symbol": "venue:BTC/USDT", "resolution": "7"},
        {"symbol": "venue:BTC/USDT", "resolution": "1", "from": "x"},
        {"symbol": "venue:BTC/USDT", "resolution": "1", "to": "9" * 40},
    ],
)
def test_a_wrong_question_of_a_chart_is_answered_in_words(served, query):
    served.publish(bar(1))

    answer = get(served, "/udf/history", **query)

    assert (answer.status_code, answer.json()["s"]) == (400, "error")
