"""``tapeloom record``: runs a stack and records what its venues send."""

from __future__ import annotations

import argparse

from tapeloom._stream.opening import load, open_stream

from . import FORMATS, drive, output
from ._run import seconds


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = verbs.add_parser(
        "record",
        help="run a stack and record what its venues send",
        description="Run a stack and record every received frame and REST response: one tape per feed,"
        " FOLDER/NAME.jsonl.zst, for `tapeloom replay`. Sent messages are not recorded.",
        epilog="example: tapeloom record stack.toml --to tapes --for 3600",
    )
    parser.add_argument("stack", metavar="STACK.toml")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="folder for the tapes")
    parser.add_argument("--for", dest="seconds", type=seconds, metavar="SECONDS", help="time limit")
    parser.add_argument("--out", choices=FORMATS, default="table", help="default: table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run and record the stack; return the exit code."""
    draft = load(args.stack)
    return drive(
        lambda: open_stream(draft, record=args.to),
        output(args.out),
        seconds=args.seconds,
        backend=draft.stack.backend,
    )
