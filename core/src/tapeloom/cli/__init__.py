"""The command line, and its public parts for plugins that add commands.

``drive`` runs a stream and writes its events to an ``output`` ("table", "jsonl" or "none") until the
stream ends, the time is up or the user presses Ctrl-C; then it prints the summary line. A plugin command
that calls it behaves like core's own commands. ``load`` reads the file of a stack, with the mistakes in it.
``Progress`` shows how far long work has come. A command that starts a process of its own calls
``configure_logging`` in it.
"""

from __future__ import annotations

from tapeloom._stream.opening import load

from ._drive import drive
from ._output import FORMATS, Output, configure_logging, output
from ._progress import Progress

__all__ = ["FORMATS", "Output", "Progress", "configure_logging", "drive", "load", "output"]
