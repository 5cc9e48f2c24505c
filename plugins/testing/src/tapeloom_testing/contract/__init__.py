"""Contracts: a test file of ten lines gives a plugin the whole battery. They need pytest.

    class TestAcme(VenueContract):
        venue = "acme"
        markets = {"spot": ("BTC/USDT",)}
        channels = ("trades", "book")

Each test is a claim; what does not apply is skipped, and says why. What was proven is written into
the plugin's package with ``pytest --write-contract``, and held against it ever after.

`declared` has the words, `proving` remembers and writes down. `composed` is a venue's client side without
a network and `static_market` a market for it to talk about, as `dialogue`, `keepalive_limits`, `naming`, `no_reply` and
`history` do. `readers` are the ways in which a transport is read. `recording` is a run against the simulator, which `truth`, `frames` and `endings` look at.
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

_HOMES = {
    "SinkContract": "sink",
    "StageContract": "stage",
    "TransportContract": "transport",
    "VenueContract": "venue",
}


def __getattr__(name: str) -> Any:
    # A stage's contract needs Hypothesis, a venue's does not.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
