"""What a venue's reply means: the events that stand in its place, and what is to be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import structlog
from attrs import define

from tapeloom.errors import FeedError, LoginRefused, SubscriptionRefused, Throttled
from tapeloom.events import Status
from tapeloom.plugin import Ack, Feed, Notice, Pong, Refusal, Respond, Subscription, Unrequested
from tapeloom.plugin.protocol import Reply

from .subscriptions import Subscriptions

log = structlog.get_logger()


class ReplyResult(NamedTuple):
    """The events that stand in the place of a reply, and what the connection has to do."""

    events: list[Status]
    live: Sequence[Subscription] | None = None  #: acknowledged by it; None: it is no Ack
    refused: Sequence[Subscription] = ()  #: permanently
    to_retry: Sequence[Subscription] = ()  #: refused, but not permanently
    failure: FeedError | None = None  #: the connection ends with it
    answer: str | None = None  #: the message to send to the venue
    answers_opening: bool = False
    answers_heartbeat: bool = False
    closes_connection: bool = False  #: the venue is about to close the connection


@define(eq=False)
class Replies:
    """Matches the replies on one connection with its subscriptions. It does no I/O."""

    _feed: Feed
    _label: str
    _subscriptions: Subscriptions

    def process(self, reply: Reply, recv: int) -> ReplyResult:
        """Return what a reply that arrived at *recv*, in ns, means."""
        if isinstance(reply, Ack):
            return self._on_ack(reply, recv)
        if isinstance(reply, Refusal):
            return self._on_refusal(reply, recv)
        if isinstance(reply, Notice):
            status = self._status(recv, "notice", f"{reply.kind} {reply.detail}".rstrip())
            return ReplyResult([status], closes_connection=reply.closes_connection)
        if isinstance(reply, Respond):
            return ReplyResult([], answer=reply.text)
        if isinstance(reply, Unrequested):
            self._feed.counters["unrequested"] += 1
        return ReplyResult([], answers_heartbeat=isinstance(reply, Pong))

    def _on_ack(self, ack: Ack, recv: int) -> ReplyResult:
        opening = self._subscriptions.opening
        if opening is not None and ack.id == opening.id:
            self._subscriptions.settle(opening)
            self._subscriptions.opening = None
            statuses: list[Status] = [self._status(recv, "logged_in", self._label)]
            return ReplyResult(statuses if opening.is_login else [], answers_opening=True)
        new = self._subscriptions.acknowledge(ack, self._feed.clock.monotonic())
        detail = f"{self._label}: {len(new)} subscriptions"
        return ReplyResult([self._status(recv, "subscribed", detail)] if new else [], live=new)

    def _on_refusal(self, refusal: Refusal, recv: int) -> ReplyResult:
        # `oldest_pending` marks a refusal without an id: it answers the oldest message.
        opening = self._subscriptions.opening
        if opening and (refusal.id == opening.id or refusal.oldest_pending):
            return self._on_opening_refused(refusal, recv)
        refused = self._subscriptions.refuse(refusal)
        log.warning("subscription_refused", feed=self._feed.name, reason=refusal.reason)
        named = refused or [Subscription("", "")]  # one Status even if it names no subscription
        events: list[Status] = [
            self._status(recv, "refused", refusal.reason, key.symbol, key.channel) for key in named
        ]
        wanted = self._subscriptions.still_wanted(refused)
        if not refusal.permanent:
            return ReplyResult(events, to_retry=wanted)
        self._subscriptions.remove(wanted)
        failure = None
        if refused and not self._subscriptions.wanted:
            reason = f"the venue refused every subscription: {refusal.reason}"
            failure = SubscriptionRefused(self._feed.name, reason)
        return ReplyResult(events, refused=wanted, failure=failure)

    def _on_opening_refused(self, refusal: Refusal, recv: int) -> ReplyResult:
        failure: FeedError = LoginRefused(self._feed.name, refusal.reason)
        if not refusal.permanent:
            reason = f"the venue refused the login for now: {refusal.reason}"
            failure = Throttled(self._feed.name, reason, 0, refusal.retry_after_seconds)
        events: list[Status] = [self._status(recv, "login_refused", refusal.reason)]
        return ReplyResult(events, failure=failure)

    def _status(
        self, recv: int, state: str, detail: str, symbol: str = "", channel: str = ""
    ) -> Status:
        return Status(self._feed.venue, symbol, recv, recv, state, detail, channel)


def are_recorded(replies: Sequence[Reply]) -> bool:
    """Return whether the statuses in place of the replies in one frame are recorded as a fact."""
    return any(isinstance(reply, Ack | Refusal | Notice) for reply in replies)
