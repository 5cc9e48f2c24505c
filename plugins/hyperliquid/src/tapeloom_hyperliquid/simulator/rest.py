"""Hyperliquid's REST interface ``POST /info``, answered from a simulated market."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tapeloom_simulator.server_api import HttpResponse, RestBudget

from .streams import INTERVALS, MS, REPLAYED_TRADES, Coin, coins_of_exchange, mid_prices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tapeloom_simulator.server_api import HttpRequest, Market, SimulatedInstrument

__all__ = ["BUDGET", "Rest", "coins_of"]

#: Weight per minute and IP address.
BUDGET = RestBudget(name="info", limit=1200, window_seconds=60.0)
#: Number of bars that the venue keeps per coin and interval.
_MAX_BARS = 5000
#: The numbers of two spot pairs on mainnet. Other pairs are numbered from `_FIRST_NUMBER` on.
_NUMBERS = {"PURR/USDC": 0, "HYPE/USDC": 107}
_FIRST_NUMBER = 200
#: Coins whose perpetuals are on a thousand coins. The venue writes a lower-case k before the name.
_BY_THOUSAND = ("BONK", "DOGS", "FLOKI", "LUNC", "NEIRO", "PEPE", "SHIB")
#: The venue's name of such a perpetual, by its unified base.
_LISTED = {f"K{coin}": f"k{coin}" for coin in _BY_THOUSAND}
#: The token that wraps a coin of another chain.
_TOKENS = {
    "2Z": "UDZ",
    "BONK": "UBONK",
    "BTC": "UBTC",
    "ETH": "UETH",
    "FARTCOIN": "UFART",
    "PENGU": "HPENGU",
    "PUMP": "UPUMP",
    "SOL": "USOL",
    "SPX": "UUUSPX",
    "USDT": "USDT0",
    "XAUT": "XAUT0",
    "XPL": "UXPL",
}
#: Request types of weight 2.
_LOW_WEIGHT = frozenset(("l2Book", "allMids", "exchangeStatus"))
#: The answer to a body that the venue does not understand.
_UNKNOWN_REQUEST = HttpResponse("Failed to deserialize the JSON body into the target type", 422)


class Tokens(list[str]):
    """The names of tokens; the index of a token is its number. USDC is 0."""

    def number(self, unified: str) -> int:
        """Return the number of a token by its unified name; add it if it is new."""
        name = _TOKENS.get(unified, unified)
        if name not in self:
            self.append(name)
        return self.index(name)


def coins_of(market: Market) -> tuple[dict[str, Coin], Tokens]:
    """Return the coins by the venue's names, and the tokens.

    Perpetuals come first. A spot pair is named by its number, except PURR/USDC, whose number is 0.
    """
    tokens = Tokens(["USDC"])
    swaps = [instrument for instrument in market.instruments.values() if _is_perpetual(instrument)]
    pairs = [
        instrument
        for instrument in market.instruments.values()
        if instrument.parsed_symbol.kind == "spot"
    ]
    coins = {
        name: Coin.of(instrument, market, name)
        for instrument in swaps
        if (name := _perpetual_name(instrument.parsed_symbol.base))
    }
    for position, instrument in enumerate(pairs, _FIRST_NUMBER):
        number = _NUMBERS.get(instrument.symbol, position)
        name = f"@{number}" if number else instrument.symbol
        coins[name] = Coin.of(instrument, market, name)
    for coin in coins.values():
        if coin.spot:
            tokens.number(coin.instrument.parsed_symbol.base)
        tokens.number(coin.instrument.parsed_symbol.quote)
    return coins, tokens


def _perpetual_name(base: str) -> str:
    """Return the venue's name of a perpetual: ``BTC``, ``kPEPE`` or ``xyz:TSLA``.

    The part before the colon names the builder's exchange that lists the perpetual.
    """
    exchange, dot, coin = base.partition(".")
    return f"{exchange.lower()}:{coin}" if dot else _LISTED.get(base, base)


def _is_perpetual(instrument: SimulatedInstrument) -> bool:
    """Return whether the venue could list this: settled in USDC, or of a builder."""
    parts = instrument.parsed_symbol
    return parts.kind == "swap" and (parts.settle == "USDC" or "." in parts.base)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


class Rest:
    """Answers ``/info``. The body of a call names the type of the request."""

    def __init__(self, market: Market, coins: Mapping[str, Coin], tokens: Tokens) -> None:
        self._market, self._coins, self._tokens = market, coins, tokens
        self._handlers: dict[str, Callable[[dict[str, Any], int], str]] = {
            "meta": lambda body, _: _json(self._meta(body.get("dex") or "")),
            "metaAndAssetCtxs": lambda body, _: self._meta_with_contexts(body.get("dex") or ""),
            "spotMeta": lambda _, __: _json(self._spot_meta()),
            "spotMetaAndAssetCtxs": lambda _, __: self._spot_meta_with_contexts(),
            "perpDexs": lambda _, __: self._dexes(),
            "allMids": lambda body, _: mid_prices(
                coins_of_exchange(self._coins.values(), body.get("dex") or "")
            ),
            "l2Book": self._book,
            "recentTrades": self._trades,
            "candleSnapshot": self._bars,
            "exchangeStatus": lambda _, __: f'{{"time":{self._now},"specialStatuses":null}}',
        }

    @property
    def _now(self) -> int:
        return self._market.venue_clock // MS

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Return the answer to a call."""
        if not call.path.endswith("/info"):
            return HttpResponse("", 404)
        if call.method != "POST":
            return HttpResponse("", 405)
        body = _body(call)
        handler = self._handlers.get(body.get("type", ""))
        if handler is None:
            return _UNKNOWN_REQUEST
        try:
            return HttpResponse(handler(body, call.book_lag))
        except (KeyError, TypeError, ValueError):
            return _UNKNOWN_REQUEST

    def request_cost(self, call: HttpRequest) -> int:
        """Return the weight of a call."""
        body = _body(call)
        kind = body.get("type", "")
        if kind in _LOW_WEIGHT:
            return 2
        answer = self.respond(call).body if kind in ("recentTrades", "candleSnapshot") else ""
        return 20 + answer.count('"tid"') // 20 + answer.count('"T"') // 60

    # ------------------------------------------------------------------------------------- listings

    def _perpetuals(self, dex: str) -> list[Coin]:
        return [coin for coin in coins_of_exchange(self._coins.values(), dex) if not coin.spot]

    def _meta(self, dex: str) -> dict[str, Any]:
        coins = self._perpetuals(dex)
        universe = [
            {"szDecimals": coin.decimals, "name": coin.name, "maxLeverage": 40, "marginTableId": 56}
            for coin in coins
        ]
        settle = coins[0].instrument.parsed_symbol.settle if coins else "USDC"
        number = self._tokens.number(settle)
        return {"universe": universe, "marginTables": [], "collateralToken": number}

    def _meta_with_contexts(self, dex: str) -> str:
        contexts = ",".join(coin.context() for coin in self._perpetuals(dex))
        return f"[{_json(self._meta(dex))},[{contexts}]]"

    def _spot_meta(self) -> dict[str, Any]:
        number, coins = self._tokens.number, [coin for coin in self._coins.values() if coin.spot]
        universe = [
            {"tokens": [number(coin.instrument.parsed_symbol.base), number(coin.instrument.parsed_symbol.quote)],
             "name": coin.name, "index": int(coin.name.partition("@")[2] or 0),
             "isCanonical": "/" in coin.name}
            for coin in coins
        ]  # fmt: skip
        decimals = {number(coin.instrument.parsed_symbol.base): coin.decimals for coin in coins}
        tokens = [
            {"name": name, "szDecimals": decimals.get(index, 8), "weiDecimals": 8, "index": index,
             "tokenId": f"0x{index:032x}", "isCanonical": index < 2, "evmContract": None,
             "fullName": None}
            for index, name in enumerate(self._tokens)
        ]  # fmt: skip
        return {"universe": universe, "tokens": tokens}

    def _spot_meta_with_contexts(self) -> str:
        contexts = ",".join(coin.context() for coin in self._coins.values() if coin.spot)
        return f"[{_json(self._spot_meta())},[{contexts}]]"

    def _dexes(self) -> str:
        names = dict.fromkeys(name.partition(":")[0] for name in self._coins if ":" in name)
        address = f"0x{0:040x}"
        return _json(
            [None, *({"name": name, "fullName": name.upper(), "deployer": address,
                      "oracleUpdater": None, "feeRecipient": None} for name in names)]
        )  # fmt: skip

    # -------------------------------------------------------------------------------------- answers

    def _book(self, body: dict[str, Any], lag: int) -> str:
        coin = self._coins.get(body["coin"])
        if coin is None:
            return "null"
        return coin.book(coin.instrument.book_snapshot(20, lag), self._market.now)

    def _trades(self, body: dict[str, Any], lag: int) -> str:
        coin = self._coins[body["coin"]]
        return coin.trades(reversed(coin.past(REPLAYED_TRADES)))

    def _bars(self, body: dict[str, Any], lag: int) -> str:
        span = body["req"]
        coin, interval = self._coins[span["coin"]], span["interval"]
        if interval not in INTERVALS:
            raise ValueError(interval)
        since, until = int(span["startTime"]) * MS, self._market.now
        if span.get("endTime") is not None:
            until = min(until, int(span["endTime"]) * MS)
        bars = coin.instrument.bars(interval, since, until, 1_000_000)
        texts = [coin.bar(interval, bar) for bar in bars if bar.trades]
        return f"[{','.join(texts[-_MAX_BARS:])}]"


def _body(call: HttpRequest) -> dict[str, Any]:
    try:
        body = json.loads(call.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
