"""stack.toml to typed objects: every mistake at once, each with its place.

`read` and `parse` return a `Draft`; its `stack_or_raise` returns the `Stack` or raises one ConfigError
with everything that is wrong. `structure` does the same for the table of one plugin. Code may build a
`Stack` without any file.
"""

from __future__ import annotations

from .checks import CHANNELS
from .reading import Draft, parse, read
from .secret import Secret
from .shown import resolved
from .stack import (
    Backend,
    FeedSpec,
    FlightSpec,
    Network,
    Process,
    QueueSpec,
    SinkSpec,
    Stack,
    StageSpec,
)
from .structure import structure

__all__ = [
    "CHANNELS", "Backend", "Draft", "FeedSpec", "FlightSpec", "Network", "Process",
    "QueueSpec", "Secret", "SinkSpec", "Stack", "StageSpec", "parse", "read", "resolved",
    "structure",
]  # fmt: skip
