"""Alpaca's REST interface: listings, trades and bars between two times, and latest books.

It makes the requests and parses the answers. The poller uses `parse_page` too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import msgspec
from attrs import evolve
from msgspec import Struct
from tapeloom.errors import RequestRefused, SymbolError
from tapeloom.events import Event
from tapeloom.plugin import Feed, HistoryQuery, Request, channel_parts
from tapeloom.plugin.transports import plain_text
from tapeloom.symbols import Instrument, Symbol
from tapeloom.units import duration_ns

from .names import Names
from .settings import PAGE
from .times import format_time
from .wire import BarMessage, BookMessage, EventBuilder, QuoteMessage, TradeMessage

__all__ = ["AlpacaHistory", "Page", "interval_of", "parse_page", "timeframe"]

#: Days in the venue's intervals of months: the longest such span, so that no bar closes too early.
_MONTHS = {"1M": 31, "2M": 62, "3M": 93, "6M": 186, "12M": 372}
#: What a user can do about an error, by HTTP status.
_REMEDIES = {
    401: "Check key_id and secret_key.",
    403: 'Check the keys; or the plan does not include this: set feed = "iex".',
}
#: Nanoseconds in a day.
_DAY = 86_400_000_000_000

#: The messages of a page by the venue's symbol names, and the token of the next page.
Page: TypeAlias = tuple[dict[str, list[Any]], str | None]


#: {"latestTrade":{"t":"2021-05-03T14:45:50.456Z","x":"D","p":133.55,"s":200,"c":["@"],"i":61462,
#: "z":"C"},"dailyBar":{"t":"2021-05-03T04:00:00Z","o":132.04,"h":134.07,"l":131.83,"c":133.445,
#: "v":25094213}}
class _SnapshotMessage(Struct, rename="camel"):
    """The latest state of a symbol; only the bar of the day is used."""

    daily_bar: BarMessage | None = None


#: {"trades":{"AAPL":[{"t":"2021-10-13T08:00:00.08960768Z","x":"P","p":140.2,"s":595,"c":["@","T"],
#: "i":1,"z":"C"}]},
#: "next_page_token":"QUFQTHwyMDIxLTEwLTEzVDA4OjAwOjAwLjA4OTYwNzY4MFp8UHwwOTIyMzM3MjAzNjg1NDc3NTgwOQ=="}
class _TradesPage(Struct, rename={"items": "trades"}):
    """A page of trades, or the latest trade of each symbol."""

    items: dict[str, list[TradeMessage] | TradeMessage] | None = None
    next_page_token: str | None = None
    currency: str = "USD"


#: {"quotes":{"AAPL":{"t":"2021-04-20T13:01:57.822745906Z","ax":"Q","ap":134.68,"as":1,"bx":"K",
#: "bp":134.66,"bs":29,"c":["R"]}}}
class _QuotesPage(Struct, rename={"items": "quotes"}):
    """A page of quotes, or the latest quote of each symbol."""

    items: dict[str, list[QuoteMessage] | QuoteMessage] | None = None
    next_page_token: str | None = None
    currency: str = "USD"


#: {"bars":{"AMZN":[{"t":"2021-10-15T16:00:00Z","o":3378.14,"h":3380.815,"l":3376.3001,
#: "c":3379.72,"v":211689,"n":5435,"vw":3379.041755}]},"next_page_token":null}
class _BarsPage(Struct, rename={"items": "bars"}):
    """A page of bars, or the latest bar of each symbol."""

    items: dict[str, list[BarMessage] | BarMessage] | None = None
    next_page_token: str | None = None
    currency: str = "USD"


#: {"orderbooks":{"BTC/USD":{"t":"2024-03-12T10:38:50.79613221Z","b":[{"p":71859.53,"s":0.27994}],
#: "a":[{"p":71939.7,"s":0.83953}]}}}
class _BooksPage(Struct, rename={"items": "orderbooks"}):
    """The latest book of each symbol."""

    items: dict[str, BookMessage] | None = None
    next_page_token: str | None = None
    currency: str = "USD"


#: {"snapshots":{"BTC/USD":{"dailyBar":{"t":"2021-05-03T04:00:00Z","o":132.04,"h":134.07,"l":131.83,
#: "c":133.445,"v":25094213}}}}
class _SnapshotsPage(Struct, rename={"items": "snapshots"}):
    """The latest state of each crypto symbol. Stocks are sent without the key `snapshots`."""

    items: dict[str, _SnapshotMessage] | None = None
    next_page_token: str | None = None
    currency: str = "USD"


#: The decoder of an answer by its kind.
_DECODERS: dict[str, Callable[[bytes], Any]] = {
    name: msgspec.json.Decoder(cls).decode
    for name, cls in {
        "trades": _TradesPage, "quotes": _QuotesPage, "bars": _BarsPage, "orderbooks": _BooksPage,
        "snapshots": _SnapshotsPage, "stock snapshots": dict[str, _SnapshotMessage],
    }.items()
}  # fmt: skip


def parse_page(kind: str, body: bytes) -> Page:
    """Return the messages of an answer by the venue's symbol names, and the next page's token.

    An answer with prices in another currency than USD was not requested: it is taken as empty and
    as the last page.

    Raises ValueError if the answer cannot be decoded.
    """
    try:
        page = _DECODERS[kind](body)
    except (ValueError, RecursionError) as error:
        start = body[:80].decode(errors="replace")
        raise ValueError(
            f"the answer with {kind} cannot be read: {error}. It begins: {start}"
        ) from error
    if kind == "stock snapshots":
        page = _SnapshotsPage(page)
    if page.currency != "USD":
        return {}, None
    items = page.items or {}
    if "snapshots" in kind:
        items = {native: item.daily_bar for native, item in items.items() if item.daily_bar}
    lists = {native: i if isinstance(i, list) else [i] for native, i in items.items()}
    return lists, page.next_page_token or None


def timeframe(interval: str) -> str | None:
    """Return the venue's name of an interval, such as ``15Min``; None if it has no such interval."""
    match = re.fullmatch(r"([1-9]\d?)([mhdwM])", interval)
    if match is None:
        return None
    count, unit = int(match[1]), match[2]
    name, most = {
        "m": ("Min", 59), "h": ("Hour", 23), "d": ("Day", 1), "w": ("Week", 1), "M": ("Month", 12)
    }[unit]  # fmt: skip
    if count > most or (unit == "M" and interval not in _MONTHS):
        return None
    return f"{count}{name}"


#: {"id":"276e2673-764b-4ab6-a611-caf665ca6340","class":"crypto","exchange":"CRYPTO",
#: "symbol":"BTC/USD","name":"Bitcoin","status":"active","tradable":true,"fractionable":true,
#: "min_order_size":"0.0001","min_trade_increment":"0.0001","price_increment":"1"}
class _AssetMessage(Struct, rename={"kind": "class"}):
    """An asset in the listing."""

    symbol: str
    kind: str = ""
    status: str = "active"
    price_increment: Decimal | None = None
    min_trade_increment: Decimal | None = None


#: {"message":"subscription does not permit querying recent SIP data"}
class _ErrorMessage(Struct):
    """The body of an error answer."""

    message: str = ""
    code: int = 0


_decode_assets = msgspec.json.Decoder(list[_AssetMessage]).decode
_decode_error = msgspec.json.Decoder(_ErrorMessage).decode


class AlpacaHistory:
    """Makes requests, and parses the answers."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._names, self._listing = names, feed.listing
        self._build = EventBuilder(feed, names)

    def listing_request(self) -> Request | None:
        """Return the request for the listing; None if this feed has none."""
        return self._names.assets()

    def request(self, query: HistoryQuery) -> Request | None:
        """Return the request for up to 10,000 trades or bars, oldest first, or for the latest book.

        None for trades by id alone, for bars of an interval that the venue does not have, and for
        a book that is streamed: a snapshot without an id cannot be joined to the deltas, so core
        subscribes anew instead.
        """
        names, settings = self._names, self._names.settings
        if settings.feed == "test" and not names.crypto:
            return None
        native = self._listing.native.get(query.symbol) or names.native(query.symbol)
        if query.kind == "book":
            polled = names.crypto and settings.mode == "poll"
            return names.rest("/latest/orderbooks", symbols=native) if polled else None
        is_bars = query.kind == "bars"
        parameters: dict[str, Any] = {
            "symbols": native,
            "start": None if query.since is None else format_time(query.since),
            "end": None if query.until is None else format_time(query.until - is_bars),
            "limit": PAGE,
            "sort": "asc",
        }
        if is_bars:
            frame = timeframe(query.interval or channel_parts(query.channel)[1])
            parameters["timeframe"] = frame
            if not frame:
                return None
        elif not query.since and query.after_id:
            return None
        return evolve(names.rest(f"/{query.kind}", **parameters), paged=query.since is not None)

    def read_listing(self, body: bytes) -> list[Instrument]:
        """Return the instruments of a listing, without those that have no valid unified symbol.

        Raises ValueError if the listing cannot be decoded.
        """
        try:
            assets = _decode_assets(body)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the list of assets cannot be read: {error}") from error
        instruments = map(_instrument, assets)
        return [instrument for instrument in instruments if instrument is not None]

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        """Return the events of an answer, by the path of its request; on any host.

        Raises RequestRefused for an empty page that has a next page: if it were taken for the end,
        later items would be lost. Raises ValueError if the answer cannot be decoded. Returns nothing
        for the path of another market, and for a symbol that the feed does not have.
        """
        address = urlsplit(request.url)
        _, separator, path = address.path.partition(self._names.market.rest + "/")
        kind = next((part for part in path.split("/") if part != "latest"), "")
        if not separator or kind not in _BUILDERS:
            return []
        parameters = dict(parse_qsl(address.query))
        items, token = parse_page(kind, body)
        if token and not any(items.values()):
            raise RequestRefused(
                "the venue sent an empty page, but with the token of a next page",
                retry_after_seconds=1.0,
            )
        builder = _BUILDERS[kind]
        return [
            builder(self._build, message, symbol, recv, parameters)
            for native, messages in items.items()
            if (symbol := self._listing.unified.get(native)) is not None
            for message in messages
        ]

    def refusal_reason(self, status: int, body: bytes) -> str | RequestRefused:
        """Return the message of an error answer, and what a user can do about it."""
        remedy = _REMEDIES.get(status, "")
        try:
            message = _decode_error(body).message
        except (ValueError, RecursionError):
            message = plain_text(body)
        text = f"{message.rstrip('.')}. {remedy}".strip(". ") + "." if message else remedy
        # A 403 is about keys and plans here, not about a rate limit.
        return RequestRefused(text) if status == 403 else text


def _build_bar(
    build: EventBuilder, message: BarMessage, symbol: str, recv: int, parameters: Mapping[str, str]
) -> Event:
    interval = interval_of(parameters.get("timeframe", "1Min"))
    bar = build.bar(message, symbol, recv, interval, origin="backfill")
    days = _MONTHS.get(interval)
    length_ns = days * _DAY if days else duration_ns(interval)
    # The last bar of an answer may still be open.
    bar.closed = bar.ts + length_ns <= recv  # type: ignore[attr-defined]
    return bar


def interval_of(frame: str) -> str:
    """Return the interval for a timeframe of the venue: ``15m`` for ``15Min`` or ``15T``."""
    count, name = re.fullmatch(r"(\d*)(.*)", frame).groups()  # type: ignore[union-attr]
    units = {
        "Min": "m",
        "T": "m",
        "Hour": "h",
        "H": "h",
        "Day": "d",
        "D": "d",
        "Week": "w",
        "W": "w",
    }
    # Any other name is that of a month.
    return f"{count or 1}{units.get(name, 'M')}"


_Builder: TypeAlias = Callable[[EventBuilder, Any, str, int, Mapping[str, str]], Event]
#: The function that builds the event of a message, by the kind of the answer.
_BUILDERS: dict[str, _Builder] = {
    "trades": lambda build, message, symbol, recv, _: build.trade(
        message, symbol, recv, "backfill"
    ),
    "quotes": lambda build, message, symbol, recv, _: build.quote(message, symbol, recv),
    "bars": _build_bar,
    "orderbooks": lambda build, message, symbol, recv, _: build.book(
        message, symbol, recv, snapshot=True, origin="history"
    ),
}


def _instrument(asset: _AssetMessage) -> Instrument | None:
    crypto = asset.kind == "crypto"
    text = asset.symbol if crypto else f"{asset.symbol}/USD"
    try:
        symbol = Symbol.parse(text)
    except SymbolError:  # the name has a character that unified symbols do not allow
        return None
    active = asset.status == "active"
    return Instrument(
        str(symbol), asset.symbol, "spot", symbol.base, symbol.quote,
        tick=asset.price_increment, lot=asset.min_trade_increment, active=active,
    )  # fmt: skip
