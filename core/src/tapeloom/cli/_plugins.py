"""``tapeloom plugins``: lists the installed plugins and their conformance results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tapeloom._compose.conformance import Conformance, conformances
from tapeloom._compose.registry import Registry


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = verbs.add_parser(
        "plugins",
        help="list the installed plugins",
        description="List the installed plugins: name, version, hooks, event loops, conformance results,"
        " origin.",
        epilog="example: tapeloom plugins --conformance",
    )
    parser.add_argument(
        "--conformance", action="store_true", help="print the conformance results of each market"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list; return the exit code, 1 if a plugin is broken."""
    results = conformances()
    if args.conformance:
        for result in results.values():
            _print_conformance(result)
        return 0
    rows = [("NAME", "VERSION", "HOOKS", "BACKENDS", "CONFORMANCE", "FROM")]
    described = Registry().describe()
    for plugin in described:
        hooks = [*plugin.hooks, *(f"{hook} (wraps)" for hook in plugin.wraps)]
        rows.append(
            (
                plugin.name,
                plugin.version or "-",
                " ".join(hooks) if not plugin.problem else "broken, see below",
                " ".join(plugin.backends),
                str(results.get(plugin.name, "-")),
                f"{plugin.distribution} {plugin.origin}".strip(),
            )
        )
    _print_table(rows)
    broken = [plugin.problem for plugin in described if plugin.problem]
    for problem in broken:
        print(problem)
    return 1 if broken else 0


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _print_conformance(result: Conformance) -> None:
    for market, proof in result.proven.items():
        print(f"{result.kind} {result.name} {market}".rstrip())
        for title, names in (
            ("channels", proof.channels),
            ("history", proof.history),
            ("guarantees", proof.guarantees),
        ):
            if names:
                print(f"  {title}: {' '.join(names)}")
        for reason in dict.fromkeys(proof.without.values()):
            guarantees = [name for name, why in proof.without.items() if why == reason]
            print(f"  not {', '.join(guarantees)}: {reason}")
