"""Bybit over REST: what is listed, past trades and bars, and the deepest book."""

from __future__ import annotations

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
from tapeloom.symbols import Instrument, Kind, Symbol
from tapeloom.units import Rate, duration_ns

from .codec import PASSING
from .names import INTERVALS
from .wire import MS, SIDES, Depth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .names import Names

__all__ = ["BybitHistory"]

T = TypeVar("T")
_ROWS = 1000
_TRADES = {"spot": 60, "linear": 1000}
#: For each address; beyond it, nothing is answered for ten minutes.
_BUDGET = Rate(600, 5.0)
_WORDS = {interval: word for word, interval in INTERVALS.items()}
_REMEDIES = {
    10001: "Check the symbols and the market of the feed.",
    10006: "Too many requests: ask less often.",
    10009: "The venue does not serve the place that this address belongs to.",
    10024: "The venue does not serve the place that this address belongs to.",
    403: "Too many requests from this address, which the venue forgives after 10 minutes; or it"
    " does not serve the place that this address belongs to.",
    429: "The venue protects itself: ask less often.",
}  # fmt: skip


class _Past(Struct, gc=False, rename="camel"):
    exec_id: str
    price: Decimal
    size: Decimal
    side: Literal["Buy", "Sell"]
    time: str
    is_block_trade: bool = False


class _Row(Struct, array_like=True, gc=False):
    start: str
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    turnover: Decimal


class _Steps(Struct, rename={"tick": "tickSize", "lot": "qtyStep", "base": "basePrecision"}):
    tick: Decimal | None = None
    lot: Decimal | None = None
    base: Decimal | None = None  #: what spot calls the step of the size


class _Listed(Struct, rename="camel"):
    symbol: str
    status: str
    base_coin: str
    quote_coin: str
    price_filter: _Steps
    lot_size_filter: _Steps
    settle_coin: str = ""
    contract_type: str = ""
    delivery_time: str = "0"


class _Lists(Struct, rename={"rows": "list", "more": "nextPageCursor"}):
    rows: msgspec.Raw
    more: str | None = None


class _Snapshot(Depth):
    ts: int = 0
    cts: int = 0


class _Body(Struct, rename="camel"):
    ret_code: int
    ret_msg: str = ""
    result: msgspec.Raw = msgspec.Raw(b"null")
    time: int = 0


class BybitHistory:
    """Requests, and the reading of their answers."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._venue, self._listing, self._names = feed.venue, feed.listing, names

    def listing_request(self) -> Request:
        """Ask what the market lists: spot all at once, linear a thousand at the most."""
        return self._get("instruments-info", {} if self._names.market == "spot" else _LIMIT)

    def request(self, want: HistoryQuery) -> Request | None:
        """Ask for the newest trades (60 on spot, 1,000 on linear), or for up to 1,000 bars.

        None for a book, which comes with a subscription; but with ``resync = "rest"`` one of 1,000
        levels is asked for here. None for intervals that the venue does not have.
        """
        names = self._names
        native = self._listing.native.get(want.symbol) or names.native(want.symbol)
        symbol: dict[str, str | int] = {"symbol": native}
        if want.kind == "book":
            whole = names.head(want.channel or "book") == f"orderbook.{_ROWS}"
            rest = names.settings.resync == "rest" and whole
            return self._get("orderbook", symbol | _LIMIT) if rest else None
        if want.kind == "trades":
            if want.channel not in ("", "trades"):
                return None
            return self._get("recent-trade", symbol | {"limit": _TRADES[names.market]})
        interval = want.interval or channel_parts(want.channel)[1]
        if interval not in INTERVALS:
            return None
        until = None if want.until is None else want.until - 1
        most = None
        if want.since is not None:
            # Of a longer time the venue would give the last bars.
            most = want.since + _ROWS * duration_ns("28d" if interval == "1M" else interval)
        end = min([one for one in (until, most) if one is not None], default=None)
        span = {"start": want.since, "end": end}
        times = {name: ts // MS for name, ts in span.items() if ts is not None}
        query = {**symbol, "interval": INTERVALS[interval], **times, **_LIMIT}
        cut = most if end == most else None
        return evolve(self._get("kline", query), paged=want.since is not None, page_end=cut)

    def _get(self, path: str, query: Mapping[str, str | int]) -> Request:
        whole = urlencode({"category": self._names.market, **query})
        return Request(url=f"{self._names.hosts[1]}/v5/market/{path}?{whole}", rate=_BUDGET)

    def read_listing(self, body: bytes) -> list[Instrument]:
        """Read what the market lists.

        Raises ValueError where it cannot be read, or has more symbols than fit into one answer.
        """
        lists = _read(_lists, _open(body).result)
        rows = _read(_listed, lists.rows)
        if lists.more and len(rows) >= _ROWS:
            raise ValueError(f"the market lists more than the {_ROWS} symbols of one answer")
        return [_instrument(row) for row in rows]

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        """Read the answer to a request, by the path and the query of its address.

        Raises ValueError where it cannot be read. Returns nothing for another market's address,
        and for a symbol or a channel that the feed does not have.
        """
        address = urlsplit(request.url)
        query = dict(parse_qsl(address.query))
        read = {
            "/v5/market/orderbook": self._book,
            "/v5/market/recent-trade": self._trades,
            "/v5/market/kline": self._bars,
        }.get(address.path[address.path.find("/v5/") :])
        symbol = self._listing.unified.get(query.get("symbol", ""))
        if symbol is None or read is None or query.get("category") != self._names.market:
            return []
        return read(_open(body), symbol, query, recv)

    def _book(self, body: _Body, symbol: str, query: Mapping[str, str], recv: int) -> list[Event]:
        limit = query.get("limit", "")
        channel = self._names.channels.get(f"orderbook.{limit}")
        if channel is None:
            return []
        top = _read(_snapshot, body.result)
        place = self._venue, symbol, (top.cts or top.ts or body.time) * MS, recv
        ids = None, top.u, None, int(limit), channel, "history"
        return [Book(*place, "snapshot", top.b, top.a, *ids)]  # type: ignore[arg-type]

    def _trades(self, body: _Body, symbol: str, query: Mapping[str, str], recv: int) -> list[Event]:
        blocks = self._names.settings.block_trades
        return [
            Trade(
                self._venue, symbol, int(row.time) * MS, recv, row.price, row.size,
                SIDES[row.side], row.exec_id, "trades", "backfill",
            )
            for row in _read(_past, _read(_lists, body.result).rows)[::-1]
            if blocks or not row.is_block_trade
        ]  # fmt: skip

    def _bars(self, body: _Body, symbol: str, query: Mapping[str, str], recv: int) -> list[Event]:
        interval = _WORDS.get(query.get("interval", ""))
        if interval is None:
            return []
        length = duration_ns("31d" if interval == "1M" else interval)
        rows = _read(_rows, _read(_lists, body.result).rows)
        events: list[Event] = []
        for row in reversed(rows):
            start = int(row.start) * MS
            # The newest one is as a rule still forming.
            closed = row is not rows[0] or start + length <= body.time * MS
            place = self._venue, symbol, start, recv, interval, row.open, row.high, row.low
            sums = row.close, row.volume, row.turnover, None, None, None
            events.append(Bar(*place, *sums, closed, True, 0, f"klines:{interval}", "backfill"))
        return events

    def refusal_reason(self, status: int, body: bytes) -> RequestRefused:
        """Return the venue's words, its code, what to do about it, and when to ask again."""
        remedy, pause = _REMEDIES.get(status, ""), _PAUSES.get(status)
        try:
            said = _body(body)
        except (ValueError, RecursionError):
            return RequestRefused(remedy, pause)
        remedy = _REMEDIES.get(said.ret_code, remedy)
        return RequestRefused(f"{said.ret_msg} (code {said.ret_code}) {remedy}".strip(), pause)


_LIMIT = {"limit": _ROWS}
#: Seconds to wait: the venue forgives after 10 minutes; the rest it does not say.
_PAUSES = {403: 600.0, 429: 5.0, 500: 1.0, 502: 1.0, 503: 1.0, 504: 1.0}
_PASSING_FOR = 5.0
_body = msgspec.json.Decoder(_Body).decode
_lists = msgspec.json.Decoder(_Lists)
_listed = msgspec.json.Decoder(list[_Listed])
_past = msgspec.json.Decoder(list[_Past])
_rows = msgspec.json.Decoder(list[_Row])
_snapshot = msgspec.json.Decoder(_Snapshot)


def _open(body: bytes) -> _Body:
    """Return the body of an answer; an error comes in one with the HTTP status 200, too.

    Raises ValueError where it says an error, or cannot be read.
    """
    try:
        said = _body(body)
    except (ValueError, RecursionError) as error:
        start = body[:80].decode(errors="replace")
        raise ValueError(f"expected an answer of API v5: {error}. It begins: {start}") from error
    if said.ret_code:
        remedy = _REMEDIES.get(said.ret_code, "")
        words = f"bybit says: {said.ret_msg} (code {said.ret_code}). {remedy}".strip()
        raise RequestRefused(words, _PASSING_FOR if said.ret_code in PASSING else None)
    return said


def _read(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw) -> T:
    try:
        return decoder.decode(raw)
    except RecursionError as error:
        raise ValueError("the answer is nested without end") from error


def _instrument(row: _Listed) -> Instrument:
    base, quote, settle = row.base_coin, row.quote_coin, row.settle_coin
    kind: Kind = "swap" if row.contract_type else "spot"
    expiry = ""
    if row.contract_type.endswith("Futures"):  # what a perpetual has there is its delisting
        kind = "future"
        expiry = f"{datetime.fromtimestamp(int(row.delivery_time) / 1000, UTC):%y%m%d}"
    if not row.contract_type:
        settle = ""
    symbol = str(Symbol(base, quote, settle, expiry))
    lot = row.lot_size_filter.lot or row.lot_size_filter.base
    steps: tuple[Any, Any] = row.price_filter.tick or None, lot or None
    return Instrument(
        symbol, row.symbol, kind, base, quote, settle, *steps, row.status == "Trading"
    )  # fmt: skip
