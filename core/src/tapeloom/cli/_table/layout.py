"""Lines of the table for a width and a height: which columns fit, and how wide they are.

A line is a list of spans, each a text and the name of its colour, or "" for none.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence

from attrs import frozen

from tapeloom.events import Bar

from .state import Row, short, sides

Span = tuple[str, str]
Line = list[Span]

#: Glyphs of the small chart, from the lowest close to the highest.
_GLYPHS = "▁▂▃▄▅▆▇█"


@frozen
class Column:
    """A column: title, importance (0 is shown first), and the spans of its cell in a row."""

    title: str
    importance: int
    cell: Callable[[str, str, Row], Line]
    of_bar: bool = False
    left: bool = False


def _text(read: Callable[[Row], object]) -> Callable[[str, str, Row], Line]:
    return lambda _venue, _symbol, row: [(str(read(row)), "")]


def _bar_text(read: Callable[[Bar], str]) -> Callable[[str, str, Row], Line]:
    def cell(_venue: str, _symbol: str, row: Row) -> Line:
        bars = row.shown_bars()
        return [(read(bars[-1]), "" if bars[-1].complete else "dim")] if bars else []

    return cell


def _price(_venue: str, _symbol: str, row: Row) -> Line:
    return [(short(row.price), {1: "green", -1: "red"}.get(row.moved, ""))]


def _lag(row: Row) -> str:
    if (lag := row.lag()) is None:
        return ""
    return f"{lag / 1e6:.0f} ms" if abs(lag) < 1e9 else f"{lag / 1e9:.1f} s"


def _chart(_venue: str, _symbol: str, row: Row) -> Line:
    """Return a glyph for each of the last bars: its height is the close, its colour up or down."""
    bars = row.shown_bars()
    closes = [float(bar.close) for bar in bars]
    low = min(closes, default=0.0)
    step = (max(closes, default=0.0) - low) / (len(_GLYPHS) - 1) or 1.0
    return [
        (_GLYPHS[round((close - low) / step)], "green" if bar.close >= bar.open else "red")
        for bar, close in zip(bars, closes, strict=True)
    ]


#: All columns, in the order in which they stand.
_COLUMNS = (
    Column("VENUE", 1, lambda venue, _symbol, _row: [(venue, "")], left=True),
    Column("SYMBOL", 0, lambda _venue, symbol, _row: [(symbol, "bold")], left=True),
    Column("PRICE", 1, _price),
    Column("BID", 9, _text(lambda row: sides(row.quote)[0])),
    Column("ASK", 8, _text(lambda row: sides(row.quote)[1])),
    Column("TRADES", 10, _text(lambda row: row.trades)),
    Column("/s", 7, _text(lambda row: f"{row.rate:.0f}")),
    Column("LAG", 5, _text(_lag)),
    Column("GAPS", 3, _text(lambda row: len(row.gaps))),
    Column("REJECTS", 4, _text(lambda row: row.rejects)),
    Column("BAR", 2, _bar_text(lambda bar: f"{bar.interval}{'' if bar.complete else '*'}"), True),
    Column("OPEN", 2, _bar_text(lambda bar: short(bar.open)), True),
    Column("HIGH", 2, _bar_text(lambda bar: short(bar.high)), True),
    Column("LOW", 2, _bar_text(lambda bar: short(bar.low)), True),
    Column("CLOSE", 2, _bar_text(lambda bar: short(bar.close)), True),
    Column("VOLUME", 11, _bar_text(lambda bar: short(bar.volume)), True),
    Column("LAST BARS", 6, _chart, True, True),
)
#: Columns up to this importance are shown in any case: on a second line if they do not fit on one.
_REQUIRED = 6

Rows = Sequence[tuple[tuple[str, str], Row]]


def table(rows: Rows, width: int) -> list[list[Line]]:
    """Return the titles, and then each row, as one line, or as two where one is too narrow."""
    venues = {venue for (venue, _), _ in rows}
    has_bars = any(row.bars for _, row in rows)
    columns = [
        column
        for column in _COLUMNS
        if (has_bars or not column.of_bar) and (column.title != "VENUE" or len(venues) > 1)
    ]
    cells = {
        column.title: [_titled(column)] + [column.cell(*key, row) for key, row in rows]
        for column in columns
    }
    shown = _fitting(columns, cells, width)
    if all(column in shown for column in columns if column.importance <= _REQUIRED):
        return [[line] for line in _lines(shown, cells, width)]
    first = _fitting([column for column in columns if not column.of_bar], cells, width)
    second = _fitting([column for column in columns if column.of_bar], cells, width - 2)
    below = [[("  ", ""), *line] for line in _lines(second, cells, width - 2)]
    return [list(pair) for pair in zip(_lines(first, cells, width), below, strict=True)]


def _titled(column: Column) -> Line:
    return [(column.title, "dim")]


def _width(cell: Iterable[Span]) -> int:
    return sum(len(text) for text, _ in cell)


def _fitting(columns: Sequence[Column], cells: dict[str, list[Line]], width: int) -> list[Column]:
    """Return the most important columns that fit, in their order; the first of them in any case."""
    chosen: list[Column] = []
    left = width + 1
    for column in sorted(columns, key=lambda column: column.importance):
        left -= max(map(_width, cells[column.title])) + 1
        if left < 0 and chosen:
            break
        chosen.append(column)
    return [column for column in columns if column in chosen]


def _lines(columns: Sequence[Column], cells: dict[str, list[Line]], width: int) -> list[Line]:
    widths = {column.title: max(map(_width, cells[column.title])) for column in columns}
    gap = "  " if sum(widths.values()) + 2 * len(widths) <= width else " "
    lines = []
    for number in range(len(next(iter(cells.values())))):
        line: Line = []
        for column in columns:
            cell = cells[column.title][number]
            room = " " * (widths[column.title] - _width(cell))
            line += [*cell, (room + gap, "")] if column.left else [(room, ""), *cell, (gap, "")]
        lines.append(line)
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """Return *text* in lines of at most *width* characters, the second and later ones indented."""
    return textwrap.wrap(text, max(width, 20), subsequent_indent="         ") or [""]


def _latest(notes: Sequence[str], width: int, height: int) -> list[Line]:
    """Return the latest *notes*, whole, in about *height* lines; the last one in any case."""
    lines: list[Line] = []
    for note in reversed(notes):
        block: list[Line] = [[(line, "dim")] for line in wrapped(note, width)]
        if lines and len(lines) + len(block) > height:
            break
        lines = block + lines
    return lines


def page(
    head: str, rows: Rows, own: Sequence[str], notes: Sequence[str], width: int, height: int
) -> list[Line]:
    """Return the lines of the whole table, at most *height*: head, rows, a plugin's own events, notes."""
    titles, *pairs = table(rows, width) if rows else [[]]
    blocks = [*pairs, *([[(line, "")] for line in wrapped(text, width)] for text in own)]
    spare = height - len(titles) - sum(map(len, blocks)) - 2
    below = _latest(notes, width, min(max(spare, 2), height // 3))
    room = height - len(titles) - len(below) - 2
    shown: list[Line] = []
    for number, block in enumerate(blocks):
        if len(shown) + len(block) > room - (number + 1 < len(blocks)):
            shown.append([(f"… and {len(blocks) - number} more", "dim")])
            break
        shown += block
    heads: list[Line] = [[(line, "bold")] for line in wrapped(head, width)[:2]]
    return [*heads, *titles, *shown, [], *below][:height]
