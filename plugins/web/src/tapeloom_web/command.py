"""The command ``tapeloom web``: runs a stack and shows it on a page."""

from __future__ import annotations

import argparse
import webbrowser

from tapeloom_serve.command import add_options, run_with_sink

__all__ = ["add"]

_EXAMPLE = """\
example:
  tapeloom web stack.toml --open

The page is at http://127.0.0.1:8788/; other programs read the stream at ws://127.0.0.1:8788/stream.
"""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    verb = verbs.add_parser(
        "web",
        help="run a stack and show it on a page",
        description='Run a stack and show it on a page: with the stack\'s own [[sink]] with use = "web",'
        " or one with the defaults of it.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(verb)
    verb.add_argument("--store", metavar="FOLDER", help="Parquet store with older candles")
    verb.add_argument("--open", action="store_true", help="open the page in a browser")
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    from .sink import RUNNING  # imports the page

    def opened() -> list[str]:
        for sink in RUNNING if args.open else ():
            webbrowser.open(sink.url)
        return [f"the page is at {sink.url}" for sink in RUNNING]

    return run_with_sink(args, "web", {"port": args.port, "store": args.store}, opened)
