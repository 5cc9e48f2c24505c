"""The command ``tapeloom metrics``: prints the alert rules for Prometheus, or the board for Grafana."""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from pathlib import Path

_FILES = {"rules": "alerts.yml", "board": "dashboard.json"}
_EXAMPLE = """\
examples:
  tapeloom metrics rules --out tapeloom.rules.yml
  tapeloom metrics board > board.json
"""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    verb = verbs.add_parser(
        "metrics",
        help="print alert rules for Prometheus, or a board for Grafana",
        description="Print the alert rules for Prometheus, or the board for Grafana.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("file", metavar="WHAT", choices=sorted(_FILES), help="rules or board")
    verb.add_argument("--out", type=Path, metavar="FILE", help="write to FILE instead")
    verb.set_defaults(run=run)


def text_of(name: str) -> str:
    """Return the rules or the board."""
    return resources.files(__package__).joinpath(_FILES[name]).read_text("utf-8")


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    text = text_of(args.file)
    if args.out is None:
        print(text, end="")
        return 0
    try:
        args.out.write_text(text, "utf-8")
    except OSError as error:
        print(f"tapeloom: {args.out} cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{args.out} is written", file=sys.stderr)
    return 0
