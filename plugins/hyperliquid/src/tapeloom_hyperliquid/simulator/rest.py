"""Hyperliquid over REST, told by a simulated market: ``POST /info``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tapeloom_simulator.server_api import HttpResponse, RestBudget

from .streams import INTERVALS, MS, REPEATED, Coin, mids, of_exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tapeloom_simulator.server_api import HttpRequest, Market, SimulatedInstrument

__all__ = ["BUDGET", "Rest", "coins_of"]

#: Per address.
BUDGET = RestBudget(name="info", limit=1200, window_seconds=60.0)
_KEPT = 5000
#: The numbers of two pairs of spot on the main network. All other pairs are numbered from _FIRST on.
_NUMBERS = {"PURR/USDC": 0, "HYPE/USDC": 107}
_FIRST = 200
#: Coins whose perpetuals are traded by the thousand: a small k stands before the coin's name.
_BY_THOUSAND = ("BONK", "DOGS", "FLOKI", "LUNC", "NEIRO", "PEPE", "SHIB")
_LISTED = {f"K{coin}": f"k{coin}" for coin in _BY_THOUSAND}
#: Coins of other chains, and the tokens in which they are traded here.
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
_CHEAP = frozenset(("l2Book", "allMids", "exchangeStatus"))
_UNKNOWN = HttpResponse("Failed to deserialize the JSON body into the target type", 422)


class Tokens(list[str]):
    """The tokens, each with a number: USDC is 0."""

    def number(self, unified: str) -> int:
        """Return the number of a token, given one if it has none."""
        name = _TOKENS.get(unified, unified)
        if name not in self:
            self.append(name)
        return self.index(name)


def coins_of(market: Market) -> tuple[dict[str, Coin], Tokens]:
    """Return what is traded, by its name on the wire, and the tokens.

    Perpetuals come first. A pair of spot is called by its number, but for PURR/USDC, which is 0.
    """
    tokens = Tokens(["USDC"])
    swaps = [pit for pit in market.instruments.values() if _is_perpetual(pit)]
    pairs = [pit for pit in market.instruments.values() if pit.parsed_symbol.kind == "spot"]
    coins = {
        name: Coin.of(pit, market, name)
        for pit in swaps
        if (name := _perpetual_name(pit.parsed_symbol.base))
    }
    for position, pit in enumerate(pairs, _FIRST):
        number = _NUMBERS.get(pit.symbol, position)
        name = f"@{number}" if number else pit.symbol
        coins[name] = Coin.of(pit, market, name)
    for coin in coins.values():
        if coin.spot:
            tokens.number(coin.pit.parsed_symbol.base)
        tokens.number(coin.pit.parsed_symbol.quote)
    return coins, tokens


def _perpetual_name(base: str) -> str:
    """Return the name that a perpetual is listed under: ``BTC``, ``kPEPE`` or ``xyz:TSLA``.

    The part before the colon names the builder's exchange that lists the perpetual.
    """
    exchange, dot, coin = base.partition(".")
    return f"{exchange.lower()}:{coin}" if dot else _LISTED.get(base, base)


def _is_perpetual(pit: SimulatedInstrument) -> bool:
    """Say whether the venue could list this: all is settled in USDC, but for builders' own."""
    parts = pit.parsed_symbol
    return parts.kind == "swap" and (parts.settle == "USDC" or "." in parts.base)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


class Rest:
    """``/info``: what is asked stands in the body."""

    def __init__(self, market: Market, coins: Mapping[str, Coin], tokens: Tokens) -> None:
        self._market, self._coins, self._tokens = market, coins, tokens
        self._kinds: dict[str, Callable[[dict[str, Any], int], str]] = {
            "meta": lambda body, _: _json(self._meta(body.get("dex") or "")),
            "metaAndAssetCtxs": lambda body, _: self._both(body.get("dex") or ""),
            "spotMeta": lambda _, __: _json(self._spot_meta()),
            "spotMetaAndAssetCtxs": lambda _, __: self._spot_both(),
            "perpDexs": lambda _, __: self._dexes(),
            "allMids": lambda body, _: mids(
                of_exchange(self._coins.values(), body.get("dex") or "")
            ),
            "l2Book": self._book,
            "recentTrades": self._trades,
            "candleSnapshot": self._candles,
            "exchangeStatus": lambda _, __: f'{{"time":{self._now},"specialStatuses":null}}',
        }

    @property
    def _now(self) -> int:
        return self._market.venue_clock // MS

    def answer(self, call: HttpRequest) -> HttpResponse:
        """Answer a call."""
        if not call.path.endswith("/info"):
            return HttpResponse("", 404)
        if call.method != "POST":
            return HttpResponse("", 405)
        body = _body(call)
        kind = self._kinds.get(body.get("type", ""))
        if kind is None:
            return _UNKNOWN
        try:
            return HttpResponse(kind(body, call.book_lag))
        except (KeyError, TypeError, ValueError):
            return _UNKNOWN

    def cost(self, call: HttpRequest) -> int:
        """Return the weight of a call."""
        body = _body(call)
        kind = body.get("type", "")
        if kind in _CHEAP:
            return 2
        answer = self.answer(call).body if kind in ("recentTrades", "candleSnapshot") else ""
        return 20 + answer.count('"tid"') // 20 + answer.count('"T"') // 60

    # ------------------------------------------------------------------------------------- listings

    def _perpetuals(self, dex: str) -> list[Coin]:
        return [coin for coin in of_exchange(self._coins.values(), dex) if not coin.spot]

    def _meta(self, dex: str) -> dict[str, Any]:
        coins = self._perpetuals(dex)
        universe = [
            {"szDecimals": coin.decimals, "name": coin.name, "maxLeverage": 40, "marginTableId": 56}
            for coin in coins
        ]
        settle = coins[0].pit.parsed_symbol.settle if coins else "USDC"
        number = self._tokens.number(settle)
        return {"universe": universe, "marginTables": [], "collateralToken": number}

    def _both(self, dex: str) -> str:
        contexts = ",".join(coin.context() for coin in self._perpetuals(dex))
        return f"[{_json(self._meta(dex))},[{contexts}]]"

    def _spot_meta(self) -> dict[str, Any]:
        numbers, coins = self._tokens.number, [one for one in self._coins.values() if one.spot]
        universe = [
            {"tokens": [numbers(coin.pit.parsed_symbol.base), numbers(coin.pit.parsed_symbol.quote)],
             "name": coin.name, "index": int(coin.name.partition("@")[2] or 0),
             "isCanonical": "/" in coin.name}
            for coin in coins
        ]  # fmt: skip
        decimals = {numbers(coin.pit.parsed_symbol.base): coin.decimals for coin in coins}
        tokens = [
            {"name": name, "szDecimals": decimals.get(index, 8), "weiDecimals": 8, "index": index,
             "tokenId": f"0x{index:032x}", "isCanonical": index < 2, "evmContract": None,
             "fullName": None}
            for index, name in enumerate(self._tokens)
        ]  # fmt: skip
        return {"universe": universe, "tokens": tokens}

    def _spot_both(self) -> str:
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
        return coin.book(coin.pit.book_snapshot(20, lag), self._market.now)

    def _trades(self, body: dict[str, Any], lag: int) -> str:
        coin = self._coins[body["coin"]]
        return coin.trades(reversed(coin.past(REPEATED)))

    def _candles(self, body: dict[str, Any], lag: int) -> str:
        asked = body["req"]
        coin, interval = self._coins[asked["coin"]], asked["interval"]
        if interval not in INTERVALS:
            raise ValueError(interval)
        since, until = int(asked["startTime"]) * MS, self._market.now
        if asked.get("endTime") is not None:
            until = min(until, int(asked["endTime"]) * MS)
        found = coin.pit.bars(interval, since, until, 1_000_000)
        told = [coin.candle(interval, one) for one in found if one.trades]
        return f"[{','.join(told[-_KEPT:])}]"


def _body(call: HttpRequest) -> dict[str, Any]:
    try:
        body = json.loads(call.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
