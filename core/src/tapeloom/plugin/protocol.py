"""What a venue's adapter says of its connections: addresses, rules, subscription messages, replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NoReturn, Protocol, TypeAlias, TypeVar, runtime_checkable

from attrs import field, frozen

from tapeloom.events import Event
from tapeloom.units import Rate

from .channels import Subscription

T = TypeVar("T")

# --------------------------------------------------------------------------- where data comes from


@frozen
class Heartbeat:
    """What the client must send by itself, every `interval_seconds`. None: a WebSocket ping frame.

    `reply_timeout_seconds` is the time in which the venue must be heard after it; None: that is not watched.
    """

    interval_seconds: float
    message: str | None = None
    reply_timeout_seconds: float | None = None


@frozen(kw_only=True)
class Endpoint:
    """A WebSocket address, and the venue's rules for it. Core obeys them.

    `channels` names those it serves (without parameter); empty means all. Where a venue has several
    endpoints, each channel goes to the first one that serves it. `silence_timeout_seconds` is how long a connection
    may bring no byte at all before it counts as dead. `max_age_seconds` is the age at which it is replaced,
    before the venue would end it. `login` is said first, and must be agreed to before anything else
    is; it is never shown.
    """

    url: str
    name: str = ""
    channels: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    max_subscriptions: int = 1024
    max_connections: int | None = None  #: at a time, to this address, over all feeds
    message_rate: Rate | None = None  #: what a client may send on one connection
    host_message_rate: Rate | None = None  #: what it may send over all connections to one host
    dial_rate: Rate | None = None  #: how often a client may dial; shared by all feeds on one host
    heartbeat: Heartbeat | None = None
    silence_timeout_seconds: float = 60.0
    max_age_seconds: float | None = None
    ack_timeout_seconds: float = 10.0  #: seconds in which the venue answers a message
    login: Message | None = field(default=None, repr=False)


class Link(Protocol):
    """One open connection."""

    async def receive(self) -> list[bytes]:
        """Return the payloads that the next read brings; none where it held only control frames.

        Raises ConnectionLost when the connection has ended.
        """
        ...

    async def send(self, text: str) -> None:
        """Send one text message."""
        ...

    async def ping(self) -> None:
        """Send a WebSocket ping."""
        ...


#: Takes what a read has brought; returns what is to be awaited before more is read, None for nothing.
OnRead: TypeAlias = Callable[[T], Awaitable[None] | None]


@runtime_checkable
class PushLink(Link, Protocol):
    """A link that can hand over what a read brings from within the read, with no task in between.

    That saves a turn of the event loop a read, which is what most lone frames cost.
    """

    async def push_to(self, take: OnRead[list[bytes]]) -> NoReturn:
        """Call *take* with what each read brings, as `receive` returns it, until cancelled.

        Where *take* returns an awaitable, that is awaited here before it is called again, and nothing
        more is read meanwhile; one that was returned is awaited even where this is being cancelled.
        Raises what *take* raises, and ConnectionLost when the connection has ended.
        """
        ...


#: A way to dial. One that works on some event loops only names them in an attribute `backends`.
Dial: TypeAlias = Callable[[Endpoint], AbstractAsyncContextManager[Link]]


@runtime_checkable
class Source(Protocol):
    """Data that comes over no WebSocket of ours.

    `backends` are the event loops it works on, `channels` those it serves (without parameter).
    `resumes`: when it is run again, it goes on where it ended, so that nothing was missed.
    """

    backends: frozenset[str]
    channels: frozenset[str]
    resumes: bool

    async def run(self, deliver: Callable[[list[Event]], Awaitable[None]]) -> None:
        """Deliver batches until cancelled, or until there is no more.

        Raises FeedError where it cannot go on. If that is `retryable` (a lost connection, a pause that
        the venue wants), core tells of it, waits, and calls again; what was missed in between, core
        announces. If not, the feed ends with it.
        """
        ...

    def symbols_changed(self) -> None:
        """Take note that the feed's symbols are others now; called while it runs."""
        ...


# ------------------------------------------------------------------------- the subscription codec


@frozen
class Message:
    """A text to send, and the subscriptions it is about.

    `id` tells the message apart from all others on its connection. Where it is None, no answer is
    waited for. A reply repeats it, or names the subscriptions, as its venue does.
    """

    text: str
    subscriptions: tuple[Subscription, ...]
    id: int | str | None = None


@frozen
class Ack:
    """The venue agrees: to the message `id`, or to these `subscriptions`.

    A message is answered as well when all its subscriptions have been agreed to.
    """

    id: int | str | None = None
    subscriptions: tuple[Subscription, ...] = ()


@frozen
class Refusal:
    """The venue refuses the message `id`, or these `subscriptions`.

    With `oldest_pending`, it names neither and answers in order: the oldest message that waits is meant,
    which is the login where that waits.
    """

    reason: str
    id: int | str | None = None
    subscriptions: tuple[Subscription, ...] = ()
    permanent: bool = True  #: asking again would not help
    oldest_pending: bool = False
    retry_after_seconds: float = (
        0.0  #: seconds to wait, at the least, before a login is tried again
    )


@frozen
class Notice:
    """The venue says something. `closes_connection`: it is about to close this connection."""

    kind: str
    detail: str = ""
    closes_connection: bool = False


@frozen
class Pong:
    """The answer to a heartbeat."""


Reply: TypeAlias = Ack | Refusal | Notice | Pong


class Codec(Protocol):
    """The venue's subscription language: pure, no I/O, no state."""

    def native(self, symbol: str) -> str:
        """Return the venue's name for a unified symbol, as it is formed by rule.

        Raises SymbolError where the venue's market can have no such symbol.
        """
        ...

    def encode_subscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that start these, numbered from *first_id*."""
        ...

    def encode_unsubscribe(
        self, subscriptions: Sequence[Subscription], first_id: int
    ) -> list[Message]:
        """Return the messages that end these, numbered from *first_id*."""
        ...

    def decode_reply(self, frame: bytes) -> Reply | None:
        """Read a frame that the parser set aside; None where it makes no sense."""
        ...
