"""What Binance (spot), Bybit (linear and spot) and Hyperliquid (perpetuals) send, and how they answer.

Written from the venues' documentation. A wire encodes frames of trades, answers messages of a client,
and answers requests over REST from the trades of the market.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, urlsplit

from .market import Ids, Market, Symbol, TrueTrade


class Answer(NamedTuple):
    """What a wire answers to a message: texts to send, and subscriptions that begin and end."""

    texts: list[str] = []
    begins: tuple[str, ...] = ()  #: the venue's names of symbols
    ends: tuple[str, ...] = ()


class Wire(Protocol):
    """The wire format of a venue."""

    plugin: str  #: the plugin of tapeloom for it
    market_name: str  #: the market in a stack
    ids: Ids
    removes_repeats: bool  #: the plugin itself removes trades that come twice
    ping_seconds: float  #: between pings of the server; 0: it sends none

    def symbols(self, rates: Sequence[float]) -> list[Symbol]:
        """Return the symbols of the market, with their rates."""
        ...

    def trades(self, trades: Sequence[TrueTrade]) -> list[str]:
        """Return the texts of frames with these trades of one symbol."""
        ...

    def answer(self, text: str, market: Market) -> Answer:
        """Return the answer to a client's message."""
        ...

    def rest(self, target: str, body: bytes, market: Market) -> Any:
        """Return the JSON to answer a request with; None: there is no such address."""
        ...

    def closing_notice(self, market: Market) -> str | None:
        """Return the text that announces that the venue will close the connection, if it has one."""
        ...


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _symbols(rates: Sequence[float], native: str, unified: str) -> list[Symbol]:
    bases = ("BTC", "ETH", "SOL", "XRP", "ADA", "LTC")
    return [
        Symbol(native.format(base), unified.format(base), rate, Decimal(1000 * (place + 1)), 7_000 + 911 * place)
        for place, (base, rate) in enumerate(zip(bases, rates, strict=False))
    ]  # fmt: skip


class Binance:
    """Spot: combined streams of raw trades with numbers; 1,000 trades an answer, from any number."""

    plugin, market_name, ids = "binance", "spot", "numbers"
    removes_repeats, ping_seconds = False, 20.0

    def symbols(self, rates: Sequence[float]) -> list[Symbol]:
        return _symbols(rates, "{}USDT", "{}/USDT")

    def trades(self, trades: Sequence[TrueTrade]) -> list[str]:
        return [
            _text(
                {
                    "stream": f"{trade.symbol.lower()}@trade",
                    "data": {
                        "e": "trade", "E": trade.ts_ms + 1, "s": trade.symbol, "t": trade.number,
                        "p": str(trade.price), "q": str(trade.size), "T": trade.ts_ms,
                        "m": not trade.is_buy, "M": True,
                    },
                }
            )
            for trade in trades
        ]  # fmt: skip

    def answer(self, text: str, market: Market) -> Answer:
        message = json.loads(text)
        streams = [name.partition("@") for name in message.get("params", ())]
        natives = tuple(name.upper() for name, _, kind in streams if kind == "trade")
        reply = [_text({"result": None, "id": message["id"]})]
        if message["method"] == "SUBSCRIBE":
            return Answer(reply, begins=natives)
        return Answer(reply, ends=natives)

    def rest(self, target: str, body: bytes, market: Market) -> Any:
        url = urlsplit(target)
        query = dict(parse_qsl(url.query))
        if url.path == "/api/v3/exchangeInfo":
            filters = [
                {"filterType": "PRICE_FILTER", "minPrice": "0.1", "maxPrice": "1000000", "tickSize": "0.1"},
                {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "9000", "stepSize": "0.001"},
            ]  # fmt: skip
            listed = [
                {"symbol": name, "status": "TRADING", "baseAsset": name[:-4], "quoteAsset": "USDT", "filters": filters}
                for name in market.symbols
            ]  # fmt: skip
            return {
                "timezone": "UTC",
                "serverTime": market.now_ms(),
                "rateLimits": [],
                "symbols": listed,
            }
        if url.path != "/api/v3/historicalTrades":
            return None
        symbol = market.symbols[query["symbol"]]
        limit = min(int(query.get("limit", "500")), 1000)
        if "fromId" in query:
            start = max(int(query["fromId"]) - symbol.first_number, 0)
            rows = symbol.trades[start : start + limit]
        else:
            rows = symbol.trades[-limit:]
        return [
            {
                "id": trade.number, "price": str(trade.price), "qty": str(trade.size),
                "quoteQty": str(trade.price * trade.size), "time": trade.ts_ms,
                "isBuyerMaker": not trade.is_buy, "isBestMatch": True,
            }
            for trade in rows
        ]  # fmt: skip

    def closing_notice(self, market: Market) -> str | None:
        data = {"e": "serverShutdown", "E": market.now_ms()}
        return _text({"stream": "!serverShutdown", "data": data})


class Bybit:
    """One market: batches of trades with names; only the newest 60 (spot) or 1,000 trades over REST."""

    plugin, ids = "bybit", "names"
    removes_repeats, ping_seconds = False, 0.0

    def __init__(self, market_name: str = "linear") -> None:
        self.market_name = market_name

    def symbols(self, rates: Sequence[float]) -> list[Symbol]:
        return _symbols(
            rates, "{}USDT", "{}/USDT" if self.market_name == "spot" else "{}/USDT:USDT"
        )

    def trades(self, trades: Sequence[TrueTrade]) -> list[str]:
        rows = [
            {
                "T": trade.ts_ms, "s": trade.symbol, "S": "Buy" if trade.is_buy else "Sell",
                "v": str(trade.size), "p": str(trade.price), "L": "PlusTick", "i": trade.name,
                "BT": False, "RPI": False, "seq": trade.sequence,
            }
            for trade in trades
        ]  # fmt: skip
        topic, ts = f"publicTrade.{trades[0].symbol}", trades[-1].ts_ms + 2
        return [_text({"topic": topic, "type": "snapshot", "ts": ts, "data": rows})]

    def answer(self, text: str, market: Market) -> Answer:
        message = json.loads(text)
        common = {"success": True, "conn_id": "2324d924-aa4d-45b0-a858-7b8be29ab52b"}
        op, request_id = message["op"], message.get("req_id", "")
        if op == "ping":
            return Answer(
                [_text({**common, "ret_msg": "pong", "req_id": request_id, "op": "ping"})]
            )
        natives = tuple(topic.removeprefix("publicTrade.") for topic in message["args"])
        ret_msg = "subscribe" if self.market_name == "spot" else ""
        reply = [_text({**common, "ret_msg": ret_msg, "req_id": request_id, "op": op})]
        return Answer(reply, begins=natives) if op == "subscribe" else Answer(reply, ends=natives)

    def rest(self, target: str, body: bytes, market: Market) -> Any:
        url = urlsplit(target)
        query = dict(parse_qsl(url.query))
        if query.get("category") != self.market_name:
            return None
        if url.path == "/v5/market/instruments-info":
            rows: list[Any] = [self._listed(name) for name in market.symbols]
        elif url.path == "/v5/market/recent-trade":
            most = 60 if self.market_name == "spot" else 1000
            limit = min(int(query.get("limit", "500")), most)
            rows = [
                {
                    "execId": trade.name, "symbol": trade.symbol, "price": str(trade.price),
                    "size": str(trade.size), "side": "Buy" if trade.is_buy else "Sell",
                    "time": str(trade.ts_ms), "isBlockTrade": False, "isRPITrade": False,
                    "seq": str(trade.sequence),
                }
                for trade in reversed(market.symbols[query["symbol"]].trades[-limit:])
            ]  # fmt: skip
        else:
            return None
        result = {"category": self.market_name, "list": rows, "nextPageCursor": ""}
        return {
            "retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {},
            "time": market.now_ms(),
        }  # fmt: skip

    def _listed(self, name: str) -> dict[str, Any]:
        row: dict[str, Any] = {
            "symbol": name, "status": "Trading", "baseCoin": name[:-4], "quoteCoin": "USDT",
            "priceFilter": {"minPrice": "0.1", "maxPrice": "1000000", "tickSize": "0.1"},
        }  # fmt: skip
        if self.market_name == "spot":
            return row | {
                "lotSizeFilter": {"basePrecision": "0.001", "quotePrecision": "0.0000001"}
            }
        lot = {"maxOrderQty": "1000", "minOrderQty": "0.001", "qtyStep": "0.001"}
        contract = {"contractType": "LinearPerpetual", "settleCoin": "USDT", "deliveryTime": "0"}
        return row | contract | {"lotSizeFilter": lot}

    def closing_notice(self, market: Market) -> str | None:
        return None


class Hyperliquid:
    """Perpetuals: batches of trades with hashes; the newest trades on subscribing and over REST."""

    plugin, market_name, ids = "hyperliquid", "perp", "hashes"
    removes_repeats, ping_seconds = True, 0.0
    #: Trades in the batch that follows an acknowledgement, and in an answer to ``recentTrades``.
    first_batch, recent = 20, 100

    def symbols(self, rates: Sequence[float]) -> list[Symbol]:
        return _symbols(rates, "{}", "{}/USDC:USDC")

    def _rows(self, trades: Sequence[TrueTrade]) -> list[dict[str, Any]]:
        users = ["0x" + "ab" * 20, "0x" + "cd" * 20]
        return [
            {
                "coin": trade.symbol, "side": "B" if trade.is_buy else "A", "px": str(trade.price),
                "sz": str(trade.size), "time": trade.ts_ms, "hash": f"0x{trade.sequence:064x}",
                "tid": int(trade.name), "users": users,
            }
            for trade in trades
        ]  # fmt: skip

    def trades(self, trades: Sequence[TrueTrade]) -> list[str]:
        return [_text({"channel": "trades", "data": self._rows(trades)})]

    def answer(self, text: str, market: Market) -> Answer:
        message = json.loads(text)
        if message["method"] == "ping":
            return Answer([_text({"channel": "pong"})])
        subscription = message["subscription"]
        coin, is_begin = subscription["coin"], message["method"] == "subscribe"
        data = {"method": message["method"], "subscription": subscription}
        texts = [_text({"channel": "subscriptionResponse", "data": data})]
        if not is_begin:
            return Answer(texts, ends=(coin,))
        texts += self.trades(market.symbols[coin].trades[-self.first_batch :])
        return Answer(texts, begins=(coin,))

    def rest(self, target: str, body: bytes, market: Market) -> Any:
        if urlsplit(target).path != "/info":
            return None
        request = json.loads(body)
        if request["type"] == "meta":
            universe = [
                {"name": name, "szDecimals": 3, "maxLeverage": 40, "marginTableId": 56}
                for name in market.symbols
            ]
            return {"universe": universe, "marginTables": [], "collateralToken": 0}
        if request["type"] == "recentTrades":
            return self._rows(market.symbols[request["coin"]].trades[: -self.recent - 1 : -1])
        return None

    def closing_notice(self, market: Market) -> str | None:
        return None
