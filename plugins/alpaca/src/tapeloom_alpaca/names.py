"""Alpaca's markets, the venue's names of symbols and channels, and the addresses of its hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from attrs import frozen
from tapeloom.errors import ConfigError, Mistake, SymbolError, nearest
from tapeloom.plugin import Endpoint, Feed, Heartbeat, Message, Request
from tapeloom.symbols import Symbol
from tapeloom.units import Rate

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["LOGIN", "MARKETS", "Market", "Names", "names_of"]

#: The id of the login message.
LOGIN = "login"
#: Feeds of overnight trading, whose streams have a path of their own.
_OVERNIGHT = ("boats", "overnight")


@frozen
class Market:
    """What differs between stocks and crypto."""

    rest: str  #: path prefix of the REST interface
    asset_class: str  #: the venue's name of the market in the list of assets
    lists: Mapping[str, str]  #: the venue's list of symbols by channel


#: The lists of both markets.
_COMMON = {"trades": "trades", "quotes": "quotes", "klines:1m": "bars", "klines:1d": "dailyBars"}
#: By the name of the market in a feed.
MARKETS = {
    "stocks": Market(
        "/v2/stocks", "us_equity", {**_COMMON, "x-statuses": "statuses", "x-lulds": "lulds"}
    ),
    "crypto": Market("/v1beta3/crypto/us", "crypto", {**_COMMON, "book": "orderbooks"}),
}


@frozen
class Names:
    """The names and addresses of one feed."""

    market: Market
    settings: Settings

    @property
    def crypto(self) -> bool:
        """Whether this is the crypto market."""
        return self.market.asset_class == "crypto"

    def native(self, symbol: str) -> str:
        """Return the venue's name: ``AAPL`` for ``AAPL/USD``; crypto symbols are unchanged.

        Raises SymbolError where this market can have no such symbol.
        """
        parts = Symbol.parse(symbol)
        if parts.settle or (not self.crypto and parts.quote != "USD"):
            expected = "'BTC/USD'" if self.crypto else "'AAPL/USD': stocks are quoted in USD"
            raise SymbolError(
                f"{symbol!r} is not a symbol of this market. Use one like {expected}."
            )
        return str(parts) if self.crypto else parts.base

    def endpoint(self) -> Endpoint:
        """Return the one endpoint that serves every channel of this market.

        The venue documents no limits of pings and dials. The ping interval is that of its SDK; the
        other figures are cautious estimates.
        """
        settings = self.settings
        prefix = "/v1beta1" if settings.feed in _OVERNIGHT else "/v2"
        path = "/v1beta3/crypto/us" if self.crypto else f"{prefix}/{settings.feed}"
        return Endpoint(
            url=settings.stream_host + path,
            channels=frozenset(channel.partition(":")[0] for channel in self.market.lists),
            unidentified=frozenset({"book"}),  # changes without numbers
            max_subscriptions=100_000,
            max_connections=1,
            dial_rate=Rate(30, 60.0),
            heartbeat=Heartbeat(10.0),
            silence_timeout_seconds=60.0,
            opening=self._opening(),
        )

    def _opening(self) -> Sequence[Message]:
        keys = self.settings.keys
        if keys is None:
            return ()
        import msgspec  # here only; the text with the keys is kept nowhere but in the message

        text = msgspec.json.encode({"action": "auth", "key": keys[0], "secret": keys[1]})
        return (Message(text.decode(), (), LOGIN, is_login=True),)

    def rest(self, path: str, **query: Any) -> Request:
        """Return a request to the market-data REST interface; *path* follows the market's prefix."""
        if not self.crypto and not path.startswith("/v2/"):
            query["feed"] = self.settings.feed
        return self._request(self.settings.rest_host + self.market.rest + path, query)

    def assets(self) -> Request | None:
        """Return the request for the list of assets; None if this feed has none."""
        if self.settings.feed == "test" and not self.crypto:
            return None  # the only symbol of the test feed is not listed
        if not self.settings.trading_host:
            return None
        query = {"status": "active", "asset_class": self.market.asset_class}
        return self._request(f"{self.settings.trading_host}/v2/assets", query)

    def _request(self, url: str, query: Mapping[str, Any]) -> Request:
        keys = self.settings.keys
        headers = {}
        if keys is not None:
            headers = {"APCA-API-KEY-ID": keys[0], "APCA-API-SECRET-KEY": keys[1]}
        parameters = {key: value for key, value in query.items() if value is not None}
        # Half of the plan's limit, because the account may be used for other calls too.
        rate = Rate(max(1, self.settings.rest_limit // 2), 60.0)
        return Request(url=f"{url}?{urlencode(parameters)}", rate=rate, headers=headers)


def names_of(feed: Feed, settings: Settings) -> Names:
    """Return the names of *feed*.

    Raises ConfigError if it has a market or channel that the venue does not have.
    """
    name = feed.market or "stocks"
    market = MARKETS.get(name)
    if market is None:
        hint = nearest(name, MARKETS) or " There are 'stocks' and 'crypto'."
        raise ConfigError([Mistake("market", f"alpaca has no market {name!r}.{hint}")])
    streamed = settings.mode == "stream"
    known = [channel for channel in market.lists if streamed or not channel.startswith("x-")]
    mistakes = [
        Mistake(
            f"channels[{index}]",
            f"alpaca has no channel {channel!r} for {name} with mode = {settings.mode!r};"
            f" it has {', '.join(known)}.",
        )
        for index, channel in enumerate(feed.channels)
        if channel not in known
    ]
    if settings.mode == "poll" and settings.feed == "test" and name == "stocks":
        text = 'the test feed has no REST interface: set mode = "stream"'
        mistakes.append(Mistake("venue.alpaca.feed", text))
    if mistakes:
        raise ConfigError(mistakes)
    return Names(market, settings)
