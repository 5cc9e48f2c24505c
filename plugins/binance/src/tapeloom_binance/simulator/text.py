"""How Binance writes numbers, symbols and levels of a simulated market."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom_simulator.server_api import Market, MarketBar, SimulatedInstrument

__all__ = ["Spelling", "Texts", "bests_of", "statistics"]

_SPOT_DIGITS = 8  # every number of the spot market is written with eight decimals


class Texts(dict[int, str]):
    """Whole numbers of a step, as decimal text with at least *digits* decimals; each made once."""

    def __init__(self, step: Decimal, digits: int = 0) -> None:
        super().__init__()
        exponent = step.normalize().as_tuple().exponent
        assert isinstance(exponent, int)
        self.decimals = max(0, -exponent)
        self._factor, self._unit = 10 ** max(0, exponent), 10**self.decimals
        self._shown = max(self.decimals, digits)
        self._zeros = "0" * (self._shown - self.decimals)

    def write(self, number: int) -> str:
        """Return the text without keeping it."""
        if number < 0:
            return f"-{self.write(-number)}"
        if not self._shown:
            return str(number * self._factor)
        whole, part = divmod(number * self._factor, self._unit)
        digits = f"{part:0{self.decimals}d}" if self.decimals else ""
        return f"{whole}.{digits}{self._zeros}"

    def __missing__(self, number: int) -> str:
        if len(self) > 20_000:
            self.clear()
        text = self[number] = self.write(number)
        return text


@frozen(eq=False)
class Spelling:
    """How one symbol and its numbers are written in one market."""

    pit: SimulatedInstrument
    market: Market
    name: str  #: of the venue's market
    native: str
    price: Texts
    size: Texts
    quote: Texts  #: of prices times sizes

    @classmethod
    def of(cls, pit: SimulatedInstrument, market: Market) -> Spelling:
        """Return how *pit* is written."""
        parts = pit.parsed_symbol
        inverse = parts.settle == parts.base
        name = "spot" if not parts.settle else "coinm" if inverse else "usdm"
        digits = _SPOT_DIGITS if name == "spot" else 0
        end = f"_{parts.expiry}" if parts.expiry else "_PERP" if inverse else ""
        return cls(
            pit, market, name, parts.base + parts.quote + end,
            Texts(pit.tick, digits), Texts(pit.lot, digits), Texts(pit.tick * pit.lot, digits),
        )  # fmt: skip

    @property
    def spot(self) -> bool:
        """Say whether it is of the spot market."""
        return self.name == "spot"

    @property
    def pair(self) -> str:
        """The name without what a contract adds to it."""
        return self.pit.parsed_symbol.base + self.pit.parsed_symbol.quote

    @property
    def contract(self) -> int:
        """What a contract of COIN-M is worth in quote currency; 0 elsewhere."""
        return 0 if self.name != "coinm" else 100 if self.pit.parsed_symbol.base == "BTC" else 10

    @property
    def told(self) -> str:
        """The last members of most frames of futures: the kind of futures."""
        return f'"st":{2 if self.contract else 1}'

    def turnover(self, size: int, quote: int) -> str:
        """Return what trades of *size* came to, whose sum of price times size is *quote*.

        On COIN-M that is an amount of the base currency. The market has no such sum, so their mean
        price stands for the price of each.
        """
        if not self.contract or not size:
            return self.quote.write(quote)
        return f"{self.contract * size * size * self.pit.lot / (quote * self.pit.tick):.8f}"

    def levels(self, levels: Sequence[tuple[int, int]]) -> str:
        """Return levels as JSON."""
        price, size = self.price, self.size
        return ",".join([f'["{price[p]}","{size[s]}"]' for p, s in levels])

    @property
    def skew(self) -> int:
        """What the venue's clock is wrong by."""
        return self.market.venue_clock - self.market.now


def statistics(day: MarketBar, _: Spelling) -> tuple[str, str, str]:
    """Return the change of the price, in per cent too, and the mean price."""
    percent = Decimal((day.close - day.open) * 100) / day.open
    mean = Decimal(day.quote_volume) / day.volume * _.pit.tick if day.volume else Decimal(0)
    return _.price.write(day.close - day.open), f"{percent:.3f}", f"{mean:.8f}"


def bests_of(_: Spelling) -> str:
    """Return the best bid and ask as JSON members."""
    best = _.pit.top_of_book()
    return (
        f'"b":"{_.price[best.bid]}","B":"{_.size[best.bid_size]}",'
        f'"a":"{_.price[best.ask]}","A":"{_.size[best.ask_size]}"'
    )
