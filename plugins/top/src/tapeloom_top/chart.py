"""Candles drawn with half blocks: two steps of price to a line of text."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from rich.text import Text
from tapeloom_screens import Candle

from .formats import SECOND, clock, number

__all__ = ["chart"]

#: Columns of the price axis at the right.
_AXIS = 12
#: Lines below the prices: volume, marks, time.
_BELOW = 4
#: Heights of a volume, in eighths of a line.
_EIGHTHS = " ▁▂▃▄▅▆▇█"
#: By what the upper and the lower half of a cell show: nothing, the wick, the body.
_CELLS = {
    "  ": " ", " w": "╷", "w ": "╵", "ww": "│", " b": "▄", "b ": "▀", "bb": "█", "wb": "▄", "bw": "▀",
}  # fmt: skip
#: The mark and the colour of a candle, by the state of the gap in it.
_GAPS = {"open": ("?", "yellow"), "partial": ("~", "yellow"), "filled": ("·", "green"), "unrecoverable": ("x", "red")}  # fmt: skip
#: What the marks below a candle mean.
GAP_LEGEND = "gap: x unrecoverable, ? open, ~ partly filled, · filled"
BAR_LEGEND = "bar: r revised, i incomplete, or the stream began in it"


def chart(candles: Sequence[Candle], interval: int, width: int, height: int) -> Text:
    """Return the newest candles that fit into so many columns and lines; a column is an *interval* in ns.

    Time runs evenly: where nothing was traded, a column is empty.
    """
    columns = width - _AXIS
    lines = height - _BELOW
    if not candles or columns < 4 or lines < 3:
        return Text("no candles yet" if not candles else "too small for a chart", "dim")
    newest = candles[-1].start
    first = newest - (columns - 1) * interval
    shown = [candle for candle in candles if candle.start >= first]
    places = {(candle.start - first) // interval: candle for candle in shown}
    text = Text(no_wrap=True)
    for line in _prices(places, shown, columns, lines):
        text.append_text(line).append("\n")
    text.append_text(_volume(places, shown, columns)).append("\n")
    text.append_text(_marks(places, columns)).append("\n")
    text.append_text(_times(first, interval, columns))
    return text


def _prices(
    places: dict[int, Candle], shown: Sequence[Candle], columns: int, lines: int
) -> list[Text]:
    highest, lowest = max(candle.high for candle in shown), min(candle.low for candle in shown)
    high, low = float(highest), float(lowest)
    span = (high - low) or abs(high) * 0.001 or 1.0
    steps = lines * 2

    def step(price: object) -> int:
        """Return the half line of a price, from the top."""
        return min(int((high - float(price)) / span * steps), steps - 1)  # type: ignore[arg-type]

    drawn = {
        place: (
            _halves(
                step(candle.high), step(candle.low), step(candle.open), step(candle.close), steps
            ),
            "green" if candle.close >= candle.open else "red",
        )
        for place, candle in places.items()
    }
    last = step(shown[-1].close) // 2
    texts = []
    for line in range(lines):
        text = Text(no_wrap=True)
        for column in range(columns):
            halves, colour = drawn.get(column, ("", ""))
            text.append(_CELLS[halves[line * 2 : line * 2 + 2]] if halves else " ", colour)
        texts.append(
            text.append_text(_label(line, last, lines, shown[-1].close, (highest, lowest)))
        )
    return texts


def _halves(high: int, low: int, first: int, last: int, steps: int) -> str:
    top, bottom = min(first, last), max(first, last)
    return "".join(
        "b" if top <= step <= bottom else "w" if high <= step <= low else " "
        for step in range(steps)
    )


def _label(line: int, last: int, lines: int, close: Decimal, ends: tuple[Decimal, Decimal]) -> Text:
    """Return the price beside a line: the last close, and the ends of the axis."""
    if line == last:
        return Text(f" {number(close, _AXIS - 1)}", "bold reverse")
    if line in (0, lines - 1):
        return Text(f" {number(ends[line != 0], _AXIS - 1)}", "dim")
    return Text("")


def _volume(places: dict[int, Candle], shown: Sequence[Candle], columns: int) -> Text:
    most = float(max(candle.volume for candle in shown)) or 1.0
    heights = {column: round(float(candle.volume) / most * 16) for column, candle in places.items()}
    text = Text(no_wrap=True, style="blue")
    for base in (8, 0):
        for column in range(columns):
            text.append(_EIGHTHS[min(max(heights.get(column, 0) - base, 0), 8)])
        if base:
            text.append(f" vol {number(shown[-1].volume, _AXIS - 5)}\n", "dim")
    return text


def _marks(places: dict[int, Candle], columns: int) -> Text:
    text = Text(no_wrap=True)
    for column in range(columns):
        candle = places.get(column)
        if candle is None:
            text.append(" ")
        elif candle.gap:
            text.append(*_GAPS[candle.gap])
        elif candle.revised:
            text.append("r", "magenta")
        else:
            text.append(" " if candle.complete else "i", "yellow")
    return text.append(" marks", "dim")


def _times(first: int, interval: int, columns: int) -> Text:
    line, column = "", 0
    while column + 8 <= columns:
        line += f"{clock(first + column * interval)}    "
        column += 12
    unit = f"{interval // SECOND}s" if interval < 60 * SECOND else f"{interval // (60 * SECOND)}m"
    return Text(f"{line[:columns]:<{columns}} {unit} UTC", "dim", no_wrap=True)
