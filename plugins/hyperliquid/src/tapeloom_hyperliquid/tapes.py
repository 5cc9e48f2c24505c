"""What a connection does not say: which trades are old, and when a candle is over.

Everything here is concluded from the frames and their order, so that the same frames give the same
events, live and from a tape, however they are cut into batches.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from tapeloom.events import Bar, Event, Side, Trade
from tapeloom.plugin import Feed, HistoryQuery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tapeloom.events import Origin

    from .settings import Settings

__all__ = ["Candle", "Candles", "Fill", "TradeTapes", "bar", "trade"]

_MS = 1_000_000
_ZERO = Decimal(0)
_NEVER = 1 << 62
_SIDES: dict[str, Side] = {"A": "sell", "B": "buy"}


class Fill(Struct, gc=False):
    """A trade. `side` is the taker's: B bought, A sold. `tid` is a hash, and does not grow."""

    coin: str
    side: Literal["A", "B"]
    px: Decimal
    sz: Decimal
    time: int
    tid: int


class Candle(Struct, gc=False):
    """A candle, of which nobody says whether it is over; `T` is its last millisecond."""

    t: int
    T: int
    s: str
    i: str
    o: Decimal
    c: Decimal
    h: Decimal
    l: Decimal  # noqa: E741
    v: Decimal
    n: int


# ------------------------------------------------------------------------------------------ trades


def trade(venue: str, symbol: str, fill: Fill, recv: int, origin: Origin = "live") -> Trade:
    """Return a fill as a trade."""
    where = venue, symbol, fill.time * _MS, recv
    return Trade(*where, fill.px, fill.sz, _SIDES[fill.side], str(fill.tid), "trades", origin)


class _Tape:
    """The trades of one coin that are known, by time and id in one number: it takes half the room."""

    __slots__ = ("awaits", "began", "early", "older", "recent")

    def __init__(self) -> None:
        self.recent: set[int] = set()
        self.older: set[int] = set()
        self.awaits = True  # the next batch is from before the subscription
        self.early = False  # it came before the answer that announces it
        self.began: int | None = None  # the time of the newest trade before the first subscription

    def new(self, fill: Fill, limit: int) -> bool:
        """Enter a trade; return whether it is new."""
        key = fill.time << 64 | fill.tid
        if key in self.recent or key in self.older:
            return False
        if len(self.recent) >= limit:
            self.older, self.recent = self.recent, set()
        self.recent.add(key)
        return True

    def has(self, fill: Fill) -> bool:
        key = fill.time << 64 | fill.tid
        return key in self.recent or key in self.older


class TradeTapes:
    """Tells trades that are new from those that the venue repeats after each subscription.

    It sends the last trades once more, without a mark, as the first batch after its answer.
    """

    def __init__(self, remember: int) -> None:
        self._limit = remember
        self._tapes: dict[str, _Tape] = {}
        self._waiting: dict[str, None] = {}  # answered, and the batch is still to come
        self._empty = 0  # batches without a trade, and so without a coin

    def forget(self, coin: str) -> None:
        """Forget a coin that nobody wants any more."""
        self._tapes.pop(coin, None)
        self._settle(coin)

    def answered(self, coin: str) -> None:
        """Take note that a subscription begins."""
        tape = self._tapes.setdefault(coin, _Tape())
        if tape.early:
            tape.early = False
        else:
            if coin in self._waiting:  # on another connection, which has shown nothing yet
                self._empty = 0
            tape.awaits = True
            self._waiting[coin] = None

    def nothing(self) -> None:
        """Take a batch without a trade: some coin that waits has no past."""
        self._empty += 1
        self._settle("")

    def _settle(self, coin: str) -> None:
        """Let *coin* wait no longer; nor those that can only be the ones without a past."""
        self._waiting.pop(coin, None)
        if len(self._waiting) <= self._empty:
            for each in self._waiting:
                tape = self._tapes[each]
                tape.awaits, tape.began = False, tape.began or 0
            self._waiting.clear()
            self._empty = 0

    def sorted_out(
        self, coin: str, fills: list[Fill]
    ) -> Iterator[tuple[Fill, Origin | Literal["known", "again"]]]:
        """Return each trade of a batch with where it comes from.

        "known" is one that a new subscription repeats, "again" one that is repeated for no reason.
        """
        tape = self._tapes.get(coin) or self._tapes.setdefault(coin, _Tape())
        if not tape.awaits:
            # Some known, some new: a new subscription whose answer is late.
            known = [tape.has(fill) for fill in fills]
            tape.awaits = any(known) and not all(known)
        past, limit = tape.awaits, self._limit
        if past:
            fills = sorted(fills, key=lambda fill: fill.time)  # their order is not documented
            tape.awaits, tape.early = False, coin not in self._waiting
            self._settle(coin)
        else:
            tape.early = False
        began = fills[-1].time if tape.began is None else tape.began
        tape.began = began
        for fill in fills:
            if not tape.new(fill, limit):
                yield fill, "known" if past else "again"
            elif not past:
                yield fill, "live"
            else:
                yield fill, "history" if fill.time <= began else "backfill"


# ----------------------------------------------------------------------------------------- candles


def bar(
    venue: str, symbol: str, candle: Candle, recv: int, origin: Origin,
    *, closed: bool, complete: bool = True, revision: int = 0,
) -> Bar:  # fmt: skip
    """Return a candle as a bar. The venue tells no more sums than the volume: the others are 0."""
    c = candle
    return Bar(
        venue, symbol, c.t * _MS, recv, c.i, c.o, c.h, c.l, c.c, c.v, None, None, None, c.n,
        closed, complete, revision, f"klines:{c.i}", origin,
    )  # fmt: skip


class _Line:
    """The candles of one coin and interval."""

    __slots__ = ("closed", "cut", "last", "revision", "symbol")

    def __init__(self, last: Candle, symbol: str) -> None:
        self.symbol = symbol
        self.begin(last)

    def begin(self, candle: Candle) -> None:
        self.last = candle
        self.closed = self.cut = False
        self.revision = 0


class Candles:
    """Closes candles: when the next one comes, or when the venue's time has passed their end.

    The venue's time is the newest that any of its messages carries; our clock plays no part. One
    that changes after all is sent again, with its `revision` counted up. One during which we were
    subscribed anew may lack what came last, and is closed as not complete.
    """

    def __init__(self, feed: Feed, settings: Settings) -> None:
        self._feed = feed
        self._grace = settings.bar_grace // _MS
        self._fill = settings.fill_bars
        self._lines: dict[tuple[str, str], _Line] = {}
        self._now = 0  # the venue's time, in ms
        self._due = _NEVER  # when to look again for candles that are over; never late

    def forget(self, key: tuple[str, str]) -> None:
        """Forget candles that nobody wants any more."""
        self._lines.pop(key, None)

    def answered(self, key: tuple[str, str]) -> None:
        """Take note that a subscription begins."""
        if (line := self._lines.get(key)) is not None:
            line.cut = True

    def passed(self, time: int, recv: int, out: list[Event]) -> None:
        """Let the venue's time pass."""
        if time <= self._now:
            return
        self._now = time
        if time < self._due:
            return
        self._due = _NEVER
        for line in self._lines.values():
            if line.closed:
                continue
            over = line.last.T + self._grace
            if over <= time:
                self._close(line, recv, out)
            else:
                self._due = min(self._due, over)

    def take(self, candle: Candle, symbol: str, recv: int, out: list[Event]) -> None:
        """Take what the venue says of a candle."""
        key = candle.s, candle.i
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(candle, symbol)
            self._begun(line, recv, out)
        elif candle.t > line.last.t:
            self._follow(line, candle, recv, out)
            line.begin(candle)
            self._begun(line, recv, out)
        elif candle.t < line.last.t:
            self._say(symbol, candle, recv, out, closed=True, revision=1)
        elif not line.closed:
            line.last, line.cut = candle, False  # it has in it whatever we missed
            self._say(symbol, candle, recv, out, closed=False)
        elif candle != line.last:
            line.last = candle
            line.revision += 1
            self._say(symbol, candle, recv, out, closed=True, revision=line.revision)

    def _begun(self, line: _Line, recv: int, out: list[Event]) -> None:
        candle = line.last
        self.passed(candle.t, recv, out)
        self._due = min(self._due, candle.T + self._grace)
        self._say(line.symbol, candle, recv, out, closed=False)

    def _follow(self, line: _Line, candle: Candle, recv: int, out: list[Event]) -> None:
        """Close what came before *candle*, and ask for what was skipped.

        What a reconnect has cost, core asks for.
        """
        since = line.last.T + 1
        if not line.closed:
            self._close(line, recv, out)
        if self._fill and not line.cut and since < candle.t:
            channel, times = f"klines:{candle.i}", (since * _MS, candle.t * _MS)
            self._feed.query_history(HistoryQuery("bars", line.symbol, channel, candle.i, *times))

    def _close(self, line: _Line, recv: int, out: list[Event]) -> None:
        line.closed = True
        self._say(line.symbol, line.last, recv, out, closed=True, complete=not line.cut)

    def _say(
        self, symbol: str, candle: Candle, recv: int, out: list[Event],
        *, closed: bool, complete: bool = True, revision: int = 0,
    ) -> None:  # fmt: skip
        marks = {"closed": closed, "complete": complete}
        out.append(bar(self._feed.venue, symbol, candle, recv, "live", **marks, revision=revision))
