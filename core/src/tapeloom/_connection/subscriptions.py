"""The subscriptions of one connection: wanted, requested, pending, acknowledged."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import Factory, define, evolve

from tapeloom.events import Event, Status
from tapeloom.plugin import Ack, Message, Refusal, Subscription


@define
class _Pending:
    """A message that was sent and not answered."""

    message: Message
    due: float  #: when the answer is due, in monotonic seconds
    unanswered: set[Subscription]  #: those of its subscriptions that no reply has named yet
    unsubscribes: bool
    with_events: set[Subscription] = Factory(set)  #: those of `unanswered` that have had an event


class Subscriptions:
    """Matches the messages sent on one connection with the venue's replies.

    Events of a subscription count as its acknowledgement when the reply is due: the venue may have
    replied in a form that the codec does not know. *wanted* is the supervisor's own list, shared by
    its connections.
    """

    def __init__(self, wanted: list[Subscription]) -> None:
        self.wanted = wanted
        self.acknowledged: set[Subscription] = set()
        self._acknowledged_at: dict[Subscription, float] = {}  # in monotonic seconds
        #: Subscriptions requested and not ended, in the order of the requests.
        self.requested: dict[Subscription, None] = {}
        self.opening: Message | None = None  #: the opening message that waits for its reply
        self._pending: dict[int | str, _Pending] = {}
        self._replies_missing = False  # events came where a reply was due

    # -------------------------------------------------------------------------------------- wanted

    def remove(self, subscriptions: Iterable[Subscription]) -> None:
        """Remove subscriptions from the wanted ones."""
        removed = set(subscriptions)
        self.wanted[:] = [wanted for wanted in self.wanted if wanted not in removed]
        self.acknowledged -= removed
        for subscription in removed:
            self.requested.pop(subscription, None)

    def still_wanted(self, subscriptions: Iterable[Subscription]) -> list[Subscription]:
        """Return those of *subscriptions* that are wanted."""
        wanted = set(self.wanted)
        return [subscription for subscription in subscriptions if subscription in wanted]

    # ------------------------------------------------------------------------------- sent messages

    @property
    def has_pending(self) -> bool:
        """Whether a message has not been answered."""
        return bool(self._pending)

    def sent(self, message: Message, due: float, *, unsubscribes: bool = False) -> None:
        """Record a message that was sent; its answer is *due* at that monotonic time."""
        for subscription in message.subscriptions:
            if unsubscribes:
                self.requested.pop(subscription, None)
            else:
                self.requested[subscription] = None
        if message.id is not None:
            unanswered = set(message.subscriptions)
            self._pending[message.id] = _Pending(message, due, unanswered, unsubscribes)

    def pending(self) -> list[Subscription]:
        """Return the subscriptions that were requested and not answered."""
        subscribes = [sent for sent in self._pending.values() if not sent.unsubscribes]
        return [subscription for sent in subscribes for subscription in sent.unanswered]

    def extend_deadlines(self, seconds: float) -> None:
        """Give the venue more time to answer: we did not read for so many seconds."""
        for pending in self._pending.values():
            pending.due += seconds

    def process(self, events: Iterable[Event]) -> None:
        """Record which of the pending subscriptions have events."""
        active = {Subscription(e.symbol, e.channel) for e in events if type(e) is not Status}
        for pending in self._pending.values():
            if pending.unsubscribes:
                active -= pending.unanswered  # they may still be events of the old subscription
            else:
                pending.with_events |= pending.unanswered & active

    def accept_by_events(self, now: float) -> list[Subscription]:
        """Settle what is overdue if events show that the venue's replies are not understood.

        Return the subscriptions that are acknowledged by that. Those without events are among them:
        the stall detector requests them again.
        """
        overdue = {key: pending for key, pending in self._pending.items() if now > pending.due}
        self._replies_missing |= any(pending.with_events for pending in overdue.values())
        new: list[Subscription] = []
        for key, pending in overdue.items() if self._replies_missing else ():
            del self._pending[key]
            new += [] if pending.unsubscribes else self.still_wanted(pending.unanswered)
        self._acknowledge(new, now)
        return new

    def overdue(self, now: float) -> Message | None:
        """Return the oldest message whose answer is overdue, None where there is none.

        While another message has events and no reply, its own deadline decides: see `accept_by_events`.
        """
        if any(pending.with_events for pending in self._pending.values()):
            return None
        overdue = (pending.message for pending in self._pending.values() if now > pending.due)
        return next(overdue, None)

    # ------------------------------------------------------------------------------------- replies

    def settle(self, message: Message) -> None:
        """Record that *message* was answered."""
        if message.id is not None:
            self._pending.pop(message.id, None)

    def acknowledge(self, ack: Ack, now: float = 0.0) -> list[Subscription]:
        """Return the subscriptions that *ack*, which came at a monotonic time, newly acknowledges."""
        wanted = self.still_wanted(self._settle_reply(ack))
        new = [named for named in wanted if named not in self.acknowledged]
        self._acknowledge(new, now)
        return new

    def _acknowledge(self, subscriptions: list[Subscription], now: float) -> None:
        self.acknowledged.update(subscriptions)
        self._acknowledged_at.update(dict.fromkeys(subscriptions, now))

    def acknowledged_by(self, time: float) -> set[Subscription]:
        """Return the subscriptions that were acknowledged at a monotonic time, and still are."""
        return {named for named in self.acknowledged if self._acknowledged_at[named] <= time}

    def refuse(self, refusal: Refusal) -> list[Subscription]:
        """Return the refused subscriptions; empty if the refusal is of an unsubscribe."""
        if refusal.oldest_pending and self._pending:
            refusal = evolve(refusal, id=next(iter(self._pending)))
        return self._settle_reply(refusal)

    def _settle_reply(self, reply: Ack | Refusal) -> list[Subscription]:
        """Settle the message that *reply* answers; return the subscriptions that the message requested.

        A reply without a known id answers for the subscriptions that it names itself.
        """
        pending = self._pending.pop(reply.id, None) if reply.id is not None else None
        if pending is not None:
            return [] if pending.unsubscribes else list(pending.message.subscriptions)
        return [named for named in reply.subscriptions if not self._settle_unsubscribe(named)]

    def _settle_unsubscribe(self, subscription: Subscription) -> bool:
        """Settle the oldest pending message for *subscription*; return whether it unsubscribes."""
        for message_id, pending in self._pending.items():
            if subscription in pending.unanswered:
                pending.unanswered.remove(subscription)
                if not pending.unanswered:
                    del self._pending[message_id]
                return pending.unsubscribes
        return False
