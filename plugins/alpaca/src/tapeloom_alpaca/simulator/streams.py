"""Alpaca's streams. Each writes arrays of items for one symbol and one of the venue's lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .text import format_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom_simulator.server_api import MarketStep

    from .text import SymbolWriter

__all__ = ["STREAMS", "AlpacaStream", "BookStream", "UpdatedBarStream"]

#: Lengths in ns.
_MS = 1_000_000
_SECOND = 1_000_000_000
_MINUTE = 60 * _SECOND
#: Time between a bar and its revision, in ns; the venue documents about half a minute.
_REVISION_DELAY = 30 * _SECOND


class AlpacaStream:
    """The stream of one of the venue's lists for one symbol."""

    channel = ""
    interval_ns = 0

    def __init__(self, name: str, writer: SymbolWriter) -> None:
        self.name, self.symbol, self.writer = name, writer.instrument.symbol, writer

    def start(self) -> None:
        """Start or restart the stream."""

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Return the messages that a market step causes."""
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the messages that are due at *now*."""
        return ()


class _TradeStream(AlpacaStream):
    channel = "trades"

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        items = [self.writer.tagged("t", self.writer.trade(trade)) for trade in step.trades]
        return (f"[{','.join(items)}]",)


class _QuoteStream(AlpacaStream):
    channel = "quotes"

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        writer, best = self.writer, step.top_of_book
        if best is None:
            return ()
        return (f"[{writer.tagged('q', writer.quote(step.ts, best))}]",)


class _BarStream(AlpacaStream):
    """Bars of a minute, one second after their end; a minute without a trade has none."""

    channel = "klines:1m"
    interval_ns = _SECOND

    def encode_tick(self, now: int) -> Sequence[str]:
        if now % _MINUTE != _SECOND:
            return ()
        bar = self.writer.instrument.bar("1m", now - _MINUTE)
        if bar is None or not bar.trades:
            return ()
        return (f"[{self.writer.tagged('b', self.writer.bar(bar))}]",)


class UpdatedBarStream(AlpacaStream):
    """Revised bars, half a minute after a wrong one: see the fault ``updated_bar``."""

    channel = "klines:1m"
    interval_ns = _SECOND

    def __init__(self, name: str, writer: SymbolWriter) -> None:
        super().__init__(name, writer)
        #: The time at which each item is due, in ns.
        self._due: dict[str, int] = {}

    def schedule(self, text: str) -> None:
        """Send the item *text* of a revised bar in half a minute."""
        self._due.setdefault(text, self.writer.market.now + _REVISION_DELAY)

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the revised bars that are due."""
        due = [text for text, due_ns in self._due.items() if due_ns <= now]
        for text in due:
            del self._due[text]
        return [f"[{self.writer.tagged('u', text)}]" for text in due]


class _DailyBarStream(AlpacaStream):
    channel = "klines:1d"
    interval_ns = _SECOND

    def encode_tick(self, now: int) -> Sequence[str]:
        if now % _MINUTE != _SECOND:
            return ()
        bar = self.writer.instrument.bar("1d", now)
        return (f"[{self.writer.tagged('d', self.writer.bar(bar))}]",) if bar else ()


class BookStream(AlpacaStream):
    """Deltas every 100 ms, and a snapshot once a minute."""

    channel = "book"
    interval_ns = 100 * _MS

    def start(self) -> None:
        """Start or restart the deltas at the current book."""
        self._last_update = self.writer.instrument.last_update_id

    def snapshot(self, now: int) -> str:
        """Return the snapshot that a new subscription is sent, too."""
        item = self.writer.tagged("o", self.writer.book(now))
        return f'[{item[:-1]},"r":true}}]'

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return the changes since the last message, or a snapshot once a minute."""
        writer, previous = self.writer, self._last_update
        update = writer.instrument.last_update_id
        if now % _MINUTE == 0:
            self._last_update = update
            return (self.snapshot(now),)
        if update == previous:
            return ()
        bids, asks = writer.instrument.changes_since(previous)
        self._last_update = update
        b, a = (
            writer.levels(sorted(bids.items(), reverse=True)),
            writer.levels(sorted(asks.items())),
        )
        item = f'{{"t":"{format_time(now)}","b":[{b}],"a":[{a}]}}'
        return (f"[{writer.tagged('o', item)}]",)


class _TradingStatusStream(AlpacaStream):
    """A trading status once a minute: trading is open."""

    channel = "x-statuses"
    interval_ns = _MINUTE

    def encode_tick(self, now: int) -> Sequence[str]:
        item = f'{{"t":"{format_time(now)}","sc":"T","sm":"Trading Resumption","rc":"","rm":"","z":"C"}}'
        return (f"[{self.writer.tagged('s', item)}]",)


class _PriceBandStream(AlpacaStream):
    """Price bands of five per cent around the best bid, twice a minute."""

    channel = "x-lulds"
    interval_ns = 30 * _SECOND

    def encode_tick(self, now: int) -> Sequence[str]:
        writer = self.writer
        bid = writer.instrument.top_of_book().bid
        up, down = writer.price[bid * 105 // 100], writer.price[bid * 95 // 100]
        item = f'{{"t":"{format_time(now)}","u":{up},"d":{down},"i":"B","z":"C"}}'
        return (f"[{writer.tagged('l', item)}]",)


#: The streams of both markets.
_BOTH: dict[str, type[AlpacaStream]] = {
    "trades": _TradeStream,
    "quotes": _QuoteStream,
    "bars": _BarStream,
    "updatedBars": UpdatedBarStream,
    "dailyBars": _DailyBarStream,
}
#: The streams by the venue's name of the list; for stocks (False) and crypto (True).
STREAMS: dict[bool, dict[str, type[AlpacaStream]]] = {
    False: {**_BOTH, "statuses": _TradingStatusStream, "lulds": _PriceBandStream},
    True: {**_BOTH, "orderbooks": BookStream},
}
