"""The command ``demo``: run a simulated venue and stream from it in one process."""

from __future__ import annotations

import argparse
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Sequence

    from tapeloom import Stack, Stream

    from .simulation import Simulation

__all__ = ["add"]

#: Channels to stream and the stages for them: the first pair whose channels the venue supports.
_CHOICES = (
    (("trades", "quotes", "book"), ("quality", "books", "bars")),
    (("trades", "quotes"), ("quality", "bars")),
    (("trades",), ("quality", "bars")),
)
_EXAMPLE = """\
example:
  tapeloom demo --for 10
  tapeloom demo --sink web

Nothing is configured and nothing leaves this machine: a simulated venue runs inside, and its spot and
futures markets are streamed by the code that streams the real one.
"""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    verb = verbs.add_parser(
        "demo",
        help="watch simulated markets become checked events and bars",
        description="Stream simulated spot and futures markets: a live table in a terminal, plain"
        " lines elsewhere, a summary at the end.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--for", type=float, dest="seconds", metavar="SECONDS", help="stop after")
    verb.add_argument(
        "--venue", default="", help="the venue to simulate (default: binance, else the first found)"
    )
    verb.add_argument("--rate", type=float, default=200.0, metavar="N", help="trades a second")
    verb.add_argument(
        "--sink",
        action="append",
        default=[],
        metavar="NAME",
        help="an installed sink that gets the events as well, with its default settings, such as web;"
        " may be given several times",
    )
    verb.add_argument("--seed", type=int, default=7, help="the same seed makes the same market")
    verb.add_argument(
        "--out", choices=("table", "jsonl", "none"), default="table", help="default: table"
    )
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    from tapeloom.cli import drive, output

    venue, plugins = _installed(args.venue)
    return drive(lambda: _demo(args, venue, plugins), output(args.out), seconds=args.seconds)


def _installed(venue: str) -> tuple[str, Container[str]]:
    """Return a venue that can be simulated, and the names of the installed plugins.

    Raises PluginNotFound if no installed venue can be simulated.
    """
    from tapeloom.errors import PluginNotFound
    from tapeloom.harness import installed

    from .registry import simulators

    plugins = installed()
    venues = [
        name
        for name, found in simulators().installed.items()
        if name in plugins and not found.hidden and not plugins[name].hidden
    ]
    if (venue and venue not in venues) or not venues:
        raise PluginNotFound(venue or "binance", venues)
    usual = "binance" if "binance" in venues else venues[0]
    return venue or usual, plugins


@asynccontextmanager
async def _demo(
    args: argparse.Namespace, venue: str, plugins: Container[str]
) -> AsyncIterator[Stream]:
    from .market import SimulatedMarket
    from .registry import venue_server
    from .simulation import serve

    # Only the venue's server side knows the venue's symbols, and it needs some market to be made.
    markets = venue_server(venue, SimulatedMarket(("BTC/USDT",))).markets
    simulation = serve(
        venue,
        symbols=[symbol for market_symbols in markets.values() for symbol in market_symbols],
        seed=args.seed,
        rate=args.rate,
        keep=False,
        epoch=None,
    )
    async with simulation as sim, _open_stream(venue, sim, plugins, args.sink) as stream:
        yield stream


def _open_stream(
    venue: str, sim: Simulation, plugins: Container[str], sinks: Sequence[str]
) -> Stream:
    """Open the demo's stack with as many channels as the venue supports.

    Raises ConfigError if it supports none.
    """
    import tapeloom
    from tapeloom.errors import ConfigError

    for channels, wanted in _CHOICES:
        stages = tuple(stage for stage in wanted if stage in plugins)
        stack = _stack(venue, sim, stages, channels, sinks)
        try:
            return tapeloom.open(stack)
        except ConfigError:
            if (channels, wanted) == _CHOICES[-1]:
                raise
    raise AssertionError("unreachable")


def _stack(
    venue: str,
    sim: Simulation,
    stages: tuple[str, ...],
    channels: tuple[str, ...],
    sinks: Sequence[str],
) -> Stack:
    from tapeloom import FeedSpec, SinkSpec, Stack

    feeds = [
        FeedSpec(venue, symbols, channels, market=market, stages=stages)
        for market, symbols in sim.venue.markets.items()
    ]
    bars = {"bars": {"every": ["1s", "1m"]}} if "bars" in stages else {}
    return Stack(
        feeds=feeds, stages=bars, venues={venue: sim.settings}, sinks=tuple(map(SinkSpec, sinks))
    )
