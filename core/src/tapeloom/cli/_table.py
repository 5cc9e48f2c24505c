"""`Table`: shows prices, bars and rates as a live table in a terminal, or as plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import IO

from attrs import Factory, define

from tapeloom.events import Bar, Event, Gap, Quote, Reject, Status, Trade
from tapeloom.events.json_lines import plain

#: The column titles.
_HEAD = (
    f"{'VENUE':<10} {'SYMBOL':<16} {'PRICE':>14} {'BID':>14} {'ASK':>14} {'TRADES':>9} {'/s':>7}"
    f" {'GAPS':>5} {'REJECTS':>7}  LAST BAR"
)
#: Escape sequences of a terminal: green, red, dim, bold, and back to normal.
_RISEN, _FALLEN, _DIM, _BOLD, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[1m", "\x1b[0m"


@define
class _Row:
    price: Decimal | None = None
    before: Decimal | None = None
    quote: Quote | None = None
    trades: int = 0
    trades_before: int = 0
    rate: float = 0.0
    bar: Bar | None = None
    gaps: set[int] = Factory(set)  # hashes of their identities: each is reported several times
    rejects: int = 0


def _short(value: Decimal | None) -> str:
    """Return *value* without trailing zeros, which venues add."""
    if value is None:
        return ""
    text = plain(value)
    return text.rstrip("0").rstrip(".") if "." in text and "E" not in text else text


def _sides(quote: Quote | None) -> tuple[str, str]:
    """Return bid and ask of the last quote: "none" for an empty side, "" before the first quote."""
    if quote is None:
        return "", ""
    return _short(quote.bid) or "none", _short(quote.ask) or "none"


def _bar(bar: Bar | None) -> str:
    if bar is None:
        return ""
    values = " ".join(
        f"{name}{_short(value)}"
        for name, value in zip(
            "OHLCV", (bar.open, bar.high, bar.low, bar.close, bar.volume), strict=True
        )
    )
    partial = "" if bar.complete else " (partial)"
    return f"{bar.timestamp:%H:%M:%S} {bar.interval} {values}{partial}"


class Table:
    """Shows prices, bars, rates and gaps, with one row per symbol of each venue."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        #: Whether the table redraws itself in a terminal; then nothing else may be written there.
        self.live = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._rows: dict[tuple[str, str], _Row] = {}
        self._notes: list[str] = []
        self._drawn = 0
        self._began = self._refreshed = time.monotonic()
        self._printed = 0.0

    def write(self, events: list[Event]) -> None:
        """Update the rows with a batch of events."""
        for event in events:
            key = event.venue, event.symbol
            if not event.symbol:
                self._note(event)
                continue
            row = self._rows.get(key)
            if row is None:
                row = self._rows[key] = _Row()
            kind = type(event)
            if kind is Trade:
                row.price = event.price  # type: ignore[union-attr]
                row.trades += 1
            elif kind is Quote:
                row.quote = event  # type: ignore[assignment]
            elif isinstance(event, Bar):
                row.bar = event
                if not self.live and event.closed:
                    self._line(f"{event.venue} {event.symbol} {_bar(event)}")
            elif isinstance(event, Gap):
                row.gaps.add(hash((event.channel, event.since, event.after_id)))
                self._note(event)
            elif isinstance(event, Reject):
                row.rejects += 1
            elif isinstance(event, Status):
                self._note(event)

    def refresh(self, counters: Mapping[str, int]) -> None:
        """Redraw the table; where the output is not a terminal, print a line per symbol every 5 seconds."""
        now = time.monotonic()
        elapsed, self._refreshed = max(now - self._refreshed, 1e-9), now
        for row in self._rows.values():
            rate = (row.trades - row.trades_before) / elapsed
            row.rate += (rate - row.rate) * min(1.0, elapsed / 2)
            row.trades_before = row.trades
        if self.live:
            self._draw(counters)
        elif now - self._printed >= 5:
            self._printed = now
            for (venue, symbol), row in sorted(self._rows.items()):
                bid, ask = _sides(row.quote)
                self._line(
                    f"{venue} {symbol} price {_short(row.price)} bid {bid} ask {ask}"
                    f" trades {row.trades} ({row.rate:.0f}/s) gaps {len(row.gaps)} rejects {row.rejects}"
                )

    def close(self) -> None:
        """Show the cursor again and leave the table on the screen."""
        if self.live:
            self._out.write("\x1b[?25h")
            self._out.flush()

    def _note(self, event: Event) -> None:
        if isinstance(event, Gap):
            text = f"gap: {event.channel} {event.cause}, missing {event.missing if event.missing is not None else '?'}"
        elif isinstance(event, Reject):
            text = f"rejected: {event.rule}: {event.evidence[:60]}"
        elif isinstance(event, Status):
            text = f"{event.state} {event.detail}".rstrip()
        else:
            return
        note = f"{event.received:%H:%M:%S} {event.venue} {event.symbol} {text}".replace("  ", " ")
        if self.live:
            self._notes = [*self._notes[-4:], note]
        else:
            self._line(note)

    def _line(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()

    def _draw(self, counters: Mapping[str, int]) -> None:
        size = shutil.get_terminal_size((120, 40))
        max_rows = max(1, size.lines - len(self._notes) - 5)
        rows = [self._row(key, row) for key, row in sorted(self._rows.items())]
        hidden = len(rows) - max_rows
        if hidden > 0:
            rows = [*rows[: max_rows - 1], f"… and {hidden + 1} more"]
        seconds = time.monotonic() - self._began
        frames, size_mb = counters.get("frames", 0), counters.get("bytes", 0) / 1e6
        head = f"{_BOLD}tapeloom{_PLAIN}  {seconds:5.0f} s  {frames} frames  {size_mb:.1f} MB"
        lines = [
            f"{head}  reconnects {counters.get('reconnects', 0)}",
            f"{_DIM}{_HEAD[: size.columns - 1]}{_PLAIN}",
            *rows,
            "",
            *(f"{_DIM}{note[: size.columns - 1]}{_PLAIN}" for note in self._notes),
        ]
        up = f"\x1b[{self._drawn}A" if self._drawn else "\x1b[?25l"
        self._out.write(up + "".join(f"\r{line}\x1b[K\n" for line in lines) + "\x1b[J")
        self._out.flush()
        self._drawn = len(lines)

    def _row(self, key: tuple[str, str], row: _Row) -> str:
        columns = shutil.get_terminal_size((120, 40)).columns - 1
        price = f"{_short(row.price):>14}"
        bid, ask = _sides(row.quote)
        text = (
            f"{key[0]:<10} {key[1]:<16} {price} {bid:>14} {ask:>14}"
            f" {row.trades:>9} {row.rate:>7.0f} {len(row.gaps):>5} {row.rejects:>7}  {_bar(row.bar)}"
        )[:columns]
        colour = ""
        if row.price is not None and row.before is not None and row.price != row.before:
            colour = _RISEN if row.price > row.before else _FALLEN
        row.before = row.price
        return text.replace(price, f"{colour}{price}{_PLAIN}", 1) if colour else text
