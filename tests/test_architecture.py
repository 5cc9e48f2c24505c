"""Who may import whom; and that core knows no venue."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core/src/tapeloom"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
CONTRIB = sorted(path.parent for path in ROOT.glob("contrib/*/pyproject.toml"))

#: Each room imports only from those before it.
ROOMS = [
    "errors",
    "units",
    "symbols",
    "events",
    "wire",
    "history",
    "feeds",
    "dialling",
    "simulation",
    "hooks",
    "_clock",
    "_done",
    "_loop",
    "_config",
    "_plugins",
    "_levels",
    "_direct",
    "_sockets",
    "_client",
    "_deflate",
    "_handshake",
    "_messages",
    "_framing",
    "_transport",
    "_pipeline",
    "_tap",
    "_compose",
    "_limits",
    "_session",
    "_backfill",
    "_history",
    "_queues",
    "_calls",
    "_pumps",
    "_compression",
    "_tape",
    "_record",
    "_flight",
    "_garbage",
    "_engine",
    "_consume",
    "_stream",
    "_open",
    "__init__",
    "testing",
    "console",
    "_cli",
    "__main__",
]
PUBLIC = {"tapeloom"} | {f"tapeloom.{room}" for room in ROOMS if not room.startswith("_")}


def imports(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every module that the files below *folder* import, by its absolute name."""
    package = folder.name
    for file in sorted(folder.rglob("*.py")):
        parts = [package, *file.relative_to(folder).with_suffix("").parts]
        here = parts[:-1]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                for name in node.names:
                    yield file, name.name
            elif isinstance(node, ast.ImportFrom):
                base = here[: len(here) - node.level + 1] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                if node.module is None or module == "tapeloom":
                    for name in node.names:
                        inner = CORE / f"{name.name}.py"
                        known = inner.exists() or (CORE / name.name).is_dir()
                        yield file, f"{module}.{name.name}" if known else module
                else:
                    yield file, module


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_module_of_core_is_a_room_with_a_place_in_the_order() -> None:
    found = {path.stem for path in CORE.iterdir() if path.suffix == ".py"}
    found |= {path.name for path in CORE.iterdir() if (path / "__init__.py").is_file()}

    assert found == set(ROOMS)


def test_each_room_of_core_imports_only_from_the_rooms_before_it() -> None:
    place = {room: number for number, room in enumerate(ROOMS)}
    wrong = []
    for file, module in imports(CORE):
        if module.split(".")[0] != "tapeloom":
            continue
        own = file.relative_to(CORE).parts[0].removesuffix(".py")
        other = room_of(module)
        if other != own and place[other] >= place[own]:
            wrong.append(f"{own} imports {other} ({file.name})")

    assert wrong == []


def test_core_imports_no_plugin() -> None:
    wrong = [
        (file.name, module) for file, module in imports(CORE) if module.startswith("tapeloom_")
    ]

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


@pytest.mark.parametrize("plugin", [*PLUGINS, *CONTRIB], ids=lambda path: path.name)
def test_a_plugin_knows_only_public_core_and_itself(plugin: Path) -> None:
    source = next((plugin / "src").iterdir())
    wrong = [
        (file.name, module)
        for file, module in imports(source)
        if (module.split(".")[0] == "tapeloom" and ".".join(module.split(".")[:2]) not in PUBLIC)
        or (module.startswith("tapeloom_") and module.split(".")[0] != source.name)
    ]

    assert wrong == []


@pytest.mark.parametrize("plugin", [ROOT / "core", *PLUGINS, *CONTRIB], ids=lambda path: path.name)
def test_a_package_sets_no_tool_of_its_own(plugin: Path) -> None:
    assert "[tool." not in (plugin / "pyproject.toml").read_text()


def test_only_the_transport_knows_httpx_ws() -> None:
    users = {file.name for file, module in imports(CORE) if module.split(".")[0] == "httpx_ws"}

    assert users == {"_transport.py"}


def test_two_rooms_know_an_event_loop() -> None:
    users = {
        str(file.relative_to(CORE))
        for file, module in imports(CORE)
        if module.split(".")[0] in {"asyncio", "trio", "uvloop"}
    }

    assert users == {"_loop.py", "_direct.py", "testing/virtual.py"}  # the last is a loop itself
