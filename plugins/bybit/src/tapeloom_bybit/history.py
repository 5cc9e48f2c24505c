"""Encodes Bybit's REST requests and decodes the answers: listing, trades, bars, the deepest book."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from attrs import evolve
from msgspec import Struct
from tapeloom.errors import RequestRefused
from tapeloom.events import Bar, Book, Event, Trade
from tapeloom.plugin import Feed, HistoryQuery, Request, channel_parts
from tapeloom.plugin.transports import plain_text
from tapeloom.symbols import Instrument, Kind, Symbol
from tapeloom.units import Rate, duration_ns

from .codec import TEMPORARY_CODES
from .names import INTERVALS
from .wire import MS, SIDES, Depth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .names import Names

__all__ = ["BybitHistory"]

T = TypeVar("T")
#: The most rows of one answer with bars or instruments, and the levels a side of a book.
_MAX_ROWS = 1000
_MAX_ROWS_PARAMETER = {"limit": _MAX_ROWS}
#: The most trades of one answer, by market.
_MAX_TRADES = {"spot": 60, "linear": 1000}
#: For each IP address. Beyond it the venue refuses every request for ten minutes.
_RATE = Rate(600, 5.0)
#: Our names of the intervals of klines, by the venue's.
_OUR_INTERVALS = {native: interval for interval, native in INTERVALS.items()}
_REGION = "The venue does not serve the region of your IP address."
#: What the user can do about a refusal, by error code or HTTP status.
_REMEDIES = {
    10001: "Check the symbols and the market of the feed.",
    10006: "Too many requests: send requests less often.",
    10009: _REGION,
    10024: _REGION,
    403: "Either your IP address sent too many requests, and the venue accepts it again after 10"
    " minutes; or the venue does not serve its region.",
    429: "The venue is overloaded: send requests less often.",
}
#: Seconds to wait before a retry, by HTTP status. The venue documents 10 minutes for 403; the others
#: are not documented.
_RETRY_AFTER_SECONDS = {403: 600.0, 429: 5.0, 500: 1.0, 502: 1.0, 503: 1.0, 504: 1.0}
#: Seconds to wait before a retry after a temporary error code; not documented.
_TEMPORARY_RETRY_SECONDS = 5.0
#: What a 403 says to an address in a region that the venue does not serve.
_REGION_TEXT = re.compile(r"\b(your|restricted) (country|region|location)", re.IGNORECASE)


#: {"execId":"2100000000007764263","symbol":"BTCUSDT","price":"16618.49","size":"0.00012",
#: "side":"Buy","time":"1672052955758","isBlockTrade":false,"isRPITrade":true,"seq":"123456"}
class _RecentTrade(Struct, gc=False, rename="camel"):
    """A row of ``recent-trade``."""

    exec_id: str
    price: Decimal
    size: Decimal
    side: Literal["Buy", "Sell"]
    time: str
    is_block_trade: bool = False


#: ["1670608800000","17071","17073","17027","17055.5","268611","15.74462667"]
class _KlineRow(Struct, array_like=True, gc=False):
    """A row of ``kline``."""

    start: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    turnover: Decimal


#: {"maxOrderQty":"100.0","minOrderQty":"0.001","qtyStep":"0.001","postOnlyMaxOrderQty":"100.0",
#: "maxMktOrderQty":"50.0","minNotionalValue":"5"}
class _Filter(Struct, rename={"tick": "tickSize", "lot": "qtyStep", "base": "basePrecision"}):
    """A price filter or a lot size filter of an instrument."""

    tick: Decimal | None = None
    lot: Decimal | None = None
    base: Decimal | None = None  #: the step of the size on spot


#: {"symbol":"BTCUSDT","contractType":"LinearPerpetual","status":"Trading","baseCoin":"BTC",
#: "quoteCoin":"USDT","launchTime":"1699990000000","deliveryTime":"1702592000000","priceScale":"2",
#: "priceFilter":{"minPrice":"1","maxPrice":"1000000","tickSize":"0.5"},
#: "lotSizeFilter":{"maxOrderQty":"100.0","minOrderQty":"0.001","qtyStep":"0.001"},
#: "settleCoin":"USDT"}
class _ListedSymbol(Struct, rename="camel"):
    """A row of ``instruments-info``."""

    symbol: str
    status: str
    base_coin: str
    quote_coin: str
    price_filter: _Filter
    lot_size_filter: _Filter
    settle_coin: str = ""
    contract_type: str = ""
    delivery_time: str = "0"


#: {"symbol":"BTCUSDT","category":"linear","list":[
#: ["1670608800000","17071","17073","17027","17055.5","268611","15.74462667"],
#: ["1670605200000","17071.5","17071.5","17061","17071","4177","0.24469757"]]}
class _ListResult(Struct, rename={"rows": "list", "next_cursor": "nextPageCursor"}):
    """The result of an answer that has rows, which are decoded later."""

    rows: msgspec.Raw
    next_cursor: str | None = None


#: {"s":"BTCUSDT","a":[["65557.7","16.606555"]],"b":[["65485.47","47.081829"]],"ts":1716863719031,
#: "u":230704,"seq":1432604333,"cts":1716863718905}
class _BookResult(Depth):
    """The result of ``orderbook``. `cts` is the time of the matching engine."""

    ts: int = 0
    cts: int = 0


#: {"retCode":0,"retMsg":"OK","result":{"timeSecond":"1688639403",
#: "timeNano":"1688639403423213947"},"retExtInfo":{},"time":1688639403423}
class _AnswerEnvelope(Struct, rename="camel"):
    """The envelope of every answer. A `ret_code` other than 0 is an error."""

    ret_code: int
    ret_msg: str = ""
    result: msgspec.Raw = msgspec.Raw(b"null")
    time: int = 0


_decode_envelope = msgspec.json.Decoder(_AnswerEnvelope).decode
_list_result_decoder = msgspec.json.Decoder(_ListResult)
_listed_symbols_decoder = msgspec.json.Decoder(list[_ListedSymbol])
_recent_trades_decoder = msgspec.json.Decoder(list[_RecentTrade])
_kline_rows_decoder = msgspec.json.Decoder(list[_KlineRow])
_book_result_decoder = msgspec.json.Decoder(_BookResult)


class BybitHistory:
    """Builds REST requests and reads the answers."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._venue, self._listing, self._names = feed.venue, feed.listing, names

    def listing_request(self) -> Request:
        """Return the request for the listed symbols: all of spot, up to 1,000 of linear."""
        params = {} if self._names.market == "spot" else _MAX_ROWS_PARAMETER
        return self._get("instruments-info", params)

    def request(self, query: HistoryQuery) -> Request | None:
        """Return the request for the newest trades (60 on spot, 1,000 on linear) or up to 1,000 bars.

        Returns None for a book, because a subscription brings a snapshot; with ``resync = "rest"``,
        however, the request for a book of 1,000 levels. Returns None for unknown intervals.
        """
        names = self._names
        native = self._listing.native.get(query.symbol) or names.native(query.symbol)
        symbol: dict[str, str | int] = {"symbol": native}
        if query.kind == "book":
            is_deepest = names.topic_prefix(query.channel or "book") == f"orderbook.{_MAX_ROWS}"
            uses_rest = names.settings.resync == "rest" and is_deepest
            return self._get("orderbook", symbol | _MAX_ROWS_PARAMETER) if uses_rest else None
        if query.kind == "trades":
            if query.channel not in ("", "trades"):
                return None
            return self._get("recent-trade", symbol | {"limit": _MAX_TRADES[names.market]})
        interval = query.interval or channel_parts(query.channel)[1]
        if interval not in INTERVALS:
            return None
        until = None if query.until is None else query.until - 1
        page_end = None
        if query.since is not None:
            # The venue returns the last bars of a longer time span, so the span is limited to a page.
            length = duration_ns("28d" if interval == "1M" else interval)
            page_end = query.since + _MAX_ROWS * length
        end = min([time for time in (until, page_end) if time is not None], default=None)
        span = {"start": query.since, "end": end}
        times = {name: ts // MS for name, ts in span.items() if ts is not None}
        params = {**symbol, "interval": INTERVALS[interval], **times, **_MAX_ROWS_PARAMETER}
        request = self._get("kline", params)
        is_cut = end == page_end
        return evolve(request, paged=query.since is not None, page_end=page_end if is_cut else None)

    def _get(self, path: str, params: Mapping[str, str | int]) -> Request:
        query_string = urlencode({"category": self._names.market, **params})
        url = f"{self._names.hosts[1]}/v5/market/{path}?{query_string}"
        return Request(url=url, rate=_RATE)

    def read_listing(self, body: bytes) -> list[Instrument]:
        """Return the instruments that the market lists.

        Raises ValueError if *body* cannot be decoded, or if the market lists more symbols than fit
        into one answer.
        """
        result = _decode(_list_result_decoder, _open_envelope(body).result)
        rows = _decode(_listed_symbols_decoder, result.rows)
        if result.next_cursor and len(rows) >= _MAX_ROWS:
            raise ValueError(f"the market lists more than the {_MAX_ROWS} symbols of one answer")
        return [_instrument(row) for row in rows]

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        """Return the events of an answer, chosen by the path and the query of the request's URL.

        Returns an empty list for another market's URL, and for a symbol or a channel that the feed
        does not have. Raises ValueError if *body* cannot be decoded.
        """
        url = urlsplit(request.url)
        params = dict(parse_qsl(url.query))
        read = {
            "/v5/market/orderbook": self._read_book,
            "/v5/market/recent-trade": self._read_trades,
            "/v5/market/kline": self._read_bars,
        }.get(url.path[url.path.find("/v5/") :])
        symbol = self._listing.unified.get(params.get("symbol", ""))
        if symbol is None or read is None or params.get("category") != self._names.market:
            return []
        return read(_open_envelope(body), symbol, params, recv)

    def _read_book(
        self, envelope: _AnswerEnvelope, symbol: str, params: Mapping[str, str], recv: int
    ) -> list[Event]:
        limit = params.get("limit", "")
        channel = self._names.channels.get(f"orderbook.{limit}")
        if channel is None:
            return []
        book = _decode(_book_result_decoder, envelope.result)
        common = self._venue, symbol, (book.cts or book.ts or envelope.time) * MS, recv
        ids = None, book.u, None, int(limit), channel, "history"
        return [Book(*common, "snapshot", book.b, book.a, *ids)]  # type: ignore[arg-type]

    def _read_trades(
        self, envelope: _AnswerEnvelope, symbol: str, params: Mapping[str, str], recv: int
    ) -> list[Event]:
        keeps_blocks = self._names.settings.block_trades
        rows = _decode(_recent_trades_decoder, _decode(_list_result_decoder, envelope.result).rows)
        return [
            Trade(
                self._venue, symbol, int(row.time) * MS, recv, row.price, row.size,
                SIDES[row.side], row.exec_id, "trades", "backfill",
            )
            for row in rows[::-1]
            if keeps_blocks or not row.is_block_trade
        ]  # fmt: skip

    def _read_bars(
        self, envelope: _AnswerEnvelope, symbol: str, params: Mapping[str, str], recv: int
    ) -> list[Event]:
        interval = _OUR_INTERVALS.get(params.get("interval", ""))
        if interval is None:
            return []
        length = duration_ns("31d" if interval == "1M" else interval)
        rows = _decode(_kline_rows_decoder, _decode(_list_result_decoder, envelope.result).rows)
        events: list[Event] = []
        for row in reversed(rows):
            start = int(row.start) * MS
            # The newest bar usually is still forming.
            closed = row is not rows[0] or start + length <= envelope.time * MS
            prices = row.open, row.high, row.low, row.close
            common = self._venue, symbol, start, recv, interval, *prices
            sums = row.volume, row.turnover, None, None, None
            channel = f"klines:{interval}"
            events.append(Bar(*common, *sums, closed, True, 0, channel, "backfill"))
        return events

    def refusal_reason(self, status: int, body: bytes) -> str | RequestRefused:
        """Return the venue's error message and code, a remedy, and the seconds until a retry."""
        try:
            error = _decode_envelope(body)
            reason, remedy = (
                f"{error.ret_msg} (code {error.ret_code})",
                _REMEDIES.get(error.ret_code),
            )
        except (ValueError, RecursionError):
            reason, remedy = plain_text(body), None
        if remedy == _REGION or (status == 403 and _REGION_TEXT.search(reason)):
            return RequestRefused(f"{reason} {_REGION}")  # trying again is pointless
        text = f"{reason} {remedy or _REMEDIES.get(status, '')}".strip()
        retry_after = _RETRY_AFTER_SECONDS.get(status)
        return text if retry_after is None else RequestRefused(text, retry_after)


def _open_envelope(body: bytes) -> _AnswerEnvelope:
    """Return the decoded envelope of an answer.

    Raises RequestRefused if it has an error code, which comes with the HTTP status 200 too, and
    ValueError if it cannot be decoded.
    """
    try:
        envelope = _decode_envelope(body)
    except (ValueError, RecursionError) as error:
        start = body[:80].decode(errors="replace")
        raise ValueError(f"expected an answer of API v5: {error}. It begins: {start}") from error
    code = envelope.ret_code
    if code:
        remedy = _REMEDIES.get(code, "")
        reason = f"bybit refused the request: {envelope.ret_msg} (code {code}). {remedy}".strip()
        raise RequestRefused(reason, _TEMPORARY_RETRY_SECONDS if code in TEMPORARY_CODES else None)
    return envelope


def _decode(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw) -> T:
    """Return the decoded part of an answer. Raises ValueError if it cannot be decoded."""
    try:
        return decoder.decode(raw)
    except RecursionError as error:
        raise ValueError("the answer is nested too deeply to be decoded") from error


def _instrument(row: _ListedSymbol) -> Instrument:
    base, quote, settle = row.base_coin, row.quote_coin, row.settle_coin
    kind: Kind = "swap" if row.contract_type else "spot"
    expiry = ""
    # A perpetual may have a delivery time too: it is the time of its delisting.
    if row.contract_type.endswith("Futures"):
        kind = "future"
        expiry = f"{datetime.fromtimestamp(int(row.delivery_time) / 1000, UTC):%y%m%d}"
    if not row.contract_type:
        settle = ""
    symbol = str(Symbol(base, quote, settle, expiry))
    lot = row.lot_size_filter.lot or row.lot_size_filter.base
    steps: tuple[Any, Any] = row.price_filter.tick or None, lot or None
    return Instrument(
        symbol, row.symbol, kind, base, quote, settle, *steps, row.status != "Closed"
    )  # fmt: skip
