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
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from attrs import Factory, define, field, frozen

from tapeloom.events import Event, Reject
from tapeloom.symbols import Instrument

from .history import HistoryQuery, Request
from .timing import Clock

OnControl: TypeAlias = "Callable[[bytes], Sequence[Event]]"


def _unreadable(frame: bytes) -> Sequence[Event]:
    return [Reject("", "", 0, 0, "unreadable_frame", frame[:200].decode(errors="replace"))]


class Frames(list[bytes]):
    """The frames that one read of a socket brought, stamped once with `recv`.

    `on_control` takes what is not market data (an acknowledgement, a notice, garbage) and returns the
    events to put in its place.
    """

    __slots__ = ("on_control", "recv")

    def __init__(
        self, frames: Iterable[bytes] = (), recv: int = 0, on_control: OnControl = _unreadable
    ) -> None:
        super().__init__(frames)
        self.recv = recv
        self.on_control = on_control


class TradeBatch(list[Any]):
    """A batch of live trades and nothing else, as most batches are.

    `subscription_ids` has for each of them a small number that stands for its symbol and channel, the same for
    the life of the feed: a stage that remembers something of each finds it by that number, without a
    look at type, symbol, channel and origin. `validated` is set by a stage that has seen every price and
    size to be a finite number above zero. All are of one read: they share their `recv`.

    To a stage that does not care it is a list. A parser need not make any.
    """

    __slots__ = ("subscription_ids", "validated")

    def __init__(self, trades: Iterable[Event] = (), subscription_ids: Iterable[int] = ()) -> None:
        super().__init__(trades)
        self.subscription_ids = list(subscription_ids)
        self.validated = False


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

    def update(self, instruments: Iterable[Instrument]) -> None:
        """Enter what the venue lists; its own names replace those made by rule."""
        for instrument in instruments:
            self.instruments[instrument.symbol] = instrument
            if instrument.symbol in self.native:
                self.add(instrument.symbol, instrument.native)

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


def _ignore(want: HistoryQuery) -> None:
    pass


async def _unreachable(request: Request) -> bytes:
    raise RuntimeError("a feed can fetch only while it runs")


@define
class Feed:
    """One venue, its symbols, channels and stages: what every hook is told.

    `settings` is the TOML table of the plugin that is being asked, as that plugin's own class;
    `stage_settings` has those of the feed's stages, by plugin, for one that wraps what others answer.
    `symbols` and `listing` change while the feed runs, in place.
    `query_history` asks the venue's history for something; it returns at once. `fetch` brings the answer to a
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
    stage_settings: dict[str, Any] = field(kw_only=True, factory=dict, repr=False)
    clock: Clock = field(kw_only=True)
    random: random.Random = field(kw_only=True, factory=random.Random)
    network: Network = field(kw_only=True, factory=Network)
    listing: Listing = field(kw_only=True, factory=Listing)
    counters: Counter[str] = field(kw_only=True, factory=Counter)
    query_history: Callable[[HistoryQuery], None] = field(kw_only=True, default=_ignore)
    fetch: Fetch = field(kw_only=True, default=_unreachable)


class Sink(Protocol):
    """Takes batches out of the process, in a task and with a queue of its own."""

    backends: frozenset[str]

    async def write(self, events: Sequence[Event]) -> None:
        """Write a batch."""
        ...

    async def aclose(self) -> None:
        """Write what is left and let go."""
        ...
