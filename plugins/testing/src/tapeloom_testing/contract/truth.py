"""Checks that compare the events delivered in a run with the data of the simulated market.

Each public function raises ContractViolation with the first difference that it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import groupby, pairwise
from typing import Any, TypeAlias

from tapeloom.events import Bar, Book
from tapeloom.plugin import channel_parts

from .declared import ContractViolation
from .proving import first_difference
from .recording import Run, bar_length
from .reference_book import Rebuilt
from .soundness import channel_events

__all__ = ["books", "delivered", "numbered", "sides"]

#: The least number of deltas of a book of which one is left out, to see whether the ids show it.
_LOSSES = 9
#: Book levels per side that are compared at most; a venue may send fewer.
_LEVELS = 20

Fact: TypeAlias = tuple[Any, ...]


def sides(run: Run, channels: Iterable[str], *, told: bool) -> None:
    """Check that `side` is the taker's. With *told* false the venue sends no side: it must be None."""
    for symbol, channel, kind, events in channel_events(run, channels):
        if kind not in ("trades", "agg_trades"):
            continue
        live = [trade for trade in events if trade.origin == "live"]
        if not told:
            if guessed := [trade for trade in live if trade.side is not None]:
                raise ContractViolation(
                    f"this venue sends no side, so `side` must be None: {guessed[0]!r}"
                )
            continue
        got = [trade.side for trade in live]
        expected = [[fact[-1] for fact in facts] for facts in _trades(run, symbol)]
        if got not in expected:
            wrong = next(
                (
                    trade
                    for trade, side in zip(live, expected[0], strict=False)
                    if trade.side != side
                ),
                None,
            )
            raise ContractViolation(
                f"`side` of {channel} is not the taker's; first wrong trade: {wrong!r}"
            )


def delivered(run: Run, channels: Iterable[str], unit: int) -> None:
    """Check that the events of each channel equal the market's data; *unit* is that of `ts` in ns."""
    for symbol, channel, kind, events in channel_events(run, channels):
        check = _CHECKS.get(kind)
        if check is not None:
            check(run, symbol, channel, events, unit)


def _trades(run: Run, symbol: str) -> tuple[list[Fact], list[Fact]]:
    """Return single and aggregate trades of *symbol* as tuples of price, size, ts and side."""
    real = run.truth.trades(symbol)
    single = [(trade.price, trade.size, trade.ts, trade.side) for trade in real]
    groups = [list(group) for _, group in groupby(real, key=lambda trade: trade.aggregate_id)]
    aggregates = [
        (
            group[0].price,
            sum((trade.size for trade in group), Decimal(0)),
            group[0].ts,
            group[0].side,
        )
        for group in groups
    ]
    return single, aggregates


def _check_trades(run: Run, symbol: str, channel: str, events: Sequence[Any], unit: int) -> None:
    live = [trade for trade in events if trade.origin == "live"]
    got = [(trade.price, trade.size, trade.ts // unit) for trade in live]
    single, aggregates = (
        [(price, size, ts // unit) for price, size, ts, _ in facts]
        for facts in _trades(run, symbol)
    )
    ids = [trade.id for trade in live if trade.id != ""]
    if len(ids) != len(set(ids)):
        raise ContractViolation(f"{symbol} {channel}: two trades have the same id.")
    numbered(live)
    if got == aggregates or (got == single and channel == "trades"):
        return
    expected = aggregates if channel != "trades" else single
    raise ContractViolation(
        f"{symbol} {channel}: {_difference(expected, got)} (price, size, ts / {unit} ns)"
    )


def numbered(trades: Sequence[Any]) -> None:
    """Check that ids that are `int` have no holes in complete *trades*."""
    for before, trade in pairwise(trades):
        ids = before.id, trade.id
        if type(ids[0]) is int and type(ids[1]) is int and ids[1] != ids[0] + 1:
            raise ContractViolation(
                f"no trade is missing between the ids {ids[0]} and {ids[1]} of {trade.symbol}"
                f" {trade.channel}, but an id that is an `int` says so. Make ids of the type `str`"
                " where the venue does not number the trades of a symbol without holes."
            )


def _difference(expected: Sequence[Any], got: Sequence[Any]) -> str:
    """Describe the first difference of two lists."""
    at = first_difference(expected, got)
    return (
        f"the market has {len(expected)}, delivered were {len(got)}. At index {at} expected"
        f" {[*map(str, expected[at])] if at < len(expected) else 'the end'}, got"
        f" {[*map(str, got[at])] if at < len(got) else 'the end'}"
    )


def _check_quotes(run: Run, symbol: str, channel: str, events: Sequence[Any], unit: int) -> None:
    real = [run.first[symbol], *(tuple(best[2:]) for best in run.truth.quotes(symbol))]
    at = 0
    for event in events:
        quote = (event.bid, event.bid_size, event.ask, event.ask_size)
        try:
            at = real.index(quote, at)
        except ValueError:
            raise ContractViolation(
                f"{symbol} {channel}: the market had no such best bid and ask, or the quotes are out"
                f" of order: {event!r}"
            ) from None
    if events and quote != real[-1]:
        raise ContractViolation(
            f"{symbol} {channel}: expected the last quote {real[-1]}, got {quote}."
        )


def _check_bars(run: Run, symbol: str, channel: str, events: Sequence[Any], unit: int) -> None:
    instrument = run.market.instruments[symbol]
    interval = channel_parts(channel)[1]
    real = run.candles(symbol, interval)
    closed: dict[int, Bar] = {}
    for bar in events:
        if bar.interval != interval:
            raise ContractViolation(f"expected bars of {interval} of {channel}, got {bar!r}")
        if bar.closed and bar.ts in closed and not bar.revision:
            raise ContractViolation(f"a bar was closed twice without a revision number: {bar!r}")
        if bar.closed:
            closed[bar.ts] = bar
    for bar in events:
        _check_forming(instrument, bar)
    for start, bar in closed.items():
        candle = real.get(start)
        if candle is None:
            raise ContractViolation(
                f"{symbol} {channel}: this bar is closed, but its interval has not ended: {bar!r}"
            )
        ticks = (candle.open, candle.high, candle.low, candle.close)
        expected = (*(price * instrument.tick for price in ticks), candle.volume * instrument.lot)
        if (bar.open, bar.high, bar.low, bar.close, bar.volume) != expected:
            raise ContractViolation(
                f"{symbol} {channel}: expected {[*map(str, expected)]}, got {bar!r}"
            )
    # The bar of the last trade may stay open: some venues close a bar at the next bar's first trade.
    last = (
        instrument.last_trade.ts - instrument.last_trade.ts % bar_length(channel)
        if bar_length(channel) and instrument.last_trade
        else 0
    )
    due = [start for start, candle in real.items() if candle.trades and start < last]
    if lost := [start for start in due if start not in closed]:
        raise ContractViolation(
            f"{symbol} {channel}: no closed bar was delivered for the starts {lost}"
        )


def _check_forming(instrument: Any, bar: Bar) -> None:
    """Check that a bar, closed or not, lies within the market's bar of the same start."""
    candle = instrument.bar(bar.interval, bar.ts)
    if candle is None or candle.start != bar.ts:
        return  # the venue's days may start at another hour
    first = candle.open * instrument.tick
    within = candle.low * instrument.tick <= bar.low <= bar.high <= candle.high * instrument.tick
    if bar.open != first or not within or bar.volume > candle.volume * instrument.lot:
        raise ContractViolation(
            f"expected a part of the market's bar {candle!r} (in ticks and lots), got {bar!r}"
        )


def _check_ticker(run: Run, symbol: str, channel: str, events: Sequence[Any], unit: int) -> None:
    instrument = run.market.instruments[symbol]
    day = instrument.last_24h(run.market.now)
    if day is None or not events:
        return
    expected = (day.close * instrument.tick, day.high * instrument.tick, day.low * instrument.tick)
    last = events[-1]
    # A field that the venue does not send is None.
    pairs = zip((last.last, last.high, last.low), expected, strict=True)
    if any(number != real for number, real in pairs if number is not None):
        raise ContractViolation(
            f"{symbol} {channel}: expected last, high and low {expected}, got {last!r}"
        )


_Check: TypeAlias = Callable[[Run, str, str, Sequence[Any], int], None]
_CHECKS: dict[str, _Check] = {
    "trades": _check_trades,
    "agg_trades": _check_trades,
    "quotes": _check_quotes,
    "klines": _check_bars,
    "ticker": _check_ticker,
}


def books(run: Run, channels: Iterable[str]) -> None:
    """Check that the events of each book channel add up to the venue's final book."""
    for symbol, channel, kind, events in channel_events(run, channels):
        if kind != "book":
            continue
        rebuilt = _rebuilt(events)
        if not rebuilt.whole:
            raise ContractViolation(
                f"{symbol} {channel}: no snapshot was delivered, from REST or from the stream."
            )
        parameter = channel_parts(channel)[1]
        depth = min(int(parameter) if parameter.isdigit() else _LEVELS, _LEVELS)
        real = [list(side.items())[:depth] for side in run.books[symbol]]
        for name, got, expected in zip(("bids", "asks"), rebuilt.top(depth), real, strict=True):
            if got != expected:
                raise ContractViolation(f"{symbol} {channel}, {name}: {_difference(expected, got)}")
        if run.lines:  # a Source has no messages of the venue that could be lost before it
            _notices_losses(symbol, channel, events)


def _rebuilt(events: Iterable[Any]) -> Rebuilt:
    rebuilt = Rebuilt()
    for event in events:
        if type(event) is Book:
            rebuilt.take(event)
    return rebuilt


def _notices_losses(symbol: str, channel: str, events: Sequence[Any]) -> None:
    """Check that a lost delta shows in the ids of the next one, if deltas have ids."""
    deltas = [
        at
        for at, event in enumerate(events)
        if type(event) is Book and event.kind == "delta" and event.last_id is not None
    ]
    if len(deltas) < _LOSSES:
        return
    lost = deltas[len(deltas) // 2]
    try:
        _rebuilt([*events[:lost], *events[lost + 1 :]])
    except ContractViolation:
        return
    raise ContractViolation(
        f"{symbol} {channel}: if {events[lost]!r} were lost, no id would show it. Set `previous_id` to"
        " the venue's own, or `first_id` if the ids of its updates are consecutive."
    )
