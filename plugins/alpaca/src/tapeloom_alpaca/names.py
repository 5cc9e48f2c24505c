"""Alpaca's facts: its markets, what each calls our channels, its hosts, and its REST addresses."""

from __future__ import annotations

from collections.abc import Mapping
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

LOGIN = "login"  #: the id of the first message
_OVERNIGHT = ("boats", "overnight")


@frozen
class Market:
    """What differs between stocks and crypto. `lists` has the venue's word for each channel."""

    rest: str
    asset_class: str
    lists: Mapping[str, str]


_COMMON = {"trades": "trades", "quotes": "quotes", "klines:1m": "bars", "klines:1d": "dailyBars"}
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
        """Return the venue's name: ``AAPL`` for ``AAPL/USD``; crypto has our own spelling.

        Raises SymbolError where this market can have no such symbol.
        """
        parts = Symbol.parse(symbol)
        if parts.settle or (not self.crypto and parts.quote != "USD"):
            wanted = "'BTC/USD'" if self.crypto else "'AAPL/USD': stocks are quoted in USD"
            raise SymbolError(f"{symbol!r} is no symbol of this market. Write it like {wanted}.")
        return str(parts) if self.crypto else parts.base

    def endpoint(self) -> Endpoint:
        """Return the one address that serves every channel of this market.

        Pings and dials are bounded by our own figures: the venue documents none but the pings of
        its SDK, every 10 s.
        """
        settings = self.settings
        prefix = "/v1beta1" if settings.feed in _OVERNIGHT else "/v2"
        path = "/v1beta3/crypto/us" if self.crypto else f"{prefix}/{settings.feed}"
        return Endpoint(
            url=settings.stream_host + path,
            channels=frozenset(channel.partition(":")[0] for channel in self.market.lists),
            max_subscriptions=100_000,
            max_connections=1,
            dial_rate=Rate(30, 60.0),
            heartbeat=Heartbeat(10.0),
            silence_timeout_seconds=60.0,
            login=self._login(),
        )

    def _login(self) -> Message | None:
        keys = self.settings.keys
        if keys is None:
            return None
        import msgspec  # only here; the text is not kept anywhere but in the message

        text = msgspec.json.encode({"action": "auth", "key": keys[0], "secret": keys[1]})
        return Message(text.decode(), (), LOGIN)

    def rest(self, path: str, **query: Any) -> Request:
        """Return a call of the market-data REST interface; *path* follows the market's prefix."""
        if not self.crypto and not path.startswith("/v2/"):
            query["feed"] = self.settings.feed
        return self._request(self.settings.rest_host + self.market.rest + path, query)

    def assets(self) -> Request | None:
        """Return the call for what can be traded; None where there is no such list."""
        if self.settings.feed == "test" and not self.crypto:
            return None  # its only symbol is listed nowhere
        if not self.settings.trading_host:
            return None
        query = {"status": "active", "asset_class": self.market.asset_class}
        return self._request(f"{self.settings.trading_host}/v2/assets", query)

    def _request(self, url: str, query: Mapping[str, Any]) -> Request:
        keys = self.settings.keys
        headers = {}
        if keys is not None:
            headers = {"APCA-API-KEY-ID": keys[0], "APCA-API-SECRET-KEY": keys[1]}
        given = {key: value for key, value in query.items() if value is not None}
        # Half of what the plan allows: an account has other uses for its calls.
        rate = Rate(max(1, self.settings.rest_limit // 2), 60.0)
        return Request(url=f"{url}?{urlencode(given)}", rate=rate, headers=headers)


def names_of(feed: Feed, settings: Settings) -> Names:
    """Return the names of *feed*.

    Raises ConfigError where it has a market or a channel that the venue does not have.
    """
    word = feed.market or "stocks"
    market = MARKETS.get(word)
    if market is None:
        hint = nearest(word, MARKETS) or " There are 'stocks' and 'crypto'."
        raise ConfigError([Mistake("market", f"alpaca has no market {word!r}.{hint}")])
    known = [one for one in market.lists if settings.mode == "stream" or one[:2] != "x-"]
    mistakes = [
        Mistake(
            f"channels[{place}]",
            f"alpaca has no channel {channel!r} for {word} with mode = {settings.mode!r};"
            f" it has {', '.join(known)}.",
        )
        for place, channel in enumerate(feed.channels)
        if channel not in known
    ]
    if settings.mode == "poll" and settings.feed == "test" and word == "stocks":
        mistakes.append(Mistake("venue.alpaca.feed", "the test feed has no REST: stream it"))
    if mistakes:
        raise ConfigError(mistakes)
    return Names(market, settings)
