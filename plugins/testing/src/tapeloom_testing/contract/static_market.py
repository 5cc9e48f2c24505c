"""A static market: a single trade per symbol, and no time passes.

The server side of a venue answers subscriptions from it, so that messages and replies are checked
without a running simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal

from tapeloom.symbols import Symbol
from tapeloom_simulator.server_api import (
    BookSnapshot,
    MarketBar,
    MarketStep,
    MarketTrade,
    TopOfBook,
    VenueStream,
)

__all__ = ["EPOCH", "StillInstrument", "StillLine", "StillMarket"]

#: The time of the market and of the trade: 2026-01-01 00:00 UTC, in ns.
EPOCH = 1_767_225_600_000_000_000
#: Levels on each side of the book.
_LEVELS = 50
#: The price of the trade, in ticks.
_MIDDLE = 100_000
#: In ns.
_MINUTE = 60_000_000_000


class StillInstrument:
    """One symbol with a static book and a single trade."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.parsed_symbol = Symbol.parse(symbol)
        self.tick = Decimal("0.01")
        self.lot = Decimal("0.001")
        self.last_update_id = 1
        self.last_trade: MarketTrade | None = MarketTrade(1, _MIDDLE, 5, True, EPOCH, 1)
        self._bids = [(_MIDDLE - 1 - level, 10 + level) for level in range(_LEVELS)]
        self._asks = [(_MIDDLE + 1 + level, 10 + level) for level in range(_LEVELS)]

    def top_of_book(self) -> TopOfBook:
        """Return the best bid and ask."""
        return TopOfBook(*self._bids[0], *self._asks[0])

    def book_snapshot(self, depth: int, lag: int = 0) -> BookSnapshot:
        """Return *depth* levels a side."""
        return BookSnapshot(self.last_update_id, self._bids[:depth], self._asks[:depth])

    def changes_since(self, since: int) -> tuple[dict[int, int], dict[int, int]]:
        """Return the changed levels: always the best level of each side."""
        return dict(self._bids[:1]), dict(self._asks[:1])

    def trades(self, first: int, limit: int) -> list[MarketTrade]:
        """Return the single trade, where its id lies in the range."""
        return [self.last_trade] if self.last_trade and first <= 1 <= limit else []

    def aggregate_trades(self, first: int, limit: int) -> list[list[MarketTrade]]:
        """Return the single trade as an aggregate trade."""
        return [trades] if (trades := self.trades(first, limit)) else []

    def first_trade_since(self, ts: int) -> MarketTrade | None:
        """Return the single trade, unless it is before *ts* (ns)."""
        return self.last_trade if ts <= EPOCH else None

    def bar(self, interval: str, ts: int) -> MarketBar | None:
        """Return the bar of the single trade, one minute long."""
        return self.last_24h(ts)

    def bars(self, interval: str, since: int, until: int, limit: int) -> list[MarketBar]:
        """Return the bar of the single trade, one minute long."""
        return [self.last_24h(since)] if since <= EPOCH <= until and limit > 0 else []

    def last_24h(self, now: int) -> MarketBar:
        """Return the bar of the single trade, one minute long."""
        price, value = _MIDDLE, _MIDDLE * 5
        until = EPOCH + _MINUTE
        return MarketBar(EPOCH, until, price, price, price, price, 5, value, 5, value, 1, 1, 1)

    def step(self, number: int) -> MarketStep:
        """Return the market step of an additional trade; the state does not change."""
        ts = EPOCH + number * 1_000_000_000
        trade = MarketTrade(number, _MIDDLE - number, 5 + number, number % 2 == 0, ts, number)
        best = TopOfBook(_MIDDLE - 1 - number, 10 + number, *self._asks[0])
        return MarketStep(self.symbol, ts, [trade], number, number, best)


class StillMarket:
    """A market whose clock always shows EPOCH."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.instruments = {symbol: StillInstrument(symbol) for symbol in symbols}
        self.now = self.venue_clock = self.epoch = EPOCH


class StillLine:
    """The venue's end of a connection without a network: records subscriptions and the close."""

    def __init__(self) -> None:
        self.counts_as_open = True
        self.closed: tuple[int, str] | None = None
        self._streams: dict[str, tuple[VenueStream, str, str]] = {}

    @property
    def subscriptions(self) -> Collection[VenueStream]:
        """The streams the client has subscribed to."""
        return [stream for stream, _, _ in self._streams.values()]

    def encode_updates(
        self, number: int, instruments: Mapping[str, StillInstrument]
    ) -> Iterator[str]:
        """Yield the messages of all streams after the *number*-th trade of every symbol."""
        for stream, before, after in self._streams.values():
            for instrument in (
                instruments.values() if stream.symbol == "" else [instruments[stream.symbol]]
            ):
                step = stream.encode_step(instrument.step(number)) if not stream.interval_ns else ()
                tick = stream.encode_tick(EPOCH + number * _MINUTE) if stream.interval_ns else ()
                yield from (before + text + after for text in (*step, *tick))

    def subscribe(self, stream: VenueStream, before: str = "", after: str = "") -> None:
        """Record a subscribed stream, with the text *before* and *after* each message."""
        if stream.name not in self._streams:
            stream.start()
        self._streams[stream.name] = stream, before, after

    def unsubscribe(self, stream: VenueStream) -> None:
        """Remove a stream."""
        self._streams.pop(stream.name, None)

    def close(self, code: int, reason: str = "") -> None:
        """Record the close code and reason."""
        self.closed = code, reason

    def call_later(self, seconds: float, act: Callable[[], Sequence[str]]) -> None:
        """Do nothing: no time passes."""
