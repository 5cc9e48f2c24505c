"""Bybit's topics, told by a simulated market.

Trades and klines are told to all in the same way. Of books and tickers, each connection is told the
whole first and then what has changed, so it follows them as a `Told` of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.units import duration_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tapeloom_simulator.server_api import MarketBar, MarketStep

    from .text import Spelling

__all__ = ["INTERVALS", "Book", "Told", "Topic", "Whole", "topic_of"]

_MS = 1_000_000
_SECOND = 1_000 * _MS
_BATCH = 1024  #: trades in a push, at the most
_REPEAT = 3 * _SECOND  #: a best bid and ask that stand as long are said again
#: The levels a side of each book that is served, and the time between two of its pushes.
_EVERY = {1: 10 * _MS, 50: 20 * _MS, 200: 100 * _MS, 1000: 200 * _MS}
#: The intervals that a request may name, and the candles of the market that answer it.
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

    def __init__(self, name: str, spelling: Spelling, channel: str) -> None:
        self.name, self.channel = name, channel
        self.symbol = spelling.pit.symbol
        self._, self._pit = spelling, spelling.pit

    def start(self) -> None:
        """Start, or start anew."""

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Say nothing of it."""
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        """Say nothing now."""
        return ()

    def _push(self, type: str, now: int, content: str, more: str = "") -> str:
        ts = self._.clock(now)
        return f'{{"topic":"{self.name}","type":"{type}","ts":{ts},"data":{content}{more}}}'


class _Trades(Topic):
    def encode_step(self, step: MarketStep) -> Sequence[str]:
        _, name, ts = self._, self._.native, step.ts // _MS
        tail = f'"BT":false,"RPI":false,"seq":{step.last_id}}}'
        tail = tail if _.spot else f'"L":"PlusTick",{tail}'
        rows = [
            f'{{"T":{ts},"s":"{name}","S":"{"Buy" if f.is_buy else "Sell"}","v":"{_.size[f.size]}",'
            f'"p":"{_.price[f.price]}","i":"{_.trade_id(f)}",{tail}'
            for f in step.trades
        ]
        parts = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
        return [self._push("snapshot", step.ts, f"[{','.join(part)}]") for part in parts]


class Whole(Topic):
    """A topic of which there is a whole. It goes on once a tick, whoever asks."""

    def __init__(self, name: str, spelling: Spelling, channel: str, every: int) -> None:
        super().__init__(name, spelling, channel)
        self.interval_ns = every
        self.at = -every  #: when the market was last looked at
        self._texts: Sequence[str] = ()

    def join(self) -> None:
        """Begin anew, unless somebody follows already."""
        if self._.market.now - self.at > self.interval_ns:
            self.start()

    def encode_tick(self, now: int) -> Sequence[str]:
        """Say what has changed."""
        if now > self.at:
            self._texts = self._go(now)
            self.at = now
        return self._texts

    def _go(self, now: int) -> Sequence[str]:
        raise NotImplementedError

    def whole(self) -> Sequence[str]:
        """Return the whole as of the last push; nothing where there is none yet."""
        raise NotImplementedError


class Told(Topic):
    """A topic as one connection is told it: first the whole."""

    def __init__(self, topic: Whole) -> None:
        super().__init__(topic.name, topic._, topic.channel)
        self.topic, self.interval_ns = topic, topic.interval_ns

    def start(self) -> None:
        """Tell the whole next."""
        self.topic.join()
        self._first = True

    def encode_tick(self, now: int) -> Sequence[str]:
        """Tell what the topic says."""
        texts = self.topic.encode_tick(now)
        if self._first:
            texts = self.topic.whole()
            self._first = not texts
        return texts


class Book(Whole):
    """So many levels a side.

    `u` counts the pushes of this topic alone; the market's own update id is the `seq` of all.
    """

    def __init__(self, name: str, spelling: Spelling, channel: str, depth: int) -> None:
        super().__init__(name, spelling, channel, _EVERY[depth])
        self._depth = depth
        self.u = 1_000_000 + depth
        self._anew = False

    def start(self) -> None:
        """Begin with the book as it stands."""
        self.u += 1
        self.at = self._.market.now
        self._look()

    def restart(self) -> None:
        """Begin to count at 1 with the next push, which is the whole book."""
        self._anew = True

    def _look(self) -> None:
        self.seq, bids, asks = self._pit.book_snapshot(self._depth)
        self._bids, self._asks = dict(bids), dict(asks)

    def _go(self, now: int) -> Sequence[str]:
        self.at = now
        if self._anew:
            self._anew, self.u = False, 1
            self._look()
            return self.whole()
        if self._pit.last_update_id == self.seq:
            return ()
        old = self._bids, self._asks
        self._look()
        changes = _changes(old[0], self._bids), _changes(old[1], self._asks)
        if not any(changes):
            return ()
        self.u += 1
        return self._say(*changes)

    def _say(self, bids: list[tuple[int, int]], asks: list[tuple[int, int]]) -> Sequence[str]:
        return (self.write("delta", bids, asks),)

    def whole(self) -> Sequence[str]:
        """Return the whole book."""
        return (self.write("snapshot", self._bids.items(), self._asks.items()),)

    def write(
        self, type: str, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]]
    ) -> str:
        """Return a push with these levels."""
        b, a = self._.levels(bids), self._.levels(asks)
        head = f'{{"s":"{self._.native}","b":[{b}],"a":[{a}],"u":{self.u},"seq":{self.seq}}}'
        return self._push(type, self.at, head, f',"cts":{self.at // _MS}')


def _changes(old: Mapping[int, int], new: Mapping[int, int]) -> list[tuple[int, int]]:
    """Return the levels that are other ones now; those that are gone with the size 0."""
    gone = [(price, 0) for price in old if price not in new]
    return gone + [(price, size) for price, size in new.items() if old.get(price) != size]


class _Best(Book):
    """One level: whole each time, and again where nothing has changed for long."""

    def start(self) -> None:
        super().start()
        self._said = self.at

    def _say(self, bids: list[tuple[int, int]], asks: list[tuple[int, int]]) -> Sequence[str]:
        return self.whole()

    def _go(self, now: int) -> Sequence[str]:
        texts = super()._go(now)
        if not texts and now - self._said >= _REPEAT:
            texts = self.whole()
        if texts:
            self._said = now
        return texts


class _Klines(Topic):
    interval_ns = _SECOND

    def __init__(self, name: str, spelling: Spelling, channel: str, word: str) -> None:
        super().__init__(name, spelling, channel)
        self._word, self._interval = word, INTERVALS[word]

    def start(self) -> None:
        now = self._.market.now
        candle = self._pit.bar(self._interval, now)
        length = duration_ns(self._interval.replace("1M", "31d"))
        self._open = candle.start if candle else now - length + 1
        self._trades = 0

    def encode_tick(self, now: int) -> Sequence[str]:
        candle = self._pit.bar(self._interval, now)
        if candle is None:
            return ()
        texts = []
        if candle.start > self._open:
            ended = self._pit.bars(self._interval, self._open, candle.start - 1, 1000)
            texts = [self._write(one, now, "true") for one in ended]
            self._open, self._trades = candle.start, 0
        if candle.trades > self._trades:
            self._trades = candle.trades
            texts.append(self._write(candle, now, "false"))
        return texts

    def _write(self, c: MarketBar, now: int, confirm: str) -> str:
        _ = self._
        row = (
            f'{{"start":{c.start // _MS},"end":{c.end // _MS - 1},"interval":"{self._word}",'
            f'"open":"{_.price[c.open]}","close":"{_.price[c.close]}","high":"{_.price[c.high]}",'
            f'"low":"{_.price[c.low]}","volume":"{_.size.write(c.volume)}",'
            f'"turnover":"{_.quote.write(c.quote_volume)}","confirm":{confirm},"timestamp":{now // _MS}}}'
        )
        return self._push("snapshot", now, f"[{row}]")


class _Ticker(Whole):
    """The last 24 hours: on spot whole each time, on linear what has changed."""

    def __init__(self, name: str, spelling: Spelling, channel: str) -> None:
        super().__init__(name, spelling, channel, (50 if spelling.spot else 100) * _MS)

    def start(self) -> None:
        """Begin with the figures as they stand."""
        self._told = self._.day() or {}
        self.at, self._seq = self._.market.now, self._pit.last_update_id

    def _go(self, now: int) -> Sequence[str]:
        if self._pit.last_update_id == self._seq:
            return ()
        fields, told = self._.day(), self._told
        new = {k: v for k, v in (fields or {}).items() if told.get(k) != v}
        self._seq = self._pit.last_update_id
        if not fields or not new:
            return ()
        self._told = fields
        if self._.spot or not told:
            return self.whole()
        return (self._write("delta", {"symbol": fields["symbol"]} | new),)

    def whole(self) -> Sequence[str]:
        """Return all figures."""
        return (self._write("snapshot", self._told),) if self._told else ()

    def _write(self, type: str, fields: Mapping[str, str]) -> str:
        content = ",".join([f'"{key}":"{text}"' for key, text in fields.items()])
        return self._push(type, self._.market.now, f"{{{content}}}", f',"cs":{self._seq}')


def topic_of(name: str, spellings: Mapping[str, Spelling]) -> Topic | None:
    """Return the topic of this name in one market; None where there is none."""
    head, _, symbol = name.rpartition(".")
    kind, _, parameter = head.partition(".")
    spelling = spellings.get(symbol)
    if spelling is None:
        return None
    if head == "publicTrade":
        return _Trades(name, spelling, "trades")
    if head == "tickers":
        return _Ticker(name, spelling, "ticker")
    if kind == "kline" and parameter in INTERVALS:
        return _Klines(name, spelling, f"klines:{INTERVALS[parameter]}", parameter)
    if kind == "orderbook" and parameter in map(str, _EVERY):
        depth = int(parameter)
        if depth == 1:
            return _Best(name, spelling, "quotes", depth)
        return Book(name, spelling, "book" if depth == 1000 else f"book:{depth}", depth)
    return None
