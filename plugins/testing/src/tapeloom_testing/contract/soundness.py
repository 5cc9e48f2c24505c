"""Checks of a run: no problem was reported, fields are filled, times and ids are right, limits were kept.

Each public function but `channel_events` raises ContractViolation with the first violation that it finds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapeloom.events import Bar, Book, Event, Gap, Quote, Reject, Status, Ticker, Trade
from tapeloom.plugin import channel_parts

from .declared import ContractViolation
from .recording import Run, bar_length

__all__ = ["TYPES", "channel_events", "clean", "filled", "identified", "kept", "times"]

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
#: Prefixes of the simulator's end reasons that are no penalty: the client closed, or the server stopped.
_PROPER_ENDS = ("1000", "1001 server shutdown", "client", "lost", "stopped")


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


def channel_events(run: Run, channels: Iterable[str]) -> Iterable[tuple[str, str, str, list[Any]]]:
    """Yield symbol, channel, channel name and market data events, per symbol and channel."""
    for channel in channels:
        for symbol in run.subject.symbols:
            yield symbol, channel, channel_parts(channel)[0], _market_data(run, symbol, channel)


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
    for symbol, channel, kind, events in channel_events(run, channels):
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
    for _, channel, kind, events in channel_events(run, channels):
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


def identified(run: Run, channels: Iterable[str], unidentified: Iterable[str]) -> None:
    """Check that what is not declared as `unidentified` has a number or a time of the venue."""
    declared = {*unidentified}
    for _, channel, _, events in channel_events(run, channels):
        if channel in declared or not events:
            continue
        if all(event.ts == event.recv and not _number_of(event) for event in events) or any(
            type(event) is Book and event.kind == "delta" and event.last_id is None
            for event in events
        ):
            raise ContractViolation(
                f"two processes cannot tell that they received the same event of {channel}, such as"
                f" {events[0]!r}: it has no number, and its `ts` is our time, or it is a change of a book."
                " Declare the channel in `Endpoint.unidentified`, or as an attribute of the source."
            )


def _number_of(event: Any) -> bool:
    """Return whether the venue has numbered an event."""
    number = getattr(event, "last_id", None) or getattr(event, "sequence", None)
    return bool(number or getattr(event, "id", ""))


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
