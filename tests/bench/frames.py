"""Synthetic frames in the exact wire format of a venue, identical for every contestant."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

SYMBOLS = ["BTC", "ETH", "SOL", "BNB", "XRP", "DOGE", "ADA", "AVAX", "LINK", "LTC"]
#: Digits after the point that the venue's tick leaves; the wire has eight, padded with zeros.
DIGITS = [2, 2, 2, 2, 4, 5, 4, 2, 3, 2]
PRICES = [37123.45, 2034.12, 58.23, 243.1, 0.6123, 0.0789, 0.3812, 21.34, 14.56, 70.11]
START_MS = 1_700_000_000_000
#: Levels on each side of a change of the book.
LEVELS = 18


class SyntheticTrade(NamedTuple):
    """Fields of one generated trade, before encoding."""

    symbol: int
    id: int
    ms: int
    price: str
    size: str
    maker: str


def base(symbol: int) -> str:
    """Return the base asset of a symbol."""
    return SYMBOLS[symbol] if symbol < 10 else f"S{symbol}"


def native(symbol: int) -> str:
    """Return a symbol as the venue spells it."""
    return f"{base(symbol)}USDT"


def unified(symbols: int = 10) -> list[str]:
    """Return the symbols of `trades` in unified spelling."""
    return [f"{base(n)}/USDT" for n in range(symbols)]


def synthetic_trades(
    count: int, symbols: int, seed: int = 7, start: int = START_MS, per_second: int = 500
) -> Iterator[SyntheticTrade]:
    """Yield *count* trades, so many per second in event time, over *symbols* symbols."""
    chance = random.Random(seed)
    prices = [PRICES[n % 10] for n in range(symbols)]
    ids = [1_000_000_000 * (n + 1) for n in range(symbols)]
    for i in range(count):
        k = chance.randrange(symbols)
        prices[k] *= 1 + chance.gauss(0, 1e-5)
        ids[k] += 1
        digits = DIGITS[k % 10]
        price = f"{prices[k]:.{digits}f}{'0' * (8 - digits)}"
        size = f"{chance.expovariate(20) + 0.00001:.5f}000"
        yield SyntheticTrade(
            k, ids[k], start + i * 1000 // per_second, price, size,
            "true" if chance.random() < 0.5 else "false",
        )  # fmt: skip


def trade(trade_data: SyntheticTrade) -> bytes:
    """Write a trade as a frame of the stream ``trade``."""
    name = native(trade_data.symbol)
    return (
        f'{{"stream":"{name.lower()}@trade","data":{{"e":"trade","E":{trade_data.ms + 1},"s":"{name}",'
        f'"t":{trade_data.id},"p":"{trade_data.price}","q":"{trade_data.size}","T":{trade_data.ms},"m":{trade_data.maker},"M":true}}}}'
    ).encode()


def agg_trade(trade_data: SyntheticTrade) -> bytes:
    """Write a trade as a frame of the stream ``aggTrade``."""
    name = native(trade_data.symbol)
    return (
        f'{{"stream":"{name.lower()}@aggTrade","data":{{"e":"aggTrade","E":{trade_data.ms + 1},"s":"{name}",'
        f'"a":{trade_data.id},"p":"{trade_data.price}","q":"{trade_data.size}","f":{trade_data.id},"l":{trade_data.id},'
        f'"T":{trade_data.ms},"m":{trade_data.maker},"M":true}}}}'
    ).encode()


def trades(count: int, symbols: int = 10, seed: int = 7, *, holes: bool = False) -> list[bytes]:
    """Return *count* trade frames.

    With *holes*, the ids count over all symbols: of three symbols, two trades of three follow a hole.
    """
    made = synthetic_trades(count, symbols, seed)
    if holes:
        made = (trade_data._replace(id=number) for number, trade_data in enumerate(made, 1))
    return [trade(trade_data) for trade_data in made]


def changes(count: int, seed: int = 7, start: int = START_MS) -> list[bytes]:
    """Return *count* changes of the first symbol's book, of `LEVELS` a side."""
    chance = random.Random(seed)
    middle, last, name = 3_712_345, FIRST_CHANGE - 1, native(0)

    def side(sign: int) -> str:
        levels = []
        for _ in range(LEVELS):
            cents = middle + sign * chance.randint(1, 5000)
            size = chance.expovariate(1) if chance.random() > 0.2 else 0.0
            levels.append(f'["{cents // 100}.{cents % 100:02d}000000","{size:.5f}000"]')
        return ",".join(levels)

    out = []
    for i in range(count):
        first, last = last + 1, last + 2 * LEVELS
        out.append(
            (
                f'{{"stream":"{name.lower()}@depth@100ms","data":{{"e":"depthUpdate",'
                f'"E":{start + i * 100},"s":"{name}","U":{first},"u":{last},'
                f'"b":[{side(-1)}],"a":[{side(1)}]}}}}'
            ).encode()
        )
    return out


FIRST_CHANGE = 499_869_750


def snapshot() -> bytes:
    """Return the book over REST as it stood before the first change."""
    bids = ",".join(f'["{37123 - n}.00000000","1.00000000"]' for n in range(1, 500))
    asks = ",".join(f'["{37123 + n}.00000000","1.00000000"]' for n in range(1, 500))
    return f'{{"lastUpdateId":{FIRST_CHANGE - 1},"bids":[{bids}],"asks":[{asks}]}}'.encode()


def listing(symbols: int) -> bytes:
    """Return the venue's list of these symbols, as far as anyone reads it."""
    import json

    return json.dumps(
        {
            "symbols": [
                {
                    "symbol": native(n), "status": "TRADING", "baseAsset": base(n), "quoteAsset": "USDT",
                    "baseAssetPrecision": 8, "quotePrecision": 8, "isSpotTradingAllowed": True,
                    "permissions": ["SPOT"],
                    "filters": [
                        {"filterType": "PRICE_FILTER", "minPrice": "0.00000001", "maxPrice": "1000000", "tickSize": "0.00000001"},
                        {"filterType": "LOT_SIZE", "minQty": "0.00000001", "maxQty": "9000", "stepSize": "0.00000001"},
                    ],
                }
                for n in range(symbols)
            ]
        }
    ).encode()  # fmt: skip


def framed(payload: bytes) -> bytes:
    """Return a text message in its WebSocket frame, as a server sends it."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload
