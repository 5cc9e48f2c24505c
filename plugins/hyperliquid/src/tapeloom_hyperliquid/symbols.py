"""Hyperliquid's addresses, limits and names.

Sources: the venue's documentation as of September 2026 and its Python SDK 0.23. What neither tells
is a setting, or is read both ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, frozen
from tapeloom.errors import ConfigError, Mistake, SymbolError, nearest
from tapeloom.plugin import Endpoint, Feed, Heartbeat, Subscription, channel_parts
from tapeloom.symbols import Symbol
from tapeloom.units import Rate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .settings import Settings

__all__ = [
    "BUDGET",
    "INTERVALS",
    "PAIRS",
    "WRAPPED",
    "Names",
    "coin_of",
    "names_of",
    "unified_base",
]

MARKETS = ("perp", "spot")
INTERVALS = (
    "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h", "12h", "1d", "3d", "1w", "1M",
)  # fmt: skip
#: Channels, and the parameters each takes. The slow book has 20 levels, the fast one 5.
CHANNELS: Mapping[str, tuple[str, ...]] = {
    "trades": ("",), "quotes": ("",), "book": ("20", "5"), "klines": INTERVALS, "ticker": ("",),
}  # fmt: skip
#: What a subscription is called on the wire, and back.
_TYPES = {"trades": "trades", "quotes": "bbo", "book": "l2Book", "klines": "candle", "ticker": "activeAssetCtx"}  # fmt: skip
_CHANNELS = {kind: channel for channel, kind in _TYPES.items()}

_HOSTS = {False: "api.hyperliquid.xyz", True: "api.hyperliquid-testnet.xyz"}
#: All limits are those of an address (IP), over all connections. The venue ends a connection on
#: which it has sent nothing for 60 s, and answers a ping: two answers that fail to come are enough.
_LIMITS = Endpoint(
    url="",
    max_subscriptions=1000,
    max_connections=10,
    message_rate=Rate(20, 1.0),
    host_message_rate=Rate(2000, 60.0),
    dial_rate=Rate(30, 60.0),
    heartbeat=Heartbeat(20.0, '{"method":"ping"}'),
    silence_timeout_seconds=45.0,
)
#: REST weight.
BUDGET = Rate(1200, 60.0)

#: Perpetuals of a thousand coins have a small k before the name, and unified symbols no small letters.
_THOUSANDS = frozenset(("KBONK", "KDOGS", "KFLOKI", "KLUNC", "KNEIRO", "KPEPE", "KSHIB"))
#: Tokens that stand for a coin of another chain, under the coin's own name as CCXT has it.
WRAPPED = {
    "HPENGU": "PENGU", "UBONK": "BONK", "UBTC": "BTC", "UDZ": "2Z", "UETH": "ETH",
    "UFART": "FARTCOIN", "UPUMP": "PUMP", "USDT0": "USDT", "USOL": "SOL", "UUUSPX": "SPX",
    "UXPL": "XPL", "XAUT0": "XAUT",
}  # fmt: skip
#: Pairs of spot whose names on the main network are known; the numbers of others only its list tells.
PAIRS = {"PURR/USDC": "PURR/USDC", "HYPE/USDC": "@107"}


def unified_base(coin: str) -> str:
    """Return the base of a perpetual's unified symbol: ``kPEPE`` is KPEPE, ``xyz:TSLA`` XYZ.TSLA."""
    return coin.replace(":", ".").upper()


def coin_of(base: str) -> str:
    """Return what a perpetual is called on the wire, by the base of its unified symbol."""
    dex, dot, coin = base.partition(".")
    if dot:
        return f"{dex.lower()}:{coin}"
    return f"k{base[1:]}" if base in _THOUSANDS else base


@frozen
class Names:
    """How one feed's symbols and channels are spelled on the wire, and back."""

    market: str
    settings: Settings
    channels: tuple[str, ...]
    dex: str  #: whose perpetuals these are; empty: the venue's own

    @property
    def hosts(self) -> tuple[str, str]:
        """Where WebSocket and REST are, without a path."""
        settings, host = self.settings, _HOSTS[self.settings.testnet]
        stream, rest = f"wss://{host}", f"https://{host}"
        if settings.base_url:
            scheme, _, place = settings.base_url.partition("://")
            safe = "s" if scheme in ("wss", "https") else ""
            stream, rest = f"ws{safe}://{place}", f"http{safe}://{place}"
        return (settings.ws_url or stream).rstrip("/"), (settings.rest_url or rest).rstrip("/")

    def endpoint(self) -> Endpoint:
        """Return the WebSocket address."""
        return evolve(_LIMITS, url=f"{self.hosts[0]}/ws")

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol, as it is formed by rule.

        A pair of spot is called by a number that only the venue's list tells. Until the list has
        come it is called by its own name, but for `PAIRS`: the venue does not know it and says so.

        Raises SymbolError where this market can have no such symbol.
        """
        parts = Symbol.parse(symbol)
        if self.market == "spot":
            if parts.kind != "spot":
                raise SymbolError(f'{symbol!r} is no spot pair: set market = "perp" for this feed')
            pair = str(parts)
            return pair if self.settings.testnet else PAIRS.get(pair, pair)
        if parts.kind != "swap" or parts.settle != parts.quote:
            example = f"{parts.base}/USDC:USDC"
            raise SymbolError(f"{symbol!r} is no perpetual of hyperliquid; one is {example!r}")
        return coin_of(parts.base)

    def subscription(self, native: str, channel: str) -> dict[str, Any]:
        """Return what is subscribed to for a channel."""
        word, parameter = channel_parts(channel)
        about: dict[str, Any] = {"type": _TYPES[word], "coin": native}
        if word == "klines":
            about["interval"] = parameter
        elif word == "book":
            # Which of the two comes where nothing is said is not documented.
            about["fast"] = parameter == "5"
        return about

    def book(self, fast: bool | None) -> str:
        """Return the channel of a book. Where the venue does not say how fast it is: what we have."""
        if fast is None:
            return next((each for each in ("book:20", "book:5") if each in self.channels), "")
        return "book:5" if fast else "book:20"

    def channel(self, kind: str, interval: str | None, fast: bool | None) -> str:
        """Return the channel of a subscription as the venue repeats it; empty: we have no such."""
        word = _CHANNELS.get(kind, "")
        channel = self.book(fast) if word == "book" else f"{word}:{interval}" if interval else word
        return channel if channel in self.channels else ""

    def subscribed(
        self, unified: Mapping[str, str], kind: str, coin: str, more: tuple[str | None, bool | None]
    ) -> tuple[Subscription, ...]:
        """Return what a subscription that the venue repeats is for us; nothing where it is not ours."""
        symbol, channel = unified.get(coin), self.channel(kind, *more)
        return (Subscription(symbol, channel),) if symbol and channel else ()


def names_of(feed: Feed, settings: Settings) -> Names:
    """Check what a feed asks for.

    Raises ConfigError with all that is wrong.
    """
    market = feed.market or "perp"
    if market not in MARKETS:
        hint = nearest(market, MARKETS) or f" Markets are: {', '.join(MARKETS)}."
        raise ConfigError([Mistake("market", f"hyperliquid has no market {market!r}.{hint}")])
    mistakes = [
        Mistake("channels", problem) for channel in feed.channels if (problem := _problem(channel))
    ]
    bases = [symbol.partition("/")[0] for symbol in feed.symbols]
    dexes = {base.partition(".")[0].lower() if "." in base else "" for base in bases}
    if market == "perp" and len(dexes) > 1:
        told = ", ".join(sorted(dex or "the venue itself" for dex in dexes))
        problem = f"the perpetuals of one feed must be of one exchange, and these are of {told}."
        mistakes.append(Mistake("symbols", f"{problem} Make a feed of each."))
    if (count := len(feed.symbols) * len(feed.channels)) > _LIMITS.max_subscriptions:
        problem = f"hyperliquid allows an address 1,000 subscriptions, and these are {count}."
        mistakes.append(Mistake("symbols", f"{problem} Name fewer symbols or channels."))
    if mistakes:
        raise ConfigError(mistakes)
    dex = dexes.pop() if market == "perp" and len(dexes) == 1 else ""
    return Names(market, settings, feed.channels, dex)


def _problem(channel: str) -> str:
    """Say what is wrong with a channel, or nothing."""
    word, parameter = channel_parts(channel)
    if parameter in CHANNELS.get(word, ()):
        return ""
    choice = [f"{word}:{each}" if each else word for each in CHANNELS.get(word, ())]
    told = f" It has: {', '.join(choice or CHANNELS)}."
    return f"hyperliquid has no channel {channel!r}.{told}"
