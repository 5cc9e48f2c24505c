"""What was delivered in a run, held against what really happened in the market."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import groupby
from typing import Any, TypeAlias

from tapeloom.events import Bar, Book, Event, Gap, Quote, Reject, Status, Ticker, Trade
from tapeloom.plugin import channel_parts
from tapeloom.units import duration_ns

from .declared import ContractViolation
from .recording import Run
from .reference_book import Rebuilt

__all__ = ["TYPES", "books", "clean", "delivered", "filled", "kept", "sides", "times"]

#: The type of a channel's events, by its word.
TYPES: dict[str, type[Event]] = {
    "trades": Trade,
    "agg_trades": Trade,
    "quotes": Quote,
    "book": Book,
    "klines": Bar,
    "ticker": Ticker,
}
_DAY = 86_400_000_000_000
_LEVELS = 20
#: How a connection may end that broke no rule: it has not, the simulation was stopped, or we left.
_PROPER_ENDS = ("1000", "1001 server shutdown", "client", "lost", "stopped")

Fact: TypeAlias = tuple[Any, ...]


def _of(run: Run, symbol: str, channel: str) -> list[Any]:
    """Return the market data of one channel, without what is told about it."""
    return [
        event
        for event in run.events
        if event.symbol == symbol
        and event.channel == channel
        and type(event)
        not in ((Gap, Reject) if channel.startswith("x-") else (Gap, Reject, Status))
    ]


def _each(run: Run, channels: Iterable[str]) -> Iterable[tuple[str, str, str, list[Any]]]:
    """Yield symbol, channel, its word, and what came of it."""
    for channel in channels:
        for symbol in run.subject.symbols:
            yield symbol, channel, channel_parts(channel)[0], _of(run, symbol, channel)


# -------------------------------------------------------------------------------------- the whole


def clean(run: Run) -> None:
    """Hold that nothing went wrong in a run in which nothing was done to the venue."""
    if run.error is not None:
        raise ContractViolation(f"the feed ended with {run.error!r}.")
    if not run.ready:
        raise ContractViolation(
            "the venue did not agree to every subscription, or its side does not follow them all."
            f" Sent: {run.sent[:3]}. Told: {_told(run)[:3]}"
        )
    if _told(run):
        raise ContractViolation(
            f"nothing was wrong with the venue, and this was told: {_told(run)[:3]}"
        )


def _told(run: Run) -> list[Event]:
    bad = {"refused", "request_failed", "failed", "stale", "crossed", "login_refused"}
    return [
        one
        for at, one in enumerate(run.events)
        if type(one) is Reject
        # The venue ends before we do, and of that hole something is told, too.
        or (type(one) is Gap and (at < run.calm or one.cause != "disconnect"))
        or (type(one) is Status and one.state in bad)
        or (type(one) is Status and one.state == "reconnecting" and at < run.calm)
    ]


def filled(run: Run, channels: Iterable[str]) -> None:
    """Hold that every channel gave events of its type, with every field filled."""
    subject = run.subject
    # A plugin for many venues says with each event which it is.
    names = {subject.venue, f"{subject.venue}-{subject.market}"}
    for symbol, channel, word, events in _each(run, channels):
        if not events:
            raise ContractViolation(
                f"nothing came of {symbol} {channel} in {len(run.frames)} reads."
                f" Channels that came: {sorted({one.channel for one in run.events} - {''})}"
            )
        for event in events:
            if type(event) is not TYPES.get(word, type(event)):
                raise ContractViolation(
                    f"{channel} gives {TYPES[word].__name__}, and this came: {event!r}"
                )
            if event.venue not in names or not event.recv or not event.ts:
                raise ContractViolation(f"venue, recv or ts is not filled, or not right: {event!r}")
    known = {*subject.symbols, ""}
    strange = [one for one in run.events if one.symbol not in known]
    if strange:
        raise ContractViolation(f"nobody asked for this symbol: {strange[0]!r}")
    asked = {*subject.channels, ""}
    strange = [one for one in run.events if one.channel not in asked and one.type != "book"]
    if strange:
        raise ContractViolation(
            f"nobody asked for the channel {strange[0].channel!r}: {strange[0]!r}"
        )


def times(run: Run, channels: Iterable[str]) -> None:
    """Hold that `ts` is in the market's time, `recv` in ours, both in ns."""
    first, last = run.market.epoch - _DAY, run.market.now + 1_000_000_000
    for _, channel, word, events in _each(run, channels):
        length = _length(channel) if word == "klines" else 0
        for event in events:
            on_market = first <= event.ts <= last
            # A venue that sends no time leaves us our own.
            if type(event.ts) is not int or not (on_market or event.ts == event.recv):
                raise ContractViolation(
                    f"`ts` of {channel} should be ns between {first} and {last}: {event!r}"
                )
            if not run.began <= event.recv <= run.ended:
                raise ContractViolation(
                    f"`recv` should be our clock's ns, {run.began} to {run.ended}: {event!r}"
                )
            if length and event.ts % length and length <= _DAY:
                raise ContractViolation(
                    f"`ts` of a bar is its start, a multiple of {length}: {event!r}"
                )


def kept(run: Run) -> None:
    """Hold that the simulator, which enforces the venue's limits, had no cause to."""
    for opened in run.truth.connections:
        if opened.ended and not opened.ended.startswith(_PROPER_ENDS):
            raise ContractViolation(
                f"the venue ended a connection for breaking its rules: {opened!r}"
            )
    refused = [call for call in run.truth.rest_calls if call[1] in (403, 418, 429)]
    if refused:
        raise ContractViolation(f"the venue refused calls for there being too many: {refused[:3]}")


# ------------------------------------------------------------------------------------ each channel


def sides(run: Run, channels: Iterable[str], *, told: bool) -> None:
    """Hold that `side` is the taker's; where the venue does not tell it, that there is none."""
    for symbol, channel, word, events in _each(run, channels):
        if word not in ("trades", "agg_trades"):
            continue
        live = [trade for trade in events if trade.origin == "live"]
        if not told:
            if guessed := [trade for trade in live if trade.side is not None]:
                raise ContractViolation(
                    f"this venue tells no side, and one was guessed: {guessed[0]!r}"
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
                f"`side` of {channel} is not the taker's, first here: {wrong!r}"
            )


def delivered(run: Run, channels: Iterable[str], unit: int) -> None:
    """Hold that each channel tells what happened in the market."""
    for symbol, channel, word, events in _each(run, channels):
        check = _CHECKS.get(word)
        if check is not None:
            check(run, symbol, channel, events, unit)


def _trades(run: Run, symbol: str) -> tuple[list[Fact], list[Fact]]:
    """Return the trades of *symbol*, one by one and as aggregates: price, size, ts and side."""
    real = run.truth.trades(symbol)
    single = [(one.price, one.size, one.ts, one.side) for one in real]
    joined = [
        (some[0].price, sum((one.size for one in some), Decimal(0)), some[0].ts, some[0].side)
        for some in (list(group) for _, group in groupby(real, key=lambda one: one.aggregate_id))
    ]
    return single, joined


def _check_trades(run: Run, symbol: str, channel: str, events: Sequence[Any], unit: int) -> None:
    got = [(one.price, one.size, one.ts // unit) for one in events if one.origin == "live"]
    single, joined = ([(p, s, ts // unit) for p, s, ts, _ in each] for each in _trades(run, symbol))
    ids = [one.id for one in events if one.origin == "live" and one.id != ""]
    if len(ids) != len(set(ids)):
        raise ContractViolation(f"{symbol} {channel}: two trades have one id.")
    if got == joined or (got == single and channel == "trades"):
        return
    expected = joined if channel != "trades" else single
    raise ContractViolation(
        f"{symbol} {channel}: {_difference(expected, got)} (price, size, ts / {unit} ns)"
    )


def _difference(expected: Sequence[Any], got: Sequence[Any]) -> str:
    """Say where two lists part."""
    at = next(
        (at for at, pair in enumerate(zip(expected, got, strict=False)) if pair[0] != pair[1]),
        min(len(expected), len(got)),
    )
    return (
        f"the market made {len(expected)}, {len(got)} came. At {at} expected"
        f" {[*map(str, expected[at])] if at < len(expected) else 'no more'}, came"
        f" {[*map(str, got[at])] if at < len(got) else 'no more'}"
    )


def _check_quotes(run: Run, symbol: str, channel: str, events: Sequence[Any], unit: int) -> None:
    real = [run.first[symbol], *(tuple(one[2:]) for one in run.truth.quotes(symbol))]
    at = 0
    for event in events:
        quote = (event.bid, event.bid_size, event.ask, event.ask_size)
        try:
            at = real.index(quote, at)
        except ValueError:
            raise ContractViolation(
                f"{symbol} {channel}: the market had no such best bid and ask, or had it before"
                f" another one that came: {event!r}"
            ) from None
    if events and quote != real[-1]:
        raise ContractViolation(
            f"{symbol} {channel}: the last is {quote}, the market's last {real[-1]}."
        )


def _length(channel: str) -> int:
    try:
        return duration_ns(channel_parts(channel)[1])
    except ValueError:  # a month is no fixed time
        return 0


def _check_bars(run: Run, symbol: str, channel: str, events: Sequence[Any], unit: int) -> None:
    pit = run.market.instruments[symbol]
    interval = channel_parts(channel)[1]
    real = run.candles(symbol, interval)
    closed: dict[int, Bar] = {}
    for bar in events:
        if bar.interval != interval:
            raise ContractViolation(f"{channel} gives bars of {interval}, and this came: {bar!r}")
        if bar.closed and bar.ts in closed and not bar.revision:
            raise ContractViolation(f"a bar was closed twice, and this is no revision: {bar!r}")
        if bar.closed:
            closed[bar.ts] = bar
    for bar in events:
        _check_forming(pit, bar)
    for start, bar in closed.items():
        candle = real.get(start)
        if candle is None:
            raise ContractViolation(
                f"{symbol} {channel}: a bar is closed that has not ended: {bar!r}"
            )
        ticks = (candle.open, candle.high, candle.low, candle.close)
        expected = (*(price * pit.tick for price in ticks), candle.volume * pit.lot)
        if (bar.open, bar.high, bar.low, bar.close, bar.volume) != expected:
            raise ContractViolation(
                f"{symbol} {channel}: expected {[*map(str, expected)]}, came {bar!r}"
            )
    # The bar of the last trade may close or not: some venues end a bar with the next one's first.
    last = (
        pit.last_trade.ts - pit.last_trade.ts % _length(channel)
        if _length(channel) and pit.last_trade
        else 0
    )
    due = [start for start, one in real.items() if one.trades and start < last]
    if lost := [start for start in due if start not in closed]:
        raise ContractViolation(f"{symbol} {channel}: bars that ended were not closed: {lost}")


def _check_forming(pit: Any, bar: Bar) -> None:
    """Hold that a bar, closed or not, is a part of the market's."""
    candle = pit.bar(bar.interval, bar.ts)
    if candle is None or candle.start != bar.ts:
        return  # a day may begin elsewhere
    first = candle.open * pit.tick
    within = candle.low * pit.tick <= bar.low <= bar.high <= candle.high * pit.tick
    if bar.open != first or not within or bar.volume > candle.volume * pit.lot:
        raise ContractViolation(
            f"the market's bar is {candle!r}, in ticks and lots, and this came: {bar!r}"
        )


def _check_ticker(run: Run, symbol: str, channel: str, events: Sequence[Any], unit: int) -> None:
    pit = run.market.instruments[symbol]
    day = pit.last_24h(run.market.now)
    if day is None or not events:
        return
    expected = (day.close * pit.tick, day.high * pit.tick, day.low * pit.tick)
    last = events[-1]
    # What the venue does not tell is None.
    told = zip((last.last, last.high, last.low), expected, strict=True)
    if any(number != real for number, real in told if number is not None):
        raise ContractViolation(
            f"{symbol} {channel}: expected last, high and low {expected}, came {last!r}"
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
    """Hold that the events of each book give the venue's book."""
    for symbol, channel, word, events in _each(run, channels):
        if word != "book":
            continue
        kept = Rebuilt()
        for event in events:
            if type(event) is Book:
                kept.take(event)
        if not kept.whole:
            raise ContractViolation(
                f"{symbol} {channel}: no snapshot came, over REST or in the stream."
            )
        parameter = channel_parts(channel)[1]
        depth = min(int(parameter) if parameter.isdigit() else _LEVELS, _LEVELS)
        real = [list(side.items())[:depth] for side in run.books[symbol]]
        for name, mine, theirs in zip(("bids", "asks"), kept.top(depth), real, strict=True):
            if mine != theirs:
                raise ContractViolation(f"{symbol} {channel}, {name}: {_difference(theirs, mine)}")
