"""Binance over REST, told by a simulated market."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tapeloom.units import duration_ns
from tapeloom_simulator.server_api import HttpResponse

from .streams import INTERVALS, LENGTHS
from .text import bests_of, statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tapeloom_simulator.server_api import HttpRequest, Market, MarketBar, MarketTrade

    from .text import Spelling

__all__ = ["Refused", "Rest", "error"]

_WEIGHTS = {  # spot, futures
    "ping": (1, 1), "time": (1, 1), "exchangeInfo": (20, 1), "trades": (25, 5),
    "historicalTrades": (25, 200), "aggTrades": (4, 20), "ticker/bookTicker": (2, 2),
    "ticker/price": (2, 1),
}  # fmt: skip
_DEPTHS = (5, 10, 20, 50, 100, 500, 1000)  # futures give no other


class Refused(Exception):
    """The venue refuses a call."""

    def __init__(self, code: int, text: str, status: int = 400) -> None:
        self.answer = error(code, text, status)
        super().__init__(text)


def error(code: int, text: str, status: int = 400, **headers: str) -> HttpResponse:
    """Return an error in the venue's form."""
    return HttpResponse(
        json.dumps({"code": code, "msg": text}, separators=(",", ":")), status, headers
    )


def weight(spot: bool, path: str, query: Mapping[str, str]) -> int:
    """Return what a call costs."""
    limit = int(query["limit"]) if query.get("limit", "").isdigit() else 0
    if path == "depth":
        limit = limit or (100 if spot else 500)
        steps = ((100, 5), (500, 25), (1000, 50)) if spot else ((50, 2), (100, 5), (500, 10))
        return next((cost for most, cost in steps if limit <= most), 250 if spot else 20)
    if path == "klines":
        steps = ((100, 1), (500, 2), (1001, 5))
        return 2 if spot else next((cost for most, cost in steps if (limit or 500) < most), 10)
    if path == "ticker/24hr":
        return (2 if spot else 1) if "symbol" in query else (80 if spot else 40)
    return _WEIGHTS.get(path, (1, 1))[0 if spot else 1]


class Rest:
    """The REST interface of one market."""

    def __init__(self, market: Market, spellings: dict[str, Spelling], name: str) -> None:
        self._market, self._spellings = market, spellings
        self._spot, self._inverse = name == "spot", name == "coinm"
        self._paths: dict[str, Callable[[HttpRequest, int], str]] = {
            "ping": lambda _, __: "{}",
            "time": self._time,
            "exchangeInfo": self._info,
            "depth": self._depth,
            "trades": self._trades,
            "historicalTrades": self._past_trades,
            "aggTrades": self._aggregates,
            "klines": self._klines,
            "ticker/24hr": self._day,
            "ticker/bookTicker": self._quotes,
            "ticker/price": self._prices,
        }

    def answer(self, path: str, call: HttpRequest) -> HttpResponse:
        """Answer a call of *path*, which stands without its prefix."""
        if path not in self._paths:
            return HttpResponse("<html><body><h2>404 Not found</h2></body></html>", 404)
        unit = call.headers.get("x-mbx-time-unit", "").upper() if self._spot else ""
        try:
            if unit not in ("", "MILLISECOND", "MICROSECOND"):
                raise Refused(
                    -1194,
                    "Invalid value for time unit; expected either MICROSECOND or MILLISECOND.",
                )
            return HttpResponse(
                self._paths[path](call, 1_000 if unit == "MICROSECOND" else 1_000_000)
            )
        except Refused as refused:
            return refused.answer

    # -------------------------------------------------------------------------------- what is asked

    def _one(self, call: HttpRequest) -> Spelling:
        name = call.query.get("symbol")
        if not name:
            raise Refused(
                -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
            )
        if name not in self._spellings:
            raise Refused(-1121, "Invalid symbol.")
        return self._spellings[name]

    def _some(self, call: HttpRequest) -> list[Spelling]:
        """Return the symbols of `symbol` or `symbols`; all where neither is given."""
        if "symbols" in call.query:
            try:
                names = json.loads(call.query["symbols"])
            except json.JSONDecodeError:
                names = None
            if not isinstance(names, list):
                raise Refused(-1100, "Illegal characters found in parameter 'symbols'.")
            if any(name not in self._spellings for name in names):
                raise Refused(-1121, "Invalid symbol.")
            return [self._spellings[name] for name in names]
        return [self._one(call)] if "symbol" in call.query else list(self._spellings.values())

    @staticmethod
    def _number(call: HttpRequest, name: str) -> int | None:
        text = call.query.get(name)
        if text is None:
            return None
        if not text.isdigit():
            raise Refused(
                -1100,
                f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.",
            )
        return int(text)

    def _limit(self, call: HttpRequest, usual: int, most: int) -> int:
        limit = self._number(call, "limit")
        if limit == 0:
            raise Refused(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(limit or usual, most)

    def _moment(self, call: HttpRequest, name: str) -> int | None:
        """Return a time in ns. Both units are taken: which one it is, is plain from its size."""
        number = self._number(call, name)
        return None if number is None else number * (1_000 if number > 10**14 else 1_000_000)

    # ------------------------------------------------------------------------------------- answers

    def _time(self, _: HttpRequest, per: int) -> str:
        return f'{{"serverTime":{self._market.venue_clock // per}}}'

    def _depth(self, call: HttpRequest, per: int) -> str:
        one = self._one(call)
        limit = self._limit(call, 100 if self._spot else 500, 5000 if self._spot else 1000)
        if not self._spot and limit not in _DEPTHS:
            raise Refused(-4021, f"{limit} is not valid depth limit.")
        last, bids, asks = one.pit.book_snapshot(limit, call.book_lag)
        times = (
            ""
            if self._spot
            else f'"E":{self._market.venue_clock // per},"T":{self._market.now // per},'
        )
        if self._inverse:
            times += f'"symbol":"{one.native}","pair":"{one.pair}",'
        return f'{{"lastUpdateId":{last},{times}"bids":[{one.levels(bids)}],"asks":[{one.levels(asks)}]}}'

    def _trades(self, call: HttpRequest, per: int) -> str:
        one, limit = self._one(call), self._limit(call, 500, 1000)
        last = one.pit.last_trade.id if one.pit.last_trade else 0
        return self._list(one, one.pit.trades(max(1, last - limit + 1), limit), per)

    def _past_trades(self, call: HttpRequest, per: int) -> str:
        if not self._spot and "x-mbx-apikey" not in call.headers:
            raise Refused(-2014, "API-key format invalid.", 401)
        first = self._number(call, "fromId")
        if first is None:
            return self._trades(call, per)
        one = self._one(call)
        return self._list(one, one.pit.trades(max(1, first), self._limit(call, 500, 1000)), per)

    def _list(self, one: Spelling, fills: list[MarketTrade], per: int) -> str:
        extra = ',"isBestMatch":true' if self._spot else ',"isRPITrade":false'
        worth, extra = ("baseQty", "") if self._inverse else ("quoteQty", extra)
        rows = [
            f'{{"id":{f.id},"price":"{one.price[f.price]}","qty":"{one.size[f.size]}",'
            f'"{worth}":"{one.turnover(f.size, f.price * f.size)}","time":{f.ts // per},'
            f'"isBuyerMaker":{"false" if f.is_buy else "true"}{extra}}}'
            for f in fills
        ]
        return f"[{','.join(rows)}]"

    def _aggregates(self, call: HttpRequest, per: int) -> str:
        one, limit = self._one(call), self._limit(call, 500, 1000)
        since, until = self._moment(call, "startTime"), self._moment(call, "endTime")
        first = self._number(call, "fromId")
        if first is None and since is not None:
            found = one.pit.first_trade_since(since)
            first = found.aggregate_id if found else 1 << 62
        elif first is None:
            last = one.pit.last_trade.aggregate_id if one.pit.last_trade else 0
            first = max(1, last - limit + 1)
        rows = []
        for fills in one.pit.aggregate_trades(first, limit):
            f, last_id, total = fills[0], fills[-1].id, sum(fill.size for fill in fills)
            if until is not None and f.ts > until:
                break
            size = one.size[total]
            extra = ',"M":true' if self._spot else f',"nq":"{size}"'
            rows.append(
                f'{{"a":{f.aggregate_id},"p":"{one.price[f.price]}","q":"{size}","f":{f.id},"l":{last_id},'
                f'"T":{f.ts // per},"m":{"false" if f.is_buy else "true"}{extra}}}'
            )
        return f"[{','.join(rows)}]"

    def _klines(self, call: HttpRequest, per: int) -> str:
        one, limit = self._one(call), self._limit(call, 500, 1000 if self._spot else 1500)
        interval = call.query.get("interval", "")
        if interval not in (INTERVALS if self._spot else INTERVALS[1:]):
            raise Refused(-1120, "Invalid interval.")
        since, until = self._moment(call, "startTime"), self._moment(call, "endTime")
        until = self._market.now if until is None else min(until, self._market.now)
        if since is not None:
            # COIN-M gives the last ones of a span, the others the first.
            candles = one.pit.bars(interval, since, until, 1_000_000 if self._inverse else limit)
            candles = candles[-limit:]
        else:
            length = duration_ns(LENGTHS.get(interval, interval))
            candles = one.pit.bars(interval, until - limit * length, until, limit + 1)[-limit:]
        return f"[{','.join(self._row(one, candle, per) for candle in candles)}]"

    @staticmethod
    def _row(one: Spelling, c: MarketBar, per: int) -> str:
        price, size, turnover = one.price, one.size.write, one.turnover
        return (
            f'[{c.start // per},"{price[c.open]}","{price[c.high]}","{price[c.low]}","{price[c.close]}",'
            f'"{size(c.volume)}",{c.end // per - 1},"{turnover(c.volume, c.quote_volume)}",{c.trades},"{size(c.buy_volume)}",'
            f'"{turnover(c.buy_volume, c.buy_quote_volume)}","0"]'
        )

    def _pair(self, one: Spelling) -> str:
        return f'"pair":"{one.pair}",' if self._inverse else ""

    def _many(self, call: HttpRequest, rows: list[str]) -> str:
        one = "symbol" in call.query and not self._inverse  # which always answers with a list
        return rows[0] if one else f"[{','.join(rows)}]"

    def _day(self, call: HttpRequest, per: int) -> str:
        rows = []
        now = self._market.now
        for one in self._some(call):
            day, last = one.pit.last_24h(now), one.pit.last_trade
            if day is None or last is None:
                continue
            change, percent, mean = statistics(day, one)
            best = _named(bests_of(one)) + "," if self._spot else self._pair(one)
            worth = "baseVolume" if self._inverse else "quoteVolume"
            rows.append(
                f'{{"symbol":"{one.native}","priceChange":"{change}","priceChangePercent":"{percent}",'
                f'"weightedAvgPrice":"{mean}","lastPrice":"{one.price[day.close]}","lastQty":"{one.size[last.size]}",'
                f'{best}"openPrice":"{one.price[day.open]}","highPrice":"{one.price[day.high]}",'
                f'"lowPrice":"{one.price[day.low]}","volume":"{one.size.write(day.volume)}",'
                f'"{worth}":"{one.turnover(day.volume, day.quote_volume)}","openTime":{day.start // per},'
                f'"closeTime":{now // per},"firstId":{day.first_id},"lastId":{day.last_id},"count":{day.trades}}}'
            )
        return self._many(call, rows) if rows else "[]"

    def _quotes(self, call: HttpRequest, per: int) -> str:
        times = "" if self._spot else f',"time":{self._market.now // per}'
        rows = [
            f'{{"symbol":"{one.native}",{self._pair(one)}{_named(bests_of(one))}{times}}}'
            for one in self._some(call)
        ]
        return self._many(call, rows)

    def _prices(self, call: HttpRequest, per: int) -> str:
        rows = []
        for one in self._some(call):
            price = one.pit.last_trade.price if one.pit.last_trade else one.pit.top_of_book().bid
            times = "" if self._spot else f',"time":{self._market.now // per}'
            rows.append(f'{{"symbol":"{one.native}","price":"{one.price[price]}"{times}}}')
        return self._many(call, rows)

    def _info(self, call: HttpRequest, per: int) -> str:
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
        some = self._some(call) if self._spot else list(self._spellings.values())
        return json.dumps(
            {"timezone": "UTC", "serverTime": self._market.venue_clock // per, "rateLimits": limits,
             "exchangeFilters": [], "symbols": [self._listing(one) for one in some]},
            separators=(",", ":"),
        )  # fmt: skip

    def _listing(self, one: Spelling) -> dict[str, Any]:
        parts, tick, lot = one.pit.parsed_symbol, one.price[1], one.size[1]
        filters: list[dict[str, Any]] = [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": tick,
                "maxPrice": one.price.write(10**12),
                "tickSize": tick,
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": lot,
                "maxQty": one.size.write(10**12),
                "stepSize": lot,
            },
        ]
        listing: dict[str, Any] = {
            "symbol": one.native,
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
                "maxQty": one.size.write(10**9),
                "stepSize": lot,
            }
        )
        if self._inverse:
            listing["contractStatus"] = listing.pop("status")
            listing["contractSize"] = one.contract
        else:
            filters.append({"filterType": "MIN_NOTIONAL", "notional": "5.0"})
        dated = bool(parts.expiry)
        return listing | {
            "pair": one.pair, "contractType": "CURRENT_QUARTER" if dated else "PERPETUAL",
            "deliveryDate": _delivery(parts.expiry) if dated else 4_133_404_800_000,
            "onboardDate": 1_569_398_400_000, "quoteAsset": parts.quote, "marginAsset": parts.settle,
            "pricePrecision": one.price.decimals, "quantityPrecision": one.size.decimals,
            "baseAssetPrecision": 8, "quotePrecision": 8, "underlyingType": "COIN", "filters": filters,
        }  # fmt: skip


def _named(bests: str) -> str:
    """Turn the streams' short names of the best bid and ask into those of REST."""
    for short, long in (("b", "bidPrice"), ("B", "bidQty"), ("a", "askPrice"), ("A", "askQty")):
        bests = bests.replace(f'"{short}":', f'"{long}":')
    return bests


def _delivery(expiry: str) -> int:
    from datetime import UTC, datetime

    day = datetime.strptime(expiry + "08", "%y%m%d%H").replace(tzinfo=UTC)
    return int(day.timestamp()) * 1000
