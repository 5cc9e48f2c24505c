"""Formats the numbers, symbols and levels of a simulated market as Bybit does."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from attrs import frozen
from tapeloom.errors import SymbolError
from tapeloom_simulator.texts import CachedTexts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from tapeloom.symbols import Symbol
    from tapeloom_simulator.server_api import Market, MarketTrade, SimulatedInstrument

__all__ = ["DecimalTexts", "SymbolFormat"]

_MS = 1_000_000  #: ns
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def _listed_name(parts: Symbol) -> str:
    """Return the native name of a symbol.

    Contracts that settle in USDC are named by their base coin, all others by base and quote:
    ``BTCPERP`` and ``BTCUSDT``. The day of delivery follows after a hyphen: ``BTC-26DEC25``.

    Raises SymbolError if the month of delivery is not one of the twelve.
    """
    in_usdc = parts.settle == "USDC"
    coins = parts.base if in_usdc else parts.base + parts.quote
    if not parts.expiry:
        return f"{coins}PERP" if in_usdc else coins
    year, month, ticker_fields = parts.expiry[:2], parts.expiry[2:4], parts.expiry[4:]
    if not "01" <= month <= "12":
        raise SymbolError(f"Bybit cannot list {str(parts)!r}: there is no month {month}")
    return f"{coins}-{ticker_fields}{_MONTHS[int(month) - 1]}{year}"


class DecimalTexts(CachedTexts):
    """Maps a number of steps (ticks, lots or tick times lot) to its decimal text; caches the texts."""

    def __init__(self, step: Decimal) -> None:
        super().__init__()
        self._step = step

    def write(self, number: int) -> str:
        """Return the text of *number* steps without caching it."""
        return format(number * self._step, "f")


@frozen(eq=False)
class SymbolFormat:
    """Formats one symbol and its numbers as the venue does."""

    instrument: SimulatedInstrument
    market: Market
    native: str
    is_spot: bool
    price: DecimalTexts
    size: DecimalTexts
    quote: DecimalTexts  #: of prices times sizes

    @classmethod
    def of(cls, instrument: SimulatedInstrument, market: Market) -> SymbolFormat:
        """Return the format of *instrument*."""
        is_spot = instrument.parsed_symbol.kind == "spot"
        tick, lot = instrument.tick, instrument.lot
        texts = DecimalTexts(tick), DecimalTexts(lot), DecimalTexts(tick * lot)
        return cls(instrument, market, _listed_name(instrument.parsed_symbol), is_spot, *texts)

    def levels(self, levels: Iterable[tuple[int, int]]) -> str:
        """Return levels as JSON."""
        price, size = self.price, self.size
        return ",".join([f'["{price[p]}","{size[s]}"]' for p, s in levels])

    def trade_id(self, trade: MarketTrade) -> str:
        """Return the id of a trade: digits on spot, a UUID elsewhere."""
        if self.is_spot:
            return f"21{trade.id:017d}"
        return f"{zlib.crc32(self.native.encode()):08x}-0000-5000-8000-{trade.id:012x}"

    def venue_time_ms(self, now: int) -> int:
        """Return the time of the venue's clock at *now*, in ms."""
        return (now + self.market.venue_clock - self.market.now) // _MS

    def ticker_fields(self) -> dict[str, str] | None:
        """Return the ticker's fields; None before the first trade."""
        day, best = self.instrument.last_24h(self.market.now), self.instrument.top_of_book()
        if day is None:
            return None
        price, size = self.price, self.size
        fields = {
            "symbol": self.native,
            "lastPrice": price[day.close],
            "prevPrice24h": price[day.open],
            "highPrice24h": price[day.high],
            "lowPrice24h": price[day.low],
            "volume24h": size.write(day.volume),
            "turnover24h": self.quote.write(day.quote_volume),
            "price24hPcnt": f"{(day.close - day.open) / day.open:.6f}",
        }
        if self.is_spot:
            return fields | {"usdIndexPrice": ""}
        return fields | {
            "markPrice": price[day.close],
            "indexPrice": price[day.close],
            "openInterest": "492373.72",
            "openInterestValue": "32824881841.75",
            "fundingRate": "0.0001",
            "fundingIntervalHour": "8",
            "bid1Price": price[best.bid],
            "bid1Size": size[best.bid_size],
            "ask1Price": price[best.ask],
            "ask1Size": size[best.ask_size],
        }
