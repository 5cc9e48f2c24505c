"""The server side of a venue, its sessions and streams, its limits, and the connections it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from tapeloom.units import Rate

    from .market import MarketStep

__all__ = [
    "ClientConnection",
    "ConnectionRules",
    "Framing",
    "HttpRequest",
    "HttpResponse",
    "RestBudget",
    "VenueServer",
    "VenueSession",
    "VenueStream",
]

# ----------------------------------------------------------------------- limits, requests, streams


@frozen(kw_only=True)
class ConnectionRules:
    """The limits of one endpoint for each connection. Seconds are divided by the time scale."""

    ping_interval_seconds: float | None = None  #: between the server's pings; None: it sends none
    pong_timeout_seconds: float = 60.0  #: how long a ping may stay unanswered
    silence_timeout_seconds: float | None = None  #: how long a client may send nothing at all
    ping_frames_count: bool = (
        True  #: whether pings and pongs of WebSocket end a silence, as texts do
    )
    max_age_seconds: float | None = None  #: how long a connection may stay open; None: for ever
    message_rate: Rate | None = None  #: what a client may send: texts, pings and pongs
    max_streams: int | None = None  #: subscriptions of one connection; None: no limit
    violation_close_code: int = 1008  #: the close code for breaking a rule


@frozen(kw_only=True)
class RestBudget:
    """A REST rate limit: `limit` in each window, which begins at a multiple of `window_seconds`.

    The response header `header` reports what the client has used. After `tolerated_violations`
    requests beyond the limit the client is banned for `ban_seconds`.
    """

    name: str
    limit: int
    window_seconds: float
    header: str = ""
    tolerated_violations: int = 10
    ban_seconds: float = 120.0


@frozen(kw_only=True)
class HttpRequest:
    """An HTTP request. `book_lag`: by how many updates books in the response must be stale."""

    method: str
    path: str
    query: Mapping[str, str] = field(factory=dict)
    headers: Mapping[str, str] = field(factory=dict)  #: names in lower case
    body: bytes = b""
    book_lag: int = 0


@frozen
class HttpResponse:
    """An HTTP response."""

    body: str
    status: int = 200
    headers: Mapping[str, str] = field(factory=dict)


class VenueStream(Protocol):
    """One stream of the venue. Each message is encoded once, for all subscribers.

    `symbol` is empty for a stream of all symbols; `channel` is one of tapeloom's channels, with its
    parameter. `interval_ns` is 0 for a stream that sends messages at each step of its symbol, or the
    ns between two timed messages, which are due at whole multiples of it.
    """

    @property
    def name(self) -> str:
        """The venue's name of the stream."""
        ...

    @property
    def symbol(self) -> str:
        """The unified symbol, or an empty string."""
        ...

    @property
    def channel(self) -> str:
        """The channel, spelled as in a stack."""
        ...

    @property
    def interval_ns(self) -> int:
        """The ns between timed messages, or 0."""
        ...

    def start(self) -> None:
        """Reset the state: the stream has its first subscriber, or its first one again."""
        ...

    def encode_step(self, step: MarketStep, /) -> Sequence[str]:
        """Return the messages about one step of the market."""
        ...

    def encode_tick(self, now: int, /) -> Sequence[str]:
        """Return the timed messages that are due at *now*."""
        ...


# ---------------------------------------------------------------------- connections and the venue


class ClientConnection(Protocol):
    """The simulator's end of one streaming connection, as a `VenueSession` uses it."""

    @property
    def counts_as_open(self) -> bool:
        """Whether the venue counts this connection against the client's limit.

        It does while it is open, and for some seconds more under the fault "lingering_session".
        """
        ...

    @property
    def subscriptions(self) -> Collection[VenueStream]:
        """The streams that the client has subscribed to, in order."""
        ...

    def subscribe(self, stream: VenueStream, before: str = "", after: str = "") -> None:
        """Send the messages of *stream* from now on, each between *before* and *after*."""
        ...

    def unsubscribe(self, stream: VenueStream) -> None:
        """Stop sending the messages of *stream*."""
        ...

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection once all queued frames are sent."""
        ...

    def call_later(self, seconds: float, act: Callable[[], Sequence[str]]) -> None:
        """Call *act* after *seconds* of the venue's time and send the messages it returns.

        The seconds are divided by the time scale. Nothing is called on a closed connection.
        """
        ...


class VenueSession(Protocol):
    """The venue's side of one streaming connection."""

    @property
    def rules(self) -> ConnectionRules:
        """The limits of this connection."""
        ...

    def opening_messages(self) -> Sequence[str]:
        """Return the first messages, and subscribe to the streams that the URL names."""
        ...

    def receive(self, text: str) -> Sequence[str]:
        """Process a client's message and return the replies."""
        ...

    def refuse(self, text: str) -> Sequence[str]:
        """Return the replies that refuse a client's message; do nothing else."""
        ...

    def closing_messages(self) -> Sequence[str]:
        """Return the messages the venue sends before it closes the connection; may be empty."""
        ...


class VenueServer(Protocol):
    """A venue's server side."""

    @property
    def dial_rate(self) -> Rate | None:
        """How many streaming connections a client may open in a time; None: no limit."""
        ...

    @property
    def markets(self) -> Mapping[str, Sequence[str]]:
        """The venue's markets by their names in a feed, each with some symbols for a demo."""
        ...

    def settings(self, url: str) -> dict[str, Any]:
        """Return the venue's settings for a stack that connects to the simulator at *url*."""
        ...

    def open_connection(
        self, call: HttpRequest, line: ClientConnection
    ) -> VenueSession | HttpResponse:
        """Accept a WebSocket connection, or return the response that refuses its handshake.

        A venue with a `Framing` has no handshake: *call* has no path, and returning a response closes
        the connection without sending anything.
        """
        ...

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Return the response to a REST request."""
        ...

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        """Return the budget that a REST request is charged to, and its weight; None: it is free."""
        ...

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        """Return the response to too many requests or dials; *budget* is None for dials.

        *retry_after* is in seconds.
        """
        ...

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> list[str] | None:
        """Return the messages that replace *text* under a fault; None if the fault cannot apply.

        Only faults that need the venue's protocol are passed: "crossed_book", "empty_side",
        "huge_batch", "missing_final_kline", the venue's own `faults`, and, with a `Framing`, "missing_fields". The
        fault is recorded in the ground truth.

        For a common fault, the result may be discarded, so this may have no other effect. A fault
        of the venue's own is passed only when it is due on a frame of its channels, and may do more,
        such as end a stream with `ClientConnection.call_later`; after None the next frame is tried.
        """
        ...

    @property
    def faults(self) -> Mapping[str, frozenset[str]]:
        """The faults that only this venue has, each with its channels (empty: all channels)."""
        ...


@runtime_checkable
class Framing(Protocol):
    """What a `VenueServer` also implements if its venue uses plain TCP, not HTTP and WebSocket.

    A message is a text here too, and sessions, streams and connections work as they do elsewhere, with
    the same limits and faults: "malformed_json" truncates a text and frames it correctly,
    "plain_text_frame" sends a meaningless text in a frame of its own, "disconnect" closes (or resets)
    the connection, and exceeding a limit closes it. There are no pings and no REST, so "no_ping",
    "ping_no_pong", "rate_limit_rest" and "stale_snapshot" never occur.
    """

    def frame(self, text: str) -> bytes:
        """Return the bytes of one message; they are the same for every client."""
        ...

    def new_unframer(self) -> Callable[[bytes], Sequence[str]]:
        """Return a parser for one new connection: it takes bytes and returns complete messages.

        The parser raises ValueError at malformed bytes; the connection is then closed.
        """
        ...
