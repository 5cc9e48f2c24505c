"""The guide's traditional brokers, where RustyBT has its own."""

from __future__ import annotations

from tapeloom_rustybt import AlpacaBrokerAdapter, IBBrokerAdapter

__all__ = ["AlpacaBrokerAdapter", "IBBrokerAdapter"]
