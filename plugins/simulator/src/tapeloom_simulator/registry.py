"""The venues that can be simulated: found in the entry-point group ``tapeloom.simulators``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeloom import Registry
from tapeloom.errors import PluginBroken
from tapeloom.harness import Found, HookSpecs

from . import hooks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .server_api import Counterpart, Market

__all__ = ["SPECS", "counterpart", "simulators"]

SPECS = HookSpecs(hooks, "tapeloom_simulator", "tapeloom.simulators")


def simulators(found: Mapping[str, Found] | None = None) -> Registry:
    """Return a registry of the installed simulators, or of those in *found*."""
    return Registry(found, specs=SPECS)


def counterpart(venue: str, market: Market, registry: Registry | None = None) -> Counterpart:
    """Return the server side of *venue*, from the simulator of that name.

    Raises PluginNotFound or PluginBroken.
    """
    made: Counterpart | None = (registry or simulators()).call(venue, "simulate", market=market)
    if made is None:
        raise PluginBroken(venue, f"simulator {venue!r} returns no server side from `simulate`.")
    return made
