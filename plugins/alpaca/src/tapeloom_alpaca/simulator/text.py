"""How Alpaca writes numbers, times and items of a simulated market."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from attrs import frozen
from tapeloom.events import utc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tapeloom_simulator.server_api import (
        Market,
        MarketBar,
        MarketTrade,
        SimulatedInstrument,
        TopOfBook,
    )

__all__ = ["Numbers", "Spelling", "stamp"]

#: Crypto trades have ids beyond 2^53.
_FAR = 8_160_000_000_000_000_000
_EXCHANGES = "VQDK"
_CRYPTO = frozenset(
    [
        "AAVE",
        "ADA",
        "AVAX",
        "BAT",
        "BCH",
        "BNB",
        "BTC",
        "CRV",
        "DOGE",
        "DOT",
        "ETH",
        "GRT",
        "LINK",
        "LTC",
        "MKR",
        "PEPE",
        "SHIB",
        "SOL",
        "SUSHI",
        "TRUMP",
        "UNI",
        "USDC",
        "USDG",
        "USDT",
        "XRP",
        "XTZ",
        "YFI",
    ]
)


class Numbers(dict[int, str]):
    """Whole numbers of a step as JSON numbers: no quotes, and no zeros at the end."""

    def __init__(self, step: Decimal) -> None:
        super().__init__()
        self._step = step

    def write(self, number: int) -> str:
        """Return the text without keeping it."""
        return trimmed(number * self._step)

    def __missing__(self, number: int) -> str:
        if len(self) > 20_000:
            self.clear()
        text = self[number] = self.write(number)
        return text


def trimmed(value: Decimal) -> str:
    """Return a number without zeros at the end."""
    return format(value.normalize(), "f") if value else "0"


class _Stamps(dict[int, str]):
    def __missing__(self, second: int) -> str:
        if len(self) > 4096:
            self.clear()
        text = self[second] = f"{utc(second * 1_000_000_000):%Y-%m-%dT%H:%M:%S}"
        return text


_stamps = _Stamps()


def stamp(ts: int) -> str:
    """Write a time with as many digits as it needs."""
    second, part = divmod(ts, 1_000_000_000)
    return f"{_stamps[second]}.{part:09d}".rstrip("0").rstrip(".") + "Z"


@frozen(eq=False)
class Spelling:
    """How one symbol and what happens to it are written. Items come without `T` and `S`."""

    pit: SimulatedInstrument
    market: Market
    native: str
    crypto: bool
    price: Numbers
    size: Numbers

    @classmethod
    def of(cls, pit: SimulatedInstrument, market: Market) -> Spelling:
        """Return how *pit* is written: a well-known coin, or what is not quoted in USD, is crypto."""
        parts = pit.parsed_symbol
        crypto = parts.base in _CRYPTO or parts.quote != "USD"
        native = pit.symbol if crypto else parts.base
        return cls(pit, market, native, crypto, Numbers(pit.tick), Numbers(pit.lot))

    def tagged(self, tag: str, item: str) -> str:
        """Return an item as a stream has it."""
        return f'{{"T":"{tag}","S":"{self.native}",{item[1:]}'

    def number(self, fill: MarketTrade) -> int:
        """Return the venue's id of a trade."""
        return _FAR + fill.id if self.crypto else fill.id

    def trade(self, fill: MarketTrade) -> str:
        """Return a trade."""
        head = f'{{"t":"{stamp(fill.ts)}","p":{self.price[fill.price]},"s":{self.size[fill.size]},'
        if self.crypto:
            return f'{head}"i":{self.number(fill)},"tks":"{"B" if fill.is_buy else "S"}"}}'
        return f'{head}"x":"{self.exchange(fill)}","c":["@"],"i":{fill.id},"z":"C"}}'

    def exchange(self, fill: MarketTrade) -> str:
        """Return where a trade took place."""
        return _EXCHANGES[fill.id % len(_EXCHANGES)]

    def quote(self, now: int, best: TopOfBook) -> str:
        """Return the best bid and ask."""
        bid, bid_size, ask, ask_size = best
        price, size = self.price, self.size
        text = (
            f'{{"t":"{stamp(now)}","bp":{price[bid]},"bs":{size[bid_size]},'
            f'"ap":{price[ask]},"as":{size[ask_size]}'
        )
        return f"{text}}}" if self.crypto else f'{text},"bx":"V","ax":"Q","c":["R"],"z":"C"}}'

    def bar(self, one: MarketBar) -> str:
        """Return a bar."""
        price = self.price
        mean = Decimal(one.quote_volume) / one.volume * self.pit.tick if one.volume else Decimal(0)
        return (
            f'{{"t":"{stamp(one.start)}","o":{price[one.open]},"h":{price[one.high]},'
            f'"l":{price[one.low]},"c":{price[one.close]},"v":{self.size.write(one.volume)},'
            f'"n":{one.trades},"vw":{trimmed(round(mean, 6))}}}'
        )

    def levels(self, levels: Iterable[tuple[int, int]]) -> str:
        """Return levels of a book."""
        price, size = self.price, self.size
        return ",".join([f'{{"p":{price[p]},"s":{size[s]}}}' for p, s in levels])

    def book(self, now: int, lag: int = 0) -> str:
        """Return the whole book."""
        _, bids, asks = self.pit.book_snapshot(1_000_000, lag)
        return f'{{"t":"{stamp(now)}","b":[{self.levels(bids)}],"a":[{self.levels(asks)}]}}'
