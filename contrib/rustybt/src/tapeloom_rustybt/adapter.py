"""The guide's calls, `connect`, `subscribe`, `stream` and `disconnect`, on a stream of tapeloom's."""

from __future__ import annotations

# The guide's calls open and close a stream in different tasks of the caller's; a stream of tapeloom's
# lives in one. So there is a task for it, which only asyncio makes without a block around it.
import asyncio  # noqa: TID251
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import anyio
import attrs
import tapeloom
from attrs import field, frozen
from tapeloom import Bar, Event, FeedSpec, QueueSpec, Registry, Secret, Stack, Status, Stream, Trade
from tapeloom.plugin import channel_parts
from tapeloom.symbols import resolve

from ._arrival import listed, reach
from .bar import market_data
from .queue import BarQueue, StreamEnded

__all__ = ["Venue", "WebSocketAdapter"]

TICK = "tick"
_UP = frozenset({"connected", "logged_in", "subscribed", "live"})
_DOWN = frozenset({"reconnecting", "login_refused", "failed", "ended"})


@frozen(kw_only=True)
class Venue:
    """What the guide's arguments mean at one venue.

    `key` and `secret` are the settings that take the API keys, `testnet` the settings that mean the
    test network; `settings` are set in any case. `per_market` names the setting that holds a table
    for each market, where there is such a one. `stablecoin` is what a ``BTC-PERP`` is settled in.
    `lateness` is how long a bar waits for late trades: longer than the venue is polled.
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
    """One venue, through the guide's calls. Subclasses only name their `venue`.

    *interval* is the length of the bars, or "tick" for one bar per trade. *channels* are tapeloom's;
    with a `klines` channel the bars are the venue's own. *symbols* are subscribed with `connect`.
    *queue* bounds what waits for the reader. *stages* adds to the settings of the stages, by name.
    All further *settings* stand for the table ``[venue.…]`` of a stack: ``base_url=…``.
    Keys that the venue's public data does not need are not used.
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
        row = self.venue
        self._market = row.market if market is None else market
        self._channels = row.channels if channels is None else tuple(channels)
        self._interval = interval
        self._queue_spec = queue or QueueSpec()
        self._stages = {name: dict(table) for name, table in (stages or {}).items()}
        keys = {row.key: api_key, row.secret: api_secret}
        self._keys = {name: Secret(text) for name, text in keys.items() if text}
        self._settings = {**row.settings, **(row.testnet if testnet else {}), **settings}
        self._names: dict[str, str] = {}  # unified symbol → as the caller wrote it
        self._note(symbols)
        self._task: asyncio.Task[None] | None = None
        self._turn = anyio.Lock()
        self._stop = anyio.Event()
        self._stream: Stream | None = None
        self._queue: BarQueue | None = None
        self._up = False

    # ------------------------------------------------------------------------------ the guide's calls

    async def connect(self) -> None:
        """Open the stream; returns when the venue has been reached. Once connected, does nothing.

        Raises ConnectionFailed where it cannot be reached, ConfigError or PluginError where the
        adapter cannot work as it was made, and what the feed has ended with where its symbols have
        ended it already. A connection that is lost later is made again by itself.
        """
        async with self._turn:
            if self._task is None or self._task.done() or self._error is not None:
                await self.disconnect()
                await self._open()

    async def subscribe(self, symbols: Iterable[str]) -> None:
        """Stream these symbols too. Before `connect`, they are remembered for it.

        Raises SymbolError for one that the venue does not list, and what has ended the feed where
        that has ended. Subscriptions outlive every connection, and a `disconnect` as well.
        """
        new = [symbol for symbol in self._read(symbols) if symbol not in self._names]
        if self._error is not None:
            raise self._error
        if self._stream is not None and new:
            await self._stream.add(*new)
        self._note(symbols)

    async def unsubscribe(self, symbols: Iterable[str]) -> None:
        """Stream these symbols no more."""
        gone = [symbol for symbol in self._read(symbols) if self._names.pop(symbol, None)]
        if self._stream is not None and gone:
            await self._stream.drop(*gone)

    async def stream(self) -> BarQueue:
        """Return the queue of closed bars: one for the whole time that the adapter is connected.

        Raises RuntimeError before `connect`.
        """
        if self._queue is None:
            raise RuntimeError("there is no stream yet. Call connect() first.")
        return self._queue

    async def disconnect(self) -> None:
        """Read no more and let go. What was read stays in the queue; then its `get` raises StreamEnded.

        Cancelled, it lets go at once. Raises what the stream itself has failed with, where that was
        no failure of the feed.
        """
        self._stop.set()
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
        """The unified symbols that are subscribed."""
        return tuple(self._names)

    @property
    def tapeloom(self) -> Stream:
        """The stream itself: quotes, books, gaps, rejects, counters. Only while connected."""
        if self._stream is None:
            raise RuntimeError("there is no stream yet. Call connect() first.")
        return self._stream

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.disconnect()

    # ------------------------------------------------------------------------------ the broker's side

    async def subscribe_market_data(self, assets: Iterable[Any]) -> None:
        """Subscribe to assets: objects with a `symbol`, or symbols."""
        await self.subscribe([getattr(asset, "symbol", asset) for asset in assets])

    async def unsubscribe_market_data(self, assets: Iterable[Any]) -> None:
        """End the subscriptions of assets."""
        await self.unsubscribe([getattr(asset, "symbol", asset) for asset in assets])

    async def get_next_market_data(self) -> dict[str, Any] | None:
        """Wait for the next bar; return it as RustyBT's `DataFeed` reads it, None after the end.

        `asset` is the symbol as it was written when it was subscribed.
        """
        try:
            bar = await (await self.stream()).get()
        except StreamEnded:
            return None
        return market_data(bar, self._names.get(bar.symbol, bar.symbol))

    def is_connected(self) -> bool:
        """Tell whether the venue can be heard, as far as the latest change of state says."""
        return self._up

    # ----------------------------------------------------------------------------------------- inside

    @property
    def _error(self) -> Exception | None:
        return None if self._stream is None else self._stream.error

    def _read(self, symbols: Iterable[str]) -> list[str]:
        if isinstance(symbols, str):
            symbols = [symbols]
        return list(dict.fromkeys(map(self._unified, symbols)))

    def _note(self, symbols: Iterable[str]) -> None:
        for text in [symbols] if isinstance(symbols, str) else symbols:
            self._names.setdefault(self._unified(text), text)

    def _unified(self, text: str) -> str:
        return resolve(text, stablecoin=self.venue.stablecoin)

    async def _open(self) -> None:
        """Begin the task that the stream lives in, and wait until it does."""
        self._stop = anyio.Event()
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
                task.exception()  # asyncio wants it looked at; what matters is raised here
            raise

    async def _run(self, ready: asyncio.Future[None]) -> None:
        """Be the task that the stream lives in, until `disconnect`."""
        try:
            async with tapeloom.open(self.stack()) as stream:
                await reach(stream)
                types: tuple[type[Event], ...] = (Trade,) if self._interval == TICK else (Bar,)
                spec = self._queue_spec
                stream.on(Status)(self._watch)
                self._queue = BarQueue(
                    stream.consume(*types, size=spec.size, policy=spec.policy, name="bars")
                )
                await listed(stream)
                if stream.error is not None:
                    raise stream.error
                self._stream, self._up = stream, True
                ready.set_result(None)
                await self._stop.wait()
        except Exception as error:
            if ready.done():  # connect() has returned, or was cancelled
                raise
            ready.set_exception(error)
        finally:
            self._stream, self._up = None, False

    def _watch(self, status: Status) -> None:
        if not status.symbol and status.state in _UP | _DOWN:
            self._up = status.state in _UP

    def stack(self) -> Stack:
        """Return the stack that this adapter stands for."""
        words = {channel_parts(channel)[0] for channel in self._channels}
        stages = ["quality"]
        if self._interval != TICK and "klines" not in words:
            stages.append("bars")
        own = dict(self._stages)
        tables = {
            "quality": {**own.pop("quality", {})},
            # One bar for each interval, as the guide has it: a late trade is reported, not added.
            "bars": {
                "every": self._interval,
                "revise": False,
                "lateness": self.venue.lateness,
                **own.pop("bars", {}),
            },
        }
        return Stack(
            feeds=[
                FeedSpec(
                    self.venue.plugin,
                    list(self._names),
                    self._channels,
                    market=self._market,
                    stages=[*stages, *own],
                )
            ],
            stages={name: tables[name] for name in stages} | own,
            venues={self.venue.plugin: self._table()},
        )

    def _table(self) -> dict[str, Any]:
        """Return the venue's table, with the keys that were given and that its plugin knows."""
        if self.venue.per_market:
            return {self.venue.per_market: {self._market: {**self._keys, **self._settings}}}
        cls = Registry().call(self.venue.plugin, "settings")
        known = attrs.fields_dict(cls) if cls is not None else {}
        keys = {name: secret for name, secret in self._keys.items() if name in known}
        return {**keys, **self._settings}
