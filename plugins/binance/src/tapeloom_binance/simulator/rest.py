"""Binance's REST interface, with answers made from a simulated market."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tapeloom.units import duration_ns
from tapeloom_simulator.server_api import Answer

from .streams import INTERVALS, MAX_LENGTHS
from .text import price_change, top_of_book

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tapeloom_simulator.server_api import Call, Candle, Fill, Market

    from .text import SymbolFormat

__all__ = ["Refused", "Rest", "error"]

#: The weight of a call on spot and on futures.
_WEIGHTS = {
    "ping": (1, 1), "time": (1, 1), "exchangeInfo": (20, 1), "trades": (25, 5),
    "historicalTrades": (25, 200), "aggTrades": (4, 20), "ticker/bookTicker": (2, 2),
    "ticker/price": (2, 1),
}  # fmt: skip
#: The limits that futures accept for a book snapshot.
_FUTURES_DEPTHS = (5, 10, 20, 50, 100, 500, 1000)


class Refused(Exception):
    """Raised where the venue refuses a call; `answer` is its HTTP response."""

    def __init__(self, code: int, text: str, status: int = 400) -> None:
        self.answer = error(code, text, status)
        super().__init__(text)


def error(code: int, text: str, status: int = 400, **headers: str) -> Answer:
    """Return the HTTP response of an error, in the venue's JSON form."""
    return Answer(json.dumps({"code": code, "msg": text}, separators=(",", ":")), status, headers)


def weight(spot: bool, path: str, query: Mapping[str, str]) -> int:
    """Return the weight of a call."""
    limit = int(query["limit"]) if query.get("limit", "").isdigit() else 0
    if path == "depth":
        limit = limit or (100 if spot else 500)
        steps = ((100, 5), (500, 25), (1000, 50)) if spot else ((50, 2), (100, 5), (500, 10))
        return next((cost for maximum, cost in steps if limit <= maximum), 250 if spot else 20)
    if path == "klines":
        steps = ((100, 1), (500, 2), (1001, 5))
        return (
            2 if spot else next((cost for maximum, cost in steps if (limit or 500) < maximum), 10)
        )
    if path == "ticker/24hr":
        return (2 if spot else 1) if "symbol" in query else (80 if spot else 40)
    return _WEIGHTS.get(path, (1, 1))[0 if spot else 1]


class Rest:
    """The REST interface of one market."""

    def __init__(self, market: Market, formats: dict[str, SymbolFormat], name: str) -> None:
        self._market, self._formats = market, formats
        self._spot, self._inverse = name == "spot", name == "coinm"
        self._paths: dict[str, Callable[[Call, int], str]] = {
            "ping": lambda _, __: "{}",
            "time": self._time,
            "exchangeInfo": self._exchange_info,
            "depth": self._depth,
            "trades": self._trades,
            "historicalTrades": self._historical_trades,
            "aggTrades": self._aggregate_trades,
            "klines": self._klines,
            "ticker/24hr": self._ticker_24h,
            "ticker/bookTicker": self._book_tickers,
            "ticker/price": self._last_prices,
        }

    def answer(self, path: str, call: Call) -> Answer:
        """Return the answer to a call; *path* is its path without the prefix of the market."""
        if path not in self._paths:
            return Answer("<html><body><h2>404 Not found</h2></body></html>", 404)
        unit = call.headers.get("x-mbx-time-unit", "").upper() if self._spot else ""
        try:
            if unit not in ("", "MILLISECOND", "MICROSECOND"):
                raise Refused(
                    -1194,
                    "Invalid value for time unit; expected either MICROSECOND or MILLISECOND.",
                )
            return Answer(self._paths[path](call, 1_000 if unit == "MICROSECOND" else 1_000_000))
        except Refused as refused:
            return refused.answer

    # ------------------------------------------------------------------------------- parameters

    def _requested_symbol(self, call: Call) -> SymbolFormat:
        name = call.query.get("symbol")
        if not name:
            raise Refused(
                -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
            )
        if name not in self._formats:
            raise Refused(-1121, "Invalid symbol.")
        return self._formats[name]

    def _requested_symbols(self, call: Call) -> list[SymbolFormat]:
        """Return the symbols named by `symbol` or `symbols`; all if neither is given."""
        if "symbols" in call.query:
            try:
                names = json.loads(call.query["symbols"])
            except json.JSONDecodeError:
                names = None
            if not isinstance(names, list):
                raise Refused(-1100, "Illegal characters found in parameter 'symbols'.")
            if any(name not in self._formats for name in names):
                raise Refused(-1121, "Invalid symbol.")
            return [self._formats[name] for name in names]
        return (
            [self._requested_symbol(call)]
            if "symbol" in call.query
            else list(self._formats.values())
        )

    @staticmethod
    def _int_parameter(call: Call, name: str) -> int | None:
        text = call.query.get(name)
        if text is None:
            return None
        if not text.isdigit():
            raise Refused(
                -1100,
                f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.",
            )
        return int(text)

    def _limit_parameter(self, call: Call, default: int, maximum: int) -> int:
        limit = self._int_parameter(call, "limit")
        if limit == 0:
            raise Refused(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(limit or default, maximum)

    def _time_parameter(self, call: Call, name: str) -> int | None:
        """Return a time in ns. The call may give ms or µs; the size of the number shows which."""
        number = self._int_parameter(call, name)
        return None if number is None else number * (1_000 if number > 10**14 else 1_000_000)

    # ------------------------------------------------------------------------------------- answers

    def _time(self, _: Call, unit_ns: int) -> str:
        return f'{{"serverTime":{self._market.clock // unit_ns}}}'

    def _depth(self, call: Call, unit_ns: int) -> str:
        fmt = self._requested_symbol(call)
        limit = self._limit_parameter(
            call, 100 if self._spot else 500, 5000 if self._spot else 1000
        )
        if not self._spot and limit not in _FUTURES_DEPTHS:
            raise Refused(-4021, f"{limit} is not valid depth limit.")
        last, bids, asks = fmt.instrument.ladder(limit, call.lag)
        times = (
            ""
            if self._spot
            else f'"E":{self._market.clock // unit_ns},"T":{self._market.now // unit_ns},'
        )
        if self._inverse:
            times += f'"symbol":"{fmt.native}","pair":"{fmt.pair}",'
        return f'{{"lastUpdateId":{last},{times}"bids":[{fmt.levels(bids)}],"asks":[{fmt.levels(asks)}]}}'

    def _trades(self, call: Call, unit_ns: int) -> str:
        fmt, limit = self._requested_symbol(call), self._limit_parameter(call, 500, 1000)
        last = fmt.instrument.last.id if fmt.instrument.last else 0
        return self._trade_rows(fmt, fmt.instrument.fills(max(1, last - limit + 1), limit), unit_ns)

    def _historical_trades(self, call: Call, unit_ns: int) -> str:
        if not self._spot and "x-mbx-apikey" not in call.headers:
            raise Refused(-2014, "API-key format invalid.", 401)
        first = self._int_parameter(call, "fromId")
        if first is None:
            return self._trades(call, unit_ns)
        fmt, limit = self._requested_symbol(call), self._limit_parameter(call, 500, 1000)
        return self._trade_rows(fmt, fmt.instrument.fills(max(1, first), limit), unit_ns)

    def _trade_rows(self, fmt: SymbolFormat, fills: list[Fill], unit_ns: int) -> str:
        suffix = ',"isBestMatch":true' if self._spot else ',"isRPITrade":false'
        turnover_key, suffix = ("baseQty", "") if self._inverse else ("quoteQty", suffix)
        rows = [
            f'{{"id":{f.id},"price":"{fmt.price[f.price]}","qty":"{fmt.size[f.size]}",'
            f'"{turnover_key}":"{fmt.turnover(f.size, f.price * f.size)}","time":{f.ts // unit_ns},'
            f'"isBuyerMaker":{"false" if f.buy else "true"}{suffix}}}'
            for f in fills
        ]
        return f"[{','.join(rows)}]"

    def _aggregate_trades(self, call: Call, unit_ns: int) -> str:
        fmt, limit = self._requested_symbol(call), self._limit_parameter(call, 500, 1000)
        since = self._time_parameter(call, "startTime")
        until = self._time_parameter(call, "endTime")
        first = self._int_parameter(call, "fromId")
        if first is None and since is not None:
            first_trade = fmt.instrument.first_since(since)
            first = first_trade.aggregate if first_trade else 1 << 62
        elif first is None:
            last = fmt.instrument.last.aggregate if fmt.instrument.last else 0
            first = max(1, last - limit + 1)
        rows = []
        for fills in fmt.instrument.aggregates(first, limit):
            f, last_id, total = fills[0], fills[-1].id, sum(fill.size for fill in fills)
            if until is not None and f.ts > until:
                break
            size = fmt.size[total]
            suffix = ',"M":true' if self._spot else f',"nq":"{size}"'
            rows.append(
                f'{{"a":{f.aggregate},"p":"{fmt.price[f.price]}","q":"{size}","f":{f.id},"l":{last_id},'
                f'"T":{f.ts // unit_ns},"m":{"false" if f.buy else "true"}{suffix}}}'
            )
        return f"[{','.join(rows)}]"

    def _klines(self, call: Call, unit_ns: int) -> str:
        fmt = self._requested_symbol(call)
        limit = self._limit_parameter(call, 500, 1000 if self._spot else 1500)
        interval = call.query.get("interval", "")
        if interval not in (INTERVALS if self._spot else INTERVALS[1:]):
            raise Refused(-1120, "Invalid interval.")
        since = self._time_parameter(call, "startTime")
        until = self._time_parameter(call, "endTime")
        until = self._market.now if until is None else min(until, self._market.now)
        if since is not None:
            # COIN-M returns the last bars of a time span, the other markets the first.
            count = 1_000_000 if self._inverse else limit
            candles = fmt.instrument.candles(interval, since, until, count)
            candles = candles[-limit:]
        else:
            length = duration_ns(MAX_LENGTHS.get(interval, interval))
            since = until - limit * length
            candles = fmt.instrument.candles(interval, since, until, limit + 1)[-limit:]
        return f"[{','.join(self._kline_row(fmt, candle, unit_ns) for candle in candles)}]"

    @staticmethod
    def _kline_row(fmt: SymbolFormat, c: Candle, unit_ns: int) -> str:
        price, size, turnover = fmt.price, fmt.size.write, fmt.turnover
        return (
            f'[{c.start // unit_ns},"{price[c.open]}","{price[c.high]}","{price[c.low]}","{price[c.close]}",'
            f'"{size(c.volume)}",{c.end // unit_ns - 1},"{turnover(c.volume, c.quote)}",{c.trades},"{size(c.bought)}",'
            f'"{turnover(c.bought, c.bought_quote)}","0"]'
        )

    def _pair_member(self, fmt: SymbolFormat) -> str:
        return f'"pair":"{fmt.pair}",' if self._inverse else ""

    def _one_or_list(self, call: Call, rows: list[str]) -> str:
        # COIN-M always answers with a list.
        is_single = "symbol" in call.query and not self._inverse
        return rows[0] if is_single else f"[{','.join(rows)}]"

    def _ticker_24h(self, call: Call, unit_ns: int) -> str:
        rows = []
        now = self._market.now
        for fmt in self._requested_symbols(call):
            day, last = fmt.instrument.day(now), fmt.instrument.last
            if day is None or last is None:
                continue
            change, percent, mean = price_change(day, fmt)
            best = _rest_names(top_of_book(fmt)) + "," if self._spot else self._pair_member(fmt)
            turnover_key = "baseVolume" if self._inverse else "quoteVolume"
            rows.append(
                f'{{"symbol":"{fmt.native}","priceChange":"{change}","priceChangePercent":"{percent}",'
                f'"weightedAvgPrice":"{mean}","lastPrice":"{fmt.price[day.close]}","lastQty":"{fmt.size[last.size]}",'
                f'{best}"openPrice":"{fmt.price[day.open]}","highPrice":"{fmt.price[day.high]}",'
                f'"lowPrice":"{fmt.price[day.low]}","volume":"{fmt.size.write(day.volume)}",'
                f'"{turnover_key}":"{fmt.turnover(day.volume, day.quote)}","openTime":{day.start // unit_ns},'
                f'"closeTime":{now // unit_ns},"firstId":{day.first},"lastId":{day.last},"count":{day.trades}}}'
            )
        return self._one_or_list(call, rows) if rows else "[]"

    def _book_tickers(self, call: Call, unit_ns: int) -> str:
        times = "" if self._spot else f',"time":{self._market.now // unit_ns}'
        rows = [
            f'{{"symbol":"{fmt.native}",{self._pair_member(fmt)}{_rest_names(top_of_book(fmt))}{times}}}'
            for fmt in self._requested_symbols(call)
        ]
        return self._one_or_list(call, rows)

    def _last_prices(self, call: Call, unit_ns: int) -> str:
        rows = []
        for fmt in self._requested_symbols(call):
            price = fmt.instrument.last.price if fmt.instrument.last else fmt.instrument.best().bid
            times = "" if self._spot else f',"time":{self._market.now // unit_ns}'
            rows.append(f'{{"symbol":"{fmt.native}","price":"{fmt.price[price]}"{times}}}')
        return self._one_or_list(call, rows)

    def _exchange_info(self, call: Call, unit_ns: int) -> str:
        limits = [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1,
             "limit": 6000 if self._spot else 2400},
        ]  # fmt: skip
        if self._spot:
            limits.append(
                {
                    "rateLimitType": "RAW_REQUESTS",
                    "interval": "MINUTE",
                    "intervalNum": 5,
                    "limit": 300_000,
                }
            )
        formats = self._requested_symbols(call) if self._spot else list(self._formats.values())
        return json.dumps(
            {"timezone": "UTC", "serverTime": self._market.clock // unit_ns, "rateLimits": limits,
             "exchangeFilters": [], "symbols": [self._symbol_info(fmt) for fmt in formats]},
            separators=(",", ":"),
        )  # fmt: skip

    def _symbol_info(self, fmt: SymbolFormat) -> dict[str, Any]:
        parts, tick, lot = fmt.instrument.parts, fmt.price[1], fmt.size[1]
        filters: list[dict[str, Any]] = [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": tick,
                "maxPrice": fmt.price.write(10**12),
                "tickSize": tick,
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": lot,
                "maxQty": fmt.size.write(10**12),
                "stepSize": lot,
            },
        ]
        listing: dict[str, Any] = {
            "symbol": fmt.native,
            "status": "TRADING",
            "baseAsset": parts.base,
        }
        if self._spot:
            filters.append({"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True,
                            "maxNotional": "9000000.00000000", "applyMaxToMarket": False, "avgPriceMins": 5})  # fmt: skip
            return listing | {
                "baseAssetPrecision": 8, "quoteAsset": parts.quote, "quotePrecision": 8, "quoteAssetPrecision": 8,
                "orderTypes": ["LIMIT", "MARKET"], "isSpotTradingAllowed": True, "filters": filters,
                "permissions": [], "permissionSets": [["SPOT"]],
            }  # fmt: skip
        filters.append(
            {
                "filterType": "MARKET_LOT_SIZE",
                "minQty": lot,
                "maxQty": fmt.size.write(10**9),
                "stepSize": lot,
            }
        )
        if self._inverse:
            listing["contractStatus"] = listing.pop("status")
            listing["contractSize"] = fmt.contract_size
        else:
            filters.append({"filterType": "MIN_NOTIONAL", "notional": "5.0"})
        dated = bool(parts.expiry)
        return listing | {
            "pair": fmt.pair, "contractType": "CURRENT_QUARTER" if dated else "PERPETUAL",
            "deliveryDate": _delivery_ms(parts.expiry) if dated else 4_133_404_800_000,
            "onboardDate": 1_569_398_400_000, "quoteAsset": parts.quote, "marginAsset": parts.settle,
            "pricePrecision": fmt.price.decimals, "quantityPrecision": fmt.size.decimals,
            "baseAssetPrecision": 8, "quotePrecision": 8, "underlyingType": "COIN", "filters": filters,
        }  # fmt: skip


def _rest_names(members: str) -> str:
    """Replace the streams' short names of the best bid and ask by the names of REST."""
    for short, long in (("b", "bidPrice"), ("B", "bidQty"), ("a", "askPrice"), ("A", "askQty")):
        members = members.replace(f'"{short}":', f'"{long}":')
    return members


def _delivery_ms(expiry: str) -> int:
    """Return the time of delivery in ms: 8:00 UTC on the day of expiry."""
    from datetime import UTC, datetime

    day = datetime.strptime(expiry + "08", "%y%m%d%H").replace(tzinfo=UTC)
    return int(day.timestamp()) * 1000
