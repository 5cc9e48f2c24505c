"""`Help`: the list of keys, over the screen."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widgets import Static

from .chart import BAR_LEGEND, GAP_LEGEND

__all__ = ["Help"]

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


class Help(ModalScreen[None]):
    """The keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss", "Close")
    ]

    def compose(self) -> ComposeResult:
        """Create the text."""
        yield Static(Text(_HELP), id="help")
