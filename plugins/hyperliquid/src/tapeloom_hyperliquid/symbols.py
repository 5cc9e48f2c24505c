"""Hyperliquid's addresses, limits, channels, and the venue's names of symbols.

Sources: the venue's documentation as of September 2026 and its Python SDK 0.23. Where both are
silent, there is a setting, or both variants are accepted.
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
#: The channels and the parameters of each. The slow book has 20 levels, the fast one 5.
CHANNELS: Mapping[str, tuple[str, ...]] = {
    "trades": ("",), "quotes": ("",), "book": ("20", "5"), "klines": INTERVALS, "ticker": ("",),
}  # fmt: skip
#: The venue's subscription type by channel name, and the reverse.
_TYPES = {"trades": "trades", "quotes": "bbo", "book": "l2Book", "klines": "candle", "ticker": "activeAssetCtx"}  # fmt: skip
_CHANNELS = {kind: channel for channel, kind in _TYPES.items()}

#: The host by whether it is the testnet's.
_HOSTS = {False: "api.hyperliquid.xyz", True: "api.hyperliquid-testnet.xyz"}
#: All limits count per IP address, over all connections. The venue closes a connection on which it
#: has sent nothing for 60 s, and it answers pings, so a connection is dead after two lost pongs.
_LIMITS = Endpoint(
    url="",
    unidentified=frozenset({"ticker"}),  # the venue sends no time with it
    max_subscriptions=1000,
    max_connections=10,
    message_rate=Rate(20, 1.0),
    host_message_rate=Rate(2000, 60.0),
    dial_rate=Rate(30, 60.0),
    heartbeat=Heartbeat(20.0, '{"method":"ping"}'),
    silence_timeout_seconds=45.0,
)
#: REST weight per minute.
BUDGET = Rate(1200, 60.0)

#: Bases of perpetuals on a thousand coins. The venue writes them with a lower-case k (``kPEPE``);
#: unified symbols have no lower-case letters.
_THOUSANDS = frozenset(("KBONK", "KDOGS", "KFLOKI", "KLUNC", "KNEIRO", "KPEPE", "KSHIB"))
#: The unified name of a token that wraps a coin of another chain; the names are those of CCXT.
WRAPPED = {
    "HPENGU": "PENGU", "UBONK": "BONK", "UBTC": "BTC", "UDZ": "2Z", "UETH": "ETH",
    "UFART": "FARTCOIN", "UPUMP": "PUMP", "USDT0": "USDT", "USOL": "SOL", "UUUSPX": "SPX",
    "UXPL": "XPL", "XAUT0": "XAUT",
}  # fmt: skip
#: The mainnet names of two spot pairs. Other pairs have numbers that only the listing has.
PAIRS = {"PURR/USDC": "PURR/USDC", "HYPE/USDC": "@107"}


def unified_base(coin: str) -> str:
    """Return a perpetual's unified base: KPEPE for ``kPEPE``, XYZ.TSLA for ``xyz:TSLA``."""
    return coin.replace(":", ".").upper()


def coin_of(base: str) -> str:
    """Return the venue's name of a perpetual by its unified base."""
    dex, dot, coin = base.partition(".")
    if dot:
        return f"{dex.lower()}:{coin}"
    return f"k{base[1:]}" if base in _THOUSANDS else base


@frozen
class Names:
    """Converts the symbols and channels of one feed to the venue's names, and back."""

    market: str
    settings: Settings
    channels: tuple[str, ...]
    dex: str  #: the builder's exchange that lists the perpetuals; empty for the venue itself

    @property
    def hosts(self) -> tuple[str, str]:
        """The URLs of WebSocket and REST, without a path."""
        settings, host = self.settings, _HOSTS[self.settings.testnet]
        stream, rest = f"wss://{host}", f"https://{host}"
        if settings.base_url:
            scheme, _, address = settings.base_url.partition("://")
            tls = "s" if scheme in ("wss", "https") else ""
            stream, rest = f"ws{tls}://{address}", f"http{tls}://{address}"
        return (settings.ws_url or stream).rstrip("/"), (settings.rest_url or rest).rstrip("/")

    def endpoint(self) -> Endpoint:
        """Return the WebSocket endpoint with its limits."""
        return evolve(_LIMITS, url=f"{self.hosts[0]}/ws")

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol, as far as it follows from rules.

        A spot pair is named by a number that is only in the listing. Without the listing, a pair
        other than those in `PAIRS` gets its unified name, which the venue refuses.

        Raises SymbolError where this market can have no such symbol.
        """
        parts = Symbol.parse(symbol)
        if self.market == "spot":
            if parts.kind != "spot":
                raise SymbolError(f'{symbol!r} is no spot pair: set market = "perp" for this feed')
            if parts.base.startswith("@"):
                return parts.base  # the venue's own name: see `history`
            pair = str(parts)
            return pair if self.settings.testnet else PAIRS.get(pair, pair)
        if parts.kind != "swap" or parts.settle != parts.quote:
            example = f"{parts.base}/USDC:USDC"
            raise SymbolError(
                f"{symbol!r} is no perpetual of hyperliquid: one is written {example!r}"
            )
        return coin_of(parts.base)

    def subscription(self, native: str, channel: str) -> dict[str, Any]:
        """Return the venue's subscription object for a channel."""
        name, parameter = channel_parts(channel)
        subscription: dict[str, Any] = {"type": _TYPES[name], "coin": native}
        if name == "klines":
            subscription["interval"] = parameter
        elif name == "book":
            # The venue does not document the default, so `fast` is always sent.
            subscription["fast"] = parameter == "5"
        return subscription

    def book(self, fast: bool | None) -> str:
        """Return the channel of a book by the venue's `fast`; if None, the feed's book channel."""
        if fast is None:
            books = ("book:20", "book:5")
            return next((channel for channel in books if channel in self.channels), "")
        return "book:5" if fast else "book:20"

    def channel(self, kind: str, interval: str | None, fast: bool | None) -> str:
        """Return tapeloom's name of a channel, given the fields of a subscription in the venue's form.

        *kind* is the venue's `type`. Empty if the feed does not subscribe to that channel.
        """
        name = _CHANNELS.get(kind, "")
        channel = self.book(fast) if name == "book" else f"{name}:{interval}" if interval else name
        return channel if channel in self.channels else ""

    def subscribed(
        self,
        unified: Mapping[str, str],
        kind: str,
        coin: str,
        parameters: tuple[str | None, bool | None],
    ) -> tuple[Subscription, ...]:
        """Return the subscription for the venue's one; empty if the feed does not have it.

        *parameters* are the interval of bars and the `fast` of a book.
        """
        symbol, channel = unified.get(coin), self.channel(kind, *parameters)
        return (Subscription(symbol, channel),) if symbol and channel else ()


def names_of(feed: Feed, settings: Settings) -> Names:
    """Return the names of *feed*.

    Raises ConfigError with every mistake in its market, channels and symbols.
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
        exchanges = ", ".join(sorted(dex or "the venue itself" for dex in dexes))
        problem = f"the perpetuals of a feed must be of one exchange, and these are of {exchanges}."
        mistakes.append(Mistake("symbols", f"{problem} Make one feed per exchange."))
    if (count := len(feed.symbols) * len(feed.channels)) > _LIMITS.max_subscriptions:
        problem = f"hyperliquid allows 1,000 subscriptions per address, and these are {count}."
        mistakes.append(Mistake("symbols", f"{problem} Use fewer symbols or channels."))
    if mistakes:
        raise ConfigError(mistakes)
    dex = dexes.pop() if market == "perp" and len(dexes) == 1 else ""
    return Names(market, settings, feed.channels, dex)


def _problem(channel: str) -> str:
    """Return what is wrong with a channel; empty if nothing is."""
    name, parameter = channel_parts(channel)
    parameters = CHANNELS.get(name, ())
    if parameter in parameters:
        return ""
    choice = [f"{name}:{value}" if value else name for value in parameters]
    return f"hyperliquid has no channel {channel!r}. It has: {', '.join(choice or CHANNELS)}."
