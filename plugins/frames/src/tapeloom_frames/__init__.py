"""Events as live data frames, and the stream in plain synchronous code, such as a notebook.

`frame` keeps the latest events of one type of a stream as columns; `collect` returns what a stack gives
within some time; `open_sync` opens a stream whose event loop runs in a thread. A `Frame` is read by
whatever reads Arrow streams: polars, pandas, DuckDB.
"""

from __future__ import annotations

from .collecting import collect
from .live_frame import Frame, frame
from .sync_stream import SyncStream, open_sync

__all__ = ["Frame", "SyncStream", "collect", "frame", "open_sync"]
