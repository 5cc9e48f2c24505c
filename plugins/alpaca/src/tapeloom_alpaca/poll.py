"""The source for accounts without a stream: it polls REST for the same events.

Data that can be requested between two times (trades, bars of a minute) is read without gaps and
without repetitions. Of data that has only a latest state (quotes, books, the bar of the day), the
poller delivers samples.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import define, field
from tapeloom.errors import ConnectionLost, RequestFailed, SymbolError, Throttled
from tapeloom.events import Event, Reject, Status
from tapeloom.plugin import Feed, Request

from .history import parse_page
from .times import format_time, parse_time
from .wire import BarMessage, EventBuilder, TradeMessage

if TYPE_CHECKING:
    from .names import Names

__all__ = ["Poller"]

Deliver: TypeAlias = Callable[[list[Event]], Awaitable[None]]

#: Symbols per call, which keeps the address of a call below 1 kB.
_GROUP_SIZE = 100
#: Nanoseconds in a minute.
_MINUTE = 60_000_000_000
#: How long after its end the bar of a minute is taken to be complete, in ns.
_BAR_SETTLE = 5_000_000_000


class Poller:
    """Polls each channel at its interval, with one call at a time and half of the plan's budget."""

    backends = frozenset({"asyncio", "trio"})
    resumes = True

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed = feed
        self.channels = frozenset(channel.partition(":")[0] for channel in names.market.lists)
        client = self._client = _Client(feed, names)
        client.add_symbols()
        settings = names.settings
        interval, bar_interval = settings.poll_every / 1e9, settings.poll_bars_every / 1e9
        latest = "/latest/{}" if names.crypto else "/{}/latest"
        pollers: dict[str, tuple[float, Callable[[], Any]]] = {
            "trades": (interval, lambda: _RangePoll(client, _TradeRange)),
            "klines:1m": (bar_interval, lambda: _RangePoll(client, _BarRange)),
            "klines:1d": (bar_interval, lambda: _SamplePoll(client, "klines:1d", "/snapshots")),
            "quotes": (interval, lambda: _SamplePoll(client, "quotes", latest.format("quotes"))),
            "book": (interval, lambda: _SamplePoll(client, "book", "/latest/orderbooks")),
        }
        #: The interval in seconds and the poll of each channel.
        self._polls = [(pollers[channel][0], pollers[channel][1]()) for channel in feed.channels]
        self._sampling_reported = False

    async def run(self, deliver: Deliver) -> None:
        """Poll until cancelled. The positions of the polls are kept for the next call.

        Raises ConnectionLost or Throttled if the venue cannot be reached any longer, and
        RequestFailed if it refuses a request.
        """
        clock = self._feed.clock
        if not self._sampling_reported:
            self._sampling_reported = True
            polls = [poll for _, poll in self._polls]
            await deliver([poll.status() for poll in polls if isinstance(poll, _SamplePoll)])
        due = [clock.monotonic()] * len(self._polls)
        subscribed = False
        while True:
            for index, (interval, poll) in enumerate(self._polls):
                if due[index] <= clock.monotonic():
                    due[index] = clock.monotonic() + interval
                    await poll(deliver)
            if not subscribed:
                subscribed = True
                await deliver([self._subscribed()])
            await clock.sleep(max(0.0, min(due) - clock.monotonic()))

    def _subscribed(self) -> Event:
        """Return the Status that a stream has when its subscriptions are acknowledged."""
        feed, now = self._feed, self._client.now()
        count = len(feed.symbols) * len(feed.channels)
        detail = f"{feed.name}: {count} subscriptions, polled"
        return Status(feed.venue, "", now, now, "subscribed", detail)

    def symbols_changed(self) -> None:
        """Add the feed's new symbols, which the next round polls.

        Raises SymbolError if the market can have no such symbol, and removes it from the feed.
        """
        try:
            self._client.add_symbols()
        except SymbolError:
            self._feed.symbols[:] = filter(self._client.is_valid, self._feed.symbols)
            raise


class _Client:
    """Sends the requests of all polls of one feed.

    `newest` is the latest time of any message, in ns.
    """

    def __init__(self, feed: Feed, names: Names) -> None:
        self.feed, self.names, self.build = feed, names, EventBuilder(feed, names)
        self.newest = 0

    def add_symbols(self) -> dict[str, str]:
        """Add the feed's symbols to its listing; return them by the venue's names.

        Raises SymbolError if the market can have no such symbol.
        """
        symbols = {self.names.native(symbol): symbol for symbol in self.feed.symbols}
        for native, symbol in symbols.items():
            self.feed.listing.add(symbol, native)
        return symbols

    def is_valid(self, symbol: str) -> bool:
        try:
            return bool(self.names.native(symbol))
        except SymbolError:
            return False

    def now(self) -> int:
        return self.feed.clock.time_ns()

    def venue_time(self) -> int:
        """Return the least possible time at the venue: the local clock may be slow."""
        return max(self.now(), self.newest)

    def reject(self, rule: str, text: str, channel: str) -> Event:
        now = self.now()
        return Reject(self.feed.venue, "", now, now, rule, text, None, channel)

    async def get(self, request: Request) -> bytes:
        """Return an answer. Raises ConnectionLost for an error that passes by itself."""
        try:
            return await self.feed.fetch(request)
        except Throttled:
            raise
        except RequestFailed as error:
            if not error.retryable:
                raise
            raise ConnectionLost("", str(error)) from error

    def rest(self, path: str, natives: Sequence[str], **query: Any) -> Request:
        return self.names.rest(path, symbols=",".join(natives), **query)


# --------------------------------------------------------------------- data between two times


@define
class _Group:
    """Symbols that are requested together, and the position up to which they were read.

    `base` is the newest time of each symbol before polling began. All data up to `cursor` was read.
    `seen` has the messages since `cursor` less the overlap, which is read once more. `newest` is
    the latest time that was read: pages are made at different moments, so older data of another
    symbol may be missing until the next round, which starts later than all of them.
    """

    natives: list[str]
    base: dict[str, int] = field(factory=dict)
    cursor: int = 0
    newest: int = 0
    seen: dict[Any, Any] = field(factory=dict)


class _TradeRange:
    """Trades between two times. A trade is identified by symbol, exchange, id and time."""

    kind, channel, frame = "trades", "trades", None

    def __init__(self, client: _Client) -> None:
        self.overlap = client.names.settings.poll_overlap
        self._build = client.build

    def base(self, message: TradeMessage) -> int:
        return parse_time(message.t)

    def event(
        self, group: _Group, native: str, symbol: str, message: TradeMessage, recv: int
    ) -> Event | None:
        """Return the event of a new trade; None for a known one."""
        key = parse_time(message.t), native, message.x, message.i
        if key in group.seen:
            return None
        group.seen[key] = True
        return self._build.trade(message, symbol, recv)


class _BarRange:
    """Bars between two times. A bar is identified by symbol and start; other figures revise it."""

    kind, channel, frame = "bars", "klines:1m", "1Min"
    overlap = 2 * _MINUTE

    def __init__(self, client: _Client) -> None:
        self._client, self._build = client, client.build

    def base(self, message: BarMessage) -> int:
        start = parse_time(message.t)
        return start if start + _MINUTE + _BAR_SETTLE <= self._client.venue_time() else start - 1

    def event(
        self, group: _Group, native: str, symbol: str, message: BarMessage, recv: int
    ) -> Event | None:
        """Return the event of a new or revised bar; None for an open or unchanged one."""
        m, key = message, (parse_time(message.t), native)
        if key[0] + _MINUTE + _BAR_SETTLE > self._client.venue_time():
            return None
        figures = m.o, m.h, m.l, m.c, m.v, m.n, m.vw
        before, revision = group.seen.get(key, (None, -1))
        if figures == before:
            return None
        group.seen[key] = figures, revision + 1
        return self._build.bar(message, symbol, recv, revision=revision + 1)


class _RangePoll:
    """Reads the data since the last poll, for groups of symbols."""

    def __init__(self, client: _Client, data: type[Any]) -> None:
        self._client, self._data = client, data(client)
        self._groups: list[_Group] = []
        kind = self._data.kind
        self._latest = f"/latest/{kind}" if client.names.crypto else f"/{kind}/latest"

    async def __call__(self, deliver: Deliver) -> None:
        symbols = self._client.add_symbols()
        self._regroup(symbols)
        for group in self._groups:
            # Deliver now: if the next group fails, this one would not be read again.
            if events := await self._read_or_restore(group, symbols):
                await deliver(events)

    async def _read_or_restore(self, group: _Group, symbols: dict[str, str]) -> list[Event]:
        """Read the new data of a group. After an error, none of it counts as read."""
        before = dict(group.seen)
        try:
            if not group.base:
                await self._start(group)
            return await self._read(group, symbols)
        except ValueError as error:
            group.seen = before
            return [self._client.reject("unreadable_answer", str(error), self._data.channel)]
        except BaseException:
            group.seen = before
            raise

    def _regroup(self, symbols: dict[str, str]) -> None:
        """Remove the symbols that the feed has no longer, and put new ones into new groups."""
        for group in self._groups:
            group.natives = [native for native in group.natives if native in symbols]
            group.base = {native: group.base[native] for native in group.natives if group.base}
        self._groups = [group for group in self._groups if group.natives]
        known = {native for group in self._groups for native in group.natives}
        new = [native for native in symbols if native not in known]
        for start in range(0, len(new), _GROUP_SIZE):
            self._groups.append(_Group(new[start : start + _GROUP_SIZE]))

    async def _start(self, group: _Group) -> None:
        """Set the start after the latest message: by the venue's times, not by the local clock."""
        body = await self._client.get(self._client.rest(self._latest, group.natives))
        items = parse_page(self._data.kind, body)[0]
        base = dict.fromkeys(group.natives, -1)
        for native, messages in items.items():
            base[native] = max(self._data.base(message) for message in messages)
        group.base = base
        group.cursor = group.newest = max(base.values())

    async def _read(self, group: _Group, symbols: dict[str, str]) -> list[Event]:
        """Read from the cursor less the overlap to now less the delay, page by page.

        The cursor is moved after the last page only, and only to the newest time that had been read
        before the first page.
        """
        client, data = self._client, self._data
        delay = client.names.settings.poll_delay
        query: dict[str, Any] = {
            "timeframe": data.frame,
            "limit": client.names.settings.poll_page,
            "sort": "asc",
            "start": format_time(max(0, group.cursor - data.overlap)),
            "end": format_time(client.venue_time() - delay) if delay else None,
        }
        events: list[Event] = []
        newest_before, tokens = group.newest, set[str]()
        while True:
            body = await client.get(client.rest(f"/{data.kind}", group.natives, **query))
            items, token = parse_page(data.kind, body)
            self._process_page(group, items, symbols, events)
            if token is None:
                group.cursor, since = newest_before, newest_before - data.overlap
                group.seen = {key: seen for key, seen in group.seen.items() if key[0] >= since}
                break
            if token in tokens:
                events.append(self._token_loop())
                break
            tokens.add(token)
            query["page_token"] = token
        return sorted(events, key=_time)

    def _process_page(
        self,
        group: _Group,
        items: dict[str, list[Any]],
        symbols: dict[str, str],
        events: list[Event],
    ) -> None:
        """Append the events of a page to *events*."""
        recv, make_event = self._client.now(), self._data.event
        for native, messages in items.items():
            base = group.base.get(native)
            if base is None:
                continue
            for message in messages:
                ts = parse_time(message.t)
                group.newest = max(group.newest, ts)
                if ts <= base:
                    continue
                if event := make_event(group, native, symbols[native], message, recv):
                    events.append(event)
        self._client.newest = max(self._client.newest, group.newest)

    def _token_loop(self) -> Event:
        feed, now = self._client.feed, self._client.now()
        feed.counters["token_loops"] += 1
        text = "the venue sent a page token twice: the next round requests the rest again"
        return Status(feed.venue, "", now, now, "token_loop", text, self._data.channel)


def _time(event: Event) -> int:
    return event.ts


# ------------------------------------------------------------------- data with a latest state


class _SamplePoll:
    """Reads the latest state of every symbol, and delivers those that have changed."""

    def __init__(self, client: _Client, channel: str, path: str) -> None:
        self._client, self._channel, self._path = client, channel, path
        self._kind = {"quotes": "quotes", "book": "orderbooks"}.get(channel, "snapshots")
        if self._kind == "snapshots" and not client.names.crypto:
            self._kind = "stock snapshots"
        #: The last message by the venue's name of the symbol.
        self._last: dict[str, Any] = {}

    def status(self) -> Event:
        """Return the Status that reports that this channel is sampled."""
        now = self._client.now()
        text = "polled: changes between two polls are not seen"
        return Status(self._client.feed.venue, "", now, now, "sampled", text, self._channel)

    async def __call__(self, deliver: Deliver) -> None:
        client, symbols = self._client, self._client.add_symbols()
        natives = list(symbols)
        for start in range(0, len(natives), _GROUP_SIZE):
            group = natives[start : start + _GROUP_SIZE]
            body = await client.get(client.rest(self._path, group))
            try:
                events = self._changes(parse_page(self._kind, body)[0], symbols)
            except ValueError as error:
                events = [client.reject("unreadable_answer", str(error), self._channel)]
            if events:
                await deliver(events)

    def _changes(self, items: dict[str, list[Any]], symbols: dict[str, str]) -> list[Event]:
        recv, events = self._client.now(), list[Event]()
        for native, messages in items.items():
            for message in messages:
                if native in symbols and self._last.get(native) != message:
                    event = self._event(message, symbols[native], recv)
                    self._client.newest = max(self._client.newest, event.ts)
                    events.append(event)
                    self._last[native] = message
        return sorted(events, key=_time)

    def _event(self, message: Any, symbol: str, recv: int) -> Event:
        build = self._client.build
        if self._channel == "quotes":
            return build.quote(message, symbol, recv)
        if self._channel == "book":
            return build.book(message, symbol, recv, snapshot=True, origin="live")
        return build.bar(message, symbol, recv, "1d", closed=False)
