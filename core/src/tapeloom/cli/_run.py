"""``tapeloom run``: runs a stack and prints its events."""

from __future__ import annotations

import argparse
import math

from tapeloom._stream.opening import load, open_stream

from . import FORMATS, drive, output


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = verbs.add_parser(
        "run",
        help="run a stack and print its events",
        description="Run a stack and print its events, until it is stopped.",
        epilog="example: tapeloom run stack.toml --for 60 --out jsonl > events.jsonl",
    )
    parser.add_argument("stack", metavar="STACK.toml")
    parser.add_argument("--for", dest="seconds", type=seconds, metavar="SECONDS", help="time limit")
    parser.add_argument("--out", choices=FORMATS, default="table", help="default: table")
    parser.set_defaults(run=run)


def seconds(text: str) -> float:
    """Return *text* as a number of seconds above 0. Raises ArgumentTypeError for anything else."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text!r}")
    return number


def run(args: argparse.Namespace) -> int:
    """Run the stack; return the exit code."""
    draft = load(args.stack)
    return drive(
        lambda: open_stream(draft),
        output(args.out),
        seconds=args.seconds,
        backend=draft.stack.backend,
    )
