"""`picture`: all that one drawing of the screen needs of a `Market`, in one answer.

A `Query` goes to the process that streams, and a `Picture` comes back: one round trip for each drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from attrs import frozen
from tapeloom import Reject, Status, Trade
from tapeloom_screens import Candle, GapEntry, Health, LadderView, Market, Order, SymbolRow

__all__ = ["Key", "Picture", "Query", "picture"]

#: Venue and symbol.
Key: TypeAlias = tuple[str, str]

#: Rows of a page that are read; the filter finds the others.
_ROWS = 500
#: Rows of an export: all.
_ALL = 10**9


@frozen
class Query:
    """What is to be drawn."""

    page: str  #: A page of the screen, or "export" for all symbols and gaps that match.
    match: str = ""
    order: Order = "name"
    symbol: Key | None = None  #: None: the first one.
    step: int = 0  #: So many symbols after that one.
    interval: str = "1s"
    candles: int = 500
    trades: int = 100


@frozen
class Picture:
    """What a `Query` asked for, at one moment; the other pages' parts are empty."""

    now: int  #: Our time in ns; in a replay, that of the recording.
    gap_count: int
    has_ended: bool = False  #: No more events come.
    error: str = ""  #: The error that ended the stream; empty without one.
    health: Health | None = None  #: None if it is that of the picture before.
    rows: Sequence[SymbolRow] = ()
    gaps: Sequence[GapEntry] = ()
    events: Sequence[
        Status | Reject
    ] = ()  #: The last changes of state and rejects, the newest first.
    symbol: Key | None = None  #: The symbol that the rest is of; None before the first event.
    candles: Sequence[Candle] = ()
    ladder: LadderView | None = None
    tape: Sequence[Trade] = ()


def picture(
    market: Market, query: Query, health: Health | None, *, has_ended: bool = False, error: str = ""
) -> Picture:
    """Return what *query* asks for, with that *health*."""
    parts = _parts(market, query)
    return Picture(market.now, market.gap_count, has_ended, error, health, **parts)


def _parts(market: Market, query: Query) -> dict[str, Any]:
    match query.page:
        case "symbols":
            return {"rows": market.rows(query.match, order=query.order, count=_ROWS)}
        case "symbol":
            return _symbol(market, query)
        case "gaps":
            return {"gaps": market.gaps(query.match, count=_ROWS)}
        case "log":
            events = [*market.statuses(), *market.rejects()]
            return {"events": sorted(events, key=lambda event: event.recv, reverse=True)}
        case "export":
            rows, gaps = market.rows(query.match, count=_ALL), market.gaps(query.match, count=_ALL)
            return {"rows": rows, "gaps": gaps}
    return {}


def _symbol(market: Market, query: Query) -> dict[str, Any]:
    symbol = query.symbol
    if symbol is None or query.step:
        symbols = market.symbols()
        if symbol is None:
            symbol = symbols[0] if symbols else None
        elif symbol in symbols:
            symbol = symbols[(symbols.index(symbol) + query.step) % len(symbols)]
    if symbol is None:
        return {}
    return {
        "symbol": symbol,
        "candles": market.candles(*symbol, query.interval, query.candles),
        "ladder": market.ladder(*symbol),
        "tape": market.tape(*symbol, query.trades),
    }
