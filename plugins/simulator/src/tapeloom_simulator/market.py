"""A seeded market with its own clock: the only source of all data that streams and REST return.

The same seed and arguments give exactly the same market, however its time is divided into steps:
``advance(a); advance(b)`` returns together what ``advance(b)`` returns.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from .instrument import Instrument
from .listings import Listed, listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .server_api import MarketStep

__all__ = ["EPOCH", "SimulatedMarket"]

#: 2026-01-01 00:00 UTC, the default start of a market.
EPOCH = 1_767_225_600_000_000_000
_FILLS_PER_ORDER = 2.0  # the measured mean, needed because `rate` is in trades
# Waiting times between orders, exponential, in millionths of their mean.
_WAITS = [round(-math.log((i + 0.5) / 1024) * 1_000_000) for i in range(1024)]


class SimulatedMarket:
    """One market of many symbols. `rate` is the mean number of trades a second, of all symbols together.

    With `trades`, trading stops after that many, but time goes on.
    Earlier symbols trade more often than later ones.
    """

    def __init__(
        self,
        symbols: Sequence[str | Listed],
        *,
        seed: int = 0,
        rate: float = 100.0,
        trades: int | None = None,
        epoch: int = EPOCH,
        depth: int = 200,
    ) -> None:
        found = [item if isinstance(item, Listed) else listed(item) for item in symbols]
        if not found or not rate > 0 or depth < 50:
            raise ValueError(
                "a market needs a symbol, a rate above 0 and a depth of 50 levels or more,"
                f" and was given {len(found)} symbols, rate {rate} and depth {depth}"
            )
        self.epoch = self.now = epoch
        self.clock_skew_ns = 0  #: what a fault adds to the venue's clock, in ns
        self.trades_left = trades  #: how many trades are still to come; None: no end
        self.instruments = {
            item.symbol: Instrument(item, depth, memory=int(rate * 8 / len(found)))
            for item in found
        }
        self._mean = int(1_000_000_000 * _FILLS_PER_ORDER / rate)
        self._chosen = _shares(list(self.instruments.values()))
        self._bits = random.Random(seed).getrandbits
        self._next, self._dice = epoch, 0
        self._draw()

    @property
    def venue_clock(self) -> int:
        """The time on the venue's clock, in ns."""
        return self.now + self.clock_skew_ns

    @property
    def next_order_at(self) -> int | None:
        """When the next order arrives; None if there is none."""
        return None if self.trades_left == 0 else self._next

    def _draw(self) -> None:
        self._dice = dice = self._bits(80)
        self._next += max(1, _WAITS[dice & 1023] * self._mean // 1_000_000)

    def advance(self, until: int, most: int = 1_000_000) -> list[MarketStep]:
        """Advance to *until*, or by *most* orders, and return the steps in order."""
        steps: list[MarketStep] = []
        add, bits, chosen, waits, mean = steps.append, self._bits, self._chosen, _WAITS, self._mean
        at, dice, left = self._next, self._dice, self.trades_left
        while at <= until and left != 0:
            if len(steps) == most:
                until = self.now = steps[-1].ts
                break
            instrument = chosen[dice >> 10 & 1023]
            step = instrument.step(at, dice >> 20, 1_000_000 if left is None else left)
            if left is not None:
                left -= len(step.trades)
            add(step)
            dice = bits(80)
            at += max(1, waits[dice & 1023] * mean // 1_000_000)
        self._next, self._dice, self.trades_left = at, dice, left
        self.now = max(self.now, until)
        return steps


def _shares(instruments: list[Instrument]) -> list[Instrument]:
    """Return a table of 1024 entries in which the first instruments occur more often than the last."""
    weights = [1 / (2 + place) for place in range(len(instruments))]
    total = sum(weights)
    table: list[Instrument] = []
    reached = 0.0
    for instrument, weight in zip(instruments, weights, strict=True):
        reached += weight
        table += [instrument] * (max(len(table) + 1, round(1024 * reached / total)) - len(table))
    return table[:1024]
