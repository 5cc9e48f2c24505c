"""The rules for hook implementations, checked before a plugin is registered."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING

import attrs

from tapeloom.errors import PluginBroken, nearest

if TYPE_CHECKING:
    import pluggy


#: The event loops that a plugin supports unless it defines `BACKENDS` itself.
BACKENDS = ("asyncio", "trio")
#: The entry-point group of plugins. The name of an entry is the name of the plugin in a stack.
GROUP = "tapeloom.plugins"


@attrs.frozen(slots=False)
class HookSpecs:
    """The hooks that plugins may implement, and the entry-point group of the plugins."""

    module: ModuleType  #: the module with the hook specifications
    project: str = "tapeloom"  #: pluggy's project name, with which the specifications are marked
    group: str = GROUP

    @cached_property
    def first_result(self) -> dict[str, bool]:
        """Every hook by name, and whether only the first result is used (pluggy's `firstresult`)."""
        marker = f"{self.project}_spec"
        return {
            name: bool(getattr(spec, marker)["firstresult"])
            for name, spec in vars(self.module).items()
            if hasattr(spec, marker)
        }


def verify(manager: pluggy.PluginManager, specs: HookSpecs, plugin: object, name: str) -> None:
    """Check the hooks of a plugin before it is registered.

    Raises PluginBroken if a hook would never be called, or would be called with wrong arguments.
    """
    problem = (
        "" if _hashable(plugin) else "it cannot be hashed. Register a module or a plain object."
    )
    seen: dict[tuple[str, bool], str] = {}
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if problem or options is None:
            continue
        hook = options.get("specname") or attribute
        if hook not in specs.first_result:
            if not options.get("optionalhook"):
                problem = f"there is no hook {hook!r}.{nearest(hook, specs.first_result)}"
            continue
        other = seen.setdefault((hook, False), attribute)
        if other != attribute:
            problem = f"it implements the hook {hook!r} twice, as {other!r} and {attribute!r}."
            problem += " A plugin may implement or wrap each hook once. Split it into two plugins."
        else:
            problem = _argument_problem(specs, plugin, attribute, hook)
            problem = problem or _module_problem(plugin, attribute)
    problem = problem or ("" if seen else _no_hooks(specs, plugin)) or _backends_problem(plugin)
    if problem:
        raise PluginBroken(name, f"plugin {name!r} breaks the hook rules: {problem}")


def _hashable(plugin: object) -> bool:
    try:
        hash(plugin)
    except TypeError:
        return False
    return True


def _argument_problem(specs: HookSpecs, plugin: object, attribute: str, hook: str) -> str:
    allowed = list(inspect.signature(getattr(specs.module, hook)).parameters)
    implementation = getattr(plugin, attribute)
    for parameter in inspect.signature(implementation).parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        if parameter.name in allowed or parameter.default is not parameter.empty:
            continue
        if parameter.name == "self" and inspect.isclass(plugin):
            return f"it is a class. Point the entry point at an instance of {plugin.__name__!r}."
        accepted = f"takes {', '.join(allowed)}" if allowed else "takes no arguments"
        hint = nearest(parameter.name, allowed)
        return f"its hook {hook!r} has the parameter {parameter.name!r}, but the hook {accepted}.{hint}"
    return ""


def _module_problem(plugin: object, attribute: str) -> str:
    """Say that a module of a package would take the place of its hook when it is imported."""
    if not isinstance(plugin, ModuleType) or not hasattr(plugin, "__path__"):
        return ""
    module = f"{plugin.__name__}.{attribute}"
    if module in sys.modules or importlib.util.find_spec(module) is None:
        return ""
    return (
        f"importing its module {module!r} would replace its hook {attribute!r}. Rename one of them, or"
        f' name the hook by @hookimpl(specname="{attribute}").'
    )


def _backends_problem(plugin: object) -> str:
    backends = getattr(plugin, "BACKENDS", BACKENDS)
    if isinstance(backends, tuple | list | set | frozenset) and set(backends) <= set(BACKENDS):
        return ""
    return f"its BACKENDS are {backends!r}; expected some of {BACKENDS!r}."


def _no_hooks(specs: HookSpecs, plugin: object) -> str:
    module = specs.module.__name__
    unmarked = [name for name in specs.first_result if callable(getattr(plugin, name, None))]
    if unmarked:
        return f"its {unmarked[0]!r} is not marked. Add @hookimpl, from {module}, above it."
    kind = "module" if isinstance(plugin, ModuleType) else "object"
    return f"the {kind} implements no hook. Mark its hooks with @hookimpl, from {module}."


def faulty_plugin(error: BaseException, caller: pluggy.HookCaller) -> str:
    """Return the name of the plugin whose code raised *error*, the wrapped one or a wrapper; or ""."""
    owners = {
        getattr(impl.function, "__code__", None): impl.plugin_name
        for impl in caller.get_hookimpls()
    }
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((owners[code] for code in reversed(frames) if code in owners), "")


def one_line(error: BaseException) -> str:
    """Return type and message of an exception on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
