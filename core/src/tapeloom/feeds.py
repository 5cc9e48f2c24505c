"""What a plugin is handed, and what it hands back.

A hook gets one `Feed`, which can grow without breaking a plugin. It returns one of the small things
below: an `Endpoint` says where data comes from, a `Codec` speaks the venue's subscription language, a
`History` (see `history`) its REST language, a `Parse` turns frames into events and a `Stage` events
into events. None of them does any I/O: they say what is to be sent and read what came. Core does
the rest.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar, runtime_checkable

from attrs import Factory, define, field, frozen

from .events import Event, Reject
from .history import Request, Want
from .symbols import Instrument
from .units import Rate

__all__ = [
    "Ack",
    "Clock",
    "Codec",
    "Delivering",
    "Dial",
    "Endpoint",
    "Feed",
    "Frames",
    "Heartbeat",
    "Link",
    "Listing",
    "LiveTrades",
    "Message",
    "Network",
    "Notice",
    "Parse",
    "Pong",
    "Refusal",
    "Reply",
    "Sink",
    "Source",
    "Stage",
    "Subscription",
    "Take",
    "TimedStage",
    "channel_parts",
]

T = TypeVar("T")
Aside: TypeAlias = "Callable[[bytes], Sequence[Event]]"


def _unreadable(frame: bytes) -> Sequence[Event]:
    return [Reject("", "", 0, 0, "unreadable_frame", frame[:200].decode(errors="replace"))]


class Frames(list[bytes]):
    """The frames that one read of a socket brought, stamped once with `recv`.

    `aside` takes what is not market data (an acknowledgement, a notice, garbage) and returns the
    events to put in its place.
    """

    __slots__ = ("aside", "recv")

    def __init__(
        self, frames: Iterable[bytes] = (), recv: int = 0, aside: Aside = _unreadable
    ) -> None:
        super().__init__(frames)
        self.recv = recv
        self.aside = aside


class LiveTrades(list[Any]):
    """A batch of live trades and nothing else, as most batches are.

    `lines` has for each of them a small number that stands for its symbol and channel, the same for
    the life of the feed: a stage that remembers something of each finds it by that number, without a
    look at type, symbol, channel and origin. `sound` is set by a stage that has seen every price and
    size to be a finite number above zero. All are of one read: they share their `recv`.

    To a stage that does not care it is a list. A parser need not make any.
    """

    __slots__ = ("lines", "sound")

    def __init__(self, trades: Iterable[Event] = (), lines: Iterable[int] = ()) -> None:
        super().__init__(trades)
        self.lines = list(lines)
        self.sound = False


Parse: TypeAlias = Callable[[Frames], list[Event]]
Fetch: TypeAlias = "Callable[[Request], Awaitable[bytes]]"
Stage: TypeAlias = Callable[[list[Event]], list[Event]]


@runtime_checkable
class TimedStage(Protocol):
    """A stage that also acts when time passes and nothing comes.

    `due` is the time, on the clock that stamps `recv`, at which `tick` wants to be called; None
    while it is waiting for nothing. `tick(now)` returns the events that time has brought about,
    and leaves `due` later than `now`, or None.
    """

    @property
    def due(self) -> int | None:
        """The time at which `tick` wants to be called."""
        ...

    def __call__(self, events: list[Event], /) -> list[Event]:
        """Take a batch, return a batch."""
        ...

    def tick(self, now: int, /) -> list[Event]:
        """Return what the passing of time has brought about."""
        ...


class Clock(Protocol):
    """The time, injected. Everything that waits, waits on this."""

    def time_ns(self) -> int:
        """Nanoseconds since 1970 UTC; may be set back by whoever keeps the machine."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


def channel_parts(channel: str) -> tuple[str, str]:
    """Split ``klines:1m`` into ``("klines", "1m")`` and ``trades`` into ``("trades", "")``."""
    name, _, parameter = channel.partition(":")
    return name, parameter


@frozen
class Subscription:
    """One channel of one symbol. The channel may carry a parameter, as in ``klines:1m``."""

    symbol: str
    channel: str

    def __str__(self) -> str:
        return f"{self.symbol} {self.channel}"


@define
class Listing:
    """The names of a feed's symbols, both ways.

    It holds the feed's symbols from the start, named by `Codec.native`. What the venue itself
    lists, where core has asked for it, stands in `instruments`, by unified symbol.
    The two dicts are never replaced, so a parser may keep a reference to them.
    """

    native: dict[str, str] = Factory(dict)  #: unified → the venue's name
    unified: dict[str, str] = Factory(dict)  #: the venue's name → unified
    instruments: dict[str, Instrument] = Factory(dict)

    def add(self, symbol: str, native: str) -> None:
        """Enter a symbol under the venue's name for it."""
        self.native[symbol] = native
        self.unified[native] = symbol

    def remove(self, symbol: str) -> None:
        """Forget a symbol: what still comes of it was not asked for."""
        native = self.native.pop(symbol, None)
        if native is not None:
            self.unified.pop(native, None)


@frozen
class Network:
    """How the stack wants connections to be made: the proxy, and a PEM file with trusted roots."""

    proxy: str | None = field(default=None, repr=False)
    ca: str | None = None


def _ignore(want: Want) -> None:
    pass


async def _unreachable(request: Request) -> bytes:
    raise RuntimeError("a feed can fetch only while it runs")


@define
class Feed:
    """One venue, its symbols, channels and stages: what every hook is told.

    `settings` is the TOML table of the plugin that is being asked, as that plugin's own class;
    `tables` has those of the feed's stages, by plugin, for one that wraps what others answer.
    `symbols` and `listing` change while the feed runs, in place.
    `want` asks the venue's history for something; it returns at once. `fetch` brings the answer to a
    REST request, for a `Source` that polls: at the pace of the request's budget, tried again where
    that may help, through the stack's proxy. It raises FeedError.
    """

    name: str
    venue: str
    market: str = ""
    symbols: list[str] = Factory(list)
    channels: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    settings: Any = None
    tables: dict[str, Any] = field(kw_only=True, factory=dict, repr=False)
    clock: Clock = field(kw_only=True)
    random: random.Random = field(kw_only=True, factory=random.Random)
    network: Network = field(kw_only=True, factory=Network)
    listing: Listing = field(kw_only=True, factory=Listing)
    counters: Counter[str] = field(kw_only=True, factory=Counter)
    want: Callable[[Want], None] = field(kw_only=True, default=_ignore)
    fetch: Fetch = field(kw_only=True, default=_unreachable)


# --------------------------------------------------------------------------- where data comes from


@frozen
class Heartbeat:
    """What the client must send by itself, every `seconds`. None: a WebSocket ping frame.

    `answer_within` is the time in which the venue must be heard after it; None: that is not watched.
    """

    seconds: float
    message: str | None = None
    answer_within: float | None = None


@frozen(kw_only=True)
class Endpoint:
    """A WebSocket address, and the venue's rules for it. Core obeys them.

    `channels` names those it serves (without parameter); empty means all. Where a venue has several
    endpoints, each channel goes to the first one that serves it. `silence` is how long a connection
    may bring no byte at all before it counts as dead. `max_age` is the age at which it is replaced,
    before the venue would end it. `login` is said first, and must be agreed to before anything else
    is; it is never shown.
    """

    url: str
    name: str = ""
    channels: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    max_subscriptions: int = 1024
    max_connections: int | None = None  #: at a time, to this address, over all feeds
    messages: Rate | None = None  #: what a client may send on one connection
    host_messages: Rate | None = None  #: what it may send over all connections to one host
    dials: Rate | None = None  #: how often a client may dial; shared by all feeds on one host
    heartbeat: Heartbeat | None = None
    silence: float = 60.0
    max_age: float | None = None
    ack_within: float = 10.0  #: seconds in which the venue answers a message
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
Take: TypeAlias = Callable[[T], Awaitable[None] | None]


@runtime_checkable
class Delivering(Link, Protocol):
    """A link that can hand over what a read brings from within the read, with no task in between.

    That saves a turn of the event loop a read, which is what most lone frames cost.
    """

    async def deliver(self, take: Take[list[bytes]]) -> NoReturn:
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

    def changed(self) -> None:
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

    With `oldest`, it names neither and answers in order: the oldest message that waits is meant,
    which is the login where that waits.
    """

    reason: str
    id: int | str | None = None
    subscriptions: tuple[Subscription, ...] = ()
    permanent: bool = True  #: asking again would not help
    oldest: bool = False
    pause: float = 0.0  #: seconds to wait, at the least, before a login is tried again


@frozen
class Notice:
    """The venue says something. `ends`: it is about to close this connection."""

    kind: str
    detail: str = ""
    ends: bool = False


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

    def add(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Message]:
        """Return the messages that start these, numbered from *first_id*."""
        ...

    def drop(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Message]:
        """Return the messages that end these, numbered from *first_id*."""
        ...

    def accept(self, frame: bytes) -> Reply | None:
        """Read a frame that the parser set aside; None where it makes no sense."""
        ...


class Sink(Protocol):
    """Takes batches out of the process, in a task and with a queue of its own."""

    backends: frozenset[str]

    async def write(self, events: Sequence[Event]) -> None:
        """Write a batch."""
        ...

    async def aclose(self) -> None:
        """Write what is left and let go."""
        ...
