"""Formats the numbers, symbols and levels of a simulated market as Binance does."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from attrs import frozen
from tapeloom_simulator.texts import CachedTexts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom_simulator.server_api import Market, MarketBar, SimulatedInstrument

__all__ = ["DecimalTexts", "SymbolFormat", "price_change", "top_of_book"]

_SPOT_DECIMALS = 8  #: the spot market writes every number with eight decimals


class DecimalTexts(CachedTexts):
    """Caches the decimal text of integer multiples of *step*, with at least *decimals* decimals."""

    def __init__(self, step: Decimal, decimals: int = 0) -> None:
        super().__init__()
        exponent = step.normalize().as_tuple().exponent
        assert isinstance(exponent, int)
        self.decimals = max(0, -exponent)
        self._factor, self._unit = 10 ** max(0, exponent), 10**self.decimals
        self._written_decimals = max(self.decimals, decimals)
        self._padding = "0" * (self._written_decimals - self.decimals)

    def write(self, number: int) -> str:
        """Return the text without caching it."""
        if number < 0:
            return f"-{self.write(-number)}"
        if not self._written_decimals:
            return str(number * self._factor)
        whole, part = divmod(number * self._factor, self._unit)
        decimals = f"{part:0{self.decimals}d}" if self.decimals else ""
        return f"{whole}.{decimals}{self._padding}"


@frozen(eq=False)
class SymbolFormat:
    """Formats one symbol and its numbers as one market of the venue does."""

    instrument: SimulatedInstrument
    market: Market
    market_name: str  #: "spot", "usdm" or "coinm"
    native: str
    price: DecimalTexts
    size: DecimalTexts
    quote: DecimalTexts  #: of prices times sizes

    @classmethod
    def of(cls, instrument: SimulatedInstrument, market: Market) -> SymbolFormat:
        """Return the format of *instrument*."""
        parts = instrument.parsed_symbol
        inverse = parts.settle == parts.base
        name = "spot" if not parts.settle else "coinm" if inverse else "usdm"
        decimals = _SPOT_DECIMALS if name == "spot" else 0
        suffix = f"_{parts.expiry}" if parts.expiry else "_PERP" if inverse else ""
        tick, lot = instrument.tick, instrument.lot
        return cls(
            instrument, market, name, parts.base + parts.quote + suffix,
            DecimalTexts(tick, decimals), DecimalTexts(lot, decimals),
            DecimalTexts(tick * lot, decimals),
        )  # fmt: skip

    @property
    def is_spot(self) -> bool:
        """Whether the symbol belongs to the spot market."""
        return self.market_name == "spot"

    @property
    def pair(self) -> str:
        """The native name without the suffix of a contract."""
        return self.instrument.parsed_symbol.base + self.instrument.parsed_symbol.quote

    @property
    def contract_size(self) -> int:
        """The value of one COIN-M contract in quote currency; 0 for other markets."""
        if self.market_name != "coinm":
            return 0
        return 100 if self.instrument.parsed_symbol.base == "BTC" else 10

    @property
    def futures_type(self) -> str:
        """The JSON member `st` that ends most messages of futures: 1 is USD-M, 2 is COIN-M."""
        return f'"st":{2 if self.contract_size else 1}'

    def turnover(self, size: int, quote: int) -> str:
        """Return the turnover of trades of *size* in total; *quote* is the sum of price times size.

        On COIN-M it is an amount of the base currency. The market does not have that sum, so it is
        computed from the mean price of the trades.
        """
        if not self.contract_size or not size:
            return self.quote.write(quote)
        instrument = self.instrument
        base = self.contract_size * size * size * instrument.lot / (quote * instrument.tick)
        return f"{base:.8f}"

    def levels(self, levels: Sequence[tuple[int, int]]) -> str:
        """Return levels as JSON."""
        price, size = self.price, self.size
        return ",".join([f'["{price[p]}","{size[s]}"]' for p, s in levels])

    @property
    def clock_error_ns(self) -> int:
        """The error of the venue's clock, in ns."""
        return self.market.venue_clock - self.market.now


def price_change(day: MarketBar, fmt: SymbolFormat) -> tuple[str, str, str]:
    """Return the change of the price, the change in per cent, and the mean price."""
    percent = Decimal((day.close - day.open) * 100) / day.open
    mean = (
        Decimal(day.quote_volume) / day.volume * fmt.instrument.tick if day.volume else Decimal(0)
    )
    return fmt.price.write(day.close - day.open), f"{percent:.3f}", f"{mean:.8f}"


def top_of_book(fmt: SymbolFormat) -> str:
    """Return the best bid and ask as JSON members."""
    best = fmt.instrument.top_of_book()
    return (
        f'"b":"{fmt.price[best.bid]}","B":"{fmt.size[best.bid_size]}",'
        f'"a":"{fmt.price[best.ask]}","A":"{fmt.size[best.ask_size]}"'
    )
