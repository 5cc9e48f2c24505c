"""``tapeloom plugins``: what is installed, and what has been proven of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tapeloom._compose.conformance import Conformance, conformances
from tapeloom._compose.registry import Registry


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "plugins",
        help="list the installed plugins",
        description="List the installed plugins: name, version, hooks, event loops, what their"
        " contract has proven, where from.",
        epilog="example: tapeloom plugins --conformance",
    )
    parser.add_argument(
        "--conformance", action="store_true", help="say what is proven of each, market by market"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List; return the exit code."""
    proven = conformances()
    if args.conformance:
        for level in proven.values():
            _print_proven(level)
        return 0
    rows = [("NAME", "VERSION", "HOOKS", "BACKENDS", "CONFORMANCE", "FROM")]
    shown = Registry().describe()
    for plugin in shown:
        provides = [*plugin.hooks, *(f"{hook} (wraps)" for hook in plugin.wraps)]
        rows.append(
            (
                plugin.name,
                plugin.version or "-",
                " ".join(provides) if not plugin.problem else "broken, see below",
                " ".join(plugin.backends),
                str(proven.get(plugin.name, "-")),
                f"{plugin.distribution} {plugin.origin}".strip(),
            )
        )
    _print_table(rows)
    broken = [plugin.problem for plugin in shown if plugin.problem]
    for problem in broken:
        print(problem)
    return 1 if broken else 0


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _print_proven(level: Conformance) -> None:
    for market, proof in level.proven.items():
        print(f"{level.kind} {level.name} {market}".rstrip())
        for title, words in (
            ("channels", proof.channels),
            ("history", proof.history),
            ("guarantees", proof.guarantees),
        ):
            if words:
                print(f"  {title}: {' '.join(words)}")
        for reason in dict.fromkeys(proof.without.values()):
            some = [word for word, one in proof.without.items() if one == reason]
            print(f"  not {', '.join(some)}: {reason}")
