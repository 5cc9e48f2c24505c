"""The command ``tapeloom serve``: runs a stack and serves its stream."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import tapeloom
from attrs import evolve
from tapeloom import SinkSpec, Stream
from tapeloom.cli import FORMATS, drive, load, output

from .sink import RUNNING

__all__ = ["add", "add_options", "run_with_sink"]

_EXAMPLE = """\
example:
  tapeloom serve stack.toml --port 8787

A program then reads the stream at ws://127.0.0.1:8787/stream, in Python with tapeloom.connect.
"""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    verb = verbs.add_parser(
        "serve",
        help="run a stack and serve its stream to other programs",
        description="Run a stack and serve its stream to other programs: the stack's own [[sink]] with"
        ' use = "serve", or one with the defaults of it.',
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(verb)
    verb.set_defaults(run=run)


def add_options(verb: argparse.ArgumentParser) -> None:
    """Add the options that all commands have which run a stack with a server."""
    verb.add_argument("stack", metavar="STACK.toml")
    verb.add_argument("--port", type=int, help="instead of the sink's; 0: any free one")
    verb.add_argument(
        "--for", dest="seconds", type=float, metavar="SECONDS", help="time limit (default: none)"
    )
    verb.add_argument("--out", choices=FORMATS, default="table", help="default: table")


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    return run_with_sink(
        args, "serve", {"port": args.port}, lambda: [f"serving {sink.url}" for sink in RUNNING]
    )


def run_with_sink(
    args: argparse.Namespace, use: str, keys: Mapping[str, Any], opened: Callable[[], Iterable[str]]
) -> int:
    """Run a stack with the sink *use*, which is added if the stack has none; return the exit code.

    Those *keys* that are not None take the place of the sink's own. *opened* is called once the sinks are
    open, and returns lines for people.
    """
    draft = load(args.stack)
    changes = {key: value for key, value in keys.items() if value is not None}
    sinks = [
        evolve(sink, table={**sink.table, **changes}) if sink.use == use else sink
        for sink in draft.stack.sinks
    ]
    if not any(sink.use == use for sink in sinks):
        sinks.append(SinkSpec(use, table=changes))
    draft = evolve(draft, stack=evolve(draft.stack, sinks=sinks))

    @asynccontextmanager
    async def served() -> AsyncIterator[Stream]:
        async with tapeloom.open(draft) as stream:
            for line in opened():
                print(f"tapeloom: {line}", file=sys.stderr, flush=True)
            yield stream

    return drive(served, output(args.out), seconds=args.seconds, backend=draft.stack.backend)
