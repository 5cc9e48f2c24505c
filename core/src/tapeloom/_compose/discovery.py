"""Discovery of installed plugins by their entry points, and the import of one plugin.

Discovery imports nothing.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import attrs

from tapeloom.errors import PluginBroken

from .hook_checks import GROUP, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator


#: Environment variable with plugin names, separated by commas: if set, all other plugins are hidden.
SWITCH = "TAPELOOM_PLUGINS"


@attrs.frozen
class InstalledPlugin:
    """An installed plugin, not imported."""

    name: str
    module: str  #: what is imported: ``package.module`` or ``package.module:object``
    distribution: str = ""
    version: str = ""
    origin: str = ""  #: the folder it is installed in, or "editable" and its source folder
    hidden: bool = False  #: whether the environment variable `SWITCH` hides it
    rivals: tuple[str, ...] = ()  #: other distributions that provide a plugin of this name
    entry: importlib.metadata.EntryPoint | None = attrs.field(default=None, repr=False, eq=False)

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


def installed(*, hidden: bool = False, group: str = GROUP) -> dict[str, InstalledPlugin]:
    """Return the installed plugins of an entry-point *group* by name, sorted by name.

    Plugins that the environment variable `SWITCH` hides are included only if *hidden* is true. Nothing
    is imported.
    """
    switch = os.environ.get(SWITCH)
    allowed = None if switch is None else {name.strip() for name in switch.split(",")}
    found: dict[str, InstalledPlugin] = {}
    for distribution in _distributions(group):
        for entry in distribution.entry_points.select(group=group):
            is_hidden = allowed is not None and entry.name not in allowed
            plugin = _installed_plugin(entry, distribution, hidden=is_hidden)
            if first := found.get(entry.name):
                plugin = attrs.evolve(first, rivals=(*first.rivals, str(plugin)))
            found[entry.name] = plugin
    return {name: found[name] for name in sorted(found) if hidden or not found[name].hidden}


def _distributions(group: str) -> Iterator[importlib.metadata.Distribution]:
    """Yield each distribution once: the copy that comes first on the import path."""
    seen = set()
    for distribution in importlib.metadata.distributions():
        if not distribution.entry_points.select(group=group):
            continue
        name = re.sub(r"[-_.]+", "-", _metadata(distribution)[0]).lower()
        if name not in seen:
            seen.add(name)
            yield distribution


def _installed_plugin(
    entry: importlib.metadata.EntryPoint,
    distribution: importlib.metadata.Distribution,
    *,
    hidden: bool,
) -> InstalledPlugin:
    name, version = _metadata(distribution)
    origin = _origin(distribution)
    return InstalledPlugin(entry.name, entry.value, name, version, origin, hidden, entry=entry)


def _metadata(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    try:  # an interrupted installation has no metadata; the exception depends on the Python version
        metadata = distribution.metadata
        return metadata["Name"] or "an unnamed package", metadata["Version"] or ""
    except Exception:
        return "an unnamed package", ""


def _origin(distribution: importlib.metadata.Distribution) -> str:
    try:
        source = json.loads(distribution.read_text("direct_url.json") or "{}")
        if source.get("dir_info", {}).get("editable"):
            return f"editable {unquote(urlsplit(source['url']).path)}"
    except (AttributeError, KeyError, TypeError, ValueError):
        pass  # direct_url.json is malformed; the folder is still known
    return str(distribution.locate_file(""))


def import_plugin(plugin: InstalledPlugin) -> Any:
    """Import and return a plugin.

    Raises PluginBroken with the cause on one line and what to do about it.
    """
    name = plugin.name
    if plugin.hidden:
        raise PluginBroken(
            name, f"plugin {name!r} is installed, but {SWITCH} hides it. Add {name!r} to it."
        )
    if plugin.rivals:
        several = " and ".join((str(plugin), *plugin.rivals))
        raise PluginBroken(
            name, f"plugin {name!r} is provided by {several}. Uninstall all but one of them."
        )
    if plugin.entry is None:
        raise PluginBroken(name, f"plugin {name!r} has no entry point, so it cannot be loaded.")
    try:
        return plugin.entry.load()
    except (Exception, SystemExit) as error:
        cause = _import_problem(plugin, error)
        raise PluginBroken(
            name, f"plugin {name!r} ({plugin}) cannot be imported: {cause}"
        ) from error


def _import_problem(plugin: InstalledPlugin, error: BaseException) -> str:
    reinstall = f"Try: pip install --force-reinstall {plugin.distribution}"
    upgrade = f"Try: pip install --upgrade {plugin.distribution}"
    module, _, attribute = plugin.module.partition(":")
    if isinstance(error, ModuleNotFoundError) and error.name:
        if module == error.name or module.startswith(f"{error.name}."):
            return f"its module {module!r} does not exist. {reinstall}"
        if not error.name.startswith("tapeloom."):
            return f"it needs {error.name!r}, which is not installed. {upgrade}"
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "tapeloom":
        return f"{one_line(error)}. It needs another version of tapeloom. {upgrade} tapeloom"
    if isinstance(error, AttributeError) and attribute and module in sys.modules:
        return f"its module {module!r} has no {attribute!r}. {reinstall}"
    return f"{one_line(error)}{_location(error)}. {upgrade}"


def _location(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return ""  # its message has the location
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
