"""Entry point of the command line: the commands of core and those that plugins add.

Exit codes: 0 success · 1 a feed failed, nothing was connected, a part of a recording could not be read, or
the output could not be written · 2 the command or the stack is wrong · 130 ended before all events were
delivered.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import structlog

from tapeloom._compose.discovery import installed
from tapeloom._compose.registry import Registry
from tapeloom.errors import (
    ConfigError,
    PluginError,
    SymbolError,
    TapeloomError,
    masked,
    unwrap_single,
)

from . import _check as check
from . import _plugins as plugins
from . import _record as record
from . import _replay as replay
from . import _run as run
from ._signals import INTERRUPTED
from ._stdout import OutputFailed, standard_streams

#: The commands of core, in the order of the help text.
_COMMANDS = (run, record, replay, check, plugins)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    try:
        with standard_streams():
            return _run(list(sys.argv[1:] if argv is None else argv))
    except (OutputFailed, BaseExceptionGroup) as error:
        failed = unwrap_single(error)
        if not isinstance(failed, OutputFailed):
            raise
        if failed.code:
            print(f"tapeloom: {failed}", file=sys.stderr)
        return failed.code
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    args = _parser(arguments).parse_args(arguments)
    _configure_logging(debug=args.debug)
    try:
        code: int = args.run(args)
    except (ConfigError, PluginError, SymbolError) as error:
        print(f"tapeloom: {error}", file=sys.stderr)
        return 2
    except TapeloomError as error:
        print(f"tapeloom: {error}", file=sys.stderr)
        return 1
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


def _configure_logging(*, debug: bool) -> None:
    """Configure structlog. Only the command line does so; the library leaves it to the application."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
            lambda _logger, _name, line: masked(str(line)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.WARNING
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
