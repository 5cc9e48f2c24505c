"""Alpaca's REST language: what is listed, trades and bars between two times, latest books.

The answers that a poller reads are read here too.
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
from tapeloom.symbols import Instrument, Symbol
from tapeloom.units import duration_ns

from .names import Names
from .settings import PAGE
from .wire import Best, Build, Candle, Depth, Fill, rfc3339

__all__ = ["AlpacaHistory", "Page", "interval_of", "page", "timeframe"]

_MONTHS = {"1M": 31, "2M": 62, "3M": 93, "6M": 186, "12M": 372}
_STATUSES = {
    401: "Check key_id and secret_key.",
    403: 'Check the keys; or the plan does not include this: set feed = "iex".',
}


class _Snapshot(Struct, rename="camel"):
    daily_bar: Candle | None = None


Page: TypeAlias = tuple[dict[str, list[Any]], str | None]


class _Trades(Struct, rename={"items": "trades"}):
    items: dict[str, list[Fill] | Fill] | None = None
    next_page_token: str | None = None
    currency: str = "USD"


class _Quotes(Struct, rename={"items": "quotes"}):
    items: dict[str, list[Best] | Best] | None = None
    next_page_token: str | None = None
    currency: str = "USD"


class _Bars(Struct, rename={"items": "bars"}):
    items: dict[str, list[Candle] | Candle] | None = None
    next_page_token: str | None = None
    currency: str = "USD"


class _Books(Struct, rename={"items": "orderbooks"}):
    items: dict[str, Depth] | None = None
    next_page_token: str | None = None
    currency: str = "USD"


class _Snapshots(Struct, rename={"items": "snapshots"}):
    """Crypto's; those of stocks have no key around them."""

    items: dict[str, _Snapshot] | None = None
    next_page_token: str | None = None
    currency: str = "USD"


_READ: dict[str, Callable[[bytes], Any]] = {
    name: msgspec.json.Decoder(cls).decode
    for name, cls in {
        "trades": _Trades, "quotes": _Quotes, "bars": _Bars, "orderbooks": _Books,
        "snapshots": _Snapshots, "stock snapshots": dict[str, _Snapshot],
    }.items()
}  # fmt: skip


def page(kind: str, body: bytes) -> Page:
    """Read an answer: the items of each symbol, by the venue's name, and the token of the next page.

    Prices in another currency than the US dollar are nothing that was asked for, and left out, and so
    are the pages that follow.

    Raises ValueError where it cannot be read.
    """
    try:
        found = _READ[kind](body)
    except (ValueError, RecursionError) as error:
        start = body[:80].decode(errors="replace")
        raise ValueError(
            f"the answer with {kind} cannot be read: {error}. It begins: {start}"
        ) from error
    if kind == "stock snapshots":
        found = _Snapshots(found)
    if found.currency != "USD":
        return {}, None
    some = found.items or {}
    if "snapshots" in kind:
        some = {name: one.daily_bar for name, one in some.items() if one.daily_bar}
    items = {name: one if isinstance(one, list) else [one] for name, one in some.items()}
    return items, found.next_page_token or None


def timeframe(interval: str) -> str | None:
    """Return the venue's word for an interval; None where it has none."""
    match = re.fullmatch(r"([1-9]\d?)([mhdwM])", interval)
    if match is None:
        return None
    count, unit = int(match[1]), match[2]
    word, most = {
        "m": ("Min", 59), "h": ("Hour", 23), "d": ("Day", 1), "w": ("Week", 1), "M": ("Month", 12)
    }[unit]  # fmt: skip
    if count > most or (unit == "M" and interval not in _MONTHS):
        return None
    return f"{count}{word}"


class _Asset(Struct, rename={"kind": "class"}):
    symbol: str
    kind: str = ""
    status: str = "active"
    tradable: bool = True
    price_increment: Decimal | None = None
    min_trade_increment: Decimal | None = None


class _Error(Struct):
    message: str = ""
    code: int = 0


_assets = msgspec.json.Decoder(list[_Asset]).decode
_error = msgspec.json.Decoder(_Error).decode


class AlpacaHistory:
    """Requests, and the reading of their answers."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._names, self._listing, self._build = names, feed.listing, Build(feed, names)

    def listing_request(self) -> Request | None:
        """Ask what can be traded; None where the venue has no such list."""
        return self._names.assets()

    def request(self, want: HistoryQuery) -> Request | None:
        """Ask for up to 10,000 trades or bars, the oldest first, or for the latest book.

        None for trades by id alone, for bars of an interval that the venue does not have, and for
        a book that is streamed: a snapshot without a number joins no stream, so the channel is
        subscribed anew.
        """
        names, settings = self._names, self._names.settings
        if settings.feed == "test" and not names.crypto:
            return None
        native = self._listing.native.get(want.symbol) or names.native(want.symbol)
        if want.kind == "book":
            polled = names.crypto and settings.mode == "poll"
            return names.rest("/latest/orderbooks", symbols=native) if polled else None
        query: dict[str, Any] = {
            "symbols": native,
            "start": None if want.since is None else rfc3339(want.since),
            "end": None if want.until is None else rfc3339(want.until - (want.kind == "bars")),
            "limit": PAGE,
            "sort": "asc",
        }
        if want.kind == "bars":
            query["timeframe"] = timeframe(want.interval or channel_parts(want.channel)[1])
        known = query["timeframe"] if want.kind == "bars" else want.since or not want.after_id
        if not known:
            return None
        return evolve(names.rest(f"/{want.kind}", **query), paged=want.since is not None)

    def read_listing(self, body: bytes) -> list[Instrument]:
        """Read what can be traded; what has a name that is no symbol of ours is left out.

        Raises ValueError where it cannot be read.
        """
        try:
            found = _assets(body)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the list of assets cannot be read: {error}") from error
        return [made for one in found if (made := _instrument(one)) is not None]

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        """Read the answer to `request` by the path of its address; any host will do.

        Raises Denied for an empty page after which more is to come: taken for the end, it would
        pass over what follows. Raises ValueError where it cannot be read. Returns nothing for another
        market's address, and for a symbol that the feed does not have.
        """
        address = urlsplit(request.url)
        _, found, path = address.path.partition(self._names.market.rest + "/")
        kind = next((part for part in path.split("/") if part != "latest"), "")
        if not found or kind not in _MADE:
            return []
        query = dict(parse_qsl(address.query))
        items, token = page(kind, body)
        if token and not any(items.values()):
            raise RequestRefused(
                "an empty page, though more is said to follow", retry_after_seconds=1.0
            )
        make = _MADE[kind]
        return [
            make(self._build, one, symbol, recv, query)
            for native, some in items.items()
            if (symbol := self._listing.unified.get(native)) is not None
            for one in some
        ]

    def refusal_reason(self, status: int, body: bytes) -> str:
        """Return the venue's words and what to do about it."""
        remedy = _STATUSES.get(status, "")
        try:
            message = _error(body).message
        except (ValueError, RecursionError):
            return remedy
        return f"{message.rstrip('.')}. {remedy}".strip(". ") + "." if message else remedy


def _bar(build: Build, one: Candle, symbol: str, recv: int, query: Mapping[str, str]) -> Event:
    interval = interval_of(query.get("timeframe", "1Min"))
    bar = build.bar(one, symbol, recv, interval, origin="backfill")
    days = _MONTHS.get(interval)
    length = days * 86_400_000_000_000 if days else duration_ns(interval)
    bar.closed = bar.ts + length <= recv  # type: ignore[misc, union-attr]  # the last is forming
    return bar


def interval_of(frame: str) -> str:
    """Return our word for the venue's; a month is the one unit that begins with a capital."""
    count, word = re.fullmatch(r"(\d*)(.*)", frame).groups()  # type: ignore[union-attr]
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
    return f"{count or 1}{units.get(word, 'M')}"


_Make: TypeAlias = Callable[[Build, Any, str, int, Mapping[str, str]], Event]
_MADE: dict[str, _Make] = {
    "trades": lambda build, one, symbol, recv, _: build.trade(one, symbol, recv, "backfill"),
    "quotes": lambda build, one, symbol, recv, _: build.quote(one, symbol, recv),
    "bars": _bar,
    "orderbooks": lambda build, one, symbol, recv, _: build.book(
        one, symbol, recv, whole=True, origin="history"
    ),
}


def _instrument(one: _Asset) -> Instrument | None:
    crypto = one.kind == "crypto"
    text = one.symbol if crypto else f"{one.symbol}/USD"
    try:
        symbol = Symbol.parse(text)
    except SymbolError:  # its name has a sign in it that means something in ours
        return None
    active = one.status == "active" and one.tradable
    return Instrument(
        str(symbol), one.symbol, "spot", symbol.base, symbol.quote,
        tick=one.price_increment, lot=one.min_trade_increment, active=active,
    )  # fmt: skip
