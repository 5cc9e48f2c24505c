"""Alpaca's REST interface: market data of stocks and crypto, and the list of assets."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from tapeloom_simulator.server_api import HttpResponse

from .text import format_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tapeloom_simulator.server_api import HttpRequest, Market

    from .text import SymbolWriter

__all__ = ["Rest", "free", "refusal"]

#: Lengths in ns.
_SECOND = 1_000_000_000
_QUARTER_HOUR = 900 * _SECOND
#: Prefixes of the paths of market data.
STOCKS, CRYPTO = "/v2/stocks/", "/v1beta3/crypto/us/"
#: The most items that the venue has in one answer.
_MAX_PAGE = 10_000
#: A row of a page: symbol, position within the symbol, item.
Row = tuple[str, str, str]
#: Date and time of day, fraction of a second, offset from UTC.
_TIME = re.compile(r"(.{19})(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII)
#: Units of a timeframe, long and short, and the market's unit. Any other unit is a month.
_UNITS = (("Min", "T", "m"), ("Hour", "H", "h"), ("Day", "D", "d"), ("Week", "W", "w"))


def refusal(status: int, message: str) -> HttpResponse:
    """Return an error in the venue's form."""
    return HttpResponse(json.dumps({"message": message}), status)


def free(key: str) -> bool:
    """Return whether this key is of an account with the free plan."""
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
    """Answers calls from the state of the market.

    `armed_faults` has faults of paging, each for one answer.
    """

    def __init__(self, market: Market, writers: Mapping[bool, Mapping[str, SymbolWriter]]) -> None:
        self._market, self._writers = market, writers
        self.armed_faults: list[str] = []

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Return the answer to a call."""
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
            now = format_time(self._market.venue_clock)
            return HttpResponse(f'{{"timestamp":"{now}","is_open":true}}')
        if not crypto and not call.path.startswith(STOCKS):
            return refusal(404, "endpoint not found.")
        try:
            return self._market_data(call, key, crypto=crypto)
        except ValueError as problem:
            return refusal(400, str(problem))

    def _market_data(self, call: HttpRequest, key: str, *, crypto: bool) -> HttpResponse:
        parts = call.path.removeprefix(CRYPTO if crypto else STOCKS).split("/")
        kind = next((part for part in parts if part != "latest"), "")
        names = [name for name in call.query.get("symbols", "").split(",") if name]
        if not names:
            raise ValueError("symbols is required")
        known = self._writers[crypto]
        writers = [known[name] for name in names if name in known]
        if kind == "snapshots":
            body = ",".join(f'"{writer.native}":{self._snapshot(writer)}' for writer in writers)
            return HttpResponse(f'{{"snapshots":{{{body}}}}}' if crypto else f"{{{body}}}")
        if "latest" in parts:
            latest = {
                writer.native: self._latest(kind, writer, call.book_lag) for writer in writers
            }
            body = ",".join(f'"{name}":{item}' for name, item in latest.items() if item)
            return HttpResponse(f'{{"{kind}":{{{body}}}}}')
        if kind not in ("trades", "bars", "quotes"):
            return refusal(404, "endpoint not found.")
        since, until = self._span(call)
        if (
            call.query.get("feed") == "sip"
            and free(key)
            and until > self._market.now - _QUARTER_HOUR
        ):
            return refusal(403, "subscription does not permit querying recent SIP data")
        return HttpResponse(
            self._page(kind, self._rows(kind, writers, since, until, call), call.query)
        )

    def _span(self, call: HttpRequest) -> tuple[int, int]:
        now = self._market.now
        since, until = call.query.get("start"), call.query.get("end")
        day = now - now % (86_400 * _SECOND)
        end = now if until is None else min(now, _time(until))
        return day if since is None else _time(since), end

    def _latest(self, kind: str, writer: SymbolWriter, lag: int = 0) -> str:
        if kind == "quotes":
            return writer.quote(self._market.now, writer.instrument.top_of_book())
        if kind == "orderbooks" and writer.crypto:
            return writer.book(self._market.now, lag)
        if kind == "trades" and writer.instrument.last_trade:
            return writer.trade(writer.instrument.last_trade)
        minute = 60 * _SECOND
        bar = writer.instrument.bar("1m", self._market.now - minute - _SECOND)
        return writer.bar(bar) if kind == "bars" and bar and bar.trades else ""

    def _snapshot(self, writer: SymbolWriter) -> str:
        day = writer.instrument.bar("1d", self._market.now)
        parts = {
            "latestTrade": self._latest("trades", writer),
            "latestQuote": self._latest("quotes", writer),
            "minuteBar": self._latest("bars", writer),
            "dailyBar": writer.bar(day) if day else "",
        }
        members = [f'"{name}":{item}' for name, item in parts.items() if item]
        return f"{{{','.join(members)}}}"

    def _rows(
        self, kind: str, writers: Iterable[SymbolWriter], since: int, until: int, call: HttpRequest
    ) -> Iterator[Row]:
        """Yield the rows symbol by symbol, those of one symbol oldest first."""
        interval = _interval(call.query.get("timeframe", "1Min"))
        for writer in sorted(writers, key=lambda writer: writer.native):
            if kind == "trades":
                first = writer.instrument.first_trade_since(since)
                for trade in writer.instrument.trades(first.id, 1_000_000) if first else ():
                    if trade.ts > until:
                        break
                    yield writer.native, f"{trade.id:012d}", writer.trade(trade)
            elif kind == "bars":
                # A bar is available from one second after its end.
                for bar in writer.instrument.bars(interval, since, until, 1_000_000):
                    if bar.trades and bar.end + _SECOND <= self._market.now:
                        yield writer.native, format_time(bar.start), writer.bar(bar)
            elif since <= self._market.now <= until:
                yield (
                    writer.native,
                    "",
                    writer.quote(self._market.now, writer.instrument.top_of_book()),
                )

    def _page(self, kind: str, rows: Iterator[Row], query: Mapping[str, str]) -> str:
        limit = min(int(query.get("limit", "1000")), _MAX_PAGE)
        if limit < 1:
            raise ValueError("limit must be above 0")
        if token := query.get("page_token"):
            after = tuple(base64.b64decode(token, validate=True).decode().split("|"))
            rows = (row for row in rows if row[:2] > after)
        fault = self.armed_faults.pop(0) if self.armed_faults else ""
        page = [] if fault == "empty_page" else list(islice(rows, limit))
        has_more = next(rows, None) is not None
        last: tuple[str, ...] = page[-1][:2] if page else ("", "")
        if fault == "empty_page" and token:
            has_more, last = True, after
        next_token = base64.b64encode("|".join(last).encode()).decode() if has_more else ""
        if fault == "token_loop" and (token or next_token):
            if not token:  # only a second page can repeat a token
                self.armed_faults.insert(0, fault)
            next_token = token or next_token
        items: dict[str, list[str]] = {}
        for native, _, item in page:
            items.setdefault(native, []).append(item)
        body = ",".join(f'"{native}":[{",".join(texts)}]' for native, texts in items.items())
        return f'{{"{kind}":{{{body}}},"next_page_token":{json.dumps(next_token or None)}}}'

    def _assets(self, crypto: bool) -> str:
        rows = []
        for writer in self._writers[crypto].values():
            row = {
                "id": writer.native, "class": "crypto" if crypto else "us_equity", "symbol": writer.native,
                "exchange": "CRYPTO" if crypto else "NASDAQ", "name": writer.native,
                "status": "active", "tradable": True, "fractionable": True,
            }  # fmt: skip
            if crypto:
                row |= {
                    "price_increment": writer.price[1],
                    "min_trade_increment": writer.size[1],
                    "min_order_size": writer.size[1],
                }
            rows.append(row)
        return json.dumps(rows)
