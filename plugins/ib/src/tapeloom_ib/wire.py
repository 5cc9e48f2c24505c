"""The gateway's fields to events: the venue's own text, never a float.

Each message is a list of texts, the first of which says what it is (TWS API, protocol version 178).
There is no acknowledgement, no sequence number, no trade id and no taker's side in it, and no time
finer than a second. A function here reads one message, so that how messages are cut into reads
changes nothing.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from attrs import define
from tapeloom.events import Bar, Book, Event, GapCause, Quote, Reject, Status, Trade

if TYPE_CHECKING:
    from ib_async import Contract

__all__ = ["DEPTH", "READERS", "Line", "Rows", "read"]

SECOND = 1_000_000_000
_NONE = Decimal(0)
_BID, _ASK = 1, 0
# Tick types of level 1 → which field of a quote, live and delayed.
_TOP = {"1": "bid", "2": "ask", "66": "bid", "67": "ask"}
_TOP_SIZES = {"0": "bid_size", "3": "ask_size", "69": "bid_size", "70": "ask_size"}


class Rows:
    """The rows of one market depth: they are addressed by their position, from the best price on.

    Whether an insert moves the rows below it down ("shift") or takes the place of one ("slot") is
    read in two ways; the two agree where rows are only added and taken away at the end.
    """

    def __init__(self, depth: int, mode: Literal["shift", "slot"] = "shift") -> None:
        self.sides: dict[int, list[tuple[Decimal, Decimal]]] = {_BID: [], _ASK: []}
        self._depth, self._shift = depth, mode == "shift"

    def clear(self) -> None:
        """Forget all rows."""
        for rows in self.sides.values():
            rows.clear()

    def apply(
        self, position: int, operation: int, side: int, price: Decimal, size: Decimal
    ) -> None:
        """Do one operation: 0 inserts, 1 updates, 2 deletes.

        Raises ValueError where there is no such row.
        """
        rows = self.sides[side]
        if operation not in (0, 1, 2) or not 0 <= position < len(rows) + (operation != 2):
            raise ValueError(f"no operation {operation} on row {position} of {len(rows)}")
        if operation == 2:
            del rows[position]
        elif position == len(rows) or (operation == 0 and self._shift):
            rows.insert(position, (price, size))
            del rows[self._depth :]
        else:
            rows[position] = price, size

    def levels(self, side: int) -> list[tuple[Decimal, Decimal]]:
        """Return the prices of one side, best first, with the sum of their rows."""
        sums: dict[Decimal, Decimal] = {}
        for price, size in self.sides[side]:
            sums[price] = sums.get(price, _NONE) + size
        return list(sums.items())

    @property
    def sound(self) -> bool:
        """Whether the rows stand in order and the sides do not cross."""
        bids, asks = ([price for price, _ in self.sides[side]] for side in (_BID, _ASK))
        crossed = bool(bids and asks and bids[0] >= asks[0])
        return not crossed and bids == sorted(bids, reverse=True) and asks == sorted(asks)


@define(eq=False)
class Line:
    """One subscription, asked for under one request id, and what is known of it."""

    venue: str
    symbol: str
    channel: str
    contract: Contract
    rows: Rows | None = None
    top: dict[str, Decimal] | None = None  #: level 1 as far as it has come
    req_id: int = -1
    asked: float | None = None  #: when, until its first data has come
    retry: float | None = None  #: when it is to be asked for again
    live: bool = False
    seen: int = 0  #: `recv` of its last event
    last: int = 0  #: `ts` of its last event
    hole: GapCause | Literal[""] = ""  #: why data is missing since then
    wrong: int = 0  #: reads in a row that left the rows unsound
    halted: bool = False

    @property
    def word(self) -> str:
        """The channel without its parameter."""
        return self.channel.partition(":")[0]

    def book(self, recv: int) -> Book:
        """Return the book as its rows are now."""
        assert self.rows is not None
        bids, asks = self.rows.levels(_BID), self.rows.levels(_ASK)
        depth = int(self.channel.partition(":")[2])
        return Book(
            self.venue, self.symbol, recv, recv, "snapshot", bids, asks, None, None, None, depth,
            self.channel,
        )  # fmt: skip

    def status(self, state: str, detail: str, now: int) -> Status:
        """Return a Status of this subscription."""
        return Status(self.venue, self.symbol, now, now, state, detail, self.channel)


def _number(text: str) -> Decimal:
    number = Decimal(text)
    if not number.is_finite():
        raise ValueError(f"{text!r} is no number")
    return number


def _absent(price: Decimal, size: Decimal) -> bool:
    """Say whether a price stands for none; true prices may be below zero."""
    return price in (0, -1) and not size


def _nothing(line: Line, fields: list[str], recv: int) -> list[Event]:
    """Say that the venue sent a placeholder in place of a price."""
    evidence = " ".join(fields)
    return [Reject(line.venue, line.symbol, recv, recv, "no_value", evidence, None, line.channel)]


def _tick(line: Line, fields: list[str], recv: int) -> list[Event]:
    """Read a tick-by-tick message."""
    _, _, kind, seconds, *rest = fields
    ts = int(seconds) * SECOND
    if kind in ("1", "2") and line.word == "trades":
        return _trade(line, fields, ts, recv, rest)
    if kind != "3" or line.word != "quotes":
        raise ValueError(f"tick type {kind} was not asked for")
    bid, ask, bid_size, ask_size = map(_number, rest[:4])
    int(rest[4])
    if _absent(bid, bid_size) or _absent(ask, ask_size):
        return _nothing(line, fields, recv)
    return [
        Quote(line.venue, line.symbol, ts, recv, bid, bid_size, ask, ask_size, None, line.channel)
    ]


def _trade(line: Line, fields: list[str], ts: int, recv: int, rest: list[str]) -> list[Event]:
    price_text, size_text, mask, _exchange, _conditions = rest
    price, size = _number(price_text), _number(size_text)
    past_limit = int(mask) & 1
    if not price and not size:
        # A trading halt, and its end, are told by a trade of nothing at no price.
        line.halted = bool(past_limit) and not line.halted
        return [line.status("halted" if line.halted else "live", "told by the venue", recv)]
    if _absent(price, size):
        return _nothing(line, fields, recv)
    return [Trade(line.venue, line.symbol, ts, recv, price, size, None, "", line.channel)]


def _bar(line: Line, fields: list[str], recv: int) -> list[Event]:
    """Read a real-time bar; it is sent once, when it is over."""
    _, _, _, seconds, *numbers, count = fields
    opened, high, low, close, volume, average = map(_number, numbers)
    if volume < 0:  # bars of quotes have none
        volume = average = _NONE
    return [
        Bar(
            line.venue, line.symbol, int(seconds) * SECOND, recv, "5s", opened, high, low, close,
            volume, volume * average, None, None, max(0, int(count)), True, True, 0,
            line.channel, "live",
        )
    ]  # fmt: skip


def _depth(line: Line, fields: list[str]) -> list[Event]:
    """Do an operation on a row. What has become of the book, `Line.book` says at the read's end."""
    if line.rows is None:
        raise ValueError("market depth was not asked for")
    position, operation, side, price, size = fields
    line.rows.apply(int(position), int(operation), int(side), _number(price), _number(size))
    return []


def _depth_plain(line: Line, fields: list[str], recv: int) -> list[Event]:
    return _depth(line, fields[3:])


def _depth_makers(line: Line, fields: list[str], recv: int) -> list[Event]:
    """Read a row that names a market maker or an exchange: rows at one price are added up."""
    return _depth(line, [fields[3], *fields[5:9]])


def _level_1(line: Line, fields: list[str], recv: int) -> list[Event]:
    """Read a change of the best bid or ask: a price, which may bring its size, or a size."""
    top = line.top
    if top is None:
        raise ValueError("level 1 was not asked for")
    if fields[0] == "1":
        _, _, _, tick, price, size, *_ = fields
        side = _TOP.get(tick)
        if side is None:
            return []
        top[side] = _number(price)
        if size:
            top[f"{side}_size"] = _number(size)
    else:
        _, _, _, tick, size = fields
        if tick not in _TOP_SIZES:
            return []
        top[_TOP_SIZES[tick]] = _number(size)
    if len(top) < 4:
        return []
    values = (top["bid"], top["bid_size"], top["ask"], top["ask_size"])
    if _absent(*values[:2]) or _absent(*values[2:]):
        return []  # one side has no price at the moment
    return [Quote(line.venue, line.symbol, recv, recv, *values, None, line.channel)]


#: What is market data: id → where its request id stands, and what reads it.
READERS = {
    "1": (2, _level_1),
    "2": (2, _level_1),
    "12": (2, _depth_plain),
    "13": (2, _depth_makers),
    "50": (2, _bar),
    "99": (1, _tick),
}


#: Those that change a book: one that is lost spoils it.
DEPTH = frozenset({"12", "13"})


def read(lines: dict[str, Line], fields: list[str], recv: int) -> tuple[Line | None, list[Event]]:
    """Return the subscription that a message of market data is about, and its events.

    The line is None where nobody asked for it (any longer).

    Raises ValueError, IndexError or ArithmeticError where the message cannot be read.
    """
    place, reader = READERS[fields[0]]
    line = lines.get(fields[place])
    if line is None:
        int(fields[place])
        return None, []
    return line, reader(line, fields, recv)
