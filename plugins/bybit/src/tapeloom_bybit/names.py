"""Bybit's facts, and its words for our symbols and channels.

Sources: the exchange's own v5 documentation of July 2026; figures that it does not have say so.
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
#: Our words for the intervals of klines, and the venue's.
INTERVALS = {
    "1m": "1", "3m": "3", "5m": "5", "15m": "15", "30m": "30", "1h": "60", "2h": "120",
    "4h": "240", "6h": "360", "12h": "720", "1d": "D", "1w": "W", "1M": "M",
}  # fmt: skip
_HEADS = {"trades": "publicTrade", "quotes": "orderbook.1", "ticker": "tickers"}
_HOSTS = {
    "live": ("wss://stream.bybit.com", "https://api.bybit.com"),
    "testnet": ("wss://stream-testnet.bybit.com", "https://api-testnet.bybit.com"),
    # Demo has private streams of its own only; its market is the live one.
    "demo": ("wss://stream.bybit.com", "https://api-demo.bybit.com"),
}
_COINS = ("USDT", "USDC")
_MONTHS = "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC"


def native(parts: Symbol) -> str:
    """Return the venue's name: ``BTCUSDT``, ``BTCPERP``, ``BTC-26DEC25``, ``BTCUSDT-26DEC25``.

    Raises SymbolError where the day of an expiry is none.
    """
    dollar = parts.settle == "USDC"
    if parts.expiry:
        year, month, day = parts.expiry[:2], int(parts.expiry[2:4]), parts.expiry[4:]
        if month not in range(1, 13):
            raise SymbolError(f"{str(parts)!r} expires in no month: write the day as YYMMDD")
        # What a day before the 10th looks like is not documented; the venue's list has the last word.
        date = f"{day}{_MONTHS[3 * month - 3 : 3 * month]}{year}"
        return f"{parts.base}{'' if dollar else parts.quote}-{date}"
    return f"{parts.base}PERP" if dollar else f"{parts.base}{parts.quote}"


@frozen
class Names:
    """How one feed's symbols and channels are spelled on the wire, and back.

    A topic is a head and the venue's symbol, as in ``orderbook.50.BTCUSDT``.
    """

    market: str
    settings: Settings
    channels: dict[str, str]  #: the feed's channels, by the head of their topics

    @property
    def hosts(self) -> tuple[str, str]:
        """Where WebSocket and REST are, without a path."""
        own = self.settings
        stream, rest = _HOSTS["testnet" if own.testnet else "demo" if own.demo else "live"]
        if own.base_url:
            scheme, _, place = own.base_url.partition("://")
            safe = "s" if scheme in ("wss", "https") else ""
            stream, rest = f"ws{safe}://{place}", f"http{safe}://{place}"
        return (own.ws_url or stream).rstrip("/"), (own.rest_url or rest).rstrip("/")

    def endpoint(self) -> Endpoint:
        """Return the address of the market's streams, and the rules for it."""
        return Endpoint(
            url=f"{self.hosts[0]}/v5/public/{self.market}",
            # 21,000 characters of topics are allowed on a connection: 42 for each of these, and the
            # longest topics have about 35.
            max_subscriptions=500,
            max_connections=1000,  # for each market and address
            message_rate=Rate(10, 1.0),  # not documented
            dial_rate=Rate(500, 300.0),
            heartbeat=Heartbeat(20.0, '{"op":"ping"}'),
            silence_timeout_seconds=45.0,  # two heartbeats without an answer
        )

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol, as it is formed by rule.

        Raises SymbolError where the market can have no such symbol.
        """
        parts = Symbol.parse(symbol)
        linear = parts.settle == parts.quote and parts.quote in _COINS
        if not (linear if self.market == "linear" else parts.kind == "spot"):
            other = "spot" if parts.kind == "spot" else "linear" if linear else ""
            remedy = f'Set market = "{other}".' if other else "Inverse contracts are not served."
            raise SymbolError(f"bybit's market {self.market!r} has no {symbol!r}. {remedy}")
        return native(parts)

    def head(self, channel: str) -> str:
        """Return what the topics of a channel begin with; nothing where there is no such channel."""
        name, parameter = channel_parts(channel)
        if name == "book":
            depth = parameter or str(self.settings.book_depth)
            return f"orderbook.{depth}" if depth in map(str, DEPTHS) else ""
        if name == "klines":
            return f"kline.{INTERVALS[parameter]}" if parameter in INTERVALS else ""
        return "" if parameter else _HEADS.get(name, "")


def names_of(feed: Feed, settings: Settings) -> Names:
    """Check what a feed asks for against its market.

    Raises ConfigError with all that is wrong.
    """
    market = feed.market or "spot"
    mistakes = []
    if market not in MARKETS:
        hint = nearest(market, MARKETS) or f" There are: {', '.join(MARKETS)}."
        mistakes.append(Mistake("market", f"bybit has no market {market!r}.{hint}"))
    names = Names(market, settings, {})
    for channel in feed.channels:
        head = names.head(channel)
        if not head:
            mistakes.append(Mistake("channels", f"bybit has no channel {channel!r}. {_offered()}"))
        elif (other := names.channels.setdefault(head, channel)) != channel:
            problem = f"{other!r} and {channel!r} are one stream, {head}: ask for one of them"
            mistakes.append(Mistake("channels", problem))
    if mistakes:
        raise ConfigError(mistakes)
    return names


def _offered() -> str:
    books = ", ".join(f"book:{depth}" for depth in DEPTHS)
    klines = ", ".join(f"klines:{interval}" for interval in INTERVALS)
    return f"It has: {', '.join(_HEADS)}, book, {books}, {klines}."
