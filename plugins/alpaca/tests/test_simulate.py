"""Alpaca's server side sends what the venue's protocol documents.

These tests need the simulator, which is a package of its own.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from decimal import Decimal

import anyio
import httpx
import pytest
import tapeloom_simulator as simulator
from httpx_ws import WebSocketDisconnect, aconnect_ws
from tapeloom_alpaca.times import parse_time

SYMBOLS = ("AAPL/USD", "MSFT/USD", "BTC/USD", "ETH/USD")
KEYS = {"APCA-API-KEY-ID": "PKNOTAKEY", "APCA-API-SECRET-KEY": "no"}
AUTH = {"action": "auth", "key": "PKNOTAKEY", "secret": "no"}
CONNECTED, WELCOME = (
    [{"T": "success", "msg": "connected"}],
    [{"T": "success", "msg": "authenticated"}],
)
CRYPTO = "/v1beta3/crypto/us"


@pytest.fixture
def anyio_backend():
    """Return one event loop: the server itself is tested on both, where it is."""
    return "asyncio"


class Client:
    def __init__(self, ws):
        self.ws, self.texts = ws, []

    async def ask(self, **message):
        """Send a message, and return the answer to it."""
        await self.ws.send_text(json.dumps(message))
        return await self.hear()

    async def hear(self):
        return json.loads(await self.ws.receive_text())

    async def read(self):
        try:
            while True:
                self.texts.append(await self.ws.receive_text())
        except WebSocketDisconnect:
            pass

    def items(self, tag, symbol=""):
        """Return what came of one kind, numbers as they stood."""
        return [
            item
            for text in self.texts
            for item in json.loads(text, parse_float=str, parse_int=str)
            if item["T"] == tag and symbol in ("", item["S"])
        ]


@asynccontextmanager
async def dial(sim, path="/v2/iex", *, auth=AUTH, **headers):
    url = sim.url.replace("http", "ws", 1) + path
    async with (
        httpx.AsyncClient(trust_env=False, verify=False) as http,
        aconnect_ws(url, http, headers=headers, keepalive_ping_interval_seconds=None) as ws,
    ):
        client = Client(ws)
        assert await client.hear() == CONNECTED
        if auth:
            assert await client.ask(**auth) == WELCOME
        yield client


def serve(**options):
    options = {
        "symbols": SYMBOLS, "speed": math.inf, "start": "first_subscription", "rate": 40.0,
        "seed": 2, **options,
    }  # fmt: skip
    return simulator.serve("alpaca", **options)


async def run(sim, *clients):
    """Read until the market has made its last trade, and stop it."""
    async with anyio.create_task_group() as tasks:
        for client in clients:
            tasks.start_soon(client.read)
        await sim.finished()
        await sim.stop()


async def get(sim, path, headers=KEYS, **query):
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        answer = await http.get(sim.url + path, params=query, headers=headers)
        return answer.status_code, json.loads(answer.text, parse_float=str, parse_int=str)


def code(reply):
    assert [item["T"] for item in reply] == ["error"]
    return reply[0]["code"]


# ------------------------------------------------------------------------------------------- login


async def test_a_client_may_log_in_with_headers():
    async with serve(start="manual") as sim, dial(sim, auth=None, **KEYS) as client:
        assert await client.hear() == WELCOME
        assert code(await client.ask(**AUTH)) == 403


async def test_a_client_without_a_login_is_closed_after_ten_seconds():
    async with serve(start="manual", time_scale=200) as sim, dial(sim, auth=None) as client:
        reply = await client.hear()
        with pytest.raises(WebSocketDisconnect):
            await client.hear()

    assert code(reply) == 404


async def test_an_account_has_one_connection_per_endpoint():
    async with serve(start="manual") as sim, dial(sim), dial(sim, CRYPTO):
        other = AUTH | {"key": "PKANOTHER"}
        async with dial(sim, auth=None) as second, dial(sim, auth=other):
            refused = code(await second.ask(**AUTH))
    async with serve(start="manual") as sim:
        async with dial(sim):
            pass
        with anyio.fail_after(2):
            async with dial(sim):
                pass

    assert refused == 406


@pytest.mark.parametrize(
    ("path", "message", "expected"),
    [
        ("/v2/iex", {"action": "subscribe", "trades": ["AAPL"]}, 401),
        ("/v2/iex", AUTH | {"key": "BADKEY"}, 402),
        ("/v2/iex", {"action": "auth", "key": "", "secret": ""}, 402),
        ("/v2/sip", AUTH | {"key": "PKFREE"}, 409),
        ("/v2/iex", {"hello": 1}, 400),
    ],
)
async def test_each_error_before_the_login_has_its_code(path, message, expected):
    async with serve(start="manual") as sim, dial(sim, path, auth=None) as client:
        assert code(await client.ask(**message)) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"action": "subscribe"}, 400),
        ({"action": "subscribe", "trades": "AAPL"}, 400),
        ({"action": "listen", "trades": ["AAPL"]}, 400),
        ({"action": "subscribe", "orderbooks": ["BTC/USD"]}, 410),
        ({"action": "subscribe", "trades": [f"S{n}" for n in range(31)]}, 405),
    ],
)
async def test_each_error_after_the_login_has_its_code_and_changes_nothing(message, expected):
    free = AUTH | {"key": "PKFREE"}
    async with serve(start="manual") as sim, dial(sim, auth=free) as client:
        refused = code(await client.ask(**message))
        (after,) = await client.ask(action="subscribe", bars=[f"S{n}" for n in range(40)])

    assert refused == expected
    assert (after["trades"], len(after["bars"])) == ([], 40)


async def test_each_change_is_answered_with_the_whole_subscription_set():
    async with serve(start="manual") as sim, dial(sim) as client:
        (first,) = await client.ask(action="subscribe", trades=["AAPL"], bars=["*"])
        (second,) = await client.ask(action="subscribe", trades=["MSFT"], quotes=["AAPL"])
        (third,) = await client.ask(action="unsubscribe", trades=["AAPL"], bars=["*"])

    empty = dict.fromkeys(("quotes", "updatedBars", "dailyBars", "statuses", "lulds"), [])  # noqa: RUF024
    own = {"corrections": ["AAPL"], "cancelErrors": ["AAPL"]}
    assert first == {"T": "subscription", "trades": ["AAPL"], "bars": ["*"], **empty, **own}
    assert (second["trades"], second["quotes"], second["bars"]) == (
        ["AAPL", "MSFT"],
        ["AAPL"],
        ["*"],
    )
    assert (third["trades"], third["corrections"], third["bars"]) == (["MSFT"], ["MSFT"], [])


# ----------------------------------------------------------------------------------------- streams


async def test_every_stream_has_the_fields_of_the_documentation():
    async with (
        serve(trades=6000, start=10) as sim,
        dial(sim) as stocks,
        dial(sim, CRYPTO) as crypto,
    ):
        lists = ("trades", "quotes", "bars", "dailyBars", "statuses", "lulds")
        await stocks.ask(action="subscribe", **{name: ["AAPL"] for name in lists})
        lists = ("trades", "quotes", "bars", "orderbooks")
        await crypto.ask(action="subscribe", **{name: ["BTC/USD"] for name in lists})
        await run(sim, stocks, crypto)

    def fields(client, tags):
        return {tag: " ".join(client.items(tag)[-1]) for tag in tags}

    assert fields(stocks, "tqbdsl") == {
        "t": "T S t p s x c i z",
        "q": "T S t bp bs ap as bx ax c z",
        "b": "T S t o h l c v n vw",
        "d": "T S t o h l c v n vw",
        "s": "T S t sc sm rc rm z",
        "l": "T S t u d i z",
    }
    assert fields(crypto, "tqbo") == {
        "t": "T S t p s i tks",
        "q": "T S t bp bs ap as",
        "b": "T S t o h l c v n vw",
        "o": "T S t b a",
    }
    assert all(int(trade["i"]) > 2**53 for trade in crypto.items("t"))


async def test_trades_and_bars_equal_the_market():
    async with serve(trades=6000) as sim, dial(sim, CRYPTO) as client:
        await client.ask(action="subscribe", trades=["*"], bars=["*"])
        await run(sim, client)
        _, over_rest = await get(
            sim, f"{CRYPTO}/bars", symbols="BTC/USD", timeframe="1Min", start="2026-01-01T00:00:00Z"
        )
    truth = sim.truth.trades("BTC/USD")
    told = [
        (parse_time(item["t"]), Decimal(item["p"]), Decimal(item["s"]), item["tks"])
        for item in client.items("t", "BTC/USD")
    ]
    bars = client.items("b", "BTC/USD")

    assert told == [(t.ts, t.price, t.size, t.side[0].upper()) for t in truth]
    assert len(bars) >= 2
    for bar in bars:
        start = parse_time(bar["t"])
        trades_of_minute = [t for t in truth if start <= t.ts < start + 60_000_000_000]
        prices = [t.price for t in trades_of_minute]
        assert [Decimal(bar[key]) for key in "ohlcv"] == [
            prices[0], max(prices), min(prices), prices[-1], sum(t.size for t in trades_of_minute),
        ]  # fmt: skip
        mean = sum(t.price * t.size for t in trades_of_minute) / sum(
            t.size for t in trades_of_minute
        )
        assert (int(bar["n"]), Decimal(bar["vw"])) == (len(trades_of_minute), round(mean, 6))
    assert [{"T": "b", "S": "BTC/USD", **row} for row in over_rest["bars"]["BTC/USD"]] == bars


async def test_a_book_snapshot_and_its_deltas_give_the_final_book():
    async with serve(trades=4000) as sim, dial(sim, CRYPTO) as client:
        await client.ask(action="subscribe", orderbooks=["BTC/USD"])
        await run(sim, client)
    book = defaultdict(dict)
    said = client.items("o")
    for item in said:
        for side in "ba":
            if item.get("r"):
                book[side].clear()
            book[side] |= {Decimal(level["p"]): Decimal(level["s"]) for level in item[side]}
    bids, asks = ({p: s for p, s in book[side].items() if s} for side in "ba")

    assert said[0]["r"] is True
    assert sum(bool(item.get("r")) for item in said) > 1
    assert (bids, asks) == tuple(map(dict, sim.truth.book("BTC/USD")))


# -------------------------------------------------------------------------------------------- REST


async def test_past_trades_come_in_pages_over_all_symbols():
    async with serve(trades=1500) as sim, dial(sim) as client:
        await client.ask(action="subscribe", trades=["*"])
        await run(sim, client)
        rows, token, pages = [], None, 0
        while pages == 0 or token:
            query = {"page_token": token} if token else {}
            _, answer = await get(
                sim, "/v2/stocks/trades", symbols="AAPL,MSFT", limit=100,
                start="2026-01-01T00:00:00Z", **query,
            )  # fmt: skip
            rows += [(name, row["i"]) for name, page in answer["trades"].items() for row in page]
            token, pages = answer["next_page_token"], pages + 1
    streamed = Counter((item["S"], item["i"]) for item in client.items("t"))

    assert Counter(rows) == streamed
    assert pages == -(-len(rows) // 100)
    assert rows == sorted(rows, key=lambda row: (row[0], int(row[1])))


async def test_faults_of_paging_can_be_armed():
    query = {"symbols": "AAPL", "limit": 100, "start": "2026-01-01T00:00:00Z"}
    async with serve(trades=900) as sim, dial(sim) as client:
        await client.ask(action="subscribe", trades=["AAPL"])
        await run(sim, client)
        sim.venue.arm("empty_page")
        _, empty = await get(sim, "/v2/stocks/trades", **query)
        sim.venue.arm("token_loop")
        _, first = await get(sim, "/v2/stocks/trades", **query)
        token = first["next_page_token"]
        _, second = await get(sim, "/v2/stocks/trades", **query, page_token=token)
        _, third = await get(sim, "/v2/stocks/trades", **query, page_token=token)

    assert empty["trades"] == {}
    assert empty["next_page_token"]
    assert second["next_page_token"] == token
    assert third["next_page_token"] not in (token, None)


@pytest.mark.parametrize(
    ("path", "headers", "query", "status"),
    [
        ("/v2/stocks/trades", {}, {"symbols": "AAPL"}, 401),
        ("/v2/stocks/trades", KEYS | {"APCA-API-KEY-ID": "BAD"}, {"symbols": "AAPL"}, 401),
        (f"{CRYPTO}/trades", {}, {"symbols": "BTC/USD"}, 200),
        ("/v2/stocks/trades", KEYS, {}, 400),
        ("/v2/stocks/trades", KEYS, {"symbols": "AAPL", "start": "soon"}, 400),
        ("/v2/stocks/auctions", KEYS, {"symbols": "AAPL"}, 404),
        ("/v3/clock", KEYS, {}, 404),
        ("/v2/clock", KEYS, {}, 200),
        (
            "/v2/stocks/trades",
            KEYS | {"APCA-API-KEY-ID": "PKFREE"},
            {"symbols": "AAPL", "feed": "sip"},
            403,
        ),
    ],
)
async def test_each_call_has_its_status(path, headers, query, status):
    async with serve(start="manual") as sim:
        answered, body = await get(sim, path, headers, **query)

    assert answered == status
    assert status == 200 or body["message"]


async def test_two_hundred_calls_a_minute_are_allowed():
    async with (
        serve(start="manual") as sim,
        httpx.AsyncClient(trust_env=False, verify=False, headers=KEYS) as http,
    ):
        answers = [await http.get(f"{sim.url}/v2/clock") for _ in range(203)]

    assert [answer.status_code for answer in answers].count(429) == 3


async def test_assets_are_listed_by_class():
    async with serve(start="manual") as sim:
        _, stocks = await get(sim, "/v2/assets", asset_class="us_equity")
        _, coins = await get(sim, "/v2/assets", asset_class="crypto")

    assert [item["symbol"] for item in stocks] == ["AAPL", "MSFT"]
    assert [item["symbol"] for item in coins] == ["BTC/USD", "ETH/USD"]


# ------------------------------------------------------------------------------------------ faults


async def test_corrected_and_cancelled_trades_equal_the_market():
    faults = [
        simulator.Fault(kind="correction", after=3, every=10, count=4),
        simulator.Fault(kind="cancel", after=5, every=10, count=3),
    ]
    async with serve(trades=1500, faults=faults) as sim, dial(sim) as client:
        await client.ask(action="subscribe", trades=["AAPL"])
        await run(sim, client)
    trades = {item["i"]: (item["p"], item["s"]) for item in client.items("t")}
    for item in client.items("c"):
        assert trades.pop(item["oi"]) == (item["op"], item["os"])
        trades[item["ci"]] = (item["cp"], item["cs"])
    for item in client.items("x"):
        assert trades.pop(item["i"]) == (item["p"], item["s"])

    assert (len(client.items("c")), len(client.items("x"))) == (4, 3)
    assert sim.truth.fault_counts() == {"correction": 4, "cancel": 3}
    assert {int(i): (Decimal(p), Decimal(s)) for i, (p, s) in trades.items()} == {
        t.id: (t.price, t.size) for t in sim.truth.trades("AAPL/USD")
    }


async def test_an_updated_bar_comes_after_half_a_minute_and_equals_the_market():
    faults = [simulator.Fault(kind="updated_bar")]
    async with serve(trades=8000, faults=faults) as sim, dial(sim) as client:
        await client.ask(action="subscribe", bars=["AAPL"], updatedBars=["AAPL"])
        await run(sim, client)
    (updated,) = client.items("u")
    wrong = client.items("b")[0]
    first = sim.truth.closed_bars("AAPL/USD", "1m")[0]

    assert (int(wrong["n"]), int(updated["n"])) == (first.trades - 1, first.trades)
    assert wrong["t"] == updated["t"]
    order = [item["T"] for text in client.texts for item in json.loads(text)]
    assert order[:2] == ["b", "u"]


async def test_a_slow_client_gets_an_error():
    faults = [simulator.Fault(kind="slow_client", after=5)]
    async with serve(trades=300, faults=faults) as sim, dial(sim) as client:
        await client.ask(action="subscribe", trades=["AAPL"])
        await run(sim, client)

    assert [item for item in map(json.loads, client.texts) if item[0]["T"] == "error"] == [
        [{"T": "error", "code": 407, "msg": "slow client"}]
    ]
