"""What a venue's adapter says about its connections: endpoints, limits, subscription messages, replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NoReturn, Protocol, TypeAlias, TypeVar, runtime_checkable

from attrs import field, frozen

from tapeloom.errors import masked, printable
from tapeloom.events import Event
from tapeloom.units import Rate

from .channels import Subscription

T = TypeVar("T")

# --------------------------------------------------------------------------- where data comes from


@frozen
class Heartbeat:
    """What the client has to send periodically to keep a connection open."""

    interval_seconds: float  #: The time between two heartbeats.
    message: str | None = None  #: The text message to send; None for a WebSocket ping frame.
    #: The time within which the venue must send anything after a heartbeat; None: it is not checked.
    reply_timeout_seconds: float | None = None


@frozen(kw_only=True)
class Endpoint:
    """A WebSocket address with the venue's limits, which core respects.

    If a venue has several endpoints, each channel uses the first one that serves it.
    """

    url: str = field(
        repr=lambda url: repr(masked(url))
    )  #: The address, with ``ws://`` or ``wss://``.
    name: str = ""  #: The name in logs and in the details of statuses.
    channels: frozenset[str] = frozenset()  #: Served channels without parameter; empty means all.
    headers: Mapping[str, str] = field(factory=dict, repr=False)  #: Additional handshake headers.
    #: Channels without parameter whose events have neither a number nor a time of the venue, or are changes
    #: of a book without numbers: two processes cannot tell that they received the same one.
    unidentified: frozenset[str] = frozenset()
    max_subscriptions: int = 1024  #: The largest number of subscriptions on one connection.
    max_connections: int | None = None  #: Most connections to it at a time, over all feeds.
    message_rate: Rate | None = None  #: The limit of messages sent on one connection.
    #: The limit of messages sent to the host, over all feeds.
    host_message_rate: Rate | None = None
    dial_rate: Rate | None = None  #: The limit of connection attempts to the host, over all feeds.
    heartbeat: Heartbeat | None = None  #: The heartbeat the client has to send; None for none.
    silence_timeout_seconds: float = 60.0  #: After so long without any byte a connection is dead.
    #: The age at which core replaces a connection; None: never.
    max_age_seconds: float | None = None
    ack_timeout_seconds: float = 10.0  #: The time within which the venue has to answer a message.
    #: The messages to send first, such as a login, or a function that returns them for our time in ns,
    #: for signatures. One with an id must be acknowledged before the next one is sent.
    opening: Sequence[Message] | Callable[[int], Sequence[Message]] = field(default=(), repr=False)

    def opening_messages(self, now: int) -> Sequence[Message]:
        """Return the messages to send first on a connection opened at *now*, in ns."""
        return self.opening(now) if callable(self.opening) else self.opening


class Link(Protocol):
    """One open connection."""

    async def receive(self) -> list[bytes]:
        """Return the payloads of the next read; an empty list if it held only control frames.

        Raises ConnectionLost when the connection has ended.
        """
        ...

    async def send(self, text: str) -> None:
        """Send one text message."""
        ...

    async def ping(self) -> None:
        """Send a WebSocket ping."""
        ...


#: A function that is called with each read; the next read waits for what it returns, unless None.
OnRead: TypeAlias = Callable[[T], Awaitable[None] | None]


@runtime_checkable
class PushLink(Link, Protocol):
    """A link that pushes each read to a callback, without a task in between.

    That saves one event-loop iteration per read, which is most of the cost of a read with one frame.
    """

    async def push_to(self, on_read: OnRead[list[bytes]], /) -> NoReturn:
        """Call *on_read* with the payloads of each read, as `receive` returns them, until cancelled.

        If it returns an awaitable, that is awaited before the next read, also during cancellation.
        Raises what *on_read* raises, and ConnectionLost when the connection has ended.
        """
        ...


#: A function that opens a connection. An attribute `backends` names the event loops it works on.
Dial: TypeAlias = Callable[[Endpoint], AbstractAsyncContextManager[Link]]


@runtime_checkable
class Source(Protocol):
    """A source of events other than core's WebSocket connections, such as polling or a vendor's client."""

    backends: frozenset[str]  #: The event loops that it works on: "asyncio", "trio".
    channels: frozenset[str]  #: The channels that it serves, without parameter.
    #: Whether a new run continues where the last one ended, so that nothing is missed.
    resumes: bool
    #: Optional, as `Endpoint.unidentified`; none by default.
    #: unidentified: frozenset[str]

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        """Deliver batches until cancelled, or until there are no more.

        Once it is connected, it delivers a Status "connected", also where no data comes: a command that
        has seen nothing of a venue ends with an error.

        Raises FeedError if it cannot continue. If the error is `retryable` (a lost connection, a rate
        limit), core reports a status, waits, calls it again, and reports the gap; otherwise the feed ends.
        """
        ...

    def symbols_changed(self) -> None:
        """Handle a change of the feed's symbols; called while it runs."""
        ...


# ------------------------------------------------------------------------- the subscription codec


@frozen
class Message:
    """A text message to send, and the subscriptions it is about."""

    text: str  #: The message.
    subscriptions: tuple[Subscription, ...]  #: The subscriptions it starts or ends.
    id: int | str | None = None  #: The id that the reply repeats; None: no reply is expected.
    is_login: bool = False  #: Whether it holds a secret: it is never displayed.


@frozen
class Ack:
    """A reply that acknowledges a message or subscriptions.

    A message also counts as acknowledged when all its subscriptions are.
    """

    id: int | str | None = None  #: The id of the acknowledged message.
    subscriptions: tuple[Subscription, ...] = ()  #: The acknowledged subscriptions.


@frozen
class Refusal:
    """A reply that refuses a message or subscriptions."""

    reason: str = field(converter=printable)  #: The venue's reason.
    id: int | str | None = None  #: The id of the refused message.
    subscriptions: tuple[Subscription, ...] = ()  #: The refused subscriptions.
    permanent: bool = True  #: Whether trying again is pointless.
    #: Whether the oldest unanswered message is meant, because the venue replies in order without ids.
    oldest_pending: bool = False
    #: The minimum time before a refused login is tried again.
    retry_after_seconds: float = 0.0


@frozen
class Notice:
    """A message of the venue that is neither data nor a reply."""

    kind: str = field(converter=printable)  #: The venue's name for this kind of message.
    detail: str = field(default="", converter=printable)  #: Its text.
    closes_connection: bool = False  #: Whether the venue is about to close the connection.


@frozen
class Pong:
    """The reply to a heartbeat."""


@frozen
class Respond:
    """A question of the venue, such as a heartbeat of its own, that must be answered.

    Core sends the answer ahead of other messages, within the rate limits.
    """

    text: str  #: The message to send.


@frozen
class Unrequested:
    """A readable message of a kind that the feed has not requested: counted, and no event.

    Every venue sends kinds of messages that its adapter does not support; they are no errors.
    """

    kind: str  #: The venue's name for this kind of message.


#: What a venue replies to a message, or sends besides data.
Reply: TypeAlias = Ack | Refusal | Notice | Pong | Respond | Unrequested


class Codec(Protocol):
    """The venue's subscription protocol, as pure functions without I/O or state."""

    def native(self, symbol: str) -> str:
        """Return the venue's name of a unified symbol, formed by rule.

        Raises SymbolError if the venue's market cannot have such a symbol.
        """
        ...

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that start these subscriptions, numbered from *first_id*."""
        ...

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that end these subscriptions, numbered from *first_id*."""
        ...

    def decode_reply(self, frame: bytes) -> Reply | Sequence[Reply] | None:
        """Decode a frame that the parser passed to `Frames.on_control`; None if it is unreadable.

        A frame with several replies gives a sequence. A readable message of a kind that the adapter does
        not support is `Unrequested`.
        """
        ...


def decode_replies(codec: Codec, frame: bytes) -> Sequence[Reply] | None:
    """Return the replies in a frame that is not market data; None if it is unreadable."""
    decoded = codec.decode_reply(frame)
    if decoded is None or isinstance(decoded, list | tuple):
        return decoded
    return (decoded,)  # type: ignore[return-value]
