"""`Instrument`: what is kept of one symbol of one venue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from tapeloom.events import Bar, BaseEvent, Book, Gap, Quote, Ticker, Trade

from .bars import BarStore
from .candles import MINUTE, Series, in_order, sums
from .ladder import Ladder
from .limits import Share
from .views import SymbolRow
from .windows import SECOND, Lags, Rate

#: Books of one symbol, each of a channel of its own.
_LADDERS = 4
#: Trades in which the last price that differs is looked for.
_LOOK_BACK = 64
#: Channels whose newest event is kept in mind.
_CHANNELS = 32


class Instrument:
    """Prices, candles, tape, ladders, delays and counts of one symbol of one venue."""

    __slots__ = (
        "_channel", "_quote", "_ticker", "_trade", "bars", "direction", "event_rate", "events",
        "gaps", "ladders", "lags", "minutes", "newest", "rejects", "seconds", "since", "since_recv",
        "symbol", "tape", "trade_rate", "trades", "venue",
    )  # fmt: skip

    def __init__(self, venue: str, symbol: str, share: Share) -> None:
        self.venue = venue
        self.symbol = symbol
        self.seconds, self.minutes = Series(SECOND), Series(MINUTE)
        self.bars = BarStore()
        self.ladders: dict[str, Ladder] = {}
        self.tape: deque[Trade] = deque(maxlen=share.tape)
        self.newest: dict[str, int] = {}  #: by channel, our time of the newest event
        self.trade_rate, self.event_rate, self.lags = Rate(), Rate(), Lags()
        self.trades = self.events = self.gaps = self.rejects = self.direction = 0
        self.since = 0  #: The venue's time of the first trade: its candle is not whole.
        self.since_recv = 0  #: Our time from which on all trades are here.
        self._channel = ""  # of the trades that count: another may have the same trades again
        self._trade: Trade | None = None  # the newest by the venue's time
        self._quote: Quote | None = None
        self._ticker: Ticker | None = None

    def add(
        self, kind: type, channel: str, events: Sequence[Any], share: Share, levels: int
    ) -> None:
        """Add events of one class and channel, in the order of arrival."""
        if len(self.newest) < _CHANNELS or channel in self.newest:
            self.newest[channel] = max(self.newest.get(channel, 0), events[-1].recv)
        self.events += len(events)
        self.event_rate.add(events)
        add = _ADD.get(kind)
        if add is not None:
            add(self, events, share)
        elif kind is Book:
            self._add_books(channel, events, share, levels)

    def _add_trades(self, events: Sequence[Trade], share: Share) -> None:
        self._channel = self._channel or events[0].channel
        if events[0].channel != self._channel:
            return
        self.trades += len(events)
        self.trade_rate.add(events)
        self.lags.add(events, share.lags)
        ordered = in_order(events)
        self.since = self.since or ordered[0].ts
        self.since_recv = self.since_recv or events[0].recv
        for start, found in sums(ordered):
            self.seconds.add(start, found, share.seconds)
            self.minutes.add(start, found, share.minutes)
        self.tape.extend(events[-share.tape :])
        self._set_last(ordered)

    def restart(self, recv: int) -> None:
        """Begin anew with candles and tape: trades that were read before *recv* are missing."""
        self.seconds, self.minutes = Series(SECOND), Series(MINUTE)
        self.tape.clear()
        self.since, self.since_recv = 0, recv

    def count_trades(self, channel: str, number: int, last: Any, share: Share) -> None:
        """Count trades of which only the number and the last one are known."""
        self.newest[channel] = max(self.newest.get(channel, 0), last.recv)
        self.events += number
        self.event_rate.count(last.recv, number)
        self._channel = self._channel or channel
        if channel == self._channel:
            self.trades += number
            self.trade_rate.count(last.recv, number)
            self.lags.add([last], share.lags)
            self._set_last([last])

    def _set_last(self, ordered: Sequence[Trade]) -> None:
        newest, last = ordered[-1], self._trade
        if not newest.price.is_finite() or (last is not None and newest.ts < last.ts):
            return  # all are late, or fill a gap
        before = [last] if last is not None else []
        prices = [trade.price for trade in (*before, *ordered[-_LOOK_BACK:])]
        changed = next((price for price in reversed(prices) if price != newest.price), None)
        if changed is not None and changed.is_finite():
            self.direction = 1 if newest.price > changed else -1
        self._trade = newest

    def _add_quotes(self, events: Sequence[Quote], share: Share) -> None:
        self._quote = events[-1]
        self.lags.add(events, share.lags)

    def _add_bars(self, events: Sequence[Bar], share: Share) -> None:
        self.bars.add(events, share.minutes)

    def _add_tickers(self, events: Sequence[Ticker], _: Share) -> None:
        self._ticker = events[-1]

    def _add_books(self, channel: str, events: Sequence[Book], share: Share, levels: int) -> None:
        ladder = self.ladders.get(channel)
        if ladder is None:
            if len(self.ladders) == _LADDERS:
                return
            ladder = self.ladders[channel] = Ladder(channel, levels)
        ladder.add(events)
        self.lags.add(events, share.lags)

    def lost(self, event: BaseEvent) -> None:
        """Mark the ladders that *event*, a `Gap` or a `Status` about a book, is about as stale."""
        for channel, ladder in self.ladders.items():
            if event.channel in ("", channel):
                ladder.lost(event.recv)

    def trim(self, share: Share) -> None:
        """Keep no more than *share*."""
        self.seconds.trim(share.seconds)
        self.minutes.trim(share.minutes)
        self.bars.trim(share.minutes)
        self.lags.trim(share.lags)
        self.tape = deque(self.tape, share.tape)

    def concerns(self, gap: Gap) -> bool:
        """Return whether *gap* is about the channel that the candles are made of."""
        if gap.channel in ("", self._channel):
            return True
        # Where there are no trades, bars are shown, whatever their channel.
        return not self._channel and bool(self.bars.bars) and gap.channel in self.newest

    # ---------------------------------------------------------------------------------- for screens

    def ladder(self) -> Ladder | None:
        """Return the ladder that was updated last, or None."""
        return max(self.ladders.values(), key=lambda ladder: ladder.recv, default=None)

    def row(self, now: int, ahead: int) -> SymbolRow:
        """Return what a table shows; *ahead* is how far the venue's clock is ahead, in ns."""
        p50, p99 = self.lags.percentiles(now, ahead)
        bid, ask = self._best()
        return SymbolRow(
            self.venue, self.symbol, self._last(), self.direction, bid, ask,
            self.trades, self.events, self.trade_rate.at(now), self.event_rate.at(now), p50, p99,
            {channel: max(now - recv, 0) for channel, recv in self.newest.items()},
            self.gaps, self.rejects,
        )  # fmt: skip

    def _last(self) -> Decimal | None:
        if self._trade is not None:
            return self._trade.price
        if self.bars.last is not None:
            return self.bars.last.close
        return self._ticker.last if self._ticker is not None else None

    def _best(self) -> tuple[Decimal | None, Decimal | None]:
        """Return bid and ask of the newest quote, or of a ladder that is newer or has no quotes beside it."""
        ladder, quote = self.ladder(), self._quote
        if quote is not None and (ladder is None or quote.recv >= ladder.recv):
            return quote.bid, quote.ask
        if ladder is not None and ladder.state == "synced":
            bid, ask = ladder.best()
            return bid and bid[0], ask and ask[0]
        return (quote.bid, quote.ask) if quote is not None else (None, None)


_ADD: Mapping[type, Callable[[Instrument, Any, Share], None]] = {
    Trade: Instrument._add_trades,  # noqa: SLF001 - of the class above
    Quote: Instrument._add_quotes,  # noqa: SLF001
    Bar: Instrument._add_bars,  # noqa: SLF001
    Ticker: Instrument._add_tickers,  # noqa: SLF001
}
