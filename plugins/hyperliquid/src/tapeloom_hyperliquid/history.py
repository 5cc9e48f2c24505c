"""Hyperliquid's REST interface: requests for listings and history, and the parsing of answers.

All requests go to one address; the body of a request names its type.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct
from tapeloom.errors import SymbolError
from tapeloom.events import Book, Event
from tapeloom.plugin import Feed, HistoryQuery, Request, channel_parts
from tapeloom.plugin.transports import plain_text
from tapeloom.symbols import Instrument, Symbol
from tapeloom.units import duration_ns

from .bars import BarMessage, bar_event
from .dedup import TradeMessage, oldest_first, trade_event
from .symbols import BUDGET, INTERVALS, WRAPPED, Names, unified_base
from .wire import MS, BookMessage, book_side

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HyperliquidHistory"]

#: Number of bars that the venue keeps per coin and interval.
_MAX_BARS = 5000
#: Number of bars in a request that has no start: enough for most indicators, at a low weight.
_DEFAULT_BARS = 500
#: What a user can do about an error, by HTTP status.
_REMEDIES = {
    422: "This node does not support the request. Use another node or the venue's own address.",
    429: "Too many requests: the venue allows a weight of 1,200 per minute. Wait a minute.",
    500: "The venue failed. Some nodes answer this for a coin that they do not list.",
}


class _BarsSpan(Struct, omit_defaults=True):
    """The parameters of a request for bars. Times are ms, both inclusive."""

    coin: str
    interval: str
    startTime: int  # noqa: N815
    endTime: int | None = None  # noqa: N815


class _RequestBody(Struct, omit_defaults=True):
    """The body of a request. `type` names what is requested."""

    type: str
    coin: str = ""
    dex: str = ""
    req: _BarsSpan | None = None


#: Number of decimals of a size.
_Decimals = Annotated[int, Meta(ge=0, le=30)]


#: {"isDelisted":null,"maxLeverage":40,"name":"BTC","onlyIsolated":null,"szDecimals":5}
class _PerpMessage(Struct, rename="camel"):
    """A perpetual in the listing."""

    name: str
    sz_decimals: _Decimals
    is_delisted: bool | None = None


#: {"universe":[{"name":"BTC","szDecimals":5,"maxLeverage":40,"marginTableId":56},
#: {"name":"OLD","szDecimals":1,"maxLeverage":3,"marginTableId":3,"isDelisted":true}],
#: "marginTables":[],"collateralToken":0}
class _PerpListing(Struct, rename="camel"):
    """The listing of one exchange's perpetuals. `collateral_token` is an index; 0 is USDC."""

    universe: list[_PerpMessage]
    collateral_token: int = 0


#: {"name":"USDC","szDecimals":8,"weiDecimals":8,"index":0,
#: "tokenId":"0x6d1e7cde53ba9467b783cb7c530ce054","isCanonical":true,"evmContract":null,
#: "fullName":null}
class _TokenMessage(Struct, rename="camel"):
    """A token in the spot listing."""

    name: str
    sz_decimals: _Decimals
    index: int


#: {"name":"@107","tokens":[150,0],"index":107,"isCanonical":false}
class _PairMessage(Struct, rename="camel"):
    """A pair in the spot listing. `tokens` are the indexes of base and quote."""

    name: str
    tokens: list[int]
    is_canonical: bool = False


#: {"universe":[{"name":"PURR/USDC","tokens":[1,0],"index":0,"isCanonical":true}],
#: "tokens":[{"name":"USDC","szDecimals":8,"weiDecimals":8,"index":0,
#: "tokenId":"0x6d1e7cde53ba9467b783cb7c530ce054","isCanonical":true},
#: {"name":"PURR","szDecimals":0,"weiDecimals":5,"index":1,"tokenId":"0x","isCanonical":true}]}
class _SpotListing(Struct):
    """The listing of all spot pairs and tokens."""

    universe: list[_PairMessage]
    tokens: list[_TokenMessage]


_decode_request = msgspec.json.Decoder(_RequestBody).decode


def _decoder(cls: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(cls).decode


#: The decoder of an answer by the type of its request.
_DECODERS = {
    "l2Book": _decoder(BookMessage | None),
    "recentTrades": _decoder(list[TradeMessage]),
    "candleSnapshot": _decoder(list[BarMessage]),
    "meta": _decoder(_PerpListing),
    "spotMeta": _decoder(_SpotListing),
}


class HyperliquidHistory:
    """Makes requests with their weight, and parses the answers."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed, self._names = feed, names
        self._listing = feed.listing

    def listing_request(self) -> Request:
        """Return the request for the listing: all spot pairs, or one exchange's perpetuals."""
        if self._names.market == "spot":
            return self._post(_RequestBody("spotMeta"), 20)
        return self._post(_RequestBody("meta", dex=self._names.dex), 20)

    def request(self, query: HistoryQuery) -> Request | None:
        """Return the request for a book of 20 levels, the newest trades, or up to 5,000 bars.

        None for an interval that the venue does not have. The venue offers no trades by time or id.
        """
        coin = self._listing.native.get(query.symbol) or self._names.native(query.symbol)
        if query.kind == "book":
            return self._post(_RequestBody("l2Book", coin), 2)
        if query.kind == "trades":
            return self._post(_RequestBody("recentTrades", coin), 22)
        interval = query.interval or channel_parts(query.channel)[1]
        if interval not in INTERVALS:
            return None
        length_ns = duration_ns("31d" if interval == "1M" else interval)
        until = query.until if query.until is not None else self._feed.clock.time_ns()
        since = query.since if query.since is not None else until - _DEFAULT_BARS * length_ns
        # The venue includes the end of the span.
        last_ms = None if query.until is None else (until - 1) // MS
        count = min(_MAX_BARS, max(until - since, 0) // length_ns + 1)
        body = _RequestBody("candleSnapshot", req=_BarsSpan(coin, interval, since // MS, last_ms))
        return self._post(body, 20 + count // 60 + 1, paged=True)

    def _post(self, body: _RequestBody, weight: int, *, paged: bool = False) -> Request:
        url, text = f"{self._names.hosts[1]}/info", msgspec.json.encode(body)
        return Request(url=url, body=text, weight=weight, rate=BUDGET, paged=paged)

    # ------------------------------------------------------------------------------------- listings

    def read_listing(self, body: bytes) -> list[Instrument]:
        """Return the instruments of a listing, without those that have no valid unified symbol.

        Raises ValueError if the listing cannot be decoded.
        """
        if self._names.market == "spot":
            return _spot_instruments(_decode_answer("spotMeta", body))
        return self._perpetuals(_decode_answer("meta", body))

    def _perpetuals(self, listing: _PerpListing) -> list[Instrument]:
        settle = "USDC"
        if listing.collateral_token:
            # The listing has only the token's index; its name is in the spot listing, which is not
            # requested here. The quote currency of the feed's symbols is used instead.
            settle = next(iter(self._feed.symbols), "/USDC").partition("/")[2].partition(":")[0]
        instruments = []
        for perp in listing.universe:
            base = unified_base(perp.name)
            symbol, lot = f"{base}/{settle}:{settle}", Decimal(1).scaleb(-perp.sz_decimals)
            if _is_symbol(symbol):
                fields = settle, None, lot, not perp.is_delisted
                instruments.append(Instrument(symbol, perp.name, "swap", base, settle, *fields))
        return instruments

    # -------------------------------------------------------------------------------------- answers

    def read_answer(self, request: Request, body: bytes, recv: int) -> list[Event]:
        """Return the events of an answer, by the path and the body of its request; on any host.

        Raises ValueError if the answer cannot be decoded. Returns nothing for another path, for an
        answer without market data, and for a symbol or channel that the feed does not have.
        """
        if not request.url.endswith("/info") or not request.body:
            return []
        requested = _decode_request(request.body)
        coin = requested.req.coin if requested.req else requested.coin
        symbol = self._listing.unified.get(coin)
        if symbol is None:
            return []
        match requested.type:
            case "l2Book":
                return self._book(_decode_answer("l2Book", body), symbol, recv)
            case "recentTrades" if "trades" in self._feed.channels:
                return self._trades(_decode_answer("recentTrades", body), symbol, recv)
            case "candleSnapshot":
                return self._bars(_decode_answer("candleSnapshot", body), symbol, recv)
        return []

    def _book(self, message: BookMessage | None, symbol: str, recv: int) -> list[Event]:
        channel = self._names.book(None)
        if message is None or not channel:
            return []
        depth = 5 if channel == "book:5" else 20
        sides = book_side(message.levels[0], depth), book_side(message.levels[1], depth)
        fields = self._feed.venue, symbol, message.time * MS, recv
        return [Book(*fields, "snapshot", *sides, None, None, None, depth, channel, "history")]

    def _trades(self, messages: list[TradeMessage], symbol: str, recv: int) -> list[Event]:
        """Return trades, oldest first."""
        venue = self._feed.venue
        return [
            trade_event(venue, symbol, message, recv, "backfill")
            for message in oldest_first(messages)
        ]

    def _bars(self, messages: list[BarMessage], symbol: str, recv: int) -> list[Event]:
        """Return bars. The last one is usually still open."""
        venue = self._feed.venue
        return [
            bar_event(venue, symbol, message, recv, "backfill",
                      closed=message is not messages[-1] or recv > message.T * MS)
            for message in messages
        ]  # fmt: skip

    def refusal_reason(self, status: int, body: bytes) -> str:
        """Return the text of an error answer, and what a user can do about it."""
        text = plain_text(body).strip('"')
        parts = "" if text == "null" else text, _REMEDIES.get(status, "")
        return " ".join(part for part in parts if part)


def _decode_answer(kind: str, body: bytes) -> Any:
    """Decode the answer to a request of type *kind*.

    Raises ValueError, which names the request, if it cannot be decoded.
    """
    try:
        return _DECODERS[kind](body)
    except (ValueError, RecursionError) as error:
        start = body[:80].decode(errors="replace")
        raise ValueError(
            f"the answer to {kind} cannot be read: {error}. It begins: {start}"
        ) from error


def _spot_instruments(listing: _SpotListing) -> list[Instrument]:
    """Return the spot pairs, each by its unified name and by the venue's spelling of its tokens.

    A name that several pairs have is that of the canonical one. If none is canonical, all of them are
    returned with it, and core refuses the name. A pair whose names are all shared also has its number
    as a name, as in ``@20/USDC``.
    """
    tokens = {token.index: token for token in listing.tokens}
    pairs = [
        (pair, [tokens[index] for index in pair.tokens])
        for pair in listing.universe
        if len(pair.tokens) == 2 and tokens.keys() >= set(pair.tokens)
    ]
    owners: dict[str, dict[str, _PairMessage]] = {}  # by symbol, by the venue's name of the pair
    for pair, pair_tokens in pairs:
        for symbol in _pair_symbols(pair_tokens):
            owners.setdefault(symbol, {})[pair.name] = pair
    instruments = []
    for pair, pair_tokens in pairs:
        symbols = _pair_symbols(pair_tokens)
        rivals = [[*owners[symbol].values()] for symbol in symbols]
        names = [
            symbol
            for symbol, same in zip(symbols, rivals, strict=True)
            if pair.is_canonical or not any(other.is_canonical for other in same)
        ]
        shared = not pair.is_canonical and all(len(same) > 1 for same in rivals)
        if shared and pair.name.startswith("@"):
            names.append(f"{pair.name}/{symbols[0].partition('/')[2]}")
        lot = Decimal(1).scaleb(-pair_tokens[0].sz_decimals)
        for symbol in filter(_is_symbol, names):
            parts = Symbol.parse(symbol)
            steps = "", None, lot
            instruments.append(
                Instrument(symbol, pair.name, "spot", parts.base, parts.quote, *steps)
            )
    return instruments


def _pair_symbols(pair: list[_TokenMessage]) -> list[str]:
    """Return the unified name of a pair, and the venue's spelling if it is another one."""
    unified = "/".join(WRAPPED.get(token.name, token.name).upper() for token in pair)
    return list(dict.fromkeys((unified, "/".join(token.name.upper() for token in pair))))


def _is_symbol(text: str) -> bool:
    """Return whether *text* is a valid unified symbol."""
    try:
        Symbol.parse(text)
    except SymbolError:
        return False
    return True
