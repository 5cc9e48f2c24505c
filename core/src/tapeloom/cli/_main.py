"""The command line: the verbs of core, and those that plugins add.

Exit codes: 0 all went well · 1 a feed failed, or a recording could not be read to its end · 2 the
command or the stack is wrong · 130 interrupted twice.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

import structlog

from tapeloom._compose.discovery import installed
from tapeloom._compose.registry import Registry
from tapeloom.errors import ConfigError, PluginError, SymbolError, TapeError, TapeloomError

from . import _check as check
from . import _plugins as plugins
from . import _record as record
from . import _replay as replay
from . import _run as run

_CORE = (run, record, replay, check, plugins)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    _letters()
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(words)
    args = parser.parse_args(words)
    _log(debug=args.debug)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except (ConfigError, PluginError, SymbolError) as error:
        print(f"tapeloom: {error}", file=sys.stderr)
        return 2
    except TapeError as error:
        print(f"tapeloom: {error}", file=sys.stderr)
        return 1
    except TapeloomError as error:
        print(f"tapeloom: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tapeloom",
        description="Live market data as one normalised, continuous, checked stream.",
        epilog="Each verb has its own help: tapeloom run --help",
    )
    parser.add_argument("--debug", action="store_true", help="log in detail")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in _CORE:
        module.add(verbs)
    if not words or words[0] not in verbs.choices:
        _add_plugin_verbs(verbs)
    return parser


def _add_plugin_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Let installed plugins add their verbs; one that is broken costs only its own."""
    registry = Registry()
    for name in installed():
        try:
            registry.load(name)
            registry.call(name, "commands", verbs=verbs)
        except PluginError as error:
            print(f"tapeloom: {error}", file=sys.stderr)


def _letters() -> None:
    """Let a terminal that knows few letters show others by their numbers."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _log(*, debug: bool) -> None:
    """Configure logging: the command line does, the library never."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.WARNING
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
