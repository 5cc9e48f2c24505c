"""RustyBT's module path of the adapter for this broker."""

from __future__ import annotations

from tapeloom_rustybt.venues import IBBrokerAdapter

__all__ = ["IBBrokerAdapter"]
