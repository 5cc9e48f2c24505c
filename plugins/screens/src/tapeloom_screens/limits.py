"""`Limits`: how much a `Market` keeps."""

from __future__ import annotations

from attrs import frozen


@frozen
class Limits:
    """How much a `Market` keeps: per symbol, and in all.

    What is kept in all is shared by the symbols: few symbols have long series, 10,000 have short ones.
    """

    symbols: int = 10_000  #: The symbol without events for longest is dropped.
    seconds: int = 900  #: candles of a second, per symbol: a quarter of an hour
    minutes: int = 1_440  #: candles of a minute, and bars of each interval, per symbol: a day
    candles: int = 150_000  #: candles of all symbols, about 0.4 kB each
    tape: int = 200  #: trades, per symbol
    lags: int = 1_024  #: measured delays, per symbol
    samples: int = 100_000  #: trades of all tapes; also delays of all symbols
    levels: int = 1_000  #: levels a side of an order book
    gaps: int = 10_000  #: gaps of the ledger
    events: int = 500  #: rejects; also status changes
    #: Events that wait to be read before `Market.add` reads them itself: that takes some milliseconds.
    pending: int = 4_096
    #: Trades a second up to which those of all symbols are kept; beyond it, of those that are looked at.
    rate: int = 2_000

    def share(self, symbols: int) -> Share:
        """Return what each of so many symbols may keep."""
        count = max(symbols, 1)
        candles, samples = self.candles // count // 2, self.samples // count
        return Share(
            seconds=max(min(self.seconds, candles), 16),
            minutes=max(min(self.minutes, candles), 16),
            tape=max(min(self.tape, samples), 10),
            lags=max(min(self.lags, samples), 32),
        )


@frozen
class Share:
    """What one symbol may keep."""

    seconds: int
    minutes: int
    tape: int
    lags: int
