"""Make docs/reference/words.md: every public word, with the meaning that the code gives it.

    python tests/words.py             write the page
    python tests/words.py --missing   list the words without a meaning in the code

Meanings are docstrings and ``#:`` comments, at the end of the line of what they explain or directly above
it, and the help texts of the command line. A word without a meaning is an error in the files of
`ENFORCED`; elsewhere its cell stays empty. Sources are parsed, and only the command line is imported.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import house

PAGE = house.ROOT / "docs/reference/words.md"
CORE = house.CORE
TELEMETRY = CORE / "plugin/telemetry.py"
CLOSED_SETS = CORE / "events/closed_sets.py"
OFFICIAL = [package for package in house.packages() if "contrib" not in package.parts]
#: The files in which every word must have a meaning, by the beginnings of their paths.
ENFORCED = (
    "core/src/tapeloom/errors.py",
    "core/src/tapeloom/events/",
    "core/src/tapeloom/hooks.py",
    "core/src/tapeloom/plugin/",
    "core/src/tapeloom/symbols.py",
    "core/src/tapeloom/units.py",
)
#: The headings of the closed sets, which are anchors that other pages link to.
HEADINGS = {
    "StatusState": "Status states",
    "GapCause": "Gap causes",
    "GapState": "Gap states",
    "RejectRule": "Reject rules",
    "Origin": "Origins",
    "Side": "Sides",
    "QueuePolicy": "Queue policies",
}
#: Names in the sources that belong to a family of counters, and the name of that family.
FAMILIES = (("reject.", "reject.*"), ("chaos_", "chaos_*"))


class Missing(NamedTuple):
    """A word without a meaning, and where it stands."""

    file: str
    line: int
    word: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.word} has no meaning"


class Row(NamedTuple):
    """A row of a table: its cells, the last of which is the meaning."""

    cells: tuple[str, ...]
    meaning: str


class Page:
    """The page while it is made, and what is missing in it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.missing: list[Missing] = []

    def add(self, *lines: str) -> None:
        """Add paragraphs, each sentence on a line of its own."""
        for line in lines:
            self.lines += [re.sub(r"(?<=[a-z`)\"][.!?]) (?=[A-Z`\[])", "\n", line), ""]

    def explain(self, file: Path, line: int, word: str, meaning: str) -> str:
        """Return a meaning; record that there is none."""
        if not meaning:
            self.missing.append(Missing(file.relative_to(house.ROOT).as_posix(), line, word))
        return meaning

    def table(self, heads: Iterable[str], rows: Iterable[Row]) -> None:
        """Add a table."""
        rows = list(rows)
        if not rows:
            return
        heads = [*heads, "meaning"]
        self.lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in rows:
            cells = [*map(code, row.cells), markdown(row.meaning).replace("|", "\\|")]
            self.lines.append("| " + " | ".join(cells) + " |")
        self.lines.append("")


def code(text: str) -> str:
    """Return a cell that shows code."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def markdown(text: str) -> str:
    """Return the text of a docstring or comment as one line of Markdown."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


# --------------------------------------------------------------------------- reading the sources


@cache
def tree(file: Path) -> ast.Module:
    """Return the parsed source of a file."""
    return ast.parse(file.read_text("utf-8"))


@cache
def notes(file: Path) -> dict[int, tuple[str, bool]]:
    """Return the ``#:`` comments of a file by line, and whether each has a line of its own."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(file.read_text("utf-8")).readline):
        if token.type == tokenize.COMMENT and token.string.startswith("#:"):
            own = not token.line[: token.start[1]].strip()
            found[token.start[0]] = (token.string[2:].strip(), own)
    return found


def block(file: Path, line: int) -> list[str]:
    """Return the ``#:`` comments on the lines directly above a line."""
    found: list[str] = []
    comments = notes(file)
    while (line := line - 1) in comments and comments[line][1]:
        found.insert(0, comments[line][0])
    return found


def note(file: Path, node: ast.stmt) -> str:
    """Return the ``#:`` comment of a statement: on its lines, or directly above it."""
    comments = notes(file)
    for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
        if line in comments and not comments[line][1]:
            return comments[line][0]
    return " ".join(block(file, node.lineno))


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def doc(node: Documented, *, whole: bool = False) -> str:
    """Return the first paragraph of a docstring, or all of it."""
    text = ast.get_docstring(node) or ""
    return text if whole else text.partition("\n\n")[0]


def classes(file: Path) -> dict[str, ast.ClassDef]:
    """Return the classes of a file by name."""
    return {node.name: node for node in tree(file).body if isinstance(node, ast.ClassDef)}


def default(value: ast.expr | None) -> str:
    """Return the default of a field as the source has it."""
    if isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] == "field":
        given = {word.arg: word.value for word in value.keywords}
        if "default" in given:
            return default(given["default"])
        return f"{ast.unparse(given['factory'])}()" if "factory" in given else ""
    if isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] == "Factory":
        made = value.args[0]
        return (
            "made from other fields" if isinstance(made, ast.Lambda) else f"{ast.unparse(made)}()"
        )
    text = ast.unparse(value) if value is not None else ""
    return "" if text.startswith("_") else text


def fields(page: Page, file: Path, cls: ast.ClassDef) -> Iterator[Row]:
    """Yield the public fields of a class, those of base classes in the same file first."""
    for base in cls.bases:
        if isinstance(base, ast.Name) and base.id in classes(file):
            yield from fields(page, file, classes(file)[base.id])
    for item in cls.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            name, kind = item.target.id, ast.unparse(item.annotation).strip("'\"")
            if not name.startswith("_") and not kind.startswith("ClassVar"):
                meaning = page.explain(file, item.lineno, f"{cls.name}.{name}", note(file, item))
                yield Row((name, kind, default(item.value)), meaning)
        elif isinstance(item, ast.FunctionDef) and item.name == "__init__":
            yield from attributes(page, file, cls, item)


def attributes(page: Page, file: Path, cls: ast.ClassDef, init: ast.FunctionDef) -> Iterator[Row]:
    """Yield the public attributes that a constructor sets."""
    kinds = {argument.arg: argument.annotation for argument in init.args.args}
    for node in ast.walk(init):
        if not isinstance(node, ast.Assign):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Attribute) and not target.attr.startswith("_"):
            kind = kinds.get(target.attr)
            text = ast.unparse(kind) if kind is not None else ""
            meaning = page.explain(file, node.lineno, f"{cls.name}.{target.attr}", note(file, node))
            yield Row((target.attr, text, ""), meaning)


def methods(page: Page, file: Path, cls: ast.ClassDef) -> Iterator[Row]:
    """Yield the public methods and properties of a class."""
    for item in cls.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            if item.name.startswith("_") and item.name != "__call__":
                continue
            meaning = page.explain(file, item.lineno, f"{cls.name}.{item.name}", doc(item))
            if any(ast.unparse(mark) == "property" for mark in item.decorator_list):
                kind = ast.unparse(item.returns) if item.returns else ""
                yield Row((item.name, kind, ""), meaning)
            else:
                yield Row((signature(item), returns(item), ""), meaning)


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the name of a function with the names of its arguments."""
    names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
    names += [f"*{node.args.vararg.arg}"] if node.args.vararg else []
    names += [f"{argument.arg}=" for argument in node.args.kwonlyargs]
    return f"{node.name}({', '.join(name for name in names if name not in ('self', 'cls'))})"


def returns(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the type of what a function returns."""
    return ast.unparse(node.returns) if node.returns is not None else ""


def words(file: Path, name: str) -> tuple[str, list[tuple[str, str]], int]:
    """Return the meaning of a closed set, its words with their meanings, and its line.

    Raises ValueError if the words of the Literal and those of the comment are not the same.
    """
    for node in tree(file).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            assert isinstance(node.value, ast.Subscript)
            listed = ast.literal_eval(node.value.slice)
            intro, meanings = [], {}
            for line in block(file, node.lineno):
                word, colon, meaning = line.partition(": ")
                if colon and re.fullmatch(r"[a-z_.*]+", word):
                    meanings[word] = meaning
                else:
                    intro.append(line)
            if set(meanings) != set(listed):
                raise ValueError(f"{name}: {sorted(set(meanings) ^ set(listed))} in one place only")
            return " ".join(intro), [(word, meanings[word]) for word in listed], node.lineno
    raise ValueError(f"{name} is not in {file.name}")


# ------------------------------------------------------------------------------------ the groups


def describe(page: Page, file: Path, cls: ast.ClassDef, level: str = "###") -> None:
    """Add a class: its docstring, fields, methods."""
    page.add(f"{level} {cls.name}")
    page.explain(file, cls.lineno, cls.name, doc(cls))
    page.add(*(markdown(part) for part in doc(cls, whole=True).split("\n\n")))
    page.table(("name", "type", "default"), [*fields(page, file, cls), *methods(page, file, cls)])


def events(page: Page) -> None:
    """Add the event classes."""
    page.add(
        "## Events", "Every event also has `time` and `received`: `ts` and `recv` as datetimes."
    )
    for file in (CORE / "events/market.py", CORE / "events/control.py"):
        for cls in classes(file).values():
            describe(page, file, cls)


def hooks(page: Page) -> None:
    """Add the hooks."""
    page.add("## Hooks", "Each is called while a feed is composed; [hooks](hooks.md) has examples.")
    rows = []
    simulator = house.ROOT / "plugins/simulator/src/tapeloom_simulator/hooks.py"
    for file in (CORE / "hooks.py", simulator):
        for node in tree(file).body:
            if isinstance(node, ast.FunctionDef):
                taken = ", ".join(ast.unparse(argument) for argument in node.args.args)
                meaning = page.explain(file, node.lineno, node.name, doc(node))
                rows.append(Row((node.name, taken, returns(node)), meaning))
    page.table(("hook", "takes", "returns"), rows)


def plugin_types(page: Page) -> None:
    """Add what hooks take and return: every public class, alias and function of `plugin`."""
    page.add("## What hooks take and return", "The public names of `tapeloom.plugin`.")
    exported = exports(CORE / "plugin/__init__.py")
    modules = ("feeds", "protocol", "history", "channels", "timing")
    files = [CORE / f"plugin/{name}.py" for name in modules]
    for file in files:
        for cls in classes(file).values():
            if cls.name in exported:
                describe(page, file, cls)
    for file, names in (
        (CORE / "symbols.py", {"Symbol", "Instrument"}),
        (CORE / "units.py", {"Rate"}),
    ):
        for cls in classes(file).values():
            if cls.name in names:
                describe(page, file, cls)
    page.add("### Aliases and functions")
    page.table(("name", "is"), [row for file in files for row in others(page, file, exported)])
    file = CORE / "plugin/transports.py"
    page.add(
        "### For plugins that open connections", "The public names of `tapeloom.plugin.transports`."
    )
    page.table(("name", "is"), others(page, file, exports(file)))


def exports(file: Path) -> set[str]:
    """Return the names in a file's `__all__`."""
    for node in tree(file).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise ValueError(f"{file} has no __all__")


def others(page: Page, file: Path, exported: set[str]) -> Iterator[Row]:
    """Yield the exported constants, aliases and functions of a file."""
    for node in tree(file).body:
        if isinstance(node, ast.FunctionDef) and node.name in exported:
            meaning = page.explain(file, node.lineno, node.name, doc(node))
            yield Row((signature(node), returns(node)), meaning)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            name, value = ast.unparse(target), node.value
            if name in exported and value is not None:
                meaning = page.explain(file, node.lineno, name, note(file, node))
                yield Row((name, ast.unparse(value).strip("'\"")), meaning)


def stack_settings(page: Page) -> None:
    """Add the tables of the stack."""
    page.add("## Stack settings", "The tables of `stack.toml`; [the stack](stack.md) has examples.")
    file = CORE / "_config/stack.py"
    for cls in classes(file).values():
        describe(page, file, cls)


def plugin_settings(page: Page) -> None:
    """Add the settings class of every plugin, and the classes of its fields."""
    page.add("## Plugin settings", "[Settings](settings.md) has examples.")
    for package in OFFICIAL[1:]:
        for file in house.modules(package).values():
            if "simulator" in file.parts or "Settings" not in classes(file):
                continue
            page.add(f"### {package.name.removeprefix('tapeloom_')}")
            main = classes(file)["Settings"]
            used = ast.unparse(main) + "".join(
                ast.unparse(classes(file)[base.id])
                for base in main.bases
                if isinstance(base, ast.Name) and base.id in classes(file)
            )
            for cls in classes(file).values():
                is_field = re.search(rf": [^=\n]*\b{cls.name}\b", used) and cls.name != "Settings"
                if cls is main or is_field:
                    describe(page, file, cls, "####")


def closed_sets(page: Page) -> None:
    """Add the closed sets of words."""
    page.add("## Words of the fields")
    for name, heading in HEADINGS.items():
        intro, entries, line = words(CLOSED_SETS, name)
        page.add(
            f"### {heading}",
            f"{page.explain(CLOSED_SETS, line, name, intro)} The type is `{name}`.",
        )
        page.table(("word",), [Row((word,), meaning) for word, meaning in entries])


def counted() -> dict[str, str]:
    """Return every counter that the sources increment, with one place where they do."""
    found: dict[str, str] = {}
    for package in OFFICIAL:
        for file in house.modules(package).values():
            for node in ast.walk(tree(file)):
                key: ast.expr | None = None
                if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
                    if ast.unparse(node.target.value).endswith("counters"):
                        key = node.target.slice
                elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("_rules.count"):
                    key = node.args[0]
                place = f"{file.relative_to(house.ROOT)}:{getattr(node, 'lineno', 0)}"
                found.update(dict.fromkeys(counter_names(key), place))
    return found


def counter_names(key: ast.expr | None) -> list[str]:
    """Return the names of counters that an expression stands for; none for a variable."""
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        return [key.value]
    if isinstance(key, ast.JoinedStr) and isinstance(key.values[0], ast.Constant):
        beginning = str(key.values[0].value)
        return [family for start, family in FAMILIES if start == beginning] or [beginning]
    return []


def logged() -> dict[str, tuple[str, list[str], str]]:
    """Return every log event of the sources: its level, the names of its fields, a place."""
    found: dict[str, tuple[str, list[str], str]] = {}
    for package in OFFICIAL:
        for file in house.modules(package).values():
            for node in ast.walk(tree(file)):
                if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("log."):
                    continue
                if node.args and isinstance(node.args[0], ast.Constant):
                    names = [word.arg for word in node.keywords if word.arg]
                    level = ast.unparse(node.func).removeprefix("log.")
                    place = f"{file.relative_to(house.ROOT)}:{node.lineno}"
                    found[str(node.args[0].value)] = (level, names, place)
    return found


def telemetry(page: Page) -> None:
    """Add counters and log events.

    Raises ValueError if the sources use a name without a meaning, or a name is not used.
    """
    intro, entries, _ = words(TELEMETRY, "CounterName")
    known, used = dict(entries), counted()
    if unknown := {name: place for name, place in used.items() if name not in known}:
        raise ValueError(f"counters without a meaning in {TELEMETRY.name}: {unknown}")
    page.add("## Counters", intro)
    page.table(("counter",), [Row((name,), meaning) for name, meaning in entries])
    intro, entries, _ = words(TELEMETRY, "LogEvent")
    known, events_logged = dict(entries), logged()
    if set(known) != set(events_logged):
        raise ValueError(
            f"log events in {TELEMETRY.name} or in the sources only:"
            f" {sorted(set(known) ^ set(events_logged))}"
        )
    page.add("## Log events", intro)
    rows = []
    for name, meaning in entries:
        level, names, _ = events_logged[name]
        rows.append(Row((name, level, ", ".join(names)), meaning))
    page.table(("event", "level", "fields"), rows)


def command_line(page: Page) -> None:
    """Add the verbs of the command line, those of plugins included, and their options."""
    from tapeloom.cli._main import _parser

    page.add("## Command line", "[Command line](cli.md) has examples.")
    parser = _parser(())[0]
    verbs = next(
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    file = CORE / "cli/_main.py"
    for verb, sub in sorted(verbs.choices.items()):
        meaning = page.explain(file, 0, f"tapeloom {verb}", sub.description or "")
        page.add(f"### tapeloom {verb}", meaning)
        rows = []
        for action in sub._actions:
            if not isinstance(action, argparse._HelpAction):
                name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
                text = (action.help or "") % {**vars(action), "prog": "tapeloom"}
                rows.append(Row((name,), page.explain(file, 0, f"tapeloom {verb} {name}", text)))
        page.table(("argument",), rows)


def errors(page: Page) -> None:
    """Add the errors."""
    page.add("## Errors", "[Errors](errors.md) says when each comes, and what to do.")
    file = CORE / "errors.py"
    rows = []
    for cls in classes(file).values():
        bases = ", ".join(map(ast.unparse, cls.bases))
        if bases:
            rows.append(Row((cls.name, bases), page.explain(file, cls.lineno, cls.name, doc(cls))))
    page.table(("error", "is a"), rows)


def make() -> Page:
    """Return the page. Raises ValueError if a closed set and its meanings do not match."""
    page = Page()
    page.add(
        "# Words",
        "Every public name and word, with its meaning as the code gives it."
        " This page is made by `python tests/words.py`; do not edit it.",
    )
    for group in (
        events, closed_sets, hooks, plugin_types, stack_settings, plugin_settings, telemetry,
        command_line, errors,
    ):  # fmt: skip
        group(page)
    return page


def text(page: Page) -> str:
    """Return the page as the text of a file."""
    return "\n".join(page.lines).strip() + "\n"


def enforced(page: Page) -> list[Missing]:
    """Return the words without a meaning in files where every word must have one."""
    return [missing for missing in page.missing if missing.file.startswith(ENFORCED)]


def main() -> int:
    """Write the page, or list what is missing; return 1 if a meaning is missing that must be there."""
    page = make()
    wrong = enforced(page)
    for missing in page.missing if "--missing" in sys.argv[1:] else wrong:
        print(missing)
    if not wrong and "--missing" not in sys.argv[1:]:
        PAGE.write_text(text(page), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
