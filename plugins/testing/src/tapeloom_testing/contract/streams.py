"""Hypothesis strategies for event streams, and events with unknown or invalid content."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from attrs import evolve
from hypothesis import strategies as st
from tapeloom.events import Bar, Book, Event, Gap, Quote, Reject, Side, Status, Ticker, Trade

__all__ = ["HOSTILE", "START", "SYMBOLS", "VENUE", "changed", "spoiled", "strange", "streams"]

#: Time of the first event, ns since the epoch.
START = 1_700_000_000_000_000_000
VENUE = "contract"
SYMBOLS = ("BTC/USDT", "ETH/USDT")
#: Numbers that no venue should send, which a stage must handle without raising.
HOSTILE = tuple(
    map(Decimal, ("NaN", "sNaN", "Infinity", "-Infinity", "0", "-1", "1E+400", "1E-400"))
)
_SIDES: tuple[Side, ...] = ("buy", "sell")

_price = st.integers(90_00, 110_00).map(lambda cents: Decimal(cents).scaleb(-2))
_size = st.integers(1, 5_000).map(lambda lots: Decimal(lots).scaleb(-3))
_symbol = st.sampled_from(SYMBOLS)
_pause = st.sampled_from([0, 0, 1_000_000, 50_000_000, 700_000_000, 2_000_000_000, 65_000_000_000])
_kind = st.sampled_from(
    ["trade"] * 6 + ["quote", "bar", "ticker", "snapshot", "delta", "delta", "gap"]
)


def _side(
    price: Decimal, size: Decimal
) -> st.SearchStrategy[tuple[Decimal, Decimal] | tuple[None, None]]:
    """Return a strategy for one side of a quote, which is sometimes empty."""
    return st.sampled_from([(price, size), (price, size), (price, size), (None, None)])


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Draw a plausible stream: times and ids never decrease, and a book starts with a snapshot."""
    ts, events = START, list[Event]()
    ids, books = dict.fromkeys(SYMBOLS, 0), dict.fromkeys(SYMBOLS, 0)
    for kind in draw(st.lists(_kind, min_size=1, max_size=60)):
        ts += draw(_pause)
        symbol = draw(_symbol)
        header = (VENUE, symbol, ts, ts + 1_000)
        price, size = draw(_price), draw(_size)
        if kind == "trade":
            ids[symbol] += draw(st.sampled_from([1, 1, 1, 1, 2]))
            side: Side = draw(st.sampled_from(_SIDES))
            events.append(Trade(*header, price, size, side, ids[symbol]))
        elif kind == "quote":
            bid, bid_size = draw(_side(price, size))
            ask, ask_size = draw(_side(price + 1, size))
            events.append(Quote(*header, bid, bid_size, ask, ask_size))
        elif kind == "ticker":
            events.append(Ticker(*header, price, price, price + 1, price - 1, size, size * price))
        elif kind == "bar":
            start = ts - ts % 60_000_000_000
            prices = (price, price + 1, price - 1, price)
            sums = (size, size * price, size / 2, size / 2 * price)
            events.append(
                Bar(
                    VENUE, symbol, start, ts + 1_000, "1m", *prices, *sums, 3,
                    channel="klines:1m", origin="live",
                )
            )  # fmt: skip
        elif kind == "gap":
            since = ts - 1_000_000
            events.append(Gap(*header, since, ts, "disconnect", None, "open", "trades"))
        else:
            first = books[symbol] + 1
            books[symbol] = first + draw(st.integers(0, 3))
            levels = [(str(price), str(size))], [(str(price + 1), str(size))]
            if kind == "snapshot" or first == 1:
                events.append(Book(*header, "snapshot", *levels, None, books[symbol]))
            else:
                events.append(Book(*header, "delta", *levels, first, books[symbol], first - 1))
    return events


def strange() -> list[Event]:
    """Return events of unknown symbols, channels and states, which a stage must pass through."""
    header, number = (VENUE, "XYZ/ABC", START, START), Decimal(1)
    return [
        Status(VENUE, "", START, START, "notice", "hello"),
        Status(VENUE, "XYZ/ABC", START, START, "x-contract", "unknown", "x-channel"),
        Reject(*header, "x-rule", "evidence", None, "x-channel"),
        Ticker(*header, number, number, number, number, number, number, None, "x-ticker"),
    ]


def spoiled(event: Event, value: Decimal, which: int) -> Event:
    """Return a copy of *event* with one number replaced by *value*; *which* selects the field."""
    if type(event) is Book:
        return changed(event, **{("raw_bids", "raw_asks")[which % 2]: [(value, value)]})
    names = [
        name
        for name in getattr(type(event), "__slots__", ())
        if isinstance(getattr(event, name, None), Decimal)
    ]
    return changed(event, **{names[which % len(names)]: value}) if names else event


def changed(event: Any, **changes: Any) -> Event:
    """Return a copy of *event* with *changes* applied."""
    other: Event = evolve(event, **changes)
    return other
