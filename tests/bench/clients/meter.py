"""What every contestant measures itself with. It needs nothing but the standard library."""

from __future__ import annotations

import argparse
import json
import os
import resource
import ssl
import sys
import time
import urllib.request
from array import array
from pathlib import Path

_BASES = ["BTC", "ETH", "SOL", "BNB", "XRP", "DOGE", "ADA", "AVAX", "LINK", "LTC"]


def bases(symbols: int = 10) -> list[str]:
    """Return the base assets of so many symbols; all are quoted in USDT."""
    return [_BASES[n] if n < 10 else f"S{n}" for n in range(symbols)]


def arguments(*more: tuple[str, object]) -> argparse.Namespace:
    """Read what every contestant is told; go to its processor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", default="")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--late", action="store_true", help="measure how late each one comes")
    for name, default in more:
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args()
    if given.cpu is not None:
        os.sched_setaffinity(0, {given.cpu})
    return given


def trust(given: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the context that trusts the server, None where it speaks no TLS."""
    return ssl.create_default_context(cafile=given.ca) if given.ca else None


def peak() -> float:
    """Return the most memory that this program has held, in MB."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # elsewhere a child's peak begins with that of who started it
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


class Meter:
    """Counts from the first to the last, and then prints what it took, and leaves the process."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.left = given.count
        self.arrivals: array[int] | None = array("q") if given.late else None
        self._given = given
        self._clocks: tuple[float, float] | None = None

    def take(self, number: int) -> None:
        """So many have come."""
        if self._clocks is None:
            self._clocks = time.perf_counter(), time.process_time()
        if self.arrivals is not None:
            now = time.perf_counter_ns()
            self.arrivals.extend([now] * number)
        self.left -= number
        if self.left <= 0:
            self.finish()

    def finish(self) -> None:
        """Print, and leave at once."""
        assert self._clocks is not None
        wall, cpu = time.perf_counter() - self._clocks[0], time.process_time() - self._clocks[1]
        count = self._given.count
        out = {
            "count": count - self.left,
            "rate": count / wall,
            "cpu_us": cpu / count * 1e6,
            "memory_mb": peak(),
        }
        if self.arrivals is not None:
            out |= self._lateness()
        print(json.dumps(out), flush=True)
        os._exit(0)

    def _lateness(self) -> dict[str, float]:
        """How late what was paced came, in us, without the first bit of the run."""
        assert self.arrivals is not None
        url = f"http{self._given.url.removeprefix('ws')}/stamps"
        with urllib.request.urlopen(url, context=trust(self._given)) as answer:
            stamps = json.load(answer)
        late = sorted(
            (there - here) / 1000
            for there, here in list(zip(self.arrivals, stamps, strict=False))[500:]
        )
        return {
            name: late[min(len(late) - 1, int(len(late) * part))]
            for name, part in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
        }


def fail(words: str) -> None:
    """Say why there is no figure."""
    print(words, file=sys.stderr)
    sys.exit(1)
