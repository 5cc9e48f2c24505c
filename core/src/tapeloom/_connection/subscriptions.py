"""What is wanted of a venue, what has been asked for on a connection, and what was said to that."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, evolve

from tapeloom.plugin import Ack, Message, Refusal, Subscription


@define
class _Waiting:
    """A message that has been sent, and when its answer is due."""

    message: Message
    due: float
    left: set[Subscription]  #: those of its subscriptions that the venue has not agreed to yet
    drops: bool


class Subscriptions:
    """The subscriptions of one session, as they stand on one of its connections.

    *wanted* is the session's own list, shared by its connections.
    """

    def __init__(self, wanted: list[Subscription]) -> None:
        self.wanted = wanted
        self.acknowledged: set[Subscription] = set()
        self.begun: dict[
            Subscription, None
        ] = {}  #: what was asked for, in that order, and not ended
        self._waiting: dict[int | str, _Waiting] = {}

    # ------------------------------------------------------------------------------ what is wanted

    def forget(self, some: Iterable[Subscription]) -> None:
        """Want these no longer."""
        gone = set(some)
        self.wanted[:] = [one for one in self.wanted if one not in gone]
        self.acknowledged -= gone
        for one in gone:
            self.begun.pop(one, None)

    def still(self, some: Iterable[Subscription]) -> list[Subscription]:
        """Return which of these are wanted."""
        wanted = set(self.wanted)
        return [one for one in some if one in wanted]

    # --------------------------------------------------------------------------- what was asked for

    @property
    def waiting(self) -> bool:
        """Whether some message has not been answered."""
        return bool(self._waiting)

    def sent(self, message: Message, due: float, *, drops: bool = False) -> None:
        """Take note of a message, which is to be answered until *due*."""
        for one in message.subscriptions:
            if drops:
                self.begun.pop(one, None)
            else:
                self.begun[one] = None
        if message.id is not None:
            left = set(message.subscriptions)
            self._waiting[message.id] = _Waiting(message, due, left, drops)

    def asked(self) -> list[Subscription]:
        """Return what was asked for and not answered."""
        return [one for each in self._waiting.values() if not each.drops for one in each.left]

    def excuse(self, seconds: float) -> None:
        """Give the venue more time to answer: we did not listen for so long."""
        for each in self._waiting.values():
            each.due += seconds

    def overdue(self, now: float) -> Message | None:
        """Return the oldest message whose answer should have come."""
        late = (each.message for each in self._waiting.values() if now > each.due)
        return next(late, None)

    # ------------------------------------------------------------------------- what the venue says

    def oldest(self) -> Message | None:
        """Return the message that has waited longest for an answer."""
        return next((each.message for each in self._waiting.values()), None)

    def answered(self, message: Message) -> None:
        """Wait no longer for an answer to *message*."""
        if message.id is not None:
            self._waiting.pop(message.id, None)

    def agreed(self, ack: Ack) -> list[Subscription]:
        """Return what is live from now on by the venue's word, and was not before."""
        new = [one for one in self.still(self._meant(ack)) if one not in self.acknowledged]
        self.acknowledged.update(new)
        return new

    def refused(self, refusal: Refusal) -> list[Subscription]:
        """Return what the venue does not give us; where it will not let go of something, nothing."""
        oldest = self.oldest() if refusal.oldest_pending else None
        return self._meant(evolve(refusal, id=oldest.id) if oldest is not None else refusal)

    def _meant(self, reply: Ack | Refusal) -> list[Subscription]:
        """Settle the message that is answered; return what it asked to add."""
        each = self._waiting.pop(reply.id, None) if reply.id is not None else None
        if each is not None:
            return [] if each.drops else list(each.message.subscriptions)
        return [one for one in reply.subscriptions if not self._dropped(one)]

    def _dropped(self, one: Subscription) -> bool:
        """Settle *one* with the oldest message that waits for it; return whether that dropped it."""
        for key, each in self._waiting.items():
            if one in each.left:
                each.left.remove(one)
                if not each.left:
                    del self._waiting[key]
                return each.drops
        return False
