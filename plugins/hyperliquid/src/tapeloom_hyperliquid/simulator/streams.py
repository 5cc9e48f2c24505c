"""Hyperliquid's streams: they write the events of a simulated market as the venue's messages.

JSON is written by hand and the texts of prices and sizes are cached, because a market uses the same
few hundred numbers again and again.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from attrs import frozen
from tapeloom.units import duration_ns
from tapeloom_simulator.texts import CachedTexts

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

__all__ = [
    "INTERVALS",
    "MS",
    "REPLAYED_TRADES",
    "BarStream",
    "BookStream",
    "Coin",
    "CoinStream",
    "MidPriceStream",
    "QuoteStream",
    "TickerStream",
    "TradeStream",
    "coins_of_exchange",
    "mid_prices",
]

#: Nanoseconds in a millisecond, the unit of the venue's times.
MS = 1_000_000
#: Nanoseconds in a second.
_SECOND = 1_000 * MS
#: The intervals whose bars are served.
INTERVALS = (
    *("1m", "3m", "5m", "15m", "30m"),
    *("1h", "2h", "4h", "8h", "12h"),
    *("1d", "3d", "1w", "1M"),
)
#: Number of past trades that a new subscription is sent. Recordings show some tens of them.
REPLAYED_TRADES = 30
#: A trade id has 50 bits.
_ID_MASK = (1 << 50) - 1
#: Odd factor that turns growing numbers into distinct ids of 50 bits that do not grow.
_ID_FACTOR = 0x2545F4914F6CD


class DecimalTexts(CachedTexts):
    """A cache of multiples of a step as decimal text with at least one decimal."""

    def __init__(self, step: Decimal) -> None:
        super().__init__()
        self._step = step

    def write(self, number: int) -> str:
        """Return the text of *number* steps without caching it."""
        text = format(number * self._step, "f")
        return text if "." in text else f"{text}.0"


@frozen(eq=False)
class Coin:
    """Writes one instrument's name, numbers and messages in the venue's format."""

    instrument: SimulatedInstrument
    market: Market
    name: str
    spot: bool
    price: DecimalTexts
    size: DecimalTexts
    value: DecimalTexts  #: of prices times sizes

    @classmethod
    def of(cls, instrument: SimulatedInstrument, market: Market, name: str) -> Coin:
        """Return the writer of *instrument*, which the venue names *name*."""
        spot = instrument.parsed_symbol.kind == "spot"
        tick, lot = instrument.tick, instrument.lot
        texts = DecimalTexts(tick), DecimalTexts(lot), DecimalTexts(tick * lot)
        return cls(instrument, market, name, spot, *texts)

    @property
    def decimals(self) -> int:
        """The number of decimals of a size."""
        exponent = self.instrument.lot.normalize().as_tuple().exponent
        assert isinstance(exponent, int)
        return max(0, -exponent)

    def clock(self, now: int) -> int:
        """Return the venue's clock time at *now*, in ms."""
        return (now + self.market.venue_clock - self.market.now) // MS

    def trades(self, fills: Iterable[MarketTrade]) -> str:
        """Return trades as a JSON array."""
        name, price, size = self.name, self.price, self.size
        rows = [
            f'{{"coin":"{name}","side":"{"B" if f.is_buy else "A"}","px":"{price[f.price]}",'
            f'"sz":"{size[f.size]}","time":{f.ts // MS},"hash":"0x{f.aggregate_id:064x}",'
            f'"tid":{f.id * _ID_FACTOR & _ID_MASK},"users":["0x{f.id * 2:040x}","0x{f.id * 2 + 1:040x}"]}}'
            for f in fills
        ]
        return f"[{','.join(rows)}]"

    def past(self, limit: int) -> list[MarketTrade]:
        """Return the last *limit* trades, oldest first."""
        last = self.instrument.last_trade
        return self.instrument.trades(max(1, last.id - limit + 1), limit) if last else []

    def level(self, price: int, size: int) -> str:
        """Return one level of a book."""
        return f'{{"px":"{self.price[price]}","sz":"{self.size[size]}","n":{1 + size % 7}}}'

    def book(self, ladder: BookSnapshot, now: int, suffix: str = "") -> str:
        """Return a book, whose JSON object ends with *suffix*."""
        bids = ",".join([self.level(price, size) for price, size in ladder.bids])
        asks = ",".join([self.level(price, size) for price, size in ladder.asks])
        head = f'{{"coin":"{self.name}","time":{self.clock(now)},"levels":'
        return f"{head}[[{bids}],[{asks}]]{suffix}}}"

    def bar(self, interval: str, bar: MarketBar) -> str:
        """Return a bar."""
        c, price = bar, self.price
        return (
            f'{{"t":{c.start // MS},"T":{c.end // MS - 1},"s":"{self.name}","i":"{interval}",'
            f'"o":"{price[c.open]}","c":"{price[c.close]}","h":"{price[c.high]}",'
            f'"l":"{price[c.low]}","v":"{self.size.write(c.volume)}","n":{c.trades}}}'
        )

    def mid_price(self) -> str:
        """Return the mean of the best bid and ask."""
        best = self.instrument.top_of_book()
        return format((best.bid + best.ask) * self.instrument.tick / 2, "f")

    def context(self) -> str:
        """Return the statistics of 24 hours."""
        instrument, price = self.instrument, self.price
        best, last, day = (
            instrument.top_of_book(),
            instrument.last_trade,
            instrument.last_24h(self.market.now),
        )
        mark = price[last.price if last else best.bid]
        before = price[day.open] if day else mark
        value, volume = (day.quote_volume, day.volume) if day else (0, 0)
        sums = f'"prevDayPx":"{before}","dayNtlVlm":"{self.value.write(value)}"'
        prices = f'"markPx":"{mark}","midPx":"{self.mid_price()}"'
        if self.spot:
            return f'{{{sums},{prices},"circulatingSupply":"1000000.0","coin":"{self.name}"}}'
        return (
            f'{{"funding":"0.0000125","openInterest":"1000.0",{sums},"premium":"0.0",'
            f'"oraclePx":"{mark}",{prices},"impactPxs":["{price[best.bid]}","{price[best.ask]}"],'
            f'"dayBaseVlm":"{self.size.write(volume)}"}}'
        )


class CoinStream:
    """A stream of one coin. `sent` counts the messages that it has produced."""

    interval_ns = 0

    def __init__(self, name: str, coin: Coin, channel: str) -> None:
        self.name, self.channel = name, channel
        self.symbol = coin.instrument.symbol
        self.sent = 0
        self._coin = coin
        self._instrument = coin.instrument

    def start(self) -> None:
        """Start or restart the stream."""

    def first(self) -> str:
        """Return the message that a new subscription is sent at once; empty if there is none."""
        return ""

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Return the messages that a market step causes."""
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the messages that are due at *now*."""
        return ()

    def _message(self, kind: str, data: str) -> tuple[str]:
        self.sent += 1
        return (f'{{"channel":"{kind}","data":{data}}}',)


class TradeStream(CoinStream):
    """Trades, one message per block; a new subscription is sent the last trades first."""

    def first(self) -> str:
        """Return the last trades."""
        return self._message("trades", self._coin.trades(self._coin.past(REPLAYED_TRADES)))[0]

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Return the trades of a block."""
        return self._message("trades", self._coin.trades(step.trades)) if step.trades else ()


class BookStream(CoinStream):
    """Book snapshots: 20 levels per side every 5 s, or 5 levels every 0.5 s, if changed."""

    def __init__(self, name: str, coin: Coin, *, fast: bool) -> None:
        super().__init__(name, coin, "book:5" if fast else "book:20")
        self.interval_ns = _SECOND // 2 if fast else 5 * _SECOND
        self._depth, self._suffix = (5, ',"fast":true') if fast else (20, "")
        self._last_sent = 0

    def start(self) -> None:
        """Start or restart the stream: nothing was sent yet."""
        self._last_sent = 0

    def first(self) -> str:
        """Return the book."""
        return self._book(self._coin.market.now)[0]

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the book, if it has changed."""
        if self._instrument.last_update_id == self._last_sent:
            return ()
        self._last_sent = self._instrument.last_update_id
        return self._book(now)

    def _book(self, now: int) -> tuple[str]:
        ladder = self._instrument.book_snapshot(self._depth)
        return self._message("l2Book", self._coin.book(ladder, now, self._suffix))


class QuoteStream(CoinStream):
    """The best bid and ask, when they change."""

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Return the best bid and ask."""
        best, coin = step.top_of_book, self._coin
        if best is None:
            return ()
        bid, ask = coin.level(best.bid, best.bid_size), coin.level(best.ask, best.ask_size)
        head = f'{{"coin":"{coin.name}","time":{coin.clock(step.ts)},"bbo":'
        return self._message("bbo", f"{head}[{bid},{ask}]}}")


class BarStream(CoinStream):
    """Bars of one interval, without a mark whether they are closed."""

    interval_ns = _SECOND // 2

    def __init__(self, name: str, coin: Coin, interval: str) -> None:
        super().__init__(name, coin, f"klines:{interval}")
        assert interval in INTERVALS
        self._interval = interval
        #: The start of the bar that was sent last, in ns, and its number of trades then.
        self._since = self._trades = 0

    def start(self) -> None:
        """Start or restart the stream with the current bar."""
        now = self._coin.market.now
        bar = self._instrument.bar(self._interval, now)
        length_ns = duration_ns("31d" if self._interval == "1M" else self._interval)
        self._since = bar.start if bar else now - length_ns + 1
        self._trades = 0

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the bars that have changed; an interval without a trade has no bar."""
        current = self._instrument.bar(self._interval, now)
        if current is None:
            return ()
        changed = []
        if current.start > self._since:
            ended = self._instrument.bars(self._interval, self._since, current.start - 1, 1000)
            changed = [bar for bar in ended if bar.trades > self._sent_trades(bar)]
            self._since, self._trades = current.start, 0
        if current.trades > self._trades:
            changed.append(current)
            self._trades = current.trades
        return [
            text
            for bar in changed
            for text in self._message("candle", self._coin.bar(self._interval, bar))
        ]

    def _sent_trades(self, bar: MarketBar) -> int:
        """Return the number of trades of *bar* when it was last sent."""
        return self._trades if bar.start == self._since else 0


class TickerStream(CoinStream):
    """The statistics of 24 hours, once a second if there was a trade."""

    interval_ns = _SECOND

    def __init__(self, name: str, coin: Coin) -> None:
        super().__init__(name, coin, "ticker")
        self._last_sent = 0

    def start(self) -> None:
        """Start or restart the stream: nothing was sent yet."""
        self._last_sent = 0

    def first(self) -> str:
        """Return the statistics."""
        return self._context()[0]

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the statistics, if there was a trade."""
        last = self._instrument.last_trade
        if last is None or last.id == self._last_sent:
            return ()
        self._last_sent = last.id
        return self._context()

    def _context(self) -> tuple[str]:
        coin = self._coin
        kind = "activeSpotAssetCtx" if coin.spot else "activeAssetCtx"
        return self._message(kind, f'{{"coin":"{coin.name}","ctx":{coin.context()}}}')


class MidPriceStream(CoinStream):
    """The mid prices of all coins of one exchange."""

    interval_ns = _SECOND

    def __init__(self, name: str, coins: Sequence[Coin], dex: str) -> None:
        super().__init__(name, coins[0], "x-mids")
        self.symbol = ""
        self._coins, self._dex = coins, f'"dex":"{dex}",' if dex else ""

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the prices."""
        return self._message("allMids", f'{{{self._dex}"mids":{mid_prices(self._coins)}}}')


def coins_of_exchange(coins: Iterable[Coin], dex: str) -> list[Coin]:
    """Return the coins of a builder's exchange, or of the venue itself, which includes spot."""
    return [coin for coin in coins if coin.name.partition(":")[0] == (dex or coin.name)]


def mid_prices(coins: Iterable[Coin]) -> str:
    """Return the mid prices of *coins* as a JSON object."""
    return "{" + ",".join(f'"{coin.name}":"{coin.mid_price()}"' for coin in coins) + "}"
