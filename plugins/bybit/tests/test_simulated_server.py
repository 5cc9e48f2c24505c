"""The simulated server of Bybit sends what the venue's documentation describes."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import pairwise

import anyio
import httpx
import pytest
import tapeloom_simulator as simulator
from httpx_ws import WebSocketDisconnect, WebSocketUpgradeError, aconnect_ws
from tapeloom_simulator.server_api import HttpRequest

SPOT, SWAP = "BTC/USDT", "BTC/USDT:USDT"
SYMBOLS = (SPOT, "ETH/USDT", SWAP, "BTC/USDC:USDC", "ETH/USDT:USDT-261225")


class Client:
    def __init__(self, ws):
        self.ws, self.pushes = ws, defaultdict(list)

    async def send_request(self, op, *args, **more):
        """Send a request and return the reply; keep the pushes that arrive before it."""
        text = json.dumps({"op": op, "args": args} | more)
        await self.ws.send_text(text)
        while "topic" in (message := json.loads(await self.ws.receive_text())):
            self.pushes[message["topic"]].append(message)
        return {key: value for key, value in message.items() if key != "conn_id"}

    async def read(self):
        try:
            while True:
                message = json.loads(await self.ws.receive_text())
                self.pushes[message["topic"]].append(message)
        except WebSocketDisconnect:
            pass


@asynccontextmanager
async def dial(sim, category="spot"):
    address = f"{sim.url.replace('http', 'ws', 1)}/v5/public/{category}"
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        aconnect_ws(address, http, keepalive_ping_interval_seconds=None) as ws,
    ):
        yield Client(ws)


def serve(**options):
    options = {"symbols": SYMBOLS, "speed": math.inf, "rate": 200.0, "seed": 2, **options}
    return simulator.serve("bybit", **options)


async def run(sim, *clients):
    """Read until the market has made its last trade, then stop the simulator."""
    async with anyio.create_task_group() as tasks:
        for client in clients:
            tasks.start_soon(client.read)
        sim.begin()
        await sim.finished()
        await sim.stop()


async def get(sim, path, **query):
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{sim.url}/v5/market/{path}", params=query)
    return answer.json() | {"status": answer.status_code, "headers": answer.headers}


@pytest.fixture
def anyio_backend():
    """Return one event loop: the tests of the simulator run the server on both."""
    return "asyncio"


# ---------------------------------------------------------------------------- requests and replies


@pytest.mark.parametrize(("category", "ret_msg"), [("spot", "subscribe"), ("linear", "")])
async def test_a_request_is_acknowledged_in_the_form_of_its_market(category, ret_msg):
    async with serve(start="manual") as sim, dial(sim, category) as client:
        acknowledged = await client.send_request(
            "subscribe", "publicTrade.BTCUSDT", req_id=7, callerMethodName="x"
        )
        without_id = await client.send_request("subscribe", "tickers.BTCUSDT")
        unsubscribed = await client.send_request("unsubscribe", "tickers.BTCUSDT", req_id="8")
        pong = await client.send_request("ping", req_id="9")

    number = {} if category == "spot" else {"req_id": ""}
    done = ret_msg.replace("subscribe", "unsubscribe")
    assert acknowledged == {"success": True, "ret_msg": ret_msg, "req_id": "7", "op": "subscribe"}
    assert without_id == {"success": True, "ret_msg": ret_msg, "op": "subscribe", **number}
    assert unsubscribed == {"success": True, "ret_msg": done, "req_id": "8", "op": "unsubscribe"}
    assert pong == {"success": True, "ret_msg": "pong", "req_id": "9", "op": "ping"}


@pytest.mark.parametrize(
    ("category", "args", "reason"),
    [
        ("spot", ["orderbook.50.NOSUCH"], "Invalid symbol :[orderbook.50.NOSUCH]"),
        ("linear", ["orderbook.25.BTCUSDT"], "handler not found,topic:orderbook.25.BTCUSDT"),
        ("linear", ["kline.7.BTCUSDT"], "handler not found,topic:kline.7.BTCUSDT"),
        ("spot", [f"publicTrade.X{n}" for n in range(11)], "args size >10"),
        ("linear", ["tickers.BTCUSDT"] * 1500, "args length >21000"),
        ("spot", ["publicTrade.BTCUSDT"], "already subscribed,topic:publicTrade.BTCUSDT"),
        ("spot", [], "invalid args"),
        ("spot", [1], "invalid args"),
    ],
)
async def test_a_request_is_refused_as_a_whole_with_a_reason(category, args, reason):
    async with serve(start="manual") as sim, dial(sim, category) as client:
        await client.send_request("subscribe", "publicTrade.BTCUSDT")
        refused = await client.send_request("subscribe", *args, req_id="1")
        again = (
            await client.send_request("subscribe", "publicTrade.ETHUSDT")
            if category == "spot"
            else None
        )

    assert (refused["success"], refused["req_id"]) == (False, "1")
    assert reason in refused["ret_msg"]
    assert again is None or again["success"]


async def test_an_invalid_request_is_an_error():
    async with serve(start="manual") as sim, dial(sim) as client:
        odd = await client.send_request("order.create", "x")
        await client.ws.send_text("{")
        bad = json.loads(await client.ws.receive_text())
        with pytest.raises(WebSocketUpgradeError):
            async with dial(sim, "option"):
                pass

    assert odd["request"] == {"op": "order.create", "args": ["x"]}
    assert (odd["ret_msg"], bad["ret_msg"]) == ("error:invalid op", "error:invalid message")


# -------------------------------------------------------------------------------------- the topics


@pytest.mark.parametrize("category", ["spot", "linear"])
async def test_every_topic_has_the_fields_of_the_documentation(category):
    heads = ("publicTrade", "orderbook.1", "orderbook.50", "kline.1", "tickers")
    async with serve(trades=1500, start="manual") as sim, dial(sim, category) as client:
        await client.send_request("subscribe", *[f"{head}.BTCUSDT" for head in heads])
        await run(sim, client)
    found = {name: client.pushes[f"{name}.BTCUSDT"] for name in heads}
    linear = category == "linear"

    assert set(found["publicTrade"][0]["data"][0]) == (
        {"T", "s", "S", "v", "p", "i", "BT", "RPI", "seq"} | ({"L"} if linear else set())
    )
    for name in ("orderbook.1", "orderbook.50"):
        assert set(found[name][0]) == {"topic", "type", "ts", "data", "cts"}
        assert set(found[name][0]["data"]) == {"s", "b", "a", "u", "seq"}
    assert set(found["kline.1"][0]["data"][0]) == {
        "start", "end", "interval", "open", "close", "high", "low", "volume", "turnover",
        "confirm", "timestamp",
    }  # fmt: skip
    assert {push["type"] for push in found["tickers"]} == (
        {"snapshot", "delta"} if linear else {"snapshot"}
    )
    assert found["tickers"][0]["type"] == "snapshot"
    assert ("openInterestValue" in found["tickers"][0]["data"]) == linear
    assert all(len(push["data"]) < 15 for push in found["tickers"][1:])


@pytest.mark.parametrize("depth", [50, 200, 1000])
async def test_a_book_starts_with_a_snapshot_and_its_ids_rise_by_one(depth):
    topic = f"orderbook.{depth}.BTCUSDT"
    async with serve(trades=2000, start="manual") as sim, dial(sim) as client, dial(sim) as late:
        await client.send_request("subscribe", topic)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.read)
            sim.begin()
            while not client.pushes[topic]:  # noqa: ASYNC110
                await anyio.sleep(0.001)
            await late.send_request("subscribe", topic)
            await run(sim, late)
        final = sim.truth.book(SPOT)
    for pushes in (client.pushes[topic], late.pushes[topic]):
        book = {"b": {}, "a": {}}
        for push in pushes:
            for side, levels in book.items():
                levels |= {Decimal(p): Decimal(s) for p, s in push["data"][side]}
        kept = [{p: s for p, s in book[side].items() if s} for side in "ba"]
        wanted = [dict([*levels.items()][:depth]) for levels in final]

        assert [push["type"] for push in pushes] == ["snapshot"] + ["delta"] * (len(pushes) - 1)
        assert all(b["data"]["u"] == a["data"]["u"] + 1 for a, b in pairwise(pushes))
        assert all(b["data"]["seq"] >= a["data"]["seq"] for a, b in pairwise(pushes))
        assert kept == wanted
    # The update ids belong to the topic, so a later subscriber gets the same ids.
    assert {p["data"]["u"]: p["ts"] for p in late.pushes[topic][1:]}.items() <= {
        p["data"]["u"]: p["ts"] for p in client.pushes[topic]
    }.items()


async def test_a_quote_is_always_a_snapshot_and_repeats_after_three_unchanged_seconds():
    topic = "orderbook.1.BTCUSDT"
    async with serve(trades=60, rate=1.0, start="manual") as sim, dial(sim) as client:
        await client.send_request("subscribe", topic)
        await run(sim, client)
    pushes = client.pushes[topic]
    repeats = [(a, b) for a, b in pairwise(pushes) if a["data"]["u"] == b["data"]["u"]]

    assert {push["type"] for push in pushes} == {"snapshot"}
    assert len(repeats) > 5
    assert all(b["ts"] - a["ts"] == 3000 for a, b in repeats[1:])
    assert all(b["ts"] - a["ts"] <= 3000 for a, b in pairwise(pushes))


async def test_the_top_of_book_is_the_same_at_every_depth():
    async with serve(trades=2000, start="manual") as sim, dial(sim) as client:
        await client.send_request("subscribe", "orderbook.1.BTCUSDT", "orderbook.50.BTCUSDT")
        await run(sim, client)
    top = {p["data"]["seq"]: p["data"] for p in client.pushes["orderbook.1.BTCUSDT"]}
    book, compared = {"b": {}, "a": {}}, 0
    for push in client.pushes["orderbook.50.BTCUSDT"]:
        for side, levels in book.items():
            levels.update(push["data"][side])
        if same := top.get(push["data"]["seq"]):
            bids, asks = (
                [[p, s] for p, s in book[side].items() if Decimal(s)] for side in ("b", "a")
            )
            best = (max(bids, key=lambda x: Decimal(x[0])), min(asks, key=lambda x: Decimal(x[0])))
            compared += 1
            assert best == (same["b"][0], same["a"][0])

    assert compared > 50


async def test_a_kline_is_confirmed_once_and_equals_its_trades():
    async with serve(trades=3000, rate=20.0, start="manual") as sim, dial(sim, "linear") as client:
        await client.send_request("subscribe", "kline.1.BTCUSDT", "publicTrade.BTCUSDT")
        await run(sim, client)
    minutes = defaultdict(list)
    for push in client.pushes["publicTrade.BTCUSDT"]:
        for trade in push["data"]:
            minutes[trade["T"] // 60_000 * 60_000].append(trade)
    rows = [push["data"][0] for push in client.pushes["kline.1.BTCUSDT"]]
    closed = [row for row in rows if row["confirm"]]

    assert [row["start"] for row in closed] == sorted(minutes)[: len(closed)]
    assert len(closed) >= 2
    for row in closed:
        trades = minutes[row["start"]]
        assert (row["open"], row["close"]) == (trades[0]["p"], trades[-1]["p"])
        assert Decimal(row["volume"]) == sum(Decimal(trade["v"]) for trade in trades)


@pytest.mark.parametrize(("fault", "depth"), [("restart", 50), ("restart", 1), ("resnapshot", 50)])
async def test_a_restarted_service_sends_a_snapshot(fault, depth):
    topic = f"orderbook.{depth}.BTCUSDT"
    faults = [simulator.Fault(kind=fault, after=20, connection=1)]
    async with (
        serve(trades=2000, start="manual", faults=faults) as sim,
        dial(sim) as client,
        dial(sim) as other,
    ):
        await client.send_request("subscribe", topic)
        await other.send_request("subscribe", topic)
        await run(sim, client, other)
    pushes, others = client.pushes[topic], other.pushes[topic]
    again = [n for n, push in enumerate(pushes) if n and push["type"] == "snapshot"]
    numbers = [push["data"]["u"] for push in pushes]

    assert sim.truth.fault_counts() == {fault: 1}
    if fault == "restart":
        place = numbers.index(1)
        assert numbers[place:] == [*range(1, len(numbers) - place + 1)]
        assert depth == 1 or again == [place]
        assert [push["data"]["u"] for push in others] == numbers  # the same for all connections
    else:
        assert again == [21]
        assert numbers[21] == numbers[20]
        assert len(others) == len(pushes) - 1


# ---------------------------------------------------------------------------------------- over REST


async def test_listed_symbols_are_paged():
    async with serve() as sim:
        spot = await get(sim, "instruments-info", category="spot")
        first = await get(sim, "instruments-info", category="linear", limit=2)
        cursor = first["result"]["nextPageCursor"]
        second = await get(sim, "instruments-info", category="linear", limit=2, cursor=cursor)
        none = await get(sim, "instruments-info", category="linear", status="PreLaunch")
        other = await get(sim, "instruments-info", category="inverse")
    names = [[row["symbol"] for row in page["result"]["list"]] for page in (spot, first, second)]

    assert names == [["BTCUSDT", "ETHUSDT"], ["BTCUSDT", "BTCPERP"], ["ETHUSDT-25DEC26"]]
    assert second["result"]["nextPageCursor"] == ""
    assert second["result"]["list"][0]["deliveryTime"] == "1798185600000"
    assert none["result"]["list"] == other["result"]["list"] == []


@pytest.mark.parametrize(
    ("category", "symbol", "most"), [("spot", SPOT, 60), ("linear", SWAP, 1000)]
)
async def test_rest_answers_agree_with_the_topics(category, symbol, most):
    params = {"category": category, "symbol": "BTCUSDT"}
    async with serve(trades=6000, start="manual") as sim, dial(sim, category) as client:
        await client.send_request("subscribe", "publicTrade.BTCUSDT", "orderbook.1000.BTCUSDT")
        await run(sim, client)
        trades = (await get(sim, "recent-trade", **params, limit=1000))["result"]["list"]
        book = (await get(sim, "orderbook", **params, limit=1000))["result"]
        klines = (await get(sim, "kline", **params, interval="1"))["result"]["list"]
        (day,) = (await get(sim, "tickers", **params))["result"]["list"]
        wanted = sim.truth.book(symbol)
    pushed = [t for push in client.pushes["publicTrade.BTCUSDT"] for t in push["data"]]
    last = client.pushes["orderbook.1000.BTCUSDT"][-1]["data"]

    assert len(trades) == most
    assert [(t["execId"], t["price"], t["side"]) for t in reversed(trades)] == [
        (t["i"], t["p"], t["S"]) for t in pushed[-most:]
    ]
    assert (book["u"], book["seq"]) == (last["u"], last["seq"])
    assert [{Decimal(p): Decimal(s) for p, s in book[side]} for side in "ba"] == [*wanted]
    assert sum(Decimal(row[5]) for row in klines) == sum(Decimal(t["v"]) for t in pushed)
    assert [int(row[0]) for row in klines] == sorted((int(row[0]) for row in klines), reverse=True)
    assert day["lastPrice"] == pushed[-1]["p"]


async def test_errors_come_in_the_form_of_the_venue():
    async with serve() as sim:
        symbol = await get(sim, "kline", category="spot", symbol="NOSUCH", interval="1")
        category = await get(sim, "tickers", category="spto")
        interval = await get(sim, "kline", category="spot", symbol="BTCUSDT", interval="8")
        time = await get(sim, "time")

    assert [answer["retCode"] for answer in (symbol, category, interval)] == [10001] * 3
    assert [answer["status"] for answer in (symbol, category, interval)] == [200] * 3
    assert int(time["result"]["timeNano"]) // 10**9 == int(time["result"]["timeSecond"])


async def test_a_client_over_the_rate_limit_is_banned():
    faults = [simulator.Fault(kind="rate_limit_rest", value=418)]
    async with serve(faults=faults, start="manual") as sim:
        refused = await get(sim, "time")
        budget, weight = sim.venue.request_cost(HttpRequest(method="GET", path="/v5/market/time"))

    assert (refused["status"], refused["retMsg"]) == (403, "access too frequent")
    assert (budget.limit, budget.window_seconds, budget.ban_seconds, weight) == (600, 5.0, 600.0, 1)
    assert budget.tolerated_violations == 0


async def test_a_temporary_limit_names_the_time_of_its_end():
    faults = [simulator.Fault(kind="rate_limit_rest", seconds=2)]
    async with serve(faults=faults, start="manual") as sim:
        refused, fine = await get(sim, "time"), await get(sim, "time")

    assert (refused["status"], refused["retCode"], fine["retCode"]) == (429, 10006, 0)
    reset = int(refused["headers"]["X-Bapi-Limit-Reset-Timestamp"])
    assert reset - refused["time"] == 2000
