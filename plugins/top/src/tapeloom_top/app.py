"""`TopApp`: the screen. It reads a `Market` a few times a second, and nothing waits for it."""

from __future__ import annotations

import asyncio  # noqa: TID251 - textual runs on asyncio; the stream has a thread and a loop of its own
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Protocol

from attrs import define
from rich.text import Text
from tapeloom.units import duration_ns
from tapeloom_screens import Health, Market, Order
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import ContentSwitcher, Footer, Input, Static

from . import pages
from .chart import BAR_LEGEND, GAP_LEGEND, chart
from .exporting import export
from .formats import clock, count
from .listing import Listing

__all__ = ["Source", "TopApp"]

#: Seconds between two pictures, and between two states of the stream.
_DRAW_SECONDS, _STATE_SECONDS = 0.25, 1.0
_PAGES = ("symbols", "symbol", "gaps", "connections", "pipeline", "log")
#: Seconds from a signal to the end of the process: the stream has 5 to deliver what was read to its sinks.
_END_SECONDS = 8.0
#: The exit code of a process that was ended before that.
_INTERRUPTED = 130
#: The pages that are tables, and what stands there before the first row.
_LISTINGS = {
    "symbols": "waiting for the first event …", "gaps": "no gaps", "connections": "no feed",
    "pipeline": "no stage and no queue", "log": "nothing has happened",
}  # fmt: skip
_INTERVALS = ("1s", "5s", "15s", "1m", "5m", "15m", "1h", "4h", "1d")
_ORDERS: tuple[Order, ...] = ("name", "rate", "gaps", "rejects", "age")
#: Rows of a page that are read; the filter finds the others.
_ROWS = 500
_HELP = f"""\
1 … 6      pages: symbols, one symbol, gaps, connections, pipeline, log
↑ ↓ PgUp PgDn Home End, mouse: move the cursor
Enter      open the symbol at the cursor; elsewhere show the whole row
n b        next symbol, symbol before
+ -        longer candles, shorter candles
/          filter symbols and gaps; Esc ends the filter
o          order of the symbols: name, rate, gaps, rejects, age
Space      pause the screen; the stream goes on
e          write symbols (CSV) and gaps (JSON lines) to files
q          quit

P50 P99    from the venue's time to our read, in the last half minute
AGE        time since the last event of any channel
marks      {GAP_LEGEND}
           {BAR_LEGEND}
"""


class Source(Protocol):
    """What the app knows of the stream."""

    has_ended: bool
    error: Exception | None

    def refresh(self) -> None:
        """Give the market what the stream says of itself now."""

    def stop(self) -> None:
        """Stop reading."""


@define
class View:
    """What is looked at, and how."""

    title: str
    page: str = _PAGES[0]
    match: str = ""
    order: Order = "name"
    interval: str = "1s"
    symbol: tuple[str, str] | None = None
    paused: bool = False


class Help(ModalScreen[None]):
    """The keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss", "Close")
    ]

    def compose(self) -> ComposeResult:
        """Create the text."""
        yield Static(Text(_HELP), id="help")


class TopApp(App[None]):
    """The pages of a stream."""

    TITLE = "tapeloom top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head, #menu { height: 1; }
    #head { background: $panel; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    ContentSwitcher { height: 1fr; }
    Listing { height: 1fr; }
    #chart { width: 1fr; height: 1fr; }
    #side { width: 30; padding-left: 1; }
    #ladder { height: 1fr; }
    #tape { height: 1fr; }
    Help { align: center middle; }
    #help { width: 78; height: auto; max-height: 100%; border: round $primary; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"page('{page}')", show=False)
            for number, page in enumerate(_PAGES, 1)
        ),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("o", "order", "Order"),
        Binding("n", "step(1)", "Next", show=False),
        Binding("b", "step(-1)", "Before", show=False),
        Binding("plus,equals_sign", "interval(1)", "Longer", show=False),
        Binding("minus", "interval(-1)", "Shorter", show=False),
        Binding("space", "pause", "Pause"),
        Binding("e", "export", "Export"),
        Binding("question_mark,h", "help", "Help", key_display="?"),
        Binding("escape", "unfilter", show=False),
        Binding("q,ctrl+c", "quit", "Quit", priority=False),
    ]

    def __init__(
        self, market: Market, source: Source, *, title: str = "", folder: Path = Path(),
        seconds: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.market = market
        self.source = source
        self.folder = folder
        self.seconds = seconds
        self.view = View(title)
        # Kept here, since a timer may still draw while the screen is taken down and they are not found.
        self.head, self.menu = Static(id="head"), Static(id="menu")
        self.chart, self.ladder, self.tape = (
            Static(id=name) for name in ("chart", "ladder", "tape")
        )
        self.entry = Input(
            placeholder="filter symbols and gaps; Enter keeps it, Esc ends it", id="filter"
        )
        self.listings = {page: Listing(empty, id=page) for page, empty in _LISTINGS.items()}
        self.switcher = ContentSwitcher(initial=_PAGES[0])

    def compose(self) -> ComposeResult:
        """Lay out the widgets."""
        yield self.head
        yield self.menu
        with self.switcher:
            yield from self.listings.values()
            with Horizontal(id="symbol"):
                yield self.chart
                with Vertical(id="side"):
                    yield self.ladder
                    yield self.tape
        yield self.entry
        yield Footer()

    def on_mount(self) -> None:
        """Begin to draw."""
        self.set_interval(_DRAW_SECONDS, self.draw)
        self.set_interval(_STATE_SECONDS, self.source.refresh)
        if self.seconds is not None:
            self.set_timer(self.seconds, self.exit)
        with suppress(
            NotImplementedError, RuntimeError, ValueError
        ):  # Windows; not the main thread
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.end)
        self.listings["symbols"].focus()
        self.draw(force=True)

    def end(self) -> None:
        """End the app and then the process, also if the terminal takes nothing any more."""
        deadline = threading.Timer(_END_SECONDS, os._exit, (_INTERRUPTED,))
        deadline.daemon = True
        deadline.start()
        self.exit()

    # --------------------------------------------------------------------------------------- drawing

    def draw(self, *, force: bool = False) -> None:
        """Draw the page that is seen, unless the screen is paused."""
        if self.view.paused and not force:
            return
        health = self.market.health()
        self.head.update(self._head(health))
        self.menu.update(self._menu())
        if self.view.page == "symbol":
            self._draw_symbol()
            return
        width = self.size.width
        page = {
            "symbols": lambda: pages.overview(
                self.market.rows(self.view.match, order=self.view.order, count=_ROWS), width
            ),
            "gaps": lambda: pages.gaps(self.market.gaps(self.view.match, count=_ROWS), width),
            "connections": lambda: pages.connections(health, width),
            "pipeline": lambda: pages.pipeline(health, width),
            "log": lambda: pages.log(
                pages.newest_first([*self.market.statuses(), *self.market.rejects()]), width
            ),
        }[self.view.page]()
        self.listings[self.view.page].show(*page)

    def _head(self, health: Health) -> Text:
        text = Text(no_wrap=True)
        text.append(f" {self.view.title[:24]} ", "bold").append(f"{clock(self.market.now)} UTC ")
        if self.source.error is not None:
            return text.append(str(self.source.error), "bold red")
        mode, colour = ("replay", "cyan") if health.is_replay else ("live", "green")
        if self.source.has_ended:
            mode, colour = "ended", "yellow"
        connected = sum(feed.connected for feed in health.feeds)
        connections = sum(len(feed.state.connections) for feed in health.feeds)
        dropped = sum(queue.state.dropped for queue in health.queues)
        text.append(mode, colour)
        if self.view.paused:
            text.append(" PAUSED", "bold yellow")
        text.append(
            f"  conn {connected}/{connections}", "" if connected == connections else "yellow"
        )
        text.append(f"  {count(health.rates.get('frames', 0))} frames/s")
        text.append(f"  gaps {count(self.market.gap_count)}")
        if dropped:
            text.append(f"  dropped {count(dropped)}", "red")
        return text

    def _menu(self) -> Text:
        text = Text(no_wrap=True)
        for number, page in enumerate(_PAGES, 1):
            style = "reverse bold" if page == self.view.page else ""
            text.append(f" {number} {page} ", style)
        if self.view.match:
            text.append(f"  /{self.view.match}", "yellow")
        if self.view.order != "name":
            text.append(f"  by {self.view.order}", "dim")
        return text

    def _draw_symbol(self) -> None:
        symbols = self.market.symbols()
        if self.view.symbol is None and symbols:
            self.view.symbol = symbols[0]
        panel, book, trades = self.chart, self.ladder, self.tape
        if self.view.symbol is None:
            panel.update(Text("waiting for the first event …", "dim"))
            return
        venue, symbol = self.view.symbol
        length, width = duration_ns(self.view.interval), panel.size.width
        title = Text().append(f"{venue} {symbol} ", "bold").append(f"{self.view.interval} candles")
        candles = self.market.candles(venue, symbol, length, max(width, 10))
        drawn = chart(candles, length, width, panel.size.height - 1)
        panel.update(title.append("\n").append_text(drawn))
        side = book.size.width
        book.update(pages.ladder(self.market.ladder(venue, symbol), book.size.height, side))
        trades.update(pages.tape(self.market.tape(venue, symbol), trades.size.height, side))

    def on_resize(self) -> None:
        """Draw for the new size."""
        self.call_after_refresh(self.draw, force=True)

    # --------------------------------------------------------------------------------------- actions

    def action_page(self, page: str) -> None:
        """Show a page."""
        if page == "symbol":
            key = self.listings["symbols"].key
            self.view.symbol = self.view.symbol or (key if isinstance(key, tuple) else None)
        self.view.page = page
        self.switcher.current = page
        if page != "symbol":
            self.listings[page].focus()
        self.call_after_refresh(self.draw, force=True)

    def on_listing_chosen(self, chosen: Listing.Chosen) -> None:
        """Open the symbol of a row; of a page that may have cut it, show the whole row."""
        if self.view.page != "symbols":
            self.notify(self.listings[self.view.page].chosen, markup=False)
        elif isinstance(chosen.key, tuple):
            self.view.symbol = chosen.key
            self.action_page("symbol")

    def action_step(self, by: int) -> None:
        """Show the next symbol, or the one before."""
        symbols = self.market.symbols()
        if symbols and self.view.symbol in symbols:
            self.view.symbol = symbols[(symbols.index(self.view.symbol) + by) % len(symbols)]
            self.draw(force=True)

    def action_interval(self, by: int) -> None:
        """Show longer or shorter candles."""
        place = _INTERVALS.index(self.view.interval) + by
        self.view.interval = _INTERVALS[min(max(place, 0), len(_INTERVALS) - 1)]
        self.draw(force=True)

    def action_order(self) -> None:
        """Order the symbols in the next way."""
        self.view.order = _ORDERS[(_ORDERS.index(self.view.order) + 1) % len(_ORDERS)]
        self.draw(force=True)

    def action_filter(self) -> None:
        """Ask for a filter."""
        self.entry.display = True
        self.entry.focus()

    def on_input_changed(self, changed: Input.Changed) -> None:
        """Filter while it is typed."""
        self.view.match = changed.value
        self.draw(force=True)

    def on_input_submitted(self) -> None:
        """Keep the filter."""
        self._leave_filter()

    def action_unfilter(self) -> None:
        """End the filter."""
        self.entry.value = ""
        self._leave_filter()

    def _leave_filter(self) -> None:
        self.entry.display = False
        if self.view.page != "symbol":
            self.listings[self.view.page].focus()

    def action_pause(self) -> None:
        """Hold the picture, or go on."""
        self.view.paused = not self.view.paused
        self.draw(force=True)

    def action_export(self) -> None:
        """Write files, and say where they are."""
        rows, gaps = (
            self.market.rows(self.view.match, count=10**9),
            self.market.gaps(self.view.match, count=10**9),
        )
        try:
            table, ledger = export(self.folder, self.market.now, rows, gaps)
        except OSError as error:
            self.notify(
                f"cannot write to {self.folder}: {error.strerror}", severity="error", markup=False
            )
            return
        self.notify(
            f"{len(rows)} symbols: {table}\n{len(gaps)} gaps: {ledger}",
            title="written",
            markup=False,
        )

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())
