"""Alpaca's streams. Each says arrays of items, of one symbol and one of the venue's lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .text import stamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tapeloom_simulator.server_api import MarketStep

    from .text import Spelling

__all__ = ["STREAMS", "Orderbooks", "Spoken", "UpdatedBars"]

_MS = 1_000_000
_SECOND = 1_000_000_000
_MINUTE = 60 * _SECOND
_REVISED = 30 * _SECOND  # after its first appearance


class Spoken:
    """One of the venue's lists, for one symbol."""

    channel = ""
    interval_ns = 0

    def __init__(self, name: str, spelling: Spelling) -> None:
        self.name, self.symbol, self.spelling = name, spelling.pit.symbol, spelling

    def start(self) -> None:
        """Start."""

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Say nothing of a step."""
        return ()

    def encode_tick(self, now: int) -> Sequence[str]:
        """Say nothing at this time."""
        return ()


class _Trades(Spoken):
    channel = "trades"

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        _ = self.spelling
        return (f"[{','.join([_.tagged('t', _.trade(fill)) for fill in step.trades])}]",)


class _Quotes(Spoken):
    channel = "quotes"

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        _, best = self.spelling, step.top_of_book
        return (f"[{_.tagged('q', _.quote(step.ts, best))}]",) if best is not None else ()


class _Bars(Spoken):
    """The bar of a minute comes a second after its end, where there was a trade in it."""

    channel = "klines:1m"
    interval_ns = _SECOND

    def encode_tick(self, now: int) -> Sequence[str]:
        if now % _MINUTE != _SECOND:
            return ()
        candle = self.spelling.pit.bar("1m", now - _MINUTE)
        if candle is None or not candle.trades:
            return ()
        return (f"[{self.spelling.tagged('b', self.spelling.bar(candle))}]",)


class UpdatedBars(Spoken):
    """Bars that were said wrongly, half a minute later: see the fault ``updated_bar``."""

    channel = "klines:1m"
    interval_ns = _SECOND

    def __init__(self, name: str, spelling: Spelling) -> None:
        super().__init__(name, spelling)
        self._due: dict[str, int] = {}

    def amend(self, text: str) -> None:
        """Say a bar's item as it should have been."""
        self._due.setdefault(text, self.spelling.market.now + _REVISED)

    def encode_tick(self, now: int) -> Sequence[str]:
        """Say what is due."""
        due = [text for text, at in self._due.items() if at <= now]
        for text in due:
            del self._due[text]
        return [f"[{self.spelling.tagged('u', text)}]" for text in due]


class _DailyBars(Spoken):
    channel = "klines:1d"
    interval_ns = _SECOND

    def encode_tick(self, now: int) -> Sequence[str]:
        if now % _MINUTE != _SECOND:
            return ()
        candle = self.spelling.pit.bar("1d", now)
        return (f"[{self.spelling.tagged('d', self.spelling.bar(candle))}]",) if candle else ()


class Orderbooks(Spoken):
    """Changed levels every 100 ms, and the whole book once a minute."""

    channel = "book"
    interval_ns = 100 * _MS

    def start(self) -> None:
        """Start from the book as it is."""
        self._told = self.spelling.pit.last_update_id

    def whole(self, now: int) -> str:
        """Return the whole book, as everybody gets it who subscribes."""
        item = self.spelling.tagged("o", self.spelling.book(now))
        return f'[{item[:-1]},"r":true}}]'

    def encode_tick(self, now: int) -> Sequence[str]:
        """Say what has changed."""
        _, told = self.spelling, self._told
        last = _.pit.last_update_id
        if now % _MINUTE == 0:
            self._told = last
            return (self.whole(now),)
        if last == told:
            return ()
        bids, asks = _.pit.changes_since(told)
        self._told = last
        b, a = _.levels(sorted(bids.items(), reverse=True)), _.levels(sorted(asks.items()))
        item = f'{{"t":"{stamp(now)}","b":[{b}],"a":[{a}]}}'
        return (f"[{_.tagged('o', item)}]",)


class _Statuses(Spoken):
    """Once a minute, that trading goes on."""

    channel = "x-statuses"
    interval_ns = _MINUTE

    def encode_tick(self, now: int) -> Sequence[str]:
        item = f'{{"t":"{stamp(now)}","sc":"T","sm":"Trading Resumption","rc":"","rm":"","z":"C"}}'
        return (f"[{self.spelling.tagged('s', item)}]",)


class _Lulds(Spoken):
    """Twice a minute, five per cent around the best bid."""

    channel = "x-lulds"
    interval_ns = 30 * _SECOND

    def encode_tick(self, now: int) -> Sequence[str]:
        _ = self.spelling
        bid = _.pit.top_of_book().bid
        up, down = _.price[bid * 105 // 100], _.price[bid * 95 // 100]
        item = f'{{"t":"{stamp(now)}","u":{up},"d":{down},"i":"B","z":"C"}}'
        return (f"[{_.tagged('l', item)}]",)


_BOTH: dict[str, type[Spoken]] = {
    "trades": _Trades,
    "quotes": _Quotes,
    "bars": _Bars,
    "updatedBars": UpdatedBars,
    "dailyBars": _DailyBars,
}
#: By the venue's word for a list; first those of stocks, then those of crypto.
STREAMS: dict[bool, dict[str, type[Spoken]]] = {
    False: {**_BOTH, "statuses": _Statuses, "lulds": _Lulds},
    True: {**_BOTH, "orderbooks": Orderbooks},
}
