"""Binance over REST: what is listed, book snapshots, past trades and bars."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from attrs import evolve
from msgspec import Struct
from msgspec.json import Decoder
from tapeloom.events import Event
from tapeloom.plugin import Feed, HistoryQuery, Request, channel_parts
from tapeloom.symbols import Instrument, Kind, Symbol
from tapeloom.units import duration_ns

from .wire import Aggregate, Past, Place, Row, Top

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .symbols import Names

__all__ = ["BinanceHistory"]

T = TypeVar("T")

_ROWS = 1000  #: the most that every list gives
_HOUR = 3_600_000_000_000
#: Where a perpetual swap says that it is delivered: in the year 2100.
_NEVER = 4_000_000_000_000
#: What a person can do about a refusal; waiting, where that helps, is core's.
_REMEDIES = {
    -1121: "This market does not list the symbol: mind the feed's `market`.",
    -2014: "Check api_key in [venue.binance].",
    -2015: "Check api_key in [venue.binance].",
    451: "The venue does not serve the place that this address belongs to.",
}


class _Filter(Struct, rename="camel"):
    filter_type: str
    tick_size: Decimal | None = None
    step_size: Decimal | None = None


class _Listed(Struct, rename="camel"):
    """What is listed; COIN-M says `contractStatus` where the others say `status`."""

    symbol: str
    base_asset: str
    quote_asset: str
    filters: list[_Filter]
    status: str = ""
    contract_status: str = ""
    margin_asset: str = ""
    contract_type: str = ""
    delivery_date: int = 0


class _Info(Struct):
    symbols: list[_Listed]


class _Error(Struct):
    code: int
    msg: str = ""


_info, _error = Decoder(_Info).decode, Decoder(_Error).decode
_READ: dict[str, Callable[[bytes], Any]] = {  # by path
    "depth": Decoder(Top).decode,
    "aggTrades": Decoder(list[Aggregate]).decode,
    "historicalTrades": Decoder(list[Past]).decode,
    "klines": Decoder(list[Row]).decode,
}


class BinanceHistory:
    """Requests with their cost, and the reading of their answers.

    One request brings what the venue gives at once. Who wants more asks again: from the last id or
    the last bar that came, or, where nothing came, from the end of the span that was asked for.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self._venue = feed.venue
        self._listing = feed.listing
        self._names = names
        self._market = names.market
        self._keyed = {"historicalTrades"} if names.market.settled else set()

    def listing_request(self) -> Request:
        """Ask what the market lists."""
        return self._get("exchangeInfo", {})

    def request(self, want: HistoryQuery) -> Request | None:
        """Ask for a snapshot, for up to 1,000 trades, or for up to 1,000 bars, the oldest first.

        Trades of times are those of the first hour at the most. Without `since` and `after` they are,
        like bars, the last ones. None for what the market does not give: raw trades of a time, raw
        trades of futures without an API key, bars of an interval that it does not know.
        """
        symbol = self._listing.native.get(want.symbol) or self._names.native(want.symbol)
        if want.kind == "book":
            steps, wanted = self._market.depth_weights, self._names.settings.snapshot_limit
            limit = next((step for step in steps if step >= wanted), max(steps))
            return self._get("depth", {"symbol": symbol, "limit": limit}, steps[limit])
        if want.kind == "trades":
            return self._ask_trades(symbol, want)
        interval = want.interval or channel_parts(want.channel)[1]
        if interval not in self._market.intervals:
            return None
        # A month has 28 days at the least. A span holds no more bars than one answer, because
        # COIN-M would give the last ones of it.
        length = duration_ns("28d" if interval == "1M" else interval)
        until = None if want.until is None else want.until - 1
        span = _span(want.since, until, min(_ROWS * length, self._market.longest))
        query: dict[str, str | int] = {"symbol": symbol, "interval": interval, **span}
        query["limit"] = _ROWS
        return _ranged(self._get("klines", query), span, want)

    def _ask_trades(self, symbol: str, want: HistoryQuery) -> Request | None:
        channel = want.channel or "trades"
        if channel not in ("trades", "agg_trades") or isinstance(want.after_id, str):
            return None
        path = "aggTrades" if self._names.kind(channel) == "aggTrade" else "historicalTrades"
        if path in self._keyed and self._names.settings.api_key is None:
            return None
        if want.after_id is not None:
            span = {"fromId": want.after_id + 1}
        elif path == "aggTrades":
            span = _span(want.since, want.until, _HOUR)
        elif want.since is None:
            span = {}
        else:
            return None
        return _ranged(self._get(path, {"symbol": symbol, **span, "limit": _ROWS}), span, want)

    def _get(self, path: str, query: Mapping[str, str | int], weight: int = 0) -> Request:
        headers = {}
        if self._names.scale == 1_000:
            headers["X-MBX-TIME-UNIT"] = "MICROSECOND"
        key = self._names.settings.api_key
        if key is not None and path in self._keyed:
            headers["X-MBX-APIKEY"] = key.reveal()
        url = f"{self._names.hosts[1]}{self._market.prefix}/{path}"
        return Request(
            url=f"{url}?{urlencode(query)}" if query else url,
            weight=weight or self._market.weights[path],
            rate=self._market.budget,
            headers=headers,
        )

    def read_listing(self, body: bytes) -> list[Instrument]:
        """Read what the market lists.

        Raises ValueError where it cannot be read.
        """
        return [_instrument(listed) for listed in _read(_info, "exchangeInfo", body).symbols]

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        """Read the answer to a request by the path and the query of its address; any host will do.

        Raises ValueError where it cannot be read. Returns nothing for another market's address, and
        for a symbol or trades that the feed does not have.
        """
        address = urlsplit(request.url)
        query = dict(parse_qsl(address.query))
        root, _, path = address.path.rpartition("/")
        symbol = self._listing.unified.get(query.get("symbol", ""))
        if symbol is None or path not in _READ or not root.endswith(self._market.prefix):
            return []
        rows = _read(_READ[path], path, body)
        here, scale = (self._venue, symbol), self._names.scale
        if path == "depth":
            at = Place(*here, "book", scale, query.get("limit", "0"), "history")
            return [rows.event(at, recv)]
        if path == "klines":
            interval = query.get("interval", "")
            at = Place(*here, f"klines:{interval}", scale, interval, "backfill")
            # The last one is as a rule still forming.
            return [k.bar(at, recv, closed=k is not rows[-1] or k.T * scale < recv) for k in rows]
        kind = "aggTrade" if path == "aggTrades" else "trade"
        channel = self._names.wanted.get(kind, "")
        if not channel or self._names.kind(channel) != kind:
            return []
        at = Place(*here, channel, scale, "", "backfill")
        return [row.event(at, recv) for row in rows]

    def refusal_reason(self, status: int, body: bytes) -> str:
        """Return the venue's words, its code, and what to do about it."""
        try:
            error = _error(body)
        except (ValueError, RecursionError):
            return _REMEDIES.get(status, "")
        remedy = _REMEDIES.get(error.code, _REMEDIES.get(status, ""))
        return f"{error.msg} (code {error.code}) {remedy}".strip()


def _read(decode: Callable[[bytes], T], path: str, body: bytes) -> T:
    """Decode a body; say which one it was where that fails."""
    try:
        return decode(body)
    except (ValueError, RecursionError) as error:
        start = body[:80].decode(errors="replace")
        told = f"the answer to {path} cannot be read: {error}. It begins: {start}"
        raise ValueError(told) from error


def _span(since: int | None, until: int | None, most: int) -> dict[str, int]:
    """Return the first *most* ns of a time as Binance takes it: in ms, both ends included."""
    ends = [until] if until is not None else []
    if since is not None:
        ends.append(since + most - 1_000_000)
    span = {"startTime": since, "endTime": min(ends, default=None)}
    return {name: time // 1_000_000 for name, time in span.items() if time is not None}


def _ranged(request: Request, span: Mapping[str, int], want: HistoryQuery) -> Request:
    """Return *request* with word of how much of what is wanted its answer can have."""
    if "fromId" not in span and "startTime" not in span:
        return request
    end = (span["endTime"] + 1) * 1_000_000 if "endTime" in span else None
    whole = end is None or (want.until is not None and end >= want.until)
    return evolve(request, paged=True, page_end=None if whole else end)


def _instrument(listed: _Listed) -> Instrument:
    base, quote, settle = listed.base_asset, listed.quote_asset, listed.margin_asset
    kind: Kind = "swap" if settle else "spot"
    expiry = ""
    if settle and "PERPETUAL" not in listed.contract_type and listed.delivery_date < _NEVER:
        kind = "future"
        expiry = f"{datetime.fromtimestamp(listed.delivery_date / 1000, UTC):%y%m%d}"
    steps = {rule.filter_type: rule.tick_size or rule.step_size for rule in listed.filters}
    # A step of zero means that there is no such rule.
    tick, lot = steps.get("PRICE_FILTER") or None, steps.get("LOT_SIZE") or None
    symbol = str(Symbol(base, quote, settle, expiry))
    active = "TRADING" in (listed.status, listed.contract_status)
    return Instrument(symbol, listed.symbol, kind, base, quote, settle, tick, lot, active)
