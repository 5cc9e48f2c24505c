"""One symbol and channel that is watched, and what is known of it for as long as the feed lives."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Mapping
from typing import Any, Literal

import anyio
from attrs import define, field
from tapeloom.events import Event, Gap, GapCause, Reject
from tapeloom.plugin import channel_parts

from .exchange import KINDS, Kind
from .shapes import Reader

__all__ = ["STRIKES", "Topic"]

STRIKES = 3  #: so many failures of a topic are remembered


@define(eq=False)
class Topic:
    """One symbol and channel. `native` is the symbol as ccxt spells it."""

    venue: str
    symbol: str
    channel: str
    read: Reader
    native: str = ""
    heard: float = 0.0  #: when something new came, or when it was asked for, on the monotonic clock
    live: bool = False  #: something came since the exchange was opened
    last: int = 0  #: the exchange's time of the last event
    hole: GapCause | Literal[""] = ""  #: the cause of one that has not been told yet
    anew: bool = False  #: it was begun anew, and nothing has come since
    doubt: int = 1  #: by how much longer its silence is suffered, having proved harmless
    refused: bool = False
    strikes: deque[float] = field(factory=lambda: deque(maxlen=STRIKES))
    scope: anyio.CancelScope | None = None

    def __str__(self) -> str:
        return f"{self.symbol} {self.channel}"

    @property
    def word(self) -> str:
        """The channel without its parameter."""
        return channel_parts(self.channel)[0]

    @property
    def kind(self) -> Kind:
        """How ccxt knows such channels."""
        return KINDS[self.word]

    def watch(self, exchange: Any, params: Mapping[str, Any], limit: int | None) -> Awaitable[Any]:
        """Return the call of ccxt that brings what is new."""
        keywords = {"limit": limit} if self.word == "book" and limit is not None else {}
        call = getattr(exchange, self.kind.watch)
        return call(*self._names(), **keywords, params=dict(params))  # type: ignore[no-any-return]

    def un_watch(self, exchange: Any, params: Mapping[str, Any]) -> Awaitable[Any]:
        """Return the call of ccxt that ends it."""
        call = getattr(exchange, self.kind.un_watch)
        return call(*self._names(), params=dict(params))  # type: ignore[no-any-return]

    def _names(self) -> list[Any]:
        parameter = channel_parts(self.channel)[1]
        if self.word == "klines":
            return [self.native, parameter]
        return [[self.native]] if self.word == "quotes" else [self.native]

    def take(self, exchange: Any, got: Any, now: float, recv: int) -> list[Event]:
        """Read what `watch` brought. Nothing may be awaited between the two."""
        if self.word == "trades":
            got = self._emptied(exchange, got)
        events = self.read(got, recv)
        place = next((n for n, one in enumerate(events) if type(one) is not Reject), None)
        if (
            place is not None
        ):  # else it was the same once more: ccxt may repeat what it has for ever
            if self.hole:
                events.insert(place, self._gap(events[place], recv))
            good = [one for one in events if type(one) is not Reject]
            self.last = max(self.last, good[-1].ts)
            self.heard, self.live, self.anew = now, True, False
        return events

    def _emptied(self, exchange: Any, got: Any) -> list[Any]:
        """Return *got* by itself, empty ccxt's cache, and note whether that had run over."""
        trades = list(got)  # it may be the cache
        cache = exchange.trades.get(self.native)
        size = getattr(cache, "max_size", None)
        if size and len(trades) >= size:
            self.hole = self.hole or "overflow"
        if cache is not None and hasattr(cache, "clear"):
            cache.clear()
        return trades

    def interrupt(self, cause: GapCause) -> None:
        """Note a hole in what has been live."""
        self.read.renew()
        if self.live:
            self.hole = self.hole or cause

    def _gap(self, event: Event, recv: int) -> Gap:
        cause, self.hole = self.hole, ""
        assert cause
        until = max(event.ts, self.last)
        return Gap(
            self.venue, self.symbol, until, recv, self.last or until, until, cause,
            None, "unrecoverable", self.channel,
        )  # fmt: skip
