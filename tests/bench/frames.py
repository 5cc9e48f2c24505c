"""Synthetic frames in a venue's exact wire form, the same for everyone who is measured."""

from __future__ import annotations

import random

SYMBOLS = ["BTC", "ETH", "SOL", "BNB", "XRP", "DOGE", "ADA", "AVAX", "LINK", "LTC"]
#: Digits after the point that the venue's tick leaves; the wire has eight, padded with zeros.
DIGITS = [2, 2, 2, 2, 4, 5, 4, 2, 3, 2]
PRICES = [37123.45, 2034.12, 58.23, 243.1, 0.6123, 0.0789, 0.3812, 21.34, 14.56, 70.11]
START_MS = 1_700_000_000_000


def trades(count: int, symbols: int = 10, seed: int = 7) -> list[bytes]:
    """Return *count* trade frames, 500 a second in event time, over so many symbols."""
    chance = random.Random(seed)
    names = [SYMBOLS[n] if n < 10 else f"S{n}" for n in range(symbols)]
    prices = [PRICES[n % 10] for n in range(symbols)]
    ids = [1_000_000_000 * (n + 1) for n in range(symbols)]
    out = []
    for i in range(count):
        k = chance.randrange(symbols)
        prices[k] *= 1 + chance.gauss(0, 1e-5)
        ids[k] += 1
        ms = START_MS + i * 2
        native = f"{names[k]}USDT"
        digits = DIGITS[k % 10]
        price = f"{prices[k]:.{digits}f}{'0' * (8 - digits)}"
        size = f"{chance.expovariate(20) + 0.00001:.5f}000"
        maker = "true" if chance.random() < 0.5 else "false"
        out.append(
            (
                f'{{"stream":"{native.lower()}@trade","data":{{"e":"trade","E":{ms + 1},"s":"{native}",'
                f'"t":{ids[k]},"p":"{price}","q":"{size}","T":{ms},"m":{maker},"M":true}}}}'
            ).encode()
        )
    return out


def unified(symbols: int = 10) -> list[str]:
    """Return the symbols of `trades` in unified spelling."""
    return [f"{SYMBOLS[n] if n < 10 else f'S{n}'}/USDT" for n in range(symbols)]
