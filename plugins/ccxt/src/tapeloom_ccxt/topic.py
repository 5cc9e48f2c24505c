"""One symbol and channel that is watched, with its state over the life of the feed."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Mapping
from typing import Any, Literal

import anyio
from attrs import define, field
from tapeloom.events import Event, GapCause, Reject
from tapeloom.plugin import Gaps, Loss, channel_parts
from tapeloom.plugin.bounds import reject_out_of_bounds

from .exchange import KINDS, Kind
from .parsers import ChannelParser

__all__ = ["MAX_FAILURES", "Topic"]

#: Number of failures of a topic that are remembered.
MAX_FAILURES = 3


@define(eq=False)
class Topic:
    """One symbol and channel. `native` is ccxt's name of the symbol."""

    gaps: Gaps
    symbol: str
    channel: str
    parse: ChannelParser
    native: str = ""
    #: When new data came, or when it was first requested, on the monotonic clock.
    last_data_at: float = 0.0
    live: bool = False  #: whether data came since the exchange was opened
    last_ts: int = 0  #: `ts` of the last event
    gap_cause: GapCause | Literal[""] = ""  #: cause of a gap that has not been reported yet
    restarted: bool = False  #: whether it was restarted, and no data has come since
    stall_factor: int = 1  #: factor of its stall timeout, raised when a silence proved harmless
    refused: bool = False
    #: Times of the last failures, on the monotonic clock.
    failures: deque[float] = field(factory=lambda: deque(maxlen=MAX_FAILURES))
    scope: anyio.CancelScope | None = None

    def __str__(self) -> str:
        return f"{self.symbol} {self.channel}"

    @property
    def name(self) -> str:
        """The channel without its parameter."""
        return channel_parts(self.channel)[0]

    @property
    def kind(self) -> Kind:
        """Ccxt's flags and calls for this channel."""
        return KINDS[self.name]

    def watch(self, exchange: Any, params: Mapping[str, Any], limit: int | None) -> Awaitable[Any]:
        """Call the ``watch`` method of ccxt; return its awaitable, which waits for new data."""
        keywords = {"limit": limit} if self.name == "book" and limit is not None else {}
        call = getattr(exchange, self.kind.watch)
        return call(*self._arguments(), **keywords, params=dict(params))  # type: ignore[no-any-return]

    def un_watch(self, exchange: Any, params: Mapping[str, Any]) -> Awaitable[Any]:
        """Call the ``un_watch`` method of ccxt; return its awaitable, which unsubscribes."""
        call = getattr(exchange, self.kind.un_watch)
        return call(*self._arguments(), params=dict(params))  # type: ignore[no-any-return]

    def _arguments(self) -> list[Any]:
        parameter = channel_parts(self.channel)[1]
        if self.name == "klines":
            return [self.native, parameter]
        return [[self.native]] if self.name == "quotes" else [self.native]

    def process(self, exchange: Any, data: Any, now: float, recv: int) -> list[Event]:
        """Return the events of what `watch` returned, with a Gap before them if one is open.

        Must be called without an await after `watch`, because ccxt changes the data later.
        """
        if self.name == "trades":
            data = self._drain_cache(exchange, data)
        events = reject_out_of_bounds(self.parse(data, recv))
        valid = [event for event in events if type(event) is not Reject]
        # Without a valid event, it is a repetition: ccxt may return known data any number of times.
        if valid:
            if self.gap_cause:
                place = events.index(valid[0])
                events[place:place] = self._open_gap(valid[0], recv)
            self.last_ts = max(self.last_ts, valid[-1].ts)
            self.last_data_at, self.live, self.restarted = now, True, False
        return events

    def _drain_cache(self, exchange: Any, data: Any) -> list[Any]:
        """Return a copy of *data* and clear ccxt's cache; open a gap if the cache was full."""
        trades = list(data)  # *data* may be the cache itself
        cache = exchange.trades.get(self.native)
        size = getattr(cache, "max_size", None)
        if size and len(trades) >= size:
            self.gap_cause = self.gap_cause or "overflow"
        if cache is not None and hasattr(cache, "clear"):
            cache.clear()
        return trades

    def interrupt(self, cause: GapCause) -> None:
        """Open a gap if the topic was live, and reset its parser."""
        self.parse.reset()
        if self.live:
            self.gap_cause = self.gap_cause or cause

    def _open_gap(self, event: Event, recv: int) -> list[Event]:
        cause, self.gap_cause = self.gap_cause, ""
        assert cause
        until = max(event.ts, self.last_ts)
        since = self.last_ts or until
        loss = Loss(self.symbol, self.channel, since=since, until=until, recv=recv, cause=cause)
        return self.gaps.open(loss)
