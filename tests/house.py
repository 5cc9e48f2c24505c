"""What the house measures: code lines, entries, modules a folder, attributes a class, import circles.

    python tests/house.py          core, and every package's circles
    python tests/house.py --all    the figures of every package

Code lines are lines without blanks, comments and docstrings. An import counts wherever it stands,
those for type checkers and those inside functions included. Nothing is imported to measure it.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core/src/tapeloom"
#: A class with more attributes than this is printed.
WIDE = 11
#: Tokens that are no code.
_SILENT = frozenset(
    {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
        tokenize.ENDMARKER, tokenize.ENCODING,
    }
)  # fmt: skip


class Import(NamedTuple):
    """One module that another one imports, both by their absolute names."""

    importer: str
    imported: str


def packages() -> list[Path]:
    """Return the source folder of every package here, core first."""
    return [
        source
        for pattern in ("core", "plugins/*", "contrib/*")
        for folder in sorted(ROOT.glob(pattern))
        for source in sorted(folder.glob("src/tapeloom*"))
    ]


def modules(package: Path) -> dict[str, Path]:
    """Return the modules of a package by their absolute names; a folder is named by its `__init__`."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = [package.name, *file.relative_to(package).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def entries(package: Path) -> list[str]:
    """Return what stands on the first screen of a package."""
    return sorted(path.name for path in package.iterdir() if path.name != "__pycache__")


def crowds(package: Path) -> Counter[str]:
    """Return how many modules each folder of a package holds, its `__init__` not counted."""
    return Counter(
        file.parent.relative_to(package.parent).as_posix()
        for file in package.rglob("*.py")
        if file.name != "__init__.py"
    )


def code_lines(file: Path) -> int:
    """Return the number of lines of a file that are code."""
    text = file.read_text(encoding="utf-8")
    docs = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docs)


def imports(package: Path) -> Iterator[Import]:
    """Yield what the modules of a package import of tapeloom's packages.

    ``from x import y`` is an import of ``x.y`` where that is a module, else of ``x``.
    """
    known = {name for source in packages() for name in modules(source)}
    for name, file in modules(package).items():
        folder = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = folder[: len(folder) - node.level + 1] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                names = [
                    inner if (inner := f"{module}.{alias.name}") in known else module
                    for alias in node.names
                ]
            else:
                continue
            for imported in dict.fromkeys(names):
                if imported.partition(".")[0].startswith("tapeloom"):
                    yield Import(name, imported)


def circles(package: Path) -> list[list[str]]:
    """Return the modules that import each other in a circle, one list a circle."""
    graph: dict[str, set[str]] = {name: set() for name in modules(package)}
    for importer, imported in imports(package):
        if imported in graph and imported != importer:
            graph[importer].add(imported)
    return [sorted(part) for part in _strong(graph) if len(part) > 1]


def _strong(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of a graph, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            found.append(stack[at:])
            del stack[at:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def attributes(file: Path) -> dict[str, int]:
    """Return how many attributes each class of a file gives its instances.

    Counted are annotated names in the body and names assigned on `self` in its methods; of a
    Protocol, an enumeration of what others have, nothing.
    """
    counted = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        if any("Protocol" in ast.unparse(base) for base in node.bases):
            continue
        names = {
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and "ClassVar" not in ast.unparse(item.annotation)
        }
        names |= {
            target.attr
            for inner in ast.walk(node)
            if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
            for target in [inner]
            if isinstance(target.value, ast.Name) and target.value.id == "self"
        }
        counted[node.name] = len(names)
    return counted


def report(package: Path) -> None:
    """Print the figures of one package."""
    found = modules(package)
    total = sum(map(code_lines, found.values()))
    print(f"\n{package.name}: {total:,} code lines, {len(found)} modules")
    print(f"  entries on the first screen: {len(entries(package))}")
    for folder, count in sorted(crowds(package).items()):
        lines = sum(
            code_lines(file)
            for file in found.values()
            if file.parent.relative_to(package.parent).as_posix() == folder
        )
        print(f"  {folder}: {count} modules, {lines:,} code lines")
    wide = sorted(
        ((count, f"{file.relative_to(package)}:{name}")
         for file in found.values() for name, count in attributes(file).items() if count > WIDE),
        reverse=True,
    )  # fmt: skip
    for count, name in wide:
        print(f"  {count} attributes: {name}")


def main() -> int:
    """Print the figures; return 1 where there is a circle."""
    every = packages()
    for package in every if "--all" in sys.argv[1:] else every[:1]:
        report(package)
    found = [circle for package in every for circle in circles(package)]
    for circle in found:
        print(f"circle: {' -> '.join(circle)}")
    print(f"\ncircles: {len(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
