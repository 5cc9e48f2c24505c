"""The markets of Binance as rows of facts, and the names that follow from them.

Another market is another row. Sources: the spot API documentation of July 2026, the official
connector 17.2 (futures) and, for what neither tells, what is noted beside the figure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attrs import evolve, frozen
from tapeloom.errors import ConfigError, Mistake, SymbolError, nearest
from tapeloom.feeds import Endpoint, Feed, Rate, channel_parts
from tapeloom.symbols import Kind, Symbol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from . import Settings

__all__ = ["MARKETS", "Market", "Names", "names_of"]

#: Which stream carries a channel.
STREAMS = {
    "trades": "trade",
    "agg_trades": "aggTrade",
    "book": "depth",
    "quotes": "bookTicker",
    "klines": "kline",
    "ticker": "ticker",
}
DEPTHS = ("5", "10", "20")
_STREAM = re.compile(
    r"(?P<native>[^@]+)@(?P<kind>trade|aggTrade|bookTicker|ticker|kline(?=_)|depth)"
    r"_?(?P<parameter>\w*)(@\d+ms)?"
)


@frozen(kw_only=True)
class Market:
    """What is fixed for one market."""

    name: str
    kinds: frozenset[Kind]
    endpoint: Endpoint  #: the limits of a connection
    hosts: Mapping[str, tuple[str, str]]  #: by environment: for WebSocket, for REST
    routes: Mapping[str, frozenset[str]]  #: by path before /stream: the streams it serves
    intervals: tuple[str, ...]
    speeds: Mapping[str, str]  #: what a depth stream's name ends with, by how often it comes
    prefix: str  #: of every REST path
    budget: Rate  #: REST weight
    weights: Mapping[str, int]  #: by REST path
    depth_weights: Mapping[int, int]  #: by number of levels
    keyed: frozenset[str] = frozenset()  #: REST paths that ask for an API key
    aggregates: bool = False  #: raw trades are not documented: `trades` means aggregate ones
    timed: bool = False  #: every frame carries its time; spot quotes and partial books do not
    microseconds: bool = False  #: times can be had in microseconds

    def serves(self, symbol: Symbol) -> bool:
        """Say whether this market could list *symbol*."""
        return symbol.kind in self.kinds and symbol.settle in ("", symbol.quote)


_HOURS = ("1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
_MINUTES = ("1m", "3m", "5m", "15m", "30m")
# The venue ends a connection after 24 hours. 300 dials in 5 minutes is documented for spot only.
_LIMITS = Endpoint(url="", max_age=23 * 3600.0, dials=Rate(300, 300.0))

SPOT = Market(
    name="spot",
    kinds=frozenset[Kind]({"spot"}),
    # 5 messages a second, of which our pongs take some. The venue pings every 20 s.
    endpoint=evolve(_LIMITS, max_subscriptions=1024, messages=Rate(4, 1.0), silence=60.0),
    hosts={
        "live": ("wss://stream.binance.com:9443", "https://api.binance.com"),
        "testnet": ("wss://stream.testnet.binance.vision", "https://testnet.binance.vision"),
        "demo": ("wss://demo-stream.binance.com", "https://demo-api.binance.com"),
    },
    routes={"": frozenset(STREAMS.values())},
    intervals=("1s", *_MINUTES, *_HOURS),
    speeds={"100ms": "@100ms", "1000ms": ""},
    prefix="/api/v3",
    budget=Rate(6000, 60.0),
    weights={"exchangeInfo": 20, "historicalTrades": 25, "aggTrades": 4, "klines": 2},
    depth_weights={100: 5, 500: 25, 1000: 50, 5000: 250},
    microseconds=True,
)
# Testnet and demo are one environment under two names: the official connector knows one stream host
# for both, and the REST host of the old testnet is being given up.
_PAPER = ("wss://fstream.binancefuture.com", "https://demo-fapi.binance.com")
USDM = Market(
    name="usdm",
    kinds=frozenset[Kind]({"swap", "future"}),
    # 10 messages a second. 200 streams is the smaller of two documented figures. The venue pings
    # every 3 minutes: a minute more without a byte, and the connection is dead.
    endpoint=evolve(_LIMITS, max_subscriptions=200, messages=Rate(8, 1.0), silence=240.0),
    hosts={
        "live": ("wss://fstream.binance.com", "https://fapi.binance.com"),
        "testnet": _PAPER,
        "demo": _PAPER,
    },
    # Since April 2026 a stream asked for on the other path is acknowledged and never comes.
    routes={
        "/public": frozenset({"depth", "bookTicker", "trade"}),
        "/market": frozenset({"aggTrade", "kline", "ticker"}),
    },
    intervals=(*_MINUTES, *_HOURS),
    speeds={"100ms": "@100ms", "250ms": "", "500ms": "@500ms"},
    prefix="/fapi/v1",
    budget=Rate(2400, 60.0),
    weights={"exchangeInfo": 1, "historicalTrades": 200, "aggTrades": 20, "klines": 5},
    depth_weights={5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20},
    keyed=frozenset({"historicalTrades"}),
    aggregates=True,
    timed=True,
)
MARKETS = {market.name: market for market in (SPOT, USDM)}


@frozen
class Names:
    """How one feed's symbols and channels are spelled on the wire, and back."""

    market: Market
    settings: Settings
    channels: tuple[str, ...]

    @property
    def scale(self) -> int:
        """Nanoseconds in the unit of the venue's times."""
        return 1_000 if self.settings.microseconds and self.market.microseconds else 1_000_000

    @property
    def hosts(self) -> tuple[str, str]:
        """Where WebSocket and REST are, without a path."""
        settings = self.settings
        stream, rest = self.market.hosts[settings.environment]
        if settings.base_url:
            scheme, _, place = settings.base_url.partition("://")
            safe = "s" if scheme in ("wss", "https") else ""
            stream, rest = f"ws{safe}://{place}", f"http{safe}://{place}"
        return (settings.ws_url or stream).rstrip("/"), (settings.rest_url or rest).rstrip("/")

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return the WebSocket addresses, each with the channels whose streams it serves."""
        unit = "?timeUnit=MICROSECOND" if self.scale == 1_000 else ""
        return tuple(
            evolve(
                self.market.endpoint,
                url=f"{self.hosts[0]}{path}/stream{unit}",
                name=path.strip("/"),
                channels=frozenset(name for name in STREAMS if self.kind(name) in kinds),
            )
            for path, kinds in self.market.routes.items()
        )

    def kind(self, channel: str) -> str:
        """Return the kind of stream that carries a channel."""
        name, _ = channel_parts(channel)
        aggregate = self.market.aggregates and self.settings.futures_trades == "aggregate"
        return "aggTrade" if aggregate and name == "trades" else STREAMS[name]

    def native(self, symbol: str) -> str:
        """Return ``BTCUSDT`` for ``BTC/USDT``, ``BTCUSDT_261225`` for a dated future."""
        parts = Symbol.parse(symbol)
        if not self.market.serves(parts):
            fit = [market.name for market in MARKETS.values() if market.serves(parts)]
            remedy = f'Set market = "{fit[0]}".' if fit else f"Markets are: {', '.join(MARKETS)}."
            raise SymbolError(f"market {self.market.name!r} cannot list {symbol!r}. {remedy}")
        return f"{parts.base}{parts.quote}" + (f"_{parts.expiry}" if parts.expiry else "")

    def stream(self, native: str, channel: str) -> str:
        """Return the name of the stream that carries a channel of a symbol."""
        _, parameter = channel_parts(channel)
        kind = self.kind(channel)
        if kind == "kline":
            kind = f"kline_{parameter}"
        elif kind == "depth":
            kind = f"depth{parameter}{self.market.speeds[self.settings.depth_speed]}"
        return f"{native.lower()}@{kind}"

    def series(self, kind: str) -> str:
        """Return the channel of the trades that a stream of this kind carries.

        Where raw trades are not documented, ``trades`` are the aggregate ones, and raw ones if a
        tape has those instead.
        """
        if kind == "trade" or (self.kind("trades") == kind and "agg_trades" not in self.channels):
            return "trades"
        return "agg_trades"

    def read(self, stream: str) -> tuple[str, str, str] | None:
        """Return the native symbol, channel and kind of a stream; None where there is no such kind.

        How often a book comes makes no difference, so that a tape recorded at any speed is read.
        """
        match = _STREAM.fullmatch(stream)
        if match is None:
            return None
        native, kind, parameter = match["native"].upper(), match["kind"], match["parameter"]
        channel = {"depth": "book", "bookTicker": "quotes", "kline": "klines"}.get(kind, kind)
        if kind in ("trade", "aggTrade"):
            channel = self.series(kind)
        return native, f"{channel}:{parameter}" if parameter else channel, kind


def names_of(feed: Feed, settings: Settings) -> Names:
    """Check what a feed asks for against its market.

    Raises ConfigError with all that is wrong.
    """
    market = MARKETS.get(feed.market or "spot")
    if market is None:
        hint = nearest(feed.market, MARKETS) or f" Markets are: {', '.join(MARKETS)}."
        raise ConfigError([Mistake("market", f"binance has no market {feed.market!r}.{hint}")])
    names = Names(market, settings, feed.channels)
    mistakes = [
        Mistake("channels", problem)
        for channel in feed.channels
        if (problem := _problem(market, channel))
    ]
    if {"trades", "agg_trades"} <= {*feed.channels} and names.kind("trades") == "aggTrade":
        problem = "'trades' and 'agg_trades' are one stream here: ask for one of them"
        mistakes.append(Mistake("channels", f'{problem}, or set futures_trades = "raw"'))
    speed = settings.depth_speed
    if speed not in market.speeds:
        problem = f"market {market.name!r} sends books every {' or '.join(market.speeds)}"
        mistakes.append(Mistake(f"venue.{feed.venue}.depth_speed", f"{problem}, not {speed!r}"))
    if mistakes:
        raise ConfigError(mistakes)
    return names


def _problem(market: Market, channel: str) -> str:
    """Say what is wrong with a channel, or nothing."""
    name, parameter = channel_parts(channel)
    known = dict.fromkeys(STREAMS, ("",)) | {"book": ("", *DEPTHS), "klines": market.intervals}
    if parameter in known.get(name, ()):
        return ""
    choice = [f"{name}:{each}" if each else name for each in known.get(name, ())]
    told = f" It has: {', '.join(choice or known)}."
    hint = "" if choice else nearest(name, known)
    return f"market {market.name!r} has no channel {channel!r}.{hint or told}"
