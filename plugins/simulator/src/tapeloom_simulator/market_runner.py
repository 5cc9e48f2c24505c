"""Advance the market in step with the wall clock and send its events to the clients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import anyio
from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from .hub import Hub
    from .injector import Injector
    from .market import SimulatedMarket
    from .server import Server
    from .truth import Truth

__all__ = ["MarketRunner"]

_SECOND = 1_000_000_000
_SLICE = 256  # orders between two flushes of the connections
_QUANTUM = 0.002  # seconds; events within are sent together
_MAX_SLEEP_SECONDS = 0.02  # seconds to sleep at most: clients may connect and faults become due
_ROUND = (
    2 * _SECOND
)  # ns; after the last trade time goes on to a multiple, so that timed streams send once more
_HIGH_WATER = 1 << 20  # bytes a client may be behind before the market waits for it


class MarketRunner:
    """Runs the market at `speed` times real time; infinite: as fast as the clients can receive.

    `slow` is how to treat a client that is too far behind: "cut" resets its connection, "wait" makes
    the market wait for it. At infinite speed the market always waits. `since` is the time on the event
    loop's clock at which the market's time began; None: when `run` is called.
    """

    def __init__(
        self,
        market: SimulatedMarket,
        hub: Hub,
        server: Server,
        truth: Truth,
        injector: Injector | None,
        *,
        speed: float,
        slow: Literal["cut", "wait"],
        backlog: int,
        since: float | None = None,
    ) -> None:
        self._market, self._hub, self._server = market, hub, server
        self._truth, self._injector = truth, injector
        self._speed = speed
        self._wait = slow == "wait" or math.isinf(speed)
        self._backlog = backlog
        self._since = since
        self.finished = anyio.Event()
        self.halted = False  #: set to True to stop the market

    async def run(self) -> None:
        """Run until halted; `finished` is set when the last trade of a limited market was sent."""
        market, speed = self._market, self._speed
        if math.isinf(speed):
            while market.trades_left != 0 and self._is_running():
                await self._advance(market.now + _SECOND)
                await checkpoint()
            speed = 1.0
        origin, begin = anyio.current_time(), market.now
        if self._since is not None:
            origin, begin = self._since, market.epoch
        while self._is_running():
            if market.trades_left == 0 and not self.finished.is_set():
                await self._advance((market.now // _ROUND + 1) * _ROUND)
                await self._wait_until_sent()
                self.finished.set()
                origin, begin = anyio.current_time(), market.now
            await anyio.sleep(self._sleep_seconds(speed))
            await self._advance(begin + int((anyio.current_time() - origin) * speed * _SECOND))

    def _is_running(self) -> bool:
        return not self.halted

    def _sleep_seconds(self, speed: float) -> float:
        """Return the seconds until the next order or tick, between _QUANTUM and _MAX_SLEEP_SECONDS."""
        now = self._market.now
        due_times = [
            due for due in (self._market.next_order_at, self._hub.next_tick(now)) if due is not None
        ]
        wait = (min(due_times) - now) / _SECOND / speed if due_times else _MAX_SLEEP_SECONDS
        return min(_MAX_SLEEP_SECONDS, max(_QUANTUM, wait))

    async def _advance(self, target: int) -> None:
        """Advance the market to *target* and publish every tick that is due on the way."""
        market, hub = self._market, self._hub
        if self._injector is not None:
            self._injector.inject_timed(self._server.connections)
        while market.now < target and self._is_running():
            tick = hub.next_tick(market.now)
            next_stop = target if tick is None else min(tick, target)
            while True:
                steps = market.advance(next_stop, _SLICE)
                self._truth.record_steps(steps)
                hub.publish_steps(steps)
                if len(steps) < _SLICE or market.trades_left == 0:
                    break
                await self._flush()
                if not self._is_running():
                    return
            if next_stop == tick and market.now >= next_stop:
                hub.publish_tick(next_stop)
            await self._flush()

    async def _flush(self) -> None:
        """Flush the connections; wait for slow clients or reset their connections."""
        connections = self._server.connections
        for connection in connections:
            connection.flush()
        await checkpoint()
        if self._wait:
            while any(connection.backlog > _HIGH_WATER for connection in connections):  # noqa: ASYNC110
                await anyio.sleep(0.0005)
            return
        for connection in list(connections):
            if connection.backlog > self._backlog:
                connection.abort("slow")

    async def _wait_until_sent(self) -> None:
        """Wait until all queued bytes are written to the sockets."""
        while any(connection.backlog for connection in self._server.connections):  # noqa: ASYNC110
            await anyio.sleep(0.001)  # no event reports that the bytes were written
