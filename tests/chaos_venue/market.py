"""A market of made-up trades. All of them are kept: they are the truth that a stream is compared with."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Literal

#: How a venue names its trades: numbers without gaps, random names, or hashes.
Ids = Literal["numbers", "names", "hashes"]
#: How long it takes from a trade to the frame with it, in ms.
_LAG_MS = 5, 150
_TICK, _LOT = Decimal("0.1"), Decimal("0.001")


@dataclass(frozen=True, slots=True)
class TrueTrade:
    """A trade as it was made. `name` is its id as text, `number` its place among those of the symbol."""

    symbol: str
    number: int
    name: str
    ts_ms: int
    price: Decimal
    size: Decimal
    is_buy: bool
    sequence: int  #: counts the trades of the whole market
    phase: str  #: what went wrong while it was made
    clock: int = 0  #: how often the venue's clock had been set before


@dataclass
class Symbol:
    """A symbol: the venue's name, ours, its mean rate in trades per second, and its trades."""

    native: str
    unified: str
    rate: float
    price: Decimal
    first_number: int
    trades: list[TrueTrade] = field(default_factory=list)
    #: The place in `trades` of the first trade that was sent to a subscriber; None before that.
    required_from: int | None = None


class Market:
    """The symbols of a venue. `make` makes the trades since the last call.

    *now_ms* is the venue's clock without `offset_ms`, by which a fault moves it.
    """

    def __init__(
        self, symbols: Sequence[Symbol], ids: Ids, seed: int, now_ms: Callable[[], int]
    ) -> None:
        self.symbols = {symbol.native: symbol for symbol in symbols}
        self.ids = ids
        self.offset_ms = 0
        self._clock = 0  # how often the clock was set
        self.phase = "start"
        self.is_open = True
        self._now_ms = now_ms
        self._random = Random(seed)
        self._made_until = now_ms()
        self._last_ms = dict.fromkeys(self.symbols, 0)
        self._sequence = 10_000_000

    def now_ms(self) -> int:
        """Return the venue's time in ms."""
        return self._now_ms() + self.offset_ms

    def move_clock(self, offset_ms: int) -> None:
        """Move the venue's clock; the times of the next trades follow it, also back."""
        self._clock += offset_ms != self.offset_ms
        self.offset_ms = offset_ms
        self._last_ms = dict.fromkeys(self.symbols, 0)

    def make(self) -> dict[str, list[TrueTrade]]:
        """Return the new trades by the venue's name of their symbol."""
        now = self._now_ms()
        seconds, self._made_until = (now - self._made_until) / 1000, now
        new: dict[str, list[TrueTrade]] = {}
        if not self.is_open:
            return new
        for native, symbol in self.symbols.items():
            if self._random.random() >= 1 - 2.718281828 ** (-symbol.rate * seconds):
                continue
            # One order in four is filled by several others, at the same time.
            count = 1 if self._random.random() < 0.75 else self._random.randint(2, 4)
            made_at = self.now_ms() - self._random.randint(*_LAG_MS)
            ts = self._last_ms[native] = max(made_at, self._last_ms[native])
            is_buy = self._random.random() < 0.5
            new[native] = [self._trade(symbol, ts, is_buy) for _ in range(count)]
        return new

    def _trade(self, symbol: Symbol, ts_ms: int, is_buy: bool) -> TrueTrade:
        random = self._random
        symbol.price = max(symbol.price + random.randint(-2, 2) * _TICK, _TICK)
        number = symbol.first_number + len(symbol.trades)
        name = {
            "numbers": lambda: str(number),
            "names": lambda: str(uuid.UUID(int=random.getrandbits(128), version=4)),
            "hashes": lambda: str(random.getrandbits(50)),
        }[self.ids]()
        self._sequence += random.randint(0, 3)
        trade = TrueTrade(
            symbol.native, number, name, ts_ms, symbol.price, random.randint(1, 5000) * _LOT,
            is_buy, self._sequence, self.phase, self._clock,
        )  # fmt: skip
        symbol.trades.append(trade)
        return trade
