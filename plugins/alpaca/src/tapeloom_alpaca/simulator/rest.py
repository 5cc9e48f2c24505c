"""Alpaca's REST interface: market data of stocks and crypto, and what the trading host lists."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from tapeloom_simulator.server_api import HttpResponse

from .text import stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tapeloom_simulator.server_api import HttpRequest, Market

    from .text import Spelling

__all__ = ["Rest", "free", "refusal"]

_SECOND = 1_000_000_000
_QUARTER = 900 * _SECOND
STOCKS, CRYPTO = "/v2/stocks/", "/v1beta3/crypto/us/"
Row = tuple[str, str, str]  #: symbol, position in its symbol, item
#: Date and time of day, fraction of a second, offset from UTC.
_TIME = re.compile(r"(.{19})(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII)
#: Units of a timeframe, long and short, and the market's unit. Any other unit is a month.
_UNITS = (("Min", "T", "m"), ("Hour", "H", "h"), ("Day", "D", "d"), ("Week", "W", "w"))


def refusal(status: int, message: str) -> HttpResponse:
    """Return an error in the venue's form."""
    return HttpResponse(json.dumps({"message": message}), status)


def free(key: str) -> bool:
    """Say whether these keys are those of an account with the free plan."""
    return "FREE" in key


def _time(text: str) -> int:
    """Return the ns since 1970 of a time in a query. Digits below the nanosecond are cut off.

    Raises ValueError where *text* is not a time with an offset.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a time such as '2021-02-22T15:51:44.208Z', got {text!r}")
    moment, fraction, offset = match.groups(default="")
    second = datetime.fromisoformat(moment + offset.replace("Z", "+00:00"))
    return int(second.timestamp()) * _SECOND + int(fraction[:9].ljust(9, "0"))


def _interval(timeframe: str) -> str:
    """Return the market's interval for a timeframe. The count is 1 where there is none."""
    name = timeframe.lstrip("0123456789")
    unit = next((unit for long, short, unit in _UNITS if name in (long, short)), "M")
    return f"{timeframe.removesuffix(name) or 1}{unit}"


class Rest:
    """Answers from the one market state. `armed` names faults of paging, each for one answer."""

    def __init__(self, market: Market, spellings: Mapping[bool, Mapping[str, Spelling]]) -> None:
        self._market, self._spellings = market, spellings
        self.armed: list[str] = []

    def answer(self, call: HttpRequest) -> HttpResponse:
        """Answer a call."""
        key = call.headers.get("apca-api-key-id", "")
        keyed = bool(key and call.headers.get("apca-api-secret-key")) and not key.startswith("BAD")
        crypto = call.path.startswith(CRYPTO)
        if not keyed and (key or not crypto):
            return refusal(401, "unauthorized.")
        if call.path == "/v2/assets":
            return HttpResponse(
                self._assets(call.query.get("asset_class", "us_equity") == "crypto")
            )
        if call.path == "/v2/clock":
            now = stamp(self._market.venue_clock)
            return HttpResponse(f'{{"timestamp":"{now}","is_open":true}}')
        if not crypto and not call.path.startswith(STOCKS):
            return refusal(404, "endpoint not found.")
        try:
            return self._of_market(call, key, crypto=crypto)
        except ValueError as problem:
            return refusal(400, str(problem))

    def _of_market(self, call: HttpRequest, key: str, *, crypto: bool) -> HttpResponse:
        words = call.path.removeprefix(CRYPTO if crypto else STOCKS).split("/")
        kind = next((word for word in words if word != "latest"), "")
        names = [name for name in call.query.get("symbols", "").split(",") if name]
        if not names:
            raise ValueError("symbols is required")
        some = [one for name in names if (one := self._spellings[crypto].get(name)) is not None]
        if kind == "snapshots":
            body = ",".join(f'"{one.native}":{self._snapshot(one)}' for one in some)
            return HttpResponse(f'{{"snapshots":{{{body}}}}}' if crypto else f"{{{body}}}")
        if "latest" in words:
            found = {one.native: self._latest(kind, one, call.book_lag) for one in some}
            body = ",".join(f'"{name}":{item}' for name, item in found.items() if item)
            return HttpResponse(f'{{"{kind}":{{{body}}}}}')
        if kind not in ("trades", "bars", "quotes"):
            return refusal(404, "endpoint not found.")
        since, until = self._span(call)
        if call.query.get("feed") == "sip" and free(key) and until > self._market.now - _QUARTER:
            return refusal(403, "subscription does not permit querying recent SIP data")
        return HttpResponse(
            self._page(kind, self._rows(kind, some, since, until, call), call.query)
        )

    def _span(self, call: HttpRequest) -> tuple[int, int]:
        now = self._market.now
        since, until = call.query.get("start"), call.query.get("end")
        day = now - now % (86_400 * _SECOND)
        end = now if until is None else min(now, _time(until))
        return day if since is None else _time(since), end

    def _latest(self, kind: str, one: Spelling, lag: int = 0) -> str:
        if kind == "quotes":
            return one.quote(self._market.now, one.pit.top_of_book())
        if kind == "orderbooks" and one.crypto:
            return one.book(self._market.now, lag)
        if kind == "trades" and one.pit.last_trade:
            return one.trade(one.pit.last_trade)
        minute = 60 * _SECOND
        candle = one.pit.bar("1m", self._market.now - minute - _SECOND)
        return one.bar(candle) if kind == "bars" and candle and candle.trades else ""

    def _snapshot(self, one: Spelling) -> str:
        day = one.pit.bar("1d", self._market.now)
        parts = {
            "latestTrade": self._latest("trades", one),
            "latestQuote": self._latest("quotes", one),
            "minuteBar": self._latest("bars", one),
            "dailyBar": one.bar(day) if day else "",
        }
        members = [f'"{name}":{item}' for name, item in parts.items() if item]
        return f"{{{','.join(members)}}}"

    def _rows(
        self, kind: str, some: Iterable[Spelling], since: int, until: int, call: HttpRequest
    ) -> Iterator[Row]:
        """Return what there is, symbol after symbol, the oldest first."""
        interval = _interval(call.query.get("timeframe", "1Min"))
        for one in sorted(some, key=lambda spelling: spelling.native):
            if kind == "trades":
                first = one.pit.first_trade_since(since)
                for fill in one.pit.trades(first.id, 1_000_000) if first else ():
                    if fill.ts > until:
                        break
                    yield one.native, f"{fill.id:012d}", one.trade(fill)
            elif kind == "bars":
                # What is still forming, or has ended this very second, is not there yet.
                for candle in one.pit.bars(interval, since, until, 1_000_000):
                    if candle.trades and candle.end + _SECOND <= self._market.now:
                        yield one.native, stamp(candle.start), one.bar(candle)
            elif since <= self._market.now <= until:
                yield one.native, "", one.quote(self._market.now, one.pit.top_of_book())

    def _page(self, kind: str, rows: Iterator[Row], query: Mapping[str, str]) -> str:
        limit = min(int(query.get("limit", "1000")), 10_000)
        if limit < 1:
            raise ValueError("limit must be above 0")
        if token := query.get("page_token"):
            after = tuple(base64.b64decode(token, validate=True).decode().split("|"))
            rows = (row for row in rows if row[:2] > after)
        fault = self.armed.pop(0) if self.armed else ""
        found = [] if fault == "empty_page" else list(islice(rows, limit))
        more = next(rows, None) is not None
        last: tuple[str, ...] = found[-1][:2] if found else ("", "")
        if fault == "empty_page" and token:
            more, last = True, after
        following = base64.b64encode("|".join(last).encode()).decode() if more else ""
        if fault == "token_loop" and (token or following):
            if not token:  # it takes a second page to repeat a token
                self.armed.insert(0, fault)
            following = token or following
        items: dict[str, list[str]] = {}
        for native, _, item in found:
            items.setdefault(native, []).append(item)
        body = ",".join(f'"{name}":[{",".join(some)}]' for name, some in items.items())
        return f'{{"{kind}":{{{body}}},"next_page_token":{json.dumps(following or None)}}}'

    def _assets(self, crypto: bool) -> str:
        rows = []
        for one in self._spellings[crypto].values():
            row = {
                "id": one.native, "class": "crypto" if crypto else "us_equity", "symbol": one.native,
                "exchange": "CRYPTO" if crypto else "NASDAQ", "name": one.native,
                "status": "active", "tradable": True, "fractionable": True,
            }  # fmt: skip
            if crypto:
                row |= {
                    "price_increment": one.price[1],
                    "min_trade_increment": one.size[1],
                    "min_order_size": one.size[1],
                }
            rows.append(row)
        return json.dumps(rows)
