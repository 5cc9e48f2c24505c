"""One connection to the gateway: what is asked for, what comes, and what its messages mean for it."""

from __future__ import annotations

import asyncio  # noqa: TID251 ib_async runs on nothing else
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from tapeloom.errors import ConnectionLost, FeedError
from tapeloom.events import Event, Gap, Reject, Status

from . import codes
from .dial import client, dial, failure, leave
from .lines import Lines
from .wire import DEPTH, READERS, Line, read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tapeloom.plugin import Feed

    from .pace import Pace
    from .settings import Settings

__all__ = ["Session"]

_FULL = 256  # batches that wait to be delivered: beyond, the socket is not read
_WRONG = 3  # reads in a row that leave a book unsound: then it is asked for again


class Session:
    """One connection, from the dial to its end."""

    def __init__(self, feed: Feed, settings: Settings, pace: Pace, client_id: int) -> None:
        self._feed, self._settings, self._client_id = feed, settings, client_id
        self._clock = feed.clock
        self._ib = ib = client(self._take, self._unreadable)
        self._client: Any = ib.client  # its methods have no types
        ib.updateEvent += self._read_over
        ib.errorEvent.clear()  # it would ask for the account's balances after each outage
        ib.errorEvent += self._told
        ib.disconnectedEvent += self._disconnected
        self.lines = Lines(feed, settings, pace, ib, self._tell)
        self._out: list[Event] = []  # of this read
        self._recv = 0  # its time, or 0 between two reads
        self._touched: dict[Line, None] = {}  # books that this read changed
        self._batches: deque[list[Event]] = deque()
        self._wake = asyncio.Event()
        self._farms = asyncio.Event()
        self._ended: FeedError | None = None
        self._busy = ""
        self._lost = 0  # since when something is lost
        self._broken: set[str] = set()  # what: farms by name, or the gateway's own connection
        self._heard = self._probed = 0.0

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        """Connect, subscribe and deliver.

        Raises FeedError when it ends.
        """
        keeper: asyncio.Task[None] | None = None
        try:
            await self._connect()
            keeper = asyncio.create_task(self._keep())
            await self._pump(deliver, keeper)
        finally:
            # At once: whoever is cancelled has no time to wait for anything.
            self._ib.disconnectedEvent -= self._disconnected
            leave(self._ib)
            if keeper is not None:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)  # its end has been told

    # ------------------------------------------------------------------------------------ connecting

    async def _connect(self) -> None:
        settings = self._settings
        try:
            await dial(self._ib, settings, self._client_id)
        except (OSError, TimeoutError) as problem:
            raise failure(
                self._feed.name, settings, self._client_id, problem, self._busy
            ) from problem
        # What is asked before the farms are there may never be answered.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._farms.wait(), settings.farm_within)
        self._heard = self._probed = self._clock.monotonic()

    # -------------------------------------------------------------------------------------- what comes

    def _now(self) -> int:
        """Return the time of this read."""
        if not self._recv:
            self._recv = self._clock.time_ns()
        return self._recv

    def _take(self, fields: list[str]) -> None:
        line, events = read(self.lines.asked, fields, self._now())
        if line is None:
            self._feed.counters["unrequested"] += 1
        elif line.rows is not None:
            self._touched[line] = None
        elif events:
            self._pass(line, events)

    def _pass(self, line: Line, events: list[Event]) -> None:
        """Put events into this read's batch, and before them what is to be told of their line."""
        first, recv = events[0], self._now()
        if type(first) is not Status and type(first) is not Reject:
            if not line.live:
                line.live = True
                self._out.append(line.status("live", "", recv))
            if line.hole:
                self._gap(line, first.ts, recv)
            line.asked, line.seen, line.last = None, recv, first.ts
        self._out += events

    def _gap(self, line: Line, until: int, recv: int) -> None:
        until, cause, line.hole = max(line.last, until), line.hole, ""
        assert cause
        self._feed.counters["gaps"] += 1
        self._out.append(
            Gap(line.venue, line.symbol, until, recv, line.last, until, cause, None, "unrecoverable",
                line.channel)
        )  # fmt: skip

    def _unreadable(self, fields: list[str]) -> None:
        recv = self._now()
        known = not fields or fields[0] in READERS or not fields[0].isdigit()
        # Other messages may hold account numbers.
        evidence = " ".join(fields)[:200] if known else f"message {fields[0]}, {len(fields)} fields"
        line = None
        if fields and fields[0] in READERS and len(fields) > READERS[fields[0]][0]:
            line = self.lines.asked.get(fields[READERS[fields[0]][0]])
        if fields and fields[0] in DEPTH:
            # An operation is lost, and with it the book; of which line, the rest may not tell.
            for one in self.lines.wanted.values() if line is None else [line]:
                if one.rows is not None:
                    one.wrong = _WRONG
                    self._touched[one] = None
        symbol, channel = (line.symbol, line.channel) if line else ("", "")
        self._out.append(
            Reject(
                self._feed.venue,
                symbol,
                recv,
                recv,
                "unreadable_frame",
                codes.masked(evidence),
                None,
                channel,
            )
        )

    def _read_over(self) -> None:
        """Hand on what one read of the socket has brought."""
        self._heard = self._clock.monotonic()
        for line in self._touched:
            self._tell_book(line)
        self._touched.clear()
        self._recv = 0
        if self._out:
            out, self._out = self._out, []
            self._hand_on(out)

    def _tell_book(self, line: Line) -> None:
        """Tell a book whose rows have changed; one that is out of order waits for the next read."""
        sound = line.rows is not None and line.rows.sound
        if sound and line.wrong < _WRONG:
            line.wrong = 0
            self._pass(line, [line.book(self._now())])
            return
        line.wrong += 1
        if line.wrong >= _WRONG:
            line.wrong = 0
            self._tell(line.status("stale", "its rows do not make a book", self._now()))
            self.lines.again(line, "sequence")

    def _tell(self, event: Event) -> None:
        """Hand on one event that came in no read; within a read it goes along."""
        if self._recv:
            self._out.append(event)
        else:
            self._hand_on([event])

    def _hand_on(self, batch: list[Event]) -> None:
        self._batches.append(batch)
        if len(self._batches) == _FULL and (transport := self._ib.client.conn.transport):
            transport.pause_reading()
        self._wake.set()

    async def _pump(
        self, deliver: Callable[[list[Event]], Awaitable[None]], keeper: asyncio.Task[None]
    ) -> None:
        keeper.add_done_callback(lambda _: self._wake.set())
        while True:
            while self._batches:
                batch = self._batches.popleft()
                if len(self._batches) == _FULL // 2 and (conn := self._ib.client.conn.transport):
                    conn.resume_reading()
                await deliver(batch)
            if self._ended is not None:
                raise self._ended
            if keeper.done():
                keeper.result()
            self._wake.clear()
            await self._wake.wait()

    # --------------------------------------------------------------------------------- what it is told

    def _disconnected(self) -> None:
        if self._ended is None:
            place = "{}:{}".format(*self._settings.address)
            self._ended = ConnectionLost(self._feed.name, f"{place} closed the connection")
        self._wake.set()

    def _end(self, reason: str) -> None:
        self._ended = self._ended or ConnectionLost(self._feed.name, reason)
        self._wake.set()

    def _told(self, req_id: int, code: int, text: str, _contract: object) -> None:
        """Act on a message code."""
        text = f"{code}: {codes.masked(text)}"
        line = self.lines.asked.get(str(req_id))
        farm = text.rpartition(":")[2].strip()
        if code in codes.QUIET:
            self._feed.counters["quiet_notices"] += 1
        elif code in codes.FARM_BACK:
            self._farms.set()
            self._broken.discard(farm)
            self._back(text)
        elif code == codes.BUSY:
            self._busy = text
        elif code in codes.LOST or code in codes.FARM_LOST:
            self._lost = self._lost or self._now()
            self._broken.add(farm if code in codes.FARM_LOST else "")
            self._status("stale", text)
        elif code in (codes.RESTORED, codes.RESTORED_EMPTY):
            self._broken.clear()
            self._lost = (
                self._lost or self._now()
            )  # the word that it was lost may have been lost too
            self._back(text, empty=code == codes.RESTORED_EMPTY)
        elif code == codes.MOVED:
            self._end(f"the gateway has moved: {text}. Set port in [venue.ib].")
        elif line is not None:
            self._told_of(line, code, text)
        elif req_id == -1 or code == codes.TOO_FAST:
            if code == codes.TOO_FAST:
                self._client.MaxRequests = max(1, self._client.MaxRequests // 2)
            self._status("notice", text)
        else:
            self._feed.counters["unrequested"] += (
                1  # of a request that we have given up, or that raises
            )

    def _status(self, state: str, detail: str) -> None:
        now = self._now() if self._recv else self._clock.time_ns()
        self._tell(Status(self._feed.venue, "", now, now, state, detail))

    def _back(self, text: str, *, empty: bool = False) -> None:
        """Take note that the gateway's connection is there again; *empty*: nothing is subscribed."""
        if self._broken or not (self._lost or empty):
            return
        self._status("connected", text)
        for line in self.lines.wanted.values():
            if empty:
                self.lines.again(line, "disconnect", told=True)
            elif line.live and line.seen <= self._lost:
                line.hole = line.hole or "disconnect"
        self._lost = 0

    def _told_of(self, line: Line, code: int, text: str) -> None:
        """Act on a message code about one subscription."""
        if code == codes.RESET and line.rows is not None:
            line.rows.clear()
            line.hole = line.hole or ("reset" if line.live else "")
            self._tell(line.status("notice", text, self._now_or_clock()))
        elif code in (codes.BUST, codes.HALTED):
            self._tell(line.status("notice", text, self._now_or_clock()))
            self.lines.again(line, "ended", told=code == codes.BUST)
        elif code in codes.DELAYED or 2100 <= code < 2200:
            state = "delayed" if code in codes.DELAYED else "notice"
            self._tell(line.status(state, text, self._now_or_clock()))
        elif code in codes.LATER or codes.AGAIN.search(text):
            wait = self._settings.retry_every
            detail = f"{text} Next try in {wait:g} s."
            self._tell(line.status("refused", detail, self._now_or_clock()))
            self.lines.again(line, "ended", after=wait, told=True)
        else:
            self._tell(line.status("refused", text, self._now_or_clock()))
            self.lines.refuse(line, text)

    def _now_or_clock(self) -> int:
        return self._recv or self._clock.time_ns()

    # -------------------------------------------------------------------------------- what is due

    async def _keep(self) -> None:
        """Follow the symbols, ask again what is due, and see that the gateway lives."""
        settings = self._settings
        beat = min(
            1.0, settings.probe_every / 4, settings.answer_within / 4, settings.data_within / 4,
            settings.retry_every / 4,
        )  # fmt: skip
        self._status("connected", "{}:{}".format(*settings.address))
        await self.lines.follow()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.lines.stir.wait(), beat)
                self.lines.stir.clear()
                await self.lines.follow()
            now = self._clock.monotonic()
            self._probe(now)
            self.lines.due(now)

    def _probe(self, now: float) -> None:
        """Ask for the time where nothing else comes; no answer means that the gateway hangs."""
        settings = self._settings
        if self._probed > self._heard:
            if now >= self._probed + settings.answer_within:
                self._end(f"no answer in {settings.answer_within:g} s: the gateway hangs")
        elif now >= max(self._heard, self._probed) + settings.probe_every:
            self._probed = now
            self._client.reqCurrentTime()
