"""One simulated symbol: its order book, its trades, its bars.

Makers quote a dense ladder of price levels `stride` ticks apart; takers trade against its best levels.
Prices are whole ticks and sizes whole lots. Every change of a level gets an update id and is stored in a
journal with the size it replaced, from which past books and the changes since an update are computed.
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

# Makers' distance from the best price in levels, indexed by six random bits; order sizes, by eight.
_DISTANCES = [min(40, round(1.06**i) - 1) for i in range(64)]
_SIZES = [round(1.02**i * 2) for i in range(256)]
_EDGE = 16  # levels the best price may move before the far ends of the ladder are moved
_HISTORY = 10_000  # trades remembered for REST, at least
_JOURNAL = 8_192  # book updates remembered, at least


class Instrument:
    """One symbol of the market. Only `step` changes it."""

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
        self._dropped_trades = 0  # how many old trades have been dropped
        self._trades_in_bars = 0
        self._bar_series = BarSeries()
        self._buy_bias = 128
        self._changed_prices: list[int] = []  # the price that an update was about; asks negative
        self._old_sizes: list[int] = []  # the size that stood there before it
        self._journal_start_id = 1_000_000  # the update id before the first one in the journal
        self._open_book()

    def _open_book(self) -> None:
        stride, span = self._stride, self._depth * self._stride
        self.bid, self.ask = self._start, self._start + stride
        self._low, self._high, self._edge = (
            self.bid - span + stride,
            self.ask + span - stride,
            self.bid,
        )
        self.bids = {p: self._pseudo_random_size(p) for p in range(self._low, self.bid + 1, stride)}
        self.asks = {
            p: self._pseudo_random_size(-p) for p in range(self.ask, self._high + 1, stride)
        }
        self._best = self.top_of_book()

    def _pseudo_random_size(self, number: int) -> int:
        """Return a size that looks random and depends on *number* alone."""
        return _SIZES[(number // self._stride * 2_654_435_761 >> 12) & 255] * self._unit + (
            number & 7
        )

    # ------------------------------------------------------------------------------ changes

    def step(self, ts: int, bits: int, max_trades: int) -> MarketStep:
        """Change levels and execute a taker order, chosen by 60 random *bits*.

        It makes about *max_trades* trades at most.
        """
        first = self._journal_start_id + len(self._changed_prices) + 1
        self._change_level(bits & 0x7FFF)
        if bits & 0x8000:
            self._change_level((bits >> 16) & 0x7FFF)
        buy = ((bits >> 31) & 0xFF) < self._buy_bias
        size = (_SIZES[(bits >> 39) & 0xFF] * self._unit >> 1) + 1 + ((bits >> 47) & 0x7)
        new_trades = self._execute(ts, buy, size, (bits >> 50) & 0x7, max_trades)
        if self.ask - self.bid > self._stride and bits >> 53 & 0x7:
            self._narrow_spread(bool(bits >> 56 & 1))
        if abs(self.bid - self._edge) >= _EDGE * self._stride:
            self._move_ladder()
        best: TopOfBook | None = TopOfBook(
            self.bid, self.bids[self.bid], self.ask, self.asks[self.ask]
        )
        if best == self._best:
            best = None
        else:
            self._best = best  # type: ignore[assignment]
        last = self._journal_start_id + len(self._changed_prices)
        return MarketStep(self.symbol, ts, new_trades, first, last, best)

    def _change_level(self, bits: int) -> None:
        """Place, change or cancel one level; bits: 1 side, 6 distance, 8 size and whether to cancel."""
        distance = _DISTANCES[bits >> 1 & 63]
        if bits & 1:
            book, price, key = self.bids, self.bid - distance * self._stride, 1
        else:
            book, price, key = self.asks, self.ask + distance * self._stride, -1
        if distance and bits >> 7 & 3 == 0:
            self._set_level(book, price, key, 0)
        else:
            self._set_level(
                book, price, key, _SIZES[bits >> 7 & 255] * self._unit + (bits >> 3 & 7)
            )

    def _set_level(self, book: dict[int, int], price: int, sign: int, size: int) -> None:
        old = book.get(price, 0)
        if size == old:
            return
        self._changed_prices.append(sign * price)
        self._old_sizes.append(old)
        if size:
            book[price] = size
        else:
            del book[price]

    def _execute(
        self, ts: int, buy: bool, size: int, split: int, max_trades: int
    ) -> list[MarketTrade]:
        """Trade *size* from the best price on, through three levels at most."""
        if buy:
            book, price, key, stride = self.asks, self.ask, -1, self._stride
        else:
            book, price, key, stride = self.bids, self.bid, 1, -self._stride
        new_trades: list[MarketTrade] = []
        trades = self._trades
        number = self._dropped_trades + len(trades)
        for _ in range(3):
            available = book[price]
            taken = min(size, available)
            size -= taken
            self.last_aggregate_id += 1
            pieces = 1 if taken < 8 or split > 2 or max_trades < 3 else split + 1
            part = taken // pieces
            for piece in range(pieces):
                number += 1
                amount = part if piece < pieces - 1 else taken - part * (pieces - 1)
                new_trades.append(
                    MarketTrade(number, price, amount, buy, ts, self.last_aggregate_id)
                )
            max_trades -= pieces
            self._changed_prices.append(key * price)
            self._old_sizes.append(available)
            if taken < available:
                book[price] = available - taken
                break
            del book[price]
            price += stride
            while price not in book:
                price += stride
            if not size or max_trades < 1:
                break
        if buy:
            self.ask = price
        else:
            self.bid = price
        trades += new_trades
        if len(trades) > 2 * _HISTORY:
            self._drop_old_trades()
        return new_trades

    def _narrow_spread(self, up: bool) -> None:
        """Close the spread to one stride, by raising the bid or lowering the ask."""
        stride = self._stride
        while self.ask - self.bid > stride:
            if up:
                self.bid += stride
                self._set_level(
                    self.bids, self.bid, 1, self._pseudo_random_size(len(self._changed_prices))
                )
            else:
                self.ask -= stride
                self._set_level(
                    self.asks, self.ask, -1, self._pseudo_random_size(len(self._changed_prices))
                )

    def _move_ladder(self) -> None:
        """Move the far ends of the ladder along with the best prices, and bias takers against the drift."""
        stride, span = self._stride, self._depth * self._stride
        low, high = self.bid - span + stride, self.ask + span - stride
        for price in range(self._low, low, stride):
            self._set_level(self.bids, price, 1, 0)
        for price in range(low, self._low, stride):
            self._set_level(self.bids, price, 1, self._pseudo_random_size(price))
        for price in range(high + stride, self._high + stride, stride):
            self._set_level(self.asks, price, -1, 0)
        for price in range(self._high + stride, high + stride, stride):
            self._set_level(self.asks, price, -1, self._pseudo_random_size(-price))
        self._low, self._high, self._edge = low, high, self.bid
        drift = (self.bid - self._start) * 1_000 // self._start
        self._buy_bias = max(64, min(192, 128 - drift))
        if len(self._changed_prices) > 2 * self._memory:
            cut = len(self._changed_prices) - self._memory
            del self._changed_prices[:cut], self._old_sizes[:cut]
            self._journal_start_id += cut

    def _drop_old_trades(self) -> None:
        self.bar_series()
        cut = len(self._trades) - _HISTORY
        del self._trades[:cut]
        self._dropped_trades += cut

    # --------------------------------------------------------------------------- queries

    @property
    def last_update_id(self) -> int:
        """The id of the last update of the book."""
        return self._journal_start_id + len(self._changed_prices)

    @property
    def last_trade(self) -> MarketTrade | None:
        """The last trade."""
        return self._trades[-1] if self._trades else None

    def top_of_book(self) -> TopOfBook:
        """Return the best bid and ask."""
        return TopOfBook(self.bid, self.bids[self.bid], self.ask, self.asks[self.ask])

    def book_snapshot(self, depth: int, lag: int = 0) -> BookSnapshot:
        """Return *depth* levels a side, as they were *lag* updates ago, or as early as known."""
        bids, asks = self.bids, self.asks
        lag = min(lag, len(self._changed_prices))
        if lag:
            bids, asks = dict(bids), dict(asks)
            for key, old in zip(
                self._changed_prices[: -lag - 1 : -1], self._old_sizes[: -lag - 1 : -1], strict=True
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
        # Levels are in the order of their changes, so the same changes give the same text.
        for key in self._changed_prices[max(0, since - self._journal_start_id) :]:
            if key > 0:
                new_bids[key] = bids.get(key, 0)
            else:
                new_asks[-key] = asks.get(-key, 0)
        return new_bids, new_asks

    def trades(self, first: int, limit: int) -> list[MarketTrade]:
        """Return up to *limit* trades from the id *first* on. Old trades are dropped."""
        index = max(0, first - 1 - self._dropped_trades)
        return self._trades[index : index + limit]

    def aggregate_trades(self, first: int, limit: int) -> list[list[MarketTrade]]:
        """Return the trades of up to *limit* aggregates from the aggregate id *first* on."""
        result: list[list[MarketTrade]] = []
        trades = self._trades
        index = bisect_left(trades, first, key=lambda trade: trade.aggregate_id)
        for trade in trades[index:]:
            if result and result[-1][0].aggregate_id == trade.aggregate_id:
                result[-1].append(trade)
            elif len(result) == limit:
                break
            else:
                result.append([trade])
        return result

    def first_trade_since(self, ts: int) -> MarketTrade | None:
        """Return the first remembered trade at or after *ts*, in ns; None if there is none."""
        index = bisect_left(self._trades, ts, key=lambda trade: trade.ts)
        return self._trades[index] if index < len(self._trades) else None

    def bar_series(self) -> BarSeries:
        """Return the bars, updated with every trade so far."""
        index = self._trades_in_bars - self._dropped_trades
        if index < len(self._trades):
            self._bar_series.add_trades(self._trades[index:])
            self._trades_in_bars = self._dropped_trades + len(self._trades)
        return self._bar_series

    def bar(self, interval: str, ts: int) -> MarketBar | None:
        """Return the bar that contains *ts*; None before the first trade."""
        return self.bar_series().bar(interval, ts)

    def bars(self, interval: str, since: int, until: int, limit: int) -> list[MarketBar]:
        """Return the first *limit* bars that start from *since* to *until*."""
        result: list[MarketBar] = []
        series = self.bar_series()
        if series.first_start is None:
            return result
        start = start_of(interval, max(since, series.first_start))
        if start < since:
            start = end_of(interval, start)
        while start <= until and len(result) < limit:
            bar = series.bar(interval, start)
            if bar is not None:
                result.append(bar)
            start = end_of(interval, start)
        return result

    def last_24h(self, now: int) -> MarketBar | None:
        """Return the 24 hours before *now*, to the minute, as one bar."""
        since = now - now % MINUTE - DAY + MINUTE
        series = self.bar_series()
        return series.between(since, now + 1) or series.empty_bar(since, now + 1)
