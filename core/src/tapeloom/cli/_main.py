"""Entry point of the command line: the commands of core and those that plugins add.

Exit codes: 0 success · 1 a feed failed, nothing was connected, a part of a recording could not be read, or
the output could not be written · 2 the command or the stack is wrong · 130 ended before all events were
delivered.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

from tapeloom._compose.discovery import installed
from tapeloom._compose.registry import Registry
from tapeloom.errors import (
    ConfigError,
    PluginError,
    SymbolError,
    TapeloomError,
    nearest,
    unwrap_single,
)

from . import _check as check
from . import _plugins as plugins
from . import _record as record
from . import _replay as replay
from . import _run as run
from ._output import configure_logging
from ._signals import INTERRUPTED
from ._stdout import OutputFailed, standard_streams

#: The commands of core, in the order of the help text.
_COMMANDS = (run, record, replay, check, plugins)
#: The commands of official packages that may not be installed, by name, and the folders of their sources.
_ELSEWHERE = {
    "chaos": "chaos", "cluster": "cluster", "demo": "simulator", "metrics": "metrics",
    "parquet": "parquet", "serve": "serve", "simulate": "simulator", "top": "top", "web": "web",
}  # fmt: skip


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
    try:
        args = _parsed(arguments)
        configure_logging(debug=args.debug)
        code: int = args.run(args)
    except (ConfigError, PluginError, SymbolError) as error:
        print(f"tapeloom: {error}", file=sys.stderr)
        return 2
    except TapeloomError as error:
        print(f"tapeloom: {error}", file=sys.stderr)
        return 1
    return code


def _no_command(verb: str, names: Iterable[str]) -> PluginError:
    """Return the error for a command that no installed package has."""
    if (folder := _ELSEWHERE.get(verb)) is None:
        hint = nearest(verb, names) or f" There are {', '.join(names)}."
        return PluginError(verb, f"there is no command {verb!r}.{hint}")
    return PluginError(
        verb,
        f"the command {verb!r} is part of the package tapeloom-{folder}, which is not installed."
        f" In a clone of tapeloom: pip install ./plugins/{folder}",
    )


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what *arguments* say. Raises PluginError if no package has their command."""
    parser, commands = _parser(arguments)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        command, option = commands[args.verb], unknown[0].partition("=")[0]
        problem = f"expected no more arguments, got {unknown[0]!r}."
        if option.startswith("-"):
            known = re.findall(r"--[a-z][a-z-]*", command.format_help())
            problem = f"there is no option {option!r}.{nearest(option, known)}"
        command.error(problem)
    return args


def _parser(
    arguments: Sequence[str],
) -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser of *arguments*, and that of each command."""
    parser = argparse.ArgumentParser(
        prog="tapeloom",
        description="Live market data as one normalised, continuous, checked stream.",
        epilog="Each command has its own help: tapeloom run --help",
    )
    parser.add_argument("--debug", action="store_true", help="also log debug messages")
    parser.add_argument("--version", action="version", version=f"tapeloom {version('tapeloom')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add(verbs)
    if not arguments or arguments[0] not in verbs.choices:
        _add_plugin_commands(verbs)
    verb = next((argument for argument in arguments if not argument.startswith("-")), "")
    if verb and verb not in verbs.choices:
        raise _no_command(verb, verbs.choices)
    return parser, verbs.choices


def _add_plugin_commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of installed plugins; a broken plugin is reported and skipped."""
    registry = Registry()
    for name in installed():
        try:
            registry.load(name)
            registry.call(name, "commands", verbs=verbs)
        except PluginError as error:
            print(f"tapeloom: {error}", file=sys.stderr)
