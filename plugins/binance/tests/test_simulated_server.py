"""The simulated server of Binance sends what the venue's documentation describes."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from contextlib import asynccontextmanager
from decimal import Decimal

import anyio
import attrs
import httpx
import pytest
import tapeloom
import tapeloom_binance
import tapeloom_simulator as simulator
from httpx_ws import WebSocketDisconnect, WebSocketUpgradeError, aconnect_ws
from tapeloom import FeedSpec, Stack, Trade
from tapeloom.plugin import Feed, HistoryQuery
from tapeloom.units import duration_ns

SPOT, SWAP = "BTC/USDT", "BTC/USDT:USDT"


def contract_listing(symbol="BTC/USD:BTC"):
    """Return a listing of COIN-M, where sizes are whole contracts."""
    return simulator.listed(symbol, lot=Decimal(1))


SYMBOLS = (SPOT, "ETH/USDT", SWAP)
MS = 1_000_000


class Client:
    def __init__(self, sim, ws):
        self.sim, self.ws, self.texts, self.code = sim, ws, [], None

    async def send_request(self, method, *params, id=1):
        await self.ws.send_text(json.dumps({"method": method, "params": list(params), "id": id}))

    async def read(self):
        try:
            while True:
                self.texts.append(await self.ws.receive_text())
        except WebSocketDisconnect as end:
            self.code = end.code

    async def reply(self, text):
        """Send a text and return the reply."""
        await self.ws.send_text(text)
        return json.loads(await self.ws.receive_text())

    @property
    def streams(self):
        """The messages of each stream of a combined connection."""
        found = defaultdict(list)
        for text in self.texts:
            message = json.loads(text)
            if message.get("stream", "!serverShutdown") != "!serverShutdown":
                found[message["stream"]].append(message["data"])
        return found


@asynccontextmanager
async def dial(sim, path="/stream"):
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        aconnect_ws(
            sim.url.replace("http", "ws", 1) + path, http, keepalive_ping_interval_seconds=None
        ) as ws,
    ):
        yield Client(sim, ws)


#: A time scale with which no window of a limit ends during a test.
_ONE_WINDOW = 1e-6


def serve(**options):
    options = {
        "symbols": SYMBOLS,
        "speed": math.inf,
        "start": "first_subscription",
        "rate": 200.0,
        "seed": 2,
        **options,
    }
    return simulator.serve("binance", **options)


async def run(sim, *clients):
    """Read until the market has made its last trade, then stop the simulator."""
    async with anyio.create_task_group() as tasks:
        for client in clients:
            tasks.start_soon(client.read)
        await sim.finished()
        await sim.stop()


async def get(sim, path, **more):
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(sim.url + path, **more)


@pytest.fixture
def anyio_backend():
    """Return one event loop: the tests of the simulator run the server on both."""
    return "asyncio"


# ----------------------------------------------------------------------------------------- streams


async def test_every_spot_stream_has_the_fields_of_the_documentation():
    async with serve(trades=2000) as sim, dial(sim) as client:
        kinds = (
            "trade",
            "aggTrade",
            "depth@100ms",
            "depth5@100ms",
            "bookTicker",
            "kline_1s",
            "ticker",
            "miniTicker",
        )
        await client.send_request("SUBSCRIBE", *[f"btcusdt@{kind}" for kind in kinds])
        await run(sim, client)
    fields = {name.partition("@")[2]: " ".join(data[-1]) for name, data in client.streams.items()}
    kline = client.streams["btcusdt@kline_1s"][-1]["k"]

    assert fields == {
        "trade": "e E s t p q T m M",
        "aggTrade": "e E s a p q f l T m M",
        "depth@100ms": "e E s U u b a",
        "depth5@100ms": "lastUpdateId bids asks",
        "bookTicker": "u s b B a A",
        "kline_1s": "e E s k",
        "ticker": "e E s p P w x b B a A Q c o h l v q O C F L n",
        "miniTicker": "e E s c o h l v q",
    }
    assert " ".join(kline) == "t T s i f L o c h l v n x q V Q B"
    assert json.loads(client.texts[0]) == {"result": None, "id": 1}


async def test_every_futures_stream_has_the_fields_of_the_documentation():
    async with (
        serve(trades=2000, start=9) as sim,
        dial(sim, "/public/stream") as public,
        dial(sim, "/market/stream") as market,
    ):
        await public.send_request(
            "SUBSCRIBE",
            *[f"btcusdt@{k}" for k in ("trade", "depth@100ms", "depth10", "bookTicker")],
        )
        await market.send_request(
            "SUBSCRIBE",
            *[f"btcusdt@{k}" for k in ("aggTrade", "kline_1m", "ticker", "miniTicker")],
            "!ticker@arr",
        )
        await run(sim, public, market)
    data = {**public.streams, **market.streams}
    fields = {
        name.partition("@")[2]: " ".join(rows[-1]) for name, rows in data.items() if name[0] != "!"
    }

    assert fields == {
        "trade": "e E T s t p q X m",
        "depth@100ms": "e E T s U u pu b a ps st",
        "depth10": "e E T s U u pu b a ps st",
        "bookTicker": "e u E T s ps b B a A st",
        "aggTrade": "e E s a p q nq f l T m st",
        "kline_1m": "e E s k",
        "ticker": "e E s p P w Q c o h l v q O C F L n ps st",
        "miniTicker": "e E s c o h l v q ps st",
    }
    assert [row["s"] for row in data["!ticker@arr"][0]] == ["BTCUSDT"]
    assert len(data["btcusdt@depth10"][-1]["b"]) == 10


async def test_coinm_streams_share_one_path_and_have_their_own_type():
    kinds = ("trade", "aggTrade", "depth@100ms", "bookTicker", "kline_1m", "ticker")
    async with (
        serve(trades=2000, rate=20.0, start=8, symbols=(SWAP, contract_listing())) as sim,
        dial(sim, "/dstream/stream") as client,
        dial(sim, "/market/stream") as market,
    ):
        await client.send_request(
            "SUBSCRIBE", *[f"btcusd_perp@{kind}" for kind in kinds], "!ticker@arr"
        )
        await market.send_request("SUBSCRIBE", "!ticker@arr")
        await run(sim, client, market)
        snapshot = (await get(sim, "/dapi/v1/depth?symbol=BTCUSD_PERP&limit=5")).json()
        rows = (await get(sim, "/dapi/v1/klines?symbol=BTCUSD_PERP&interval=1m")).json()
        since = rows[0][0]
        (last,) = (
            await get(
                sim, f"/dapi/v1/klines?symbol=BTCUSD_PERP&interval=1m&limit=1&startTime={since}"
            )
        ).json()
        (day,) = (await get(sim, "/dapi/v1/ticker/24hr?symbol=BTCUSD_PERP")).json()
        past = (await get(sim, "/dapi/v1/trades?symbol=BTCUSD_PERP&limit=1")).json()
    data = {name.partition("@")[2]: rows for name, rows in client.streams.items() if name[0] != "!"}
    trades, deltas = data["trade"], data["depth@100ms"]
    bar = max((row["k"] for row in data["kline_1m"]), key=lambda k: (k["t"] == since, k["n"]))
    inside = [t for t in trades if since <= t["T"] < since + 60_000]
    base = sum(100 * int(t["q"]) / float(t["p"]) for t in inside)

    assert set(data) == set(kinds)
    assert all(b["pu"] == a["u"] for a, b in itertools.pairwise(deltas))
    assert {(row["ps"], row["st"]) for row in [*deltas, *data["bookTicker"]]} == {("BTCUSD", 2)}
    assert {row["st"] for row in data["aggTrade"]} == {2}
    assert {"symbol": "BTCUSD_PERP", "pair": "BTCUSD"}.items() <= snapshot.items()
    assert [(t["t"], int(t["q"])) for t in trades] == [
        (t.id, t.size) for t in sim.truth.trades("BTC/USD:BTC")
    ]
    assert int(bar["v"]) == sum(int(t["q"]) for t in inside)
    assert float(bar["q"]) == pytest.approx(base, rel=1e-4)
    assert last == rows[-1]  # the last of a span, where the others give the first
    assert len(rows) > 1
    assert int(day["volume"]) == sum(int(t["q"]) for t in trades)
    assert float(past[0]["baseQty"]) == pytest.approx(
        100 * int(past[0]["qty"]) / float(past[0]["price"])
    )
    for either in (client, market):
        assert {row["s"]: row["st"] for row in either.streams["!ticker@arr"][-1]} == {
            "BTCUSDT": 1,
            "BTCUSD_PERP": 2,
        }


async def test_the_listing_of_coin_margined_futures_has_the_size_of_a_contract():
    dated = "ETH/USD:ETH-260327"
    async with serve(start="manual", symbols=(contract_listing(), contract_listing(dated))) as sim:
        body = (await get(sim, "/dapi/v1/exchangeInfo")).json()
        price = (await get(sim, "/dapi/v1/ticker/bookTicker?symbol=ETHUSD_260327")).json()
    perp, future = body["symbols"]

    assert (perp["symbol"], perp["contractStatus"], perp["contractSize"]) == (
        "BTCUSD_PERP", "TRADING", 100,
    )  # fmt: skip
    assert (future["symbol"], future["contractType"], future["contractSize"]) == (
        "ETHUSD_260327", "CURRENT_QUARTER", 10,
    )  # fmt: skip
    assert "status" not in perp
    assert [row["symbol"] for row in price] == ["ETHUSD_260327"]


async def test_both_kinds_of_futures_spend_one_budget():
    async with serve(start="manual", symbols=(SWAP, contract_listing())) as sim:
        first = await get(sim, "/fapi/v1/depth?symbol=BTCUSDT&limit=1000")
        second = await get(sim, "/dapi/v1/depth?symbol=BTCUSD_PERP&limit=1000")

    assert [answer.headers["X-MBX-USED-WEIGHT-1M"] for answer in (first, second)] == ["20", "40"]


async def test_a_coinm_feed_delivers_every_trade():
    symbols = ("BTC/USD:BTC", "ETH/USD:ETH", "ETH/USD:ETH-260327")
    listings = [contract_listing(symbol) for symbol in symbols]
    async with serve(symbols=listings, trades=1500, start=9, slow="wait") as sim:
        spec = FeedSpec("binance", symbols, ("trades", "quotes", "klines:1m"), market="coinm")
        venue = {**sim.settings, "futures_trades": "raw"}
        ids = defaultdict(list)
        async with tapeloom.open(Stack(feeds=(spec,), venues={"binance": venue})) as stream:
            with anyio.fail_after(20):
                async for trade in stream.of(Trade):
                    ids[trade.symbol].append((trade.id, trade.price, trade.size, trade.side))
                    if sum(map(len, ids.values())) == 1500:
                        break
        truth = {
            symbol: [(t.id, t.price, t.size, t.side) for t in sim.truth.trades(symbol)]
            for symbol in symbols
        }

    assert dict(ids) == truth


async def test_trades_and_aggregates_equal_the_market_and_each_other():
    async with serve(trades=1500) as sim, dial(sim) as client:
        await client.send_request("SUBSCRIBE", "btcusdt@trade", "btcusdt@aggTrade")
        await run(sim, client)
    truth = sim.truth.trades(SPOT)
    trades, aggregates = client.streams["btcusdt@trade"], client.streams["btcusdt@aggTrade"]

    assert [(t["t"], t["p"], t["q"], t["m"], t["T"]) for t in trades] == [
        (t.id, f"{t.price:.8f}", f"{t.size:.8f}", t.side == "sell", t.ts // MS) for t in truth
    ]
    assert [a["a"] for a in aggregates] == list(range(1, len(aggregates) + 1))
    by_id = {t.id: t for t in truth}
    for aggregate in aggregates:
        parts = [by_id[i] for i in range(aggregate["f"], aggregate["l"] + 1)]
        assert aggregate["q"] == f"{sum(part.size for part in parts):.8f}"
        assert {f"{part.price:.8f}" for part in parts} == {aggregate["p"]}
    assert aggregates[-1]["l"] == truth[-1].id


async def test_the_sequence_of_a_spot_book_follows_the_venues_rule():
    async with serve(trades=3000, speed=30) as sim, dial(sim) as client:
        await client.send_request("SUBSCRIBE", "btcusdt@depth@100ms")
        while sim.truth.trade_count < 400:  # noqa: ASYNC110
            await anyio.sleep(0.001)
        snapshot = (await get(sim, "/api/v3/depth?symbol=BTCUSDT&limit=5000")).json()
        await run(sim, client)
        final = (await get(sim, "/api/v3/depth?symbol=BTCUSDT&limit=5000")).json()
    diffs = client.streams["btcusdt@depth@100ms"]
    last = snapshot["lastUpdateId"]
    bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
    kept = [diff for diff in diffs if diff["u"] > last]
    for diff in kept:
        for book, changes in ((bids, diff["b"]), (asks, diff["a"])):
            book.update(changes)
            for price in [price for price, size in changes if size == "0.00000000"]:
                del book[price]

    assert all(after["U"] == before["u"] + 1 for before, after in itertools.pairwise(diffs))
    assert diffs[0]["U"] <= last + 1
    assert kept[0]["U"] <= last + 1 <= kept[0]["u"]
    assert kept[-1]["u"] == final["lastUpdateId"]
    assert bids == dict(final["bids"])
    assert asks == dict(final["asks"])


async def test_a_futures_delta_has_the_id_of_the_delta_before():
    async with serve(trades=1500, start=2) as sim, dial(sim, "/public/stream") as client:
        await client.send_request("SUBSCRIBE", "btcusdt@depth@100ms", "btcusdt@depth@500ms")
        await run(sim, client)
    fast, slow = client.streams["btcusdt@depth@100ms"], client.streams["btcusdt@depth@500ms"]

    for diffs in (fast, slow):
        assert all(b["pu"] == a["u"] for a, b in itertools.pairwise(diffs))
    assert {diff["u"] for diff in slow} <= {diff["u"] for diff in fast}
    assert all(diff["E"] % 100 == 0 for diff in fast)
    assert len(fast) > 3 * len(slow)


async def test_klines_equal_the_trades_and_are_final_once():
    async with (
        serve(trades=3000, start=3) as sim,
        dial(sim) as spot,
        dial(sim, "/market/stream") as swap,
    ):
        await spot.send_request("SUBSCRIBE", "btcusdt@kline_1s", "btcusdt@trade")
        await swap.send_request("SUBSCRIBE", "btcusdt@kline_1m")
        await run(sim, spot, swap)
        rest = (await get(sim, "/api/v3/klines?symbol=BTCUSDT&interval=1s&limit=1000")).json()
    final = {k["k"]["t"]: k["k"] for k in spot.streams["btcusdt@kline_1s"] if k["k"]["x"]}
    trades = defaultdict(list)
    for trade in spot.streams["btcusdt@trade"]:
        trades[trade["T"] // 1000 * 1000].append(trade)
    seen = [k["k"]["t"] for k in spot.streams["btcusdt@kline_1s"] if k["k"]["x"]]

    assert len(seen) == len(set(seen)) == len(final) >= 10
    for start, rows in trades.items():
        if start in final:
            kline = final[start]
            assert (kline["o"], kline["c"]) == (rows[0]["p"], rows[-1]["p"])
            assert (kline["f"], kline["L"], kline["n"]) == (rows[0]["t"], rows[-1]["t"], len(rows))
            assert kline["T"] == start + 999
    for row in rest:
        if row[0] in final:
            kline = final[row[0]]
            assert row == [kline[key] for key in "tohlcvTqnVQ"] + ["0"]
    assert all(kline["E"] % 250 == 0 for kline in swap.streams["btcusdt@kline_1m"])


async def test_times_are_in_microseconds_if_requested():
    async with serve(trades=100) as sim, dial(sim, "/stream?timeUnit=MICROSECOND") as client:
        await client.send_request("SUBSCRIBE", "btcusdt@trade")
        await run(sim, client)
    truth = sim.truth.trades(SPOT)

    assert [t["T"] for t in client.streams["btcusdt@trade"]] == [t.ts // 1000 for t in truth]


# -------------------------------------------------------------------------- addresses and requests


@pytest.mark.parametrize(
    ("path", "combined"),
    [
        ("/ws/btcusdt@trade/ethusdt@trade", False),
        ("/stream?streams=btcusdt@trade/ethusdt@trade", True),
        ("/stream?streams=btcusdt%40trade%2Fethusdt%40trade&timeUnit=microsecond", True),
        ("/stream.sim/ws/btcusdt@trade/ethusdt@trade", False),
    ],
)
async def test_streams_can_be_requested_in_the_url(path, combined):
    async with serve(trades=100) as sim, dial(sim, path) as client:
        await run(sim, client)
    first = json.loads(client.texts[0])

    assert ("stream" in first) is combined
    assert len({sent.stream for sent in sim.truth.sent}) == 2


@pytest.mark.parametrize("path", ["/ws/3", "/some/prefix/ws/12", "/ws"])
async def test_a_number_after_ws_is_no_stream(path):
    async with serve(start="manual") as sim, dial(sim, path) as client:
        listed = await client.reply('{"method":"LIST_SUBSCRIPTIONS","id":3}')

    assert listed == {"result": [], "id": 3}


async def test_replies_have_the_documented_form():
    async with serve(start="manual") as sim, dial(sim, "/ws") as client:
        assert await client.reply(
            '{"method":"SUBSCRIBE","params":["btcusdt@aggTrade"],"id":"a1"}'
        ) == {"result": None, "id": "a1"}
        assert await client.reply('{"method":"LIST_SUBSCRIPTIONS","id":3}') == {
            "result": ["btcusdt@aggTrade"],
            "id": 3,
        }
        assert await client.reply('{"method":"GET_PROPERTY","params":["combined"],"id":6}') == {
            "result": False,
            "id": 6,
        }
        assert await client.reply(
            '{"method":"SET_PROPERTY","params":["combined",true],"id":5}'
        ) == {"result": None, "id": 5}
        assert await client.reply('{"method":"GET_PROPERTY","params":["combined"],"id":null}') == {
            "result": True,
            "id": None,
        }
    async with serve(start="manual") as sim, dial(sim, "/ws") as client:
        await client.reply('{"method":"SUBSCRIBE","params":["btcusdt@aggTrade","x@y"],"id":1}')
        assert await client.reply(
            '{"method":"UNSUBSCRIBE","params":["btcusdt@aggTrade"],"id":2}'
        ) == {"result": None, "id": 2}
        assert await client.reply('{"method":"LIST_SUBSCRIPTIONS","id":3}') == {
            "result": ["x@y"],
            "id": 3,
        }


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"method":"GET_PROPERTY","params":["colour"],"id":1}', 0),
        ('{"method":"SET_PROPERTY","params":["combined",1],"id":1}', 1),
        ('{"method":"SUBSCRIB","params":["a"],"id":1}', 2),
        ('{"params":["a"],"id":1}', 2),
        ('{"method":"SUBSCRIBE","params":["a"],"id":1.5}', 2),
        ('{"method":"SUBSCRIBE","params":[1],"id":1}', 2),
        ('{"method":"SET_PROPERTY","params":[true],"id":1}', 2),
        ("[]", 2),
        ('{"method":', 3),
    ],
)
async def test_bad_requests_are_refused_in_the_form_of_their_market(text, code):
    async with (
        serve(start="manual") as sim,
        dial(sim, "/ws") as spot,
        dial(sim, "/public/ws") as swap,
    ):
        flat, nested = await spot.reply(text), await swap.reply(text)

    assert (flat["code"], nested["error"]["code"]) == (code, code)
    assert nested["error"]["msg"] == flat["msg"]


async def test_the_property_combined_adds_the_envelope():
    async with serve(trades=400, speed=8, start=2) as sim, dial(sim, "/ws") as client:
        await client.send_request("SUBSCRIBE", "btcusdt@trade")
        await client.reply('{"method":"SET_PROPERTY","params":["combined",true],"id":5}')
        await client.send_request("SUBSCRIBE", "ethusdt@trade")
        await run(sim, client)

    assert set(client.streams) == {"btcusdt@trade", "ethusdt@trade"}
    assert all("stream" in text or "result" in text for text in client.texts)


@pytest.mark.parametrize(
    ("path", "delivered"),
    [
        ("/public/stream", {"btcusdt@trade", "btcusdt@bookTicker"}),
        ("/market/stream", {"btcusdt@aggTrade", "btcusdt@ticker"}),
        ("/private/stream", set()),
        ("/fstream/stream", {"btcusdt@trade", "btcusdt@bookTicker"}),
    ],
)
async def test_a_futures_stream_on_the_wrong_route_is_acknowledged_and_never_comes(path, delivered):
    names = (
        "btcusdt@trade",
        "btcusdt@bookTicker",
        "btcusdt@aggTrade",
        "btcusdt@ticker",
        "nosuch@trade",
    )
    async with serve(trades=600, start="manual") as sim, dial(sim, path) as client:
        assert await client.reply(
            json.dumps({"method": "SUBSCRIBE", "params": names, "id": 1})
        ) == {"result": None, "id": 1}
        assert (await client.reply('{"method":"LIST_SUBSCRIPTIONS","id":2}'))["result"] == list(
            names
        )
        sim.begin()
        await run(sim, client)

    assert set(client.streams) == delivered


async def test_a_shutdown_is_announced_raw_and_combined():
    async with serve(start="manual") as sim, dial(sim, "/ws") as plain, dial(sim) as combined:
        await sim.stop()
        await plain.read()
        await combined.read()
    notice = json.loads(plain.texts[-1])

    assert notice["e"] == "serverShutdown"
    assert json.loads(combined.texts[-1]) == {"stream": "!serverShutdown", "data": notice}


# ------------------------------------------------------------------------------------------ limits


async def test_a_client_that_sends_too_much_is_closed_sooner_on_spot():
    async with serve(start="manual") as sim, dial(sim) as spot, dial(sim, "/public/stream") as swap:
        for client in (spot, swap):
            for _ in range(6):
                await client.send_request("LIST_SUBSCRIPTIONS")
        await spot.read()
        answers = [json.loads(await swap.ws.receive_text()) for _ in range(6)]

    assert spot.code == 1008
    assert len(answers) == 6


async def test_a_bad_time_unit_or_path_is_refused_in_the_handshake():
    async with serve(start="manual") as sim:
        statuses = []
        for path in ("/stream?timeUnit=DAY", "/api/v3/ws4"):
            with pytest.raises(WebSocketUpgradeError) as refused:
                async with dial(sim, path):
                    pass
            statuses.append(refused.value.response.status_code)

    assert statuses == [400, 404]


async def test_rest_calls_have_their_weights():
    calls = [
        ("/api/v3/ping", 1), ("/api/v3/exchangeInfo", 20), ("/api/v3/depth?symbol=BTCUSDT", 5),
        ("/api/v3/depth?symbol=BTCUSDT&limit=1000", 50), ("/api/v3/depth?symbol=BTCUSDT&limit=5000", 250),
        ("/api/v3/klines?symbol=BTCUSDT&interval=1m", 2), ("/api/v3/aggTrades?symbol=BTCUSDT", 4),
        ("/fapi/v1/exchangeInfo", 1), ("/fapi/v1/depth?symbol=BTCUSDT&limit=1000", 20),
        ("/fapi/v1/klines?symbol=BTCUSDT&interval=1m&limit=99", 1),
        ("/fapi/v1/klines?symbol=BTCUSDT&interval=1m&limit=1500", 10),
    ]  # fmt: skip
    async with serve(start="manual", time_scale=_ONE_WINDOW) as sim:
        used = {"api": 0, "fapi": 0}
        for path, weight in calls:
            answer = await get(sim, path)
            used[path.split("/")[1]] += weight
            assert (path, answer.status_code) == (path, 200)
            assert (path, answer.headers["X-MBX-USED-WEIGHT-1M"]) == (
                path,
                str(used[path.split("/")[1]]),
            )


async def test_too_much_weight_is_429_and_then_a_ban():
    async with serve(start="manual", time_scale=_ONE_WINDOW) as sim:
        answers = [await get(sim, "/fapi/v1/historicalTrades?symbol=BTCUSDT") for _ in range(25)]
    statuses = [answer.status_code for answer in answers]

    assert statuses == [401] * 12 + [429] * 10 + [418] * 3
    assert answers[12].json()["code"] == answers[-1].json()["code"] == -1003
    assert "banned until" in answers[-1].json()["msg"]
    assert int(answers[-1].headers["Retry-After"]) > 100


# -------------------------------------------------------------------------------------------- REST


async def test_listed_symbols_have_the_steps_of_prices_and_sizes():
    async with serve(start="manual") as sim:
        spot = (await get(sim, "/api/v3/exchangeInfo")).json()
        single = (await get(sim, '/api/v3/exchangeInfo?symbols=["ETHUSDT"]')).json()
        swap = (await get(sim, "/fapi/v1/exchangeInfo")).json()
    (contract,) = swap["symbols"]
    filters = {row["filterType"]: row for row in spot["symbols"][0]["filters"]}

    assert [row["symbol"] for row in spot["symbols"]] == ["BTCUSDT", "ETHUSDT"]
    assert [row["symbol"] for row in single["symbols"]] == ["ETHUSDT"]
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"
    assert filters["LOT_SIZE"]["stepSize"] == "0.00001000"
    assert contract["contractType"] == "PERPETUAL"
    assert [contract[key] for key in ("baseAsset", "quoteAsset", "marginAsset")] == [
        "BTC",
        "USDT",
        "USDT",
    ]
    assert {r["filterType"]: r.get("tickSize", r.get("stepSize")) for r in contract["filters"][:2]} == {
        "PRICE_FILTER": "0.1", "LOT_SIZE": "0.001",
    }  # fmt: skip
    assert swap["rateLimits"][0]["limit"] == 2400


async def test_rest_answers_agree_with_the_streams():
    async with serve(trades=1200, start=3) as sim, dial(sim) as client:
        await client.send_request(
            "SUBSCRIBE", "btcusdt@trade", "btcusdt@aggTrade", "btcusdt@bookTicker"
        )
        await run(sim, client)
        trades = client.streams["btcusdt@trade"]
        aggregates = client.streams["btcusdt@aggTrade"]
        quote = client.streams["btcusdt@bookTicker"][-1]
        latest = (await get(sim, "/api/v3/trades?symbol=BTCUSDT&limit=3")).json()
        past = (await get(sim, "/api/v3/historicalTrades?symbol=BTCUSDT&fromId=5&limit=2")).json()
        numbered = (await get(sim, "/api/v3/aggTrades?symbol=BTCUSDT&fromId=7&limit=2")).json()
        since = trades[100]["T"]
        timed = (
            await get(
                sim, f"/api/v3/aggTrades?symbol=BTCUSDT&startTime={since}&endTime={since + 2000}"
            )
        ).json()
        best = (await get(sim, "/api/v3/ticker/bookTicker?symbol=BTCUSDT")).json()
        day = (await get(sim, "/api/v3/ticker/24hr?symbol=BTCUSDT")).json()
        prices = (await get(sim, "/api/v3/ticker/price")).json()

    assert [row["id"] for row in latest] == [t["t"] for t in trades[-3:]]
    assert [(row["id"], row["price"], row["isBuyerMaker"]) for row in past] == [
        (t["t"], t["p"], t["m"]) for t in trades[4:6]
    ]
    keys = ("a", "p", "q", "f", "l", "T", "m", "M")
    assert [[row[k] for k in keys] for row in numbered] == [
        [a[k] for k in keys] for a in aggregates[6:8]
    ]
    assert [row["a"] for row in timed] == [
        a["a"] for a in aggregates if since <= a["T"] <= since + 2000
    ]
    assert (best["bidPrice"], best["askQty"]) == (quote["b"], quote["A"])
    assert (day["count"], day["lastPrice"], day["firstId"]) == (len(trades), trades[-1]["p"], 1)
    assert prices[0] == {"symbol": "BTCUSDT", "price": trades[-1]["p"]}


async def pages(sim, market, symbol, query, **settings):
    """Request *query*, and again from the end of each answer, until an answer is empty."""
    own = tapeloom_binance.Settings(base_url=sim.url, **settings)
    channels = (query.channel,)
    feed = Feed("f", "binance", market, [symbol], channels, settings=own, clock=None)
    feed.listing.add(symbol, tapeloom_binance.subscribe(feed).native(symbol))
    history = tapeloom_binance.history(feed)
    answers = []
    while True:
        request = history.request(query)
        async with httpx.AsyncClient(trust_env=False) as http:
            body = (await http.get(request.url, headers=request.headers)).content
        events = history.read_answer(request, body, sim.market.now)
        if not events:
            return answers
        answers.append(events)
        last = events[-1]
        if query.kind == "trades":
            query = attrs.evolve(query, after_id=last.id, since=None, until=None)
        else:
            query = attrs.evolve(query, since=last.ts + duration_ns(last.interval))


@pytest.mark.parametrize(
    ("market", "symbol", "channel", "settings"),
    [
        ("spot", SPOT, "trades", {}),
        ("spot", SPOT, "agg_trades", {}),
        ("usdm", SWAP, "trades", {}),
        ("usdm", SWAP, "trades", {"futures_trades": "raw", "api_key": tapeloom.Secret("k")}),
        ("coinm", "BTC/USD:BTC", "trades", {}),
    ],
)
async def test_trades_after_an_id_come_page_by_page_each_once(market, symbol, channel, settings):
    listed = (contract_listing(symbol) if market == "coinm" else symbol,)
    async with serve(symbols=listed, trades=3000, start="now") as sim:
        await sim.finished()
        query = HistoryQuery("trades", symbol, channel, after_id=7)
        answers = await pages(sim, market, symbol, query, **settings)
        truth = sim.truth.trades(symbol)
    ids = [trade.id for answer in answers for trade in answer]
    sizes = sum(trade.size for answer in answers for trade in answer)

    assert [len(answer) for answer in answers[:-1]] == [1000] * (len(answers) - 1)
    assert len(answers) > 1
    assert ids == [*range(8, ids[-1] + 1)]
    assert {trade.origin for answer in answers for trade in answer} == {"backfill"}
    if channel == "trades" and (market == "spot" or settings):
        assert ids[-1] == truth[-1].id
        assert sizes == sum(t.size for t in truth if t.id > 7)


@pytest.mark.parametrize(
    ("market", "symbol", "interval"), [("spot", SPOT, "1s"), ("coinm", "BTC/USD:BTC", "1m")]
)
async def test_bars_between_two_times_come_page_by_page_each_once(market, symbol, interval):
    """Spot returns the first bars of a time span, COIN-M the last."""
    listed = (contract_listing(symbol) if market == "coinm" else symbol,)
    length = duration_ns(interval)
    rate = 1.2e9 / length
    async with serve(symbols=listed, trades=1600, rate=rate, start="now") as sim:
        await sim.finished()
        first = sim.truth.trades(symbol)[0].ts // length * length
        since, until = first + 5 * length, first + 1105 * length
        query = HistoryQuery("bars", symbol, f"klines:{interval}", since=since, until=until)
        answers = await pages(sim, market, symbol, query)
        truth = [t for t in sim.truth.trades(symbol) if since <= t.ts < until]
    bars = [bar for answer in answers for bar in answer]

    assert [len(answer) for answer in answers] == [1000, 100]
    assert [bar.ts for bar in bars] == [*range(since, until, length)]
    assert sum(bar.volume for bar in bars) == sum(t.size for t in truth)
    assert sum(bar.trades for bar in bars) == len(truth)


async def test_klines_are_paged_by_time():
    async with serve(trades=4000, start="now") as sim:
        await sim.finished()
        path = "/fapi/v1/klines?symbol=BTCUSDT&interval=1m"
        rows = (await get(sim, path)).json()
        first = (await get(sim, f"{path}&startTime={rows[0][0]}&limit=1")).json()
        micro = (
            await get(
                sim,
                "/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1",
                headers={"X-MBX-TIME-UNIT": "MICROSECOND"},
            )
        ).json()
        futures_second = await get(sim, "/fapi/v1/klines?symbol=BTCUSDT&interval=1s")

    assert first == rows[:1]
    assert sum(row[8] for row in rows) == len(sim.truth.trades(SWAP))
    assert all(b[0] - a[0] == 60_000 for a, b in itertools.pairwise(rows))
    assert micro[0][0] == rows[-1][0] * 1000
    assert micro[0][6] == micro[0][0] + 60_000_000 - 1
    assert futures_second.json()["code"] == -1120


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v3/depth", 400, -1102),
        ("/api/v3/depth?symbol=NOPE", 400, -1121),
        ("/api/v3/depth?symbol=BTCUSDT&limit=x", 400, -1100),
        ("/fapi/v1/depth?symbol=BTCUSDT&limit=7", 400, -4021),
        ("/api/v3/klines?symbol=BTCUSDT&interval=7m", 400, -1120),
        ("/fapi/v1/historicalTrades?symbol=BTCUSDT&fromId=1", 401, -2014),
        ("/api/v3/exchangeInfo?symbols=BTCUSDT", 400, -1100),
        ("/api/v1/depth", 404, None),
        ("/api/v3/nothing", 404, None),
    ],
)
async def test_a_wrong_call_is_refused_with_the_venues_code(path, status, code):
    async with serve(start="manual") as sim:
        answer = await get(sim, path)

    assert answer.status_code == status
    assert code is None or answer.json()["code"] == code


async def test_a_futures_call_with_a_key_returns_past_trades():
    async with serve(trades=300, start="now") as sim:
        await sim.finished()
        answer = await get(
            sim,
            "/fapi/v1/historicalTrades?symbol=BTCUSDT&fromId=3&limit=1",
            headers={"X-MBX-APIKEY": "k"},
        )

    assert [row["id"] for row in answer.json()] == [3]


# ------------------------------------------------------------------------------------------ faults


async def test_faults_have_binances_message_format():
    faults = [
        simulator.Fault(kind="crossed_book", channel="book", after=2),
        simulator.Fault(kind="crossed_book", channel="quotes", after=20),
        simulator.Fault(kind="huge_batch", after=4),
        simulator.Fault(kind="missing_final_kline"),
    ]
    async with serve(trades=2500, faults=faults, start=3) as sim, dial(sim) as client:
        await client.send_request(
            "SUBSCRIBE", "btcusdt@depth@100ms", "btcusdt@kline_1s", "btcusdt@bookTicker"
        )
        await run(sim, client)
    diffs, quotes = client.streams["btcusdt@depth@100ms"], client.streams["btcusdt@bookTicker"]
    ended = [k["k"]["t"] for k in client.streams["btcusdt@kline_1s"] if k["k"]["x"]]
    started = {k["k"]["t"] for k in client.streams["btcusdt@kline_1s"]}

    assert [float(q["b"]) > float(q["a"]) for q in quotes].count(True) == 1
    assert max(len(diff["a"]) for diff in diffs) >= 1024
    assert all(b["U"] == a["u"] + 1 for a, b in itertools.pairwise(diffs))
    assert ended[0] != min(started | {ended[0] - 1000})
    assert sim.truth.fault_counts() == {
        "crossed_book": 2,
        "huge_batch": 1,
        "missing_final_kline": 1,
    }


async def test_a_huge_delta_does_not_change_the_book():
    fault = simulator.Fault(kind="huge_batch", after=3, every=2, count=0)
    async with serve(trades=2500, faults=[fault]) as sim, dial(sim) as client:
        snapshot = (await get(sim, "/api/v3/depth?symbol=BTCUSDT&limit=5000")).json()
        await client.send_request("SUBSCRIBE", "btcusdt@depth@100ms")
        await run(sim, client)
        final = (await get(sim, "/api/v3/depth?symbol=BTCUSDT&limit=5000")).json()
    bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
    for diff in client.streams["btcusdt@depth@100ms"]:
        for book, changes in ((bids, diff["b"]), (asks, diff["a"])):
            for price, size in changes:
                book[price] = size
                if size == "0.00000000":
                    del book[price]

    assert bids == dict(final["bids"])
    assert asks == dict(final["asks"])
