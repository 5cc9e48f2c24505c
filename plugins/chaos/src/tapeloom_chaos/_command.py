"""The command ``tapeloom chaos``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

__all__ = ["add"]

_EXAMPLE = """\
example:
  tapeloom chaos --port 9100 'delay = 0.01' 'reset = { at = 30, period = 60, count = 0 }'

Point a stack at it with the lines it prints, and stop it with Ctrl-C. Faults are written as in a
stack under [stage.chaos]: README of tapeloom-chaos. A relay has refuse, answer, slow, reset, close,
half_open, stall, delay, split and corrupt.
"""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    verb = verbs.add_parser(
        "chaos",
        help="run a proxy that injects faults into the traffic",
        description="Run a proxy on this machine that forwards bytes and injects faults.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument(
        "faults", metavar="FAULT", nargs="*", help="a line of TOML, such as 'delay = 0.01'"
    )
    verb.add_argument(
        "--faults", type=Path, dest="file", metavar="FILE.toml", help="more faults, in a file"
    )
    verb.add_argument("--to", default="", metavar="HOST:PORT", help="forward to this address instead of being an HTTP proxy")  # fmt: skip
    verb.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")  # fmt: skip
    verb.add_argument("--port", type=int, default=0, help="the port to listen on (default: any free one)")  # fmt: skip
    verb.add_argument("--seed", type=int, default=0, help="the same seed injects the same faults (default: 0)")  # fmt: skip
    verb.add_argument("--for", type=float, dest="seconds", metavar="SECONDS", help="stop after this time")  # fmt: skip
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    import anyio

    try:
        anyio.run(_run, args)
    except (ValueError, TypeError, OSError) as problem:
        print(f"tapeloom chaos: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def _faults(args: argparse.Namespace) -> dict[str, Any]:
    import tomllib

    lines = "\n".join([args.file.read_text("utf-8") if args.file else "", *args.faults])
    return {"seed": args.seed, **tomllib.loads(lines)}


async def _run(args: argparse.Namespace) -> None:
    from collections import Counter

    import anyio

    from ._relay import relay

    async with relay(to=args.to, host=args.host, port=args.port, **_faults(args)) as running:
        if args.to:
            print(f"Forwarding {running.host}:{running.port} to {args.to}, with faults.")
        else:
            print(f'A proxy with faults. Lines for a stack:\n\n[network]\nproxy = "{running.url}"')
        print("\nCtrl-C stops it.", flush=True)
        try:
            with anyio.move_on_after(args.seconds):
                await anyio.sleep_forever()
        finally:
            counts = Counter(injected.fault for injected in running.injected)
            faults = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
            print(
                f"{running.counters['connections']} connections,"
                f" {running.counters['bytes']} bytes, faults: {faults or 'none'}"
            )
