"""Hyperliquid's server side sends what the venue's protocol documents.

These tests need tapeloom-simulator.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import httpx
import pytest
import tapeloom_simulator as simulator
from httpx_ws import WebSocketDisconnect, WebSocketUpgradeError, aconnect_ws

PERP, PEPE, SPOT, BUILT = "BTC/USDC:USDC", "KPEPE/USDC:USDC", "HYPE/USDC", "XYZ.TSLA/USDC:USDC"
SYMBOLS = (PERP, PEPE, "PURR/USDC", SPOT, "BTC/USDC", BUILT)
MS = 1_000_000


class Client:
    def __init__(self, ws):
        self.ws, self.texts, self.code = ws, [], None

    async def ask(self, *subscriptions, method="subscribe"):
        for about in subscriptions:
            await self.ws.send_text(json.dumps({"method": method, "subscription": about}))

    async def read(self):
        try:
            while True:
                self.texts.append(await self.ws.receive_text())
        except WebSocketDisconnect as end:
            self.code = end.code

    async def reply(self, text):
        """Send a text, and return the answer to it."""
        await self.ws.send_text(text if isinstance(text, str) else json.dumps(text))
        return json.loads(await self.ws.receive_text())

    @property
    def pushes(self):
        """What came on each channel."""
        found = defaultdict(list)
        for text in self.texts:
            if text.startswith("{"):
                message = json.loads(text)
                found[message["channel"]].append(message.get("data"))
        return found


@asynccontextmanager
async def dial(sim, path="/ws"):
    async with (
        httpx.AsyncClient(trust_env=False, verify=False) as http,
        aconnect_ws(
            sim.url.replace("http", "ws", 1) + path, http, keepalive_ping_interval_seconds=None
        ) as ws,
    ):
        client = Client(ws)
        client.texts.append(await ws.receive_text())
        yield client


def serve(**options):
    options = {"symbols": SYMBOLS, "speed": math.inf, "start": 1, "rate": 200.0, **options}
    return simulator.serve("hyperliquid", seed=2, **options)


async def run(sim, client):
    """Read until the market has made its last trade, and stop it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.read)
        await sim.finished()
        await sim.stop()


async def post(sim, **body):
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        return await http.post(sim.url + "/info", json=body)


async def info(sim, **body):
    response = await post(sim, **body)
    assert response.status_code == 200
    return response.json()


@pytest.fixture
def anyio_backend():
    """Return one event loop: the server itself is tested on both, where it is."""
    return "asyncio"


def about(kind, coin="BTC", **more):
    return {"type": kind, "coin": coin, **more}


# ----------------------------------------------------------------------------------------- streams


async def test_every_channel_has_the_fields_that_the_venue_sends():
    kinds = [about("trades"), about("l2Book", fast=False), about("l2Book", fast=True), about("bbo"),
             about("candle", interval="1m"), about("activeAssetCtx"), about("activeAssetCtx", "@107"),
             {"type": "allMids"}]  # fmt: skip
    async with serve(trades=1500, start=len(kinds)) as sim, dial(sim) as client:
        await client.ask(*kinds)
        await run(sim, client)
    pushes = client.pushes
    fast, slow = ([b for b in pushes["l2Book"] if b.get("fast", False) is f] for f in (True, False))

    assert client.texts[0] == "Websocket connection established."
    assert " ".join(pushes["trades"][-1][0]) == "coin side px sz time hash tid users"
    assert " ".join(slow[-1]) == "coin time levels"
    assert " ".join(fast[-1]) == "coin time levels fast"
    assert {len(side) for book in slow for side in book["levels"]} == {20}
    assert {len(side) for book in fast for side in book["levels"]} == {5}
    assert len(fast) > 5 * len(slow)
    assert " ".join(pushes["bbo"][-1]) == "coin time bbo"
    assert " ".join(pushes["bbo"][-1]["bbo"][0]) == "px sz n"
    assert " ".join(pushes["candle"][-1]) == "t T s i o c h l v n"
    assert set(pushes["activeAssetCtx"][-1]["ctx"]) == {
        "funding", "openInterest", "prevDayPx", "dayNtlVlm", "premium", "oraclePx", "markPx",
        "midPx", "impactPxs", "dayBaseVlm",
    }  # fmt: skip
    assert set(pushes["activeSpotAssetCtx"][-1]["ctx"]) == {
        "prevDayPx",
        "dayNtlVlm",
        "markPx",
        "midPx",
        "circulatingSupply",
        "coin",
    }
    assert set(pushes["allMids"][-1]["mids"]) == {"BTC", "kPEPE", "PURR/USDC", "@107", "@202"}


async def test_trades_equal_the_market_block_by_block_with_unordered_ids():
    async with serve(trades=1500) as sim, dial(sim) as client:
        await client.ask(about("trades"))
        await run(sim, client)
    empty, *blocks = client.pushes["trades"]
    fills = [fill for block in blocks for fill in block]
    truth = sim.truth.trades(PERP)

    assert empty == []
    assert [(f["px"], f["sz"], f["side"], f["time"]) for f in fills] == [
        (f"{t.price:f}", f"{t.size:f}", "B" if t.side == "buy" else "A", t.ts // MS) for t in truth
    ]
    ids = [fill["tid"] for fill in fills]
    assert len(set(ids)) == len(ids)
    assert ids != sorted(ids)
    assert max(ids) < 2**50
    assert max(map(len, blocks)) > 1
    assert all(len({fill["time"] for fill in block}) == 1 for block in blocks)


async def test_a_new_subscription_is_sent_the_last_trades():
    async with serve(trades=1500) as sim, dial(sim) as client:
        await client.ask(about("bbo"))
        await sim.finished()
        async with dial(sim) as late:
            answer = await late.reply({"method": "subscribe", "subscription": about("trades")})
            past = json.loads(await late.ws.receive_text())
        recent = await info(sim, type="recentTrades", coin="BTC")
        await sim.stop()
    truth = sim.truth.trades(PERP)[-30:]

    assert answer["channel"] == "subscriptionResponse"
    assert [fill["time"] for fill in past["data"]] == [t.ts // MS for t in truth]
    assert recent == past["data"][::-1]


async def test_bars_equal_the_trades_and_rest():
    async with serve(trades=3000, rate=20.0) as sim, dial(sim) as client:
        await client.ask(about("candle", interval="1m"))
        await run(sim, client)
        span = {"coin": "BTC", "interval": "1m", "startTime": 0}
        rest = await info(sim, type="candleSnapshot", req=span)
    last = {candle["t"]: candle for candle in client.pushes["candle"]}
    by_minute = defaultdict(list)
    for trade in sim.truth.trades(PERP):
        by_minute[trade.ts // MS // 60_000 * 60_000].append(trade)

    assert len(last) >= 3
    assert [*last.values()] == rest
    for start, trades in by_minute.items():
        candle = last[start]
        assert candle["n"] == len(trades)
        assert candle["v"] == f"{sum(t.size for t in trades):f}"
        assert (candle["o"], candle["c"]) == (f"{trades[0].price:f}", f"{trades[-1].price:f}")
        assert candle["T"] == start + 59_999


async def test_the_books_of_stream_and_rest_are_equal():
    async with serve(trades=1000) as sim, dial(sim) as client:
        await client.ask(about("l2Book", fast=True))
        await run(sim, client)
        book = await info(sim, type="l2Book", coin="BTC")
        nothing = await info(sim, type="l2Book", coin="NONE")
    last = client.pushes["l2Book"][-1]

    assert [side[:5] for side in book["levels"]] == last["levels"]
    assert nothing is None


# ---------------------------------------------------------------------------------------- dialogue


async def test_an_ack_repeats_the_subscription_with_added_fields():
    async with serve(start="manual") as sim, dial(sim) as client:
        book = about("l2Book", fast=True)
        answer = await client.reply({"method": "subscribe", "subscription": book})
        first = json.loads(await client.ws.receive_text())
        gone = await client.reply({"method": "unsubscribe", "subscription": book})
        pong = await client.reply({"method": "ping"})

    assert answer["data"] == {
        "method": "subscribe",
        "subscription": {"nSigFigs": None, "mantissa": None, **book},
    }
    assert (first["channel"], len(first["data"]["levels"][0])) == ("l2Book", 5)
    assert gone["data"]["method"] == "unsubscribe"
    assert pong == {"channel": "pong"}


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ('{"method":"subscribe","subscription":{"type":"trades","coin":"btc"}}', "Invalid sub"),
        ('{"method":"subscribe","subscription":{"type":"nothing","coin":"BTC"}}', "Invalid sub"),
        (
            '{"method":"subscribe","subscription":{"type":"candle","coin":"BTC","interval":"1s"}}',
            "Invalid sub",
        ),
        ('{"method":"unsubscribe","subscription":{"type":"bbo","coin":"BTC"}}', "Already unsub"),
        ('{"method":"dance"}', "Error parsing JSON into valid websocket request"),
        ("{", "Error parsing JSON into valid websocket request"),
        ("[]", "Error parsing JSON into valid websocket request"),
    ],
)
async def test_invalid_messages_get_an_error_text(text, start):
    async with serve(start="manual") as sim, dial(sim) as client:
        error = await client.reply(text)

    assert error["channel"] == "error"
    assert error["data"].startswith(start)


async def test_a_repeated_subscription_is_an_error_and_the_stream_continues():
    async with serve(trades=200, start=2) as sim, dial(sim) as client:
        await client.ask(about("bbo"), about("bbo"), about("trades"))
        await run(sim, client)

    assert client.pushes["error"] == ['Already subscribed: {"type":"bbo","coin":"BTC"}']
    assert len(client.pushes["bbo"]) == len(sim.truth.quotes(PERP))


async def test_an_address_may_have_ten_connections():
    async with serve(start="manual") as sim, AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(dial(sim))
        with pytest.raises(WebSocketUpgradeError) as refused:
            await stack.enter_async_context(dial(sim))

    assert refused.value.response.status_code == 429


async def test_an_address_may_have_a_thousand_subscriptions(monkeypatch):
    from tapeloom_hyperliquid.simulator import server

    monkeypatch.setattr(server, "_MAX_SUBSCRIPTIONS", 2)
    async with serve(start="manual") as sim, dial(sim) as client, dial(sim) as other:
        await client.reply({"method": "subscribe", "subscription": about("bbo")})
        await other.reply({"method": "subscribe", "subscription": about("bbo")})
        error = await other.reply({"method": "subscribe", "subscription": about("bbo", "kPEPE")})

    assert error == {"channel": "error", "data": "Cannot track more than 2 total subscriptions."}


async def test_an_idle_connection_is_closed_after_a_minute():
    async with serve(start="manual", time_scale=300) as sim, dial(sim) as idle, dial(sim) as alive:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(idle.read)
                tasks.start_soon(alive.read)
                while idle.code is None:
                    await alive.ws.send_text('{"method":"ping"}')
                    await anyio.sleep(0.02)
                tasks.cancel_scope.cancel()

    assert idle.code == 1000
    assert alive.code is None


async def test_thirty_dials_a_minute_are_allowed():
    async with serve(start="manual") as sim:
        for _ in range(30):
            async with dial(sim):
                pass
        with pytest.raises(WebSocketUpgradeError) as refused:
            async with dial(sim):
                pass

    assert refused.value.response.status_code == 429


# -------------------------------------------------------------------------------------------- REST


async def test_the_listings_have_every_instrument():
    async with serve(start="manual") as sim:
        meta, built = await info(sim, type="meta"), await info(sim, type="meta", dex="xyz")
        spot, dexes = await info(sim, type="spotMeta"), await info(sim, type="perpDexs")
        both = await info(sim, type="metaAndAssetCtxs")
        spot_both = await info(sim, type="spotMetaAndAssetCtxs")
        mids, status = await info(sim, type="allMids"), await info(sim, type="exchangeStatus")
    tokens = {token["index"]: token["name"] for token in spot["tokens"]}
    pairs = {pair["name"]: [tokens[index] for index in pair["tokens"]] for pair in spot["universe"]}

    assert [client["name"] for client in meta["universe"]] == ["BTC", "kPEPE"]
    assert [client["name"] for client in built["universe"]] == ["xyz:TSLA"]
    assert [dex and dex["name"] for dex in dexes] == [None, "xyz"]
    assert pairs == {
        "PURR/USDC": ["PURR", "USDC"],
        "@107": ["HYPE", "USDC"],
        "@202": ["UBTC", "USDC"],
    }
    assert both[0] == meta
    assert (len(both[1]), len(spot_both[1])) == (2, 3)
    assert set(mids) == {"BTC", "kPEPE", "PURR/USDC", "@107", "@202"}
    assert status["specialStatuses"] is None


async def test_an_unknown_request_is_422_and_an_unknown_path_404():
    async with (
        serve(start="manual") as sim,
        httpx.AsyncClient(trust_env=False, verify=False) as http,
    ):
        statuses = [
            (await post(sim, **body)).status_code
            for body in (
                {"type": "dance"},
                {},
                {"type": "recentTrades"},
                {"type": "candleSnapshot"},
            )
        ]
        other = (await http.post(sim.url + "/exchange", json={})).status_code
        with pytest.raises(WebSocketUpgradeError) as refused:
            async with dial(sim, "/other"):
                pass

    assert statuses == [422] * 4
    assert (other, refused.value.response.status_code) == (404, 404)


async def test_a_weight_of_1200_a_minute_is_allowed():
    body = {"type": "meta"}
    async with (
        serve(start="manual") as sim,
        httpx.AsyncClient(trust_env=False, verify=False) as http,
    ):
        statuses = [(await http.post(sim.url + "/info", json=body)).status_code for _ in range(61)]

    assert statuses == [200] * 60 + [429]


# ------------------------------------------------------------------------------------------ faults


async def spoiled(kind, subscription, trades=600, **more):
    """Return what came of a subscription with a fault, and the simulation."""
    rate = more.pop("rate", 200.0)
    fault = simulator.Fault(kind=kind, **({"after": 3} | more))
    async with serve(trades=trades, rate=rate, faults=[fault]) as sim, dial(sim) as client:
        await client.ask(subscription)
        await run(sim, client)
    assert sim.truth.fault_counts()[kind] >= 1
    return client.pushes[next(c for c in client.pushes if c not in ("subscriptionResponse", "error"))], sim  # fmt: skip


async def test_history_batch_repeats_past_trades():
    batches, _ = await spoiled("history_batch", about("trades"), after=40)
    repeated = next(batch for batch in batches if len(batch) == 30)
    before = [fill for batch in batches[: batches.index(repeated)] for fill in batch]

    assert repeated == before[-30:]


async def test_duplicate_block_sends_a_block_twice():
    batches, sim = await spoiled("duplicate_block", about("trades"))

    assert sum(a == b for a, b in itertools.pairwise(batches)) == 1
    assert sum(map(len, batches)) > len(sim.truth.trades(PERP))


async def test_book_time_regress_sends_an_earlier_time():
    books, _ = await spoiled("book_time_regress", about("l2Book", fast=True))

    assert sum(b["time"] < a["time"] for a, b in itertools.pairwise(books)) == 1


async def test_empty_side_empties_one_side():
    quotes, _ = await spoiled("empty_side", about("bbo"))
    books, _ = await spoiled("empty_side", about("l2Book", fast=True))

    assert sum(quote["bbo"][0] is None for quote in quotes) == 1
    assert sum(book["levels"][0] == [] for book in books) == 1


async def test_crossed_book_crosses_the_sides():
    quotes, _ = await spoiled("crossed_book", about("bbo"))
    books, _ = await spoiled("crossed_book", about("l2Book", fast=True))
    sides = [*(quote["bbo"] for quote in quotes), *([s[0] for s in b["levels"]] for b in books)]

    assert sum(float(bid["px"]) > float(ask["px"]) for bid, ask in sides) == 2


async def test_chain_halt_stops_all_data_but_answers_pings():
    async with (
        serve(trades=600, faults=[simulator.Fault(kind="chain_halt", after=20, count=0)]) as sim,
        dial(sim) as client,
    ):
        await client.ask(about("trades"), about("bbo"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.read)
            await sim.finished()
            await client.ws.send_text('{"method":"ping"}')
            while "pong" not in client.pushes:  # noqa: ASYNC110
                await anyio.sleep(0.005)
            await sim.stop()
    pushes = client.pushes

    assert len(pushes["trades"]) - 1 + len(pushes["bbo"]) == 20


async def test_candle_gap_and_missing_final_kline_leave_out_bars():
    """candle_gap leaves out messages of bars, missing_final_kline the last message of a bar."""
    minute = about("candle", interval="1m")
    whole = {}
    for kind, more in (
        ("candle_gap", {"after": 0, "count": 5}),
        ("missing_final_kline", {"after": 0}),
    ):
        candles, sim = await spoiled(kind, minute, trades=2400, rate=20.0, **more)
        rest = sim.market.instruments[PERP].bars("1m", 0, sim.market.now, 100)
        last = {candle["t"]: candle["n"] for candle in candles}
        whole[kind] = [last[c.start // MS] == c.trades for c in rest if c.end <= sim.market.now]

    assert whole["missing_final_kline"].count(False) == 1
