"""Keeps a connection alive with heartbeats, and ends it when it is silent or a reply is overdue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import Factory, define

from tapeloom.plugin import Clock, Endpoint, Subscription

from .sender import Sender
from .subscriptions import Subscriptions

#: If the watchdog runs this many seconds late, the event loop was blocked; that time is not counted
#: as silence of the venue.
_BLOCKED_SECONDS = 1.0


@define(eq=False)
class Deadlines:
    """What must come from the venue in time, and when it came last.

    It does no I/O and is given the time. All times are monotonic seconds.
    """

    #: The subscriptions of the connection, whose messages must be answered.
    subscriptions: Subscriptions = Factory(lambda: Subscriptions([]))
    pings: bool = False  #: the heartbeat is a WebSocket ping
    last_byte: float = 0.0  #: when the last byte arrived
    heartbeat_due: float | None = None  #: when the reply to a heartbeat is due
    is_blocked: bool = False  #: waiting for a consumer: the venue is not silent, we do not read
    last_check: float = 0.0

    def record_control_frame(self) -> None:
        """Record a read of control frames alone: most likely the pong."""
        if self.pings:
            self.heartbeat_due = None

    def heartbeat_sent(self, now: float, timeout: float) -> None:
        """Expect the reply to a heartbeat within *timeout* seconds, unless an earlier one is due."""
        if self.heartbeat_due is None:
            self.heartbeat_due = now + timeout

    def not_read_for(self, seconds: float, now: float) -> None:
        """Do not count the last *seconds* as silence of the venue: we did not read."""
        self.last_byte = min(self.last_byte + seconds, now)
        if self.heartbeat_due is not None:
            self.heartbeat_due += seconds
        self.subscriptions.extend_deadlines(seconds)

    def blocked_seconds(self, step: float, now: float) -> float:
        """Return how late a check runs that was due after *step* seconds, if the event loop was blocked.

        That time is no silence; 0.0 if the loop was not blocked.
        """
        passed, self.last_check = now - self.last_check, now
        if passed <= step + _BLOCKED_SECONDS:
            return 0.0
        self.not_read_for(passed - step, now)
        return passed - step

    def failure(self, now: float, silence_timeout: float) -> str | None:
        """Return why the connection counts as dead, None if it is alive."""
        if now - self.last_byte > silence_timeout:
            return f"no byte was received for {now - self.last_byte:.0f} s"
        if self.heartbeat_due is not None and now > self.heartbeat_due:
            return "the venue does not answer heartbeats"
        return None

    def overdue_reply(self, now: float, timeout: float) -> str | None:
        """Return which message the venue has not answered in *timeout* s, None if there is none."""
        overdue = self.subscriptions.overdue(now)
        if overdue is None:
            return None
        # The text of a login holds a secret.
        text = "the login" if overdue.is_login else overdue.text[:120]
        return f"no answer within {timeout:g} s to {text}"


class Monitored(Protocol):
    """A connection as its watchdog sees it."""

    def end(self, reason: str) -> None:
        """End the connection."""

    def retire(self) -> None:
        """Replace the connection."""

    def check(self) -> None:
        """Check for stalled subscriptions."""

    def not_read_for(self, seconds: float) -> None:
        """Do not count the last *seconds* as a stall: we did not read."""

    async def accepted(self, subscriptions: Sequence[Subscription]) -> None:
        """Take subscriptions as accepted that the venue did not confirm, but sends events of."""


@define(eq=False)
class KeepAlive:
    """Sends the heartbeats of one connection, and checks its deadlines."""

    _endpoint: Endpoint
    _clock: Clock
    _sender: Sender
    _deadlines: Deadlines
    _connection: Monitored

    async def send_heartbeats(self) -> None:
        """Send the endpoint's heartbeat at its interval."""
        heartbeat = self._endpoint.heartbeat
        if heartbeat is None:
            return
        due, timeout = self._clock.monotonic(), heartbeat.reply_timeout_seconds
        while True:
            due += heartbeat.interval_seconds
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
            await self._sender.send_urgent(heartbeat.message)
            if timeout is not None:
                self._deadlines.heartbeat_sent(self._clock.monotonic(), timeout)

    async def watch(self) -> None:
        """End a connection that is silent or has an overdue reply; replace one that is too old."""
        clock, endpoint, connection = self._clock, self._endpoint, self._connection
        deadlines, max_age = self._deadlines, endpoint.max_age_seconds
        step = min(1.0, endpoint.silence_timeout_seconds / 4, endpoint.ack_timeout_seconds / 4)
        opened_at = deadlines.last_check = clock.monotonic()
        while True:
            await clock.sleep(step)
            now = clock.monotonic()
            if seconds := deadlines.blocked_seconds(step, now):
                connection.not_read_for(seconds)
            if max_age is not None and now - opened_at > max_age:
                max_age = None
                connection.retire()
            if deadlines.is_blocked:
                connection.not_read_for(step)
                continue
            connection.check()
            if reason := deadlines.failure(now, endpoint.silence_timeout_seconds):
                connection.end(reason)
            if accepted := deadlines.subscriptions.accept_by_events(now):
                await connection.accepted(accepted)
            if reason := deadlines.overdue_reply(now, endpoint.ack_timeout_seconds):
                connection.end(reason)
