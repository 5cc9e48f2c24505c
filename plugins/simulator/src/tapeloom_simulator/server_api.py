"""What a venue's server side is handed, and what it hands back.

A simulator keeps one market, listens, enforces limits, injects faults and writes down the truth. A
venue adds its language: the hook `simulate(market)` returns a `VenueServer`, which answers REST
calls, opens a `Session` for each WebSocket connection, and makes `Stream`s that turn what happened
in the market into text. It does no I/O, and it holds no prices of its own: whatever it says is read
off the market, so that streams and REST agree. A venue that speaks neither HTTP nor WebSocket says
with `Framing` how its texts travel over TCP; all else is the same.

Inside, prices are whole numbers of ticks and sizes whole numbers of lots; `SimulatedInstrument.tick` and `SimulatedInstrument.lot`
say what one is worth. Times are ns since 1970 UTC, in the market's own time.
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
    "Answer",
    "Best",
    "Budget",
    "Call",
    "Candle",
    "Fill",
    "Framing",
    "Ladder",
    "Line",
    "Market",
    "Rules",
    "Session",
    "SimulatedInstrument",
    "Step",
    "Stream",
    "VenueServer",
]

# ------------------------------------------------------------------------------ what has happened


@define(weakref_slot=False)
class Fill:
    """One trade. Ids run 1, 2, 3, … in each symbol, and so do the numbers of aggregates.

    The fills of one taker order at one price share an `aggregate`. `buy`: the taker bought.
    """

    id: int
    price: int
    size: int
    buy: bool
    ts: int
    aggregate: int


class Best(NamedTuple):
    """The best bid and ask."""

    bid: int
    bid_size: int
    ask: int
    ask_size: int


@define(weakref_slot=False)
class Step:
    """What one taker order, and the makers around it, did to one symbol.

    `first` and `last` are the ids of the book updates it made; there are none where
    ``last < first``. `best` is None where the best bid and ask stayed as they were.
    """

    symbol: str
    ts: int
    fills: list[Fill]
    first: int
    last: int
    best: Best | None


@define(weakref_slot=False)
class Candle:
    """Trades added up. `quote` sums price times size; `bought` and `bought_quote` are takers' buys.

    `first` and `last` are trade ids, -1 where there was no trade; the prices are then all the
    last price before. `start` is when it begins, `end` when the next one does.
    """

    start: int
    end: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    quote: int = 0
    bought: int = 0
    bought_quote: int = 0
    trades: int = 0
    first: int = -1
    last: int = -1


class Ladder(NamedTuple):
    """A book: pairs of price and size, best first, as it was after the update `last`."""

    last: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


# ------------------------------------------------------------------------------------ the market


class SimulatedInstrument(Protocol):
    """Where one symbol is traded: its book, its trades, its candles."""

    @property
    def symbol(self) -> str:
        """The unified symbol."""
        ...

    @property
    def parts(self) -> Symbol:
        """The symbol taken apart."""
        ...

    @property
    def tick(self) -> Decimal:
        """The smallest step of a price: a power of ten."""
        ...

    @property
    def lot(self) -> Decimal:
        """The smallest step of a size: a power of ten."""
        ...

    @property
    def update(self) -> int:
        """The id of the book's last update. Every change of one level has an id of its own."""
        ...

    @property
    def last(self) -> Fill | None:
        """The last trade."""
        ...

    def best(self) -> Best:
        """Return the best bid and ask."""
        ...

    def ladder(self, depth: int, lag: int = 0) -> Ladder:
        """Return *depth* levels a side, as they were *lag* updates ago (as far as is known)."""
        ...

    def changes(self, since: int) -> tuple[dict[int, int], dict[int, int]]:
        """Return the sizes (0: none) of the bids and asks that changed after the update *since*."""
        ...

    def fills(self, first: int, limit: int) -> list[Fill]:
        """Return up to *limit* trades from the id *first* on. What is too old is forgotten."""
        ...

    def aggregates(self, first: int, limit: int) -> list[list[Fill]]:
        """Return the fills of up to *limit* aggregates from number *first* on."""
        ...

    def first_since(self, ts: int) -> Fill | None:
        """Return the first remembered trade at or after *ts*."""
        ...

    def candle(self, interval: str, ts: int) -> Candle | None:
        """Return the candle in which *ts* lies; None before the first trade."""
        ...

    def candles(self, interval: str, since: int, until: int, limit: int) -> list[Candle]:
        """Return the candles that begin from *since* to *until*: the first *limit* of them."""
        ...

    def day(self, now: int) -> Candle | None:
        """Return the 24 hours before *now* as one candle; None before the first trade."""
        ...


class Market(Protocol):
    """One market for all symbols. Time in it moves only when the simulator moves it."""

    @property
    def now(self) -> int:
        """The market's time."""
        ...

    @property
    def clock(self) -> int:
        """What the venue's clock shows: `now`, and the error a fault has put on it."""
        ...

    @property
    def epoch(self) -> int:
        """When the market opened."""
        ...

    @property
    def pits(self) -> Mapping[str, SimulatedInstrument]:
        """Where each unified symbol is traded, in the order of their listing."""
        ...


# ------------------------------------------------------------------------- what the venue promises


@frozen(kw_only=True)
class Rules:
    """What a venue holds the clients of one endpoint to. Seconds are divided by the time scale."""

    ping_every: float | None = None  #: the server's pings; None: it sends none
    pong_within: float = 60.0  #: how long an unanswered ping is borne
    silence: float | None = None  #: how long a client may send nothing at all
    max_age: float | None = None
    messages: Rate | None = None  #: what a client may send: text, pings and pongs
    max_streams: int | None = None
    violation: int = 1008  #: the close code for breaking a rule


@frozen(kw_only=True)
class Budget:
    """What REST calls may cost a client. Windows begin at whole multiples of `seconds`.

    `header` tells the client what it has used. After `patience` calls beyond the limit the client
    is banned for `ban` seconds.
    """

    name: str
    limit: int
    seconds: float
    header: str = ""
    patience: int = 10
    ban: float = 120.0


@frozen(kw_only=True)
class Call:
    """An HTTP request. `lag`: how many updates the books in the answer are to be behind."""

    method: str
    path: str
    query: Mapping[str, str] = field(factory=dict)
    headers: Mapping[str, str] = field(factory=dict)  #: names in lower case
    body: bytes = b""
    lag: int = 0


@frozen
class Answer:
    """An HTTP response."""

    body: str
    status: int = 200
    headers: Mapping[str, str] = field(factory=dict)


class Stream(Protocol):
    """What clients subscribe to. It is encoded once, for all who follow it.

    `symbol` is empty for a stream of all symbols; `channel` is one of tapeloom's channels, with its
    parameter. `every` is 0 for a stream that speaks at each step of its symbol, or the ns between
    two ticks, which fall on whole multiples of it.
    """

    @property
    def name(self) -> str:
        """The venue's name for it."""
        ...

    @property
    def symbol(self) -> str:
        """The unified symbol, or nothing."""
        ...

    @property
    def channel(self) -> str:
        """The channel, as a stack names it."""
        ...

    @property
    def every(self) -> int:
        """The ns from tick to tick, or 0."""
        ...

    def begin(self) -> None:
        """Start, or start anew: a first follower has come."""
        ...

    def step(self, step: Step, /) -> Sequence[str]:
        """Return what is said of this step."""
        ...

    def tick(self, now: int, /) -> Sequence[str]:
        """Return what is said at this time."""
        ...


class Line(Protocol):
    """The simulator's end of one connection that streams are sent on."""

    @property
    def counts(self) -> bool:
        """Whether the venue counts this connection as one of its client's.

        It does while it is open, and for some seconds more under the fault "lingering_session".
        """
        ...

    @property
    def following(self) -> Collection[Stream]:
        """What the client has subscribed to, in order."""
        ...

    def follow(self, stream: Stream, before: str = "", after: str = "") -> None:
        """Send the client this stream from now on, each text between *before* and *after*."""
        ...

    def leave(self, stream: Stream) -> None:
        """Send it no longer."""
        ...

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection once all that waits has been sent."""
        ...

    def later(self, seconds: float, act: Callable[[], Sequence[str]]) -> None:
        """Call *act* after so many of the venue's seconds, and send what it returns.

        The seconds are divided by the time scale. A connection that has ended calls nothing.
        """
        ...


class Session(Protocol):
    """The venue's side of one connection that streams are sent on."""

    @property
    def rules(self) -> Rules:
        """What this client is held to."""
        ...

    def opened(self) -> Sequence[str]:
        """Return what is said first; follow what the address asks for."""
        ...

    def receive(self, text: str) -> Sequence[str]:
        """Return the replies to a message, and do what it asks."""
        ...

    def refuse(self, text: str) -> Sequence[str]:
        """Return the replies to a message that is refused, and do nothing else."""
        ...

    def farewell(self) -> Sequence[str]:
        """Return what is said before the venue ends the connection; nothing where it says nothing."""
        ...


class VenueServer(Protocol):
    """A venue's server side."""

    @property
    def dials(self) -> Rate | None:
        """How often a client may open such a connection."""
        ...

    @property
    def markets(self) -> Mapping[str, Sequence[str]]:
        """Its markets, by the names they have in a feed, and some symbols to show each by."""
        ...

    def settings(self, url: str) -> dict[str, Any]:
        """Return the venue's settings in a stack that is to use the simulator at *url*."""
        ...

    def open(self, call: Call, line: Line) -> Session | Answer:
        """Take a WebSocket connection, or answer its handshake with a refusal.

        A venue with a `Framing` has no handshake: *call* has no path, and a refusal closes the
        connection without a word.
        """
        ...

    def answer(self, call: Call) -> Answer:
        """Answer a REST call."""
        ...

    def cost(self, call: Call) -> tuple[Budget, int] | None:
        """Return what a REST call costs, and of which budget; None: nothing."""
        ...

    def limited(self, status: int, retry_after: int, budget: Budget | None) -> Answer:
        """Word a refusal for too many calls or dials; *budget* is None for dials."""
        ...

    def corrupt(self, fault: str, stream: Stream, text: str) -> list[str] | None:
        """Return what a fault makes of *text*; None where it does not apply to it.

        The faults are those that need the venue's language: "crossed_book", "huge_batch",
        "missing_final_kline", the venue's own `faults`, and, where there is a `Framing`,
        "missing_fields". The frames that are returned are sent instead, and the truth is told.

        A common fault may be asked about and then not be done, so nothing may change but the text.
        One of the venue's own is asked about only when it is due on a frame of its channels, and
        may do more, such as ending a stream with `Line.later`; after None the next frame is tried.
        """
        ...

    @property
    def faults(self) -> Mapping[str, frozenset[str]]:
        """The faults that only this venue has, and the channels each is about (none: all)."""
        ...


@runtime_checkable
class Framing(Protocol):
    """What a counterpart has besides if its venue speaks neither HTTP nor WebSocket, but over TCP.

    A message is a text here too, and `Session`, `Stream` and `Line` are what they are elsewhere, so
    limits and faults are as well: "malformed_json" cuts a text short and frames it soundly,
    "plain_text_frame" puts a text of no sense in a frame of its own, "disconnect" closes (or resets)
    the connection, and a limit that is exceeded ends it. Pings and REST there are none, and
    "no_ping", "ping_no_pong", "rate_limit_rest" and "stale_snapshot" find no occasion.
    """

    def frame(self, text: str) -> bytes:
        """Return the bytes of one message; the same for every client."""
        ...

    def unframe(self) -> Callable[[bytes], Sequence[str]]:
        """Return, for a new connection, what takes its bytes and returns the messages now complete.

        It raises ValueError at bytes that make no sense; the connection is then ended.
        """
        ...
