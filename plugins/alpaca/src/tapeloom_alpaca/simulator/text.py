"""Writers of numbers, times and items of a simulated market in Alpaca's format."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from attrs import frozen
from tapeloom.events import utc
from tapeloom_simulator.texts import CachedTexts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tapeloom_simulator.server_api import (
        Market,
        MarketBar,
        MarketTrade,
        SimulatedInstrument,
        TopOfBook,
    )

__all__ = ["DecimalTexts", "SymbolWriter", "format_time"]

#: Offset of the ids of crypto trades, which the venue has beyond 2^53.
_CRYPTO_ID_OFFSET = 8_160_000_000_000_000_000
#: Codes of the exchanges that trade stocks.
_EXCHANGES = "VQDK"
#: The coins that the venue trades.
_COINS = frozenset(
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


class DecimalTexts(CachedTexts):
    """A cache of multiples of a step as JSON numbers without trailing zeros."""

    def __init__(self, step: Decimal) -> None:
        super().__init__()
        self._step = step

    def write(self, number: int) -> str:
        """Return the text of *number* steps without caching it."""
        return decimal_text(number * self._step)


def decimal_text(value: Decimal) -> str:
    """Return a number without trailing zeros."""
    return format(value.normalize(), "f") if value else "0"


class _SecondTexts(CachedTexts):
    """A cache of times in whole seconds as text."""

    max_texts = 4096

    def write(self, number: int) -> str:
        """Return the text of a time in seconds since 1970 without caching it."""
        return f"{utc(number * 1_000_000_000):%Y-%m-%dT%H:%M:%S}"


_seconds = _SecondTexts()


def format_time(ts: int) -> str:
    """Return a time with as many digits of the second as it needs."""
    second, part = divmod(ts, 1_000_000_000)
    return f"{_seconds[second]}.{part:09d}".rstrip("0").rstrip(".") + "Z"


@frozen(eq=False)
class SymbolWriter:
    """Writes the items of one symbol in the venue's format, without `T` and `S`."""

    instrument: SimulatedInstrument
    market: Market
    native: str
    crypto: bool
    price: DecimalTexts
    size: DecimalTexts

    @classmethod
    def of(cls, instrument: SimulatedInstrument, market: Market) -> SymbolWriter:
        """Return the writer of *instrument*; a coin of the venue, or a quote other than USD, is crypto."""
        parts = instrument.parsed_symbol
        crypto = parts.base in _COINS or parts.quote != "USD"
        native = instrument.symbol if crypto else parts.base
        return cls(
            instrument,
            market,
            native,
            crypto,
            DecimalTexts(instrument.tick),
            DecimalTexts(instrument.lot),
        )

    def tagged(self, tag: str, item: str) -> str:
        """Return an item with the `T` and `S` of a stream."""
        return f'{{"T":"{tag}","S":"{self.native}",{item[1:]}'

    def trade_id(self, fill: MarketTrade) -> int:
        """Return the venue's id of a trade."""
        return _CRYPTO_ID_OFFSET + fill.id if self.crypto else fill.id

    def trade(self, fill: MarketTrade) -> str:
        """Return a trade."""
        head = f'{{"t":"{format_time(fill.ts)}","p":{self.price[fill.price]},"s":{self.size[fill.size]},'
        if self.crypto:
            return f'{head}"i":{self.trade_id(fill)},"tks":"{"B" if fill.is_buy else "S"}"}}'
        return f'{head}"x":"{self.exchange(fill)}","c":["@"],"i":{fill.id},"z":"C"}}'

    def exchange(self, fill: MarketTrade) -> str:
        """Return the code of the exchange of a trade."""
        return _EXCHANGES[fill.id % len(_EXCHANGES)]

    def quote(self, now: int, best: TopOfBook) -> str:
        """Return the best bid and ask."""
        bid, bid_size, ask, ask_size = best
        price, size = self.price, self.size
        text = (
            f'{{"t":"{format_time(now)}","bp":{price[bid]},"bs":{size[bid_size]},'
            f'"ap":{price[ask]},"as":{size[ask_size]}'
        )
        return f"{text}}}" if self.crypto else f'{text},"bx":"V","ax":"Q","c":["R"],"z":"C"}}'

    def bar(self, bar: MarketBar) -> str:
        """Return a bar."""
        price = self.price
        mean = (
            Decimal(bar.quote_volume) / bar.volume * self.instrument.tick
            if bar.volume
            else Decimal(0)
        )
        return (
            f'{{"t":"{format_time(bar.start)}","o":{price[bar.open]},"h":{price[bar.high]},'
            f'"l":{price[bar.low]},"c":{price[bar.close]},"v":{self.size.write(bar.volume)},'
            f'"n":{bar.trades},"vw":{decimal_text(round(mean, 6))}}}'
        )

    def levels(self, levels: Iterable[tuple[int, int]]) -> str:
        """Return levels of a book, joined by commas."""
        price, size = self.price, self.size
        return ",".join([f'{{"p":{price[p]},"s":{size[s]}}}' for p, s in levels])

    def book(self, now: int, lag: int = 0) -> str:
        """Return a book snapshot."""
        _, bids, asks = self.instrument.book_snapshot(1_000_000, lag)
        return f'{{"t":"{format_time(now)}","b":[{self.levels(bids)}],"a":[{self.levels(asks)}]}}'
