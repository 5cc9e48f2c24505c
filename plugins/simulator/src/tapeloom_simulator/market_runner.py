"""Moves the market's time along the wall's, and what happens to the clients."""

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
_SLICE = 256  # orders between two looks at the clients
_QUANTUM = 0.002  # seconds: what happens within is sent together
_MAX_SLEEP_SECONDS = 0.02  # seconds to sleep at most: clients may come, and faults fall due
_ROUND = 2 * _SECOND  # after the last trade, every stream ticks once more
_HIGH_WATER = 1 << 20  # bytes a client may be behind where the market waits for it


class MarketRunner:
    """Runs the market at `speed` times the wall's pace; infinite: as fast as the clients take it.

    `slow` says what becomes of a client that is too far behind: "cut" or "wait". At infinite speed
    the market always waits.
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
    ) -> None:
        self._market, self._hub, self._server = market, hub, server
        self._truth, self._injector = truth, injector
        self._speed = speed
        self._wait = slow == "wait" or math.isinf(speed)
        self._backlog = backlog
        self.finished = anyio.Event()
        self.halted = False  #: set it, and the market stands still

    async def run(self) -> None:
        """Run until halted; `finished` is set when the last trade of a limited market was sent."""
        market, speed = self._market, self._speed
        if math.isinf(speed):
            while market.trades_left != 0 and self._runs():
                await self._until(market.now + _SECOND)
                await checkpoint()
            speed = 1.0
        origin, begin = anyio.current_time(), market.now
        while self._runs():
            if market.trades_left == 0 and not self.finished.is_set():
                await self._until((market.now // _ROUND + 1) * _ROUND)
                await self._drained()
                self.finished.set()
                origin, begin = anyio.current_time(), market.now
            await anyio.sleep(self._pause(speed))
            await self._until(begin + int((anyio.current_time() - origin) * speed * _SECOND))

    def _runs(self) -> bool:
        return not self.halted

    def _pause(self, speed: float) -> float:
        """Return how long nothing will happen, within reason."""
        now = self._market.now
        dues = [
            due for due in (self._market.next_order_at, self._hub.next_tick(now)) if due is not None
        ]
        wait = (min(dues) - now) / _SECOND / speed if dues else _MAX_SLEEP_SECONDS
        return min(_MAX_SLEEP_SECONDS, max(_QUANTUM, wait))

    async def _until(self, target: int) -> None:
        """Let the market go on to *target*, and every stream tick on the way."""
        market, hub = self._market, self._hub
        if self._injector is not None:
            self._injector.inject_timed(self._server.connections)
        while market.now < target and self._runs():
            tick = hub.next_tick(market.now)
            goal = target if tick is None else min(tick, target)
            while True:
                steps = market.advance(goal, _SLICE)
                self._truth.record_steps(steps)
                hub.publish_steps(steps)
                if len(steps) < _SLICE or market.trades_left == 0:
                    break
                await self._flush()
                if not self._runs():
                    return
            if goal == tick and market.now >= goal:
                hub.publish_tick(goal)
            await self._flush()

    async def _flush(self) -> None:
        """Let the connections send, and see to those that cannot keep up."""
        connections = self._server.connections
        for connection in connections:
            connection.flush()
        await checkpoint()
        if self._wait:
            while any(one.backlog > _HIGH_WATER for one in connections):  # noqa: ASYNC110
                await anyio.sleep(0.0005)
            return
        for connection in list(connections):
            if connection.backlog > self._backlog:
                connection.abort("slow")

    async def _drained(self) -> None:
        """Wait until the network has taken everything."""
        while any(one.backlog for one in self._server.connections):  # noqa: ASYNC110
            await anyio.sleep(0.001)  # bytes in the kernel's hands set no event
