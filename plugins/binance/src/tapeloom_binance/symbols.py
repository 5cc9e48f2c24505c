"""The markets of Binance as rows of facts, and the names that follow from them.

Another market is another row. Sources: the spot API documentation of July 2026, the official
connector 17.2 (futures) and, for what neither tells, what is noted beside the figure.
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
_DAY = 86_400_000_000_000


@frozen(kw_only=True)
class Market:
    """What is fixed for one market."""

    name: str
    settled: Literal["", "quote", "base"] = ""  #: in which currency; futures are
    type: int | None = None  #: what frames of futures have as `st`
    endpoint: Endpoint  #: the limits of a connection
    hosts: Mapping[str, tuple[str, str]]  #: by environment: for WebSocket, for REST
    routes: Mapping[str, Collection[str]]  #: by path before /stream: the streams it serves
    door: str = ""  #: stands before these paths where one address serves all markets
    intervals: tuple[str, ...]
    speeds: Mapping[str, str]  #: what a depth stream's name ends with, by how often it comes
    prefix: str  #: of every REST path
    budget: Rate  #: REST weight
    weights: Mapping[str, int]  #: by REST path
    depth_weights: Mapping[int, int]  #: by number of levels
    longest: int = 1000 * 366 * _DAY  #: ns between the two times of a request for bars

    def serves(self, symbol: Symbol) -> bool:
        """Say whether this market could list *symbol*."""
        return symbol.settle == (getattr(symbol, self.settled) if self.settled else "")


_HOURS = ("1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
_MINUTES = ("1m", "3m", "5m", "15m", "30m")
# The venue ends a connection after 24 hours. 300 dials in 5 minutes is documented for spot only.
_LIMITS = Endpoint(url="", max_age_seconds=23 * 3600.0, dial_rate=Rate(300, 300.0))

SPOT = Market(
    name="spot",
    # 5 messages a second, of which our pongs take some. The venue pings every 20 s.
    endpoint=evolve(
        _LIMITS, max_subscriptions=1024, message_rate=Rate(4, 1.0), silence_timeout_seconds=60.0
    ),
    hosts={
        "live": ("wss://stream.binance.com:9443", "https://api.binance.com"),
        "testnet": ("wss://stream.testnet.binance.vision", "https://testnet.binance.vision"),
        "demo": ("wss://demo-stream.binance.com", "https://demo-api.binance.com"),
    },
    routes={"": STREAMS.values()},
    intervals=("1s", *_MINUTES, *_HOURS),
    speeds={"100ms": "@100ms", "1000ms": ""},
    prefix="/api/v3",
    budget=Rate(6000, 60.0),
    weights={"exchangeInfo": 20, "historicalTrades": 25, "aggTrades": 4, "klines": 2},
    depth_weights={100: 5, 500: 25, 1000: 50, 5000: 250},
)
# Testnet and demo are one environment under two names: the official connector knows one stream host
# for both, and the REST host of the old testnet is being given up.
_PAPER = ("wss://fstream.binancefuture.com", "https://demo-fapi.binance.com")
USDM = Market(
    name="usdm",
    settled="quote",
    type=1,
    # 10 messages a second. 200 streams is the smaller of two documented figures. The venue pings
    # every 3 minutes: a minute more without a byte, and the connection is dead.
    endpoint=evolve(
        _LIMITS, max_subscriptions=200, message_rate=Rate(8, 1.0), silence_timeout_seconds=240.0
    ),
    hosts={
        "live": ("wss://fstream.binance.com", "https://fapi.binance.com"),
        "testnet": _PAPER,
        "demo": _PAPER,
    },
    # Since April 2026 a stream asked for on the other path is acknowledged and never comes.
    routes={
        "/public": ("depth", "bookTicker", "trade"),
        "/market": ("aggTrade", "kline", "ticker"),
    },
    intervals=(*_MINUTES, *_HOURS),
    speeds={"100ms": "@100ms", "250ms": "", "500ms": "@500ms"},
    prefix="/fapi/v1",
    # 2,400 a minute, which USD-M and COIN-M share since 2026; core counts each host by itself.
    budget=Rate(2000, 60.0),
    weights={"exchangeInfo": 1, "historicalTrades": 200, "aggTrades": 20, "klines": 5},
    depth_weights={5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20},
)
# What USD-M is, but for its addresses, its names and what its sizes are. Its paths are not split.
_PAPER = ("wss://dstream.binancefuture.com", "https://demo-dapi.binance.com")
COINM = evolve(
    USDM,
    name="coinm",
    settled="base",
    type=2,
    hosts={
        "live": ("wss://dstream.binance.com", "https://dapi.binance.com"),
        "testnet": _PAPER,
        "demo": _PAPER,
    },
    routes={"": STREAMS.values()},
    door="/dstream",  # its paths are those of spot
    prefix="/dapi/v1",
    budget=Rate(400, 60.0),
    longest=200 * _DAY,
)
MARKETS = {market.name: market for market in (SPOT, USDM, COINM)}


@frozen
class Names:
    """How one feed's symbols and channels are spelled on the wire, and back."""

    market: Market
    settings: Settings
    wanted: dict[str, str] = field(factory=dict, init=False)  #: channels by kind of stream

    @property
    def scale(self) -> int:
        """Nanoseconds in the unit of the venue's times."""
        return 1_000 if self.settings.microseconds and not self.market.settled else 1_000_000

    @property
    def hosts(self) -> tuple[str, str]:
        """Where WebSocket and REST are, without a path."""
        settings = self.settings
        environment = "testnet" if settings.testnet else "demo" if settings.demo else "live"
        stream, rest = self.market.hosts[environment]
        if settings.base_url:
            scheme, _, place = settings.base_url.rstrip("/").partition("://")
            safe = "s" if scheme in ("wss", "https") else ""
            stream, rest = f"ws{safe}://{place}{self.market.door}", f"http{safe}://{place}"
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
        """Return the kind of stream that carries a channel: ``trade``, ``depth20``, ``kline_1m``."""
        name, parameter = channel_parts(channel)
        if name == "trades" and self.market.settled and self.settings.futures_trades != "raw":
            return STREAMS["agg_trades"]
        return STREAMS[name] + ("_" if name == "klines" and parameter else "") + parameter

    def native(self, symbol: str) -> str:
        """Return ``BTCUSDT`` for ``BTC/USDT``, ``BTCUSD_PERP``, ``BTCUSDT_261225`` with a date."""
        parts, market = Symbol.parse(symbol), self.market
        if not market.serves(parts):
            fit = [market.name for market in MARKETS.values() if market.serves(parts)]
            remedy = f'Set market = "{fit[0]}".' if fit else f"Markets are: {', '.join(MARKETS)}."
            raise SymbolError(f"market {market.name!r} cannot list {symbol!r}. {remedy}")
        end = parts.expiry or ("PERP" if market.settled == "base" else "")
        return f"{parts.base}{parts.quote}{'_' if end else ''}{end}"

    def stream(self, native: str, channel: str) -> str:
        """Return the name of the stream that carries a channel of a symbol."""
        kind = self.kind(channel)
        speed = self.market.speeds[self.settings.depth_speed] if kind.startswith("depth") else ""
        return f"{native.lower()}@{kind}{speed}"

    def read(self, stream: str) -> tuple[str, str, str]:
        """Return the native symbol of a stream, its kind, and its channel (none: unasked).

        How often a book comes makes no difference, so that a tape recorded at any speed is read.
        """
        native, _, kind = stream.partition("@")
        if kind.startswith("depth"):
            kind = kind.partition("@")[0]
        return (
            native.upper(),
            kind.rstrip("0123456789").partition("_")[0],
            self.wanted.get(kind, ""),
        )


def names_of(feed: Feed, settings: Settings) -> Names:
    """Check what a feed asks for against its market.

    Raises ConfigError with all that is wrong.
    """
    market = MARKETS.get(feed.market or "spot")
    if market is None:
        hint = nearest(feed.market, MARKETS) or f" Markets are: {', '.join(MARKETS)}."
        raise ConfigError([Mistake("market", f"binance has no market {feed.market!r}.{hint}")])
    names = Names(market, settings)
    problems = {channel: _problem(market, channel) for channel in feed.channels}
    mistakes = [Mistake("channels", problem) for problem in problems.values() if problem]
    for channel in (channel for channel, problem in problems.items() if not problem):
        if names.wanted.setdefault(names.kind(channel), channel) != channel:
            problem = "'trades' and 'agg_trades' are one stream here: ask for one of them"
            mistakes.append(Mistake("channels", f'{problem}, or set futures_trades = "raw"'))
    if market.settled and "trades" in feed.channels:
        names.wanted.setdefault("trade", "trades")  # a tape may have the raw ones instead
    if settings.depth_speed not in market.speeds:
        told = f"market {market.name!r} sends books every {' or '.join(market.speeds)}"
        place = f"venue.{feed.venue}.depth_speed"
        mistakes.append(Mistake(place, f"{told}, not {settings.depth_speed!r}"))
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
