"""What is asked of the gateway: contracts, and one line for each symbol and channel."""

from __future__ import annotations

import asyncio  # noqa: TID251 ib_async runs on nothing else
from typing import TYPE_CHECKING, Any, cast

from ib_async import IB, RequestError
from tapeloom.errors import ConnectionLost, SubscriptionRefused, SymbolError
from tapeloom.events import Event, GapCause, Status

from . import codes
from .contracts import chosen, contract, instrument
from .wire import Line, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from tapeloom.plugin import Feed

    from .pace import Pace
    from .settings import Settings

__all__ = ["Lines"]

_DATA = {"frozen": 2, "delayed": 3, "delayed-frozen": 4}


class Lines:
    """The subscriptions of one connection."""

    def __init__(
        self, feed: Feed, settings: Settings, pace: Pace, ib: IB, tell: Callable[[Event], None]
    ) -> None:
        self._feed, self._settings, self._pace = feed, settings, pace
        self._clock, self._ib, self._tell = feed.clock, ib, tell
        self._client: Any = ib.client  # its methods have no types
        self.asked: dict[str, Line] = {}  #: by request id
        self.wanted: dict[tuple[str, str], Line] = {}
        self._refused: dict[tuple[str, str], str] = {}
        self.stir = asyncio.Event()  #: somebody wants `follow`

    async def follow(self) -> None:
        """Ask for what is wanted and not asked for; drop what is not wanted."""
        feed = self._feed
        wanted = [(symbol, channel) for symbol in feed.symbols for channel in feed.channels]
        for key in [key for key in self.wanted if key not in wanted]:
            self.cancel(self.wanted.pop(key))
        for key in [key for key in self._refused if key not in wanted]:
            del self._refused[key]
        known = {symbol for symbol, _ in (*self.wanted, *self._refused)}
        new = [symbol for symbol in feed.symbols if symbol not in known]
        if new and feed.channels:
            if self._settings.market_data != "live" and not self.wanted:
                self._client.reqMarketDataType(_DATA[self._settings.market_data])
            await asyncio.gather(*(self._begin(symbol) for symbol in new))
        if wanted and not self.wanted:
            reasons = "; ".join(dict.fromkeys(self._refused.values()))
            raise SubscriptionRefused(feed.name, f"the venue refused everything: {reasons}")

    async def _begin(self, symbol: str) -> None:
        """Find the contract of *symbol* and ask for its channels."""
        feed = self._feed
        try:
            asked = contract(symbol, self._settings)
            found = await asyncio.wait_for(
                self._ib.reqContractDetailsAsync(asked), self._settings.answer_within
            )
            details = chosen(symbol, asked, found)
        except (RequestError, SymbolError) as problem:
            detail = codes.masked(str(problem))
            for channel in feed.channels:
                self._refused[symbol, channel] = detail
            now = self._clock.time_ns()
            self._tell(Status(feed.venue, symbol, now, now, "refused", detail))
            return
        except (TimeoutError, ConnectionError):
            raise ConnectionLost(feed.name, f"no answer about the contract of {symbol}") from None
        feed.listing.add(symbol, str(details.contract.conId) if details.contract else symbol)
        feed.listing.instruments[symbol] = instrument(symbol, details)
        if symbol not in feed.symbols:
            return  # it was dropped while we asked
        for channel in feed.channels:
            line = Line(feed.venue, symbol, channel, cast("Any", details.contract))
            if line.word == "book":
                line.rows = Rows(int(channel.partition(":")[2]), self._settings.depth_rows)
            elif line.word == "quotes" and self._settings.quotes == "top":
                line.top = {}
            self.wanted[symbol, channel] = line
            self.ask(line)

    def ask(self, line: Line) -> None:
        """Ask for *line*, or see to it that it is done when its time has come."""
        client, settings, now = self._client, self._settings, self._clock.monotonic()
        bars = line.word == "klines"
        if wait := self._pace.wait((line.symbol, line.channel), bars, now):
            line.retry = now + wait
            return
        line.retry, line.asked, line.req_id = None, now, client.getReqId()
        self.asked[str(line.req_id)] = line
        if line.rows is not None:
            line.rows.clear()
            rows = int(line.channel.partition(":")[2])
            client.reqMktDepth(line.req_id, line.contract, rows, self._smart(line), [])
        elif bars:
            client.reqRealTimeBars(
                line.req_id, line.contract, 5, self._what(line), settings.regular_hours, []
            )
        elif line.top is not None:
            line.top.clear()
            client.reqMktData(line.req_id, line.contract, "", False, False, [])
        else:
            kind = settings.trades if line.word == "trades" else "BidAsk"
            client.reqTickByTickData(line.req_id, line.contract, kind, 0, False)

    def _smart(self, line: Line) -> bool:
        return self._settings.smart_depth and line.contract.exchange == "SMART"

    def _what(self, line: Line) -> str:
        if self._settings.bars:
            return self._settings.bars
        return {"CASH": "MIDPOINT", "CRYPTO": "AGGTRADES"}.get(line.contract.secType, "TRADES")

    def cancel(self, line: Line) -> None:
        """Ask for *line* no longer."""
        if self.asked.pop(str(line.req_id), None) is None:
            return
        client = self._client
        if line.rows is not None:
            client.cancelMktDepth(line.req_id, self._smart(line))
        elif line.word == "klines":
            client.cancelRealTimeBars(line.req_id)
        elif line.top is not None:
            client.cancelMktData(line.req_id)
        else:
            client.cancelTickByTickData(line.req_id)

    def again(self, line: Line, cause: GapCause, *, after: float = 0.0, told: bool = False) -> None:
        """Ask for *line* anew. *told*: the venue itself has ended it."""
        if told:
            self.asked.pop(str(line.req_id), None)
        else:
            self.cancel(line)
        if line.live:
            line.hole = line.hole or cause
        line.asked = None
        if after:
            line.retry = self._clock.monotonic() + after
        else:
            self.ask(line)

    def refuse(self, line: Line, reason: str) -> None:
        """Take note that the venue will not have it."""
        key = line.symbol, line.channel
        self.asked.pop(str(line.req_id), None)
        self.wanted.pop(key, None)
        self._refused[key] = reason
        self.stir.set()  # it may have been the last one

    def due(self, now: float) -> None:
        """Ask again for what is to be asked again, and tell what has stayed silent."""
        within = self._settings.data_within
        for line in self.wanted.values():
            if line.retry is not None and now >= line.retry:
                self.ask(line)
            elif line.asked is not None and now >= line.asked + within:
                line.asked = None
                detail = f"nothing has come in {within:g} s; the market may be shut"
                self._tell(line.status("stale", detail, self._clock.time_ns()))
