"""Plugins: listed without being imported, loaded by name, asked one at a time.

Only what a stack names is ever imported. What goes wrong in a plugin is one `PluginError` that names
the plugin and what to do about it. Venues, stages, sinks and transports share one namespace: the
names of the entry points.
"""

from __future__ import annotations

from .discovery import GROUP, SWITCH, Found, installed
from .registry import Registry, Shown
from .rules import BACKENDS

__all__ = ["BACKENDS", "GROUP", "SWITCH", "Found", "Registry", "Shown", "installed"]
