"""The stage `Bars`: adds trades to the bars of their symbol and inserts finished bars into the batch."""

from __future__ import annotations

from decimal import Decimal
from operator import length_hint
from typing import TYPE_CHECKING

from tapeloom.events import Event, Gap, Reject, Trade
from tapeloom.plugin import TradeBatch

from ._accumulator import without_rounding
from ._settings import Settings
from ._symbol_bars import SymbolBars
from ._venue_clock import VenueClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._symbol_bars import KeyedBar

__all__ = ["Bars"]

#: Placeholder for a subscription that is not known yet or does not count. No trade is in order for it,
#: so each goes to the slow path.
UNKNOWN_SYMBOL = SymbolBars("", "", Settings(every="1s"))
#: Bounds of a finite price times size.
_INFINITY = Decimal("Infinity")
_MINUS_INFINITY = -_INFINITY

#: An insertion: index of an event in the batch, events before it, events after it.
_Splice = tuple[int, list[Event], list[Event]]

#: Rules of rejects of a whole frame: which events it held is not known.
_FRAME_RULES = frozenset({"unreadable_frame", "parser_error", "corrupt_record"})


class Bars:
    """Add bars to the events of a feed (a `TimedStage`).

    Every event passes unchanged. A bar precedes the trade that closed it; a revision or a `Reject`
    follows the event that caused it. The output does not depend on how events are split into batches.
    """

    uses = frozenset({"trade"})
    adds = frozenset({"bar"})

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = VenueClock(settings.max_ahead)
        self._by_subscription_id: list[SymbolBars] = []  # index: subscription id of `TradeBatch`
        self._ignored_origin = "" if settings.history else "history"

    def __call__(self, events: list[Event]) -> list[Event]:
        """Return *events* with bars inserted; the same list object if there are none."""
        splices: list[_Splice] = []
        if type(events) is TradeBatch:
            without_rounding(self._process_trades, events, splices)
        else:
            self._process(events, splices)
        return _insert(events, splices) if splices else events

    def _process_trades(self, events: TradeBatch, splices: list[_Splice]) -> None:
        """Add the trades of a batch; trades not in order go to `_rollover`."""
        by_subscription_id = self._by_subscription_id
        trades = iter(events)
        with_ids = zip(trades, events.subscription_ids, strict=True)
        while (found := self._add_up(with_ids, events.validated)) is not None:
            trade, subscription_id = found
            index = len(events) - length_hint(trades) - 1
            if (
                subscription_id < len(by_subscription_id)
                and (symbol_bars := by_subscription_id[subscription_id]) is not UNKNOWN_SYMBOL
            ):
                if self._is_believed(symbol_bars, trade, index, splices):
                    self._rollover(symbol_bars, trade, index, splices)
            else:
                self._process((trade,), splices, index)
                self._record_subscription(trade, subscription_id)

    def _add_up(
        self, trades: Iterator[tuple[Trade, int]], validated: bool
    ) -> tuple[Trade, int] | None:
        """Add trades to the running sums until one needs more than that.

        It is out of order, ends a bar, is the first of its subscription, is too far ahead of our clock, or
        is not a finite number.
        Returns that trade and its subscription id; None if all were added.
        """
        clock, by_subscription_id = self._clock, self._by_subscription_id
        minus_infinity, infinity = _MINUS_INFINITY, _INFINITY
        allowed = clock.limit.allowed
        max_ts = None
        try:
            for trade, subscription_id in trades:
                symbol_bars = by_subscription_id[subscription_id]
                total = symbol_bars.running
                last = total.last_ts
                ts = trade.ts
                price = trade.price
                size = trade.size
                value = price * size
                if not (
                    last <= ts < symbol_bars.in_order_until
                    and (validated or minus_infinity < value < infinity)
                ):
                    return trade, subscription_id
                if max_ts is None:  # all trades of the batch have one `recv`
                    recv = trade.recv
                    latest = recv + allowed
                    if ts > latest:
                        return trade, subscription_id
                    max_ts = clock.record_recv(recv)
                if ts > max_ts:
                    if ts > latest:
                        return trade, subscription_id
                    max_ts = ts
                # Parsers usually reuse the Decimal of an unchanged price, so the identity check is enough.
                if price is not total.close:
                    if price > total.high:
                        total.high = price
                    elif price < total.low:
                        total.low = price
                if trade.side == "buy":
                    total.buy_volume += size
                    total.buy_quote_volume += value
                else:
                    total.sell_volume += size
                    total.sell_quote_volume += value
                total.trades += 1
                if ts != last:
                    total.last_ts = ts
                    total.close = price
                    total.last_id = trade.id
                else:
                    total.update_first_and_last(trade)
        except IndexError:
            return trade, subscription_id  # the first trade of its subscription
        finally:
            if max_ts is not None:
                clock.raise_offset(max_ts)
                clock.last_ts = total.last_ts or clock.last_ts
        return None

    def _record_subscription(self, trade: Trade, subscription_id: int) -> None:
        """Record the symbol of a subscription id, if trades of its channel count."""
        by_id, symbol_bars = self._by_subscription_id, self._clock.symbols[trade.symbol]
        by_id.extend([UNKNOWN_SYMBOL] * (subscription_id + 1 - len(by_id)))
        if symbol_bars.channel == trade.channel:
            by_id[subscription_id] = symbol_bars

    def _process(self, events: Sequence[Event], splices: list[_Splice], first: int = 0) -> None:
        """Process events one by one; *first* is the index of the first one in its batch."""
        clock, ignored_origin = self._clock, self._ignored_origin
        symbols = clock.symbols
        for index, event in enumerate(events, first):
            if type(event) is Trade:
                try:
                    symbol_bars = symbols[event.symbol]
                except KeyError:
                    symbol_bars = clock.add_symbol(event.venue, event.symbol, self._settings)
                if (
                    event.channel is not symbol_bars.channel or event.origin == ignored_origin
                ) and not symbol_bars.accepts(event):
                    continue
                if self._is_believed(
                    symbol_bars, event, index, splices
                ) and not symbol_bars.add_in_order(event):
                    self._rollover(symbol_bars, event, index, splices)
            elif (type(event) is Gap and (changed := self._gap(event))) or (
                type(event) is Reject and (changed := self._rejected(event))
            ):
                splices.append((index, [], changed))

    def _is_believed(
        self, symbol_bars: SymbolBars, trade: Trade, index: int, splices: list[_Splice]
    ) -> bool:
        """Update the venue clock from a trade; return False, and reject it, if it is too far ahead."""
        clock, ts, recv = self._clock, trade.ts, trade.recv
        limit = clock.limit
        if ts - recv > limit.allowed and limit.exceeds(ts, recv, symbol_bars.newest_ts):
            splices.append((index, [], symbol_bars.reject_ahead(trade, limit.agreed)))
            return False
        max_ts = clock.record_recv(recv)
        if trade.origin == "live" or not clock.has_offset:
            clock.last_ts = ts
            if ts > max_ts:
                clock.raise_offset(ts)
        elif ts > recv + clock.estimated_offset + self._settings.lateness:
            symbol_bars.doubt(ts)  # a past trade of the future: the clock was set meanwhile
        return True

    def _rollover(
        self, symbol_bars: SymbolBars, trade: Trade, index: int, splices: list[_Splice]
    ) -> None:
        """Process a trade that ends a bar or is out of order."""
        before, after = symbol_bars.rollover(trade)
        self._clock.schedule(symbol_bars)
        if before or after:
            splices.append((index, before, after))

    @property
    def due(self) -> int | None:
        """Time on the clock of `recv`, in ns, at which the next bar closes: its end plus the lateness.

        None if no bar is waiting.
        """
        symbol_bars = self._clock.next_due()
        return None if symbol_bars is None else symbol_bars.wake_ts - self._clock.estimated_offset

    def tick(self, now: int) -> list[Event]:
        """Return the bars that close by *now*, ordered by end, interval and symbol."""
        rejects: list[Event] = []
        keyed_bars: list[KeyedBar] = []
        clock = self._clock
        projected = now + clock.estimated_offset
        while (symbol_bars := clock.next_due()) is not None and symbol_bars.wake_ts <= projected:
            new_rejects, closed_bars = symbol_bars.tick(projected, now)
            clock.schedule(symbol_bars)
            rejects += new_rejects
            keyed_bars += closed_bars
        return _sorted_bars(rejects, keyed_bars)

    def flush(self) -> list[Event]:
        """Return the bars that are still forming: neither closed nor complete."""
        rejects: list[Event] = []
        keyed_bars: list[KeyedBar] = []
        for symbol_bars in self._clock.symbols.values():
            new_rejects, forming_bars = symbol_bars.flush(self._clock.last_recv)
            rejects += new_rejects
            keyed_bars += forming_bars
        return _sorted_bars(rejects, keyed_bars)

    def _gap(self, gap: Gap) -> list[Event]:
        symbols = self._clock.symbols
        found = [symbols[gap.symbol]] if gap.symbol in symbols else []
        if not gap.symbol:
            found = list(symbols.values())
        return _sorted_bars([], [keyed for symbol_bars in found for keyed in symbol_bars.gap(gap)])

    def _rejected(self, reject: Reject) -> list[Event]:
        """Return revisions of the bars that lack a rejected trade, or may lack one of a frame.

        A duplicate is in its bar already. A frame that could not be read may have held a trade of any
        symbol.
        """
        symbols, trade = self._clock.symbols, reject.event
        if type(trade) is Trade:
            if reject.rule == "duplicate":
                return []
        elif trade is not None or reject.rule not in _FRAME_RULES:
            return []
        now = self._clock.now(reject.recv)
        found = [symbols[reject.symbol]] if reject.symbol in symbols else []
        if not reject.symbol:
            found = list(symbols.values())
        keyed = [bar for symbol_bars in found for bar in symbol_bars.rejected(reject, now)]
        return _sorted_bars([], keyed)


def _sorted_bars(rejects: list[Event], keyed_bars: list[KeyedBar]) -> list[Event]:
    keyed_bars.sort(key=lambda keyed: keyed[:3])
    rejects.extend(keyed[3] for keyed in keyed_bars)
    return rejects


def _insert(events: list[Event], splices: list[_Splice]) -> list[Event]:
    out: list[Event] = []
    done = 0
    for index, before, after in splices:
        out += events[done:index]
        out += before
        out.append(events[index])
        out += after
        done = index + 1
    out += events[done:]
    return out
