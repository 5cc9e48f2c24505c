"""Six feeds of a hundred symbols under every fault at once: the ledger balances, and nothing grows.

``python tests/test_soak.py --seconds 600 --seed 1`` is the long run, ``nox -s soak`` the same: real
time, and the venues in a process of their own, so that what is measured is the stream alone. In the
suite time is virtual, and the venues are in this process.

Faults come from three sides, at random times of a fixed seed: the venues have those of the simulator,
the feeds the stage `chaos`, and all that is dialled goes through its relays. For the last minute and a
half there are none, so that whatever is late, silent or still to be fetched has its time.

Interactive Brokers numbers nothing and knows no past. Of its trades it is held that each was delivered
once, in order, or lies in a gap that was told; what is repeated or left out there nobody can tell.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
import structlog
from soak.books import report
from soak.held import Held, left
from soak.places import PLACES, QUIET, Place
from soak.venues import elsewhere, stack_of, venues
from soak.watching import Watched, watch
from tapeloom import Stack
from tapeloom._runtime.system_clock import SystemClock
from tapeloom_simulator import EPOCH
from tapeloom_testing import LoopClock, virtual_backend

#: Virtual seconds of the run in the suite.
SHORT = 300.0
#: How many times the memory after the first minute may be in use in the end; and how many times that
#: after the first third, where the markets are in this process: they remember more and more.
MOST, TOGETHER = 1.1, 1.3
#: By how much the venues' own intervals are shortened where time is virtual: bans, ages, pings.
SCALE = 5.0


async def soak(places: Sequence[Place], folder: Path, seconds: float, seed: int) -> Watched:
    """Run venues and stream in this process, on a loop whose time is virtual."""
    until, clock = seconds - QUIET, LoopClock(EPOCH)
    held = Held.now()
    async with venues(places, folder, seed, until, EPOCH, SCALE) as found:
        stack = stack_of(places, found, seed, until)
        watched = await watch(places, stack, folder, seconds, seed, clock)
    watched.left = await left(held)
    return watched


async def alone(
    places: Sequence[Place], stack: Stack, folder: Path, seconds: float, seed: int
) -> Watched:
    """Run the stream, and nothing else, in this process."""
    held = Held.now()
    watched = await watch(places, stack, folder, seconds, seed, SystemClock())
    watched.left = await left(held)
    return watched


@pytest.fixture
def quiet() -> Iterator[None]:
    """Log nothing: thousands of warnings are as they must be."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_under_all_faults_the_ledger_balances_and_nothing_is_left(
    loop: str, tmp_path: Path
) -> None:
    places = PLACES if loop == "asyncio" else PLACES[:-1]
    name, options = virtual_backend(loop)
    before = Held.now()
    run = partial(soak, places, tmp_path, SHORT, 1)
    watched = anyio.run(run, backend=name, backend_options=options)
    gc.collect()
    watched.left += Held.now().beside(before, "files", "threads")
    found = report(places, tmp_path, watched, after=SHORT / 3, most=TOGETHER)
    print(found)

    assert found.problems == []
    assert sum(row.sum("sent") for row in found.rows) > 15_000
    assert sum(row.sum("live") for row in found.rows) > 4_000
    # IB is no transport of ours: what is done to it, the relay does.
    assert [name for name, some in found.injected.items() if not some] == ["chaos in ib"][
        : loop == "asyncio"
    ]


def main() -> int:
    """Run for as long as is asked for; print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--virtual", action="store_true", help="virtual time, and one process")
    parser.add_argument("--trio", action="store_true", help="on trio, without what needs asyncio")
    parser.add_argument("--keep", type=Path, help="a folder for what was sent and what came")
    given = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50)
    )  # it would be read by nobody
    loop = "trio" if given.trio else "asyncio"
    places = PLACES if loop == "asyncio" else PLACES[:-1]
    until = given.seconds - QUIET
    with ExitStack() as exits:
        folder = given.keep or Path(exits.enter_context(TemporaryDirectory()))
        before = Held.now()
        if given.virtual:
            name, options = virtual_backend(loop)
            run = partial(soak, places, folder, given.seconds, given.seed)
            watched = anyio.run(run, backend=name, backend_options=options)
        else:
            with elsewhere(folder, given.seed, until) as found:
                stack = stack_of(places, found, given.seed, until)
                run = partial(alone, places, stack, folder, given.seconds, given.seed)
                watched = anyio.run(run, backend=loop)
        gc.collect()
        watched.left += Held.now().beside(before, "files", "threads")
        third = given.seconds / 3
        after, most = (third, TOGETHER) if given.virtual else (min(60.0, third), MOST)
        held = report(places, folder, watched, after=after, most=most)
        print(held)
        return 1 if held.problems else 0


if __name__ == "__main__":
    sys.exit(main())
