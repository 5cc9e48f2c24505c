"""Hyperliquid over REST: one address, and a body that says what is asked."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct
from tapeloom.errors import SymbolError
from tapeloom.events import Book, Event
from tapeloom.plugin import Feed, HistoryQuery, Request, channel_parts
from tapeloom.symbols import Instrument, Symbol
from tapeloom.units import duration_ns

from .symbols import BUDGET, INTERVALS, WRAPPED, Names, unified_base
from .tapes import Candle, Fill, bar, trade
from .wire import L2, MS, levels

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HyperliquidHistory"]

#: The most candles that the venue keeps of a coin and interval, and those we ask for unless told.
_KEPT, _USUAL = 5000, 500
_REMEDIES = {
    422: "This node does not know the request: another one, or the venue's own address, may.",
    429: "Too many requests: the venue allows a weight of 1,200 a minute.",
    500: "The venue failed; some nodes answer so to a coin that they do not list.",
}


class _Span(Struct, omit_defaults=True):
    coin: str
    interval: str
    startTime: int  # noqa: N815
    endTime: int | None = None  # noqa: N815


class _Body(Struct, omit_defaults=True):
    """What is asked."""

    type: str
    coin: str = ""
    dex: str = ""
    req: _Span | None = None


#: Digits after the point of a size.
_Decimals = Annotated[int, Meta(ge=0, le=30)]


class _Perp(Struct, rename="camel"):
    name: str
    sz_decimals: _Decimals
    is_delisted: bool | None = None


class _Meta(Struct, rename="camel"):
    universe: list[_Perp]
    collateral_token: int = 0


class _Token(Struct, rename="camel"):
    name: str
    sz_decimals: _Decimals
    index: int


class _Pair(Struct, rename="camel"):
    name: str
    tokens: list[int]
    is_canonical: bool = False


class _SpotMeta(Struct):
    universe: list[_Pair]
    tokens: list[_Token]


_decode_body = msgspec.json.Decoder(_Body).decode


def _reader(cls: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(cls).decode


_READERS = {
    "l2Book": _reader(L2 | None),
    "recentTrades": _reader(list[Fill]),
    "candleSnapshot": _reader(list[Candle]),
    "meta": _reader(_Meta),
    "spotMeta": _reader(_SpotMeta),
}


class HyperliquidHistory:
    """Requests with their cost, and the reading of their answers."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._names = feed, names
        self._listing = feed.listing

    def listing_request(self) -> Request:
        """Ask what the market lists: all pairs, or the perpetuals of one exchange."""
        if self._names.market == "spot":
            return self._post(_Body("spotMeta"), 20)
        return self._post(_Body("meta", dex=self._names.dex), 20)

    def request(self, want: HistoryQuery) -> Request | None:
        """Ask for a book of 20 levels, the newest trades, or up to 5,000 bars.

        None for an interval that the venue does not have. Trades cannot be asked for by time or id.
        """
        coin = self._listing.native.get(want.symbol) or self._names.native(want.symbol)
        if want.kind == "book":
            return self._post(_Body("l2Book", coin), 2)
        if want.kind == "trades":
            return self._post(_Body("recentTrades", coin), 22)
        interval = want.interval or channel_parts(want.channel)[1]
        if interval not in INTERVALS:
            return None
        length = duration_ns("31d" if interval == "1M" else interval)
        until = want.until if want.until is not None else self._feed.clock.time_ns()
        since = want.since if want.since is not None else until - _USUAL * length
        # The end is included.
        last = None if want.until is None else (until - 1) // MS
        count = min(_KEPT, max(until - since, 0) // length + 1)
        span = _Span(coin, interval, since // MS, last)
        return self._post(_Body("candleSnapshot", req=span), 20 + count // 60 + 1, ranged=True)

    def _post(self, body: _Body, weight: int, *, ranged: bool = False) -> Request:
        url, text = f"{self._names.hosts[1]}/info", msgspec.json.encode(body)
        return Request(url=url, body=text, weight=weight, rate=BUDGET, paged=ranged)

    # ------------------------------------------------------------------------------------- listings

    def read_listing(self, body: bytes) -> list[Instrument]:
        """Read what the market lists. What no unified symbol can name is left out.

        Raises ValueError where it cannot be read.
        """
        if self._names.market == "spot":
            return _pairs(_read("spotMeta", body))
        return self._perpetuals(_read("meta", body))

    def _perpetuals(self, meta: _Meta) -> list[Instrument]:
        settle = "USDC"
        if meta.collateral_token:
            # The list has a number for it, whose name stands in another list: take the user's word.
            settle = next(iter(self._feed.symbols), "/USDC").partition("/")[2].partition(":")[0]
        found = []
        for perp in meta.universe:
            base = unified_base(perp.name)
            symbol, lot = f"{base}/{settle}:{settle}", Decimal(1).scaleb(-perp.sz_decimals)
            if _is_symbol(symbol):
                more = settle, None, lot, not perp.is_delisted
                found.append(Instrument(symbol, perp.name, "swap", base, settle, *more))
        return found

    # -------------------------------------------------------------------------------------- answers

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        """Read the answer to a request by its address and body; any host will do.

        Raises ValueError where it cannot be read. Returns nothing for an address that is not ours,
        for what is no market data, and for a symbol or a channel that the feed does not have.
        """
        if not request.url.endswith("/info") or not request.body:
            return []
        asked = _decode_body(request.body)
        coin = asked.req.coin if asked.req else asked.coin
        symbol = self._listing.unified.get(coin)
        if symbol is None:
            return []
        match asked.type:
            case "l2Book":
                return self._book(_read("l2Book", body), symbol, recv)
            case "recentTrades" if "trades" in self._feed.channels:
                return self._trades(_read("recentTrades", body), symbol, recv)
            case "candleSnapshot":
                return self._bars(_read("candleSnapshot", body), symbol, recv)
        return []

    def _book(self, book: L2 | None, symbol: str, recv: int) -> list[Event]:
        channel = self._names.book(None)
        if book is None or not channel:
            return []
        depth = 5 if channel == "book:5" else 20
        sides = levels(book.levels[0], depth), levels(book.levels[1], depth)
        where = self._feed.venue, symbol, book.time * MS, recv
        return [Book(*where, "snapshot", *sides, None, None, None, depth, channel, "history")]

    def _trades(self, fills: list[Fill], symbol: str, recv: int) -> list[Event]:
        """Return trades, the oldest first: they come the newest first."""
        fills.reverse()  # so that those of one time are in their order too
        fills.sort(key=lambda fill: fill.time)
        return [trade(self._feed.venue, symbol, fill, recv, "backfill") for fill in fills]

    def _bars(self, candles: list[Candle], symbol: str, recv: int) -> list[Event]:
        """Return bars. The last one is as a rule still forming."""
        venue = self._feed.venue
        return [
            bar(venue, symbol, candle, recv, "backfill",
                closed=candle is not candles[-1] or recv > candle.T * MS)
            for candle in candles
        ]  # fmt: skip

    def refusal_reason(self, status: int, body: bytes) -> str:
        """Return the venue's words, and what to do about it."""
        words = body[:200].decode(errors="replace").strip().strip('"')
        return " ".join(
            each for each in ("" if words == "null" else words, _REMEDIES.get(status, "")) if each
        )


def _read(kind: str, body: bytes) -> Any:
    """Decode a body; say which one it was where that fails."""
    try:
        return _READERS[kind](body)
    except (ValueError, RecursionError) as error:
        start = body[:80].decode(errors="replace")
        raise ValueError(
            f"the answer to {kind} cannot be read: {error}. It begins: {start}"
        ) from error


def _pairs(meta: _SpotMeta) -> list[Instrument]:
    """Return the pairs, under their coins' own names; of two with one name, the canonical one."""
    tokens = {token.index: token for token in meta.tokens}
    found: dict[str, Instrument] = {}
    for pair in sorted(meta.universe, key=lambda pair: not pair.is_canonical):
        some = [tokens[index] for index in pair.tokens if index in tokens]
        if len(some) != 2:
            continue
        base, quote = (WRAPPED.get(token.name, token.name).upper() for token in some)
        symbol, lot = f"{base}/{quote}", Decimal(1).scaleb(-some[0].sz_decimals)
        if symbol not in found and _is_symbol(symbol):
            found[symbol] = Instrument(symbol, pair.name, "spot", base, quote, "", None, lot)
    return list(found.values())


def _is_symbol(text: str) -> bool:
    try:
        Symbol.parse(text)
    except SymbolError:
        return False
    return True
