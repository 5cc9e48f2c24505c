"""Run a simulated venue in this process.

async with serve("binance", symbols=["BTC/USDT"], seed=7, rate=50) as sim:
    print(sim.url, sim.settings)
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import anyio

from .faults import Fault, check, load
from .frames import frame
from .hub import Hub
from .injector import Injector, faults_of
from .market import EPOCH, SimulatedMarket
from .market_runner import MarketRunner
from .registry import venue_server
from .server import Server
from .server_api import Framing
from .truth import Truth

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Sequence

    from .listings import Listed
    from .server_api import Market, VenueServer

__all__ = ["Simulation", "serve"]

_DRAIN_SECONDS = 5.0  # seconds to send queued frames when the simulation stops
_CLIENT_CLOSE_SECONDS = 0.2  # seconds for clients to close; some close only when their user does


def open_text(path: str | Path) -> IO[str]:
    """Open a file to write text into."""
    return Path(path).open("w", encoding="utf-8")


class Simulation:
    """A running simulated venue.

    `url` is its address, `settings` the venue's table for a stack that connects to it, `market` the
    simulated market, `truth` the ground truth, `venue` the venue's server side.
    """

    def __init__(
        self, url: str, market: SimulatedMarket, venue: VenueServer, truth: Truth, server: Server,
        runner: MarketRunner,
    ) -> None:  # fmt: skip
        self.url, self.market, self.truth, self.venue = url, market, truth, venue
        self.settings: dict[str, Any] = venue.settings(url)
        self._server, self._runner = server, runner
        self._begin = anyio.Event()

    @property
    def connections(self) -> int:
        """How many clients are connected, over WebSocket or plain TCP."""
        return len(self._server.connections)

    def begin(self) -> None:
        """Start the market."""
        self._begin.set()

    @property
    def has_finished(self) -> bool:
        """Whether the last trade of a market with a limited number of trades was sent."""
        return self._runner.finished.is_set()

    async def finished(self) -> None:
        """Wait until the last trade of a market with a limited number of trades was sent."""
        await self._runner.finished.wait()

    async def stop(self) -> None:
        """Stop the market, send queued frames and close every connection.

        REST requests are still answered, so that a test can compare the final state.
        """
        self._runner.halted = self._server.closed = True
        connections = self._server.connections
        for connection in list(connections):
            connection.announce_shutdown()
        with anyio.move_on_after(_DRAIN_SECONDS):
            while any(connection.backlog for connection in connections):  # noqa: ASYNC110
                await anyio.sleep(0.002)
        with anyio.move_on_after(_CLIENT_CLOSE_SECONDS):
            while connections:  # noqa: ASYNC110
                await anyio.sleep(0.002)


@asynccontextmanager
async def serve(
    venue: str | Callable[[Market], VenueServer],
    *,
    symbols: Sequence[str | Listed] = ("BTC/USDT", "ETH/USDT"),
    seed: int = 0,
    rate: float = 100.0,
    trades: int | None = None,
    speed: float = 1.0,
    start: Literal["now", "first_subscription", "manual"] | int = "now",
    slow: Literal["cut", "wait"] = "cut",
    faults: Sequence[Fault] | str | Path = (),
    time_scale: float = 1.0,
    limits: bool = True,
    epoch: int | None = EPOCH,
    depth: int = 200,
    backlog: int = 16 << 20,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    truth: str | Path | None = None,
    keep: bool = True,
) -> AsyncIterator[Simulation]:
    """Simulate *venue* and listen until the `async with` block ends.

    *venue* is the name of a simulator, or a function that creates its server side.

    The market has *symbols*, makes *rate* trades a second of its own time, *trades* at most, and runs
    *speed* times as fast as the wall clock (`math.inf`: as fast as clients can receive). It begins
    at once, with the first subscription, after that number of subscriptions, or when `begin` is
    called. A client that is more than *backlog* bytes behind is disconnected, or waited for (*slow*).
    *time_scale* divides the venue's own intervals: pings, ages, windows of its limits. *truth* names
    a file for the ground truth; with `keep=False` no events are kept in memory. *epoch* is the market's
    time at its start, in ns; None: its time is ours, from this call on.

    Raises PluginNotFound, PluginBroken, SymbolError, ConfigError (in the faults), OSError.
    """
    if not speed > 0 or not time_scale > 0 or math.isinf(time_scale):
        raise ValueError(f"speed and time_scale must be above 0, not {speed} and {time_scale}")
    # Clients compare the venue's times with their own, so the time that the preparation takes counts.
    since = anyio.current_time() if epoch is None else None
    began = time.time_ns() if epoch is None else epoch
    market = SimulatedMarket(symbols, seed=seed, rate=rate, trades=trades, epoch=began, depth=depth)
    venue_side = venue_server(venue, market) if isinstance(venue, str) else venue(market)
    own = faults_of(venue_side)
    listed = load(Path(faults), own) if isinstance(faults, str | Path) else list(faults)
    check(listed, own)
    with ExitStack() as files:
        log = files.enter_context(open_text(truth)) if truth else None
        record = Truth(market, keep=keep, log=log)
        injector = Injector(listed, market, venue_side, record, seed) if listed else None
        framing = venue_side if isinstance(venue_side, Framing) else None
        hub = Hub(record, injector, framing.frame if framing else frame)
        server = Server(venue_side, hub, record, injector, scale=time_scale, enforce=limits)
        if injector is not None:
            injector.end_connection = server.end_connection
        runner = MarketRunner(
            market,
            hub,
            server,
            record,
            injector,
            speed=speed,
            slow=slow,
            backlog=backlog,
            since=since,
        )
        listener, port = await server.listen(host, port, tls)
        scheme = "tcp" if framing else "http"
        url = f"{scheme}{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"
        sim = Simulation(url, market, venue_side, record, server, runner)
        start_at = {"now": 0, "first_subscription": 1, "manual": math.inf}.get(str(start), start)

        async def drive() -> None:
            while hub.subscription_count < start_at and not sim._begin.is_set():  # type: ignore[operator]  # noqa: SLF001
                with anyio.move_on_after(0.005):
                    await sim._begin.wait()  # noqa: SLF001
            await runner.run()

        failure: Exception | None = None
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, server.handle)
            tasks.start_soon(server.enforce_timeouts)
            tasks.start_soon(drive)
            # Raise an exception of the block as it is, not wrapped in an exception group.
            try:
                yield sim
            except Exception as problem:
                failure = problem
            tasks.cancel_scope.cancel()
        record.write_books()
        if failure is not None:
            raise failure
