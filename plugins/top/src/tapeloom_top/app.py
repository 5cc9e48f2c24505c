"""`TopApp`: the screen. It asks for a picture a few times a second, and nothing waits for it."""

from __future__ import annotations

import asyncio  # noqa: TID251 - textual runs on asyncio; the stream has a process of its own
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Protocol

import anyio
import anyio.to_thread
from attrs import define
from rich.text import Text
from tapeloom.units import duration_ns
from tapeloom_screens import Health, Order
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import ContentSwitcher, Footer, Input, Static

from . import pages
from .chart import chart
from .exporting import export
from .feeding import StreamGone
from .formats import clock, count
from .help import Help
from .listing import Listing
from .picture import Key, Picture, Query

__all__ = ["Source", "TopApp"]

#: Seconds between two pictures, and without an answer until the screen says so.
_DRAW_SECONDS, _SILENT_SECONDS = 0.25, 3.0
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


class Source(Protocol):
    """What the app knows of the stream."""

    def read(self, query: Query, /) -> Picture:
        """Return what is to be drawn; from any thread. Raises StreamGone if there is no more to come."""


@define
class View:
    """What is looked at, and how."""

    title: str
    page: str = _PAGES[0]
    match: str = ""
    order: Order = "name"
    interval: str = "1s"
    symbol: Key | None = None
    step: int = 0  #: so many symbols after that one
    paused: bool = False


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
        self,
        source: Source,
        *,
        title: str = "",
        folder: Path = Path(),
        seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.folder = folder
        self.seconds = seconds
        self.view = View(title)
        self.health = Health(0, 0.0)  #: that of the last picture that had one
        self._is_wanted = asyncio.Event()  # a drawing, before its time
        self._asked = float("inf")  # when the picture was asked for that has not come yet
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
        self.set_interval(_SILENT_SECONDS, self._show_silence)
        if self.seconds is not None:
            self.set_timer(self.seconds, self.exit)
        with suppress(
            NotImplementedError, RuntimeError, ValueError
        ):  # Windows; not the main thread
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.end)
        self.listings["symbols"].focus()
        self.run_worker(self._draw_always())

    def end(self) -> None:
        """End the app and then the process, also if the terminal takes nothing any more."""
        deadline = threading.Timer(_END_SECONDS, os._exit, (_INTERRUPTED,))
        deadline.daemon = True
        deadline.start()
        self.exit()

    # --------------------------------------------------------------------------------------- drawing

    def draw(self) -> None:
        """Draw soon, also if the screen is paused."""
        self._is_wanted.set()

    async def _draw_always(self) -> None:
        """Draw a few times a second unless the screen is paused, and when something else is to be seen."""
        while True:
            is_wanted = self._is_wanted.is_set()
            self._is_wanted.clear()
            if is_wanted or not self.view.paused:
                query = self._query()
                picture = await self._read(query)
                if picture is None:
                    return
                if is_wanted or not self.view.paused:
                    self._show(query, picture)
            with anyio.move_on_after(_DRAW_SECONDS):
                await self._is_wanted.wait()

    def _query(self) -> Query:
        view = self.view
        candles, trades = max(self.chart.size.width, 10), self.tape.size.height
        return Query(
            view.page, view.match, view.order, view.symbol, view.step, view.interval, candles, trades
        )  # fmt: skip

    async def _read(self, query: Query) -> Picture | None:
        """Return the picture; None if the stream is gone, which ends the app."""
        self._asked = time.monotonic()
        try:
            return await anyio.to_thread.run_sync(self.source.read, query, abandon_on_cancel=True)
        except StreamGone:
            self.exit()
            return None
        finally:
            self._asked = float("inf")

    def _show(self, query: Query, picture: Picture) -> None:
        self.health = health = picture.health or self.health
        self.head.update(self._head(picture))
        self.menu.update(self._menu())
        width = self.size.width
        if query.page == "symbol":
            self._show_symbol(query, picture)
            return
        page = {
            "symbols": lambda: pages.overview(picture.rows, width),
            "gaps": lambda: pages.gaps(picture.gaps, width),
            "connections": lambda: pages.connections(health, width),
            "pipeline": lambda: pages.pipeline(health, width),
            "log": lambda: pages.log(picture.events, width),
        }[query.page]()
        self.listings[query.page].show(*page)

    def _show_silence(self) -> None:
        """Say that the stream does not answer, if it has not for long."""
        seconds = time.monotonic() - self._asked
        if seconds >= _SILENT_SECONDS:
            text = f" {self.view.title[:24]} the stream has not answered for {seconds:.0f} s"
            self.head.update(Text(text, "bold red", no_wrap=True))

    def _head(self, picture: Picture) -> Text:
        health = self.health
        text = Text(no_wrap=True)
        text.append(f" {self.view.title[:24]} ", "bold").append(f"{clock(picture.now)} UTC ")
        if picture.error:
            return text.append(picture.error, "bold red")
        mode, colour = ("replay", "cyan") if health.is_replay else ("live", "green")
        if picture.has_ended:
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
        text.append(f"  gaps {count(picture.gap_count)}")
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

    def _show_symbol(self, query: Query, picture: Picture) -> None:
        panel, book, trades = self.chart, self.ladder, self.tape
        if self.view.symbol == query.symbol:  # no other one was chosen meanwhile
            self.view.symbol = picture.symbol
            self.view.step -= query.step
        if picture.symbol is None:
            panel.update(Text("waiting for the first event …", "dim"))
            return
        if not book.size.width:  # not laid out yet; it is drawn again then
            return
        venue, symbol = picture.symbol
        length, width = duration_ns(query.interval), panel.size.width
        title = Text().append(f"{venue} {symbol} ", "bold").append(f"{query.interval} candles")
        drawn = chart(picture.candles, length, width, panel.size.height - 1)
        panel.update(title.append("\n").append_text(drawn))
        side = book.size.width
        book.update(pages.ladder(picture.ladder, book.size.height, side))
        trades.update(pages.tape(picture.tape, trades.size.height, side))

    def on_resize(self) -> None:
        """Draw for the new size."""
        self.call_after_refresh(self.draw)

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
        self.call_after_refresh(self.draw)

    def on_listing_chosen(self, chosen: Listing.Chosen) -> None:
        """Open the symbol of a row; of a page that may have cut it, show the whole row."""
        if self.view.page != "symbols":
            self.notify(self.listings[self.view.page].chosen, markup=False)
        elif isinstance(chosen.key, tuple):
            self.view.symbol, self.view.step = chosen.key, 0
            self.action_page("symbol")

    def action_step(self, by: int) -> None:
        """Show the next symbol, or the one before."""
        if self.view.symbol is not None:
            self.view.step += by
            self.draw()

    def action_interval(self, by: int) -> None:
        """Show longer or shorter candles."""
        place = _INTERVALS.index(self.view.interval) + by
        self.view.interval = _INTERVALS[min(max(place, 0), len(_INTERVALS) - 1)]
        self.draw()

    def action_order(self) -> None:
        """Order the symbols in the next way."""
        self.view.order = _ORDERS[(_ORDERS.index(self.view.order) + 1) % len(_ORDERS)]
        self.draw()

    def action_filter(self) -> None:
        """Ask for a filter."""
        self.entry.display = True
        self.entry.focus()

    def on_input_changed(self, changed: Input.Changed) -> None:
        """Filter while it is typed."""
        self.view.match = changed.value
        self.draw()

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
        self.draw()

    def action_export(self) -> None:
        """Write files, and say where they are."""
        self.run_worker(self._export())

    async def _export(self) -> None:
        picture = await self._read(Query("export", self.view.match))
        if picture is None:
            return
        try:
            table, ledger = export(self.folder, picture.now, picture.rows, picture.gaps)
        except OSError as error:
            self.notify(
                f"cannot write to {self.folder}: {error.strerror}", severity="error", markup=False
            )
            return
        self.notify(
            f"{len(picture.rows)} symbols: {table}\n{len(picture.gaps)} gaps: {ledger}",
            title="written",
            markup=False,
        )

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())
