"""The subscriptions of one connection: it finds contracts, requests data and cancels it."""

from __future__ import annotations

import asyncio  # noqa: TID251 ib_async runs on nothing else
from typing import TYPE_CHECKING, Any, cast

from ib_async import IB, RequestError
from tapeloom.errors import ConnectionLost, SubscriptionRefused, SymbolError
from tapeloom.events import Event, GapCause, Status

from . import codes
from .contracts import chosen, contract, instrument
from .wire import BookRows, SubscriptionState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tapeloom.plugin import Feed

    from .pacing import Pacing
    from .settings import Settings

__all__ = ["Subscriptions"]

#: The TWS API's numbers of market data types; live is the default.
_DATA_TYPES = {"frozen": 2, "delayed": 3, "delayed-frozen": 4}


class Subscriptions:
    """The subscriptions of one connection, one per symbol and channel.

    *emit* is called with each Status.
    """

    def __init__(
        self, feed: Feed, settings: Settings, pacing: Pacing, ib: IB, emit: Callable[[Event], None]
    ) -> None:
        self._feed, self._settings, self._pacing = feed, settings, pacing
        self._clock, self._ib, self._emit = feed.clock, ib, emit
        self._client: Any = ib.client  # its methods have no types
        self.by_request: dict[str, SubscriptionState] = {}  #: by request id
        self.active: dict[tuple[str, str], SubscriptionState] = {}  #: by symbol and channel
        self._refused: dict[tuple[str, str], str] = {}
        self.changed = asyncio.Event()  #: set when `update` is to be called

    async def update(self) -> None:
        """Subscribe to the feed's new symbols, and cancel those that it has no longer.

        Raises SubscriptionRefused if the venue refuses every subscription.
        """
        feed = self._feed
        keys = [(symbol, channel) for symbol in feed.symbols for channel in feed.channels]
        for key in [key for key in self.active if key not in keys]:
            self.cancel(self.active.pop(key))
        for key in [key for key in self._refused if key not in keys]:
            del self._refused[key]
        known = {symbol for symbol, _ in (*self.active, *self._refused)}
        new = [symbol for symbol in feed.symbols if symbol not in known]
        if new and feed.channels:
            if self._settings.market_data != "live" and not self.active:
                self._client.reqMarketDataType(_DATA_TYPES[self._settings.market_data])
            await asyncio.gather(*(self._start(symbol) for symbol in new))
        if keys and not self.active:
            reasons = "; ".join(dict.fromkeys(self._refused.values()))
            raise SubscriptionRefused(feed.name, f"the venue refused every subscription: {reasons}")

    async def _start(self, symbol: str) -> None:
        """Find the contract of *symbol* and subscribe to its channels.

        Raises ConnectionLost if the gateway does not answer.
        """
        feed = self._feed
        try:
            requested = contract(symbol, self._settings)
            found = await asyncio.wait_for(
                self._ib.reqContractDetailsAsync(requested), self._settings.answer_within
            )
            details = chosen(symbol, requested, found)
        except (RequestError, SymbolError) as problem:
            detail = codes.masked(str(problem))
            for channel in feed.channels:
                self._refused[symbol, channel] = detail
            now = self._clock.time_ns()
            self._emit(Status(feed.venue, symbol, now, now, "refused", detail))
            return
        except (TimeoutError, ConnectionError):
            raise ConnectionLost(feed.name, f"no answer about the contract of {symbol}") from None
        feed.listing.add(symbol, str(details.contract.conId) if details.contract else symbol)
        feed.listing.instruments[symbol] = instrument(symbol, details)
        if symbol not in feed.symbols:
            return  # it was removed during the request
        for channel in feed.channels:
            state = SubscriptionState(feed.venue, symbol, channel, cast("Any", details.contract))
            if state.channel_name == "book":
                state.rows = BookRows(int(channel.partition(":")[2]), self._settings.depth_rows)
            elif state.channel_name == "quotes" and self._settings.quotes == "top":
                state.top = {}
            self.active[symbol, channel] = state
            self.request(state)

    def request(self, state: SubscriptionState) -> None:
        """Send the request of a subscription, or schedule it if the limits do not allow it yet."""
        client, settings, now = self._client, self._settings, self._clock.monotonic()
        is_bars = state.channel_name == "klines"
        if wait := self._pacing.wait_seconds((state.symbol, state.channel), is_bars, now):
            state.retry_at = now + wait
            return
        state.retry_at, state.requested_at, state.req_id = None, now, client.getReqId()
        self.by_request[str(state.req_id)] = state
        if state.rows is not None:
            state.rows.clear()
            rows = int(state.channel.partition(":")[2])
            client.reqMktDepth(state.req_id, state.contract, rows, self._is_smart(state), [])
        elif is_bars:
            shown = self._bars_shown(state)
            hours = settings.regular_hours
            client.reqRealTimeBars(state.req_id, state.contract, 5, shown, hours, [])
        elif state.top is not None:
            state.top.clear()
            client.reqMktData(state.req_id, state.contract, "", False, False, [])
        else:
            kind = settings.trades if state.channel_name == "trades" else "BidAsk"
            client.reqTickByTickData(state.req_id, state.contract, kind, 0, False)

    def _is_smart(self, state: SubscriptionState) -> bool:
        """Return whether a market depth is that of all exchanges."""
        return self._settings.smart_depth and state.contract.exchange == "SMART"

    def _bars_shown(self, state: SubscriptionState) -> str:
        """Return what bars show: the TWS API's ``whatToShow``."""
        if self._settings.bars:
            return self._settings.bars
        return {"CASH": "MIDPOINT", "CRYPTO": "AGGTRADES"}.get(state.contract.secType, "TRADES")

    def cancel(self, state: SubscriptionState) -> None:
        """Cancel the request of a subscription, if there is one."""
        if self.by_request.pop(str(state.req_id), None) is None:
            return
        client = self._client
        if state.rows is not None:
            client.cancelMktDepth(state.req_id, self._is_smart(state))
        elif state.channel_name == "klines":
            client.cancelRealTimeBars(state.req_id)
        elif state.top is not None:
            client.cancelMktData(state.req_id)
        else:
            client.cancelTickByTickData(state.req_id)

    def restart(
        self, state: SubscriptionState, cause: GapCause, *, after: float = 0.0, ended: bool = False
    ) -> None:
        """Request a subscription anew, *after* seconds; *cause* is that of the gap.

        *ended*: the venue has ended the subscription, so it is not cancelled.
        """
        if ended:
            self.by_request.pop(str(state.req_id), None)
        else:
            self.cancel(state)
        if state.live:
            state.gap_cause = state.gap_cause or cause
        state.requested_at = None
        if after:
            state.retry_at = self._clock.monotonic() + after
        else:
            self.request(state)

    def refuse(self, state: SubscriptionState, reason: str) -> None:
        """Record that the venue has refused a subscription."""
        key = state.symbol, state.channel
        self.by_request.pop(str(state.req_id), None)
        self.active.pop(key, None)
        self._refused[key] = reason
        self.changed.set()  # `update` raises if this was the last one

    def check_due(self, now: float) -> None:
        """Send the requests that are due, and report subscriptions without data as stale."""
        timeout = self._settings.data_within
        for state in self.active.values():
            if state.retry_at is not None and now >= state.retry_at:
                self.request(state)
            elif state.requested_at is not None and now >= state.requested_at + timeout:
                state.requested_at = None
                detail = f"no data in {timeout:g} s; the market may be closed"
                self._emit(state.status("stale", detail, self._clock.time_ns()))
