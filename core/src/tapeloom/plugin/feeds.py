"""The feed that every hook takes; frames and parsers, batches and stages.

See `tapeloom.plugin` for how they fit together. `history` and `protocol` have the REST and WebSocket types.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from attrs import Factory, define, evolve, field, frozen

from tapeloom.errors import SymbolError, closest, nearest
from tapeloom.events import Event, Gap, GapCause, Reject, Status
from tapeloom.symbols import Instrument

from .history import HistoryQuery, Request
from .timing import Clock

#: A function that takes a frame without market data and returns the events to deliver instead.
OnControl: TypeAlias = "Callable[[bytes], Sequence[Event]]"


def _unreadable(frame: bytes) -> Sequence[Event]:
    return [Reject("", "", 0, 0, "unreadable_frame", frame[:200].decode(errors="replace"))]


class Frames(list[bytes]):
    """The frames of one read of a socket."""

    __slots__ = ("connection", "on_control", "recv")

    def __init__(
        self,
        frames: Iterable[bytes] = (),
        recv: int = 0,
        on_control: OnControl = _unreadable,
        connection: int = 1,
    ) -> None:
        super().__init__(frames)
        self.recv = recv  #: Our time of the read, in ns; all events of the read share it.
        #: Takes a frame without market data (reply, notice, unknown) and returns events to deliver.
        self.on_control = on_control
        #: The number of the connection: 1 is the feed's first, 2 the next, also beside an older one.
        self.connection = connection


class TradeBatch(list[Any]):
    """A batch that holds only live trades of one read, as most batches do.

    All trades share their `recv`. Stages may treat it as a plain list, and parsers need not create it.
    """

    __slots__ = ("feed", "subscription_ids", "validated")

    def __init__(self, trades: Iterable[Event] = (), subscription_ids: Iterable[int] = ()) -> None:
        super().__init__(trades)
        #: Per trade, a small number for its symbol and channel, the same while the feed lives. Stages
        #: find their state by this number, without reading type, symbol, channel and origin.
        self.subscription_ids = list(subscription_ids)
        #: The feed in which these numbers are unique. Core sets it before the batch is delivered.
        self.feed: Feed | None = None
        #: Whether a stage has checked that all prices and sizes are finite and above zero, and that each trade
        #: is the next one of its subscription: its id by one higher than the one before, its time no earlier.
        self.validated = False


#: A function that turns the frames of one read into events. With an attribute `within_bounds` that is true
#: it says that all values are within the bounds of `tapeloom.plugin.bounds`; else core checks them.
Parse: TypeAlias = Callable[[Frames], list[Event]]
#: A function that sends a REST request and returns the body of the answer.
Fetch: TypeAlias = "Callable[[Request], Awaitable[bytes]]"
#: A function that takes a batch and returns the batch to deliver. With attributes `uses` and `adds`, frozen
#: sets of types of events such as "trade", it says what it works on and what it adds; then core refuses
#: a stack in which no channel gives it anything, or in which a stage that validates comes too late.
Stage: TypeAlias = Callable[[list[Event]], list[Event]]


@runtime_checkable
class TimedStage(Protocol):
    """A stage that also acts when time passes and no event arrives."""

    @property
    def due(self) -> int | None:
        """The time in ns, on the clock of `recv`, at which `tick` is to be called; None: never."""
        ...

    def __call__(self, events: list[Event], /) -> list[Event]:
        """Take a batch and return the batch to deliver."""
        ...

    def tick(self, now: int, /) -> list[Event]:
        """Return the events that are due at *now*, in ns; afterwards `due` is later than *now*, or None."""
        ...


def _nearest_listed(symbol: str, listed: Sequence[str]) -> str:
    """Return " Did you mean 'x'?" with a symbol of the same or a similar base, or an empty string."""
    by_base: dict[str, list[str]] = {}
    for other in listed:
        by_base.setdefault(other.partition("/")[0], []).append(other)
    base = symbol.partition("/")[0]
    return nearest(symbol, by_base.get(base) or by_base.get(closest(base, by_base), []))


@define
class Listing:
    """The symbols of a feed by unified and by native name.

    It has the feed's symbols from the start, with the native names of `Codec.native`. The two dicts are
    never replaced, so a parser may keep a reference to them.
    """

    native: dict[str, str] = Factory(dict)  #: The venue's name by unified symbol.
    unified: dict[str, str] = Factory(dict)  #: The unified symbol by the venue's name.
    #: What the venue lists, by unified symbol; empty until core has requested it.
    instruments: dict[str, Instrument] = Factory(dict)
    #: The unified symbols that name several instruments of the venue, with the venue's names of these.
    ambiguous: dict[str, list[str]] = Factory(dict)

    def add(self, symbol: str, native: str) -> None:
        """Add a unified symbol with the venue's name."""
        self.native[symbol] = native
        self.unified[native] = symbol

    def update(self, instruments: Iterable[Instrument]) -> None:
        """Store what the venue lists; its own names replace those formed by rule.

        If several active instruments have one symbol, it is ambiguous, and none of them is stored.
        """
        listed: dict[str, dict[str, Instrument]] = {}
        for instrument in sorted(instruments, key=lambda instrument: instrument.active):
            same = listed.setdefault(instrument.symbol, {})
            if instrument.active and not all(other.active for other in same.values()):
                same.clear()
            same[instrument.native] = instrument
        for symbol, (instrument, *others) in (
            (name, same.values()) for name, same in listed.items()
        ):
            if others:
                self.ambiguous[symbol] = list(listed[symbol])
                continue
            self.instruments[symbol] = instrument
            if symbol in self.native:
                self.add(symbol, instrument.native)

    def problem(self, symbol: str) -> str:
        """Return why *symbol* is not subscribed to, as a sentence to follow the venue's name.

        Empty if nothing is wrong with it, or if the venue's list is not known.
        """
        found, known = self.instruments.get(symbol), self.instruments.values()
        if natives := self.ambiguous.get(symbol):
            other = [
                f"{item.symbol!r} for {item.native}" for item in known if item.native in natives
            ]
            names = " or ".join(other) or "another symbol"
            return f"has several instruments {symbol!r}: {', '.join(natives)}. Write {names}."
        active = [item.symbol for item in known if item.active]
        if found is None:
            return f"does not list {symbol!r}.{_nearest_listed(symbol, active)}" if known else ""
        if not found.active and active:
            return f"lists {symbol!r} as delisted or expired. Remove it from the feed's symbols."
        twin = self.instruments.get(self.unified.get(found.native, symbol), found)
        if twin.symbol != symbol and (twin.native, twin.kind) == (found.native, found.kind):
            return f"has one instrument for {symbol!r} and {twin.symbol!r}. Write one of them."
        return ""

    def remove(self, symbol: str) -> None:
        """Remove a symbol: frames about it that still arrive count as not requested."""
        native = self.native.pop(symbol, None)
        if native is not None and self.unified[native] == symbol:
            del self.unified[native]


@frozen
class Network:
    """How connections are made, as the stack says."""

    #: The proxy's address; None: the environment's.
    proxy: str | None = field(default=None, repr=False)
    ca: str | None = None  #: A PEM file with trusted root certificates; None: the default ones.


@frozen
class Loss:
    """What a stage or source finds missing: the fields of the `Gap` that reports it."""

    symbol: str  #: The unified symbol.
    channel: str  #: The channel.
    since: int = field(kw_only=True)  #: The venue's time of the last event before the loss, in ns.
    until: int = field(kw_only=True)  #: The venue's time of the first event after the loss, in ns.
    recv: int = field(kw_only=True)  #: Our time of the read that shows the loss, in ns.
    cause: GapCause = field(default="sequence", kw_only=True)  #: Why data is missing.
    #: The id of the last event before the loss; None without ids.
    after_id: int | str | None = field(default=None, kw_only=True)
    #: The id of the first event after the loss; None if not known.
    before_id: int | str | None = field(default=None, kw_only=True)
    #: How many events or book updates are missing; None if not known.
    missing: int | None = field(default=None, kw_only=True)

    def gap(self, venue: str) -> Gap:
        """Return the Gap that reports it, with the state "open"."""
        return Gap(
            venue, self.symbol, self.until, self.recv, self.since, self.until, self.cause,
            self.missing, channel=self.channel, after_id=self.after_id, before_id=self.before_id,
        )  # fmt: skip


class Gaps(Protocol):
    """Makes the gaps of a feed. Core has one for each feed; it reports each loss once."""

    def open(self, loss: Loss) -> list[Event]:
        """Return the gaps to emit for a loss, before the event that shows it; none if it is known.

        Where the venue can answer, the gap is filled: the missing events arrive with the origin
        "backfill", and then the Gap again with its final state.
        """
        ...


class UnfilledGaps:
    """Gaps of a feed that does not run: each is new and cannot be filled."""

    def __init__(self, venue: str) -> None:
        self._venue = venue

    def open(self, loss: Loss) -> list[Event]:
        """Return one Gap with the state "unrecoverable"."""
        after_id, before_id = loss.after_id, loss.before_id
        if loss.missing is None and isinstance(after_id, int) and isinstance(before_id, int):
            loss = evolve(loss, missing=before_id - after_id - 1)
        return [evolve(loss.gap(self._venue), state="unrecoverable")]


def _no_history(query: HistoryQuery) -> None:
    pass


async def _not_running(request: Request) -> bytes:
    raise RuntimeError("Feed.fetch works only while the feed runs. Call it in Source.run.")


@define
class Feed:
    """One venue with its symbols, channels and stages: the argument of every hook.

    `symbols` and `listing` change in place while the feed runs.
    """

    name: str  #: The name of the feed in the stack.
    venue: str  #: The name of the venue's plugin.
    market: str = ""  #: The market of the venue, such as "spot"; empty for its default.
    symbols: list[str] = Factory(list)  #: The unified symbols.
    channels: tuple[str, ...] = ()  #: The channels, with their parameters.
    stages: tuple[str, ...] = ()  #: The names of the stages, in order.
    settings: Any = None  #: The settings of the plugin whose hook is called, as its own class.
    #: The settings of the feed's stages by plugin, for a plugin that wraps the hooks of others.
    stage_settings: dict[str, Any] = field(kw_only=True, factory=dict, repr=False)
    clock: Clock = field(kw_only=True)  #: The clock to use for all times and waiting.
    #: A seeded source of randomness.
    random: random.Random = field(kw_only=True, factory=random.Random)
    network: Network = field(kw_only=True, factory=Network)  #: The proxy and certificates to use.
    listing: Listing = field(kw_only=True, factory=Listing)  #: The symbols by both names.
    counters: Counter[str] = field(kw_only=True, factory=Counter)  #: Counters: see `telemetry`.
    #: Requests history; returns at once, and the answer arrives as events through the stages.
    query_history: Callable[[HistoryQuery], None] = field(kw_only=True, default=_no_history)
    #: Makes the gaps: a stage or source that finds a loss emits what `gaps.open` returns.
    gaps: Gaps = field(
        kw_only=True, default=Factory(lambda self: UnfilledGaps(self.venue), takes_self=True)
    )
    #: Sends a REST request for a `Source` that polls: within the rate limit, with retries, through the
    #: stack's proxy. Raises FeedError.
    fetch: Fetch = field(kw_only=True, default=_not_running)

    def refuse_symbols(self, venue: str) -> list[Status]:
        """Remove the symbols that the listing speaks against; return a Status for each of them.

        Core calls it where the venue has a listing request. *venue* names the venue in the details. Raises
        SymbolError if no symbol is left.
        """
        problems = {symbol: self.listing.problem(symbol) for symbol in self.symbols}
        refused = {name: f"{venue} {problem}" for name, problem in problems.items() if problem}
        if refused and len(refused) == len(problems):
            raise SymbolError(f"feed {self.name!r}: {' '.join(refused.values())}")
        for symbol in refused:
            self.symbols.remove(symbol)
            self.listing.remove(symbol)
        now = self.clock.time_ns()
        return [Status(self.venue, name, now, now, "refused", why) for name, why in refused.items()]
