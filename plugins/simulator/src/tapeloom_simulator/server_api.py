"""The interface between the simulator and the server side of a venue.

The simulator runs one market, listens for connections, enforces limits, injects faults and records the
ground truth. A venue package adds the venue's protocol: its hook `simulate(market)` returns a
`VenueServer`, which answers REST requests, opens a `VenueSession` for each WebSocket connection and
creates `VenueStream`s, which encode the market's events as messages. A server side does no I/O and
stores no prices of its own: it reads everything from the market, so that streams and REST agree. A venue
that uses neither HTTP nor WebSocket also implements `Framing`, which frames its messages on TCP.

Prices are whole numbers of ticks and sizes whole numbers of lots; `SimulatedInstrument.tick` and
`SimulatedInstrument.lot` are their values. Times are ns since 1970 UTC on the market's own clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from decimal import Decimal

    from tapeloom.symbols import Symbol
    from tapeloom.units import Rate

__all__ = [
    "BookSnapshot",
    "ClientConnection",
    "ConnectionRules",
    "Framing",
    "HttpRequest",
    "HttpResponse",
    "Market",
    "MarketBar",
    "MarketStep",
    "MarketTrade",
    "RestBudget",
    "SimulatedInstrument",
    "TopOfBook",
    "VenueServer",
    "VenueSession",
    "VenueStream",
]

# ---------------------------------------------------------------------------------- market events


@define(weakref_slot=False)
class MarketTrade:
    """One trade. In each symbol, trade ids and aggregate ids run 1, 2, 3, ….

    Trades of one taker order at one price share an `aggregate_id`. `is_buy`: the taker bought.
    """

    id: int
    price: int
    size: int
    is_buy: bool
    ts: int
    aggregate_id: int


class TopOfBook(NamedTuple):
    """The best bid and ask."""

    bid: int
    bid_size: int
    ask: int
    ask_size: int


@define(weakref_slot=False)
class MarketStep:
    """What one taker order, and the makers' changes around it, did to one symbol.

    `first_id` and `last_id` are the ids of the book updates; there are none if
    ``last_id < first_id``. `top_of_book` is None if the best bid and ask did not change.
    """

    symbol: str
    ts: int
    trades: list[MarketTrade]
    first_id: int
    last_id: int
    top_of_book: TopOfBook | None


@define(weakref_slot=False)
class MarketBar:
    """An OHLCV bar. `quote_volume` sums price times size; the two `buy_` sums count takers' buys.

    `first_id` and `last_id` are trade ids, -1 if there was no trade; all prices are then the last
    price before. `start` is when the bar begins, `end` when the next one does.
    """

    start: int
    end: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    quote_volume: int = 0
    buy_volume: int = 0
    buy_quote_volume: int = 0
    trades: int = 0
    first_id: int = -1
    last_id: int = -1


class BookSnapshot(NamedTuple):
    """A book as pairs of price and size, best first, as it was after the update `last_id`."""

    last_id: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


# ------------------------------------------------------------------------------------ the market


class SimulatedInstrument(Protocol):
    """One symbol of the market: its book, its trades, its bars."""

    @property
    def symbol(self) -> str:
        """The unified symbol."""
        ...

    @property
    def parsed_symbol(self) -> Symbol:
        """The symbol, parsed into base, quote, settlement and expiry."""
        ...

    @property
    def tick(self) -> Decimal:
        """The tick size: the smallest price increment, a power of ten."""
        ...

    @property
    def lot(self) -> Decimal:
        """The lot size: the smallest size increment, a power of ten."""
        ...

    @property
    def last_update_id(self) -> int:
        """The id of the last book update. Every change of one level has an id of its own."""
        ...

    @property
    def last_trade(self) -> MarketTrade | None:
        """The last trade; None before the first."""
        ...

    def top_of_book(self) -> TopOfBook:
        """Return the best bid and ask."""
        ...

    def book_snapshot(self, depth: int, lag: int = 0) -> BookSnapshot:
        """Return *depth* levels a side, as they were *lag* updates ago.

        A lag beyond the remembered updates returns the oldest book that is known.
        """
        ...

    def changes_since(self, since: int) -> tuple[dict[int, int], dict[int, int]]:
        """Return the bids and asks that changed after the update *since*: price to size (0: none)."""
        ...

    def trades(self, first: int, limit: int) -> list[MarketTrade]:
        """Return up to *limit* trades from the id *first* on. Old trades are not remembered."""
        ...

    def aggregate_trades(self, first: int, limit: int) -> list[list[MarketTrade]]:
        """Return the trades of up to *limit* aggregates from the aggregate id *first* on."""
        ...

    def first_trade_since(self, ts: int) -> MarketTrade | None:
        """Return the first remembered trade at or after *ts*, in ns; None if there is none."""
        ...

    def bar(self, interval: str, ts: int) -> MarketBar | None:
        """Return the bar that contains *ts*; None before the first trade."""
        ...

    def bars(self, interval: str, since: int, until: int, limit: int) -> list[MarketBar]:
        """Return the first *limit* bars that start from *since* to *until*."""
        ...

    def last_24h(self, now: int) -> MarketBar | None:
        """Return the 24 hours before *now* as one bar; None before the first trade."""
        ...


class Market(Protocol):
    """One market for all symbols. The simulator alone advances its time."""

    @property
    def now(self) -> int:
        """The market's time."""
        ...

    @property
    def venue_clock(self) -> int:
        """The time on the venue's clock: `now` plus the error that a fault has added."""
        ...

    @property
    def epoch(self) -> int:
        """When the market opened."""
        ...

    @property
    def instruments(self) -> Mapping[str, SimulatedInstrument]:
        """The instruments by unified symbol, in the order of their listing."""
        ...


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
