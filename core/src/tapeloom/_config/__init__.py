"""Parsing of stack.toml into typed objects, with every mistake and its line reported at once.

First step of the data flow: `read` (a file) and `parse` (TOML text or tables) return a `Draft`. Its
`stack_or_raise` returns the `Stack` or raises one ConfigError that lists all mistakes. `structure`
parses the table of one plugin into that plugin's settings class. Code may build a `Stack` without a
file. `to_toml` prints a stack.
"""

from __future__ import annotations

from .rendering import to_toml
from .secret import Secret
from .stack import (
    Backend,
    ClusterSpec,
    FeedSpec,
    FlightSpec,
    Network,
    Process,
    QueueSpec,
    SinkSpec,
    Stack,
    StageSpec,
)
from .stack_parser import Draft, parse, read
from .structure import structure
from .validators import CHANNELS

__all__ = [
    "CHANNELS",
    "Backend",
    "ClusterSpec",
    "Draft",
    "FeedSpec",
    "FlightSpec",
    "Network",
    "Process",
    "QueuePolicy",
    "QueueSpec",
    "Secret",
    "SinkSpec",
    "Stack",
    "StageSpec",
    "parse",
    "read",
    "structure",
    "to_toml",
]  # fmt: skip
