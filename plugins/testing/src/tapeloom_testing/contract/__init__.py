"""Contracts: classes of tests that a plugin inherits to check all its guarantees. They need pytest.

    class TestAcme(VenueContract):
        venue = "acme"
        markets = {"spot": ("BTC/USDT",)}
        channels = ("trades", "book")

Each test checks one guarantee; a guarantee that does not apply is skipped with the reason.
``pytest --write-contract`` writes what was proven into the conformance file of the plugin's package;
every later run compares with this file.

`declared` has the guarantees and exceptions; `proving` is the base class, which caches outcomes and
writes conformance files. `composed` is the client side of a venue without a network, and `static_market`
a market for its server side; `dialogue`, `keepalive_limits`, `naming`, `no_reply` and `history` check
messages and replies with them. `recording` records a run against the simulator, which `truth`, `frames`
and `endings` check. `readers` has the connections and peers that the contract of a transport uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .declared import Capture, ContractViolation, NotApplicable

if TYPE_CHECKING:
    from .sink import SinkContract
    from .stage import StageContract
    from .transport import TransportContract
    from .venue import VenueContract

__all__ = [
    "Capture",
    "ContractViolation",
    "NotApplicable",
    "SinkContract",
    "StageContract",
    "TransportContract",
    "VenueContract",
]

#: Contract class → the module that defines it.
_MODULES = {
    "SinkContract": "sink",
    "StageContract": "stage",
    "TransportContract": "transport",
    "VenueContract": "venue",
}


def __getattr__(name: str) -> Any:
    # Imported lazily: the contract of a stage needs Hypothesis, that of a venue does not.
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
