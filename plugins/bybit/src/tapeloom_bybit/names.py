"""The facts of Bybit's markets, and the venue's names for symbols, channels and addresses.

Source: the venue's v5 documentation of July 2026. Figures that it does not contain are marked.
"""

from __future__ import annotations

from attrs import frozen
from tapeloom.errors import ConfigError, Mistake, SymbolError, nearest
from tapeloom.plugin import Endpoint, Feed, Heartbeat, channel_parts
from tapeloom.symbols import Symbol
from tapeloom.units import Rate

from .settings import DEPTHS, Settings

__all__ = ["INTERVALS", "MARKETS", "Names", "names_of", "native"]

MARKETS = ("spot", "linear")
#: The venue's names of the intervals of klines, by ours.
INTERVALS = {
    "1m": "1", "3m": "3", "5m": "5", "15m": "15", "30m": "30", "1h": "60", "2h": "120",
    "4h": "240", "6h": "360", "12h": "720", "1d": "D", "1w": "W", "1M": "M",
}  # fmt: skip
#: The prefix of topics, for channels without a parameter.
_TOPIC_PREFIXES = {"trades": "publicTrade", "quotes": "orderbook.1", "ticker": "tickers"}
#: WebSocket and REST address, by environment.
_HOSTS = {
    "live": ("wss://stream.bybit.com", "https://api.bybit.com"),
    "testnet": ("wss://stream-testnet.bybit.com", "https://api-testnet.bybit.com"),
    # Demo mode has only private streams of its own; its market data are the live ones.
    "demo": ("wss://stream.bybit.com", "https://api-demo.bybit.com"),
}
#: The coins that linear contracts settle in.
_SETTLE_COINS = ("USDT", "USDC")
_MONTHS = "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC"


def native(parts: Symbol) -> str:
    """Return the venue's symbol: ``BTCUSDT``, ``BTCPERP``, ``BTC-26DEC25``, ``BTCUSDT-26DEC25``.

    Raises SymbolError if the month of expiry is not one of the twelve.
    """
    in_usdc = parts.settle == "USDC"
    if parts.expiry:
        year, month, day = parts.expiry[:2], int(parts.expiry[2:4]), parts.expiry[4:]
        if month not in range(1, 13):
            raise SymbolError(f"the expiry of {str(parts)!r} has no valid month: write YYMMDD")
        # How the venue writes a day before the 10th is not documented; names of its listing win.
        date = f"{day}{_MONTHS[3 * month - 3 : 3 * month]}{year}"
        return f"{parts.base}{'' if in_usdc else parts.quote}-{date}"
    return f"{parts.base}PERP" if in_usdc else f"{parts.base}{parts.quote}"


@frozen
class Names:
    """Converts a feed's symbols and channels to the venue's names and back.

    A topic is a prefix and the venue's symbol, such as ``orderbook.50.BTCUSDT``.
    """

    market: str
    settings: Settings
    channels: dict[str, str]  #: the feed's channels, by the prefix of their topics

    @property
    def hosts(self) -> tuple[str, str]:
        """The WebSocket and the REST address, without a path."""
        settings = self.settings
        environment = "testnet" if settings.testnet else "demo" if settings.demo else "live"
        stream, rest = _HOSTS[environment]
        if settings.base_url:
            scheme, _, host = settings.base_url.partition("://")
            secure = "s" if scheme in ("wss", "https") else ""
            stream, rest = f"ws{secure}://{host}", f"http{secure}://{host}"
        return (settings.ws_url or stream).rstrip("/"), (settings.rest_url or rest).rstrip("/")

    def endpoint(self) -> Endpoint:
        """Return the WebSocket endpoint of the market, with its limits."""
        return Endpoint(
            url=f"{self.hosts[0]}/v5/public/{self.market}",
            # The topics of a connection may have 21,000 characters in total: 42 for each of 500. The
            # longest topics have about 35.
            max_subscriptions=500,
            max_connections=1000,  # for each market and IP address
            message_rate=Rate(10, 1.0),  # not documented
            dial_rate=Rate(500, 300.0),
            heartbeat=Heartbeat(20.0, '{"op":"ping"}'),
            silence_timeout_seconds=45.0,  # two heartbeats without a reply
        )

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol, made by rule.

        Raises SymbolError if the market cannot list such a symbol.
        """
        parts = Symbol.parse(symbol)
        is_linear = parts.settle == parts.quote and parts.quote in _SETTLE_COINS
        if not (is_linear if self.market == "linear" else parts.kind == "spot"):
            market = "spot" if parts.kind == "spot" else "linear" if is_linear else ""
            remedy = (
                f'Set market = "{market}".' if market else "Inverse contracts are not supported."
            )
            raise SymbolError(f"bybit's market {self.market!r} has no {symbol!r}. {remedy}")
        return native(parts)

    def topic_prefix(self, channel: str) -> str:
        """Return the prefix of the topics of a channel; "" if there is no such channel."""
        name, parameter = channel_parts(channel)
        if name == "book":
            depth = parameter or str(self.settings.book_depth)
            return f"orderbook.{depth}" if depth in map(str, DEPTHS) else ""
        if name == "klines":
            return f"kline.{INTERVALS[parameter]}" if parameter in INTERVALS else ""
        return "" if parameter else _TOPIC_PREFIXES.get(name, "")


def names_of(feed: Feed, settings: Settings) -> Names:
    """Return the names of a feed after checking its market and channels.

    Raises ConfigError that lists every mistake.
    """
    market = feed.market or "spot"
    mistakes = []
    if market not in MARKETS:
        hint = nearest(market, MARKETS) or f" Markets are: {', '.join(MARKETS)}."
        mistakes.append(Mistake("market", f"bybit has no market {market!r}.{hint}"))
    names = Names(market, settings, {})
    for channel in feed.channels:
        prefix = names.topic_prefix(channel)
        if not prefix:
            valid = _valid_channels()
            mistakes.append(Mistake("channels", f"bybit has no channel {channel!r}. {valid}"))
        elif (other := names.channels.setdefault(prefix, channel)) != channel:
            problem = f"{other!r} and {channel!r} are the same stream, {prefix}"
            mistakes.append(Mistake("channels", f"{problem}: request only one of them"))
    if mistakes:
        raise ConfigError(mistakes)
    return names


def _valid_channels() -> str:
    books = ", ".join(f"book:{depth}" for depth in DEPTHS)
    klines = ", ".join(f"klines:{interval}" for interval in INTERVALS)
    return f"It has: {', '.join(_TOPIC_PREFIXES)}, book, {books}, {klines}."
