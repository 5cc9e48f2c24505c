"""One connection to the gateway: it subscribes, processes messages and codes, and delivers batches."""

from __future__ import annotations

import asyncio  # noqa: TID251 ib_async runs on nothing else
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from tapeloom.errors import ConnectionLost, FeedError
from tapeloom.events import Event, Reject, Status
from tapeloom.plugin import Loss
from tapeloom.plugin.bounds import reject_out_of_bounds

from . import codes
from .dial import client, dial, failure, leave
from .subscriptions import Subscriptions
from .wire import DEPTH_MESSAGES, PARSERS, SubscriptionState, parse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tapeloom.plugin import Feed

    from .pacing import Pacing
    from .settings import Settings

__all__ = ["Session"]

#: Batches that wait to be delivered. If there are more, reading from the socket is paused.
_MAX_BATCHES = 256
#: Reads in a row after which a book is not valid, until it is requested anew. A single read may
#: end in the middle of a change.
_MAX_BAD_READS = 3


#: Bytes of a message that is not complete. ib_async would collect what the length of 4 bytes says.
_MAX_MESSAGE_BYTES = 16 << 20


class Session:
    """One connection, from the dial to its end."""

    def __init__(self, feed: Feed, settings: Settings, pacing: Pacing, client_id: int) -> None:
        self._feed, self._settings, self._client_id = feed, settings, client_id
        self._clock = feed.clock
        self._ib = ib = client(self._process_data, self._process_unreadable)
        self._client: Any = ib.client  # its methods have no types
        ib.updateEvent += self._end_read
        ib.errorEvent.clear()  # its handler requests the account's balances after each outage
        ib.errorEvent += self._process_code
        ib.disconnectedEvent += self._disconnected
        self.subscriptions = Subscriptions(feed, settings, pacing, ib, self._emit)
        self._events: list[Event] = []  # of the current read
        self._recv = 0  # the time of the current read; 0 between reads
        self._changed_books: dict[SubscriptionState, None] = {}  # by the current read
        self._batches: deque[list[Event]] = deque()
        self._wake = asyncio.Event()
        self._farm_connected = asyncio.Event()
        self._error: FeedError | None = None
        self._busy = ""  # the message that the client id is taken
        self._lost_at = 0  # when a connection was lost, in ns; 0: none is
        #: The lost connections: data farms by name, and "" for that of the gateway.
        self._lost_connections: set[str] = set()
        self._last_read_at = self._probed_at = 0.0

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        """Connect, subscribe and deliver.

        Raises FeedError when the connection ends.
        """
        maintenance: asyncio.Task[None] | None = None
        try:
            await self._connect()
            maintenance = asyncio.create_task(self._maintain())
            await self._deliver_batches(deliver, maintenance)
        finally:
            # Close without awaiting: this task may be cancelled.
            self._ib.disconnectedEvent -= self._disconnected
            leave(self._ib)
            if maintenance is not None:
                maintenance.cancel()
                await asyncio.gather(maintenance, return_exceptions=True)  # its error is raised

    # ------------------------------------------------------------------------------------ connecting

    async def _connect(self) -> None:
        settings = self._settings
        try:
            await dial(self._ib, settings, self._client_id)
        except (OSError, TimeoutError) as problem:
            raise failure(
                self._feed.name, settings, self._client_id, problem, self._busy
            ) from problem
        # The gateway may not answer requests that come before the data farms are connected.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._farm_connected.wait(), settings.farm_within)
        self._last_read_at = self._probed_at = self._clock.monotonic()

    # ---------------------------------------------------------------------------------------- data

    def _now(self) -> int:
        """Return the time of the current read."""
        if not self._recv:
            self._recv = self._clock.time_ns()
        return self._recv

    def _process_data(self, fields: list[str]) -> None:
        """Process one message of market data."""
        state, events = parse(self.subscriptions.by_request, fields, self._now())
        events = reject_out_of_bounds(events)  # before their times are remembered
        if state is None:
            self._feed.counters["unrequested"] += 1
        elif state.rows is not None:
            self._changed_books[state] = None
        elif events:
            self._emit_for(state, events)

    def _emit_for(self, state: SubscriptionState, events: list[Event]) -> None:
        """Add events to the batch of this read; before them, a Status or Gap of their subscription."""
        first, recv = events[0], self._now()
        if type(first) is not Status and type(first) is not Reject:
            if not state.live:
                state.live = True
                self._events.append(state.status("live", "", recv))
            if state.gap_cause:
                self._emit_gap(state, first.ts, recv)
            state.requested_at, state.last_recv, state.last_ts = None, recv, first.ts
        self._events += events

    def _emit_gap(self, state: SubscriptionState, until: int, recv: int) -> None:
        until, cause, state.gap_cause = max(state.last_ts, until), state.gap_cause, ""
        assert cause
        loss = Loss(
            state.symbol, state.channel, since=state.last_ts, until=until, recv=recv, cause=cause
        )
        self._events += self._feed.gaps.open(loss)

    def _process_unreadable(self, fields: list[str]) -> None:
        """Emit a Reject for a message that cannot be parsed."""
        recv = self._now()
        shown = not fields or fields[0] in PARSERS or not fields[0].isdigit()
        # Other messages may contain account numbers.
        evidence = " ".join(fields)[:200] if shown else f"message {fields[0]}, {len(fields)} fields"
        state = None
        if fields and fields[0] in PARSERS and len(fields) > PARSERS[fields[0]][0]:
            state = self.subscriptions.by_request.get(fields[PARSERS[fields[0]][0]])
        symbol, channel = (state.symbol, state.channel) if state else ("", "")
        self._events.append(
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
        if fields and fields[0] in DEPTH_MESSAGES:
            # An operation on a book is lost. If its subscription is unknown, every book may be wrong.
            for book in self.subscriptions.active.values() if state is None else [state]:
                if book.rows is not None:
                    self._rebuild(book, "a row of the book could not be read")

    def _end_read(self) -> None:
        """Enqueue the events of one read of the socket."""
        self._last_read_at = self._clock.monotonic()
        if len(self._client._data) > _MAX_MESSAGE_BYTES:  # noqa: SLF001 - it has no other name
            self._fail("the gateway sent a message of more than 16 MiB")
        for state in [*self._changed_books]:
            self._emit_book(state)
        self._changed_books.clear()
        self._recv = 0
        if self._events:
            batch, self._events = self._events, []
            self._enqueue(batch)

    def _emit_book(self, state: SubscriptionState) -> None:
        """Emit a book whose rows have changed; if it is not valid, wait for the next read."""
        is_valid = state.rows is not None and state.rows.is_valid
        if is_valid:
            state.bad_reads = 0
            self._emit_for(state, [state.book(self._now())])
            return
        state.bad_reads += 1
        if state.bad_reads >= _MAX_BAD_READS:
            self._rebuild(state, "the rows of the book are out of order or crossed")

    def _rebuild(self, state: SubscriptionState, reason: str) -> None:
        """Report a book as stale and request it anew; rows of the old request are not applied."""
        state.bad_reads = 0
        self._changed_books.pop(state, None)
        self._emit(state.status("stale", reason, self._now()))
        self.subscriptions.restart(state, "sequence")

    def _emit(self, event: Event) -> None:
        """Emit one event: within a read, with its batch; else as a batch of its own."""
        if self._recv:
            self._events.append(event)
        else:
            self._enqueue([event])

    def _enqueue(self, batch: list[Event]) -> None:
        self._batches.append(batch)
        if len(self._batches) == _MAX_BATCHES and (transport := self._ib.client.conn.transport):
            transport.pause_reading()
        self._wake.set()

    async def _deliver_batches(
        self, deliver: Callable[[list[Event]], Awaitable[None]], maintenance: asyncio.Task[None]
    ) -> None:
        maintenance.add_done_callback(lambda _: self._wake.set())
        while True:
            while self._batches:
                batch = self._batches.popleft()
                if len(self._batches) == _MAX_BATCHES // 2 and (
                    conn := self._ib.client.conn.transport
                ):
                    conn.resume_reading()
                await deliver(batch)
            if self._error is not None:
                raise self._error
            if maintenance.done():
                maintenance.result()
            self._wake.clear()
            await self._wake.wait()

    # --------------------------------------------------------------------------------------- codes

    def _disconnected(self) -> None:
        if self._error is None:
            address = "{}:{}".format(*self._settings.address)
            self._error = ConnectionLost(self._feed.name, f"{address} closed the connection")
        self._wake.set()

    def _fail(self, reason: str) -> None:
        """End the session with ConnectionLost."""
        self._error = self._error or ConnectionLost(self._feed.name, reason)
        self._wake.set()

    def _process_code(self, req_id: int, code: int, text: str, _contract: object) -> None:
        """Process a message code of the gateway."""
        text = f"{code}: {codes.masked(text)}"
        state = self.subscriptions.by_request.get(str(req_id))
        farm = text.rpartition(":")[2].strip()
        if code in codes.IGNORED:
            self._feed.counters["quiet_notices"] += 1
        elif code in codes.FARM_RESTORED:
            self._farm_connected.set()
            self._lost_connections.discard(farm)
            self._restored(text)
        elif code == codes.CLIENT_ID_TAKEN:
            self._busy = text
        elif code in codes.CONNECTION_LOST or code in codes.FARM_LOST:
            self._lost_at = self._lost_at or self._now()
            self._lost_connections.add(farm if code in codes.FARM_LOST else "")
            self._status("stale", text)
        elif code in (codes.RESTORED, codes.RESTORED_WITHOUT_DATA):
            self._lost_connections.clear()
            # The code that the connection was lost may itself be missing.
            self._lost_at = self._lost_at or self._now()
            self._restored(text, without_data=code == codes.RESTORED_WITHOUT_DATA)
        elif code == codes.PORT_CHANGED:
            self._fail(f"the port of the gateway has changed: {text}. Set port in [venue.ib].")
        elif state is not None:
            self._process_subscription_code(state, code, text)
        elif req_id == -1 or code == codes.RATE_EXCEEDED:
            if code == codes.RATE_EXCEEDED:
                self._client.MaxRequests = max(1, self._client.MaxRequests // 2)
            self._status("notice", text)
        else:
            # The request was cancelled, or ib_async raises the error where it was made.
            self._feed.counters["unrequested"] += 1

    def _status(self, state: str, detail: str) -> None:
        now = self._now() if self._recv else self._clock.time_ns()
        self._emit(Status(self._feed.venue, "", now, now, state, detail))

    def _restored(self, text: str, *, without_data: bool = False) -> None:
        """Report a restored connection; *without_data*: request all subscriptions anew."""
        if self._lost_connections or not (self._lost_at or without_data):
            return
        self._status("connected", text)
        for state in self.subscriptions.active.values():
            if without_data:
                self.subscriptions.restart(state, "disconnect", ended=True)
            elif state.live and state.last_recv <= self._lost_at:
                state.gap_cause = state.gap_cause or "disconnect"
        self._lost_at = 0

    def _process_subscription_code(self, state: SubscriptionState, code: int, text: str) -> None:
        """Process a message code about one subscription."""
        if code == codes.DEPTH_RESET and state.rows is not None:
            state.rows.clear()
            state.gap_cause = state.gap_cause or ("reset" if state.live else "")
            self._emit(state.status("notice", text, self._now_or_clock()))
        elif code in (codes.BARS_ENDED, codes.DEPTH_HALTED):
            self._emit(state.status("notice", text, self._now_or_clock()))
            self.subscriptions.restart(state, "ended", ended=code == codes.BARS_ENDED)
        elif code in codes.DELAYED or 2100 <= code < 2200:
            name = "delayed" if code in codes.DELAYED else "notice"
            self._emit(state.status(name, text, self._now_or_clock()))
        elif code in codes.RETRYABLE or codes.RETRYABLE_TEXT.search(text):
            wait = self._settings.retry_every
            detail = f"{text} Next attempt in {wait:g} s."
            self._emit(state.status("refused", detail, self._now_or_clock()))
            self.subscriptions.restart(state, "ended", after=wait, ended=True)
        else:
            self._emit(state.status("refused", text, self._now_or_clock()))
            self.subscriptions.refuse(state, text)

    def _now_or_clock(self) -> int:
        return self._recv or self._clock.time_ns()

    # --------------------------------------------------------------------------------- maintenance

    async def _maintain(self) -> None:
        """Update the subscriptions, send requests that are due, and check that the gateway answers."""
        settings = self._settings
        interval = min(
            1.0, settings.probe_every / 4, settings.answer_within / 4, settings.data_within / 4,
            settings.retry_every / 4,
        )  # fmt: skip
        self._status("connected", "{}:{}".format(*settings.address))
        await self.subscriptions.update()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.subscriptions.changed.wait(), interval)
                self.subscriptions.changed.clear()
                await self.subscriptions.update()
            now = self._clock.monotonic()
            self._probe(now)
            self.subscriptions.check_due(now)

    def _probe(self, now: float) -> None:
        """Request the time if nothing was read for a while; without an answer, end the session."""
        settings = self._settings
        if self._probed_at > self._last_read_at:
            if now >= self._probed_at + settings.answer_within:
                self._fail(f"no answer in {settings.answer_within:g} s: the gateway hangs")
        elif now >= max(self._last_read_at, self._probed_at) + settings.probe_every:
            self._probed_at = now
            self._client.reqCurrentTime()
