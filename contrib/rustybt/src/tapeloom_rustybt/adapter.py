"""The guide's calls `connect`, `subscribe`, `stream` and `disconnect`, on a stream of tapeloom."""

from __future__ import annotations

# The guide opens and closes a stream in different tasks, but a stream of tapeloom must be opened and
# closed in the same one. So the adapter runs it in a task of its own, which needs asyncio: anyio
# has no tasks without a surrounding block.
import asyncio  # noqa: TID251
import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import anyio
import attrs
import tapeloom
from attrs import field, frozen
from tapeloom import Bar, Event, FeedSpec, QueueSpec, Registry, Secret, Stack, Status, Stream, Trade
from tapeloom.plugin import channel_parts
from tapeloom.symbols import resolve

from ._startup import check_reachable, wait_for_listing
from .bar import market_data
from .queue import BarQueue, StreamEnded

__all__ = ["Venue", "WebSocketAdapter"]

#: The interval that makes one bar per trade.
TICK = "tick"
#: The states of a Status after which the venue is connected, and those after which it is not.
_CONNECTED_STATES = frozenset({"connected", "logged_in", "subscribed", "live"})
_DISCONNECTED_STATES = frozenset({"reconnecting", "login_refused", "failed", "ended"})


@frozen(kw_only=True)
class Venue:
    """What the guide's arguments mean at one venue.

    `key` and `secret` are the settings for the API keys, `testnet` the settings of the test network,
    `settings` those that are always set. `per_market` is the setting that holds a table per market,
    if there is one. `stablecoin` is the settlement currency of names such as ``BTC-PERP``. `lateness`
    is how long a bar waits for late trades; it must be longer than the venue's polling interval.
    """

    plugin: str
    market: str = ""
    channels: tuple[str, ...] = ("trades",)
    key: str = "api_key"
    secret: str = "api_secret"  # noqa: S105 the name of a setting
    testnet: Mapping[str, Any] = field(factory=lambda: {"testnet": True})
    settings: Mapping[str, Any] = field(factory=dict)
    per_market: str = ""
    stablecoin: str = "USDT"
    lateness: str = "500ms"


class WebSocketAdapter:
    """One venue with the guide's calls. Subclasses only set their `venue`.

    *interval* is the length of the bars, or "tick" for one bar per trade. *channels* are tapeloom's;
    with a `klines` channel the bars are the venue's own. *symbols* are subscribed by `connect`.
    *queue* bounds the queue of bars. *stages* adds settings of stages, by the stage's name. All other
    *settings* are those of the table ``[venue.…]`` of a stack, such as ``base_url=…``, which may also
    be in an environment variable such as ``TAPELOOM_BINANCE_BASE_URL``, so that a program runs against a
    simulator unchanged. Keys are not used if the venue's public data does not need them.
    """

    venue: ClassVar[Venue]

    def __init__(
        self,
        api_key: str | None = None,
        api_secret: str | None = None,
        testnet: bool = False,
        *,
        market: str | None = None,
        channels: Iterable[str] | None = None,
        interval: str = "1m",
        symbols: Iterable[str] = (),
        queue: QueueSpec | None = None,
        stages: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> None:
        venue = self.venue
        self._market = venue.market if market is None else market
        self._channels = venue.channels if channels is None else tuple(channels)
        self._interval = interval
        self._queue_spec = queue or QueueSpec()
        self._stages = {name: dict(table) for name, table in (stages or {}).items()}
        keys = {venue.key: api_key, venue.secret: api_secret}
        self._keys = {name: Secret(text) for name, text in keys.items() if text}
        address = os.environ.get(f"TAPELOOM_{venue.plugin.upper()}_BASE_URL")
        given = {**venue.settings, **(venue.testnet if testnet else {}), **settings}
        self._settings = {**({"base_url": address} if address else {}), **given}
        self._symbols_as_given: dict[str, str] = {}  # the caller's name by unified symbol
        self._remember(symbols)
        self._task: asyncio.Task[None] | None = None
        self._connect_lock = anyio.Lock()
        self._stopped = anyio.Event()
        self._stream: Stream | None = None
        self._queue: BarQueue | None = None
        self._connected = False

    # ------------------------------------------------------------------------------ the guide's calls

    async def connect(self) -> None:
        """Open the stream; return when the venue is connected. Does nothing if it already is.

        Raises ConnectionFailed if the venue cannot be reached, ConfigError or PluginError for wrong
        arguments, and the error of the feed if it has already failed because of its symbols. A
        connection that is lost later is restored automatically.
        """
        async with self._connect_lock:
            if self._task is None or self._task.done() or self._error is not None:
                await self.disconnect()
                await self._open()

    async def subscribe(self, symbols: Iterable[str]) -> None:
        """Subscribe to symbols. Before `connect`, they are remembered until then.

        Raises SymbolError for symbols that the venue does not list, and the error of the feed if it
        has failed. Subscriptions are kept over reconnections and over a `disconnect`.
        """
        new = [
            symbol
            for symbol in self._unified_symbols(symbols)
            if symbol not in self._symbols_as_given
        ]
        if self._error is not None:
            raise self._error
        if self._stream is not None and new:
            await self._stream.add(*new)
        self._remember(symbols)

    async def unsubscribe(self, symbols: Iterable[str]) -> None:
        """Unsubscribe from symbols."""
        removed = [
            symbol
            for symbol in self._unified_symbols(symbols)
            if self._symbols_as_given.pop(symbol, None)
        ]
        if self._stream is not None and removed:
            await self._stream.drop(*removed)

    async def stream(self) -> BarQueue:
        """Return the queue of closed bars, which is the same until `disconnect`.

        Raises RuntimeError before `connect`.
        """
        if self._queue is None:
            raise RuntimeError("there is no stream yet. Call connect() first.")
        return self._queue

    async def disconnect(self) -> None:
        """Close the stream. Bars that were read stay in the queue; after them, `get` raises StreamEnded.

        If it is cancelled, it closes at once. Raises the error of the stream, unless it is an error
        of the feed.
        """
        self._stopped.set()
        task = self._task
        if task is None:
            return
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            raise
        if self._task is task:
            self._task = None
            if not task.cancelled():
                task.result()

    @property
    def active_subscriptions(self) -> tuple[str, ...]:
        """The unified symbols that are subscribed to."""
        return tuple(self._symbols_as_given)

    @property
    def tapeloom(self) -> Stream:
        """The stream of tapeloom, with quotes, books, gaps, rejects and counters; while connected only."""
        if self._stream is None:
            raise RuntimeError("there is no stream yet. Call connect() first.")
        return self._stream

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.disconnect()

    # ------------------------------------------------------------------------------------ broker calls

    async def subscribe_market_data(self, assets: Iterable[Any]) -> None:
        """Subscribe to assets: objects with a `symbol`, or symbols."""
        await self.subscribe([getattr(asset, "symbol", asset) for asset in assets])

    async def unsubscribe_market_data(self, assets: Iterable[Any]) -> None:
        """Unsubscribe from assets: objects with a `symbol`, or symbols."""
        await self.unsubscribe([getattr(asset, "symbol", asset) for asset in assets])

    async def get_next_market_data(self) -> dict[str, Any] | None:
        """Wait for the next bar; return it as RustyBT's `DataFeed` reads it, None after the end.

        `asset` is the symbol as the caller wrote it in `subscribe`.
        """
        try:
            bar = await (await self.stream()).get()
        except StreamEnded:
            return None
        return market_data(bar, self._symbols_as_given.get(bar.symbol, bar.symbol))

    def is_connected(self) -> bool:
        """Return whether the venue is connected, by its latest Status."""
        return self._connected

    # --------------------------------------------------------------------------------------- internals

    @property
    def _error(self) -> Exception | None:
        return None if self._stream is None else self._stream.error

    def _unified_symbols(self, symbols: Iterable[str]) -> list[str]:
        if isinstance(symbols, str):
            symbols = [symbols]
        return list(dict.fromkeys(map(self._unified, symbols)))

    def _remember(self, symbols: Iterable[str]) -> None:
        for text in [symbols] if isinstance(symbols, str) else symbols:
            self._symbols_as_given.setdefault(self._unified(text), text)

    def _unified(self, text: str) -> str:
        return resolve(text, stablecoin=self.venue.stablecoin)

    async def _open(self) -> None:
        """Start the task that runs the stream, and wait until it is connected."""
        self._stopped = anyio.Event()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._run(ready), name=f"{self.venue.plugin} adapter")
        self._task = task
        try:
            await ready
        except BaseException:
            self._task = None
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # mark it as retrieved, or asyncio logs it; the error is raised here
            raise

    async def _run(self, ready: asyncio.Future[None]) -> None:
        """Run the stream until `disconnect`."""
        try:
            async with tapeloom.open(self.stack()) as stream:
                await check_reachable(stream)
                types: tuple[type[Event], ...] = (Trade,) if self._interval == TICK else (Bar,)
                spec = self._queue_spec
                stream.on(Status)(self._on_status)
                self._queue = BarQueue(
                    stream.consume(*types, size=spec.size, policy=spec.policy, name="bars")
                )
                await wait_for_listing(stream)
                if stream.error is not None:
                    raise stream.error
                self._stream, self._connected = stream, True
                ready.set_result(None)
                await self._stopped.wait()
        except Exception as error:
            if ready.done():  # connect() has returned, or was cancelled
                raise
            ready.set_exception(error)
        finally:
            self._stream, self._connected = None, False

    def _on_status(self, status: Status) -> None:
        if not status.symbol and status.state in _CONNECTED_STATES | _DISCONNECTED_STATES:
            self._connected = status.state in _CONNECTED_STATES

    def stack(self) -> Stack:
        """Return the stack that this adapter runs."""
        names = {channel_parts(channel)[0] for channel in self._channels}
        stages = ["quality"]
        if self._interval != TICK and "klines" not in names:
            stages.append("bars")
        extra = dict(self._stages)
        tables = {
            "quality": {**extra.pop("quality", {})},
            # The guide has one bar per interval, so a late trade is rejected and does not revise the bar.
            "bars": {
                "every": self._interval,
                "revise": False,
                "lateness": self.venue.lateness,
                **extra.pop("bars", {}),
            },
        }
        return Stack(
            feeds=[
                FeedSpec(
                    self.venue.plugin,
                    list(self._symbols_as_given),
                    self._channels,
                    market=self._market,
                    stages=[*stages, *extra],
                )
            ],
            stages={name: tables[name] for name in stages} | extra,
            venues={self.venue.plugin: self._table()},
        )

    def _table(self) -> dict[str, Any]:
        """Return the venue's table, with those of the given keys that the plugin has settings for."""
        if self.venue.per_market:
            return {self.venue.per_market: {self._market: {**self._keys, **self._settings}}}
        cls = Registry().call(self.venue.plugin, "settings")
        known = attrs.fields_dict(cls) if cls is not None else {}
        keys = {name: secret for name, secret in self._keys.items() if name in known}
        return {**keys, **self._settings}
