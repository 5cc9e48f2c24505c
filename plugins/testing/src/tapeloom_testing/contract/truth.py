"""Checks that compare the events delivered in a run with the data of the simulated market.

Each public function raises ContractViolation with the first difference that it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import groupby, pairwise
from typing import Any, TypeAlias

from tapeloom.events import Bar, Book, Event, Gap, Quote, Reject, Status, Ticker, Trade
from tapeloom.plugin import channel_parts

from .declared import ContractViolation
from .proving import first_difference
from .recording import Run, bar_length
from .reference_book import Rebuilt

__all__ = ["TYPES", "books", "clean", "delivered", "filled", "kept", "numbered", "sides", "times"]

#: The event type of each channel name.
TYPES: dict[str, type[Event]] = {
    "trades": Trade,
    "agg_trades": Trade,
    "quotes": Quote,
    "book": Book,
    "klines": Bar,
    "ticker": Ticker,
}
#: One day in ns.
_DAY = 86_400_000_000_000
#: The least number of deltas of a book of which one is left out, to see whether the ids show it.
_LOSSES = 9
#: Book levels per side that are compared at most; a venue may send fewer.
_LEVELS = 20
#: Prefixes of the simulator's end reasons that are no penalty: the client closed, or the server stopped.
_PROPER_ENDS = ("1000", "1001 server shutdown", "client", "lost", "stopped")

Fact: TypeAlias = tuple[Any, ...]


def _market_data(run: Run, symbol: str, channel: str) -> list[Any]:
    """Return the market data events of one channel, without gaps, rejects and statuses."""
    return [
        event
        for event in run.events
        if event.symbol == symbol
        and event.channel == channel
        and type(event)
        not in ((Gap, Reject) if channel.startswith("x-") else (Gap, Reject, Status))
    ]


def _channel_events(run: Run, channels: Iterable[str]) -> Iterable[tuple[str, str, str, list[Any]]]:
    """Yield symbol, channel, channel name and market data events, per symbol and channel."""
    for channel in channels:
        for symbol in run.subject.symbols:
            yield symbol, channel, channel_parts(channel)[0], _market_data(run, symbol, channel)


# ----------------------------------------------------------------------------------- the whole run


def clean(run: Run) -> None:
    """Raise ContractViolation if a run without faults has an error, reject, gap or error status."""
    if run.error is not None:
        raise ContractViolation(f"the feed ended with {run.error!r}.")
    if not run.ready:
        raise ContractViolation(
            "the venue did not acknowledge every subscription, or its simulated server does not"
            f" send all of them. Messages sent: {run.sent[:3]}. Problems reported:"
            f" {_problems(run)[:3]}"
        )
    if _problems(run):
        raise ContractViolation(
            "the simulated venue had no fault, and the feed reported problems:"
            f" {_problems(run)[:3]}"
        )


def _problems(run: Run) -> list[Event]:
    """Return the rejects, gaps and error statuses of a run."""
    bad = {"refused", "request_failed", "failed", "stale", "crossed", "login_refused"}
    return [
        event
        for at, event in enumerate(run.events)
        if type(event) is Reject
        # The simulation stops before the feed does, which causes a last disconnect: no problem.
        or (type(event) is Gap and (at < run.count_before_stop or event.cause != "disconnect"))
        or (type(event) is Status and event.state in bad)
        or (type(event) is Status and event.state == "reconnecting" and at < run.count_before_stop)
    ]


def filled(run: Run, channels: Iterable[str]) -> None:
    """Check that every channel delivered events of its type, with venue, recv and ts filled."""
    subject = run.subject
    # A plugin for several venues sets the venue's own name in its events.
    names = {subject.venue, f"{subject.venue}-{subject.market}"}
    for symbol, channel, kind, events in _channel_events(run, channels):
        if not events:
            raise ContractViolation(
                f"no event of {symbol} {channel} was delivered in {len(run.frames)} reads. Delivered"
                f" channels: {sorted({event.channel for event in run.events} - {''})}"
            )
        for event in events:
            if type(event) is not TYPES.get(kind, type(event)):
                raise ContractViolation(
                    f"expected {TYPES[kind].__name__} events of {channel}, got {event!r}"
                )
            if event.venue not in names or not event.recv or not event.ts:
                raise ContractViolation(f"venue, recv or ts is missing or wrong: {event!r}")
    known = {*subject.symbols, ""}
    unexpected = [event for event in run.events if event.symbol not in known]
    if unexpected:
        raise ContractViolation(f"the symbol was not subscribed to: {unexpected[0]!r}")
    asked = {*subject.channels, ""}
    unexpected = [
        event for event in run.events if event.channel not in asked and event.type != "book"
    ]
    if unexpected:
        raise ContractViolation(
            f"the channel {unexpected[0].channel!r} was not subscribed to: {unexpected[0]!r}"
        )


def times(run: Run, channels: Iterable[str]) -> None:
    """Check that `ts` is in the market's time and `recv` in local time, both in ns."""
    first, last = run.market.epoch - _DAY, run.market.now + 1_000_000_000
    for _, channel, kind, events in _channel_events(run, channels):
        length = bar_length(channel) if kind == "klines" else 0
        for event in events:
            on_market = first <= event.ts <= last
            # Where a venue sends no time, `ts` is the time of receipt.
            if type(event.ts) is not int or not (on_market or event.ts == event.recv):
                raise ContractViolation(
                    f"expected `ts` of {channel} in ns between {first} and {last}, got {event!r}"
                )
            if not run.began <= event.recv <= run.ended:
                raise ContractViolation(
                    f"expected `recv` in ns between {run.began} and {run.ended}, got {event!r}"
                )
            if length and event.ts % length and length <= _DAY:
                raise ContractViolation(
                    f"`ts` of a bar must be its start, a multiple of {length} ns: {event!r}"
                )


def kept(run: Run) -> None:
    """Check that the simulator, which enforces the venue's limits, penalised no connection or call."""
    for opened in run.truth.connections:
        if opened.ended and not opened.ended.startswith(_PROPER_ENDS):
            raise ContractViolation(
                f"the venue closed a connection that broke its limits: {opened!r}"
            )
    refused = [call for call in run.truth.rest_calls if call[1] in (403, 418, 429)]
    if refused:
        raise ContractViolation(f"the venue refused REST calls over its rate limit: {refused[:3]}")


# --------------------------------------------------------------------------------- single channels


def sides(run: Run, channels: Iterable[str], *, told: bool) -> None:
    """Check that `side` is the taker's. With *told* false the venue sends no side: it must be None."""
    for symbol, channel, kind, events in _channel_events(run, channels):
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
    for symbol, channel, kind, events in _channel_events(run, channels):
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
    for symbol, channel, kind, events in _channel_events(run, channels):
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
