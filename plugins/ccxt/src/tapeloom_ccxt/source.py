"""The source that watches an exchange through ccxt: a task per symbol and channel, and a watchdog.

A watch call of ccxt returns the new data since the last call. It does not report when it has
subscribed, and it may never return. So each task calls again at once and never waits for a
consumer, a topic counts as live only when data came, and a topic that is silent for too long is
restarted.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 (ccxt works on nothing else)
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from tapeloom.errors import ConnectionLost, FeedError, SubscriptionRefused, unwrap_single
from tapeloom.events import Event, GapCause, Reject, Status
from tapeloom.plugin import Feed, channel_parts

from .exchange import KINDS, instruments
from .liveness import Liveness
from .outbox import Outbox
from .parsers import CrossedError, make_parser
from .remedies import failure, remedy, throttled
from .settings import ExchangeSettings
from .topic import MAX_FAILURES, Topic

__all__ = ["CcxtSource"]

Deliver = Callable[[list[Event]], Awaitable[None]]

#: If a topic fails more than MAX_FAILURES times within this time, the exchange is opened anew.
_FAILURE_WINDOW_SECONDS = 60.0
#: The largest factor of a stall timeout: a quiet market is checked about every two hours at last.
_MAX_STALL_FACTOR = 64
#: How far a topic's last data may lie before that of others when a connection is lost. If it lies
#: further back, the topic has a gap of its own.
_MAX_LAG_SECONDS = 1.0
#: How long ccxt may take to unsubscribe or to close.
_CLOSE_TIMEOUT_SECONDS = 5.0


class CcxtSource:
    """The data of one exchange. *factory* creates ccxt objects of it, which need asyncio."""

    backends = frozenset({"asyncio"})
    resumes = False
    #: Not every exchange sends a time with them, and a change of a book has no number of its own.
    unidentified = frozenset({"book", "quotes", "ticker"})

    def __init__(self, feed: Feed, settings: ExchangeSettings, factory: Any) -> None:
        self.channels: frozenset[str] = factory.channels
        self._feed, self._clock = feed, feed.clock
        self._settings, self._factory = settings, factory
        self._topics: dict[tuple[str, str], Topic] = {}
        self._markets: tuple[Any, Any] | None = None
        self._outbox, self._symbols_changed = Outbox(), anyio.Event()
        self._error: FeedError | None = None
        self._all_tasks: anyio.CancelScope | None = None

    def symbols_changed(self) -> None:
        """Make the running source watch the feed's current symbols."""
        self._symbols_changed.set()

    async def run(self, deliver: Deliver) -> None:
        """Watch all symbols and channels of the feed.

        Raises ConnectionFailed, ConnectionLost or Throttled if the exchange must be opened anew,
        SymbolError for symbols that it does not list, LoginRefused, and SubscriptionRefused if it
        refuses every topic.
        """
        self._error = self._all_tasks = None
        self._outbox.open()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._outbox.deliver_all, deliver)
                try:
                    async with self._open_exchanges() as exchanges:
                        await self._watch_topics(exchanges)
                finally:  # events that came before the end are still delivered
                    self._outbox.close()
        except BaseExceptionGroup as group:
            raise unwrap_single(group) from None
        if self._error is not None:
            raise self._error

    def _status(self, topic: Topic, state: str, detail: str) -> Status:
        now = self._clock.time_ns()
        return Status(self._feed.venue, topic.symbol, now, now, state, detail, topic.channel)

    # ------------------------------------------------------------------------------------- exchange

    @asynccontextmanager
    async def _open_exchanges(self) -> AsyncIterator[dict[str, Any]]:
        """Open the exchange, and close it in the end; yield a ccxt object per channel name.

        For some exchanges, ccxt's quotes change the book that `book` is made of. If a feed has both,
        quotes get a ccxt object of their own.
        """
        names = {channel_parts(channel)[0] for channel in self._feed.channels}
        first = self._factory(self._bad_frame)
        exchanges = dict.fromkeys(KINDS, first)
        if names >= {"quotes", "book"}:
            exchanges["quotes"] = self._factory(self._bad_frame)
        try:
            await self._load_markets(first)
            for exchange in _distinct(exchanges)[1:]:
                if self._markets is not None:
                    exchange.set_markets(*self._markets)
            yield exchanges
        finally:
            with anyio.move_on_after(_CLOSE_TIMEOUT_SECONDS, shield=True):
                async with anyio.create_task_group() as tasks:
                    for exchange in _distinct(exchanges):
                        tasks.start_soon(exchange.close)

    async def _load_markets(self, exchange: Any) -> None:
        """Load the markets of the exchange, once in the life of the feed.

        Symbols that are not listed, or that are delisted, are removed from the feed with a Status.
        Raises SymbolError if no symbol is left, and the error of a failed request.
        """
        if self._markets is not None:
            exchange.set_markets(*self._markets)
            return
        try:
            await exchange.load_markets()
        except Exception as error:
            reason = (
                f"the markets of {self._factory.name} cannot be loaded: {self._error_text(error)}"
            )
            headers = exchange.last_response_headers
            raise failure(
                self._feed.name, error, reason, headers, self._feed.clock.time_ns()
            ) from error
        self._markets = exchange.markets, exchange.currencies
        self._feed.listing.update(instruments(exchange))
        now, detail = (
            self._clock.time_ns(),
            f"{self._factory.name}: {len(exchange.markets)} markets",
        )
        connected = Status(self._feed.venue, "", now, now, "connected", detail)
        self._outbox.push([connected, *self._feed.refuse_symbols(self._factory.name)])

    def _error_text(self, error: BaseException) -> str:
        text = self._factory.hide(str(error))
        return f"{type(error).__name__}: {text}" if text else type(error).__name__

    def _bad_frame(self, frame: Any, error: Exception) -> None:
        """Emit a Reject for a frame that is not JSON; end the run for any other frame ccxt fails on."""
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            now = self._clock.time_ns()
            evidence = str(frame)[:200]
            self._outbox.push(
                [Reject(self._feed.venue, "", now, now, "unreadable_frame", evidence)]
            )
            return
        # ccxt may have applied the frame in part, for example to a book.
        self._fail(ConnectionLost("", f"ccxt failed on a frame: {self._error_text(error)}"))

    def _fail(self, error: FeedError) -> None:
        """End the run with *error*, unless it has ended already."""
        self._error = self._error or error
        if self._all_tasks is not None:
            self._all_tasks.cancel()

    # --------------------------------------------------------------------------------------- topics

    async def _watch_topics(self, exchanges: dict[str, Any]) -> None:
        async with anyio.create_task_group() as tasks:
            self._all_tasks = tasks.cancel_scope
            self._reset_topics()
            tasks.start_soon(self._watchdog, exchanges)
            while True:
                self._symbols_changed = anyio.Event()
                self._update_topics(exchanges, tasks)
                await self._symbols_changed.wait()

    def _reset_topics(self) -> None:
        """Mark all topics as not live. Core reports the gap of all since the last event.

        A topic that stalled before that, on a dead connection of its own, has an earlier gap.
        """
        latest = max((topic.last_data_at for topic in self._topics.values()), default=0.0)
        for topic in self._topics.values():
            if topic.live and latest - topic.last_data_at > _MAX_LAG_SECONDS:
                topic.gap_cause = topic.gap_cause or "silence"
            topic.parse.reset()
            topic.live = topic.restarted = False

    def _update_topics(self, exchanges: dict[str, Any], tasks: anyio.abc.TaskGroup) -> None:
        """Watch the new topics of the feed, and stop those that it has no longer."""
        natives = {symbol.upper(): symbol for symbol in self._markets[0]} if self._markets else {}
        feed = self._feed
        keys = {(symbol, channel) for symbol in feed.symbols for channel in feed.channels}
        for key in [key for key in self._topics if key not in keys]:
            topic = self._topics.pop(key)
            if topic.scope is not None:
                topic.scope.cancel()
            tasks.start_soon(self._unwatch_removed, exchanges, topic)
        for symbol, channel in sorted(keys):
            topic = self._topics.get((symbol, channel)) or self._new_topic(symbol, channel)
            topic.native = natives.get(symbol, symbol)
            if symbol in self._feed.listing.instruments:
                self._feed.listing.add(symbol, self._feed.listing.instruments[symbol].native)
            if topic.scope is None and not topic.refused:
                topic.scope = anyio.CancelScope()
                tasks.start_soon(self._watch, exchanges, topic)

    def _new_topic(self, symbol: str, channel: str) -> Topic:
        settings = self._settings
        parse = make_parser(
            self._feed,
            symbol,
            channel,
            numbered=settings.numbered_trades,
            snapshot_every=settings.snapshot_every,
        )
        topic = Topic(self._feed.gaps, symbol, channel, parse)
        self._topics[symbol, channel] = topic
        if topic.name == "book":
            detail = (
                f"{self._factory.name}: ccxt does not document whether it checks this book for lost"
                " updates"
            )
            self._outbox.push([self._status(topic, "unproven", detail)])
        return topic

    async def _watch(self, exchanges: dict[str, Any], topic: Topic) -> None:
        """Watch one topic until it is cancelled or refused, or the exchange must be opened anew."""
        exchange = exchanges[topic.name]
        scope = topic.scope
        assert scope is not None
        topic.last_data_at, limit = self._clock.monotonic(), self._settings.book_limit
        try:
            with scope:
                while True:
                    try:
                        data = await topic.watch(exchange, self._params(topic), limit)
                        self._outbox.push(topic.process(exchange, data, *self._times()))
                    except asyncio.CancelledError:
                        if _is_cancelled():
                            raise
                        # ccxt cancels the watch calls of a connection that it closes, and those
                        # that share a future with another cancelled call.
                        self._record_failure(
                            topic,
                            ConnectionLost("", f"{topic}: ccxt cancelled the watch call"),
                            "disconnect",
                        )
                    except Exception as error:
                        if not await self._handle(exchange, topic, error):
                            return
                    await self._outbox.wait_for_room()
        except FeedError as error:
            self._fail(error)
        finally:
            if topic.scope is scope:
                topic.scope = None

    def _params(self, topic: Topic) -> Mapping[str, Any]:
        return self._settings.params.get(topic.name, {})

    def _times(self) -> tuple[float, int]:
        return self._clock.monotonic(), self._clock.time_ns()

    # --------------------------------------------------------------------------------------- errors

    async def _handle(self, exchange: Any, topic: Topic, error: Exception) -> bool:
        """Apply the remedy for *error*; return whether to watch the topic again.

        Raises FeedError if the exchange must be opened anew.
        """
        action, reason = remedy(error), f"{topic}: {self._error_text(error)}"
        match action:
            case "login":
                raise failure(
                    self._feed.name, error, reason, None, self._feed.clock.time_ns()
                ) from error
            case "wait":
                headers = exchange.last_response_headers
                raise throttled(reason, headers, self._feed.clock.time_ns()) from error
            case "reopen":
                raise ConnectionLost("", reason) from error
            case "retry" if not topic.live and len(topic.failures) == MAX_FAILURES:
                return self._refuse(topic, self._error_text(error))
            case "refused":
                return self._refuse(topic, self._error_text(error))
        if isinstance(error, CrossedError):
            self._record_failure(topic, error, "crossed")
            await self._resubscribe(exchange, topic)
            return True
        self._record_failure(topic, error, "sequence" if action == "rewatch" else "error")
        if action == "retry":
            await self._clock.sleep(0.1 * 2 ** len(topic.failures))
        return True

    def _record_failure(self, topic: Topic, error: Exception, cause: GapCause) -> None:
        """Record a failed watch call, and open a gap if the topic was live.

        Raises ConnectionLost if it has failed too often.
        """
        now = self._clock.monotonic()
        if (
            len(topic.failures) == MAX_FAILURES
            and now - topic.failures[0] < _FAILURE_WINDOW_SECONDS
        ):
            reason = f"{topic}: {self._error_text(error)}; it failed more than {MAX_FAILURES} times in a minute"
            raise ConnectionLost("", reason) from error
        topic.failures.append(now)
        topic.interrupt(cause)

    def _refuse(self, topic: Topic, reason: str) -> bool:
        topic.refused = True
        self._outbox.push([self._status(topic, "refused", reason)])
        if all(topic.refused for topic in self._topics.values()):
            raise SubscriptionRefused(
                self._feed.name,
                f"{self._factory.name} refuses every symbol and channel, the last one {topic}: {reason}."
                " Correct the channels of this feed.",
            )
        return False

    async def _resubscribe(self, exchange: Any, topic: Topic) -> None:
        """Unsubscribe from a topic, so that the next watch call subscribes again.

        Raises ConnectionLost if ccxt cannot do that for this exchange, or fails to.
        """
        if not await self._unwatch(exchange, topic):
            raise ConnectionLost("", f"{topic} is stalled, and ccxt cannot unsubscribe from it")

    async def _unwatch_removed(self, exchanges: dict[str, Any], topic: Topic) -> None:
        await self._unwatch(exchanges[topic.name], topic)

    async def _unwatch(self, exchange: Any, topic: Topic) -> bool:
        """Unsubscribe from a topic; return whether ccxt managed to."""
        if not self._factory.has.get(topic.kind.un_has):
            return False
        with anyio.move_on_after(_CLOSE_TIMEOUT_SECONDS):
            try:
                await topic.un_watch(exchange, self._params(topic))
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
            except Exception:
                return False
            else:
                return True
        return False

    # ------------------------------------------------------------------------------------- watchdog

    async def _watchdog(self, exchanges: dict[str, Any]) -> None:
        """Check for connections that receive nothing, and for topics without new data."""
        settings = self._settings
        liveness = Liveness()
        try:
            while True:
                await self._clock.sleep(min(settings.silence, settings.stall, 8.0) / 8)
                silent = liveness.silent_seconds(_distinct(exchanges), self._clock.monotonic())
                if silent >= settings.silence:
                    raise ConnectionLost("", f"a connection has received nothing for {silent:g} s")
                await self._check_stalled(exchanges)
        except FeedError as error:
            self._fail(error)

    async def _check_stalled(self, exchanges: dict[str, Any]) -> None:
        """Restart the topics that have had no data for too long."""
        now, stall = self._clock.monotonic(), self._settings.stall
        running = [topic for topic in self._topics.values() if topic.scope is not None]
        for topic in running:
            # A topic that never had data is checked sooner: its subscription may have been lost.
            limit = (stall if topic.live else stall / 4) * topic.stall_factor
            if now - topic.last_data_at < limit:
                continue
            topic.last_data_at = now
            self._outbox.push([self._status(topic, "stale", f"no new data for {limit:g} s")])
            lost = ConnectionLost("", f"{topic} has had no data for {limit:g} s")
            if topic.restarted or not topic.live:
                topic.stall_factor = min(topic.stall_factor * 2, _MAX_STALL_FACTOR)
            can_unwatch = self._factory.has.get(topic.kind.un_has)
            if topic.live and (topic.restarted or not can_unwatch):
                raise lost
            if not can_unwatch and not any(other.live for other in running):
                raise lost
            if can_unwatch:
                await self._restart(exchanges, topic, lost)

    async def _restart(self, exchanges: dict[str, Any], topic: Topic, lost: ConnectionLost) -> None:
        """Unsubscribe from a topic and watch it anew. Raises *lost* if ccxt cannot unsubscribe."""
        topic.interrupt("stall")
        if topic.scope is not None:
            topic.scope.cancel()
        if not await self._unwatch(exchanges[topic.name], topic):
            raise lost
        topic.scope, topic.restarted = None, True
        self._symbols_changed.set()


def _distinct(exchanges: dict[str, Any]) -> list[Any]:
    """Return each ccxt object once."""
    return list({id(exchange): exchange for exchange in exchanges.values()}.values())


def _is_cancelled() -> bool:
    """Return whether the current task was cancelled, and not only the future that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
