"""Watches one exchange through ccxt: a task for each symbol and channel, and a watchdog over all.

A watch call of ccxt returns what is new since the one before, never says when it has begun, and may
never return. So each task asks again at once and never waits for a consumer in between, nothing
counts as alive but what came, and what has been silent for too long is begun anew.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 (ccxt works on nothing else)
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from tapeloom.errors import (
    ConnectionLost,
    FeedError,
    SubscriptionRefused,
    SymbolError,
    nearest,
    unwrap_single,
)
from tapeloom.events import Event, GapCause, Reject, Status
from tapeloom.plugin import Feed, channel_parts

from .exchange import KINDS, instruments
from .outbox import Outbox
from .pulse import Pulse
from .settings import ExchangeSettings
from .shapes import CrossedError, reader
from .topic import STRIKES, Topic
from .trouble import failure, remedy, throttled

__all__ = ["CcxtSource"]

Deliver = Callable[[list[Event]], Awaitable[None]]

_WITHIN = 60.0  #: seconds within which a topic may fail so often, and no more
_MOST_DOUBT = 64
_LAG = 1.0  #: seconds by which what is live may lag behind the rest when a connection ends
_PATIENCE = 5.0  #: seconds that ccxt gets to let go of something


class CcxtSource:
    """Data of one exchange, as ccxt brings it. `make` makes a ccxt object of it.

    It works on asyncio only, because ccxt does.
    """

    backends = frozenset({"asyncio"})
    resumes = False

    def __init__(self, feed: Feed, settings: ExchangeSettings, make: Any) -> None:
        self.channels: frozenset[str] = make.channels
        self._feed, self._clock = feed, feed.clock
        self._settings, self._make = settings, make
        self._topics: dict[tuple[str, str], Topic] = {}
        self._markets: tuple[Any, Any] | None = None
        self._out, self._renamed = Outbox(), anyio.Event()
        self._failed: FeedError | None = None
        self._everything: anyio.CancelScope | None = None

    def symbols_changed(self) -> None:
        """Take note that the feed's symbols are others now."""
        self._renamed.set()

    async def run(self, deliver: Deliver) -> None:
        """Watch everything that the feed asks for.

        Raises ConnectionFailed, ConnectionLost or Throttled where the exchange must be opened anew,
        SymbolError for what it does not list, LoginRefused, and SubscriptionRefused where it refuses
        all that was asked for.
        """
        self._failed = self._everything = None
        self._out.open()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._out.empty, deliver)
                try:
                    async with self._opened() as exchanges:
                        await self._watch_all(exchanges)
                finally:  # what came before the end is still delivered
                    self._out.close()
        except BaseExceptionGroup as group:
            raise unwrap_single(group) from None
        if self._failed is not None:
            raise self._failed

    def _status(self, topic: Topic, state: str, detail: str) -> Status:
        now = self._clock.time_ns()
        return Status(self._feed.venue, topic.symbol, now, now, state, detail, topic.channel)

    # ---------------------------------------------------------------------------------- the exchange

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[dict[str, Any]]:
        """Open the exchange, and close it whatever happens.

        Some exchanges make quotes of the same book that `book` is made of, and spoil it. Where both
        are wanted, quotes have a ccxt object of their own.
        """
        words = {channel_parts(channel)[0] for channel in self._feed.channels}
        first = self._make(self._bad_frame)
        exchanges = dict.fromkeys(KINDS, first)
        if words >= {"quotes", "book"}:
            exchanges["quotes"] = self._make(self._bad_frame)
        try:
            await self._load(first)
            for one in _distinct(exchanges)[1:]:
                if self._markets is not None:
                    one.set_markets(*self._markets)
            yield exchanges
        finally:
            with anyio.move_on_after(_PATIENCE, shield=True):
                async with anyio.create_task_group() as tasks:
                    for one in _distinct(exchanges):
                        tasks.start_soon(one.close)

    async def _load(self, exchange: Any) -> None:
        """Learn what the exchange lists; once is enough for the life of the feed."""
        if self._markets is not None:
            exchange.set_markets(*self._markets)
            return
        try:
            await exchange.load_markets()
        except Exception as error:
            reason = f"the markets of {self._make.name} cannot be loaded: {self._told(error)}"
            headers = exchange.last_response_headers
            raise failure(
                self._feed.name, error, reason, headers, self._feed.clock.time_ns()
            ) from error
        self._markets = exchange.markets, exchange.currencies
        self._feed.listing.instruments.update(instruments(exchange))
        known = self._feed.listing.instruments
        unknown = [symbol for symbol in self._feed.symbols if symbol not in known]
        if unknown:
            problems = (
                f"{self._make.name} does not list {s!r}.{nearest(s, known)}" for s in unknown
            )
            raise SymbolError(f"feed {self._feed.name!r}: {' '.join(problems)}")

    def _told(self, error: BaseException) -> str:
        text = self._make.hide(str(error))
        return f"{type(error).__name__}: {text}" if text else type(error).__name__

    def _bad_frame(self, frame: Any, error: Exception) -> None:
        """Take note of a frame on which ccxt failed."""
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            now = self._clock.time_ns()
            evidence = str(frame)[:200]
            self._out.put([Reject(self._feed.venue, "", now, now, "unreadable_frame", evidence)])
            return
        # What it was about is half done, perhaps to a book.
        self._fail(ConnectionLost("", f"ccxt failed on a frame: {self._told(error)}"))

    def _fail(self, error: FeedError) -> None:
        """End the run with *error*, if it has not ended yet."""
        self._failed = self._failed or error
        if self._everything is not None:
            self._everything.cancel()

    # ------------------------------------------------------------------------------------- the topics

    async def _watch_all(self, exchanges: dict[str, Any]) -> None:
        async with anyio.create_task_group() as tasks:
            self._everything = tasks.cancel_scope
            self._forget()
            tasks.start_soon(self._guard, exchanges)
            while True:
                self._renamed = anyio.Event()
                self._match(exchanges, tasks)
                await self._renamed.wait()

    def _forget(self) -> None:
        """Begin with nothing live. Core tells of the hole that all of it has since the last event.

        What fell silent before that, on a dead connection of its own, has a longer one.
        """
        latest = max((topic.heard for topic in self._topics.values()), default=0.0)
        for topic in self._topics.values():
            if topic.live and latest - topic.heard > _LAG:
                topic.hole = topic.hole or "silence"
            topic.read.renew()
            topic.live = topic.anew = False

    def _match(self, exchanges: dict[str, Any], tasks: anyio.abc.TaskGroup) -> None:
        """Begin what is asked for and not watched, and end what is watched and not asked for."""
        spelled = {symbol.upper(): symbol for symbol in self._markets[0]} if self._markets else {}
        wanted = {(s, c) for s in self._feed.symbols for c in self._feed.channels}
        for key in [key for key in self._topics if key not in wanted]:
            topic = self._topics.pop(key)
            if topic.scope is not None:
                topic.scope.cancel()
            tasks.start_soon(self._let_go, exchanges, topic)
        for symbol, channel in sorted(wanted):
            topic = self._topics.get((symbol, channel)) or self._new(symbol, channel)
            topic.native = spelled.get(symbol, symbol)
            if symbol in self._feed.listing.instruments:
                self._feed.listing.add(symbol, self._feed.listing.instruments[symbol].native)
            if topic.scope is None and not topic.refused:
                topic.scope = anyio.CancelScope()
                tasks.start_soon(self._watch, exchanges, topic)

    def _new(self, symbol: str, channel: str) -> Topic:
        settings = self._settings
        read = reader(
            self._feed,
            symbol,
            channel,
            numbered=settings.numbered_trades,
            snapshot_every=settings.snapshot_every,
        )
        topic = Topic(self._feed.venue, symbol, channel, read)
        self._topics[symbol, channel] = topic
        if topic.word == "book":
            detail = f"{self._make.name}: ccxt does not tell whether it checks this book for lost updates"
            self._out.put([self._status(topic, "unproven", detail)])
        return topic

    async def _watch(self, exchanges: dict[str, Any], topic: Topic) -> None:
        """Watch one topic until it is cancelled, is refused, or everything must be opened anew."""
        exchange = exchanges[topic.word]
        scope = topic.scope
        assert scope is not None
        topic.heard, limit = self._clock.monotonic(), self._settings.book_limit
        try:
            with scope:
                while True:
                    try:
                        got = await topic.watch(exchange, self._params(topic), limit)
                        holed = bool(topic.hole)
                        self._out.put(topic.take(exchange, got, *self._now()))
                        self._feed.counters["gaps"] += holed and not topic.hole
                    except asyncio.CancelledError:
                        if _meant_for_us():
                            raise
                        # ccxt cancels whoever waits on a connection that it gives up, and whoever
                        # waits for the same as somebody else who was cancelled.
                        self._strike(
                            topic, ConnectionLost("", f"{topic}: ccxt gave it up"), "disconnect"
                        )
                    except Exception as error:
                        if not await self._overcome(exchange, topic, error):
                            return
                    await self._out.room()
        except FeedError as error:
            self._fail(error)
        finally:
            if topic.scope is scope:
                topic.scope = None

    def _params(self, topic: Topic) -> Mapping[str, Any]:
        return self._settings.params.get(topic.word, {})

    def _now(self) -> tuple[float, int]:
        return self._clock.monotonic(), self._clock.time_ns()

    # ------------------------------------------------------------------------------------ the troubles

    async def _overcome(self, exchange: Any, topic: Topic, error: Exception) -> bool:
        """Do what helps against *error*; return whether to go on watching.

        Raises FeedError where everything must be opened anew.
        """
        what, reason = remedy(error), f"{topic}: {self._told(error)}"
        match what:
            case "login":
                raise failure(
                    self._feed.name, error, reason, None, self._feed.clock.time_ns()
                ) from error
            case "wait":
                headers = exchange.last_response_headers
                raise throttled(reason, headers, self._feed.clock.time_ns()) from error
            case "reopen":
                raise ConnectionLost("", reason) from error
            case "retry" if not topic.live and len(topic.strikes) == STRIKES:
                return self._refuse(topic, self._told(error))
            case "refused":
                return self._refuse(topic, self._told(error))
        if isinstance(error, CrossedError):
            self._strike(topic, error, "crossed")
            await self._begin_anew(exchange, topic)
            return True
        self._strike(topic, error, "sequence" if what == "again" else "error")
        if what == "retry":
            await self._clock.sleep(0.1 * 2 ** len(topic.strikes))
        return True

    def _strike(self, topic: Topic, error: Exception, cause: GapCause) -> None:
        """Note a failed watch, and a hole in what has been live.

        Raises ConnectionLost where that has happened too often.
        """
        now = self._clock.monotonic()
        if len(topic.strikes) == STRIKES and now - topic.strikes[0] < _WITHIN:
            reason = f"{topic}: {self._told(error)}, again and again"
            raise ConnectionLost("", reason) from error
        topic.strikes.append(now)
        topic.interrupt(cause)

    def _refuse(self, topic: Topic, reason: str) -> bool:
        topic.refused = True
        self._out.put([self._status(topic, "refused", reason)])
        if all(one.refused for one in self._topics.values()):
            raise SubscriptionRefused(
                self._feed.name,
                f"{self._make.name} refuses all that was asked for, at last {topic}: {reason}."
                " Correct the channels of this feed.",
            )
        return False

    async def _begin_anew(self, exchange: Any, topic: Topic) -> None:
        """Let go of a topic, so that watching it subscribes again.

        Raises ConnectionLost where ccxt cannot do that for this exchange, or does not manage.
        """
        if not await self._let_go_of(exchange, topic):
            raise ConnectionLost("", f"{topic} is hung and cannot be begun anew alone")

    async def _let_go(self, exchanges: dict[str, Any], topic: Topic) -> None:
        await self._let_go_of(exchanges[topic.word], topic)

    async def _let_go_of(self, exchange: Any, topic: Topic) -> bool:
        if not self._make.has.get(topic.kind.un_has):
            return False
        with anyio.move_on_after(_PATIENCE):
            try:
                await topic.un_watch(exchange, self._params(topic))
            except asyncio.CancelledError:
                if _meant_for_us():
                    raise
            except Exception:
                return False
            else:
                return True
        return False

    # ------------------------------------------------------------------------------------ the watchdog

    async def _guard(self, exchanges: dict[str, Any]) -> None:
        """Look for connections that bring no byte, and for topics that bring nothing new."""
        settings = self._settings
        pulse = Pulse()
        try:
            while True:
                await self._clock.sleep(min(settings.silence, settings.stall, 8.0) / 8)
                silence = pulse.silence(_distinct(exchanges), self._clock.monotonic())
                if silence >= settings.silence:
                    raise ConnectionLost("", f"a connection has been silent for {silence:g} s")
                await self._prod(exchanges)
        except FeedError as error:
            self._fail(error)

    async def _prod(self, exchanges: dict[str, Any]) -> None:
        """Begin anew what has been silent for too long."""
        now, stall = self._clock.monotonic(), self._settings.stall
        running = [topic for topic in self._topics.values() if topic.scope is not None]
        for topic in running:
            # What has never come is looked after sooner: its subscription may have been lost.
            limit = (stall if topic.live else stall / 4) * topic.doubt
            if now - topic.heard < limit:
                continue
            topic.heard = now
            self._out.put([self._status(topic, "stale", f"nothing new for {limit:g} s")])
            lost = ConnectionLost("", f"{topic} has brought nothing for {limit:g} s")
            if topic.anew or not topic.live:
                topic.doubt = min(topic.doubt * 2, _MOST_DOUBT)
            able = self._make.has.get(topic.kind.un_has)
            if topic.live and (topic.anew or not able):
                raise lost
            if not able and not any(one.live for one in running):
                raise lost
            if able:
                await self._restart(exchanges, topic, lost)

    async def _restart(self, exchanges: dict[str, Any], topic: Topic, lost: ConnectionLost) -> None:
        topic.interrupt("stall")
        if topic.scope is not None:
            topic.scope.cancel()
        if not await self._let_go_of(exchanges[topic.word], topic):
            raise lost
        topic.scope, topic.anew = None, True
        self._renamed.set()


def _distinct(exchanges: dict[str, Any]) -> list[Any]:
    """Return each ccxt object once."""
    return list({id(one): one for one in exchanges.values()}.values())


def _meant_for_us() -> bool:
    """Tell whether the task that runs was cancelled, and not just the future for which it waited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
