"""For plugins that add verbs: run a stream on the command line the way core's own verbs do.

``drive`` streams into an ``output`` ("table", "jsonl" or "none") until the stream ends, the time is up
or somebody presses Ctrl-C, and ends with the summary line.
"""

from __future__ import annotations

from ._drive import drive
from ._output import FORMATS, Output, output

__all__ = ["FORMATS", "Output", "drive", "output"]
