"""Bybit over REST, told by a simulated market."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tapeloom.units import duration_ns
from tapeloom_simulator.server_api import HttpResponse

from .streams import INTERVALS, Book

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tapeloom_simulator.server_api import HttpRequest, Market

    from .streams import Topic
    from .text import Spelling

__all__ = ["Rest", "refused"]

_MS = 1_000_000


class _Refused(Exception):
    """The venue refuses a call, with a code of its own."""

    def __init__(self, text: str, code: int = 10001) -> None:
        super().__init__(text)
        self.code = code


def refused(code: int, text: str, now: int, status: int = 200, **headers: str) -> HttpResponse:
    """Return an error in the venue's form; *now* is in ms."""
    body = {"retCode": code, "retMsg": text, "result": {}, "retExtInfo": {}, "time": now}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(json.dumps(body, separators=(",", ":")), status, named)


class Rest:
    """``/v5/market``, for all categories. *topic* finds the topic of a name in one of them."""

    def __init__(
        self,
        market: Market,
        spellings: Mapping[str, Mapping[str, Spelling]],
        topic: Callable[[str, str], Topic | None],
    ) -> None:
        self._market, self._spellings, self._topic = market, spellings, topic
        self._paths: dict[str, Callable[[HttpRequest], dict[str, Any]]] = {
            "instruments-info": self._instruments,
            "orderbook": self._book,
            "recent-trade": self._trades,
            "kline": self._klines,
            "tickers": self._tickers,
        }

    def answer(self, path: str, call: HttpRequest) -> HttpResponse:
        """Answer a call."""
        now = self._market.venue_clock // _MS
        try:
            if path == "time":
                result: dict[str, Any] = {
                    "timeSecond": str(now // 1000),
                    "timeNano": str(self._market.venue_clock),
                }
            elif path in self._paths:
                result = self._paths[path](call)
            else:
                return HttpResponse("404 page not found", 404)
        except _Refused as problem:
            return refused(problem.code, str(problem), now)
        body = {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": now}
        return HttpResponse(json.dumps(body, separators=(",", ":")))

    # -------------------------------------------------------------------------- what a call names

    def _all(self, call: HttpRequest) -> Mapping[str, Spelling]:
        category = call.query.get("category", "")
        if category in ("inverse", "option"):  # there is such a market, and nothing in it
            return {}
        if category not in self._spellings:
            raise _Refused("params error: Category is invalid")
        return self._spellings[category]

    def _one(self, call: HttpRequest) -> Spelling:
        found = self._all(call).get(call.query.get("symbol", ""))
        if found is None:
            raise _Refused("Not supported symbols")
        return found

    @staticmethod
    def _number(call: HttpRequest, name: str, usual: int) -> int:
        text = call.query.get(name, str(usual))
        if not text.isdecimal():
            raise _Refused(f"params error: {name} invalid")
        return int(text)

    def _limit(self, call: HttpRequest, usual: int, most: int) -> int:
        return max(1, min(self._number(call, "limit", usual), most))

    # ------------------------------------------------------------------------------------- answers

    def _instruments(self, call: HttpRequest) -> dict[str, Any]:
        query, spot = call.query, call.query.get("category") == "spot"
        some = [
            one
            for one in self._all(call).values()
            if query.get("symbol", one.native) == one.native
            and query.get("baseCoin", one.pit.parsed_symbol.base) == one.pit.parsed_symbol.base
            and query.get("status", "Trading") == "Trading"
        ]
        start = self._number(call, "cursor", 0) if query.get("cursor") else 0
        end = len(some) if spot else start + self._limit(call, 500, 1000)
        more = "" if end >= len(some) else str(end)
        rows = [_listed(one) for one in some[start:end]]
        return {"category": query["category"], "list": rows, "nextPageCursor": more}

    def _book(self, call: HttpRequest) -> dict[str, Any]:
        one = self._one(call)
        limit = self._limit(call, 1 if one.spot else 25, 1000)
        stream = self._topic(call.query["category"], f"orderbook.1000.{one.native}")
        assert isinstance(stream, Book)
        stream.join()  # the numbers here are those of the stream
        told = json.loads(stream.whole()[0])
        top = told["data"]
        bids, asks, u = top["b"], top["a"], top["u"]
        if call.book_lag:
            _, old_bids, old_asks = one.pit.book_snapshot(limit, call.book_lag)
            bids, asks = json.loads(f"[[{one.levels(old_bids)}],[{one.levels(old_asks)}]]")
            u -= call.book_lag
        times = {"ts": told["ts"], "cts": told["cts"], "u": u, "seq": top["seq"]}
        return {"s": one.native, "b": bids[:limit], "a": asks[:limit], **times}

    def _trades(self, call: HttpRequest) -> dict[str, Any]:
        one = self._one(call)
        limit = self._limit(call, 60 if one.spot else 500, 60 if one.spot else 1000)
        last = one.pit.last_trade.id if one.pit.last_trade else 0
        rows = [
            {
                "execId": one.trade_id(fill),
                "symbol": one.native,
                "price": one.price[fill.price],
                "size": one.size[fill.size],
                "side": "Buy" if fill.is_buy else "Sell",
                "time": str(fill.ts // _MS),
                "isBlockTrade": False,
                "isRPITrade": False,
                "seq": str(fill.id),
            }
            for fill in one.pit.trades(max(1, last - limit + 1), limit)
        ]
        return {"category": call.query["category"], "list": rows[::-1]}

    def _klines(self, call: HttpRequest) -> dict[str, Any]:
        one, limit = self._one(call), self._limit(call, 200, 1000)
        interval = INTERVALS.get(call.query.get("interval", ""))
        if interval is None:
            raise _Refused("Invalid period!")
        now = self._market.now
        until = min(self._number(call, "end", now // _MS) * _MS, now)
        length = duration_ns(interval.replace("1M", "31d"))
        since = self._number(call, "start", (until - limit * length) // _MS) * _MS
        since = max(since, until - (limit + 1) * length)
        price, size, quote = one.price, one.size.write, one.quote.write
        rows = [
            [str(c.start // _MS), price[c.open], price[c.high], price[c.low], price[c.close],
             size(c.volume), quote(c.quote_volume)]
            for c in one.pit.bars(interval, since, until, limit + 1)[-limit:]
        ]  # fmt: skip
        return {"symbol": one.native, "category": call.query["category"], "list": rows[::-1]}

    def _tickers(self, call: HttpRequest) -> dict[str, Any]:
        some = [self._one(call)] if "symbol" in call.query else list(self._all(call).values())
        rows = []
        for one in some:
            best, fields = one.pit.top_of_book(), one.day()
            if fields is not None:
                bests = {
                    "bid1Price": one.price[best.bid],
                    "bid1Size": one.size[best.bid_size],
                    "ask1Price": one.price[best.ask],
                    "ask1Size": one.size[best.ask_size],
                }
                rows.append(fields | bests)
        return {"category": call.query["category"], "list": rows}


def _listed(one: Spelling) -> dict[str, Any]:
    parts, tick, lot = one.pit.parsed_symbol, one.price[1], one.size[1]
    common = {"symbol": one.native, "status": "Trading", "baseCoin": parts.base,
              "quoteCoin": parts.quote, "symbolType": ""}  # fmt: skip
    if one.spot:
        return common | {
            "innovation": "0", "marginTrading": "none", "stTag": "0",
            "lotSizeFilter": {"basePrecision": lot, "quotePrecision": one.quote[1],
                              "minOrderQty": lot, "maxOrderQty": one.size.write(10**9),
                              "minOrderAmt": "5", "maxOrderAmt": "8000000"},
            "priceFilter": {"tickSize": tick},
        }  # fmt: skip
    expiry = "0"
    if parts.expiry:
        day = datetime.strptime(f"{parts.expiry}08", "%y%m%d%H").replace(tzinfo=UTC)
        expiry = str(int(day.timestamp()) * 1000)
    return common | {
        "contractType": "LinearFutures" if parts.expiry else "LinearPerpetual",
        "launchTime": "1585526400000", "deliveryTime": expiry, "deliveryFeeRate": "",
        "priceScale": str(max(0, -int(one.pit.tick.as_tuple().exponent))),
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        "priceFilter": {"minPrice": tick, "maxPrice": one.price.write(10**9), "tickSize": tick},
        "lotSizeFilter": {"maxOrderQty": one.size.write(10**9), "minOrderQty": lot, "qtyStep": lot,
                          "maxMktOrderQty": one.size.write(10**8), "minNotionalValue": "5"},
        "unifiedMarginTrade": True, "fundingInterval": 480, "settleCoin": parts.settle,
        "copyTrading": "none", "isPreListing": False, "preListingInfo": None,
    }  # fmt: skip
