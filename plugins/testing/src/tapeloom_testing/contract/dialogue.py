"""The client's language against the venue's, word by word, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from tapeloom.events import Event
from tapeloom.harness import PendingMessages
from tapeloom.plugin import Ack, Endpoint, Message, Refusal, Reply, Subscription
from tapeloom_simulator.server_api import Answer, Call

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

#: An address at which nobody is, for languages that are composed and never dialled.
NOWHERE = "http://127.0.0.1:9"
SOURCE = "it connects through a Source: there are no messages"
_LOGIN = 1  # the number that core gives the first message


class Dialogue:
    """One connection of the client to the venue's server side."""

    def __init__(
        self, subject: Subject, plan: ComposedFeed, endpoint: Endpoint, simulated: str
    ) -> None:
        self.market = StillMarket(subject.symbols)
        side = subject.venue_server(self.market, simulated)
        assert side is not None
        address = urlsplit(endpoint.url)
        call = Call(
            method="GET",
            path=unquote(address.path),
            query=dict(parse_qsl(address.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in endpoint.headers.items()},
        )
        self.line = StillLine()
        self.reader = Reader(plan)
        session = side.open(call, self.line)
        if isinstance(session, Answer):
            raise ContractViolation(
                f"the venue's side refuses the handshake at {address.path!r} with HTTP"
                f" {session.status}. The endpoint's url and `VenueServer.open` must agree."
            )
        self.session = session
        self.hear(session.opened())
        if endpoint.login is not None:
            replies = self.say(endpoint.login.text)
            if not any(isinstance(one, Ack) and one.id == endpoint.login.id for one in replies):
                raise ContractViolation(
                    f"after the login an Ack({endpoint.login.id!r}) was expected from `accept`,"
                    f" and {replies!r} came."
                )

    def say(self, text: str) -> list[Reply]:
        """Say something; return what the codec makes of the answers."""
        return self.hear(self.session.receive(text))

    def hear(self, texts: Sequence[str]) -> list[Reply]:
        """Read what the venue says; return what the codec makes of it."""
        self.reader.replies = []
        self.events: list[Event] = self.reader.read([text.encode() for text in texts])
        unread = [each for each in self.events if getattr(each, "rule", "") == "unreadable_frame"]
        if unread:
            raise ContractViolation(
                f"the codec makes nothing of what the venue's side says: {unread[0]!r}."
                " `accept` must know every answer."
            )
        return self.reader.replies


def planned(subject: Subject, simulated: str) -> tuple[ComposedFeed, str]:
    """Return the composed market, with the addresses of its server side where it has one."""
    if subject.plan().codec is None:
        raise NotApplicable(SOURCE)
    side = subject.venue_server(StillMarket(subject.symbols), simulated)
    if side is None:
        raise NotApplicable("the plugin has no `simulate`: there is nobody to talk to")
    return subject.plan({**subject.settings, **side.settings(NOWHERE)}), simulated


def connections(plan: ComposedFeed) -> list[tuple[Endpoint, list[Subscription]]]:
    """Return the connections of a market, and what goes over each."""
    return plan.connections()


def asked(plan: ComposedFeed, wanted: Sequence[Subscription]) -> list[Message]:
    """Return the messages that ask for *wanted*; each must be asked for once."""
    assert plan.codec is not None
    messages = plan.codec.encode_subscribe(wanted, _LOGIN + 1)
    told = [one for message in messages for one in message.subscriptions]
    if sorted(map(str, told)) != sorted(map(str, wanted)):
        raise ContractViolation(
            f"`add` was given {[*map(str, wanted)]} and its messages are about {[*map(str, told)]}:"
            " each subscription belongs to exactly one message."
        )
    ids = [message.id for message in messages if message.id is not None]
    if len(ids) != len(set(ids)):
        raise ContractViolation(
            f"the messages have the ids {ids}: number them from first_id, each its own."
        )
    return messages


def acknowledge(subject: Subject, simulated: str = "") -> None:
    """Hold that every subscription is asked for once, followed by the venue, and agreed to."""
    plan, simulated = planned(subject, simulated)
    for endpoint, wanted in connections(plan):
        talk = Dialogue(subject, plan, endpoint, simulated)
        kept = PendingMessages(wanted)
        answered: set[Subscription] = set()
        for message in asked(plan, wanted):
            kept.sent(message)
            if message.id is not None:
                answered.update(message.subscriptions)
            for reply in talk.say(message.text):
                if isinstance(reply, Refusal):
                    raise ContractViolation(
                        f"the venue's side refuses {message.text!r}: {reply.reason!r}."
                    )
                if isinstance(reply, Ack):
                    kept.receive(reply)
        missing = sorted(map(str, answered - kept.acknowledged))
        if missing or kept.has_pending:
            raise ContractViolation(
                f"not acknowledged: {missing}. The venue's answers must become an Ack with the id"
                " of the message, or with its subscriptions."
            )
        if kept.receive(Ack(subscriptions=(Subscription("NONE/NONE", "trades"),))):
            raise ContractViolation(
                "an acknowledgement of something else agrees to what was not asked for."
            )
        unheard = {one.symbol for one in wanted} - {one.symbol for one in talk.line.following}
        if unheard and not any(not one.symbol for one in talk.line.following):
            raise ContractViolation(
                f"the venue acknowledges {sorted(unheard)} and does not send it."
            )


def unsubscribe(subject: Subject, simulated: str = "") -> None:
    """Hold that what is dropped is sent no longer, and the rest still is."""
    plan, simulated = planned(subject, simulated)
    assert plan.codec is not None
    for endpoint, wanted in connections(plan):
        talk, kept = Dialogue(subject, plan, endpoint, simulated), PendingMessages(wanted)
        for message in asked(plan, wanted):
            kept.sent(message)
            _hear(kept, talk.say(message.text))
        gone = [one for one in wanted if one.symbol == wanted[0].symbol]
        for part in (gone, [one for one in wanted if one not in gone]):
            kept.forget(part)
            for message in plan.codec.encode_unsubscribe(part, 100) if part else ():
                kept.sent(message, unsubscribes=True)
                replies = talk.say(message.text)
                if refusals := [one for one in replies if isinstance(one, Refusal)]:
                    raise ContractViolation(
                        f"the venue refuses {message.text!r}: {refusals[0].reason!r}."
                    )
                if back := _hear(kept, replies):
                    raise ContractViolation(f"the answer {replies!r} to a drop agrees to {back}.")
            if kept.has_pending:
                raise ContractViolation(f"the drop of {[*map(str, part)]} is not acknowledged.")
            still = {one.symbol for one in talk.line.following if one.symbol}
            if still & {one.symbol for one in part}:
                raise ContractViolation(f"after `drop`, the venue still sends {sorted(still)}.")
        if talk.line.following:
            names = [one.name for one in talk.line.following]
            raise ContractViolation(f"after everything was dropped, the venue still sends {names}.")


def _hear(kept: PendingMessages, replies: Sequence[Reply]) -> list[str]:
    """Take the acknowledgements; return what is live by them and was not before."""
    return [str(one) for reply in replies if isinstance(reply, Ack) for one in kept.receive(reply)]


def refuse(subject: Subject, simulated: str = "") -> None:
    """Hold that a refusal is understood and names what it is about."""
    plan, simulated = planned(subject, simulated)
    for endpoint, wanted in connections(plan):
        talk = Dialogue(subject, plan, endpoint, simulated)
        message = asked(plan, wanted)[0]
        kept = PendingMessages(wanted)
        kept.sent(message)
        replies = talk.hear(talk.session.refuse(message.text))
        refusals = [one for one in replies if isinstance(one, Refusal)]
        if not refusals:
            raise ContractViolation(f"a refusal was expected from `accept`, and {replies!r} came.")
        if not refusals[0].reason:
            raise ContractViolation("the refusal gives no reason: hand on the venue's own words.")
        refused = [one for each in refusals for one in kept.receive(each)]
        if message.id is not None and not refused:
            raise ContractViolation(
                f"{refusals[0]!r} names neither the message {message.id!r} nor any of its"
                " subscriptions. Set `id`, `subscriptions` or `oldest`."
            )
