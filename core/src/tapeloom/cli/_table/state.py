"""`State`: what the table shows of each symbol, kept up to date from batches of events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any, get_args

from attrs import Factory, asdict, define

from tapeloom.errors import printable
from tapeloom.events import Bar, Event, Gap, Quote, Reject, Status, Trade
from tapeloom.events.json_lines import plain

#: The classes of core, for all of which there are columns or notes, or nothing is shown.
_CORE = frozenset(get_args(Event))
#: The fields of a plugin's own event that are not shown again beside its venue, symbol and type.
_HIDDEN = frozenset({"venue", "symbol", "ts", "recv", "channel", "origin"})
#: The origins of events whose time of receipt follows the venue's time at once.
_LIVE = frozenset({"live", "built_from_book"})
#: How many bars of each interval are kept: those in the small chart.
BARS = 12


@define
class Row:
    """What is shown of one symbol."""

    drawn: Decimal | None = None  #: the price that was drawn last
    moved: int = 0  #: 1 if the price has risen since the drawing before, -1 if it has fallen
    quote: Quote | None = None
    trades: int = 0
    trades_before: int = 0
    rate: float = 0.0  #: trades a second, smoothed
    latest: Trade | None = None  #: the latest trade
    #: The latest bars by interval; that of which there are most is shown.
    bars: dict[str, deque[Bar]] = Factory(dict)
    gaps: set[int] = Factory(set)  #: hashes of their identities: each is reported several times
    rejects: int = 0

    @property
    def price(self) -> Decimal | None:
        """The price of the latest trade; None before the first."""
        return None if self.latest is None else self.latest.price

    def lag(self) -> int | None:
        """Return the ns from the venue's time to our receipt of the latest live trade or quote, or None."""
        live = [event for event in (self.latest, self.quote) if event and event.origin in _LIVE]
        newest = max(live, key=lambda event: event.recv, default=None)
        return None if newest is None else newest.recv - newest.ts

    def shown_bars(self) -> deque[Bar]:
        """Return the bars of the shortest interval, the one of which there are most."""
        return max(self.bars.values(), key=len, default=deque())

    def add_bar(self, bar: Bar) -> None:
        """Add a bar, in the place of an earlier state of it."""
        bars = self.bars.setdefault(bar.interval, deque(maxlen=BARS))
        for index, other in enumerate(bars):
            if other.ts == bar.ts:
                bars[index] = bar
                return
        bars.append(bar)


@define
class State:
    """The rows by venue and symbol, and the latest of each type of a plugin's own events.

    *note* is called with a line for people about each gap, reject without a symbol and status, and *closed*
    with each closed bar.
    """

    note: Callable[[str], None]
    closed: Callable[[Bar], None]
    rows: dict[tuple[str, str], Row] = Factory(dict)
    own: dict[tuple[str, str, str, str], Event] = Factory(dict)

    def write(self, events: list[Event]) -> None:
        """Update the rows with a batch of events."""
        for event in events:
            key = event.venue, event.symbol
            kind = type(event)
            if kind not in _CORE:
                self.own[*key, event.type, event.channel] = event
                continue
            if not event.symbol:
                self._note(event)
                continue
            row = self.rows.get(key)
            if row is None:
                row = self.rows[key] = Row()
            if kind is Trade:
                row.trades += 1
                row.latest = event  # type: ignore[assignment]
            elif kind is Quote:
                row.quote = event  # type: ignore[assignment]
            elif isinstance(event, Bar):
                row.add_bar(event)
                if event.closed:
                    self.closed(event)
            elif isinstance(event, Gap):
                row.gaps.add(hash((event.channel, event.since, event.after_id)))
                self._note(event)
            elif isinstance(event, Reject):
                row.rejects += 1
            elif isinstance(event, Status):
                self._note(event)

    def update_rates(self, elapsed: float) -> None:
        """Update the trades a second after *elapsed* seconds."""
        for row in self.rows.values():
            rate = (row.trades - row.trades_before) / elapsed
            row.rate += (rate - row.rate) * min(1.0, elapsed / 2)
            row.trades_before = row.trades

    def _note(self, event: Event) -> None:
        if isinstance(event, Gap):
            missing = "?" if event.missing is None else event.missing
            text = f"gap: {event.channel} {event.cause}, missing {missing}"
        elif isinstance(event, Reject):
            text = f"rejected: {event.rule}: {event.evidence[:60]}"
        elif isinstance(event, Status):
            text = f"{event.state} {event.detail}".rstrip()
        else:
            return
        note = f"{event.received:%H:%M:%S} {event.venue} {event.symbol} {text}"
        self.note(note.replace("  ", " "))


def short(value: Decimal | None) -> str:
    """Return *value* without trailing zeros, which venues add."""
    if value is None:
        return ""
    text = plain(value)
    return text.rstrip("0").rstrip(".") if "." in text and "E" not in text else text


def sides(quote: Quote | None) -> tuple[str, str]:
    """Return bid and ask of the last quote: "none" for an empty side, "" before the first quote."""
    if quote is None:
        return "", ""
    return short(quote.bid) or "none", short(quote.ask) or "none"


def own_line(event: Any) -> str:
    """Return a plugin's own event on one line: venue, symbol, type, and its other fields."""
    fields = asdict(event, recurse=False, filter=lambda field, _: field.name not in _HIDDEN)
    values = " ".join(f"{name} {_value(value)}" for name, value in fields.items())
    return printable(f"{event.venue} {event.symbol} {event.type} {values}".replace("  ", " "))


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return short(value) if isinstance(value, Decimal) else str(value)
