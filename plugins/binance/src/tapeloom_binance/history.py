"""Encodes Binance's REST requests and decodes the answers: listing, book snapshots, trades, bars."""

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
from tapeloom.plugin.transports import plain_text
from tapeloom.symbols import Instrument, Kind, Symbol
from tapeloom.units import duration_ns

from .wire import AggregateTrade, DepthSnapshot, HistoricalTrade, KlineRow, Route

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .symbols import Names

__all__ = ["BinanceHistory"]

T = TypeVar("T")

#: The most rows that the venue puts into one answer, of trades and of bars.
_MAX_ROWS = 1000
_HOUR = 3_600_000_000_000  #: ns; the longest time span of one request for aggregate trades
#: Delivery dates (ms) after this mark a perpetual: the venue writes a day in the year 2100.
_NEVER_DELIVERED = 4_000_000_000_000
#: Statuses of symbols that send no more data.
_ENDED = frozenset(
    ("CLOSE", "DELISTING", "DELIVERED", "DELIVERING", "END_OF_DAY", "POST_TRADING", "SETTLING")
)
#: Statuses of symbols without trading. Spot also lists a delisted symbol as BREAK, for years: nothing
#: tells it from one that is paused.
_HALTED = frozenset(("BREAK", "HALT"))
#: What the user can do about a refusal, by error code or HTTP status. Core retries by itself where
#: that helps.
_REMEDIES = {
    -1121: "This market does not list the symbol: check the feed's `market`.",
    -2014: "Check api_key in [venue.binance].",
    -2015: "Check api_key in [venue.binance].",
    451: "The venue does not serve the region of your IP address.",
}


#: {"filterType":"PRICE_FILTER","minPrice":"556.72","maxPrice":"1000000","tickSize":"0.01"}
class _Filter(Struct, rename="camel"):
    """A trading rule of a symbol: the step of its prices or of its sizes."""

    filter_type: str
    tick_size: Decimal | None = None
    step_size: Decimal | None = None


#: {"symbol":"BTCUSDT","pair":"BTCUSDT","contractType":"PERPETUAL","deliveryDate":4133404800000,
#: "onboardDate":1569398400000,"status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT",
#: "marginAsset":"USDT","pricePrecision":2,"quantityPrecision":3,"filters":[
#: {"filterType":"PRICE_FILTER","minPrice":"556.72","maxPrice":"1000000","tickSize":"0.01"},
#: {"filterType":"LOT_SIZE","minQty":"0.001","maxQty":"1000","stepSize":"0.001"}]}
class _ListedSymbol(Struct, rename="camel"):
    """A symbol of ``exchangeInfo``. COIN-M has `contractStatus` in place of `status`."""

    symbol: str
    base_asset: str
    quote_asset: str
    filters: list[_Filter]
    status: str = ""
    contract_status: str = ""
    margin_asset: str = ""
    contract_type: str = ""
    delivery_date: int = 0


#: {"timezone":"UTC","serverTime":1633998511098,"symbols":[{"symbol":"ETHBTC","status":"TRADING",
#: "baseAsset":"ETH","quoteAsset":"BTC","filters":[{"filterType":"PRICE_FILTER",
#: "minPrice":"0.00000100","maxPrice":"922327.00000000","tickSize":"0.00000100"}]}]}
class _ExchangeInfo(Struct):
    """The answer to ``exchangeInfo``."""

    symbols: list[_ListedSymbol]


#: {"code":-1121,"msg":"Invalid symbol."}
class _Error(Struct):
    """The body of a refused request."""

    code: int
    msg: str = ""


_decode_exchange_info = Decoder(_ExchangeInfo).decode
_decode_error = Decoder(_Error).decode
_DECODERS: dict[str, Callable[[bytes], Any]] = {  # by the last part of the REST path
    "depth": Decoder(DepthSnapshot).decode,
    "aggTrades": Decoder(list[AggregateTrade]).decode,
    "historicalTrades": Decoder(list[HistoricalTrade]).decode,
    "klines": Decoder(list[KlineRow]).decode,
}


class BinanceHistory:
    """Builds REST requests with their weight, and reads the answers.

    One request returns at most one answer of the venue. To get more, request again from the last id
    or the last bar; if the answer was empty, from the end of the requested time span.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self._venue = feed.venue
        self._listing = feed.listing
        self._names = names
        self._market = names.market
        self._paths_with_key = {"historicalTrades"} if names.market.settled_in else set()

    def listing_request(self) -> Request:
        """Return the request for the symbols that the market lists."""
        return self._get("exchangeInfo", {})

    def request(self, query: HistoryQuery) -> Request | None:
        """Return the request for a book snapshot, up to 1,000 trades or up to 1,000 bars, oldest first.

        Trades by time are those of the first hour of the time span. Without `since` and `after_id`,
        the answer has the newest trades or bars. Returns None for what the market does not offer: raw
        trades by time, raw trades of futures without an API key, bars of an unknown interval.
        """
        symbol = self._listing.native.get(query.symbol) or self._names.native(query.symbol)
        if query.kind == "book":
            weights, wanted = self._market.depth_weights, self._names.settings.snapshot_limit
            limit = next((levels for levels in weights if levels >= wanted), max(weights))
            return self._get("depth", {"symbol": symbol, "limit": limit}, weights[limit])
        if query.kind == "trades":
            return self._trades_request(symbol, query)
        interval = query.interval or channel_parts(query.channel)[1]
        if interval not in self._market.intervals:
            return None
        # A month has at least 28 days. A time span must not hold more bars than one answer, because
        # COIN-M would return the last bars of it.
        length = duration_ns("28d" if interval == "1M" else interval)
        until = None if query.until is None else query.until - 1
        span = _time_span(query.since, until, min(_MAX_ROWS * length, self._market.max_bars_span))
        params: dict[str, str | int] = {"symbol": symbol, "interval": interval, **span}
        params["limit"] = _MAX_ROWS
        return _with_paging(self._get("klines", params), span, query)

    def _trades_request(self, symbol: str, query: HistoryQuery) -> Request | None:
        channel = query.channel or "trades"
        if channel not in ("trades", "agg_trades") or isinstance(query.after_id, str):
            return None
        kind = self._names.stream_kind(channel)
        path = "aggTrades" if kind == "aggTrade" else "historicalTrades"
        if path in self._paths_with_key and self._names.settings.api_key is None:
            return None
        if query.after_id is not None:
            span = {"fromId": query.after_id + 1}
        elif path == "aggTrades":
            span = _time_span(query.since, query.until, _HOUR)
        elif query.since is None:
            span = {}
        else:
            return None
        request = self._get(path, {"symbol": symbol, **span, "limit": _MAX_ROWS})
        return _with_paging(request, span, query)

    def _get(self, path: str, params: Mapping[str, str | int], weight: int = 0) -> Request:
        headers = {}
        if self._names.time_unit_ns == 1_000:
            headers["X-MBX-TIME-UNIT"] = "MICROSECOND"
        key = self._names.settings.api_key
        if key is not None and path in self._paths_with_key:
            headers["X-MBX-APIKEY"] = key.reveal()
        url = f"{self._names.hosts[1]}{self._market.rest_prefix}/{path}"
        return Request(
            url=f"{url}?{urlencode(params)}" if params else url,
            weight=weight or self._market.weights[path],
            rate=self._market.weight_rate,
            headers=headers,
        )

    def read_listing(self, body: bytes) -> list[Instrument]:
        """Return the instruments that the market lists.

        Raises ValueError if *body* cannot be decoded.
        """
        symbols = _decode(_decode_exchange_info, "exchangeInfo", body).symbols
        return [_instrument(symbol) for symbol in symbols]

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        """Return the events of an answer, chosen by the path and the query of the request's URL.

        The host of the URL does not matter. Returns an empty list for another market's URL, and for a
        symbol or a kind of trades that the feed does not have. Raises ValueError if *body* cannot be
        decoded.
        """
        url = urlsplit(request.url)
        params = dict(parse_qsl(url.query))
        root, _, path = url.path.rpartition("/")
        symbol = self._listing.unified.get(params.get("symbol", ""))
        if symbol is None or path not in _DECODERS or not root.endswith(self._market.rest_prefix):
            return []
        answer = _decode(_DECODERS[path], path, body)
        common, unit = (self._venue, symbol), self._names.time_unit_ns
        if path == "depth":
            route = Route(*common, "book", unit, params.get("limit", "0"), "history")
            return [answer.to_event(route, recv)]
        if path == "klines":
            interval = params.get("interval", "")
            route = Route(*common, f"klines:{interval}", unit, interval, "backfill")
            # The last bar usually is still forming; it is closed if it ended before *recv*.
            return [
                row.to_bar(route, recv, closed=row is not answer[-1] or row.T * unit < recv)
                for row in answer
            ]
        kind = "aggTrade" if path == "aggTrades" else "trade"
        channel = self._names.channel_by_kind.get(kind, "")
        if not channel or self._names.stream_kind(channel) != kind:
            return []
        route = Route(*common, channel, unit, "", "backfill")
        try:
            return [row.to_event(route, recv) for row in answer]
        except ArithmeticError as error:
            raise ValueError(f"the answer to {path} has an invalid number: {error}") from error

    def refusal_reason(self, status: int, body: bytes) -> str:
        """Return the venue's error message and code, and what the user can do about it."""
        try:
            error = _decode_error(body)
        except (ValueError, RecursionError):
            return f"{plain_text(body)} {_REMEDIES.get(status, '')}".strip()
        remedy = _REMEDIES.get(error.code, _REMEDIES.get(status, ""))
        return f"{error.msg} (code {error.code}) {remedy}".strip()


def _decode(decode: Callable[[bytes], T], path: str, body: bytes) -> T:
    """Return the decoded body; raise ValueError that names *path* and shows how the body begins."""
    try:
        return decode(body)
    except (ValueError, RecursionError) as error:
        start = body[:80].decode(errors="replace")
        problem = f"the answer to {path} cannot be decoded: {error}. It begins: {start}"
        raise ValueError(problem) from error


def _time_span(since: int | None, until: int | None, max_span: int) -> dict[str, int]:
    """Return the first *max_span* ns of a time span as query parameters: in ms, both ends included."""
    ends = [until] if until is not None else []
    if since is not None:
        ends.append(since + max_span - 1_000_000)
    span = {"startTime": since, "endTime": min(ends, default=None)}
    return {name: time // 1_000_000 for name, time in span.items() if time is not None}


def _with_paging(request: Request, span: Mapping[str, int], query: HistoryQuery) -> Request:
    """Return *request* with `paged` and `page_end`: which part of *query* its answer covers."""
    if "fromId" not in span and "startTime" not in span:
        return request
    end = (span["endTime"] + 1) * 1_000_000 if "endTime" in span else None
    covers_query = end is None or (query.until is not None and end >= query.until)
    return evolve(request, paged=True, page_end=None if covers_query else end)


def _instrument(listed: _ListedSymbol) -> Instrument:
    base, quote, settle = listed.base_asset, listed.quote_asset, listed.margin_asset
    kind: Kind = "swap" if settle else "spot"
    delivery, expiry = listed.delivery_date, ""
    if settle and "PERPETUAL" not in listed.contract_type and delivery < _NEVER_DELIVERED:
        kind = "future"
        expiry = f"{datetime.fromtimestamp(delivery / 1000, UTC):%y%m%d}"
    steps = {rule.filter_type: rule.tick_size or rule.step_size for rule in listed.filters}
    # A step of zero means that the venue does not restrict the value.
    tick, lot = steps.get("PRICE_FILTER") or None, steps.get("LOT_SIZE") or None
    symbol = str(Symbol(base, quote, settle, expiry))
    active = _ENDED.isdisjoint((listed.status, listed.contract_status))
    halted = not _HALTED.isdisjoint((listed.status, listed.contract_status))
    names = symbol, listed.symbol, kind, base, quote, settle
    return Instrument(*names, tick, lot, active, halted=halted)
