"""What the gateway streams. Each request has a stream of its own: its id stands in every message."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from tapeloom_simulator.server_api import MarketBar, MarketStep, SimulatedInstrument

    class _Client(Protocol):
        muted: bool

        def corrupt(self, fault: str, stream: Feedline, text: str) -> list[str] | None: ...


__all__ = [
    "Bars",
    "Depth",
    "Feedline",
    "Quotes",
    "Top",
    "Trades",
    "average",
    "error",
    "joined",
    "plain",
]

_SECOND = 1_000_000_000


def joined(*fields: object) -> str:
    """Return the text of a message: every field is ended by a NUL."""
    return "".join(f"{field}\0" for field in fields)


def error(request: str, code: int, text: str) -> str:
    """Return the text of an error or a notice (request -1)."""
    return joined(4, 2, request, code, text, "")


def plain(units: int | Decimal, step: Decimal) -> str:
    """Return a price or a size in the digits of its step."""
    return format(units * step, "f")


def average(candle: MarketBar, pit: SimulatedInstrument) -> str:
    """Return the volume-weighted average price, to more digits than prices have."""
    if not candle.volume:
        return plain(candle.close, pit.tick)
    exact = Decimal(candle.quote_volume) / candle.volume * pit.tick
    return format(exact.quantize(pit.tick.scaleb(-6)), "f")


class Feedline:
    """A stream of one symbol for one request of one client."""

    word, interval_ns = "", 0

    def __init__(
        self, session: _Client, request: str, pit: SimulatedInstrument, kind: str = ""
    ) -> None:
        self.session, self.request, self.kind = session, request, kind
        self.ended = False
        self.symbol, self.channel = pit.symbol, self.word
        self.name = f"{pit.symbol} {self.word} {request}"
        self.pit = pit

    def start(self) -> None:
        """Nothing is kept."""

    def first(self) -> list[str]:
        """Return what the client is sent at once."""
        return []

    def encode_step(self, step: MarketStep) -> Sequence[str]:
        """Return what is said of this step."""
        return () if self.session.muted or self.ended else self.said(step)

    def encode_tick(self, now: int) -> Sequence[str]:
        """Return what is said at this time."""
        return () if self.session.muted or self.ended else self.timed(now)

    def said(self, step: MarketStep) -> Sequence[str]:
        """Return what is said of this step, while anything is."""
        return ()

    def timed(self, now: int) -> Sequence[str]:
        """Return what is said at this time, while anything is."""
        return ()

    def odd(self, fault: str, text: str) -> list[str] | None:
        """Return *text* as a fault leaves it."""
        fields = text.split("\0")[:-1]
        if fault == "missing_fields":
            return [joined(*fields[: len(fields) // 2], *fields[len(fields) // 2 + 1 :])]
        if fields[0] != "99":
            return None
        if fault == "ib_halt":
            nothing = joined(*fields[:4], 0, 0, 1, *fields[7:])
            return [nothing, nothing, text]
        empty = [-1, 0] if fields[2] != "3" else [-1, -1, 0, 0]
        return [joined(*fields[:4], *empty, *fields[4 + len(empty) :]), text]


class Trades(Feedline):
    """Tick by tick: every trade, in whole seconds, without an id and without a side."""

    word = "trades"

    def said(self, step: MarketStep) -> Sequence[str]:
        """Return what is said of this step, while anything is."""
        tick, lot = self.pit.tick, self.pit.lot
        return [
            joined(99, self.request, self.kind, fill.ts // _SECOND, plain(fill.price, tick),
                   plain(fill.size, lot), 0, "NASDAQ", "")
            for fill in step.trades
        ]  # fmt: skip


class Quotes(Feedline):
    """Tick by tick: every best bid and ask."""

    word = "quotes"

    def said(self, step: MarketStep) -> Sequence[str]:
        """Return what is said of this step, while anything is."""
        best = step.top_of_book
        if best is None:
            return ()
        tick, lot = self.pit.tick, self.pit.lot
        return [
            joined(99, self.request, 3, step.ts // _SECOND, plain(best.bid, tick),
                   plain(best.ask, tick), plain(best.bid_size, lot), plain(best.ask_size, lot), 0)
        ]  # fmt: skip


class Top(Feedline):
    """Level 1: the best bid and ask, four times a second. *kind* above 2 is delayed."""

    word, interval_ns = "top", _SECOND // 4

    def __init__(self, session: _Client, request: str, pit: SimulatedInstrument, kind: str) -> None:
        super().__init__(session, request, pit, kind)
        self.channel = "quotes"
        self._told: object = None
        self._bid, self._ask = ("66", "67") if kind in ("3", "4") else ("1", "2")

    def first(self) -> list[str]:
        """Return what the client is sent at once."""
        notice = "Requested market data is not subscribed. Displaying delayed market data."
        late = [error(self.request, 10167, notice)] if self._bid == "66" else []
        return [*late, joined(58, 1, self.request, self.kind)]

    def timed(self, now: int) -> Sequence[str]:
        """Return what is said at this time, while anything is."""
        best = self.pit.top_of_book()
        if best == self._told:
            return ()
        self._told = best
        tick, lot = self.pit.tick, self.pit.lot
        return [
            joined(
                1, 6, self.request, self._bid, plain(best.bid, tick), plain(best.bid_size, lot), 0
            ),
            joined(
                1, 6, self.request, self._ask, plain(best.ask, tick), plain(best.ask_size, lot), 0
            ),
        ]


class Bars(Feedline):
    """A bar every five seconds; of trades, or of quotes as they were at its ends."""

    word, interval_ns = "klines", 5 * _SECOND

    def __init__(self, session: _Client, request: str, pit: SimulatedInstrument, what: str) -> None:
        super().__init__(session, request, pit, what)
        self.channel = "klines:5s"
        self._before = self._price()

    def _price(self) -> Decimal:
        best = self.pit.top_of_book()
        if self.kind == "BID":
            return Decimal(best.bid)
        return Decimal(best.ask) if self.kind == "ASK" else Decimal(best.bid + best.ask) / 2

    def timed(self, now: int) -> Sequence[str]:
        """Return what is said at this time, while anything is."""
        tick, lot, start = self.pit.tick, self.pit.lot, now // _SECOND - 5
        if self.kind not in ("TRADES", "AGGTRADES"):
            before, self._before = self._before, self._price()
            ends = (before, max(before, self._before), min(before, self._before), self._before)
            prices = [plain(price, tick) for price in ends]
            return [joined(50, 3, self.request, start, *prices, -1, -1, -1)]
        candle = self.pit.bar("5s", now - 1)
        if candle is None:
            return ()
        prices = [plain(one, tick) for one in (candle.open, candle.high, candle.low, candle.close)]
        return [
            joined(50, 3, self.request, start, *prices, plain(candle.volume, lot),
                   average(candle, self.pit), candle.trades)
        ]  # fmt: skip


class Depth(Feedline):
    """The best rows of the book, as operations on them."""

    word = "book"

    def __init__(
        self, session: _Client, request: str, pit: SimulatedInstrument, rows: int, *, smart: bool
    ) -> None:
        super().__init__(session, request, pit)
        self.channel, self._count, self._smart = f"book:{rows}", rows, smart
        self._rows: dict[int, list[tuple[int, int]]] = {0: [], 1: []}

    def first(self) -> list[str]:
        """Return what the client is sent at once."""
        self._rows = {0: [], 1: []}
        return self._changes()

    def said(self, step: MarketStep) -> Sequence[str]:
        """Return what is said of this step, while anything is."""
        return self._changes() if step.last_id >= step.first_id else ()

    def _changes(self) -> list[str]:
        ladder = self.pit.book_snapshot(self._count)
        texts = []
        for side, now in ((1, ladder.bids), (0, ladder.asks)):
            before, self._rows[side] = self._rows[side], list(now)
            texts += [self._text(side, *change) for change in _operations(before, list(now))]
        return texts

    def _text(self, side: int, operation: int, place: int, price: int, size: int) -> str:
        row = [operation, side, plain(price, self.pit.tick), plain(size, self.pit.lot)]
        if self._smart:
            return joined(13, 1, self.request, place, "NASDAQ", *row, 1)
        return joined(12, 1, self.request, place, *row)


def _operations(
    before: list[tuple[int, int]], now: list[tuple[int, int]]
) -> list[tuple[int, int, int, int]]:
    """Return operation, position, price and size of what turns one side into the other.

    Rows that are gone are deleted from the last one on, new ones inserted from the first one on.
    """
    sizes, found = dict(now), []
    rows = list(before)
    for place in reversed(range(len(rows))):
        if rows[place][0] not in sizes:
            del rows[place]
            found.append((2, place, 0, 0))
    for place, (price, size) in enumerate(now):
        if place == len(rows) or rows[place][0] != price:
            rows.insert(place, (price, size))
            found.append((0, place, price, size))
        elif rows[place][1] != size:
            found.append((1, place, price, size))
    return found
