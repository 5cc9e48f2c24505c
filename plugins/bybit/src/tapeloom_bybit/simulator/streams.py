"""Bybit's topics, made from a simulated market.

All connections get the same pushes of trades and klines. Of books and tickers, each connection first
gets a snapshot and then the deltas, so it subscribes through a `SnapshotFirst` of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.units import duration_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tapeloom_simulator.server_api import MarketBar, MarketStep

    from .text import SymbolFormat

__all__ = ["INTERVALS", "BookTopic", "SnapshotFirst", "SnapshotTopic", "Topic", "make_topic"]

_MS = 1_000_000
_SECOND = 1_000 * _MS
_MAX_TRADES = 1024  #: the most trades in one push
_REPEAT_NS = 3 * _SECOND  #: an unchanged quote is sent again after this time
#: The time between two pushes of a book, by its depth (levels a side).
_TICK_NS = {1: 10 * _MS, 50: 20 * _MS, 200: 100 * _MS, 1000: 200 * _MS}
#: Our names of the intervals of klines, by the venue's.
INTERVALS = {
    **{str(minutes): f"{minutes}m" for minutes in (1, 3, 5, 15, 30)},
    **{str(60 * hours): f"{hours}h" for hours in (1, 2, 4, 6, 12)},
    "D": "1d",
    "W": "1w",
    "M": "1M",
}


class Topic:
    """One topic of one symbol."""

    interval_ns = 0

    def __init__(self, name: str, fmt: SymbolFormat, channel: str) -> None:
        self.name, self.channel = name, channel
        self.symbol = fmt.instrument.symbol
        self.fmt, self._instrument = fmt, fmt.instrument

    def start(self) -> None:
        """Start for a first subscriber; do nothing."""

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Return the pushes for a step of the market: none."""
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the pushes that are due at *now*: none."""
        return ()

    def _push(self, type: str, now: int, data: str, suffix: str = "") -> str:
        ts = self.fmt.venue_time_ms(now)
        return f'{{"topic":"{self.name}","type":"{type}","ts":{ts},"data":{data}{suffix}}}'


class _TradeTopic(Topic):
    def encode_step(self, step: MarketStep) -> Sequence[str]:
        fmt, name, ts = self.fmt, self.fmt.native, step.ts // _MS
        tail = f'"BT":false,"RPI":false,"seq":{step.last_id}}}'
        tail = tail if fmt.is_spot else f'"L":"PlusTick",{tail}'
        rows = [
            f'{{"T":{ts},"s":"{name}","S":"{"Buy" if trade.is_buy else "Sell"}","v":"{fmt.size[trade.size]}",'
            f'"p":"{fmt.price[trade.price]}","i":"{fmt.trade_id(trade)}",{tail}'
            for trade in step.trades
        ]
        parts = [rows[start : start + _MAX_TRADES] for start in range(0, len(rows), _MAX_TRADES)]
        return [self._push("snapshot", step.ts, f"[{','.join(part)}]") for part in parts]


class SnapshotTopic(Topic):
    """A topic with a snapshot. It is updated once per tick, however many connections call `tick`."""

    def __init__(self, name: str, fmt: SymbolFormat, channel: str, every: int) -> None:
        super().__init__(name, fmt, channel)
        self.interval_ns = every
        self.last_tick = -every  #: time of the last update, in ns
        self._texts: Sequence[str] = ()

    def join(self) -> None:
        """Start again, unless a subscriber keeps the topic up to date."""
        if self.fmt.market.now - self.last_tick > self.interval_ns:
            self.start()

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the changes since the last tick."""
        if now > self.last_tick:
            self._texts = self._update(now)
            self.last_tick = now
        return self._texts

    def _update(self, now: int) -> Sequence[str]:
        """Read the market and return the changes."""
        raise NotImplementedError

    def snapshot(self) -> Sequence[str]:
        """Return the snapshot as of the last push; empty if there is none yet."""
        raise NotImplementedError


class SnapshotFirst(Topic):
    """A topic for one connection, which first gets a snapshot."""

    def __init__(self, topic: SnapshotTopic) -> None:
        super().__init__(topic.name, topic.fmt, topic.channel)
        self.topic, self.interval_ns = topic, topic.interval_ns

    def start(self) -> None:
        """Send a snapshot next."""
        self.topic.join()
        self._needs_snapshot = True

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the snapshot if it is still to be sent, else the changes."""
        texts = self.topic.encode_tick(now)
        if self._needs_snapshot:
            texts = self.topic.snapshot()
            self._needs_snapshot = not texts
        return texts


class BookTopic(SnapshotTopic):
    """A book of *depth* levels a side.

    `u` counts the pushes of this topic; `seq` is the update id of the market, the same for all depths.
    """

    def __init__(self, name: str, fmt: SymbolFormat, channel: str, depth: int) -> None:
        super().__init__(name, fmt, channel, _TICK_NS[depth])
        self._depth = depth
        self.u = 1_000_000 + depth
        self._restarts = False

    def start(self) -> None:
        """Start with the present book."""
        self.u += 1
        self.last_tick = self.fmt.market.now
        self._read_book()

    def restart(self) -> None:
        """Send a snapshot with the update id 1 next, as after a restart of the venue's service."""
        self._restarts = True

    def _read_book(self) -> None:
        self.seq, bids, asks = self._instrument.book_snapshot(self._depth)
        self._bids, self._asks = dict(bids), dict(asks)

    def _update(self, now: int) -> Sequence[str]:
        self.last_tick = now
        if self._restarts:
            self._restarts, self.u = False, 1
            self._read_book()
            return self.snapshot()
        if self._instrument.last_update_id == self.seq:
            return ()
        old = self._bids, self._asks
        self._read_book()
        changes = _changes(old[0], self._bids), _changes(old[1], self._asks)
        if not any(changes):
            return ()
        self.u += 1
        return self._write_changes(*changes)

    def _write_changes(
        self, bids: list[tuple[int, int]], asks: list[tuple[int, int]]
    ) -> Sequence[str]:
        """Return the push for changed levels."""
        return (self.write("delta", bids, asks),)

    def snapshot(self) -> Sequence[str]:
        """Return a message with the whole book."""
        return (self.write("snapshot", self._bids.items(), self._asks.items()),)

    def write(
        self, type: str, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]]
    ) -> str:
        """Return a push with these levels."""
        b, a = self.fmt.levels(bids), self.fmt.levels(asks)
        data = f'{{"s":"{self.fmt.native}","b":[{b}],"a":[{a}],"u":{self.u},"seq":{self.seq}}}'
        return self._push(type, self.last_tick, data, f',"cts":{self.last_tick // _MS}')


def _changes(old: Mapping[int, int], new: Mapping[int, int]) -> list[tuple[int, int]]:
    """Return the levels that changed; removed levels have the size 0."""
    removed = [(price, 0) for price in old if price not in new]
    return removed + [(price, size) for price, size in new.items() if old.get(price) != size]


class _QuoteTopic(BookTopic):
    """The top of book: a snapshot each time, repeated if it does not change for three seconds."""

    def start(self) -> None:
        super().start()
        self._last_sent = self.last_tick

    def _write_changes(
        self, bids: list[tuple[int, int]], asks: list[tuple[int, int]]
    ) -> Sequence[str]:
        return self.snapshot()

    def _update(self, now: int) -> Sequence[str]:
        texts = super()._update(now)
        if not texts and now - self._last_sent >= _REPEAT_NS:
            texts = self.snapshot()
        if texts:
            self._last_sent = now
        return texts


class _KlineTopic(Topic):
    interval_ns = _SECOND

    def __init__(self, name: str, fmt: SymbolFormat, channel: str, native_interval: str) -> None:
        super().__init__(name, fmt, channel)
        self._native_interval, self._interval = native_interval, INTERVALS[native_interval]

    def start(self) -> None:
        now = self.fmt.market.now
        candle = self._instrument.bar(self._interval, now)
        length = duration_ns(self._interval.replace("1M", "31d"))
        self._bar_start = candle.start if candle else now - length + 1
        self._sent_trades = 0

    def encode_tick(self, now: int) -> Sequence[str]:
        candle = self._instrument.bar(self._interval, now)
        if candle is None:
            return ()
        texts = []
        if candle.start > self._bar_start:
            start, end = self._bar_start, candle.start - 1
            closed_candles = self._instrument.bars(self._interval, start, end, 1000)
            texts = [self._write(closed, now, "true") for closed in closed_candles]
            self._bar_start, self._sent_trades = candle.start, 0
        if candle.trades > self._sent_trades:
            self._sent_trades = candle.trades
            texts.append(self._write(candle, now, "false"))
        return texts

    def _write(self, c: MarketBar, now: int, confirm: str) -> str:
        fmt = self.fmt
        row = (
            f'{{"start":{c.start // _MS},"end":{c.end // _MS - 1},"interval":"{self._native_interval}",'
            f'"open":"{fmt.price[c.open]}","close":"{fmt.price[c.close]}","high":"{fmt.price[c.high]}",'
            f'"low":"{fmt.price[c.low]}","volume":"{fmt.size.write(c.volume)}",'
            f'"turnover":"{fmt.quote.write(c.quote_volume)}","confirm":{confirm},"timestamp":{now // _MS}}}'
        )
        return self._push("snapshot", now, f"[{row}]")


class _TickerTopic(SnapshotTopic):
    """Statistics of the last 24 hours: always snapshots on spot, deltas on linear."""

    def __init__(self, name: str, fmt: SymbolFormat, channel: str) -> None:
        super().__init__(name, fmt, channel, (50 if fmt.is_spot else 100) * _MS)

    def start(self) -> None:
        """Start with the current values of all fields."""
        self._last_fields = self.fmt.ticker_fields() or {}
        self.last_tick, self._last_update = self.fmt.market.now, self._instrument.last_update_id

    def _update(self, now: int) -> Sequence[str]:
        if self._instrument.last_update_id == self._last_update:
            return ()
        fields, last_fields = self.fmt.ticker_fields(), self._last_fields
        changed = {k: v for k, v in (fields or {}).items() if last_fields.get(k) != v}
        self._last_update = self._instrument.last_update_id
        if not fields or not changed:
            return ()
        self._last_fields = fields
        if self.fmt.is_spot or not last_fields:
            return self.snapshot()
        return (self._write("delta", {"symbol": fields["symbol"]} | changed),)

    def snapshot(self) -> Sequence[str]:
        """Return a ticker message with all fields; empty before the first trade."""
        return (self._write("snapshot", self._last_fields),) if self._last_fields else ()

    def _write(self, type: str, fields: Mapping[str, str]) -> str:
        data = ",".join([f'"{key}":"{text}"' for key, text in fields.items()])
        return self._push(type, self.fmt.market.now, f"{{{data}}}", f',"cs":{self._last_update}')


def make_topic(name: str, formats: Mapping[str, SymbolFormat]) -> Topic | None:
    """Return the topic of this name in one market; None if there is none."""
    prefix, _, symbol = name.rpartition(".")
    kind, _, parameter = prefix.partition(".")
    fmt = formats.get(symbol)
    if fmt is None:
        return None
    if prefix == "publicTrade":
        return _TradeTopic(name, fmt, "trades")
    if prefix == "tickers":
        return _TickerTopic(name, fmt, "ticker")
    if kind == "kline" and parameter in INTERVALS:
        return _KlineTopic(name, fmt, f"klines:{INTERVALS[parameter]}", parameter)
    if kind == "orderbook" and parameter in map(str, _TICK_NS):
        depth = int(parameter)
        if depth == 1:
            return _QuoteTopic(name, fmt, "quotes", depth)
        return BookTopic(name, fmt, "book" if depth == 1000 else f"book:{depth}", depth)
    return None
