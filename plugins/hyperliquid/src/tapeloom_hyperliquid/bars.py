"""Closing of Hyperliquid bars, which the venue does not mark as closed.

`BarCloser` stands between the parser of frames and its events. It decides from the frames and their
order alone, so that the same frames give the same events, live and from a tape, and independently
of how they are batched.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec import Struct
from tapeloom.events import Bar, Event
from tapeloom.plugin import Feed, HistoryQuery, TimeLimit

if TYPE_CHECKING:
    from tapeloom.events import Origin

    from .settings import Settings

__all__ = ["BarCloser", "BarMessage", "bar_event"]

#: Nanoseconds in a millisecond, the unit of the venue's times.
_MS = 1_000_000
#: A time that no message reaches, in ms: no bar is due.
_NEVER = 1 << 62
#: How far ahead of our time a time of the venue is believed, in ns, offset of the clocks included.
_MAX_AHEAD = 10_000_000_000


#: {"t":1764806400000,"T":1764892799999,"s":"HYPE","i":"1d","o":"34.668","c":"34.868",
#: "h":"36.219","l":"34.251","v":"3495670.8399999999","n":102895}
class BarMessage(Struct, gc=False):
    """A bar, without a mark whether it is closed. `T` is its last millisecond."""

    t: int
    T: int
    s: str
    i: str
    o: Decimal
    c: Decimal
    h: Decimal
    l: Decimal  # noqa: E741
    v: Decimal
    n: int


def bar_event(
    venue: str, symbol: str, message: BarMessage, recv: int, origin: Origin,
    *, closed: bool, complete: bool = True, revision: int = 0,
) -> Bar:  # fmt: skip
    """Return the `Bar` event of a message. The venue sends no sum but the volume: others are None."""
    m = message
    return Bar(
        venue, symbol, m.t * _MS, recv, m.i, m.o, m.h, m.l, m.c, m.v, None, None, None, m.n,
        closed, complete, revision, f"klines:{m.i}", origin,
    )  # fmt: skip


class _BarState:
    """The last bar of one coin and interval."""

    __slots__ = ("closed", "interrupted", "last", "symbol")

    def __init__(self, last: BarMessage, symbol: str) -> None:
        self.symbol = symbol
        self.start(last)

    def start(self, message: BarMessage) -> None:
        self.last = message
        #: `interrupted`: subscribed anew since the last message, so trades may be missing.
        self.closed = self.interrupted = False


class BarCloser:
    """Closes bars: when the next bar comes, or when the venue's time has passed their end.

    The venue's time is the newest time in any of its messages that is believed: not too far ahead of
    the time when the message was received, offset of the clocks included. A bar that changes after it
    was closed is sent again as a revision, which core numbers. A bar that may lack
    trades, because its subscription was renewed, is closed with `complete` False.
    """

    def __init__(self, feed: Feed, settings: Settings) -> None:
        self._feed = feed
        self._grace_ms = settings.bar_grace // _MS
        self._fill = settings.fill_bars
        self._states: dict[tuple[str, str], _BarState] = {}  # by coin and interval
        self._now_ms = 0  # the venue's time
        self._limit = TimeLimit(_MAX_AHEAD)
        #: The venue's time at which the next bar may be due, in ms; it may be too early, never late.
        self._due_ms = _NEVER

    def forget(self, key: tuple[str, str]) -> None:
        """Forget the bars of a coin and interval that are no longer subscribed to."""
        self._states.pop(key, None)

    def acknowledged(self, key: tuple[str, str]) -> None:
        """Mark the bar of a coin and interval, whose subscription was renewed, as interrupted."""
        if (state := self._states.get(key)) is not None:
            state.interrupted = True

    def advance(self, time_ms: int, recv: int, out: list[Event]) -> None:
        """Advance the venue's time to *time_ms*, and append the bars that this closes to *out*."""
        if time_ms <= self._now_ms or not self._believes(time_ms, recv):
            return
        self._now_ms = time_ms
        if time_ms < self._due_ms:
            return
        self._due_ms = _NEVER
        for state in self._states.values():
            if state.closed:
                continue
            due_ms = state.last.T + self._grace_ms
            if due_ms <= time_ms:
                self._close(state, recv, out)
            else:
                self._due_ms = min(self._due_ms, due_ms)

    def _believes(self, time_ms: int, recv: int) -> bool:
        limit, ts = self._limit, time_ms * _MS
        if limit.is_usual and ts <= recv + limit.allowed:
            return True
        return not limit.exceeds(ts, recv, self._now_ms * _MS)

    def process(self, message: BarMessage, symbol: str, recv: int, out: list[Event]) -> None:
        """Append the events of a bar message to *out*."""
        key = message.s, message.i
        state = self._states.get(key)
        if not self._believes(message.t, recv):
            self._emit(symbol, message, recv, out, closed=False)  # for the stages to reject
            return
        if state is None:
            state = self._states[key] = _BarState(message, symbol)
            self._opened(state, recv, out)
        elif message.t > state.last.t:
            self._roll_over(state, message, recv, out)
            state.start(message)
            self._opened(state, recv, out)
        elif message.t < state.last.t:
            self._emit(symbol, message, recv, out, closed=True, revision=1)
        elif not state.closed:
            # The message covers the whole bar, and so whatever an interruption has cost.
            state.last, state.interrupted = message, False
            self._emit(symbol, message, recv, out, closed=False)
        elif message != state.last:
            state.last = message
            self._emit(symbol, message, recv, out, closed=True, revision=1)

    def _opened(self, state: _BarState, recv: int, out: list[Event]) -> None:
        """Emit the first message of a bar."""
        message = state.last
        self.advance(message.t, recv, out)
        self._due_ms = min(self._due_ms, message.T + self._grace_ms)
        self._emit(state.symbol, message, recv, out, closed=False)

    def _roll_over(
        self, state: _BarState, message: BarMessage, recv: int, out: list[Event]
    ) -> None:
        """Close the bar before *message*, and query the bars that were skipped.

        Bars that were lost at a reconnect are queried by core.
        """
        since_ms = state.last.T + 1
        if not state.closed:
            self._close(state, recv, out)
        if self._fill and not state.interrupted and since_ms < message.t:
            channel, span = f"klines:{message.i}", (since_ms * _MS, message.t * _MS)
            self._feed.query_history(HistoryQuery("bars", state.symbol, channel, message.i, *span))

    def _close(self, state: _BarState, recv: int, out: list[Event]) -> None:
        state.closed = True
        complete = not state.interrupted
        self._emit(state.symbol, state.last, recv, out, closed=True, complete=complete)

    def _emit(
        self, symbol: str, message: BarMessage, recv: int, out: list[Event],
        *, closed: bool, complete: bool = True, revision: int = 0,
    ) -> None:  # fmt: skip
        flags = {"closed": closed, "complete": complete}
        venue = self._feed.venue
        out.append(bar_event(venue, symbol, message, recv, "live", **flags, revision=revision))
