"""`Table`: shows the table in a terminal, or prints plain lines elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping
from typing import IO

from tapeloom.events import Bar, Event

from .layout import Line, page
from .state import State, own_line, short, sides

#: Escape sequences of a terminal by the names of colours.
_COLOURS = {"green": "\x1b[32m", "red": "\x1b[31m", "dim": "\x1b[2m", "bold": "\x1b[1m"}
_STYLES = re.compile(r"\x1b\[[\d;]*m")
#: The names of log lines that a Status, which is a note too, repeats.
_IN_A_STATUS = re.compile(
    r"\] (feed_reconnecting|feed_failed|subscription_refused|subscription_stalled|venue_clock) "
)
#: Seconds between two prints of the prices where the output is no terminal.
_PRINT_SECONDS = 5.0
#: How many notes are kept.
_NOTES = 6


class Table:
    """Shows prices, bars, rates and gaps, with one row per symbol of each venue.

    In a terminal it takes the whole screen, as `top` does, and is drawn anew each time, at the size that
    the terminal has then. What else is written there is overdrawn; so log lines are shown by `log`.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        #: Whether the table redraws itself in a terminal; then nothing else may be written there.
        self.live = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colours = {} if os.environ.get("NO_COLOR") else _COLOURS
        self._state = State(self._note, self._closed)
        self._notes: list[str] = []
        self.progress = ""  #: how far a replay has come, for the first line
        self._began = self._refreshed = time.monotonic()
        self._printed = 0.0
        self._is_drawn = False

    def write(self, events: list[Event]) -> None:
        """Update the table with a batch of events."""
        self._state.write(events)

    def refresh(self, counters: Mapping[str, int]) -> None:
        """Redraw the table; where the output is not a terminal, print a line per symbol every 5 seconds."""
        now = time.monotonic()
        elapsed, self._refreshed = max(now - self._refreshed, 1e-9), now
        self._state.update_rates(elapsed)
        if self.live:
            self._draw(counters)
        elif now - self._printed >= _PRINT_SECONDS:
            self._printed = now
            for (venue, symbol), row in sorted(self._state.rows.items()):
                bid, ask = sides(row.quote)
                self._line(
                    f"{venue} {symbol} price {short(row.price)} bid {bid} ask {ask}"
                    f" trades {row.trades} ({row.rate:.0f}/s) gaps {len(row.gaps)} rejects {row.rejects}"
                )
            for _, event in sorted(self._state.own.items()):
                self._line(own_line(event))

    def close(self) -> None:
        """Show the cursor again and leave the table on the screen."""
        if self.live and self._is_drawn:
            self._out.write("\x1b[?25h")
            self._out.flush()

    def log(self, line: str) -> None:
        """Show a line of the log below the rows, unless a Status says the same."""
        text = " ".join(_STYLES.sub("", line).split())
        if not _IN_A_STATUS.search(text):
            self._note(text)

    def _note(self, note: str) -> None:
        if self.live:
            self._notes = [*self._notes[-_NOTES + 1 :], note]
        else:
            self._line(note)

    def _closed(self, bar: Bar) -> None:
        if not self.live:
            names = zip("OHLCV", (bar.open, bar.high, bar.low, bar.close, bar.volume), strict=True)
            values = " ".join(f"{name}{short(value)}" for name, value in names)
            partial = "" if bar.complete else " (partial)"
            self._line(
                f"{bar.venue} {bar.symbol} {bar.timestamp:%H:%M:%S} {bar.interval} {values}{partial}"
            )

    def _line(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()

    def _draw(self, counters: Mapping[str, int]) -> None:
        size = shutil.get_terminal_size((120, 40))
        rows = sorted(self._state.rows.items())
        for _, row in rows:
            if row.price is not None and row.price != row.drawn:
                row.moved = 0 if row.drawn is None else 1 if row.price > row.drawn else -1
                row.drawn = row.price
        venues = ", ".join(dict.fromkeys(venue for (venue, _), _ in rows))
        head = (
            f"tapeloom {venues}  {time.monotonic() - self._began:.0f} s  {counters.get('frames', 0)} frames"
            f"  {counters.get('bytes', 0) / 1e6:.1f} MB  reconnects {counters.get('reconnects', 0)}"
            f"  {self.progress}"
        )
        own = [own_line(event) for _, event in sorted(self._state.own.items())]
        lines = page(head, rows, own, self._notes, size.columns - 1, size.lines - 1)
        # The first time, what is on the screen moves up into the terminal's history.
        start = "\x1b[H" if self._is_drawn else "\n" * size.lines + "\x1b[?25l\x1b[H"
        self._is_drawn = True
        self._out.write(
            start + "".join(f"{self._styled(line)}\x1b[K\n" for line in lines) + "\x1b[J"
        )
        self._out.flush()

    def _styled(self, line: Line) -> str:
        return "".join(
            f"{self._colours[colour]}{text}\x1b[0m" if colour in self._colours else text
            for text, colour in line
        ).rstrip()
