"""What a venue's reply means: the events that stand in its place, and what is to be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import structlog
from attrs import define

from tapeloom.errors import FeedError, LoginRefused, SubscriptionRefused, Throttled
from tapeloom.events import Status
from tapeloom.plugin import Ack, Feed, Message, Notice, Pong, Refusal, Subscription
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
    logged_in: bool = False
    answers_heartbeat: bool = False
    closes_connection: bool = False  #: the venue is about to close the connection


@define(eq=False)
class Replies:
    """Matches the replies on one connection with its subscriptions. It does no I/O."""

    _feed: Feed
    _login: Message | None
    _label: str
    _subscriptions: Subscriptions
    _logged_in: bool = False

    def process(self, reply: Reply | None, recv: int) -> ReplyResult | None:
        """Return what a reply that arrived at *recv*, in ns, means; None if it is not readable."""
        if isinstance(reply, Ack):
            return self._on_ack(reply, recv)
        if isinstance(reply, Refusal):
            return self._on_refusal(reply, recv)
        if isinstance(reply, Notice):
            status = self._status(recv, "notice", f"{reply.kind} {reply.detail}".rstrip())
            return ReplyResult([status], closes_connection=reply.closes_connection)
        return ReplyResult([], answers_heartbeat=True) if isinstance(reply, Pong) else None

    def _on_ack(self, ack: Ack, recv: int) -> ReplyResult:
        login = self._login
        if login is not None and ack.id == login.id:
            self._subscriptions.settle(login)
            self._logged_in = True
            return ReplyResult([self._status(recv, "logged_in", self._label)], logged_in=True)
        new = self._subscriptions.acknowledge(ack)
        detail = f"{self._label}: {len(new)} subscriptions"
        return ReplyResult([self._status(recv, "subscribed", detail)] if new else [], live=new)

    def _on_refusal(self, refusal: Refusal, recv: int) -> ReplyResult:
        # `oldest_pending` marks a refusal without an id: it answers the oldest message, first the login.
        login = self._login
        if login and not self._logged_in and (refusal.id == login.id or refusal.oldest_pending):
            return self._on_login_refused(refusal, recv)
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

    def _on_login_refused(self, refusal: Refusal, recv: int) -> ReplyResult:
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
