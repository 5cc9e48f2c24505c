"""The venues that can be simulated: found in the entry-point group ``tapeloom.simulators``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom import Registry
from tapeloom.errors import PluginBroken
from tapeloom.harness import HookSpecs, InstalledPlugin

from . import hooks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .server_api import Market, VenueServer

__all__ = ["SPECS", "simulators", "venue_server"]

SPECS = HookSpecs(hooks, "tapeloom_simulator", "tapeloom.simulators")


def simulators(found: Mapping[str, InstalledPlugin] | None = None) -> Registry:
    """Return a registry of the installed simulators, or of those in *found*."""
    return Registry(found, specs=SPECS)


def venue_server(venue: str, market: Market, registry: Registry | None = None) -> VenueServer:
    """Return the server side of *venue*, from the simulator of that name.

    Raises PluginNotFound or PluginBroken.
    """
    made: VenueServer | None = (registry or simulators()).call(venue, "simulate", market=market)
    if made is None:
        raise PluginBroken(venue, f"simulator {venue!r} returns no server side from `simulate`.")
    return made
