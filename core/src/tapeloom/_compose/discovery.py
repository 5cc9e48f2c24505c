"""What is installed, found without importing any of it; and the import of one plugin."""

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

from .hook_checks import GROUP, brief

if TYPE_CHECKING:
    from collections.abc import Iterator


#: An environment variable: only the plugins that it names, separated by commas, may be found.
SWITCH = "TAPELOOM_PLUGINS"


@attrs.frozen
class InstalledPlugin:
    """An installed plugin, not imported. `rivals` are other distributions that claim its name."""

    name: str
    module: str  #: what is imported: ``package.module`` or ``package.module:object``
    distribution: str = ""
    version: str = ""
    origin: str = ""  #: the folder it is installed in; an editable one says so
    hidden: bool = False  #: the environment variable `SWITCH` leaves it out
    rivals: tuple[str, ...] = ()
    entry: importlib.metadata.EntryPoint | None = attrs.field(default=None, repr=False, eq=False)

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


def installed(*, hidden: bool = False, group: str = GROUP) -> dict[str, InstalledPlugin]:
    """Return the plugins that are installed in a *group*, by name, in the order of their names.

    Nothing is imported. Those that the environment variable `SWITCH` leaves out are returned only
    where *hidden* asks for them.
    """
    switch = os.environ.get(SWITCH)
    allowed = None if switch is None else {name.strip() for name in switch.split(",")}
    found: dict[str, InstalledPlugin] = {}
    for distribution in _distributions(group):
        for entry in distribution.entry_points.select(group=group):
            one = _found(
                entry, distribution, hidden=allowed is not None and entry.name not in allowed
            )
            if first := found.get(entry.name):
                one = attrs.evolve(first, rivals=(*first.rivals, str(one)))
            found[entry.name] = one
    return {name: found[name] for name in sorted(found) if hidden or not found[name].hidden}


def _distributions(group: str) -> Iterator[importlib.metadata.Distribution]:
    """Yield each distribution once: the one that the import system would see first."""
    seen = set()
    for distribution in importlib.metadata.distributions():
        if not distribution.entry_points.select(group=group):
            continue
        name = re.sub(r"[-_.]+", "-", _metadata(distribution)[0]).lower()
        if name not in seen:
            seen.add(name)
            yield distribution


def _found(
    entry: importlib.metadata.EntryPoint,
    distribution: importlib.metadata.Distribution,
    *,
    hidden: bool,
) -> InstalledPlugin:
    name, version = _metadata(distribution)
    origin = _origin(distribution)
    return InstalledPlugin(entry.name, entry.value, name, version, origin, hidden, entry=entry)


def _metadata(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    try:  # an installation that was cut off leaves no metadata behind; each Python says so its own way
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
        pass  # whoever wrote it broke the rules; where it is installed is still known
    return str(distribution.locate_file(""))


def imported(found: InstalledPlugin) -> Any:
    """Import a plugin.

    Raises PluginBroken, with the cause in one line and the remedy.
    """
    name = found.name
    if found.hidden:
        raise PluginBroken(
            name, f"plugin {name!r} is installed, but {SWITCH} leaves it out. Add {name!r} to it."
        )
    if found.rivals:
        several = " and ".join((str(found), *found.rivals))
        raise PluginBroken(
            name, f"plugin {name!r} is claimed by {several}. Uninstall all of them but one."
        )
    if found.entry is None:
        raise PluginBroken(name, f"plugin {name!r} has no entry point to load it by.")
    try:
        return found.entry.load()
    except (Exception, SystemExit) as error:
        cause = _import_problem(found, error)
        raise PluginBroken(
            name, f"plugin {name!r} ({found}) cannot be imported: {cause}"
        ) from error


def _import_problem(found: InstalledPlugin, error: BaseException) -> str:
    again = f"Try: pip install --force-reinstall {found.distribution}"
    upgrade = f"Try: pip install --upgrade {found.distribution}"
    module, _, attribute = found.module.partition(":")
    if isinstance(error, ModuleNotFoundError) and error.name:
        if module == error.name or module.startswith(f"{error.name}."):
            return f"its module {module!r} is not there. {again}"
        if not error.name.startswith("tapeloom."):
            return f"it needs {error.name!r}, which is not installed. {upgrade}"
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "tapeloom":
        return f"{brief(error)}. It was made for another version of tapeloom. {upgrade} tapeloom"
    if isinstance(error, AttributeError) and attribute and module in sys.modules:
        return f"its module {module!r} has no {attribute!r}. {again}"
    return f"{brief(error)}{_where(error)}. {upgrade}"


def _where(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return ""  # its message says it
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
