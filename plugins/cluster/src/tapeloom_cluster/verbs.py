"""``tapeloom cluster``: who is in a cluster, and letting a node hold nothing."""

from __future__ import annotations

import argparse

__all__ = ["add"]


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``cluster`` to the command line."""
    verb = verbs.add_parser(
        "cluster",
        help="look at a cluster of nodes, and drain one",
        description="Look at the nodes that run a stack with [cluster], and drain one before it is stopped.",
        epilog="example: tapeloom cluster status stack.toml",
    )
    kinds = verb.add_subparsers(dest="kind", required=True, metavar="WHAT")
    status = kinds.add_parser(
        "status",
        help="nodes, their shards, lag, last event and gaps",
        epilog="example: tapeloom cluster status stack.toml",
    )
    status.add_argument("stack", metavar="STACK.toml")
    status.add_argument("--shards", action="store_true", help="also list each shard and its owners")
    status.set_defaults(run=_status)
    drain = kinds.add_parser(
        "drain",
        help="let other nodes take the shards of a node, without a gap",
        epilog="example: tapeloom cluster drain stack.toml node-2",
    )
    drain.add_argument("stack", metavar="STACK.toml")
    drain.add_argument("node", metavar="NODE")
    drain.add_argument("--undo", action="store_true", help="let the node hold shards again")
    drain.add_argument(
        "--wait", type=float, default=60.0, metavar="SECONDS", help="time limit; default: 60"
    )
    drain.set_defaults(run=_drain)
    demo = kinds.add_parser(
        "demo",
        help="kill a node of a cluster on this machine, and see that nothing is missing",
        description="Start a NATS server, a simulated venue, two nodes and a reader, and kill a node."
        " Needs tapeloom-cluster[server].",
        epilog="example: tapeloom cluster demo",
    )
    demo.add_argument(
        "--for",
        dest="seconds",
        type=float,
        default=12.0,
        metavar="SECONDS",
        help="how long the nodes are watched; default: 12",
    )
    demo.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from .demo import run

    return run(args.seconds)


def _status(args: argparse.Namespace) -> int:
    from .operations import status

    return status(args.stack, shards=args.shards)


def _drain(args: argparse.Namespace) -> int:
    from .operations import drain, undo

    return undo(args.stack, args.node) if args.undo else drain(args.stack, args.node, args.wait)
