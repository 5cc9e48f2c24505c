"""Entry point of the command line: the commands of core and those that plugins add.

Exit codes: 0 success · 1 a feed failed, or a recording could not be read to its end · 2 the command or
the stack is wrong · 130 interrupted twice.
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
from tapeloom.errors import ConfigError, PluginError, SymbolError, TapeloomError

from . import _check as check
from . import _plugins as plugins
from . import _record as record
from . import _replay as replay
from . import _run as run

#: The commands of core, in the order of the help text.
_COMMANDS = (run, record, replay, check, plugins)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    _escape_unencodable()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(arguments)
    args = parser.parse_args(arguments)
    _configure_logging(debug=args.debug)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except (ConfigError, PluginError, SymbolError) as error:
        print(f"tapeloom: {error}", file=sys.stderr)
        return 2
    except TapeloomError as error:
        print(f"tapeloom: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has closed the pipe
        # Discard the output that is still buffered, or Python prints another error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tapeloom",
        description="Live market data as one normalised, continuous, checked stream.",
        epilog="Each command has its own help: tapeloom run --help",
    )
    parser.add_argument("--debug", action="store_true", help="also log debug messages")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add(verbs)
    if not arguments or arguments[0] not in verbs.choices:
        _add_plugin_commands(verbs)
    return parser


def _add_plugin_commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of installed plugins; a broken plugin is reported and skipped."""
    registry = Registry()
    for name in installed():
        try:
            registry.load(name)
            registry.call(name, "commands", verbs=verbs)
        except PluginError as error:
            print(f"tapeloom: {error}", file=sys.stderr)


def _escape_unencodable() -> None:
    """Print characters that the terminal cannot encode as escapes, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _configure_logging(*, debug: bool) -> None:
    """Configure structlog. Only the command line does so; the library leaves it to the application."""
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
