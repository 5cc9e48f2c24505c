"""Hyperliquid's streams, told by a simulated market.

JSON is written by hand, and the texts of prices and sizes are kept: a market speaks of the same few
hundred again and again.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from attrs import frozen
from tapeloom.units import duration_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tapeloom_simulator.server_api import (
        BookSnapshot,
        Market,
        MarketBar,
        MarketStep,
        MarketTrade,
        SimulatedInstrument,
    )

__all__ = ["INTERVALS", "MS", "REPEATED", "Bests", "Books", "Candles", "Coin", "Contexts", "Mids", "Spoken", "Trades", "mids", "of_exchange"]  # fmt: skip

MS = 1_000_000
_SECOND = 1_000 * MS
#: The intervals whose candles are served.
INTERVALS = (
    *("1m", "3m", "5m", "15m", "30m"),
    *("1h", "2h", "4h", "8h", "12h"),
    *("1d", "3d", "1w", "1M"),
)
#: How many trades from before a subscription are sent; some tens have been seen.
REPEATED = 30
_MASK = (1 << 50) - 1
_ODD = 0x2545F4914F6CD  # multiplying by it mixes the bits of 50, and no two numbers become one


class Texts(dict[int, str]):
    """Whole numbers of a step as decimal text, with one decimal at the least; each made once."""

    def __init__(self, step: Decimal) -> None:
        super().__init__()
        self._step = step

    def write(self, number: int) -> str:
        """Return the text without keeping it."""
        text = format(number * self._step, "f")
        return text if "." in text else f"{text}.0"

    def __missing__(self, number: int) -> str:
        if len(self) > 20_000:
            self.clear()
        text = self[number] = self.write(number)
        return text


@frozen(eq=False)
class Coin:
    """How one symbol and its numbers are written."""

    pit: SimulatedInstrument
    market: Market
    name: str
    spot: bool
    price: Texts
    size: Texts
    value: Texts  #: of prices times sizes

    @classmethod
    def of(cls, pit: SimulatedInstrument, market: Market, name: str) -> Coin:
        """Return how *pit* is written under the venue's *name*."""
        spot = pit.parsed_symbol.kind == "spot"
        sizes = Texts(pit.tick), Texts(pit.lot), Texts(pit.tick * pit.lot)
        return cls(pit, market, name, spot, *sizes)

    @property
    def decimals(self) -> int:
        """The decimals of a size."""
        exponent = self.pit.lot.normalize().as_tuple().exponent
        assert isinstance(exponent, int)
        return max(0, -exponent)

    def clock(self, now: int) -> int:
        """Return what the venue's clock shows at *now*, in ms."""
        return (now + self.market.venue_clock - self.market.now) // MS

    def trades(self, fills: Iterable[MarketTrade]) -> str:
        """Return trades as a list."""
        name, price, size = self.name, self.price, self.size
        rows = [
            f'{{"coin":"{name}","side":"{"B" if f.is_buy else "A"}","px":"{price[f.price]}",'
            f'"sz":"{size[f.size]}","time":{f.ts // MS},"hash":"0x{f.aggregate_id:064x}",'
            f'"tid":{f.id * _ODD & _MASK},"users":["0x{f.id * 2:040x}","0x{f.id * 2 + 1:040x}"]}}'
            for f in fills
        ]
        return f"[{','.join(rows)}]"

    def past(self, limit: int) -> list[MarketTrade]:
        """Return the last trades, the oldest first."""
        last = self.pit.last_trade
        return self.pit.trades(max(1, last.id - limit + 1), limit) if last else []

    def level(self, price: int, size: int) -> str:
        """Return one level."""
        return f'{{"px":"{self.price[price]}","sz":"{self.size[size]}","n":{1 + size % 7}}}'

    def book(self, ladder: BookSnapshot, now: int, more: str = "") -> str:
        """Return a book."""
        bids = ",".join([self.level(*one) for one in ladder.bids])
        asks = ",".join([self.level(*one) for one in ladder.asks])
        head = f'{{"coin":"{self.name}","time":{self.clock(now)},"levels":'
        return f"{head}[[{bids}],[{asks}]]{more}}}"

    def candle(self, interval: str, candle: MarketBar) -> str:
        """Return a candle."""
        c, price = candle, self.price
        return (
            f'{{"t":{c.start // MS},"T":{c.end // MS - 1},"s":"{self.name}","i":"{interval}",'
            f'"o":"{price[c.open]}","c":"{price[c.close]}","h":"{price[c.high]}",'
            f'"l":"{price[c.low]}","v":"{self.size.write(c.volume)}","n":{c.trades}}}'
        )

    def middle(self) -> str:
        """Return the price in the middle of the best ones."""
        best = self.pit.top_of_book()
        return format((best.bid + best.ask) * self.pit.tick / 2, "f")

    def context(self) -> str:
        """Return the figures of 24 hours."""
        pit, price = self.pit, self.price
        best, last, day = pit.top_of_book(), pit.last_trade, pit.last_24h(self.market.now)
        mark = price[last.price if last else best.bid]
        before = price[day.open] if day else mark
        value, volume = (day.quote_volume, day.volume) if day else (0, 0)
        sums = f'"prevDayPx":"{before}","dayNtlVlm":"{self.value.write(value)}"'
        prices = f'"markPx":"{mark}","midPx":"{self.middle()}"'
        if self.spot:
            return f'{{{sums},{prices},"circulatingSupply":"1000000.0","coin":"{self.name}"}}'
        return (
            f'{{"funding":"0.0000125","openInterest":"1000.0",{sums},"premium":"0.0",'
            f'"oraclePx":"{mark}",{prices},"impactPxs":["{price[best.bid]}","{price[best.ask]}"],'
            f'"dayBaseVlm":"{self.size.write(volume)}"}}'
        )


class Spoken:
    """A stream of one coin. `said` counts how often it has spoken."""

    interval_ns = 0

    def __init__(self, name: str, coin: Coin, channel: str) -> None:
        self.name, self.channel = name, channel
        self.symbol = coin.pit.symbol
        self.said = 0
        self._ = coin
        self._pit = coin.pit

    def start(self) -> None:
        """Start, or start anew."""

    def first(self) -> str:
        """Return what whoever subscribes is sent at once; nothing where that is nothing."""
        return ""

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Return what is said of this step."""
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return what is said at this time."""
        return ()

    def _says(self, kind: str, what: str) -> tuple[str]:
        self.said += 1
        return (f'{{"channel":"{kind}","data":{what}}}',)


class Trades(Spoken):
    """Trades, a block at a time; whoever subscribes is sent the last ones once more."""

    def first(self) -> str:
        """Return the last trades."""
        return self._says("trades", self._.trades(self._.past(REPEATED)))[0]

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Return the trades of a block."""
        return self._says("trades", self._.trades(step.trades)) if step.trades else ()


class Books(Spoken):
    """The best levels, again and again: 20 of them slowly, or 5 fast."""

    def __init__(self, name: str, coin: Coin, *, fast: bool) -> None:
        super().__init__(name, coin, "book:5" if fast else "book:20")
        self.interval_ns = _SECOND // 2 if fast else 5 * _SECOND
        self._depth, self._more = (5, ',"fast":true') if fast else (20, "")
        self._told = 0

    def start(self) -> None:
        """Forget what was told."""
        self._told = 0

    def first(self) -> str:
        """Return the book."""
        return self._book(self._.market.now)[0]

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the book, if it has changed."""
        if self._pit.last_update_id == self._told:
            return ()
        self._told = self._pit.last_update_id
        return self._book(now)

    def _book(self, now: int) -> tuple[str]:
        ladder = self._pit.book_snapshot(self._depth)
        return self._says("l2Book", self._.book(ladder, now, self._more))


class Bests(Spoken):
    """The best bid and ask, when they change."""

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Return the best bid and ask."""
        best, _ = step.top_of_book, self._
        if best is None:
            return ()
        bid, ask = _.level(best.bid, best.bid_size), _.level(best.ask, best.ask_size)
        head = f'{{"coin":"{_.name}","time":{_.clock(step.ts)},"bbo":'
        return self._says("bbo", f"{head}[{bid},{ask}]}}")


class Candles(Spoken):
    """Candles of one interval, without a word on whether they are over."""

    interval_ns = _SECOND // 2

    def __init__(self, name: str, coin: Coin, interval: str) -> None:
        super().__init__(name, coin, f"klines:{interval}")
        assert interval in INTERVALS
        self._interval = interval
        self._since = self._trades = 0  # of the candle told last: its start, and its trades then

    def start(self) -> None:
        """Begin with the candle of now."""
        now = self._.market.now
        candle = self._pit.bar(self._interval, now)
        length = duration_ns("31d" if self._interval == "1M" else self._interval)
        self._since = candle.start if candle else now - length + 1
        self._trades = 0

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the candles that have changed; an interval without a trade has none."""
        candle = self._pit.bar(self._interval, now)
        if candle is None:
            return ()
        changed = []
        if candle.start > self._since:
            ended = self._pit.bars(self._interval, self._since, candle.start - 1, 1000)
            changed = [one for one in ended if one.trades > self._seen(one)]
            self._since, self._trades = candle.start, 0
        if candle.trades > self._trades:
            changed.append(candle)
            self._trades = candle.trades
        return [
            text
            for one in changed
            for text in self._says("candle", self._.candle(self._interval, one))
        ]

    def _seen(self, candle: MarketBar) -> int:
        return self._trades if candle.start == self._since else 0


class Contexts(Spoken):
    """The figures of 24 hours, once a second if there was a trade."""

    interval_ns = _SECOND

    def __init__(self, name: str, coin: Coin) -> None:
        super().__init__(name, coin, "ticker")
        self._told = 0

    def start(self) -> None:
        """Forget what was told."""
        self._told = 0

    def first(self) -> str:
        """Return the figures."""
        return self._context()[0]

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the figures, if there was a trade."""
        last = self._pit.last_trade
        if last is None or last.id == self._told:
            return ()
        self._told = last.id
        return self._context()

    def _context(self) -> tuple[str]:
        _ = self._
        kind = "activeSpotAssetCtx" if _.spot else "activeAssetCtx"
        return self._says(kind, f'{{"coin":"{_.name}","ctx":{_.context()}}}')


class Mids(Spoken):
    """The middle prices of all coins of one exchange."""

    interval_ns = _SECOND

    def __init__(self, name: str, coins: Sequence[Coin], dex: str) -> None:
        super().__init__(name, coins[0], "x-mids")
        self.symbol = ""
        self._coins, self._dex = coins, f'"dex":"{dex}",' if dex else ""

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the prices."""
        return self._says("allMids", f'{{{self._dex}"mids":{mids(self._coins)}}}')


def of_exchange(coins: Iterable[Coin], dex: str) -> list[Coin]:
    """Return what a builder's exchange has; or the venue itself, which has spot as well."""
    return [coin for coin in coins if coin.name.partition(":")[0] == (dex or coin.name)]


def mids(coins: Iterable[Coin]) -> str:
    """Return the middle price of each of these."""
    return "{" + ",".join(f'"{coin.name}":"{coin.middle()}"' for coin in coins) + "}"
