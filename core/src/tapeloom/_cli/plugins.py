"""``tapeloom plugins``: what is installed."""

from __future__ import annotations

import argparse

from tapeloom._plugins import Registry

__all__ = ["add", "run"]


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "plugins",
        help="list the installed plugins",
        description="List the installed plugins: name, version, hooks, event loops, where from.",
        epilog="example: tapeloom plugins",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List; return the exit code."""
    rows = [("NAME", "VERSION", "HOOKS", "BACKENDS", "FROM")]
    shown = Registry().describe()
    for plugin in shown:
        provides = [*plugin.hooks, *(f"{hook} (wraps)" for hook in plugin.wraps)]
        rows.append(
            (
                plugin.name,
                plugin.version or "-",
                " ".join(provides) if not plugin.problem else "broken, see below",
                " ".join(plugin.backends),
                f"{plugin.distribution} {plugin.origin}".strip(),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    broken = [plugin.problem for plugin in shown if plugin.problem]
    for problem in broken:
        print(problem)
    return 1 if broken else 0
