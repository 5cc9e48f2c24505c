"""The command ``tapeloom parquet``."""

from __future__ import annotations

import argparse
import sys

from tapeloom.units import size_bytes

__all__ = ["add"]

_EXAMPLE = """\
examples:
  tapeloom parquet compact data
  tapeloom parquet sql "select symbol, count(*) from trade group by all" data
"""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    verb = verbs.add_parser(
        "parquet",
        help="compact or query a folder of Parquet files",
        description="Compact or query a folder that the sink `parquet` has written.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")
    compact = actions.add_parser(
        "compact",
        help="join small files",
        description="Join the small files of each partition. Sinks may write, and readers read, meanwhile.",
    )
    compact.add_argument("path", metavar="PATH", help="the folder of the files")
    compact.add_argument(
        "--target", type=_size, default="256MB", metavar="SIZE", help="join files smaller than this, up to this (default: 256MB)"
    )  # fmt: skip
    compact.set_defaults(run=_compact)
    publish = actions.add_parser(
        "publish",
        help="make files of what a killed process has left in its journal",
        description="Make files of what a killed process has left in its journal, as its next start does.",
    )
    publish.add_argument("path", metavar="PATH", help="the folder of the files")
    publish.set_defaults(run=_publish)
    sql = actions.add_parser(
        "sql",
        help="run a query; each type of event is a table",
        description="Run a query with DuckDB. Each type of event is a table, such as trade, quote or gap.",
    )
    sql.add_argument("query", metavar="QUERY", help="an SQL query, such as 'select * from trade'")
    sql.add_argument("path", metavar="PATH", help="the folder of the files")
    sql.add_argument("--rows", type=int, default=40, help="number of rows to show (default: 40)")
    sql.set_defaults(run=_sql)


def _size(text: str) -> int:
    try:
        size = size_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return size


def _compact(args: argparse.Namespace) -> int:
    from tapeloom.cli import Progress

    from .compaction import compact

    with Progress("compact", "partitions") as progress:
        changed = compact(args.path, target=args.target, on_progress=progress.update)
    for result in changed:
        print(f"{result.partition}: {result.files_before} files are now {result.files_after}")
    before = sum(result.files_before for result in changed)
    after = sum(result.files_after for result in changed)
    print(f"{len(changed)} partitions changed: {before} files are now {after}")
    return 0


def _publish(args: argparse.Namespace) -> int:
    from .leftovers import publish_leftovers

    count = publish_leftovers(args.path)
    print(f"{count} journals published")
    return 0


def _sql(args: argparse.Namespace) -> int:
    from .reading import connect, waiting

    with connect(args.path) as connection:
        import duckdb

        try:
            relation = connection.sql(args.query)
            if relation is not None:
                relation.show(max_rows=args.rows)
        except duckdb.Error as error:
            print(f"tapeloom: {error}", file=sys.stderr)
            return 1
    if count := waiting(args.path):
        print(f"{count:,} newer events are not in files yet", file=sys.stderr)
    return 0
