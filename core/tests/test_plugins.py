"""Discovery and `Registry`, tested with real plugin distributions installed into a temporary folder."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
from tapeloom._compose.discovery import GROUP, SWITCH, installed
from tapeloom._compose.registry import Registry
from tapeloom.errors import ConfigError, Mistake, PluginBroken, PluginError, PluginNotFound
from tapeloom.hooks import hookimpl

Install = Callable[..., str]
NUMBER = count()

STAGE = """\
from tapeloom.hooks import hookimpl

@hookimpl
def validate(feed):
    return ("validated", feed)
"""

WRAPPER = """\
from tapeloom.hooks import hookimpl

@hookimpl(wrapper=True)
def validate(feed):
    inner = yield
    return ("{name}", inner)
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to install into, first on the import path; no other plugin is visible."""
    folder = tmp_path / "site"
    folder.mkdir()
    path = [part for part in sys.path if not list(Path(part).glob("tapeloom*.dist-info"))]
    monkeypatch.setattr(sys, "path", [str(folder), *path])
    importlib.invalidate_caches()
    monkeypatch.delenv(SWITCH, raising=False)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("made_"):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Return a function that installs a distribution with one plugin and returns its module name."""

    def install(
        name: str,
        source: str | None = STAGE,
        *,
        distribution: str = "",
        value: str = "",
        editable: str = "",
        version: str = "1.2",
    ) -> str:
        module = f"made_{next(NUMBER)}"
        distribution = distribution or f"tapeloom-{name}"
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {distribution}\nVersion: {version}\n")
        entry = value.format(module=module) or module
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {entry}\n")
        if editable:
            origin = {"url": f"file://{editable}", "dir_info": {"editable": True}}
            (info / "direct_url.json").write_text(json.dumps(origin))
        if source is not None:
            (site / f"{module}.py").write_text(source)
        return module

    return install


def broken(registry: Registry, name: str) -> str:
    with pytest.raises(PluginBroken) as caught:
        registry.load(name)
    assert caught.value.plugin == name
    return str(caught.value)


# --------------------------------------------------------------------------------------- discovery


def test_plugins_are_listed_without_being_imported(install: Install, site: Path) -> None:
    modules = {install("bars"), install("acme", "raise SystemExit")}

    found = installed()

    assert list(found) == ["acme", "bars"]
    assert found["bars"].distribution == "tapeloom-bars"
    assert found["bars"].version == "1.2"
    assert found["bars"].module in modules
    assert found["bars"].origin == str(site)
    assert not modules & set(sys.modules)


def test_editable_installation_is_shown_with_its_folder(install: Install) -> None:
    install("bars", editable="/home/me/my%20bars")

    assert installed()["bars"].origin == "editable /home/me/my bars"


@pytest.mark.parametrize("text", ["{", "[]", '{"dir_info": 5}', '{"dir_info": {"editable": true}}'])
def test_broken_origin_falls_back_to_the_folder(install: Install, site: Path, text: str) -> None:
    install("bars")
    (site / "tapeloom_bars-1.2.dist-info" / "direct_url.json").write_text(text)

    assert installed()["bars"].origin == str(site)


def test_installation_without_metadata_is_listed_too(install: Install, site: Path) -> None:
    install("bars")
    (site / "tapeloom_bars-1.2.dist-info" / "METADATA").unlink()

    assert str(installed()["bars"]) == "an unnamed package"


def test_distributions_without_plugin_entry_points_are_ignored(
    install: Install, site: Path
) -> None:
    install("bars")
    points = site / "tapeloom_bars-1.2.dist-info" / "entry_points.txt"
    points.write_text("[console_scripts]\nbars = x:y\n")

    assert installed() == {}


@pytest.mark.parametrize(
    ("switch", "names"), [("", []), ("bars", ["bars"]), (" bars , gone", ["bars"])]
)
def test_environment_variable_restricts_which_plugins_are_found(
    install: Install, monkeypatch: pytest.MonkeyPatch, switch: str, names: list[str]
) -> None:
    install("bars")
    install("acme")
    monkeypatch.setenv(SWITCH, switch)

    assert list(installed()) == names
    assert [shown.name for shown in Registry().describe()] == names


def test_loading_a_hidden_plugin_names_the_environment_variable(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("bars")
    monkeypatch.setenv(SWITCH, "acme")

    assert broken(Registry(), "bars") == (
        "plugin 'bars' is installed, but TAPELOOM_PLUGINS hides it. Add 'bars' to it."
    )


def test_copy_later_on_the_path_is_ignored(
    install: Install, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("bars", distribution="tapeloom.Bars", version="1.0")
    other = site / "other"
    old = other / "tapeloom_bars-0.9.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Name: tapeloom-bars\nVersion: 0.9\n")
    (old / "entry_points.txt").write_text(f"[{GROUP}]\nbars = nowhere\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(other)])

    found = installed()["bars"]

    assert (str(found), found.rivals) == ("tapeloom.Bars 1.0", ())


# ----------------------------------------------------------------------------------------- loading


def test_only_the_named_plugin_is_imported(install: Install) -> None:
    bars, acme = install("bars"), install("acme")

    Registry().load("bars")

    assert bars in sys.modules
    assert acme not in sys.modules


def test_loading_twice_has_no_effect(install: Install) -> None:
    install("bars")
    registry = Registry()
    registry.load("bars")
    registry.load("bars")

    assert registry.implements("bars") == ("validate",)


def test_missing_plugin_is_reported_with_the_nearest_name(install: Install) -> None:
    install("bars")
    registry = Registry()
    registry.register(SimplePlugin(), "quality")

    with pytest.raises(PluginNotFound, match=r"no plugin named 'bras' .* Did you mean 'bars'\?$"):
        registry.load("bras")
    with pytest.raises(PluginNotFound, match=r"Did you mean 'quality'\?$"):
        registry.load("qality")
    with pytest.raises(PluginNotFound, match=r"Install the package that has it"):
        registry.load("kraken")


def test_broken_plugin_does_not_affect_others(install: Install) -> None:
    install("bars")
    install("acme", "1 / 0")
    registry = Registry()

    message = broken(registry, "acme")
    registry.load("bars")

    assert message.startswith("plugin 'acme' (tapeloom-acme 1.2) cannot be imported: ZeroDivision")
    assert registry.implements("bars") == ("validate",)


IMPORTS = {
    "a package it needs is not there": (
        "import no_such_package.part",
        "it needs 'no_such_package', which is not installed. Try: pip install --upgrade tapeloom-acme",
    ),
    "made for another core": (
        "from tapeloom.hooks import no_such_hook",
        (
            "ImportError: cannot import name 'no_such_hook' from 'tapeloom.hooks' ({core}/hooks.py)."
            " It needs another version of tapeloom."
            " Try: pip install --upgrade tapeloom-acme tapeloom"
        ),
    ),
    "made for another module of core": (
        "import tapeloom.no_such_room",
        (
            "ModuleNotFoundError: No module named 'tapeloom.no_such_room'."
            " It needs another version of tapeloom."
            " Try: pip install --upgrade tapeloom-acme tapeloom"
        ),
    ),
    "syntax": (
        "def broken(:\n    pass",
        "SyntaxError: invalid syntax ({module}.py, line 1). Try: pip install --upgrade tapeloom-acme",
    ),
    "anything else": (
        "\nraise OSError('no\\nway')",
        "OSError: no way ({site}/{module}.py, line 2). Try: pip install --upgrade tapeloom-acme",
    ),
    "it exits": (
        "import sys\nsys.exit(3)",
        "SystemExit: 3 ({site}/{module}.py, line 2). Try: pip install --upgrade tapeloom-acme",
    ),
}


@pytest.mark.parametrize("kind", IMPORTS)
def test_failed_import_is_reported_on_one_line_with_the_remedy(
    install: Install, site: Path, kind: str
) -> None:
    source, cause = IMPORTS[kind]
    module = install("acme", source)
    core = Path(sys.modules["tapeloom.hooks"].__file__ or "").parent

    message = broken(Registry(), "acme")

    cause = cause.format(site=site, module=module, core=core)
    assert message == f"plugin 'acme' (tapeloom-acme 1.2) cannot be imported: {cause}"


def test_missing_module_or_attribute_suggests_reinstallation(install: Install) -> None:
    gone = install("gone", None)
    bare = install("bare", value="{module}:plugin")
    registry = Registry()

    assert broken(registry, "gone") == (
        f"plugin 'gone' (tapeloom-gone 1.2) cannot be imported: its module {gone!r} does not exist."
        " Try: pip install --force-reinstall tapeloom-gone"
    )
    assert broken(registry, "bare") == (
        f"plugin 'bare' (tapeloom-bare 1.2) cannot be imported: its module {bare!r} has no 'plugin'."
        " Try: pip install --force-reinstall tapeloom-bare"
    )


def test_name_provided_by_two_distributions_is_an_error_that_names_both(install: Install) -> None:
    install("bars", version="1.0")
    install("bars", distribution="acme-bars", version="2.0")

    message = broken(Registry(), "bars")

    assert message in {
        f"plugin 'bars' is provided by {first} and {second}. Uninstall all but one of them."
        for first, second in [
            ("tapeloom-bars 1.0", "acme-bars 2.0"),
            ("acme-bars 2.0", "tapeloom-bars 1.0"),
        ]
    }


# ---------------------------------------------------------------------------------- rules of hooks

RULES = {
    "misspelt hook": (
        "@hookimpl\ndef validat(feed): ...",
        "there is no hook 'validat'. Did you mean 'validate'?",
    ),
    "misspelt specname": (
        "@hookimpl(specname='pars')\ndef read(feed): ...",
        "there is no hook 'pars'. Did you mean 'parse'?",
    ),
    "wrong argument": (
        "@hookimpl\ndef validate(feeds): ...",
        "its hook 'validate' has the parameter 'feeds', but the hook takes feed. Did you mean 'feed'?",
    ),
    "argument of a hook that has none": (
        "@hookimpl\ndef settings(feed): ...",
        "its hook 'settings' has the parameter 'feed', but the hook takes no arguments.",
    ),
    "same hook twice": (
        "@hookimpl\ndef validate(feed): ...\n@hookimpl(specname='validate')\ndef also(feed): ...",
        (
            "it implements the hook 'validate' twice, as 'also' and 'validate'."
            " A plugin may implement or wrap each hook once. Split it into two plugins."
        ),
    ),
    "wraps what it implements": (
        (
            "@hookimpl\ndef validate(feed): ...\n"
            "@hookimpl(specname='validate', wrapper=True)\ndef also(feed): yield"
        ),
        (
            "it implements the hook 'validate' twice, as 'also' and 'validate'."
            " A plugin may implement or wrap each hook once. Split it into two plugins."
        ),
    ),
    "no mark": (
        "def validate(feed): ...",
        "its 'validate' is not marked. Add @hookimpl, from tapeloom.hooks, above it.",
    ),
    "nothing": (
        "",
        "the module implements no hook. Mark its hooks with @hookimpl, from tapeloom.hooks.",
    ),
    "unknown event loop": (
        "BACKENDS = 'asyncio'\n@hookimpl\ndef validate(feed): ...",
        "its BACKENDS are 'asyncio'; expected some of ('asyncio', 'trio').",
    ),
}


@pytest.mark.parametrize("kind", RULES)
def test_plugin_that_breaks_a_hook_rule_is_rejected_with_the_remedy(
    install: Install, kind: str
) -> None:
    source, problem = RULES[kind]
    install("acme", f"from tapeloom.hooks import hookimpl\n{source}\n")
    registry = Registry()

    message = broken(registry, "acme")

    assert message == f"plugin 'acme' breaks the hook rules: {problem}"
    assert broken(registry, "acme") == message  # nothing of it was left behind


def test_wrapper_that_does_not_yield_is_rejected(install: Install) -> None:
    install("acme", f"{WRAPPER}".replace("inner = yield", "inner = 1"))

    assert "function is not a generator function" in broken(Registry(), "acme")


def test_unknown_hook_is_allowed_if_it_is_optional(install: Install) -> None:
    install("acme", f"{STAGE}\n@hookimpl(optionalhook=True)\ndef liquidate(feed): ...\n")
    registry = Registry()
    registry.load("acme")

    assert registry.implements("acme") == ("validate",)


def test_class_and_unhashable_object_are_rejected() -> None:
    registry = Registry()
    unhashable = SimpleNamespace(validate=hookimpl(lambda feed: feed))

    with pytest.raises(PluginBroken, match=r"it is a class\. Point the entry point at an instance"):
        registry.register(SimplePlugin, "acme")
    with pytest.raises(PluginBroken, match="it cannot be hashed"):
        registry.register(unhashable, "acme")


# ------------------------------------------------------------------------------------------ asking


class SimplePlugin:
    """An adapter in a single file: an object with hooks."""

    @hookimpl
    def validate(self, feed: Any) -> Any:
        return ("simple", feed)

    @hookimpl
    def settings(self) -> type[Any]:
        return dict


def test_hook_of_the_named_plugin_only_is_called(install: Install) -> None:
    install("bars")
    install("acme", STAGE.replace("return", "raise AssertionError #"))
    registry = Registry()
    registry.load("acme")

    assert registry.call("bars", "validate", feed=1) == ("validated", 1)
    assert registry.call("bars", "validate", wrappers=("acme", "bars"), feed=1) == ("validated", 1)


def test_hook_that_is_not_implemented_returns_none(install: Install) -> None:
    install("bars")
    install("timing", WRAPPER.format(name="timing"))
    registry = Registry()

    assert registry.call("bars", "settings") is None
    assert registry.call("bars", "aggregate", wrappers=("timing",), feed=1) is None
    assert registry.call("timing", "validate", wrappers=("timing",), feed=1) is None


def test_wrappers_of_the_named_plugins_wrap_and_those_of_others_do_not(install: Install) -> None:
    install("bars")
    for name in ("one", "two", "three"):
        install(name, WRAPPER.format(name=name))
    registry = Registry()
    for name in ("bars", "one", "two", "three"):
        registry.load(name)

    assert registry.call("bars", "validate", feed=1) == ("validated", 1)
    assert registry.call("bars", "validate", wrappers=("one",), feed=1) == ("one", ("validated", 1))
    assert registry.call("bars", "validate", wrappers=("three", "one"), feed=1) == (
        "three",
        ("one", ("validated", 1)),
    )


def test_implemented_and_wrapped_hooks_are_listed_separately(install: Install) -> None:
    install("timing", f"{WRAPPER.format(name='timing')}\n@hookimpl\ndef settings(): return dict\n")
    registry = Registry()

    assert registry.implements("timing") == ("settings",)
    assert registry.wraps("timing") == ("validate",)


def test_hook_with_several_results_returns_only_its_own() -> None:
    class Verbs:
        @hookimpl
        def commands(self, verbs: Any) -> Any:
            verbs.append("x")

    registry = Registry()
    registry.register(Verbs(), "acme")
    verbs: list[str] = []

    assert registry.call("acme", "commands", verbs=verbs) is None
    assert verbs == ["x"]


def test_calling_an_unknown_hook_raises_value_error() -> None:
    with pytest.raises(ValueError, match=r"there is no hook 'pars'\. Did you mean 'parse'\?"):
        Registry().call("acme", "pars", feed=1)


def test_exception_in_a_hook_is_chained_and_names_plugin_and_hook(install: Install) -> None:
    install("acme", STAGE.replace("return", "raise OSError('no\\nway') #"))

    with pytest.raises(PluginBroken) as caught:
        Registry().call("acme", "validate", feed=1)

    assert str(caught.value) == (
        "plugin 'acme': its hook 'validate' raised OSError: no way."
        " This is a defect of the plugin (tapeloom-acme 1.2): report it to its authors."
    )
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("guilty", ["before", "after", "inside"])
def test_exception_names_the_plugin_that_raised_it(install: Install, guilty: str) -> None:
    after = "try:\n        inner = yield\n    except KeyError as e:\n        raise OSError from e"
    wrapper = {
        "before": WRAPPER.replace("inner = yield", "1 / 0\n    inner = yield"),
        "after": WRAPPER.replace("inner = yield", after),
        "inside": WRAPPER,
    }[guilty]
    install("timing", wrapper.format(name="timing"))
    install("bars", STAGE if guilty == "before" else STAGE.replace("return", "raise KeyError #"))

    with pytest.raises(PluginBroken) as caught:
        Registry().call("bars", "validate", wrappers=("timing",), feed=1)

    assert caught.value.plugin == ("bars" if guilty == "inside" else "timing")


def test_tapeloom_error_passes_through_a_hook() -> None:
    class Picky:
        @hookimpl
        def validate(self, feed: Any) -> Any:
            raise ConfigError([Mistake("channels", "not here")])

    registry = Registry()
    registry.register(Picky(), "acme")

    with pytest.raises(ConfigError, match="channels: not here"):
        registry.call("acme", "validate", feed=1)


# ------------------------------------------------------------------------------------- registering


@pytest.mark.parametrize("loaded", [False, True])
def test_registered_plugin_shadows_an_installed_one(install: Install, loaded: bool) -> None:
    install("bars")
    registry = Registry()
    if loaded:
        registry.load("bars")
    registry.register(SimplePlugin(), "bars")
    registry.load("bars")

    assert registry.call("bars", "validate", feed=1) == ("simple", 1)


def test_second_plugin_of_the_same_name_is_rejected() -> None:
    registry = Registry()
    first = SimplePlugin()
    registry.register(first, "acme")
    registry.register(first, "acme")

    with pytest.raises(PluginBroken, match="two plugins are registered as 'acme'"):
        registry.register(SimplePlugin(), "acme")
    with pytest.raises(PluginBroken, match="it is already the plugin 'acme'"):
        registry.register(first, "other")
    assert registry.implements("acme") == ("validate", "settings")
    with pytest.raises(PluginError):
        registry.load("other")


# --------------------------------------------------------------------------------------- describing


def test_every_plugin_is_described_even_if_others_are_broken(install: Install, site: Path) -> None:
    install("bars", f"BACKENDS = ['asyncio']\n{STAGE}")
    install("acme", "import no_such_package")
    install("timing", WRAPPER.format(name="timing"))
    registry = Registry()
    registry.register(SimplePlugin(), "own")

    acme, bars, own, timing = registry.describe()

    assert acme.problem == (
        "plugin 'acme' (tapeloom-acme 1.2) cannot be imported: it needs 'no_such_package', which is"
        " not installed. Try: pip install --upgrade tapeloom-acme"
    )
    assert bars.row == ("bars", "1.2", "validate", "asyncio", f"tapeloom-bars {site}")
    assert own.row == ("own", "", "validate settings", "asyncio trio", "registered by the program")
    assert timing.row[2] == "(validate)"


def test_hooks_are_found_by_specname_in_the_order_of_the_specifications(install: Install) -> None:
    install(
        "acme",
        dedent("""\
            from tapeloom.hooks import hookimpl

            @hookimpl(specname="settings")
            def _settings(): return dict

            @hookimpl
            def connect(): return []
            """),
    )
    registry = Registry()

    assert registry.implements("acme") == ("connect", "settings")
    assert registry.call("acme", "connect", feed=1) == []


def test_a_module_that_would_replace_a_hook_of_its_package_is_named(site: Path) -> None:
    package = site / "made_shadowing"
    package.mkdir()
    hook = "from tapeloom.hooks import hookimpl\n@hookimpl\ndef sink(settings):\n    return None\n"
    (package / "__init__.py").write_text(hook)
    (package / "sink.py").write_text("")
    importlib.invalidate_caches()
    plugin = importlib.import_module("made_shadowing")

    with pytest.raises(PluginBroken, match=r"'made_shadowing\.sink' would replace its hook 'sink'"):
        Registry().register(plugin, "shadowing")
