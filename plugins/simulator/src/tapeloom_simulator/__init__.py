"""Simulated venues for tapeloom: a seeded market, the venue's protocol, faults and the ground truth.

    async with serve("binance", symbols=["BTC/USDT"], seed=7) as sim:
        print(sim.url, sim.settings)

`market` and `instrument` generate trades and book updates. `server`, `connection` (`websocket`, `tcp`)
and `hub` send them to the clients, and `market_runner` paces them. `faults` and `injector` inject faults.
`truth` records what really happened, and `ledger` compares it with what a stream delivered. The venue's
package implements its protocol through the hook `simulate` in `hooks`; `server_api` is the interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapeloom.hooks import hookimpl

if TYPE_CHECKING:
    import argparse

    from .faults import Fault, load
    from .listings import MAJORS, Listed, listed
    from .market import EPOCH, SimulatedMarket
    from .registry import simulators, venue_server
    from .simulation import Simulation, serve
    from .truth import ConnectionRecord, InjectedFault, SentStream, TrueQuote, TrueTrade, Truth
    from .truth_file import TruthFile

__all__ = [
    "EPOCH",
    "MAJORS",
    "Account",
    "ConnectionRecord",
    "Fault",
    "InjectedFault",
    "Ledger",
    "Listed",
    "SentStream",
    "SimulatedMarket",
    "Simulation",
    "TrueQuote",
    "TrueTrade",
    "Truth",
    "TruthFile",
    "count_reports",
    "impossible_quotes",
    "listed",
    "load",
    "serve",
    "simulators",
    "venue_server",
]

_HOMES = {
    "faults": ("Fault", "load"),
    "ledger": ("Account", "Ledger", "impossible_quotes", "count_reports"),
    "listings": ("MAJORS", "Listed", "listed"),
    "market": ("EPOCH", "SimulatedMarket"),
    "registry": ("venue_server", "simulators"),
    "simulation": ("Simulation", "serve"),
    "truth": ("InjectedFault", "ConnectionRecord", "TrueQuote", "SentStream", "TrueTrade", "Truth"),
    "truth_file": ("TruthFile",),
}


def __getattr__(name: str) -> Any:
    # The command line always imports this module; importing the server on demand keeps it fast.
    for home, names in _HOMES.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl
def commands(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs ``simulate`` and ``demo``."""
    from . import command, demo

    command.add(verbs)
    demo.add(verbs)
