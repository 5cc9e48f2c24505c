"""The command line, and its public parts for plugins that add commands.

``drive`` runs a stream and writes its events to an ``output`` ("table", "jsonl" or "none") until the
stream ends, the time is up or the user presses Ctrl-C; then it prints the summary line. A plugin command
that calls it behaves like core's own commands.
"""

from __future__ import annotations

from ._drive import drive
from ._output import FORMATS, Output, output

__all__ = ["FORMATS", "Output", "drive", "output"]
