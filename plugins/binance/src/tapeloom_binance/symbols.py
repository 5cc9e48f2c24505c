"""The facts of Binance's markets, and the venue's names for symbols, channels and addresses.

Each market is one `Market` object. Sources: the spot API documentation of July 2026, the official
connector 17.2 (futures); other sources are noted beside the figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import evolve, field, frozen
from tapeloom.errors import ConfigError, Mistake, SymbolError, nearest
from tapeloom.plugin import Endpoint, Feed, channel_parts
from tapeloom.symbols import Symbol
from tapeloom.units import Rate

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from .settings import Settings

__all__ = ["MARKETS", "Market", "Names", "names_of"]

#: The kind of stream that carries each channel.
STREAMS = {
    "trades": "trade",
    "agg_trades": "aggTrade",
    "book": "depth",
    "quotes": "bookTicker",
    "klines": "kline",
    "ticker": "ticker",
}
#: The numbers of levels of partial books.
DEPTHS = ("5", "10", "20")
_DAY = 86_400_000_000_000  #: ns
_HOURS = ("1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
_MINUTES = ("1m", "3m", "5m", "15m", "30m")
#: The limits that all markets share. The venue closes a connection after 24 hours; 23 leave time to
#: replace it. 300 dials in 5 minutes is documented for spot only.
_LIMITS = Endpoint(url="", max_age_seconds=23 * 3600.0, dial_rate=Rate(300, 300.0))


@frozen(kw_only=True)
class Market:
    """The facts of one market."""

    name: str
    settled_in: Literal["", "quote", "base"] = ""  #: the currency futures settle in; "" for spot
    futures_type: int | None = None  #: the value of `st` in messages of futures
    endpoint: Endpoint  #: the limits of a connection
    hosts: Mapping[str, tuple[str, str]]  #: WebSocket and REST address, by environment
    stream_paths: Mapping[str, Collection[str]]  #: the kinds of streams served, by URL path
    path_prefix: str = ""  #: precedes these paths where one address serves all markets
    intervals: tuple[str, ...]
    depth_speeds: Mapping[str, str]  #: suffix of a depth stream's name, by update interval
    rest_prefix: str  #: path prefix of every REST call
    weight_rate: Rate  #: REST weight that we spend
    weights: Mapping[str, int]  #: weight of a call, by REST path
    depth_weights: Mapping[int, int]  #: weight of a book snapshot, by number of levels
    max_bars_span: int = 1000 * 366 * _DAY  #: ns from start to end of one request for bars

    def can_list(self, symbol: Symbol) -> bool:
        """Return whether *symbol* settles as the symbols of this market do."""
        return symbol.settle == (getattr(symbol, self.settled_in) if self.settled_in else "")


SPOT = Market(
    name="spot",
    # The venue allows 5 messages a second, and our pongs count. It pings every 20 s; after three
    # missed pings the connection is dead.
    endpoint=evolve(
        _LIMITS, max_subscriptions=1024, message_rate=Rate(4, 1.0), silence_timeout_seconds=60.0
    ),
    hosts={
        "live": ("wss://stream.binance.com:9443", "https://api.binance.com"),
        "testnet": ("wss://stream.testnet.binance.vision", "https://testnet.binance.vision"),
        "demo": ("wss://demo-stream.binance.com", "https://demo-api.binance.com"),
    },
    stream_paths={"": STREAMS.values()},
    intervals=("1s", *_MINUTES, *_HOURS),
    depth_speeds={"100ms": "@100ms", "1000ms": ""},
    rest_prefix="/api/v3",
    weight_rate=Rate(6000, 60.0),
    weights={"exchangeInfo": 20, "historicalTrades": 25, "aggTrades": 4, "klines": 2},
    depth_weights={100: 5, 500: 25, 1000: 50, 5000: 250},
)
# Testnet and demo mode of USD-M are one environment: the official connector has one stream host for
# both, and the venue is shutting down the REST host of the old testnet.
_USDM_PAPER_HOSTS = ("wss://fstream.binancefuture.com", "https://demo-fapi.binance.com")
USDM = Market(
    name="usdm",
    settled_in="quote",
    futures_type=1,
    # The venue allows 10 messages a second. 200 streams is the smaller of two documented figures. The
    # venue pings every 3 minutes; after one more minute without a byte the connection is dead.
    endpoint=evolve(
        _LIMITS, max_subscriptions=200, message_rate=Rate(8, 1.0), silence_timeout_seconds=240.0
    ),
    hosts={
        "live": ("wss://fstream.binance.com", "https://fapi.binance.com"),
        "testnet": _USDM_PAPER_HOSTS,
        "demo": _USDM_PAPER_HOSTS,
    },
    # Since April 2026 the venue acknowledges a subscription on the wrong path and sends no data.
    stream_paths={
        "/public": ("depth", "bookTicker", "trade"),
        "/market": ("aggTrade", "kline", "ticker"),
    },
    intervals=(*_MINUTES, *_HOURS),
    depth_speeds={"100ms": "@100ms", "250ms": "", "500ms": "@500ms"},
    rest_prefix="/fapi/v1",
    # USD-M and COIN-M share 2,400 a minute since 2026. Core counts each host separately, so the
    # budget is divided between them.
    weight_rate=Rate(2000, 60.0),
    weights={"exchangeInfo": 1, "historicalTrades": 200, "aggTrades": 20, "klines": 5},
    depth_weights={5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20},
)
# COIN-M differs from USD-M in its addresses, its symbols and the unit of its sizes. One path serves
# all of its streams.
_COINM_PAPER_HOSTS = ("wss://dstream.binancefuture.com", "https://demo-dapi.binance.com")
COINM = evolve(
    USDM,
    name="coinm",
    settled_in="base",
    futures_type=2,
    hosts={
        "live": ("wss://dstream.binance.com", "https://dapi.binance.com"),
        "testnet": _COINM_PAPER_HOSTS,
        "demo": _COINM_PAPER_HOSTS,
    },
    stream_paths={"": STREAMS.values()},
    path_prefix="/dstream",  # its stream paths equal those of spot
    rest_prefix="/dapi/v1",
    weight_rate=Rate(400, 60.0),
    max_bars_span=200 * _DAY,
)
MARKETS = {market.name: market for market in (SPOT, USDM, COINM)}


@frozen
class Names:
    """Converts a feed's symbols and channels to the venue's names and back."""

    market: Market
    settings: Settings
    #: The feed's channels, by the kind of stream that carries them.
    channel_by_kind: dict[str, str] = field(factory=dict, init=False)

    @property
    def time_unit_ns(self) -> int:
        """Nanoseconds in one unit of the venue's times: milliseconds or microseconds."""
        microseconds = self.settings.microseconds and not self.market.settled_in
        return 1_000 if microseconds else 1_000_000

    @property
    def hosts(self) -> tuple[str, str]:
        """The WebSocket and the REST address, without a path."""
        settings = self.settings
        environment = "testnet" if settings.testnet else "demo" if settings.demo else "live"
        stream, rest = self.market.hosts[environment]
        if settings.base_url:
            scheme, _, host = settings.base_url.rstrip("/").partition("://")
            secure = "s" if scheme in ("wss", "https") else ""
            stream = f"ws{secure}://{host}{self.market.path_prefix}"
            rest = f"http{secure}://{host}"
        return (settings.ws_url or stream).rstrip("/"), (settings.rest_url or rest).rstrip("/")

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return the WebSocket endpoints, each with the channels whose streams it serves."""
        query = "?timeUnit=MICROSECOND" if self.time_unit_ns == 1_000 else ""
        return tuple(
            evolve(
                self.market.endpoint,
                url=f"{self.hosts[0]}{path}/stream{query}",
                name=path.strip("/"),
                channels=frozenset(name for name in STREAMS if self.stream_kind(name) in kinds),
            )
            for path, kinds in self.market.stream_paths.items()
        )

    def stream_kind(self, channel: str) -> str:
        """Return the kind of stream that carries a channel: ``trade``, ``depth20``, ``kline_1m``."""
        name, parameter = channel_parts(channel)
        if name == "trades" and self.market.settled_in and self.settings.futures_trades != "raw":
            return STREAMS["agg_trades"]
        return STREAMS[name] + ("_" if name == "klines" and parameter else "") + parameter

    def native(self, symbol: str) -> str:
        """Return the venue's symbol: ``BTCUSDT``, ``BTCUSD_PERP``, ``BTCUSDT_261225``.

        Raises SymbolError if this market cannot list *symbol*.
        """
        parts, market = Symbol.parse(symbol), self.market
        if not market.can_list(parts):
            others = [market.name for market in MARKETS.values() if market.can_list(parts)]
            known = ", ".join(MARKETS)
            remedy = f'Set market = "{others[0]}".' if others else f"Markets are: {known}."
            raise SymbolError(f"market {market.name!r} cannot list {symbol!r}. {remedy}")
        suffix = parts.expiry or ("PERP" if market.settled_in == "base" else "")
        return f"{parts.base}{parts.quote}{'_' if suffix else ''}{suffix}"

    def stream_name(self, native: str, channel: str) -> str:
        """Return the name of the stream that carries a channel of a symbol."""
        kind = self.stream_kind(channel)
        speeds = self.market.depth_speeds
        suffix = speeds[self.settings.depth_speed] if kind.startswith("depth") else ""
        return f"{native.lower()}@{kind}{suffix}"

    def parse_stream(self, stream: str) -> tuple[str, str, str]:
        """Return the native symbol of a stream, its kind, and its channel ("" if not requested).

        The speed of a book is ignored, so that a tape recorded at any speed can be replayed.
        """
        native, _, kind = stream.partition("@")
        if kind.startswith("depth"):
            kind = kind.partition("@")[0]
        return (
            native.upper(),
            kind.rstrip("0123456789").partition("_")[0],
            self.channel_by_kind.get(kind, ""),
        )


def names_of(feed: Feed, settings: Settings) -> Names:
    """Return the names of a feed after checking its market, channels and settings.

    Raises ConfigError that lists every mistake.
    """
    market = MARKETS.get(feed.market or "spot")
    if market is None:
        hint = nearest(feed.market, MARKETS) or f" Markets are: {', '.join(MARKETS)}."
        raise ConfigError([Mistake("market", f"binance has no market {feed.market!r}.{hint}")])
    names = Names(market, settings)
    problems = {channel: _channel_problem(market, channel) for channel in feed.channels}
    mistakes = [Mistake("channels", problem) for problem in problems.values() if problem]
    for channel in (channel for channel, problem in problems.items() if not problem):
        if names.channel_by_kind.setdefault(names.stream_kind(channel), channel) != channel:
            problem = "'trades' and 'agg_trades' are the same stream here. Request only one of them"
            mistakes.append(Mistake("channels", f'{problem}, or set futures_trades = "raw"'))
    if market.settled_in and "trades" in feed.channels:
        # A tape may hold raw trades instead of aggregate ones.
        names.channel_by_kind.setdefault("trade", "trades")
    if settings.depth_speed not in market.depth_speeds:
        speeds = " or ".join(market.depth_speeds)
        problem = f"market {market.name!r} sends books every {speeds}"
        where = f"venue.{feed.venue}.depth_speed"
        mistakes.append(Mistake(where, f"{problem}, not {settings.depth_speed!r}"))
    if mistakes:
        raise ConfigError(mistakes)
    return names


def _channel_problem(market: Market, channel: str) -> str:
    """Return what is wrong with a channel, and the valid ones; "" if nothing is."""
    name, parameter = channel_parts(channel)
    known = dict.fromkeys(STREAMS, ("",)) | {"book": ("", *DEPTHS), "klines": market.intervals}
    if parameter in known.get(name, ()):
        return ""
    choices = [f"{name}:{option}" if option else name for option in known.get(name, ())]
    valid = f" It has: {', '.join(choices or known)}."
    hint = "" if choices else nearest(name, known)
    return f"market {market.name!r} has no channel {channel!r}.{hint or valid}"
