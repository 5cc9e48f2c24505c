"""The client's messages against the venue's server side, and its replies, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from tapeloom.events import Event
from tapeloom.harness import PendingMessages
from tapeloom.plugin import Ack, Endpoint, Message, Refusal, Reply, Subscription
from tapeloom_simulator.server_api import HttpRequest, HttpResponse

from .composed import Reader
from .declared import ContractViolation, NotApplicable
from .static_market import StillLine, StillMarket

if TYPE_CHECKING:
    from tapeloom.harness import ComposedFeed

    from .composed import Subject

__all__ = [
    "NOWHERE",
    "SOURCE",
    "Dialogue",
    "acknowledge",
    "asked",
    "connections",
    "planned",
    "refuse",
    "unsubscribe",
]

#: A base URL where nothing listens, for feeds that are composed and never dialled.
NOWHERE = "http://127.0.0.1:9"
#: Why guarantees about messages do not apply to a Source.
SOURCE = "it connects through a Source: there are no messages"
#: The id that core gives the login, its first message.
_LOGIN = 1


class Dialogue:
    """One connection of the client to the simulated venue, without a network.

    The venue's side is the `VenueServer` of its simulator plugin. The constructor opens the session and
    logs in; it raises ContractViolation if the server refuses either.
    """

    def __init__(
        self, subject: Subject, plan: ComposedFeed, endpoint: Endpoint, simulated: str
    ) -> None:
        self.market = StillMarket(subject.symbols)
        side = subject.venue_server(self.market, simulated)
        assert side is not None
        address = urlsplit(endpoint.url)
        call = HttpRequest(
            method="GET",
            path=unquote(address.path),
            query=dict(parse_qsl(address.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in endpoint.headers.items()},
        )
        self.line = StillLine()
        self.reader = Reader(plan)
        session = side.open_connection(call, self.line)
        if isinstance(session, HttpResponse):
            raise ContractViolation(
                f"the server side refuses the handshake at {address.path!r} with HTTP"
                f" {session.status}. The endpoint's url and `VenueServer.open_connection` must agree."
            )
        self.session = session
        self.decode(session.opening_messages())
        for message in endpoint.opening_messages(plan.feed.clock.time_ns()):
            replies = self.send(message.text)
            if message.id is not None and not any(
                isinstance(reply, Ack) and reply.id == message.id for reply in replies
            ):
                raise ContractViolation(
                    f"`decode_reply` must return an Ack({message.id!r}) after an opening message"
                    f" with that id, but the replies are {replies!r}."
                )

    def send(self, text: str) -> list[Reply]:
        """Send a message to the server side; return the decoded replies."""
        return self.decode(self.session.receive(text))

    def decode(self, texts: Sequence[str]) -> list[Reply]:
        """Read messages of the venue into `events`; return the decoded replies."""
        self.reader.replies = []
        self.events: list[Event] = self.reader.read([text.encode() for text in texts])
        unread = [
            event for event in self.events if getattr(event, "rule", "") == "unreadable_frame"
        ]
        if unread:
            raise ContractViolation(
                f"the codec cannot read a message of the server side: {unread[0]!r}."
                " `decode_reply` must decode every reply."
            )
        return self.reader.replies


def planned(subject: Subject, simulated: str) -> tuple[ComposedFeed, str]:
    """Return the market, composed with the settings of its server side, and *simulated*.

    Raise NotApplicable where it has no messages or no server side.
    """
    if subject.plan().codec is None:
        raise NotApplicable(SOURCE)
    side = subject.venue_server(StillMarket(subject.symbols), simulated)
    if side is None:
        raise NotApplicable("the plugin has no `simulate`: there is nobody to talk to")
    return subject.plan({**subject.settings, **side.settings(NOWHERE)}), simulated


def connections(plan: ComposedFeed) -> list[tuple[Endpoint, list[Subscription]]]:
    """Return the endpoints of a market, each with the subscriptions it carries."""
    return plan.connections()


def asked(plan: ComposedFeed, wanted: Sequence[Subscription]) -> list[Message]:
    """Return the messages with which the codec subscribes to *wanted*.

    Raise ContractViolation unless each subscription belongs to a single message and ids are unique.
    """
    assert plan.codec is not None
    # The second argument is `first_id`, the first free id: core gives the login the id before it.
    messages = plan.codec.encode_subscribe(wanted, _LOGIN + 1)
    encoded = [subscription for message in messages for subscription in message.subscriptions]
    if sorted(map(str, encoded)) != sorted(map(str, wanted)):
        raise ContractViolation(
            f"`encode_subscribe` got {[*map(str, wanted)]}, but its messages subscribe to"
            f" {[*map(str, encoded)]}: each subscription belongs to exactly one message."
        )
    ids = [message.id for message in messages if message.id is not None]
    if len(ids) != len(set(ids)):
        raise ContractViolation(
            f"the messages have the ids {ids}: they must be unique and count from first_id."
        )
    return messages


def acknowledge(subject: Subject, simulated: str = "") -> None:
    """Check that every subscription is sent once, acknowledged, and streamed by the server side."""
    plan, simulated = planned(subject, simulated)
    for endpoint, wanted in connections(plan):
        dialogue = Dialogue(subject, plan, endpoint, simulated)
        pending = PendingMessages(wanted)
        answered: set[Subscription] = set()
        for message in asked(plan, wanted):
            pending.sent(message)
            if message.id is not None:
                answered.update(message.subscriptions)
            for reply in dialogue.send(message.text):
                if isinstance(reply, Refusal):
                    raise ContractViolation(
                        f"the server side refuses {message.text!r}: {reply.reason!r}."
                    )
                if isinstance(reply, Ack):
                    pending.receive(reply)
        missing = sorted(map(str, answered - pending.acknowledged))
        if missing or pending.has_pending:
            raise ContractViolation(
                f"not acknowledged: {missing}. `decode_reply` must return an Ack with the id of the"
                " message or with its subscriptions."
            )
        if pending.receive(Ack(subscriptions=(Subscription("NONE/NONE", "trades"),))):
            raise ContractViolation(
                "an acknowledgement of NONE/NONE was accepted, which was never subscribed to."
            )
        streams = dialogue.line.subscriptions
        unsent = {subscription.symbol for subscription in wanted}
        unsent -= {stream.symbol for stream in streams}
        if unsent and all(stream.symbol for stream in streams):
            raise ContractViolation(
                f"the server side acknowledges {sorted(unsent)}, but does not stream it."
            )


def unsubscribe(subject: Subject, simulated: str = "") -> None:
    """Check that unsubscribed symbols are no longer streamed, and the others still are."""
    plan, simulated = planned(subject, simulated)
    assert plan.codec is not None
    for endpoint, wanted in connections(plan):
        dialogue, pending = Dialogue(subject, plan, endpoint, simulated), PendingMessages(wanted)
        for message in asked(plan, wanted):
            pending.sent(message)
            _newly_acknowledged(pending, dialogue.send(message.text))
        dropped = [
            subscription for subscription in wanted if subscription.symbol == wanted[0].symbol
        ]
        rest = [subscription for subscription in wanted if subscription not in dropped]
        for part in (dropped, rest):
            pending.forget(part)
            for message in plan.codec.encode_unsubscribe(part, 100) if part else ():
                pending.sent(message, unsubscribes=True)
                replies = dialogue.send(message.text)
                if refusals := [reply for reply in replies if isinstance(reply, Refusal)]:
                    raise ContractViolation(
                        f"the server side refuses {message.text!r}: {refusals[0].reason!r}."
                    )
                if live := _newly_acknowledged(pending, replies):
                    raise ContractViolation(
                        f"the reply {replies!r} to an unsubscribe message acknowledges {live} as subscribed."
                    )
            if pending.has_pending:
                raise ContractViolation(
                    f"unsubscribing from {[*map(str, part)]} is not acknowledged."
                )
            streamed = {stream.symbol for stream in dialogue.line.subscriptions if stream.symbol}
            if streamed & {subscription.symbol for subscription in part}:
                raise ContractViolation(
                    f"after `encode_unsubscribe`, the server side still streams {sorted(streamed)}."
                )
        if dialogue.line.subscriptions:
            names = [stream.name for stream in dialogue.line.subscriptions]
            raise ContractViolation(
                f"all subscriptions are unsubscribed, but the server side still streams {names}."
            )


def _newly_acknowledged(pending: PendingMessages, replies: Sequence[Reply]) -> list[str]:
    """Process acknowledgements; return the subscriptions that they make live."""
    acks = [reply for reply in replies if isinstance(reply, Ack)]
    return [str(subscription) for ack in acks for subscription in pending.receive(ack)]


def refuse(subject: Subject, simulated: str = "") -> None:
    """Check that a refusal is decoded with its reason and the refused subscriptions."""
    plan, simulated = planned(subject, simulated)
    for endpoint, wanted in connections(plan):
        dialogue = Dialogue(subject, plan, endpoint, simulated)
        message = asked(plan, wanted)[0]
        pending = PendingMessages(wanted)
        pending.sent(message)
        replies = dialogue.decode(dialogue.session.refuse(message.text))
        refusals = [reply for reply in replies if isinstance(reply, Refusal)]
        if not refusals:
            raise ContractViolation(
                f"`decode_reply` must return a Refusal, but the replies are {replies!r}."
            )
        if not refusals[0].reason:
            raise ContractViolation("the Refusal has no reason: set it to the text of the venue.")
        refused = [
            subscription for refusal in refusals for subscription in pending.receive(refusal)
        ]
        if message.id is not None and not refused:
            raise ContractViolation(
                f"{refusals[0]!r} names neither the message {message.id!r} nor any of its"
                " subscriptions. Set `id`, `subscriptions` or `oldest_pending`."
            )
