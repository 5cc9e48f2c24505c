"""What a venue provides to be simulated: one hook, in the entry-point group ``tapeloom.simulators``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .server_api import Market, VenueServer

__all__ = ["hookimpl", "hookspec", "simulate"]

hookspec = pluggy.HookspecMarker("tapeloom_simulator")
hookimpl = pluggy.HookimplMarker("tapeloom_simulator")


@hookspec(firstresult=True)
def simulate(market: Market) -> VenueServer:
    """Return the venue's server side, fed by a simulated market."""
    raise NotImplementedError
