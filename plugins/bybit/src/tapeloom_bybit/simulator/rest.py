"""Bybit's REST interface, with answers made from a simulated market."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tapeloom.units import duration_ns
from tapeloom_simulator.server_api import HttpResponse

from .streams import INTERVALS, BookTopic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tapeloom_simulator.server_api import HttpRequest, Market

    from .streams import Topic
    from .text import SymbolFormat

__all__ = ["Rest", "refusal"]

_MS = 1_000_000


class _CallRefused(Exception):
    """Raised where the venue refuses a call; `code` is the venue's error code."""

    def __init__(self, text: str, code: int = 10001) -> None:
        super().__init__(text)
        self.code = code


def refusal(code: int, text: str, now: int, status: int = 200, **headers: str) -> HttpResponse:
    """Return the HTTP response of an error, in the venue's JSON form; *now* is in ms.

    Underscores in the names of *headers* become hyphens.
    """
    body = {"retCode": code, "retMsg": text, "result": {}, "retExtInfo": {}, "time": now}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(json.dumps(body, separators=(",", ":")), status, named)


class Rest:
    """Answers calls of ``/v5/market`` for all categories.

    *find_topic* returns the topic of a category and a name.
    """

    def __init__(
        self,
        market: Market,
        formats: Mapping[str, Mapping[str, SymbolFormat]],
        find_topic: Callable[[str, str], Topic | None],
    ) -> None:
        self._market, self._formats, self._find_topic = market, formats, find_topic
        self._paths: dict[str, Callable[[HttpRequest], dict[str, Any]]] = {
            "instruments-info": self._instruments_info,
            "orderbook": self._book,
            "recent-trade": self._recent_trades,
            "kline": self._klines,
            "tickers": self._tickers,
        }

    def respond(self, path: str, call: HttpRequest) -> HttpResponse:
        """Return the answer to a call; *path* is its path without ``/v5/market/``."""
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
        except _CallRefused as refused:
            return refusal(refused.code, str(refused), now)
        body = {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": now}
        return HttpResponse(json.dumps(body, separators=(",", ":")))

    # ------------------------------------------------------------------------------- parameters

    def _requested_market(self, call: HttpRequest) -> Mapping[str, SymbolFormat]:
        category = call.query.get("category", "")
        if category in ("inverse", "option"):  # the venue has these markets; here they are empty
            return {}
        if category not in self._formats:
            raise _CallRefused("params error: Category is invalid")
        return self._formats[category]

    def _requested_symbol(self, call: HttpRequest) -> SymbolFormat:
        fmt = self._requested_market(call).get(call.query.get("symbol", ""))
        if fmt is None:
            raise _CallRefused("Not supported symbols")
        return fmt

    @staticmethod
    def _int_parameter(call: HttpRequest, name: str, default: int) -> int:
        text = call.query.get(name, str(default))
        if not text.isdecimal():
            raise _CallRefused(f"params error: {name} invalid")
        return int(text)

    def _limit_parameter(self, call: HttpRequest, default: int, maximum: int) -> int:
        return max(1, min(self._int_parameter(call, "limit", default), maximum))

    # ------------------------------------------------------------------------------------- answers

    def _instruments_info(self, call: HttpRequest) -> dict[str, Any]:
        query, is_spot = call.query, call.query.get("category") == "spot"
        formats = [
            fmt
            for fmt in self._requested_market(call).values()
            if query.get("symbol", fmt.native) == fmt.native
            and query.get("baseCoin", fmt.instrument.parsed_symbol.base)
            == fmt.instrument.parsed_symbol.base
            and query.get("status", "Trading") == "Trading"
        ]
        start = self._int_parameter(call, "cursor", 0) if query.get("cursor") else 0
        end = len(formats) if is_spot else start + self._limit_parameter(call, 500, 1000)
        next_cursor = "" if end >= len(formats) else str(end)
        rows = [_symbol_info(fmt) for fmt in formats[start:end]]
        return {"category": query["category"], "list": rows, "nextPageCursor": next_cursor}

    def _book(self, call: HttpRequest) -> dict[str, Any]:
        fmt = self._requested_symbol(call)
        limit = self._limit_parameter(call, 1 if fmt.is_spot else 25, 1000)
        topic = self._find_topic(call.query["category"], f"orderbook.1000.{fmt.native}")
        assert isinstance(topic, BookTopic)
        topic.join()  # REST has the same update ids as the topic
        push = json.loads(topic.snapshot()[0])
        book = push["data"]
        bids, asks, u = book["b"], book["a"], book["u"]
        if call.book_lag:
            _, old_bids, old_asks = fmt.instrument.book_snapshot(limit, call.book_lag)
            bids, asks = json.loads(f"[[{fmt.levels(old_bids)}],[{fmt.levels(old_asks)}]]")
            u -= call.book_lag
        times = {"ts": push["ts"], "cts": push["cts"], "u": u, "seq": book["seq"]}
        return {"s": fmt.native, "b": bids[:limit], "a": asks[:limit], **times}

    def _recent_trades(self, call: HttpRequest) -> dict[str, Any]:
        fmt = self._requested_symbol(call)
        default, maximum = (60, 60) if fmt.is_spot else (500, 1000)
        limit = self._limit_parameter(call, default, maximum)
        last = fmt.instrument.last_trade.id if fmt.instrument.last_trade else 0
        rows = [
            {
                "execId": fmt.trade_id(trade),
                "symbol": fmt.native,
                "price": fmt.price[trade.price],
                "size": fmt.size[trade.size],
                "side": "Buy" if trade.is_buy else "Sell",
                "time": str(trade.ts // _MS),
                "isBlockTrade": False,
                "isRPITrade": False,
                "seq": str(trade.id),
            }
            for trade in fmt.instrument.trades(max(1, last - limit + 1), limit)
        ]
        return {"category": call.query["category"], "list": rows[::-1]}

    def _klines(self, call: HttpRequest) -> dict[str, Any]:
        fmt, limit = self._requested_symbol(call), self._limit_parameter(call, 200, 1000)
        interval = INTERVALS.get(call.query.get("interval", ""))
        if interval is None:
            raise _CallRefused("Invalid period!")
        now = self._market.now
        until = min(self._int_parameter(call, "end", now // _MS) * _MS, now)
        length = duration_ns(interval.replace("1M", "31d"))
        since = self._int_parameter(call, "start", (until - limit * length) // _MS) * _MS
        since = max(since, until - (limit + 1) * length)
        price, size, quote = fmt.price, fmt.size.write, fmt.quote.write
        rows = [
            [str(c.start // _MS), price[c.open], price[c.high], price[c.low], price[c.close],
             size(c.volume), quote(c.quote_volume)]
            for c in fmt.instrument.bars(interval, since, until, limit + 1)[-limit:]
        ]  # fmt: skip
        return {"symbol": fmt.native, "category": call.query["category"], "list": rows[::-1]}

    def _tickers(self, call: HttpRequest) -> dict[str, Any]:
        if "symbol" in call.query:
            formats = [self._requested_symbol(call)]
        else:
            formats = list(self._requested_market(call).values())
        rows = []
        for fmt in formats:
            best, fields = fmt.instrument.top_of_book(), fmt.ticker_fields()
            if fields is not None:
                top_of_book = {
                    "bid1Price": fmt.price[best.bid],
                    "bid1Size": fmt.size[best.bid_size],
                    "ask1Price": fmt.price[best.ask],
                    "ask1Size": fmt.size[best.ask_size],
                }
                rows.append(fields | top_of_book)
        return {"category": call.query["category"], "list": rows}


def _symbol_info(fmt: SymbolFormat) -> dict[str, Any]:
    # Formats turn a number of ticks or lots into decimal text, so 1 gives the tick or lot itself.
    parts, tick, lot = fmt.instrument.parsed_symbol, fmt.price[1], fmt.size[1]
    common = {"symbol": fmt.native, "status": "Trading", "baseCoin": parts.base,
              "quoteCoin": parts.quote, "symbolType": ""}  # fmt: skip
    if fmt.is_spot:
        return common | {
            "innovation": "0", "marginTrading": "none", "stTag": "0",
            "lotSizeFilter": {"basePrecision": lot, "quotePrecision": fmt.quote[1],
                              "minOrderQty": lot, "maxOrderQty": fmt.size.write(10**9),
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
        "priceScale": str(max(0, -int(fmt.instrument.tick.as_tuple().exponent))),
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        "priceFilter": {"minPrice": tick, "maxPrice": fmt.price.write(10**9), "tickSize": tick},
        "lotSizeFilter": {"maxOrderQty": fmt.size.write(10**9), "minOrderQty": lot, "qtyStep": lot,
                          "maxMktOrderQty": fmt.size.write(10**8), "minNotionalValue": "5"},
        "unifiedMarginTrade": True, "fundingInterval": 480, "settleCoin": parts.settle,
        "copyTrading": "none", "isPreListing": False, "preListingInfo": None,
    }  # fmt: skip
