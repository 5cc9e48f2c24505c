"""The plugins of one stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from tapeloom import hooks
from tapeloom.errors import PluginBroken, PluginError, PluginNotFound, TapeloomError, nearest

from .discovery import InstalledPlugin, imported, installed
from .hook_checks import BACKENDS, HookSpecs, brief, culprit, verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


#: Stands for core where a plugin's name would stand.
_OURS = "<core>"


@attrs.frozen
class PluginInfo:
    """A plugin as it is listed: where it is from, and what it provides or why it cannot."""

    name: str
    distribution: str
    version: str
    origin: str
    hooks: tuple[str, ...] = ()
    wraps: tuple[str, ...] = ()
    backends: tuple[str, ...] = BACKENDS
    problem: str = ""

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        """Name, version, hooks, event loops, where from: as cells of a table."""
        provides = " ".join([*self.hooks, *(f"({hook})" for hook in self.wraps)])
        backends = " ".join(self.backends)
        origin = " ".join(filter(None, (self.distribution, self.origin)))
        return self.name, self.version, self.problem or provides, backends, origin


class Registry:
    """The plugins of one stack: loaded by name, asked by name.

    *specs* are the hooks that they may implement, where those are not core's own.
    """

    def __init__(
        self, found: Mapping[str, InstalledPlugin] | None = None, *, specs: HookSpecs | None = None
    ) -> None:
        self._specs = specs or HookSpecs(hooks)
        self._manager = pluggy.PluginManager(self._specs.project)
        self._manager.add_hookspecs(self._specs.module)
        self._installed = None if found is None else dict(found)
        self._own: set[str] = set()

    @property
    def found(self) -> dict[str, InstalledPlugin]:
        """The installed plugins, looked up once."""
        if self._installed is None:
            self._installed = installed(hidden=True, group=self._specs.group)
        return self._installed

    def register(self, plugin: object, name: str) -> None:
        """Register a module or an object as the plugin *name*, before any installed one.

        Raises PluginBroken where it breaks the rules of the hooks, or the name is taken.
        """
        if self._manager.get_plugin(name) is plugin:
            return
        if name in self._own:
            raise PluginBroken(
                name, f"two plugins are registered as {name!r}. Give each a name of its own."
            )
        self._enter(plugin, name)
        self._own.add(name)

    def load(self, name: str) -> None:
        """Import and register the plugin *name*, and no other; one that is there is left alone.

        Raises PluginNotFound or PluginBroken.
        """
        if self._manager.has_plugin(name):
            return
        found = self.found.get(name)
        if found is None:
            known = [one for one, entry in self.found.items() if not entry.hidden]
            raise PluginNotFound(name, {*known, *self._own})
        self._enter(imported(found), name)

    def call(
        self, name: str, hook: str, *, wrappers: tuple[str, ...] = (), **arguments: Any
    ) -> Any:
        """Ask the plugin *name*, and only it, for *hook*; None where it does not implement it.

        The hook wrappers of the plugins named in *wrappers* are put around it. The one that was
        loaded last is the outermost; `tryfirst` and `trylast` change that.

        Raises PluginNotFound or PluginBroken. A `TapeloomError` from inside the hook passes through.
        """
        first_result = self._specs.first_result
        if hook not in first_result:
            raise ValueError(f"there is no hook {hook!r}.{nearest(hook, first_result)}")
        if hook not in self.implements(name):
            return None
        active = {name, *(one for one in wrappers if hook in self.wraps(one))}
        idle = [plugin for one, plugin in self._manager.list_name_plugin() if one not in active]
        caller = self._manager.subset_hook_caller(hook, idle)
        try:
            result = caller(**arguments)
        except TapeloomError:
            raise
        except Exception as error:
            guilty = culprit(error, caller) or name
            problem = f"plugin {guilty!r}: its hook {hook!r} raised {brief(error)}."
            remedy = f" This is a defect of the plugin{self._report(guilty)}."
            raise PluginBroken(guilty, problem + remedy) from error
        if isinstance(result, list) and not first_result[hook]:
            return result[0] if result else None
        return result

    def wrapped(self, plugin: object, hook: str, wrappers: Iterable[str], **arguments: Any) -> Any:
        """Ask *plugin*, which is none that anybody can name, as `call` does.

        It is how core puts what the named plugins wrap around something of its own.
        """
        self._manager.register(plugin, _OURS)
        try:
            return self.call(_OURS, hook, wrappers=tuple(dict.fromkeys(wrappers)), **arguments)
        finally:
            self._manager.unregister(plugin)

    def implements(self, name: str) -> tuple[str, ...]:
        """Return the hooks that the plugin *name* implements, in the order of `hooks`. Loads it."""
        return self._hooks(name, wrapping=False)

    def wraps(self, name: str) -> tuple[str, ...]:
        """Return the hooks of other plugins that the plugin *name* wraps. Loads it."""
        return self._hooks(name, wrapping=True)

    def describe(self) -> list[PluginInfo]:
        """Describe every plugin there is, importing each; one that is broken says why."""
        names = sorted({*self._own, *self.found})
        return [self._shown(name) for name in names if self._visible(name)]

    def _visible(self, name: str) -> bool:
        return name in self._own or not self.found[name].hidden

    def _shown(self, name: str) -> PluginInfo:
        found = InstalledPlugin(name, "", origin="registered by the program")
        if name not in self._own:
            found = self.found[name]
        shown = PluginInfo(name, found.distribution, found.version, found.origin)
        try:
            implements, wraps = self.implements(name), self.wraps(name)
        except PluginError as error:
            return attrs.evolve(shown, problem=str(error))
        plugin = self._manager.get_plugin(name)
        backends = tuple(sorted(getattr(plugin, "BACKENDS", BACKENDS)))
        return attrs.evolve(shown, hooks=implements, wraps=wraps, backends=backends)

    def _hooks(self, name: str, *, wrapping: bool) -> tuple[str, ...]:
        self.load(name)
        plugin = self._manager.get_plugin(name)
        return tuple(
            hook
            for hook in self._specs.first_result
            for implementation in getattr(self._manager.hook, hook).get_hookimpls()
            if implementation.plugin is plugin
            and (implementation.wrapper or implementation.hookwrapper) is wrapping
        )

    def _enter(self, plugin: Any, name: str) -> None:
        verify(self._manager, self._specs, plugin, name)
        before = self._manager.get_plugin(name)
        if before is not None:
            self._manager.unregister(name=name)
        try:
            self._manager.register(plugin, name=name)
        except (pluggy.PluginValidationError, ValueError) as error:
            other = self._manager.get_name(plugin)
            if other == name:
                self._manager.unregister(name=name)
                other = None
            problem = f"it is the plugin {other!r} already" if other else brief(error)
            raise PluginBroken(
                name, f"plugin {name!r} breaks the rules of the hooks: {problem}"
            ) from error

    def _report(self, name: str) -> str:
        found = None if name in self._own else self.found.get(name)
        return f" ({found}): report it to its authors" if found else ""
