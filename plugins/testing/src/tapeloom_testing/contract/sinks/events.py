"""The events that are written to a sink: all types, with all that makes stores merge or change them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import ClassVar, cast

from attrs import define
from tapeloom.events import (
    BY_TYPE,
    Bar,
    Book,
    Event,
    Gap,
    Quote,
    Reject,
    Side,
    Status,
    Ticker,
    Trade,
)
from tapeloom.events.base import BaseEvent

__all__ = ["START", "OwnEvent", "sink_events"]

#: `ts` of the first event, in ns (2023-11-14 22:13:20 UTC): its last digits are lost in a store of
#: microseconds.
START = 1_700_000_000_000_000_001
VENUE, SYMBOLS = "contract", ("BTC/USDT", "1000PEPE/USDT:USDT", "ETH/USD:ETH-260327")
#: The first integer that a 64-bit float does not hold.
_BIG_ID = 2**53 + 1
_MINUTE = 60_000_000_000
_SIDES: tuple[Side | None, ...] = ("buy", "sell", None)
_TEXT = "quotes \" ' `, commas; a backslash \\, %s, $1, \N{EURO SIGN} and \N{ROCKET}\n"


@define
class OwnEvent(BaseEvent):
    """An event class of a plugin, with fields that no class of tapeloom has."""

    type: ClassVar[str] = "contract_own"

    venue: str  #: The venue.
    symbol: str  #: The unified symbol.
    ts: int  #: A time, in ns.
    recv: int  #: Our time, in ns.
    delta: Decimal  #: A number that may be negative.
    label: str | None = None  #: A text.
    is_final: bool = False  #: A truth value.
    channel: str = "contract_own"  #: The channel.


def sink_events(
    count: int, *, seed: int = 1, start: int = START, types: Sequence[str] = ()
) -> list[Event]:
    """Return *count* events of the given types (default: all), the same ones for the same arguments.

    Two lists whose *start* is a day apart have no event in common.
    """
    found: list[Event] = []
    source = _endless(Random(seed), start)  # repeatable, not secret
    while len(found) < count:
        found += [event for event in next(source) if not types or event.type in types]
    return found[:count]


def _endless(rng: Random, start: int) -> Iterator[list[Event]]:
    """Yield groups of events that belong together."""
    makers: list[Callable[[Random, int, int], list[Event]]] = [
        _numbered, _twins, _named, _reused, _books, _quotes, _bars, _facts, _late, _ticker,
    ]  # fmt: skip
    known: Mapping[str, type] = BY_TYPE
    if known.get(OwnEvent.type) is OwnEvent:
        makers.append(_own)
    ts, number = start, 1
    while True:
        for make in rng.sample(makers, len(makers)):
            ts += rng.choice((1, 999, 1_000_000, 250_000_000))
            yield make(rng, ts, number)
            number += 10


def _price(rng: Random) -> Decimal:
    """Return a price, often with trailing zeros."""
    return Decimal(rng.randrange(1, 10**9)).scaleb(-rng.choice((0, 2, 8))) * Decimal("1.00")


def _size(rng: Random) -> Decimal:
    return Decimal(rng.randrange(1, 10**6)).scaleb(-rng.choice((0, 3, 18)))


def _head(rng: Random, ts: int) -> tuple[str, str, int, int]:
    return VENUE, rng.choice(SYMBOLS), ts, ts + rng.randrange(10**7)


def _numbered(rng: Random, ts: int, number: int) -> list[Event]:
    """Return trades with consecutive integer ids, several within one millisecond."""
    head = _head(rng, ts)
    return [
        Trade(*head, _price(rng), _size(rng), rng.choice(_SIDES), _BIG_ID + number + index)
        for index in range(5)
    ]


def _twins(rng: Random, ts: int, number: int) -> list[Event]:
    """Return genuine trades and quotes without id that are equal in all fields."""
    head, price, size = _head(rng, ts), _price(rng), _size(rng)
    trades: list[Event] = [Trade(*head, price, size, "sell") for _ in range(3)]
    return [*trades, *(Quote(*head, price, size, price + 1, size) for _ in range(2))]


def _named(rng: Random, ts: int, number: int) -> list[Event]:
    """Return trades with texts as ids, one of them a number with leading zeros."""
    ids = [f"{number:08d}", str(number), f"{number}-\N{GREEK SMALL LETTER ALPHA},\"'\\"]
    head = _head(rng, ts)
    return [Trade(*head, _price(rng), _size(rng), "buy", text, "agg_trades") for text in ids]


def _reused(rng: Random, ts: int, number: int) -> list[Event]:
    """Return trades of one id at two times, as of venues whose ids restart."""
    _, symbol, _, recv = _head(rng, ts)
    return [
        Trade(VENUE, symbol, ts + index, recv, _price(rng), _size(rng), "buy", 7, "reused")
        for index in range(2)
    ]


def _late(rng: Random, ts: int, number: int) -> list[Event]:
    """Return a trade, then two of an earlier time, one of them backfilled."""
    venue, symbol, _, recv = _head(rng, ts)
    price, size = _price(rng), _size(rng)
    return [
        Trade(venue, symbol, ts, recv, price, size, "buy", "", "late"),
        Trade(venue, symbol, ts - 5_000_000_000, recv, price, size, "buy", "", "late"),
        Trade(
            venue, symbol, ts - 3_600_000_000_000, recv, price, size, "sell", "", "late", "backfill"
        ),
    ]


def _books(rng: Random, ts: int, number: int) -> list[Event]:
    """Return a snapshot and a delta with the same number, a delta without, and an empty snapshot."""
    head = _head(rng, ts)
    bids, asks = [("100.10", "1.500"), ("100.00", "2")], [("100.20", "0.00000001")]
    pairs = [(_price(rng), _size(rng))]
    return [
        Book(*head, "snapshot", bids, asks, None, number, None, 10, "book:10"),
        Book(*head, "delta", [("100.10", "0")], [], number, number, number - 1, 0, "book:10"),
        Book(*head, "delta", [], pairs),
        Book(*head, "snapshot", [], []),
    ]


def _quotes(rng: Random, ts: int, number: int) -> list[Event]:
    """Return a quote, one without bid, one without ask, and an empty one."""
    head, price, size = _head(rng, ts), _price(rng), _size(rng)
    return [
        Quote(*head, price, size, price + 1, size, number),
        Quote(*head, None, None, price, size, number),  # a venue may repeat a number
        Quote(*head, price, size, None, None),
        Quote(*head, None, None, None, None, number + 1, "book", "built_from_book"),
    ]


def _bars(rng: Random, ts: int, number: int) -> list[Event]:
    """Return a forming bar twice, closed, and revised."""
    venue, symbol, _, recv = _head(rng, ts)
    start = ts - ts % _MINUTE
    price, volume = _price(rng), _size(rng)
    precise = Decimal(number).scaleb(-24)  # products of prices and sizes have many decimals
    prices = (price, price + 1, price, price + 1)
    sums = (volume, precise, None, None)
    return [
        Bar(venue, symbol, start, recv, "1m", *prices, *sums, 3, closed=False, complete=False),
        Bar(venue, symbol, start, recv + 1, "1m", *prices, *sums, 4, closed=False),
        Bar(venue, symbol, start, recv + 2, "1m", *prices, volume, precise, volume, precise, 5),
        Bar(venue, symbol, start, recv + 3, "1m", *prices, *sums, None, revision=1),
        Bar(venue, symbol, start, recv, "1m", *prices, *sums, 5, channel="klines:1m", origin="live"),
    ]  # fmt: skip


def _ticker(rng: Random, ts: int, number: int) -> list[Event]:
    """Return a ticker with all numbers, and one without any."""
    head, price = _head(rng, ts), _price(rng)
    return [
        Ticker(*head, price, price, price + 1, price, _size(rng), _price(rng), number),
        Ticker(*head, None, None, None, None, None, None),
    ]


def _facts(rng: Random, ts: int, number: int) -> list[Event]:
    """Return gaps in two states, rejects with and without event, and statuses."""
    venue, _, _, recv = head = _head(rng, ts)
    trade = Trade(*head, _price(rng), _size(rng), "buy", number)
    since = ts - 1_000_000_000
    return [
        Gap(*head, since, ts, "sequence", 3, "open", "trades", number, number + 4),
        Gap(*head, since, ts, "sequence", 3, "filled", "trades", number, number + 4),
        Gap(venue, "", ts, recv, since, ts, "disconnect", None, "open", "", "a-name"),
        Reject(*head, "contract_rule", _TEXT, trade, "trades"),
        Reject(venue, "", ts, recv, "unreadable_frame", "{\x00"),
        Status(venue, "", ts, recv, "notice", _TEXT),
        Status(*head, "live", "", "trades"),
    ]


def _own(rng: Random, ts: int, number: int) -> list[Event]:
    """Return events of a class that the sink has never seen."""
    head = _head(rng, ts)
    own = [OwnEvent(*head, -_price(rng)), OwnEvent(*head, _size(rng), _TEXT, is_final=True)]
    return cast("list[Event]", own)
