"""Binance over REST: what is listed, book snapshots, past trades and bars."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from msgspec import Struct
from tapeloom.events import Bar, Book, Event, Side, Trade
from tapeloom.feeds import Feed, Instrument, Request, Want, channel_parts
from tapeloom.symbols import Kind, Symbol

from .wire import Aggregate, Top

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .symbols import Names

__all__ = ["BinanceHistory"]

T = TypeVar("T")

#: The most rows that every list gives.
_ROWS = 1000
_HOUR = 3_600_000_000_000
#: Where a perpetual swap says that it is delivered: in the year 2100.
_NEVER = 4_000_000_000_000

_REMEDIES = {
    -1003: "Too many requests: wait as long as Retry-After says; the streams go on meanwhile.",
    -1008: "The venue is overloaded: try again.",
    -1121: "This market does not list the symbol: mind the feed's `market`.",
    -2014: "Check api_key in [venue.binance].",
    -2015: "Check api_key in [venue.binance].",
}
_STATUSES = {
    403: "The venue's firewall refused us: ask less often.",
    418: "This address is banned for a while: wait as long as Retry-After says.",
    429: "Too many requests: wait as long as Retry-After says.",
    451: "The venue does not serve the place that this address belongs to.",
}


class _Past(
    Struct, gc=False, rename={"t": "id", "p": "price", "q": "qty", "T": "time", "m": "isBuyerMaker"}
):
    """A row of ``historicalTrades`` and ``trades``."""

    t: int
    p: Decimal
    q: Decimal
    T: int
    m: bool


class _Row(Struct, array_like=True, gc=False):
    """A row of ``klines``."""

    start: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    end: int  #: the last moment that belongs to it
    quote_volume: Decimal
    trades: int
    buy_volume: Decimal
    buy_quote_volume: Decimal


class _Filter(Struct, rename="camel"):
    filter_type: str
    tick_size: Decimal | None = None
    step_size: Decimal | None = None


class _Listed(Struct, rename="camel"):
    symbol: str
    status: str
    base_asset: str
    quote_asset: str
    filters: list[_Filter]
    margin_asset: str = ""
    contract_type: str = ""
    delivery_date: int = 0


class _Info(Struct):
    symbols: list[_Listed]


class _Error(Struct):
    code: int
    msg: str = ""


class BinanceHistory:
    """Requests with their cost, and the reading of their answers."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._venue = feed.venue
        self._listing = feed.listing
        self._names = names
        self._market = names.market
        self._readers: dict[str, tuple[Callable[[bytes], Any], Callable[..., list[Event]]]] = {
            "depth": (_decode(Top), self._book),
            "aggTrades": (_decode(list[Aggregate]), self._trades),
            "historicalTrades": (_decode(list[_Past]), self._trades),
            "trades": (_decode(list[_Past]), self._trades),
            "klines": (_decode(list[_Row]), self._bars),
        }

    def listing(self) -> Request:
        """Ask what the market lists."""
        return self._get("exchangeInfo", {})

    def request(self, want: Want) -> Request | None:
        """Ask for a snapshot, for up to 1,000 trades, or for up to 1,000 bars; the oldest first.

        None for what the market does not give: raw trades of a time instead of an id, raw trades of
        futures without an API key, bars of an interval that it does not know.
        """
        symbol = self._listing.native.get(want.symbol) or self._names.native(want.symbol)
        if want.kind == "book":
            costs = self._market.depth_weights
            wanted = self._names.settings.snapshot_limit
            limit = next((step for step in costs if step >= wanted), max(costs))
            return self._get("depth", {"symbol": symbol, "limit": limit}, costs[limit])
        if want.kind == "trades":
            return self._ask_trades(symbol, want)
        interval = want.interval or channel_parts(want.channel)[1]
        if interval not in self._market.intervals:
            return None
        until = None if want.until is None else want.until - 1
        span = _span(want.since, until)
        return self._get("klines", {"symbol": symbol, "interval": interval, **span, "limit": _ROWS})

    def _ask_trades(self, symbol: str, want: Want) -> Request | None:
        channel = want.channel or "trades"
        if channel not in ("trades", "agg_trades") or isinstance(want.after, str):
            return None
        path = "aggTrades" if self._names.kind(channel) == "aggTrade" else "historicalTrades"
        if path in self._market.keyed and self._names.settings.api_key is None:
            return None
        if want.after is not None:
            part = {"fromId": want.after + 1}
        elif path == "aggTrades":
            # The two times must be less than an hour apart.
            hour = None if want.since is None else want.since + _HOUR - 1_000_000
            ends = [end for end in (want.until, hour) if end is not None]
            part = _span(want.since, min(ends, default=None))
        elif want.since is None:
            part = {}
        else:
            return None
        return self._get(path, {"symbol": symbol, **part, "limit": _ROWS})

    def _get(self, path: str, query: Mapping[str, str | int], weight: int = 0) -> Request:
        headers = {}
        if self._names.scale == 1_000:
            headers["X-MBX-TIME-UNIT"] = "MICROSECOND"
        key = self._names.settings.api_key
        if key is not None and path in self._market.keyed:
            headers["X-MBX-APIKEY"] = key.reveal()
        url = f"{self._names.hosts[1]}{self._market.prefix}/{path}"
        return Request(
            url=f"{url}?{urlencode(query)}" if query else url,
            weight=weight or self._market.weights[path],
            rate=self._market.budget,
            headers=headers,
        )

    def instruments(self, body: bytes) -> list[Instrument]:
        """Read what the market lists.

        Raises ValueError where it cannot be read.
        """
        return [_instrument(listed) for listed in _read(_info, "exchangeInfo", body).symbols]

    def answer(self, url: str, body: bytes, recv: int) -> list[Event]:
        """Read the answer to `request` by the path and the query of its address; any host will do.

        Raises ValueError where it cannot be read. Returns nothing for another market's address, and
        for a symbol or a channel that the feed does not have.
        """
        address = urlsplit(url)
        query = dict(parse_qsl(address.query))
        root, _, path = address.path.rpartition("/")
        symbol = self._listing.unified.get(query.get("symbol", ""))
        if symbol is None or path not in self._readers or not root.endswith(self._market.prefix):
            return []
        decode, events = self._readers[path]
        return events(_read(decode, path, body), symbol, path, query, recv)

    def _book(
        self, top: Top, symbol: str, path: str, query: Mapping[str, str], recv: int
    ) -> list[Event]:
        ts = top.T * self._names.scale or recv
        depth = int(query.get("limit", "0")) or max(len(top.b), len(top.a))
        levels, ids = (top.b, top.a), (None, top.u, None)
        place = self._venue, symbol, ts, recv
        return [Book(*place, "snapshot", *levels, *ids, depth, "book", "history")]

    def _trades(
        self, rows: list[Any], symbol: str, path: str, query: Mapping[str, str], recv: int
    ) -> list[Event]:
        names, scale = self._names, self._names.scale
        kind = "aggTrade" if path == "aggTrades" else "trade"
        channel = names.series(kind)
        if channel not in names.channels or names.kind(channel) != kind:
            return []
        events: list[Event] = []
        for row in rows:
            side: Side = "sell" if row.m else "buy"
            more = row.p, row.q, side, row.t, channel
            events.append(Trade(self._venue, symbol, row.T * scale, recv, *more, "backfill"))
        return events

    def _bars(
        self, rows: list[_Row], symbol: str, path: str, query: Mapping[str, str], recv: int
    ) -> list[Event]:
        interval = query.get("interval", "")
        scale, channel = self._names.scale, f"klines:{interval}"
        events: list[Event] = []
        for row in rows:
            # The last one is as a rule still forming.
            closed = row is not rows[-1] or row.end * scale < recv
            place = self._venue, symbol, row.start * scale, recv, interval
            prices = row.open, row.high, row.low, row.close
            sums = row.volume, row.quote_volume, row.buy_volume, row.buy_quote_volume
            bar = Bar(*place, *prices, *sums, row.trades, closed, True, 0, channel, "backfill")
            events.append(bar)
        return events

    def refusal(self, status: int, body: bytes) -> str:
        """Return the venue's words, its code, and what to do about it."""
        remedy = _STATUSES.get(status, "")
        try:
            error = _error(body)
        except (msgspec.DecodeError, RecursionError):
            return remedy
        return f"{error.msg} (code {error.code}) {_REMEDIES.get(error.code, remedy)}".strip()


def _decode(cls: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(cls).decode


_info = msgspec.json.Decoder(_Info).decode
_error = msgspec.json.Decoder(_Error).decode


def _read(decode: Callable[[bytes], T], path: str, body: bytes) -> T:
    """Decode a body; say which one it was where that fails."""
    try:
        return decode(body)
    except (ValueError, RecursionError) as error:
        start = body[:80].decode(errors="replace")
        raise ValueError(
            f"the answer to {path} cannot be read: {error}. It begins: {start}"
        ) from error


def _span(since: int | None, until: int | None) -> dict[str, int]:
    """Return two times as Binance takes them, in ms, both included."""
    span = {"startTime": since, "endTime": until}
    return {name: time // 1_000_000 for name, time in span.items() if time is not None}


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
    active = listed.status == "TRADING"
    return Instrument(symbol, listed.symbol, kind, base, quote, settle, tick, lot, active)
