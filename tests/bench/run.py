"""Every measurement, in rounds: the contestants of a table in turn, again and again; medians count.

    python tests/bench/run.py                     every table
    python tests/bench/run.py plain paced         some
    python tests/bench/run.py --rounds 9 --write  more rounds, and the documentation's figures anew

Peers are measured where their environments are, which ``nox -s peers`` makes; others are left out.
The server has one processor, the contestant the other. Read the ratios, of one table, of one run:
absolute figures do not repeat from run to run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import trustme

sys.path.insert(0, str(Path(__file__).parent))
import report
from tables import TABLES, Contestant, Table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CPUS = sorted(os.sched_getaffinity(0))
WITHIN = 60.0  # seconds for one run of one contestant

Row = dict[str, float]


def python(contestant: Contestant) -> str | None:
    """Return the interpreter that a contestant needs, None where there is none."""
    if not contestant.peer:
        return sys.executable
    folder = Path(os.environ.get("TAPELOOM_PEERS", ROOT / ".nox"))
    found = sorted(folder.glob(f"peer-{contestant.peer}/bin/python"))
    return str(found[0]) if found else None


@contextmanager
def serving(table: Table, options: Sequence[str], folder: Path) -> Iterator[str]:
    """Run a server; give its address."""
    words = [sys.executable, str(HERE / "firehose.py"), "--count", str(table.count), *options]
    words += ["--tls", str(folder)] if table.tls else []
    words += ["--cpu", str(CPUS[0])] if len(CPUS) > 1 else []
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.stdin.close()


def run(contestant: Contestant, table: Table, url: str, folder: Path) -> Row | None:
    """Let a contestant run once; None where it did not get to its end, which is told."""
    interpreter = python(contestant)
    assert interpreter is not None
    words = [interpreter, str(HERE / f"clients/{contestant.script}.py"), "--url", url]
    words += ["--count", str(contestant.count or table.count), *contestant.options]
    words += ["--ca", str(folder / "ca.pem")] if table.tls else []
    words += ["--cpu", str(CPUS[1])] if len(CPUS) > 1 else []
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=WITHIN)
    except subprocess.TimeoutExpired:
        print(f"{contestant.label}: not all has come within {WITHIN:g} s", file=sys.stderr)
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"count"')]
    if not lines:
        print(f"{contestant.label}: {done.stderr[-500:]}", file=sys.stderr)
        return None
    row: Row = json.loads(lines[-1])
    return row


def measure(table: Table, rounds: int, folder: Path) -> dict[str, Row]:
    """Return the medians of every contestant that is here, by its label."""
    present = [contestant for contestant in table.contestants if python(contestant) is not None]
    for label in sorted(
        {contestant.label for contestant in table.contestants}
        - {contestant.label for contestant in present}
    ):
        print(f"{label}: its environment is not here (nox -s peers)", file=sys.stderr)
    rows: dict[str, list[Row]] = {contestant.label: [] for contestant in present}
    with ExitStack() as servers:
        urls = {
            options: servers.enter_context(serving(table, (*table.server, *options), folder))
            for options in dict.fromkeys(contestant.server for contestant in present)
        }
        for _ in range(rounds):
            for contestant in present:
                row = run(contestant, table, urls[contestant.server], folder)
                if row is not None:
                    rows[contestant.label].append(row)
    return {label: middle(some) for label, some in rows.items() if some}


def middle(rows: Sequence[Mapping[str, float]]) -> Row:
    """Return the median of each figure."""
    return {name: median(row[name] for row in rows) for name in rows[0]}


def certificate(folder: Path) -> None:
    """Write a certificate for the server, and the authority to trust."""
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    own.private_key_pem.write_to_path(str(folder / "key.pem"))
    with (folder / "cert.pem").open("wb") as file:
        file.writelines(pem.bytes() for pem in own.cert_chain_pems)


def main() -> None:
    """Measure what is asked for; print it, and write it down where that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="table", help=", ".join(TABLES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write charts and figures into docs")
    given = parser.parse_args()
    if unknown := set(given.tables) - set(TABLES):
        parser.error(f"there is no table {min(unknown)!r}, only {', '.join(TABLES)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate(folder)
        for key in given.tables or TABLES:
            table = TABLES[key]
            rows = measure(table, given.rounds, folder)
            print(report.text(table, rows), flush=True)
            if given.write:
                report.write(key, table, rows, given.rounds)


if __name__ == "__main__":
    main()
