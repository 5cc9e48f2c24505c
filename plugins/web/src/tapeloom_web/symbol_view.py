"""The part of the page about one symbol: candles, order book, last trades."""

from __future__ import annotations

import time
from typing import Any

from nicegui import ui
from tapeloom.units import duration_ns
from tapeloom_screens import Candle, SymbolRow

from . import chart, tables
from .shown import Shown

__all__ = ["INTERVALS", "SymbolView"]

#: The intervals to choose from; any other one may be typed.
INTERVALS = ["1s", "5s", "15s", "1m", "5m", "15m", "1h", "4h"]
_CANDLES, _LEVELS, _TRADES = 150, 10, 40
#: Seconds between two pictures of the same candles.
_REDRAW_SECONDS = 1.0
_SLOT_PRICE = """
<q-td :props="props" :class="'side-' + props.row.side">{{ props.value }}</q-td>
"""
_SLOT_SIZE = """
<q-td :props="props"><span class="share" :style="{width: props.row.share + '%'}"
  :class="'share-' + props.row.side"></span>{{ props.value }}</q-td>
"""


def column(name: str, label: str, *, left: bool = False) -> dict[str, Any]:
    """Return a column of a table."""
    return {"name": name, "label": label, "field": name, "align": "left" if left else "right"}


def table(columns: list[dict[str, Any]], key: str, test_id: str) -> ui.table:
    """Return an empty table that shows all its rows."""
    made = ui.table(columns=columns, rows=[], row_key=key, pagination=0)
    made.props(f'dense flat hide-pagination data-testid="{test_id}"').classes("w-full")
    return made


def show(made: ui.table, rows: list[dict[str, Any]]) -> None:
    """Show *rows*, if they have changed."""
    if made.rows != rows:
        send(made, "rows", rows)


def send(made: ui.element, name: str, value: Any) -> None:
    """Set a property of an element, and send it.

    By the usual way the library would put each list and dict in it into one that it watches for changes,
    which takes ten times as long as all the rest.
    """
    dict.__setitem__(made.props, name, value)
    made.update()


class SymbolView:
    """Shows one symbol in one interval."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._drawn: tuple[str, str, int] | None = None
        self._redraw_at = 0.0  # in seconds
        with ui.element("div").classes("symbol-view"):
            with ui.element("div").classes("chart-side"):
                with ui.row().classes("items-baseline gap-3 w-full headline"):
                    self._price = ui.label("–").classes("price").props('data-testid="price"')
                    self._quote = ui.label().classes("quiet")
                    self._values = ui.label().classes("quiet").props('data-testid="values"')
                    self._marks = ui.label().classes("warning").props('data-testid="marks"')
                self._chart = ui.echart(chart.options([], duration_ns("1m")), renderer="svg")
                self._chart.classes("chart").props('data-testid="chart"')
                self._empty = ui.label().classes("quiet empty").props('data-testid="empty"')
            with ui.element("div").classes("book-side"):
                self._asks, self._bids = self._ladder()
                ui.label("Last trades").classes("title")
                columns = [
                    column("time", "time (UTC)", left=True), column("price", "price"),
                    column("size", "size"), column("origin", ""),
                ]  # fmt: skip
                self._tape = table(columns, "n", "trades").classes("tape")
                self._tape.add_slot("body-cell-price", _SLOT_PRICE)

    def _ladder(self) -> tuple[ui.table, ui.table]:
        columns = [column("price", "price"), column("size", "size")]
        self._book = ui.label("Order book").classes("title")
        sides = []
        for name in ("asks", "bids"):
            side = table(columns, "price", name).classes("ladder")
            side.props("hide-header").add_slot("body-cell-price", _SLOT_PRICE)
            side.add_slot("body-cell-size", _SLOT_SIZE)
            sides.append(side)
        return sides[0], sides[1]

    def update(self, venue: str, symbol: str, interval: str) -> None:
        """Show the newest of a symbol in an interval."""
        market, length = self._shown.market, duration_ns(interval)
        self._show_price(market.row(venue, symbol))
        drawn, now = (venue, symbol, length), time.monotonic()
        if self._drawn != drawn or now >= self._redraw_at:
            self._drawn, self._redraw_at = drawn, now + _REDRAW_SECONDS
            self._show_candles(self._shown.candles(*drawn, _CANDLES), length)
        view = market.ladder(venue, symbol, _LEVELS)
        asks, bids = tables.ladder(view, _LEVELS)
        show(self._asks, asks)
        show(self._bids, bids)
        missing = "no book in this stream" if view is None else view.state
        self._book.set_text("Order book" if missing == "synced" else f"Order book: {missing}")
        show(self._tape, tables.tape(market.tape(venue, symbol, _TRADES)))

    def _show_price(self, row: SymbolRow | None) -> None:
        if row is None:
            self._price.set_text("–")
            self._quote.set_text("waiting for the first event")
            return
        self._price.set_text(tables.number(row.last))
        risen = row.direction > 0
        self._price.classes(
            add="risen" if risen else "fallen" if row.direction < 0 else "",
            remove="fallen" if risen else "risen",
        )
        self._quote.set_text(
            f"bid {tables.number(row.bid)} · ask {tables.number(row.ask)} · spread"
            f" {tables.number(row.spread)} · {row.event_rate:.0f} events/s · lag"
            f" {tables.duration(row.lag_p50)}"
        )

    def _show_candles(self, candles: list[Candle], length: int) -> None:
        send(self._chart, "options", chart.options(candles, length))
        self._empty.set_text("" if candles else "no trades and no bars yet")
        if not candles:
            self._values.set_text("")
            self._marks.set_text("")
            return
        last = candles[-1]
        values = zip("OHLC", (last.open, last.high, last.low, last.close), strict=True)
        text = " ".join(f"{name} {tables.number(value)}" for name, value in values)
        self._values.set_text(f"{text} · volume {tables.number(last.volume)}")
        self._marks.set_text(_marks(candles))


def _marks(candles: list[Candle]) -> str:
    """Say what is wrong with the candles that are shown."""
    lacking, filled = chart.gaps_in(candles)
    revised = sum(candle.revised for candle in candles)
    counts = [(lacking, "with a gap"), (filled, "with a filled gap"), (revised, "revised")]
    marks = ", ".join(f"{count} {words}" for count, words in counts if count)
    return f"candles: {marks}" if marks else ""
