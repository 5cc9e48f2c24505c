"""``tapeloom record``: write down what a stack's venues send."""

from __future__ import annotations

import argparse

from tapeloom._stream.opening import load, open_stream

from . import FORMATS, drive, output
from ._run import seconds


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "record",
        help="write down what a stack's venues send, while it runs",
        description="Run a stack, and record every frame and every answer over REST: one tape for"
        " each feed, FOLDER/NAME.jsonl.zst, for `tapeloom replay`. What we send is not recorded.",
        epilog="example: tapeloom record stack.toml --to tapes --for 3600",
    )
    parser.add_argument("stack", metavar="STACK.toml")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="where the tapes go")
    parser.add_argument("--for", dest="seconds", type=seconds, metavar="SECONDS", help="stop after")
    parser.add_argument("--out", choices=FORMATS, default="table", help="default: table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Record; return the exit code."""
    draft = load(args.stack)
    return drive(
        lambda: open_stream(draft, record=args.to),
        output(args.out),
        seconds=args.seconds,
        backend=draft.stack.backend,
    )
