"""The command ``top``: watch a stream in the terminal, live or from a recording.

`command` reads the options, `feeding` starts a process that streams, and `streaming` is what runs in it: it keeps
a `tapeloom_screens.Market`. `app` asks it for a `picture` and shows it. A slow terminal delays only the screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom.hooks import hookimpl

if TYPE_CHECKING:
    import argparse

__all__ = ["commands"]


@hookimpl
def commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``top``."""
    from .command import add

    add(verbs)
