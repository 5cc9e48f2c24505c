"""Who may import whom; and that core knows no venue."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core/src/tapeloom"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
CONTRIB = sorted(path.parent for path in ROOT.glob("contrib/*/pyproject.toml"))

#: The levels of core: a module imports only from levels before its own. `__main__` runs the last.
LEVELS = (
    {"errors", "units"},
    {"symbols", "events"},
    {"plugin"},
    {"hooks", "_config", "_runtime", "_gaps"},
    {"_compose", "_network", "_tape"},
    {"_history", "_connection"},
    {"_stream"},
    {"__init__", "harness"},
    {"cli"},
    {"__main__"},
)
LEVEL = {entry: number for number, level in enumerate(LEVELS) for entry in level}
PUBLIC = {"tapeloom"} | {f"tapeloom.{entry}" for entry in LEVEL if not entry.startswith("_")}
#: Packages that are libraries for plugins, and no plugins themselves.
LIBRARIES = {"tapeloom_columns", "tapeloom_screens"}
#: Packages that are built on another plugin: the cluster publishes as its sink does, and the page stands
#: beside the stream that is served, and shows what a store has.
BUILT_ON = {
    "tapeloom_cluster": {"tapeloom_nats"},
    "tapeloom_web": {"tapeloom_parquet", "tapeloom_serve"},
}
#: How many entries core's folder may have, how many modules a folder in it, and how much code.
#: The stream took 8,400 code lines; the rest is one gap tracker per feed, and bounds for all that comes
#: from outside: values, texts, answers over REST, files, signals; a replay of several feeds that makes
#: the same gaps and handovers as the recorded stream; sinks that store each event once; what a stream says
#: of itself to screens and metrics; relays: feeds that pass on another stream, with stages for each venue,
#: and cursors that are stored with the events; a command line that finds the mistakes of newcomers before
#: the first byte; feeds whose symbols a plugin steers, so that several processes share them; sinks that
#: are called in place of being queued for; what clocks show that are set for seconds; positions of what a
#: plugin has stored of a batch; and positions of validated trades at a fifth of their cost.
MOST_ENTRIES, MOST_MODULES, MOST_CODE_LINES = 20, 12, 13_450


def package_of(module: str) -> str:
    """Return the package that a module belongs to."""
    return module.partition(".")[0]


def entry_of(module: str) -> str:
    """Return the entry of core that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def is_server_side(module: str) -> bool:
    """Return whether a module belongs to the simulated server side of a venue."""
    return module.split(".")[1:2] == ["simulator"]


def users(*libraries: str) -> set[str]:
    """Return the modules of core that import one of some libraries."""
    found = set()
    for file in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if any(package_of(name) in libraries for name in names):
                found.add(file.relative_to(CORE).as_posix())
    return found


def test_every_entry_of_core_has_a_level() -> None:
    found = {path.stem for path in CORE.iterdir() if path.suffix == ".py"}
    found |= {path.name for path in CORE.iterdir() if (path / "__init__.py").is_file()}

    assert found == set(LEVEL)


def test_a_module_of_core_imports_only_from_levels_before_its_own() -> None:
    wrong = [
        f"{importer} imports {imported}"
        for importer, imported in house.imports(CORE)
        if package_of(imported) == "tapeloom"
        and entry_of(imported) != entry_of(importer)
        and LEVEL[entry_of(imported)] >= LEVEL[entry_of(importer)]
    ]

    assert wrong == []


@pytest.mark.parametrize("package", house.packages(), ids=lambda path: path.name)
def test_no_modules_import_each_other_in_a_circle_types_included(package: Path) -> None:
    assert house.circles(package) == []


def test_core_fits_on_one_screen() -> None:
    crowded = {
        folder: count for folder, count in house.crowds(CORE).items() if count > MOST_MODULES
    }

    assert len(house.entries(CORE)) <= MOST_ENTRIES
    assert crowded == {}
    assert sum(map(house.code_lines, house.modules(CORE).values())) <= MOST_CODE_LINES


def test_no_class_of_connections_and_gaps_has_more_than_11_attributes() -> None:
    wide = {
        f"{file.parent.name}/{file.name}:{name}": count
        for folder in ("_connection", "_gaps")
        for file in sorted((CORE / folder).glob("*.py"))
        for name, count in house.attributes(file).items()
        if count > house.WIDE
    }

    assert wide == {}, (
        "A class that holds so much does several things: take out those attributes that change"
        " together, with the methods that use them, into an object that can be tested by itself"
        " (as `Deadlines`, `Replies` and `Sender` were taken out of `Connection`)."
    )


def test_a_code_line_is_no_blank_no_comment_and_no_docstring(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        '"""Two\nlines."""\n\nX = (  # a comment\n    # alone\n    1,\n)\n\n\ndef f():\n    """Doc."""\n    return X\n'
    )

    assert house.code_lines(file) == 5


def test_core_imports_no_plugin() -> None:
    wrong = [found for found in house.imports(CORE) if package_of(found.imported) != "tapeloom"]

    assert wrong == []


def test_core_names_no_venue_and_no_plugin_that_is_a_venue() -> None:
    venues = [
        "binance",
        "bybit",
        "hyperliquid",
        "alpaca",
        "interactive",
        "ccxt",
        "coinbase",
        "kraken",
    ]
    pattern = re.compile("|".join(venues), re.IGNORECASE)
    #: Examples in help and docstrings may show a venue's name to people; code may not.
    wrong = []
    for file in sorted(CORE.rglob("*.py")):
        tree = ast.parse(file.read_text())
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        examples = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.keyword) and node.arg in {"epilog", "help", "description"}
            for part in ast.walk(node.value)
        }
        wrong += [
            f"{file.name}:{node.lineno} {node.value!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docs | examples
            and pattern.search(node.value)
        ]
        wrong += [
            f"{file.name}:{node.lineno} {node.id}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and pattern.search(node.id)
        ]

    assert wrong == []


@pytest.mark.parametrize("package", house.packages()[1:], ids=lambda path: path.name)
def test_a_plugin_knows_only_public_core_libraries_and_itself(package: Path) -> None:
    """The server side of a venue, and the testing package, know the simulator too."""
    wrong = []
    for found in house.imports(package):
        simulates = package.name == "tapeloom_testing" or is_server_side(found.importer)
        based_on = BUILT_ON.get(package.name, set())
        known = {
            package.name,
            *LIBRARIES,
            *based_on,
            *(["tapeloom_simulator"] if simulates else []),
        }
        public = ".".join(found.imported.split(".")[:2]) in PUBLIC
        if not public and package_of(found.imported) not in known:
            wrong.append(found)

    assert wrong == []


@pytest.mark.parametrize("package", house.packages()[1:], ids=lambda path: path.name)
def test_server_side_and_client_side_of_a_venue_import_nothing_of_each_other(package: Path) -> None:
    wrong = [
        found
        for found in house.imports(package)
        if package_of(found.imported) == package.name
        and is_server_side(found.imported) is not is_server_side(found.importer)
    ]

    assert wrong == []


@pytest.mark.parametrize("plugin", [ROOT / "core", *PLUGINS, *CONTRIB], ids=lambda path: path.name)
def test_a_package_sets_no_tool_of_its_own(plugin: Path) -> None:
    assert "[tool." not in (plugin / "pyproject.toml").read_text()


def test_only_the_websocket_module_knows_httpx_ws() -> None:
    assert users("httpx_ws") == {"_network/websocket.py"}


def test_two_modules_know_an_event_loop() -> None:
    known = users("asyncio", "trio", "uvloop")

    assert known == {"_runtime/event_loop.py", "_network/asyncio_socket.py"}
