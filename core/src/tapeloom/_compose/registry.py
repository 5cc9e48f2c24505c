"""`Registry`: the plugins of one stack, imported by name, and the calls of their hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from tapeloom import hooks
from tapeloom.errors import PluginBroken, PluginError, PluginNotFound, TapeloomError, nearest

from .discovery import InstalledPlugin, import_plugin, installed
from .hook_checks import BACKENDS, HookSpecs, faulty_plugin, one_line, verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


#: The plugin name of core itself.
_CORE = "<core>"


@attrs.frozen
class PluginInfo:
    """A plugin as ``tapeloom plugins`` lists it: its origin, and its hooks or why it is broken."""

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
        """Name, version, hooks, event loops and origin, as cells of a table."""
        provides = " ".join([*self.hooks, *(f"({hook})" for hook in self.wraps)])
        backends = " ".join(self.backends)
        origin = " ".join(filter(None, (self.distribution, self.origin)))
        return self.name, self.version, self.problem or provides, backends, origin


class Registry:
    """The plugins of one stack. Plugins are loaded, and their hooks called, by plugin name.

    *found* are the installed plugins, by default those that `installed` finds. *specs* are the hooks
    that plugins may implement, by default those of core.
    """

    def __init__(
        self, found: Mapping[str, InstalledPlugin] | None = None, *, specs: HookSpecs | None = None
    ) -> None:
        self._specs = specs or HookSpecs(hooks)
        self._manager = pluggy.PluginManager(self._specs.project)
        self._manager.add_hookspecs(self._specs.module)
        self._installed = None if found is None else dict(found)
        self._registered: set[str] = set()

    @property
    def installed(self) -> dict[str, InstalledPlugin]:
        """The installed plugins by name, hidden ones included; discovered once."""
        if self._installed is None:
            self._installed = installed(hidden=True, group=self._specs.group)
        return self._installed

    def register(self, plugin: object, name: str) -> None:
        """Register a module or an object as the plugin *name*, in place of an installed one.

        Raises PluginBroken if it breaks the hook rules or the name is already registered.
        """
        if self._manager.get_plugin(name) is plugin:
            return
        if name in self._registered:
            raise PluginBroken(
                name, f"two plugins are registered as {name!r}. Give each a unique name."
            )
        self._register(plugin, name)
        self._registered.add(name)

    def load(self, name: str) -> None:
        """Import and register the plugin *name* and no other, unless it is already registered.

        Raises PluginNotFound or PluginBroken.
        """
        if self._manager.has_plugin(name):
            return
        plugin = self.installed.get(name)
        if plugin is None:
            known = [key for key, entry in self.installed.items() if not entry.hidden]
            raise PluginNotFound(name, {*known, *self._registered})
        self._register(import_plugin(plugin), name)

    def call(
        self, name: str, hook: str, *, wrappers: tuple[str, ...] = (), **arguments: Any
    ) -> Any:
        """Call *hook* of the plugin *name* only; return its result, or None if it has no such hook.

        The hook wrappers of the plugins in *wrappers* run around it. The wrapper that was loaded last
        is the outermost; `tryfirst` and `trylast` change that.

        Raises PluginNotFound or PluginBroken. A `TapeloomError` from inside the hook passes through.
        """
        first_result = self._specs.first_result
        if hook not in first_result:
            raise ValueError(f"there is no hook {hook!r}.{nearest(hook, first_result)}")
        if hook not in self.implements(name):
            return None
        active = {name, *(wrapper for wrapper in wrappers if hook in self.wraps(wrapper))}
        plugins = self._manager.list_name_plugin()
        excluded = [plugin for plugin_name, plugin in plugins if plugin_name not in active]
        caller = self._manager.subset_hook_caller(hook, excluded)
        try:
            result = caller(**arguments)
        except TapeloomError:
            raise
        except Exception as error:
            faulty = faulty_plugin(error, caller) or name
            problem = f"plugin {faulty!r}: its hook {hook!r} raised {one_line(error)}."
            remedy = f" This is a defect of the plugin{self._report_hint(faulty)}."
            raise PluginBroken(faulty, problem + remedy) from error
        if isinstance(result, list) and not first_result[hook]:
            return result[0] if result else None
        return result

    def wrapped(self, plugin: object, hook: str, wrappers: Iterable[str], **arguments: Any) -> Any:
        """Call *hook* of *plugin*, an object of core without a plugin name, as `call` does.

        Plugins in *wrappers* can so wrap an implementation that belongs to core.
        """
        self._manager.register(plugin, _CORE)
        try:
            return self.call(_CORE, hook, wrappers=tuple(dict.fromkeys(wrappers)), **arguments)
        finally:
            self._manager.unregister(plugin)

    def implements(self, name: str) -> tuple[str, ...]:
        """Load the plugin *name*; return the hooks that it implements, in the order of `hooks`."""
        return self._hooks(name, wrapping=False)

    def wraps(self, name: str) -> tuple[str, ...]:
        """Load the plugin *name*; return the hooks of other plugins that it wraps."""
        return self._hooks(name, wrapping=True)

    def describe(self) -> list[PluginInfo]:
        """Import every plugin and return its description; a broken one has a `problem`."""
        names = sorted({*self._registered, *self.installed})
        return [self._describe(name) for name in names if self._is_visible(name)]

    def _is_visible(self, name: str) -> bool:
        return name in self._registered or not self.installed[name].hidden

    def _describe(self, name: str) -> PluginInfo:
        source = InstalledPlugin(name, "", origin="registered by the program")
        if name not in self._registered:
            source = self.installed[name]
        info = PluginInfo(name, source.distribution, source.version, source.origin)
        try:
            implements, wraps = self.implements(name), self.wraps(name)
        except PluginError as error:
            return attrs.evolve(info, problem=str(error))
        plugin = self._manager.get_plugin(name)
        backends = tuple(sorted(getattr(plugin, "BACKENDS", BACKENDS)))
        return attrs.evolve(info, hooks=implements, wraps=wraps, backends=backends)

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

    def _register(self, plugin: Any, name: str) -> None:
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
            problem = f"it is already the plugin {other!r}" if other else one_line(error)
            raise PluginBroken(name, f"plugin {name!r} breaks the hook rules: {problem}") from error

    def _report_hint(self, name: str) -> str:
        plugin = None if name in self._registered else self.installed.get(name)
        return f" ({plugin}): report it to its authors" if plugin else ""
