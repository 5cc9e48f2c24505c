"""Binance's streams, made from a simulated market.

The JSON is written with f-strings because that is fast: a trade is one f-string, and the texts of
prices and sizes are cached, because a market uses the same few hundred values all the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.units import duration_ns

from .text import price_change, top_of_book

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom_simulator.server_api import MarketBar, MarketStep, VenueStream

    from .text import SymbolFormat

__all__ = ["INTERVALS", "MAX_LENGTHS", "make_stream"]

_MS = 1_000_000
_SECOND = 1_000 * _MS
#: The intervals of klines. Futures have no 1s.
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
#: The maximal length of intervals that have no fixed length.
MAX_LENGTHS = {"1M": "31d"}
_PARTIAL_DEPTHS = ("5", "10", "20")  #: levels of partial books


class _SymbolStream:
    """A stream of one symbol.

    Subclasses send either on each step, which is one change of the market (`encode_step`), or on each tick
    of a timer, every `interval_ns` (`encode_tick`).
    """

    interval_ns = 0

    def __init__(self, name: str, fmt: SymbolFormat, unit_ns: int, channel: str) -> None:
        self.name, self.channel = name, channel
        self.symbol = fmt.instrument.symbol
        self._fmt = fmt
        self._instrument = fmt.instrument
        self._unit_ns = unit_ns  # ns in one unit of the stream's times

    def start(self) -> None:
        pass

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        return ()

    def _venue_time(self, now: int) -> int:
        """Return the time of the venue's clock at *now*, in the unit of the stream's times."""
        return (now + self._fmt.clock_error_ns) // self._unit_ns


class _RawTrades(_SymbolStream):
    def encode_step(self, step: MarketStep) -> Sequence[str]:
        name, price, size = self._fmt.native, self._fmt.price, self._fmt.size
        ts, event = step.ts // self._unit_ns, self._venue_time(step.ts)
        if self._fmt.is_spot:
            head, tail = f'{{"e":"trade","E":{event},"s":"{name}","t":', ',"M":true}'
        else:
            head, tail = f'{{"e":"trade","E":{event},"T":{ts},"s":"{name}","t":', "}"
        middle = f',"T":{ts},"m":' if self._fmt.is_spot else ',"X":"MARKET","m":'
        sides = (f"{middle}true{tail}", f"{middle}false{tail}")
        return [
            f'{head}{fill.id},"p":"{price[fill.price]}","q":"{size[fill.size]}"{sides[fill.is_buy]}'
            for fill in step.trades
        ]


class _AggregateTrades(_SymbolStream):
    def encode_step(self, step: MarketStep) -> Sequence[str]:
        name, price, size = self._fmt.native, self._fmt.price, self._fmt.size
        ts, event = step.ts // self._unit_ns, self._venue_time(step.ts)
        texts: list[str] = []
        fills = step.trades
        index = 0
        while index < len(fills):
            first = last = fills[index]
            total = 0
            while index < len(fills) and fills[index].aggregate_id == first.aggregate_id:
                last = fills[index]
                total += last.size
                index += 1
            amount = size[total]
            suffix = ',"M":true}' if self._fmt.is_spot else f",{self._fmt.futures_type}}}"
            normal_size_member = "" if self._fmt.is_spot else f'"nq":"{amount}",'
            maker = "false" if first.is_buy else "true"
            texts.append(
                f'{{"e":"aggTrade","E":{event},"s":"{name}","a":{first.aggregate_id},"p":"{price[first.price]}",'
                f'"q":"{amount}",{normal_size_member}"f":{first.id},"l":{last.id},"T":{ts},"m":{maker}{suffix}'
            )
        return texts


class _BookTickers(_SymbolStream):
    def encode_step(self, step: MarketStep) -> Sequence[str]:
        best = step.top_of_book
        if best is None:
            return ()
        fmt = self._fmt
        # Prices and sizes are whole numbers of ticks and lots; these mappings hold their decimal texts.
        price, size = fmt.price, fmt.size
        tail = (
            f'"b":"{price[best.bid]}","B":"{size[best.bid_size]}",'
            f'"a":"{price[best.ask]}","A":"{size[best.ask_size]}"'
        )
        if fmt.is_spot:
            return (f'{{"u":{step.last_id},"s":"{fmt.native}",{tail}}}',)
        ts, event = step.ts // self._unit_ns, self._venue_time(step.ts)
        # `futures_type` is a whole JSON member, like "st":1.
        return (
            f'{{"e":"bookTicker","u":{step.last_id},"E":{event},"T":{ts},"s":"{fmt.native}","ps":"{fmt.pair}",{tail},{fmt.futures_type}}}',
        )


class _DepthUpdates(_SymbolStream):
    def __init__(
        self, name: str, fmt: SymbolFormat, unit_ns: int, channel: str, every: int
    ) -> None:
        super().__init__(name, fmt, unit_ns, channel)
        self.interval_ns = every
        self._last_sent_id = 0

    def start(self) -> None:
        self._last_sent_id = self._instrument.last_update_id

    def encode_tick(self, now: int) -> Sequence[str]:
        last, last_sent_id, fmt = self._instrument.last_update_id, self._last_sent_id, self._fmt
        if last == last_sent_id:
            return ()
        bids, asks = self._instrument.changes_since(last_sent_id)
        self._last_sent_id = last
        b, a = fmt.levels(sorted(bids.items(), reverse=True)), fmt.levels(sorted(asks.items()))
        event = self._venue_time(now)
        if fmt.is_spot:
            return (
                f'{{"e":"depthUpdate","E":{event},"s":"{fmt.native}","U":{last_sent_id + 1},"u":{last},"b":[{b}],"a":[{a}]}}',
            )
        first = min(
            last_sent_id + 2, last
        )  # on futures, ids have holes: only `pu` connects two messages
        text = (
            f'{{"e":"depthUpdate","E":{event},"T":{now // self._unit_ns},"s":"{fmt.native}","U":{first},"u":{last},'
            f'"pu":{last_sent_id},"b":[{b}],"a":[{a}],"ps":"{fmt.pair}",{fmt.futures_type}}}'
        )
        return (text,)


class _PartialBooks(_DepthUpdates):
    """A partial book: the best levels, sent as a whole each time."""

    def __init__(
        self, name: str, fmt: SymbolFormat, unit_ns: int, channel: str, every: int, depth: int
    ) -> None:
        super().__init__(name, fmt, unit_ns, channel, every)
        self._depth = depth

    def start(self) -> None:
        self._last_sent_id = 0

    def encode_tick(self, now: int) -> Sequence[str]:
        last, bids, asks = self._instrument.book_snapshot(self._depth)
        last_sent_id, fmt = self._last_sent_id, self._fmt
        if last == last_sent_id:
            return ()
        self._last_sent_id = last
        b, a = fmt.levels(bids), fmt.levels(asks)
        if fmt.is_spot:
            return (f'{{"lastUpdateId":{last},"bids":[{b}],"asks":[{a}]}}',)
        text = (
            f'{{"e":"depthUpdate","E":{self._venue_time(now)},"T":{now // self._unit_ns},"s":"{fmt.native}","U":{last_sent_id + 1},'
            f'"u":{last},"pu":{last_sent_id},"b":[{b}],"a":[{a}],"ps":"{fmt.pair}",{fmt.futures_type}}}'
        )
        return (text,)


class _Klines(_SymbolStream):
    def __init__(self, name: str, fmt: SymbolFormat, unit_ns: int, interval: str) -> None:
        super().__init__(name, fmt, unit_ns, f"klines:{interval}")
        self.interval_ns = (
            250 * _MS if not fmt.is_spot else _SECOND if interval == "1s" else 2 * _SECOND
        )
        self._interval = interval
        self._bar_start = 0  # start of the bar that was not sent as closed yet
        self._sent_trades = 0  # number of trades in the bar as it was last sent

    def start(self) -> None:
        now = self._fmt.market.now
        candle = self._instrument.bar(self._interval, now)
        self._bar_start = (
            candle.start
            if candle
            else now - duration_ns(MAX_LENGTHS.get(self._interval, self._interval)) + 1
        )
        self._sent_trades = 0

    def encode_tick(self, now: int) -> Sequence[str]:
        candle = self._instrument.bar(self._interval, now)
        if candle is None:
            return ()
        texts: list[str] = []
        if candle.start > self._bar_start:
            closed_candles = self._instrument.bars(
                self._interval, self._bar_start, candle.start - 1, 1000
            )
            texts = [self._write(closed, now, closed=True) for closed in closed_candles]
            self._bar_start, self._sent_trades = candle.start, 0
        if candle.trades > self._sent_trades:
            texts.append(self._write(candle, now, closed=False))
            self._sent_trades = candle.trades
        return texts

    def _write(self, candle: MarketBar, now: int, *, closed: bool) -> str:
        fmt, unit_ns = self._fmt, self._unit_ns
        price, size, turnover = fmt.price, fmt.size.write, fmt.turnover
        c = candle
        return (
            f'{{"e":"kline","E":{self._venue_time(now)},"s":"{fmt.native}","k":{{"t":{c.start // unit_ns},"T":{c.end // unit_ns - 1},'
            f'"s":"{fmt.native}","i":"{self._interval}","f":{c.first_id},"L":{c.last_id},"o":"{price[c.open]}",'
            f'"c":"{price[c.close]}","h":"{price[c.high]}","l":"{price[c.low]}","v":"{size(c.volume)}",'
            f'"n":{c.trades},"x":{"true" if closed else "false"},"q":"{turnover(c.volume, c.quote_volume)}",'
            f'"V":"{size(c.buy_volume)}","Q":"{turnover(c.buy_volume, c.buy_quote_volume)}","B":"0"}}}}'
        )


class _Tickers(_SymbolStream):
    """Statistics of the last 24 hours."""

    def __init__(self, name: str, fmt: SymbolFormat, unit_ns: int, *, mini: bool) -> None:
        super().__init__(name, fmt, unit_ns, "ticker:mini" if mini else "ticker")
        self.interval_ns = _SECOND if fmt.is_spot else 2 * _SECOND
        self._mini = mini
        self._last_sent_id = 0

    def start(self) -> None:
        self._last_sent_id = 0

    def encode_tick(self, now: int) -> Sequence[str]:
        day, last, fmt = self._instrument.last_24h(now), self._instrument.last_trade, self._fmt
        if day is None or last is None or last.id == self._last_sent_id:
            return ()
        self._last_sent_id = last.id
        unit_ns, price = self._unit_ns, fmt.price
        kind = "24hrMiniTicker" if self._mini else "24hrTicker"
        head = f'{{"e":"{kind}","E":{self._venue_time(now)},"s":"{fmt.native}",'
        body = (
            f'"c":"{price[day.close]}","o":"{price[day.open]}","h":"{price[day.high]}","l":"{price[day.low]}",'
            f'"v":"{fmt.size.write(day.volume)}","q":"{fmt.turnover(day.volume, day.quote_volume)}"'
        )
        tail = "" if fmt.is_spot else f',"ps":"{fmt.pair}",{fmt.futures_type}'
        if self._mini:
            return (f"{head}{body}{tail}}}",)
        change, percent, mean = price_change(day, fmt)
        quote = f'"x":"{price[day.open]}",{top_of_book(self._fmt)},' if fmt.is_spot else ""
        text = (
            f'{head}"p":"{change}","P":"{percent}","w":"{mean}",{quote}"Q":"{fmt.size[last.size]}",{body},'
            f'"O":{day.start // unit_ns},"C":{now // unit_ns},"F":{day.first_id},"L":{day.last_id},"n":{day.trades}{tail}}}'
        )
        return (text,)


class _AllSymbols:
    """A stream of all symbols: the messages of the symbols' streams as one JSON array."""

    symbol = ""

    def __init__(
        self, name: str, channel: str, streams: Sequence[_SymbolStream], every: int
    ) -> None:
        self.name, self.channel, self.interval_ns = name, channel, every
        self._streams = streams

    def start(self) -> None:
        for stream in self._streams:
            stream.start()

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        texts = [text for stream in self._streams for text in stream.encode_tick(now)]
        return [f"[{','.join(texts)}]"] if texts else []


#: The streams that send on each step, and the channels that they carry.
_EVENT_STREAMS = {
    "trade": (_RawTrades, "trades"),
    "aggTrade": (_AggregateTrades, "agg_trades"),
    "bookTicker": (_BookTickers, "quotes"),
}


def make_stream(name: str, formats: dict[str, SymbolFormat], unit_ns: int) -> VenueStream | None:
    """Return the stream of this name; None if there is none.

    A stream of all symbols covers all of *formats*, so both kinds of futures share it.
    """
    native, at, kind = name.partition("@")
    if name.startswith("!"):
        return _all_symbols_stream(name, formats, unit_ns)
    fmt = formats.get(native.upper()) if native == native.lower() else None
    if fmt is None or not at:
        return None
    if kind in _EVENT_STREAMS:
        stream_class, channel = _EVENT_STREAMS[kind]
        return stream_class(name, fmt, unit_ns, channel)
    if kind in ("ticker", "miniTicker"):
        return _Tickers(name, fmt, unit_ns, mini=kind == "miniTicker")
    if kind.startswith("kline_"):
        interval = kind[6:]
        allowed = INTERVALS if fmt.is_spot else INTERVALS[1:]
        return _Klines(name, fmt, unit_ns, interval) if interval in allowed else None
    return _depth_stream(name, fmt, unit_ns, kind)


def _depth_stream(name: str, fmt: SymbolFormat, unit_ns: int, kind: str) -> VenueStream | None:
    stream, _, speed = kind.partition("@")
    speeds = (
        {"": 1000, "1000ms": 1000, "100ms": 100}
        if fmt.is_spot
        else {"": 250, "250ms": 250, "500ms": 500, "100ms": 100}
    )
    if not stream.startswith("depth") or speed not in speeds:
        return None
    every, depth = speeds[speed] * _MS, stream[5:]
    if not depth:
        return _DepthUpdates(name, fmt, unit_ns, "book", every)
    if depth in _PARTIAL_DEPTHS:
        return _PartialBooks(name, fmt, unit_ns, f"book:{depth}", every, int(depth))
    return None


def _all_symbols_stream(
    name: str, formats: dict[str, SymbolFormat], unit_ns: int
) -> VenueStream | None:
    mini = name == "!miniTicker@arr"
    spot = any(fmt.is_spot for fmt in formats.values())
    if not mini and (name != "!ticker@arr" or spot):  # spot's was removed in March 2026
        return None
    streams = [_Tickers(name, fmt, unit_ns, mini=mini) for fmt in formats.values()]
    return _AllSymbols(name, "ticker", streams, _SECOND if mini else 2 * _SECOND)
