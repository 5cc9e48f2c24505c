"""Binance's streams, told by a simulated market.

Everything here writes JSON by hand: a trade is one f-string, and the texts of prices and sizes are
kept, because a market speaks of the same few hundred again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.units import duration_ns

from .text import bests_of, statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom_simulator.server_api import MarketBar, MarketStep, VenueStream

    from .text import Spelling

__all__ = ["INTERVALS", "LENGTHS", "stream_of"]

_MS = 1_000_000
_SECOND = 1_000 * _MS
#: As in protocol; futures have no 1s.
INTERVALS = (
    "1s",
    "1m",
    "3m",
    "5m",
    "15m",
    "30m",
    "1h",
    "2h",
    "4h",
    "6h",
    "8h",
    "12h",
    "1d",
    "3d",
    "1w",
    "1M",
)
LENGTHS = {"1M": "31d"}  #: of intervals that are no duration, at the most
_PARTIAL = ("5", "10", "20")


class _Spoken:
    """A stream of one symbol."""

    interval_ns = 0

    def __init__(self, name: str, spelling: Spelling, per: int, channel: str) -> None:
        self.name, self.channel = name, channel
        self.symbol = spelling.pit.symbol
        self._ = spelling
        self._pit = spelling.pit
        self._per = per  # ns in the unit of times

    def start(self) -> None:
        pass

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        return ()

    def _clock(self, now: int) -> int:
        """Return what the venue's clock shows at *now*, in the unit of times."""
        return (now + self._.skew) // self._per


class _Trades(_Spoken):
    def encode_step(self, step: MarketStep) -> Sequence[str]:
        name, price, size = self._.native, self._.price, self._.size
        ts, event = step.ts // self._per, self._clock(step.ts)
        if self._.spot:
            head, tail = f'{{"e":"trade","E":{event},"s":"{name}","t":', ',"M":true}'
        else:
            head, tail = f'{{"e":"trade","E":{event},"T":{ts},"s":"{name}","t":', "}"
        middle = f',"T":{ts},"m":' if self._.spot else ',"X":"MARKET","m":'
        sides = (f"{middle}true{tail}", f"{middle}false{tail}")
        return [
            f'{head}{fill.id},"p":"{price[fill.price]}","q":"{size[fill.size]}"{sides[fill.is_buy]}'
            for fill in step.trades
        ]


class _Aggregates(_Spoken):
    def encode_step(self, step: MarketStep) -> Sequence[str]:
        name, price, size = self._.native, self._.price, self._.size
        ts, event = step.ts // self._per, self._clock(step.ts)
        texts: list[str] = []
        fills = step.trades
        start = 0
        while start < len(fills):
            first = last = fills[start]
            total = 0
            while start < len(fills) and fills[start].aggregate_id == first.aggregate_id:
                last = fills[start]
                total += last.size
                start += 1
            amount = size[total]
            extra = ',"M":true}' if self._.spot else f",{self._.told}}}"
            less = "" if self._.spot else f'"nq":"{amount}",'
            maker = "false" if first.is_buy else "true"
            texts.append(
                f'{{"e":"aggTrade","E":{event},"s":"{name}","a":{first.aggregate_id},"p":"{price[first.price]}",'
                f'"q":"{amount}",{less}"f":{first.id},"l":{last.id},"T":{ts},"m":{maker}{extra}'
            )
        return texts


class _Quotes(_Spoken):
    def encode_step(self, step: MarketStep) -> Sequence[str]:
        best = step.top_of_book
        if best is None:
            return ()
        _ = self._
        price, size = _.price, _.size
        tail = (
            f'"b":"{price[best.bid]}","B":"{size[best.bid_size]}",'
            f'"a":"{price[best.ask]}","A":"{size[best.ask_size]}"'
        )
        if _.spot:
            return (f'{{"u":{step.last_id},"s":"{_.native}",{tail}}}',)
        ts, event = step.ts // self._per, self._clock(step.ts)
        return (
            f'{{"e":"bookTicker","u":{step.last_id},"E":{event},"T":{ts},"s":"{_.native}","ps":"{_.pair}",{tail},{_.told}}}',
        )


class _Diffs(_Spoken):
    def __init__(self, name: str, spelling: Spelling, per: int, channel: str, every: int) -> None:
        super().__init__(name, spelling, per, channel)
        self.interval_ns = every
        self._told = 0

    def start(self) -> None:
        self._told = self._pit.last_update_id

    def encode_tick(self, now: int) -> Sequence[str]:
        last, told, _ = self._pit.last_update_id, self._told, self._
        if last == told:
            return ()
        bids, asks = self._pit.changes_since(told)
        self._told = last
        b, a = _.levels(sorted(bids.items(), reverse=True)), _.levels(sorted(asks.items()))
        event = self._clock(now)
        if _.spot:
            return (
                f'{{"e":"depthUpdate","E":{event},"s":"{_.native}","U":{told + 1},"u":{last},"b":[{b}],"a":[{a}]}}',
            )
        text = (
            f'{{"e":"depthUpdate","E":{event},"T":{now // self._per},"s":"{_.native}","U":{told + 1},"u":{last},'
            f'"pu":{told},"b":[{b}],"a":[{a}],"ps":"{_.pair}",{_.told}}}'
        )
        return (text,)


class _Tops(_Diffs):
    """A partial book: the best levels, again and again."""

    def __init__(
        self, name: str, spelling: Spelling, per: int, channel: str, every: int, depth: int
    ) -> None:
        super().__init__(name, spelling, per, channel, every)
        self._depth = depth

    def start(self) -> None:
        self._told = 0

    def encode_tick(self, now: int) -> Sequence[str]:
        last, bids, asks = self._pit.book_snapshot(self._depth)
        told, _ = self._told, self._
        if last == told:
            return ()
        self._told = last
        b, a = _.levels(bids), _.levels(asks)
        if _.spot:
            return (f'{{"lastUpdateId":{last},"bids":[{b}],"asks":[{a}]}}',)
        text = (
            f'{{"e":"depthUpdate","E":{self._clock(now)},"T":{now // self._per},"s":"{_.native}","U":{told + 1},'
            f'"u":{last},"pu":{told},"b":[{b}],"a":[{a}],"ps":"{_.pair}",{_.told}}}'
        )
        return (text,)


class _Klines(_Spoken):
    def __init__(self, name: str, spelling: Spelling, per: int, interval: str) -> None:
        super().__init__(name, spelling, per, f"klines:{interval}")
        self.interval_ns = (
            250 * _MS if not spelling.spot else _SECOND if interval == "1s" else 2 * _SECOND
        )
        self._interval = interval
        self._since = 0  # when the candle begins that is still to be closed
        self._trades = 0  # how many trades were told of it

    def start(self) -> None:
        now = self._.market.now
        candle = self._pit.bar(self._interval, now)
        self._since = (
            candle.start
            if candle
            else now - duration_ns(LENGTHS.get(self._interval, self._interval)) + 1
        )
        self._trades = 0

    def encode_tick(self, now: int) -> Sequence[str]:
        candle = self._pit.bar(self._interval, now)
        if candle is None:
            return ()
        texts: list[str] = []
        if candle.start > self._since:
            ended = self._pit.bars(self._interval, self._since, candle.start - 1, 1000)
            texts = [self._write(one, now, closed=True) for one in ended]
            self._since, self._trades = candle.start, 0
        if candle.trades > self._trades:
            texts.append(self._write(candle, now, closed=False))
            self._trades = candle.trades
        return texts

    def _write(self, candle: MarketBar, now: int, *, closed: bool) -> str:
        _, per = self._, self._per
        price, size, turnover = _.price, _.size.write, _.turnover
        c = candle
        return (
            f'{{"e":"kline","E":{self._clock(now)},"s":"{_.native}","k":{{"t":{c.start // per},"T":{c.end // per - 1},'
            f'"s":"{_.native}","i":"{self._interval}","f":{c.first_id},"L":{c.last_id},"o":"{price[c.open]}",'
            f'"c":"{price[c.close]}","h":"{price[c.high]}","l":"{price[c.low]}","v":"{size(c.volume)}",'
            f'"n":{c.trades},"x":{"true" if closed else "false"},"q":"{turnover(c.volume, c.quote_volume)}",'
            f'"V":"{size(c.buy_volume)}","Q":"{turnover(c.buy_volume, c.buy_quote_volume)}","B":"0"}}}}'
        )


class _Statistics(_Spoken):
    """The last 24 hours."""

    def __init__(self, name: str, spelling: Spelling, per: int, *, mini: bool) -> None:
        super().__init__(name, spelling, per, "ticker:mini" if mini else "ticker")
        self.interval_ns = _SECOND if spelling.spot else 2 * _SECOND
        self._mini = mini
        self._told = 0

    def start(self) -> None:
        self._told = 0

    def encode_tick(self, now: int) -> Sequence[str]:
        day, last, _ = self._pit.last_24h(now), self._pit.last_trade, self._
        if day is None or last is None or last.id == self._told:
            return ()
        self._told = last.id
        per, price = self._per, _.price
        kind = "24hrMiniTicker" if self._mini else "24hrTicker"
        head = f'{{"e":"{kind}","E":{self._clock(now)},"s":"{_.native}",'
        body = (
            f'"c":"{price[day.close]}","o":"{price[day.open]}","h":"{price[day.high]}","l":"{price[day.low]}",'
            f'"v":"{_.size.write(day.volume)}","q":"{_.turnover(day.volume, day.quote_volume)}"'
        )
        tail = "" if _.spot else f',"ps":"{_.pair}",{_.told}'
        if self._mini:
            return (f"{head}{body}{tail}}}",)
        change, percent, mean = statistics(day, _)
        bests = f'"x":"{price[day.open]}",{bests_of(self._)},' if _.spot else ""
        text = (
            f'{head}"p":"{change}","P":"{percent}","w":"{mean}",{bests}"Q":"{_.size[last.size]}",{body},'
            f'"O":{day.start // per},"C":{now // per},"F":{day.first_id},"L":{day.last_id},"n":{day.trades}{tail}}}'
        )
        return (text,)


class _All:
    """A stream of every symbol: what the streams of the single symbols say, as one array."""

    symbol = ""

    def __init__(self, name: str, channel: str, parts: Sequence[_Spoken], every: int) -> None:
        self.name, self.channel, self.interval_ns = name, channel, every
        self._parts = parts

    def start(self) -> None:
        for part in self._parts:
            part.start()

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        texts = [text for part in self._parts for text in part.encode_tick(now)]
        return [f"[{','.join(texts)}]"] if texts else []


_STEADY = {
    "trade": (_Trades, "trades"),
    "aggTrade": (_Aggregates, "agg_trades"),
    "bookTicker": (_Quotes, "quotes"),
}


def stream_of(name: str, spellings: dict[str, Spelling], per: int) -> VenueStream | None:
    """Return the stream of this name; None where there is none.

    A stream of all symbols is of all that are given: futures of both kinds come together.
    """
    native, at, kind = name.partition("@")
    if name.startswith("!"):
        return _all(name, spellings, per)
    spelling = spellings.get(native.upper()) if native == native.lower() else None
    if spelling is None or not at:
        return None
    if kind in _STEADY:
        made, channel = _STEADY[kind]
        return made(name, spelling, per, channel)
    if kind in ("ticker", "miniTicker"):
        return _Statistics(name, spelling, per, mini=kind == "miniTicker")
    if kind.startswith("kline_"):
        interval = kind[6:]
        allowed = INTERVALS if spelling.spot else INTERVALS[1:]
        return _Klines(name, spelling, per, interval) if interval in allowed else None
    return _book(name, spelling, per, kind)


def _book(name: str, spelling: Spelling, per: int, kind: str) -> VenueStream | None:
    stream, _, speed = kind.partition("@")
    speeds = (
        {"": 1000, "1000ms": 1000, "100ms": 100}
        if spelling.spot
        else {"": 250, "250ms": 250, "500ms": 500, "100ms": 100}
    )
    if not stream.startswith("depth") or speed not in speeds:
        return None
    every, depth = speeds[speed] * _MS, stream[5:]
    if not depth:
        return _Diffs(name, spelling, per, "book", every)
    if depth in _PARTIAL:
        return _Tops(name, spelling, per, f"book:{depth}", every, int(depth))
    return None


def _all(name: str, spellings: dict[str, Spelling], per: int) -> VenueStream | None:
    mini = name == "!miniTicker@arr"
    spot = any(spelling.spot for spelling in spellings.values())
    if not mini and (name != "!ticker@arr" or spot):  # spot's was retired in March 2026
        return None
    parts = [_Statistics(name, one, per, mini=mini) for one in spellings.values()]
    return _All(name, "ticker", parts, _SECOND if mini else 2 * _SECOND)
