"""``python tests/chaos_venue [--minutes 10] [--seed 1]``: run in real time and print the accounts."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import anyio
import structlog

# Where a folder is run, its parent is not on the path.
sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos_venue import ledger, runs


def main() -> int:
    """Return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    # Thousands of warnings are as they must be.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rows = anyio.run(partial(runs.run_long, given.minutes * 60.0, given.seed))
    print(ledger.table(rows))
    return 1 if any(row.problems for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
