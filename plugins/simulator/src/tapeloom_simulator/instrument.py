"""Where one symbol is traded: its book, its trades, its candles.

Makers keep a dense ladder on a grid of `stride` ticks; takers eat from its best levels. Prices are
whole ticks and sizes whole lots. Every change of a level gets an update id and goes into a journal
with the size it replaced, so that the changes since any update, and the book as it was then, can be
read off.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from .bars import DAY, MINUTE, BarSeries, end_of, start_of
from .server_api import BookSnapshot, MarketBar, MarketStep, MarketTrade, TopOfBook

if TYPE_CHECKING:
    from decimal import Decimal

    from tapeloom.symbols import Symbol

    from .listings import Listed

__all__ = ["Instrument"]

# How far from the best price a maker acts, in levels, by six random bits; and how much, by eight.
_DISTANCES = [min(40, round(1.06**i) - 1) for i in range(64)]
_SIZES = [round(1.02**i * 2) for i in range(256)]
_EDGE = 16  # levels that the best price may move before the far end of the ladder follows
_HISTORY = 10_000  # trades remembered for REST, at least
_JOURNAL = 8_192  # book updates remembered, at least


class Instrument:
    """One symbol's pit. It moves only in `step`."""

    def __init__(self, listed: Listed, depth: int, memory: int = _JOURNAL) -> None:
        self.listing = listed
        self.symbol = listed.symbol
        self.parsed_symbol: Symbol = listed.parts
        self.tick: Decimal = listed.tick
        self.lot: Decimal = listed.lot
        self.last_aggregate_id = 0
        self._stride, self._unit, self._depth = listed.stride, listed.unit, depth
        self._start = listed.start - listed.start % listed.stride
        self._memory = max(_JOURNAL, memory)
        self._trades: list[MarketTrade] = []
        self._forgotten = 0  # how many trades stood before the first one remembered
        self._tallied = 0
        self._tally = BarSeries()
        self._mood = 128
        self._keys: list[int] = []  # the price that an update was about; asks negative
        self._olds: list[int] = []  # the size that stood there before it
        self._before = 1_000_000  # the update id before the first one in the journal
        self._open_book()

    def _open_book(self) -> None:
        stride, span = self._stride, self._depth * self._stride
        self.bid, self.ask = self._start, self._start + stride
        self._low, self._high, self._edge = (
            self.bid - span + stride,
            self.ask + span - stride,
            self.bid,
        )
        self.bids = {p: self._some(p) for p in range(self._low, self.bid + 1, stride)}
        self.asks = {p: self._some(-p) for p in range(self.ask, self._high + 1, stride)}
        self._best = self.top_of_book()

    def _some(self, number: int) -> int:
        """Return a size that looks random and depends on *number* alone."""
        return _SIZES[(number // self._stride * 2_654_435_761 >> 12) & 255] * self._unit + (
            number & 7
        )

    # ------------------------------------------------------------------------------ what moves it

    def step(self, ts: int, bits: int, most: int) -> MarketStep:
        """Let makers move and a taker trade, as 60 random bits say; *most* trades at the most."""
        first = self._before + len(self._keys) + 1
        self._make(bits & 0x7FFF)
        if bits & 0x8000:
            self._make((bits >> 16) & 0x7FFF)
        buy = ((bits >> 31) & 0xFF) < self._mood
        size = (_SIZES[(bits >> 39) & 0xFF] * self._unit >> 1) + 1 + ((bits >> 47) & 0x7)
        fills = self._take(ts, buy, size, (bits >> 50) & 0x7, most)
        if self.ask - self.bid > self._stride and bits >> 53 & 0x7:
            self._tighten(bool(bits >> 56 & 1))
        if abs(self.bid - self._edge) >= _EDGE * self._stride:
            self._follow()
        best: TopOfBook | None = TopOfBook(
            self.bid, self.bids[self.bid], self.ask, self.asks[self.ask]
        )
        if best == self._best:
            best = None
        else:
            self._best = best  # type: ignore[assignment]
        last = self._before + len(self._keys)
        return MarketStep(self.symbol, ts, fills, first, last, best)

    def _make(self, bits: int) -> None:
        """Place, change or cancel one level: 1 bit side, 6 distance, 8 size and whether to cancel."""
        distance = _DISTANCES[bits >> 1 & 63]
        if bits & 1:
            book, price, key = self.bids, self.bid - distance * self._stride, 1
        else:
            book, price, key = self.asks, self.ask + distance * self._stride, -1
        if distance and bits >> 7 & 3 == 0:
            self._put(book, price, key, 0)
        else:
            self._put(book, price, key, _SIZES[bits >> 7 & 255] * self._unit + (bits >> 3 & 7))

    def _put(self, book: dict[int, int], price: int, sign: int, size: int) -> None:
        old = book.get(price, 0)
        if size == old:
            return
        self._keys.append(sign * price)
        self._olds.append(old)
        if size:
            book[price] = size
        else:
            del book[price]

    def _take(self, ts: int, buy: bool, size: int, split: int, most: int) -> list[MarketTrade]:
        """Trade *size*, or what three levels have of it, starting from the best price."""
        if buy:
            book, price, key, stride = self.asks, self.ask, -1, self._stride
        else:
            book, price, key, stride = self.bids, self.bid, 1, -self._stride
        fills: list[MarketTrade] = []
        trades = self._trades
        number = self._forgotten + len(trades)
        for _ in range(3):
            have = book[price]
            wanted = min(size, have)
            size -= wanted
            self.last_aggregate_id += 1
            pieces = 1 if wanted < 8 or split > 2 or most < 3 else split + 1
            part = wanted // pieces
            for piece in range(pieces):
                number += 1
                amount = part if piece < pieces - 1 else wanted - part * (pieces - 1)
                fills.append(MarketTrade(number, price, amount, buy, ts, self.last_aggregate_id))
            most -= pieces
            self._keys.append(key * price)
            self._olds.append(have)
            if wanted < have:
                book[price] = have - wanted
                break
            del book[price]
            price += stride
            while price not in book:
                price += stride
            if not size or most < 1:
                break
        if buy:
            self.ask = price
        else:
            self.bid = price
        trades += fills
        if len(trades) > 2 * _HISTORY:
            self._forget()
        return fills

    def _tighten(self, up: bool) -> None:
        """Fill the hole between the best prices, from below or from above."""
        stride = self._stride
        while self.ask - self.bid > stride:
            if up:
                self.bid += stride
                self._put(self.bids, self.bid, 1, self._some(len(self._keys)))
            else:
                self.ask -= stride
                self._put(self.asks, self.ask, -1, self._some(len(self._keys)))

    def _follow(self) -> None:
        """Move the far ends of the ladder after the best prices, and lean against the drift."""
        stride, span = self._stride, self._depth * self._stride
        low, high = self.bid - span + stride, self.ask + span - stride
        for price in range(self._low, low, stride):
            self._put(self.bids, price, 1, 0)
        for price in range(low, self._low, stride):
            self._put(self.bids, price, 1, self._some(price))
        for price in range(high + stride, self._high + stride, stride):
            self._put(self.asks, price, -1, 0)
        for price in range(self._high + stride, high + stride, stride):
            self._put(self.asks, price, -1, self._some(-price))
        self._low, self._high, self._edge = low, high, self.bid
        drift = (self.bid - self._start) * 1_000 // self._start
        self._mood = max(64, min(192, 128 - drift))
        if len(self._keys) > 2 * self._memory:
            cut = len(self._keys) - self._memory
            del self._keys[:cut], self._olds[:cut]
            self._before += cut

    def _forget(self) -> None:
        self.bar_series()
        cut = len(self._trades) - _HISTORY
        del self._trades[:cut]
        self._forgotten += cut

    # --------------------------------------------------------------------------- what can be read

    @property
    def last_update_id(self) -> int:
        """The id of the last update of the book."""
        return self._before + len(self._keys)

    @property
    def last_trade(self) -> MarketTrade | None:
        """The last trade."""
        return self._trades[-1] if self._trades else None

    def top_of_book(self) -> TopOfBook:
        """Return the best bid and ask."""
        return TopOfBook(self.bid, self.bids[self.bid], self.ask, self.asks[self.ask])

    def book_snapshot(self, depth: int, lag: int = 0) -> BookSnapshot:
        """Return *depth* levels a side, as they were *lag* updates ago (as far as is known)."""
        bids, asks = self.bids, self.asks
        lag = min(lag, len(self._keys))
        if lag:
            bids, asks = dict(bids), dict(asks)
            for key, old in zip(
                self._keys[: -lag - 1 : -1], self._olds[: -lag - 1 : -1], strict=True
            ):
                book = bids if key > 0 else asks
                if old:
                    book[abs(key)] = old
                else:
                    book.pop(abs(key), None)
        return BookSnapshot(
            self.last_update_id - lag,
            sorted(bids.items(), reverse=True)[:depth],
            sorted(asks.items())[:depth],
        )

    def changes_since(self, since: int) -> tuple[dict[int, int], dict[int, int]]:
        """Return the sizes (0: none) of the bids and asks that changed after the update *since*."""
        bids, asks = self.bids, self.asks
        new_bids: dict[int, int] = {}
        new_asks: dict[int, int] = {}
        # Zeros count as sorted in the order of the changes, so the same batch gives the same text.
        for key in self._keys[max(0, since - self._before) :]:
            if key > 0:
                new_bids[key] = bids.get(key, 0)
            else:
                new_asks[-key] = asks.get(-key, 0)
        return new_bids, new_asks

    def trades(self, first: int, limit: int) -> list[MarketTrade]:
        """Return up to *limit* trades from the id *first* on; what is too old is forgotten."""
        place = max(0, first - 1 - self._forgotten)
        return self._trades[place : place + limit]

    def aggregate_trades(self, first: int, limit: int) -> list[list[MarketTrade]]:
        """Return the fills of up to *limit* aggregates from number *first* on."""
        found: list[list[MarketTrade]] = []
        trades = self._trades
        place = bisect_left(trades, first, key=lambda fill: fill.aggregate_id)
        for fill in trades[place:]:
            if found and found[-1][0].aggregate_id == fill.aggregate_id:
                found[-1].append(fill)
            elif len(found) == limit:
                break
            else:
                found.append([fill])
        return found

    def first_trade_since(self, ts: int) -> MarketTrade | None:
        """Return the first remembered trade at or after *ts*."""
        place = bisect_left(self._trades, ts, key=lambda fill: fill.ts)
        return self._trades[place] if place < len(self._trades) else None

    def bar_series(self) -> BarSeries:
        """Return the candles with every trade in them."""
        place = self._tallied - self._forgotten
        if place < len(self._trades):
            self._tally.add_trades(self._trades[place:])
            self._tallied = self._forgotten + len(self._trades)
        return self._tally

    def bar(self, interval: str, ts: int) -> MarketBar | None:
        """Return the candle in which *ts* lies; None before the first trade."""
        return self.bar_series().bar(interval, ts)

    def bars(self, interval: str, since: int, until: int, limit: int) -> list[MarketBar]:
        """Return the candles that begin from *since* to *until*: the first *limit* of them."""
        found: list[MarketBar] = []
        tally = self.bar_series()
        if tally.first_start is None:
            return found
        start = start_of(interval, max(since, tally.first_start))
        if start < since:
            start = end_of(interval, start)
        while start <= until and len(found) < limit:
            candle = tally.bar(interval, start)
            if candle is not None:
                found.append(candle)
            start = end_of(interval, start)
        return found

    def last_24h(self, now: int) -> MarketBar | None:
        """Return the 24 hours before *now*, to the minute, as one candle."""
        since = now - now % MINUTE - DAY + MINUTE
        tally = self.bar_series()
        return tally.between(since, now + 1) or tally.empty_bar(since, now + 1)
