"""The command ``top``: its options, and its exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tapeloom import Stream

__all__ = ["add"]

_EXAMPLE = """\
examples:
  tapeloom top stack.toml
  tapeloom top recordings/ --stack stack.toml --speed 10x

Keys are listed by ?, and q ends it.
"""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    verb = verbs.add_parser(
        "top",
        help="watch a stream in the terminal",
        description="Watch a stream in the terminal: symbols, candles, order books, gaps, connections.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument(
        "source", metavar="SOURCE", nargs="+", help="a stack; or recordings or a folder of them"
    )
    verb.add_argument(
        "--stack", metavar="STACK.toml", help="the stack of the recordings: a feed for each of them"
    )
    verb.add_argument("--speed", default="1x", help="of recordings: max, 1x, 10x, … (default: 1x)")
    verb.add_argument("--for", dest="seconds", type=_seconds, metavar="SECONDS", help="time limit")
    verb.add_argument(
        "--export", type=Path, default=Path(), metavar="FOLDER",
        help="where the key e writes files (default: the current folder)",
    )  # fmt: skip
    verb.set_defaults(run=run)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text!r}")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code. Raises TapeloomError if the stream cannot be opened."""
    from .app import TopApp
    from .feeding import Feeding

    if not _has_terminal():
        print("tapeloom: top needs a terminal. Elsewhere use tapeloom run.", file=sys.stderr)
        return 2
    opener, backend, title = source(args)
    with Feeding(opener, backend, debug=args.debug) as feeding:
        app = TopApp(feeding, title=title, folder=args.export, seconds=args.seconds)
        app.run()
    if feeding.problem:
        print(f"tapeloom: {feeding.problem}", file=sys.stderr)
    return feeding.exit_code or app.return_code or 0


def _has_terminal() -> bool:
    # Textual draws on standard error, so that standard output may go elsewhere.
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.__stderr__))


def source(args: argparse.Namespace) -> tuple[Callable[[], Stream], str, str]:
    """Return how the stream is opened, on which event loop, and its name.

    Raises ConfigError if the options contradict each other.
    """
    import tapeloom

    sources: list[str] = args.source
    if args.stack is None:
        if len(sources) > 1 or not sources[0].endswith(".toml"):
            raise _mistake(
                "--stack", "recordings need the stack that they were made with. Give it."
            )
        path = sources[0]
        return partial(tapeloom.open, path), _backend(path), Path(path).name
    speed = _speed(args.speed)
    opener = partial(tapeloom.replay, sources, args.stack, speed=speed)
    name = f"{Path(sources[0]).name}{', …' if len(sources) > 1 else ''}"
    return opener, _backend(args.stack), name


def _backend(path: str) -> str:
    """Return the event loop that a stack names; opening the stack reports all of its mistakes."""
    import tomllib

    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("backend", "asyncio")
    except (OSError, ValueError):
        return "asyncio"
    return "trio" if found == "trio" else "asyncio"


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not speed > 0:  # also rejects NaN
        raise _mistake("--speed", f"expected max, 1x, 10x, …, got {text!r}")
    return speed


def _mistake(option: str, problem: str) -> Exception:
    from tapeloom.errors import ConfigError, Mistake

    return ConfigError([Mistake(option, problem)], "top")
