"""Parser of the gateway's market data: lists of texts become events, without floats.

The first text of a message is its type (TWS API, protocol version 178). Messages have no
acknowledgement, sequence number, trade id or taker's side, and times are whole seconds. Each
function parses one message, so the events do not depend on how messages are split into reads.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from attrs import define
from tapeloom.events import Bar, Book, Event, GapCause, Quote, Reject, Status, Trade
from tapeloom.plugin.bounds import number

if TYPE_CHECKING:
    from ib_async import Contract

__all__ = ["DEPTH_MESSAGES", "PARSERS", "BookRows", "SubscriptionState", "parse"]

#: Nanoseconds in a second.
SECOND = 1_000_000_000
_ZERO = Decimal(0)
#: The venue's numbers of the sides of a market depth.
_BID, _ASK = 1, 0
#: The types of messages that change a market depth: if one is lost, the book is wrong.
DEPTH_MESSAGES = frozenset({"12", "13"})
#: Tick types of level 1, live and delayed, by the field of a quote.
_PRICE_TICKS = {"1": "bid", "2": "ask", "66": "bid", "67": "ask"}
_SIZE_TICKS = {"0": "bid_size", "3": "ask_size", "69": "bid_size", "70": "ask_size"}


class BookRows:
    """The rows of one market depth, addressed by their position from the best price on.

    An insert moves the rows below it down ("shift") or replaces a row ("slot"): the venue does not
    document which. Both agree if rows are only added and removed at the end.
    """

    def __init__(self, depth: int, mode: Literal["shift", "slot"] = "shift") -> None:
        self.sides: dict[int, list[tuple[Decimal, Decimal]]] = {_BID: [], _ASK: []}
        self._apply_depth, self._shift = depth, mode == "shift"

    def clear(self) -> None:
        """Remove all rows."""
        for rows in self.sides.values():
            rows.clear()

    def apply(
        self, position: int, operation: int, side: int, price: Decimal, size: Decimal
    ) -> None:
        """Apply one operation: 0 inserts, 1 updates, 2 deletes.

        Raises ValueError if there is no such side, operation or row.
        """
        rows = self.sides.get(side)
        if rows is None:
            raise ValueError(f"no side {side}; expected {_ASK} or {_BID}")
        if operation not in (0, 1, 2) or not 0 <= position < len(rows) + (operation != 2):
            raise ValueError(f"no operation {operation} on row {position} of {len(rows)}")
        if operation == 2:
            del rows[position]
        elif position == len(rows) or (operation == 0 and self._shift):
            rows.insert(position, (price, size))
            del rows[self._apply_depth :]
        else:
            rows[position] = price, size

    def levels(self, side: int) -> list[tuple[Decimal, Decimal]]:
        """Return the levels of one side, best first; rows at one price are added up."""
        sums: dict[Decimal, Decimal] = {}
        for price, size in self.sides[side]:
            sums[price] = sums.get(price, _ZERO) + size
        return list(sums.items())

    @property
    def is_valid(self) -> bool:
        """Whether the rows are in order of their price and the sides do not cross."""
        bids, asks = ([price for price, _ in self.sides[side]] for side in (_BID, _ASK))
        crossed = bool(bids and asks and bids[0] >= asks[0])
        return not crossed and bids == sorted(bids, reverse=True) and asks == sorted(asks)


@define(eq=False)
class SubscriptionState:
    """The state of one subscription, which has one request id at a time."""

    venue: str
    symbol: str
    channel: str
    contract: Contract
    rows: BookRows | None = None  #: of a market depth
    #: The fields of level 1 that have come; the price of an empty side is None.
    top: dict[str, Decimal | None] | None = None
    req_id: int = -1
    requested_at: float | None = None  #: when it was requested; None once its first data has come
    retry_at: float | None = None  #: when it is to be requested again
    live: bool = False
    last_recv: int = 0  #: `recv` of its last event
    last_ts: int = 0  #: `ts` of its last event
    gap_cause: GapCause | Literal[""] = ""  #: why data is missing since its last event
    bad_reads: int = 0  #: number of reads in a row after which the rows were not valid
    halted: bool = False

    @property
    def channel_name(self) -> str:
        """The channel without its parameter."""
        return self.channel.partition(":")[0]

    def book(self, recv: int) -> Book:
        """Return the current book."""
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
    """Return a finite number. Raises ValueError or ArithmeticError for any other text."""
    read = number(text)
    if not read.is_finite():
        raise ValueError(f"{text!r} is not a finite number")
    return read


def _is_placeholder(price: Decimal, size: Decimal) -> bool:
    """Return whether a price is a placeholder for no price; true prices may be negative."""
    return price in (0, -1) and not size


def _quote(
    state: SubscriptionState,
    ts: int,
    recv: int,
    bid: Decimal | None,
    bid_size: Decimal | None,
    ask: Decimal | None,
    ask_size: Decimal | None,
) -> Event:
    """Return a Quote. A placeholder, or None, in place of a price means an empty side."""
    if bid is None or bid_size is None or _is_placeholder(bid, bid_size):
        bid = bid_size = None
    if ask is None or ask_size is None or _is_placeholder(ask, ask_size):
        ask = ask_size = None
    sides = bid, bid_size, ask, ask_size
    return Quote(state.venue, state.symbol, ts, recv, *sides, None, state.channel)


def _no_value(state: SubscriptionState, fields: list[str], recv: int) -> list[Event]:
    """Return a Reject for a placeholder in place of a price."""
    evidence = " ".join(fields)
    return [
        Reject(state.venue, state.symbol, recv, recv, "no_value", evidence, None, state.channel)
    ]


def _parse_tick(state: SubscriptionState, fields: list[str], recv: int) -> list[Event]:
    """Parse a tick-by-tick message.

    Samples: ``99|9000|1|1678740829|3895.25|7|2|NASDAQ|Regular`` is a trade,
    ``99|9000|3|1678745793|3895.50|3896.00|9|11|3`` a quote.
    """
    _, _, kind, seconds, *rest = fields
    ts = int(seconds) * SECOND
    if kind in ("1", "2") and state.channel_name == "trades":
        return _parse_trade(state, fields, ts, recv, rest)
    if kind != "3" or state.channel_name != "quotes":
        raise ValueError(f"tick type {kind} was not requested")
    bid, ask, bid_size, ask_size = map(_number, rest[:4])
    int(rest[4])
    return [_quote(state, ts, recv, bid, bid_size, ask, ask_size)]


def _parse_trade(
    state: SubscriptionState, fields: list[str], ts: int, recv: int, rest: list[str]
) -> list[Event]:
    price_text, size_text, mask, _exchange, _conditions = rest
    price, size = _number(price_text), _number(size_text)
    past_limit = int(mask) & 1
    if not price and not size:
        # A trade of size 0 at price 0 reports a trading halt, or its end.
        state.halted = bool(past_limit) and not state.halted
        return [state.status("halted" if state.halted else "live", "reported by the venue", recv)]
    if _is_placeholder(price, size):
        return _no_value(state, fields, recv)
    return [Trade(state.venue, state.symbol, ts, recv, price, size, None, "", state.channel)]


def _parse_bar(state: SubscriptionState, fields: list[str], recv: int) -> list[Event]:
    """Parse a real-time bar, which is sent once, after its end. Its time is its start, in seconds.

    Sample: ``50||9000|1678323335|4028.75|4029.00|4028.25|4028.50|2|4026.75|1``.
    """
    _, _, _, start_seconds, *numbers, count = fields
    opened, high, low, close, volume, average = map(_number, numbers)
    if volume < 0:  # bars of quotes have no volume
        volume = average = _ZERO
    # The volume of buyers is not known (twice None); the bar is closed, complete and revision 0.
    return [
        Bar(
            state.venue, state.symbol, int(start_seconds) * SECOND, recv, "5s", opened, high, low, close,
            volume, volume * average, None, None, max(0, int(count)), True, True, 0,
            state.channel, "live",
        )
    ]  # fmt: skip


def _apply_depth(state: SubscriptionState, fields: list[str]) -> list[Event]:
    """Apply an operation to a row. The session emits the book at the end of the read."""
    if state.rows is None:
        raise ValueError("market depth was not requested")
    position, operation, side, price, size = fields
    state.rows.apply(int(position), int(operation), int(side), _number(price), _number(size))
    return []


def _parse_depth(state: SubscriptionState, fields: list[str], recv: int) -> list[Event]:
    """Parse a row of a market depth. Sample: ``12||9000|0|1|1|185.50|100``."""
    return _apply_depth(state, fields[3:])


def _parse_depth_l2(state: SubscriptionState, fields: list[str], recv: int) -> list[Event]:
    """Parse a row with a market maker or an exchange. Sample: ``13||9000|0|ISLAND|1|1|185.50|100|1``."""
    return _apply_depth(state, [fields[3], *fields[5:9]])


def _parse_level_1(state: SubscriptionState, fields: list[str], recv: int) -> list[Event]:
    """Parse a price of level 1, which may have its size, or a size.

    Samples: ``1|2|9000|1|185.50|100|7`` is a bid with its size, ``2||9000|0|100`` a bid size.
    """
    top = state.top
    if top is None:
        raise ValueError("level 1 was not requested")
    if fields[0] == "1":
        _, _, _, tick, price, size, *_ = fields
        side = _PRICE_TICKS.get(tick)
        if side is None:
            return []
        number = _number(price)
        if size:
            top[f"{side}_size"] = _number(size)
        # A size that comes later must not make a price of the placeholder.
        is_empty = _is_placeholder(number, top.get(f"{side}_size") or _ZERO)
        top[side] = None if is_empty else number
    else:
        _, _, _, tick, size = fields
        if tick not in _SIZE_TICKS:
            return []
        top[_SIZE_TICKS[tick]] = _number(size)
    if len(top) < 4:
        return []
    sides = top["bid"], top["bid_size"], top["ask"], top["ask_size"]
    return [_quote(state, recv, recv, *sides)]


#: The index of the request id and the parser, by the type of a message of market data.
PARSERS = {
    "1": (2, _parse_level_1),
    "2": (2, _parse_level_1),
    "12": (2, _parse_depth),
    "13": (2, _parse_depth_l2),
    "50": (2, _parse_bar),
    "99": (1, _parse_tick),
}


def parse(
    states: dict[str, SubscriptionState], fields: list[str], recv: int
) -> tuple[SubscriptionState | None, list[Event]]:
    """Return the subscription of a message of market data, and the message's events.

    The subscription is None if there is none with the message's request id.

    Raises ValueError, IndexError or ArithmeticError if the message cannot be parsed.
    """
    index, parser = PARSERS[fields[0]]
    state = states.get(fields[index])
    if state is None:
        int(fields[index])
        return None, []
    return state, parser(state, fields, recv)
