"""`Listing`: a table with a cursor that draws only the rows that are seen."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import ClassVar

from attrs import frozen
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Click, MouseScrollDown, MouseScrollUp
from textual.message import Message
from textual.widgets import Static

__all__ = ["Cell", "Column", "Listing"]

#: A cell: text and colour.
Cell = tuple[str, str]


@frozen
class Column:
    """A column: its title, its width in characters, and whether it is a number."""

    title: str
    width: int
    is_number: bool = False


class Listing(Static, can_focus=True):
    """Rows of cells, one of them chosen by the cursor, which follows its row when the order changes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000000)", show=False),
        Binding("end", "move(1000000)", show=False),
        Binding("enter", "choose", show=False),
    ]

    class Chosen(Message):
        """Enter was pressed on a row, or a row was clicked twice."""

        def __init__(self, key: Hashable) -> None:
            super().__init__()
            self.key = key

    def __init__(self, empty: str, *, id: str) -> None:
        super().__init__(id=id)
        self.key: Hashable = None  #: of the row at the cursor
        self._empty = empty
        self._columns: Sequence[Column] = ()
        self._keys: Sequence[Hashable] = ()
        self._rows: Sequence[Sequence[Cell]] = ()
        self._top = 0
        self._is_moved = False

    def show(
        self, columns: Sequence[Column], keys: Sequence[Hashable], rows: Sequence[Sequence[Cell]]
    ) -> None:
        """Show these rows; each has a key that stays the same."""
        self._columns, self._keys, self._rows = columns, keys, rows
        # Until it is moved, the cursor stays at the top, whichever row comes there.
        if self.key not in keys or not self._is_moved:
            self.key = keys[0] if keys else None
        self._draw()

    @property
    def _cursor(self) -> int:
        return self._keys.index(self.key) if self._keys else 0

    @property
    def chosen(self) -> str:
        """The whole text of the row at the cursor."""
        return "  ".join(text for text, _ in self._rows[self._cursor] if text) if self._rows else ""

    @property
    def _visible(self) -> int:
        return max(self.size.height - 1, 1)  # below the titles

    def _draw(self) -> None:
        if not self._rows:
            self.update(Text(self._empty, "dim"))
            return
        cursor, visible = self._cursor, self._visible
        self._top = min(max(self._top, cursor - visible + 1), cursor)
        self._top = max(min(self._top, len(self._rows) - visible), 0)
        text = Text(no_wrap=True)
        text.append_text(self._line([(column.title, "") for column in self._columns], "bold"))
        for place in range(self._top, min(self._top + visible, len(self._rows))):
            text.append("\n")
            text.append_text(self._line(self._rows[place], "reverse" if place == cursor else ""))
        self.update(text)

    def _line(self, cells: Sequence[Cell], style: str) -> Text:
        """Return a line in one style, or with the colours of its cells if *style* is empty."""
        line = Text(no_wrap=True)
        for column, (text, colour) in zip(self._columns, cells, strict=True):
            if len(text) > column.width:
                text = f"{text[: column.width - 1]}…"
            fitted = f"{text:>{column.width}}" if column.is_number else f"{text:<{column.width}}"
            line.append(f"{fitted} ", style or colour)
        return line

    def on_resize(self) -> None:
        """Draw as many rows as are seen now."""
        self._draw()

    def on_click(self, event: Click) -> None:
        """Put the cursor on the row that was clicked; a second click opens it."""
        place = self._top + event.y - 1
        if event.y >= 1 and place < len(self._keys):
            self.key, self._is_moved = self._keys[place], True
            self._draw()
            if event.chain == 2:
                self.action_choose()

    def on_mouse_scroll_down(self, _: MouseScrollDown) -> None:
        """Move the cursor down."""
        self.action_move(3)

    def on_mouse_scroll_up(self, _: MouseScrollUp) -> None:
        """Move the cursor up."""
        self.action_move(-3)

    def action_move(self, by: int) -> None:
        """Move the cursor by so many rows."""
        if self._keys:
            place = min(max(self._cursor + by, 0), len(self._keys) - 1)
            self.key, self._is_moved = self._keys[place], True
            self._draw()

    def action_page(self, by: int) -> None:
        """Move the cursor by so many screens."""
        self.action_move(by * self._visible)

    def action_choose(self) -> None:
        """Open the row at the cursor."""
        if self.key is not None:
            self.post_message(self.Chosen(self.key))
