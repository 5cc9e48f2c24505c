"""A market in which one trade has happened in each symbol, and then nothing any more.

It is all that a venue's server side needs for a talk about subscriptions, so that the language of a
venue is proven without a simulator.
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

__all__ = ["EPOCH", "StillLine", "StillMarket", "StillPit"]

#: 2026-01-01 00:00 UTC.
EPOCH = 1_767_225_600_000_000_000
_LEVELS = 50
_MIDDLE = 100_000
_MINUTE = 60_000_000_000


class StillPit:
    """Where one symbol was traded, once."""

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
        """Return the levels that changed: one of each side, for ever."""
        return dict(self._bids[:1]), dict(self._asks[:1])

    def trades(self, first: int, limit: int) -> list[MarketTrade]:
        """Return the one trade."""
        return [self.last_trade] if self.last_trade and first <= 1 <= limit else []

    def aggregate_trades(self, first: int, limit: int) -> list[list[MarketTrade]]:
        """Return the one trade, as an aggregate of one."""
        return [some] if (some := self.trades(first, limit)) else []

    def first_trade_since(self, ts: int) -> MarketTrade | None:
        """Return the one trade, where it is not before *ts*."""
        return self.last_trade if ts <= EPOCH else None

    def bar(self, interval: str, ts: int) -> MarketBar | None:
        """Return the minute of the one trade."""
        return self.last_24h(ts)

    def bars(self, interval: str, since: int, until: int, limit: int) -> list[MarketBar]:
        """Return the minute of the one trade."""
        return [self.last_24h(since)] if since <= EPOCH <= until and limit > 0 else []

    def last_24h(self, now: int) -> MarketBar:
        """Return the one trade as a candle."""
        price, value = _MIDDLE, _MIDDLE * 5
        until = EPOCH + _MINUTE
        return MarketBar(EPOCH, until, price, price, price, price, 5, value, 5, value, 1, 1, 1)

    def step(self, number: int) -> MarketStep:
        """Return what a trade would do, if there were one more."""
        ts = EPOCH + number * 1_000_000_000
        fill = MarketTrade(number, _MIDDLE - number, 5 + number, number % 2 == 0, ts, number)
        best = TopOfBook(_MIDDLE - 1 - number, 10 + number, *self._asks[0])
        return MarketStep(self.symbol, ts, [fill], number, number, best)


class StillMarket:
    """A market whose time stands still."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.instruments = {symbol: StillPit(symbol) for symbol in symbols}
        self.now = self.venue_clock = self.epoch = EPOCH


class StillLine:
    """The venue's end of a connection that nothing travels on."""

    def __init__(self) -> None:
        self.counts_as_open = True
        self.closed: tuple[int, str] | None = None
        self._streams: dict[str, tuple[VenueStream, str, str]] = {}

    @property
    def subscriptions(self) -> Collection[VenueStream]:
        """What the client has subscribed to."""
        return [stream for stream, _, _ in self._streams.values()]

    def says(self, number: int, pits: Mapping[str, StillPit]) -> Iterator[str]:
        """Yield what is said on all streams at the *number*-th trade of every symbol."""
        for stream, before, after in self._streams.values():
            for pit in pits.values() if stream.symbol == "" else [pits[stream.symbol]]:
                step = stream.encode_step(pit.step(number)) if not stream.interval_ns else ()
                tick = stream.encode_tick(EPOCH + number * _MINUTE) if stream.interval_ns else ()
                yield from (before + text + after for text in (*step, *tick))

    def subscribe(self, stream: VenueStream, before: str = "", after: str = "") -> None:
        """Take note of a stream."""
        if stream.name not in self._streams:
            stream.start()
        self._streams[stream.name] = stream, before, after

    def unsubscribe(self, stream: VenueStream) -> None:
        """Take note that it is over."""
        self._streams.pop(stream.name, None)

    def close(self, code: int, reason: str = "") -> None:
        """Take note of the end."""
        self.closed = code, reason

    def call_later(self, seconds: float, act: Callable[[], Sequence[str]]) -> None:
        """Let it be: no time passes here."""
