"""The source for accounts without a stream: the same events, asked for over REST.

What can be read between two times (trades, bars of a minute) is read without a hole and without a
repetition. Of what has only a latest state (quotes, books, the bar of the day) we see samples.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import define, field
from tapeloom.errors import ConnectionLost, RequestFailed, SymbolError, Throttled
from tapeloom.events import Event, Reject, Status
from tapeloom.plugin import Feed, Request

from .history import page
from .wire import Build, Candle, Fill, nanoseconds, rfc3339

if TYPE_CHECKING:
    from .names import Names

__all__ = ["Poller"]

Deliver: TypeAlias = Callable[[list[Event]], Awaitable[None]]

_GROUP = 100  # symbols in one call
_MINUTE = 60_000_000_000
_SETTLES = 5_000_000_000  # after its end a minute's bar is taken to be whole


class Poller:
    """Polls each channel in its rhythm, one call at a time, within half of the plan's budget."""

    backends = frozenset({"asyncio", "trio"})
    resumes = True

    def __init__(self, feed: Feed, names: Names) -> None:
        self._feed = feed
        self.channels = frozenset(channel.partition(":")[0] for channel in names.market.lists)
        desk = self._desk = _Desk(feed, names)
        desk.natives()
        every, bars = names.settings.poll_every / 1e9, names.settings.poll_bars_every / 1e9
        latest = "/latest/{}" if names.crypto else "/{}/latest"
        made: dict[str, tuple[float, Callable[[], Any]]] = {
            "trades": (every, lambda: _Ranges(desk, _Trades)),
            "klines:1m": (bars, lambda: _Ranges(desk, _Minutes)),
            "klines:1d": (bars, lambda: _Sample(desk, "klines:1d", "/snapshots")),
            "quotes": (every, lambda: _Sample(desk, "quotes", latest.format("quotes"))),
            "book": (every, lambda: _Sample(desk, "book", "/latest/orderbooks")),
        }
        self._polls = [(made[channel][0], made[channel][1]()) for channel in feed.channels]
        self._told = False

    async def run(self, deliver: Deliver) -> None:
        """Poll until cancelled. What has been read stays known when it is called again.

        Raises ConnectionLost or Throttled where the venue cannot be reached any longer, and
        RequestFailed where it refuses.
        """
        clock = self._feed.clock
        if not self._told:
            self._told = True
            await deliver([each.notice() for _, each in self._polls if isinstance(each, _Sample)])
        due = [clock.monotonic()] * len(self._polls)
        begun = False
        while True:
            for place, (every, poll) in enumerate(self._polls):
                if due[place] <= clock.monotonic():
                    due[place] = clock.monotonic() + every
                    await poll(deliver)
            if not begun:
                begun = True
                await deliver([self._begun()])
            await clock.sleep(max(0.0, min(due) - clock.monotonic()))

    def _begun(self) -> Event:
        """Return what a stream says when it has been agreed to."""
        feed, now = self._feed, self._desk.now()
        count = len(feed.symbols) * len(feed.channels)
        detail = f"{feed.name}: {count} subscriptions, polled"
        return Status(feed.venue, "", now, now, "subscribed", detail)

    def symbols_changed(self) -> None:
        """Name the new symbols; the next round asks for them.

        Raises SymbolError where the market can have no such symbol, and leaves it out.
        """
        try:
            self._desk.natives()
        except SymbolError:
            self._feed.symbols[:] = [one for one in self._feed.symbols if self._desk.fits(one)]
            raise


class _Desk:
    """Fetches and reads, for all channels of one feed. `newest` is the latest time that was seen."""

    def __init__(self, feed: Feed, names: Names) -> None:
        self.feed, self.names, self.build = feed, names, Build(feed, names)
        self.newest = 0

    def natives(self) -> dict[str, str]:
        """Name the feed's symbols, for history too; return them by the venue's names.

        Raises SymbolError where the market can have no such symbol.
        """
        named = {self.names.native(symbol): symbol for symbol in self.feed.symbols}
        for native, symbol in named.items():
            self.feed.listing.add(symbol, native)
        return named

    def fits(self, symbol: str) -> bool:
        try:
            return bool(self.names.native(symbol))
        except SymbolError:
            return False

    def now(self) -> int:
        return self.feed.clock.time_ns()

    def there(self) -> int:
        """Return the venue's time, as far as we can tell: our clock may be slow."""
        return max(self.now(), self.newest)

    def reject(self, rule: str, text: str, channel: str) -> Event:
        now = self.now()
        return Reject(self.feed.venue, "", now, now, rule, text, None, channel)

    async def get(self, request: Request) -> bytes:
        """Return an answer; what passes by itself is raised as the loss of a connection."""
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


# ------------------------------------------------------------------- what lies between two times


@define
class _Group:
    """Symbols that are asked for together, and how far each and all of them are known.

    `base` is the newest time of each before polling began. Up to `cursor` all was read; `seen` has
    what was read of the time since a little before it, which is read once more. `newest` is the
    latest time that was read at all: pages are of different moments, so that of another symbol
    something older may be missing until the next round, which begins later than all of them.
    """

    natives: list[str]
    base: dict[str, int] = field(factory=dict)
    cursor: int = 0
    newest: int = 0
    seen: dict[Any, Any] = field(factory=dict)


class _Trades:
    """Trades are told apart by symbol, exchange, id and time."""

    kind, channel, frame = "trades", "trades", None

    def __init__(self, desk: _Desk) -> None:
        self.overlap = desk.names.settings.poll_overlap
        self._build = desk.build

    def base(self, one: Fill) -> int:
        return nanoseconds(one.t)

    def take(self, group: _Group, native: str, symbol: str, one: Fill, recv: int) -> Event | None:
        key = nanoseconds(one.t), native, one.x, one.i
        if key in group.seen:
            return None
        group.seen[key] = True
        return self._build.trade(one, symbol, recv)


class _Minutes:
    """Bars are told apart by symbol and start. One that comes with other figures was revised."""

    kind, channel, frame = "bars", "klines:1m", "1Min"
    overlap = 2 * _MINUTE

    def __init__(self, desk: _Desk) -> None:
        self._desk, self._build = desk, desk.build

    def base(self, one: Candle) -> int:
        start = nanoseconds(one.t)
        return start if start + _MINUTE + _SETTLES <= self._desk.there() else start - 1

    def take(self, group: _Group, native: str, symbol: str, one: Candle, recv: int) -> Event | None:
        key = nanoseconds(one.t), native
        if key[0] + _MINUTE + _SETTLES > self._desk.there():
            return None  # it is still forming
        figures = one.o, one.h, one.l, one.c, one.v, one.n, one.vw
        before, revision = group.seen.get(key, (None, -1))
        if figures == before:
            return None
        group.seen[key] = figures, revision + 1
        return self._build.bar(one, symbol, recv, revision=revision + 1)


class _Ranges:
    """Reads what is new since the last time, of groups of symbols."""

    def __init__(self, desk: _Desk, kind: type[Any]) -> None:
        self._desk, self._kind = desk, kind(desk)
        self._groups: list[_Group] = []
        word = self._kind.kind
        self._latest = f"/latest/{word}" if desk.names.crypto else f"/{word}/latest"

    async def __call__(self, deliver: Deliver) -> None:
        symbols = self._desk.natives()
        self._regroup(symbols)
        for group in self._groups:
            # Delivered at once: the next group may fail, and this one would not be read again.
            if events := await self._whole(group, symbols):
                await deliver(events)

    async def _whole(self, group: _Group, symbols: dict[str, str]) -> list[Event]:
        """Read what is new. Where that breaks off, nothing of it counts as read."""
        before = dict(group.seen)
        try:
            if not group.base:
                await self._begin(group)
            return await self._read(group, symbols)
        except ValueError as error:
            group.seen = before
            return [self._desk.reject("unreadable_answer", str(error), self._kind.channel)]
        except BaseException:
            group.seen = before
            raise

    def _regroup(self, symbols: dict[str, str]) -> None:
        """Forget the symbols that are gone, and put the new ones into groups of their own."""
        for group in self._groups:
            group.natives = [native for native in group.natives if native in symbols]
            group.base = {native: group.base[native] for native in group.natives if group.base}
        self._groups = [group for group in self._groups if group.natives]
        known = {native for group in self._groups for native in group.natives}
        new = [native for native in symbols if native not in known]
        for start in range(0, len(new), _GROUP):
            self._groups.append(_Group(new[start : start + _GROUP]))

    async def _begin(self, group: _Group) -> None:
        """Begin after the newest that there is: by the venue's clock, not by ours."""
        body = await self._desk.get(self._desk.rest(self._latest, group.natives))
        items = page(self._kind.kind, body)[0]
        base = dict.fromkeys(group.natives, -1)
        for native, some in items.items():
            base[native] = max(self._kind.base(one) for one in some)
        group.base = base
        group.cursor = group.newest = max(base.values())

    async def _read(self, group: _Group, symbols: dict[str, str]) -> list[Event]:
        """Read from a little before the cursor to a little before now, page by page.

        The cursor moves on only when the last page has been read, and only to what was there
        before the first one was.
        """
        desk, kind = self._desk, self._kind
        delay = desk.names.settings.poll_delay
        query: dict[str, Any] = {
            "timeframe": kind.frame,
            "limit": desk.names.settings.poll_page,
            "sort": "asc",
            "start": rfc3339(max(0, group.cursor - kind.overlap)),
            "end": rfc3339(desk.there() - delay) if delay else None,
        }
        events: list[Event] = []
        certain, tokens = group.newest, set[str]()
        while True:
            body = await desk.get(desk.rest(f"/{kind.kind}", group.natives, **query))
            items, token = page(kind.kind, body)
            self._take(group, items, symbols, events)
            if token is None:
                group.cursor, kept = certain, certain - kind.overlap
                group.seen = {key: one for key, one in group.seen.items() if key[0] >= kept}
                break
            if token in tokens:
                events.append(self._loop())
                break
            tokens.add(token)
            query["page_token"] = token
        return sorted(events, key=_time)

    def _take(
        self,
        group: _Group,
        items: dict[str, list[Any]],
        symbols: dict[str, str],
        events: list[Event],
    ) -> None:
        """Add the events of one page."""
        recv, take = self._desk.now(), self._kind.take
        for native, some in items.items():
            base = group.base.get(native)
            if base is None:
                continue
            for one in some:
                ts = nanoseconds(one.t)
                group.newest = max(group.newest, ts)
                if ts > base and (event := take(group, native, symbols[native], one, recv)):
                    events.append(event)
        self._desk.newest = max(self._desk.newest, group.newest)

    def _loop(self) -> Event:
        feed, now = self._desk.feed, self._desk.now()
        feed.counters["token_loops"] += 1
        text = "the venue sent a page token twice: the rest is asked for again in the next round"
        return Status(feed.venue, "", now, now, "token_loop", text, self._kind.channel)


def _time(event: Event) -> int:
    return event.ts


# ------------------------------------------------------------------------ what has a latest state


class _Sample:
    """Reads the latest state of every symbol; says what is another one than before."""

    def __init__(self, desk: _Desk, channel: str, path: str) -> None:
        self._desk, self._channel, self._path = desk, channel, path
        self._kind = {"quotes": "quotes", "book": "orderbooks"}.get(channel, "snapshots")
        if self._kind == "snapshots" and not desk.names.crypto:
            self._kind = "stock snapshots"
        self._last: dict[str, Any] = {}

    def notice(self) -> Event:
        """Return the Status that says that there is more than what we see."""
        now = self._desk.now()
        text = "polled: what changes between two looks is not seen"
        return Status(self._desk.feed.venue, "", now, now, "sampled", text, self._channel)

    async def __call__(self, deliver: Deliver) -> None:
        desk, symbols = self._desk, self._desk.natives()
        natives = list(symbols)
        for start in range(0, len(natives), _GROUP):
            body = await desk.get(desk.rest(self._path, natives[start : start + _GROUP]))
            try:
                events = self._changes(page(self._kind, body)[0], symbols)
            except ValueError as error:
                events = [desk.reject("unreadable_answer", str(error), self._channel)]
            if events:
                await deliver(events)

    def _changes(self, items: dict[str, list[Any]], symbols: dict[str, str]) -> list[Event]:
        recv, events = self._desk.now(), list[Event]()
        for native, some in items.items():
            for one in some:
                if native in symbols and self._last.get(native) != one:
                    event = self._event(one, symbols[native], recv)
                    self._desk.newest = max(self._desk.newest, event.ts)
                    events.append(event)
                    self._last[native] = one
        return sorted(events, key=_time)

    def _event(self, one: Any, symbol: str, recv: int) -> Event:
        build = self._desk.build
        if self._channel == "quotes":
            return build.quote(one, symbol, recv)
        if self._channel == "book":
            return build.book(one, symbol, recv, whole=True, origin="live")
        return build.bar(one, symbol, recv, "1d", closed=False)
