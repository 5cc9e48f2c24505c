"""What a plugin must not do, checked before it is registered."""

from __future__ import annotations

import inspect
import traceback
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING

import attrs

from tapeloom.errors import PluginBroken, nearest

if TYPE_CHECKING:
    import pluggy


#: The event loops that a plugin works on where it does not say otherwise.
BACKENDS = ("asyncio", "trio")
#: The group of the entry points of plugins; the name of an entry is the word that a stack uses.
GROUP = "tapeloom.plugins"


@attrs.frozen(slots=False)
class HookSpecs:
    """The hooks that plugins may implement, and the entry-point group in which the plugins are found.

    *module* has the specifications, marked for pluggy's *project*.
    """

    module: ModuleType
    project: str = "tapeloom"
    group: str = GROUP

    @cached_property
    def first_result(self) -> dict[str, bool]:
        """Every hook by name, and whether its first result is all that is asked for."""
        marker = f"{self.project}_spec"
        return {
            name: bool(getattr(spec, marker)["firstresult"])
            for name, spec in vars(self.module).items()
            if hasattr(spec, marker)
        }


def verify(manager: pluggy.PluginManager, specs: HookSpecs, plugin: object, name: str) -> None:
    """Check a plugin before anything is registered.

    Raises PluginBroken for what would otherwise never be called, or be called the wrong way.
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
            problem = f"it implements the hook {hook!r} twice, as {other!r} and as {attribute!r}."
            problem += " A plugin implements or wraps a hook, once: make them two plugins."
        else:
            problem = _argument_problem(specs, plugin, attribute, hook)
    problem = problem or ("" if seen else _no_hooks(specs, plugin)) or _backends_problem(plugin)
    if problem:
        raise PluginBroken(name, f"plugin {name!r} breaks the rules of the hooks: {problem}")


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
            return f"it is a class. Let the entry point name an instance of {plugin.__name__!r}."
        takes = f"takes {', '.join(allowed)}" if allowed else "takes no argument"
        hint = nearest(parameter.name, allowed)
        return f"its hook {hook!r} asks for {parameter.name!r}; the hook {takes}.{hint}"
    return ""


def _backends_problem(plugin: object) -> str:
    backends = getattr(plugin, "BACKENDS", BACKENDS)
    if isinstance(backends, tuple | list | set | frozenset) and set(backends) <= set(BACKENDS):
        return ""
    return f"its BACKENDS are {backends!r}; expected some of {BACKENDS!r}."


def _no_hooks(specs: HookSpecs, plugin: object) -> str:
    home = specs.module.__name__
    bare = [name for name in specs.first_result if callable(getattr(plugin, name, None))]
    if bare:
        return f"its {bare[0]!r} is not marked. Write @hookimpl, from {home}, above it."
    kind = "module" if isinstance(plugin, ModuleType) else "object"
    return f"the {kind} has no hook. Mark what it provides with @hookimpl, from {home}."


def culprit(error: BaseException, caller: pluggy.HookCaller) -> str:
    """Return the name of the plugin in whose code *error* arose: a wrapper's, or the wrapped one's."""
    owners = {
        getattr(one.function, "__code__", None): one.plugin_name for one in caller.get_hookimpls()
    }
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((owners[code] for code in reversed(frames) if code in owners), "")


def brief(error: BaseException) -> str:
    """Return an exception on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
