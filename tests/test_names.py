"""Names say what they name: words that say nothing, and names that were replaced, stay out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import house
import pytest

#: Identifiers that say nothing about what they name.
EMPTY = frozenset(
    {"one", "some", "each", "it", "what", "way", "word", "turn", "look", "said", "came"}
)
#: Names of classes that were replaced by the field's own term.
REPLACED = frozenset(
    {
        "BadFrames", "Bell", "Budgets", "Counterpart", "Deal", "Delivering", "Denied", "Finding",
        "GivenUp", "HistoryDesk", "Holes", "Keeper", "Lacking", "Lane", "LiveTrades", "Mute",
        "Overlap", "Pit", "Place", "Pumps", "RunningFeed", "SourceSession", "Tally", "Teller",
        "Undialled", "Want", "Wants", "Watch",
    }
)  # fmt: skip
#: Names of modules that were replaced.
REPLACED_MODULES = frozenset(
    {
        "_calls", "_flight", "_garbage", "_levels", "_pumps", "deafness", "dialling", "holes",
        "memory", "overlap", "owner", "past", "pit", "rebuilt", "signs", "silence", "still",
        "tapes", "undialled", "venueclock",
    }
)  # fmt: skip


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every name that a module binds or uses, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.keyword) and node.arg is not None:
            yield node.value.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.alias):
            yield node.lineno, node.asname or node.name.rpartition(".")[2]


@pytest.mark.parametrize("package", house.packages(), ids=lambda path: path.name)
def test_every_identifier_says_what_it_names(package: Path) -> None:
    wrong = [
        f"{file.relative_to(package)}:{line}: {name}"
        for file in house.modules(package).values()
        for line, name in identifiers(ast.parse(file.read_text(encoding="utf-8")))
        if name.strip("_") in EMPTY
    ]

    assert wrong == []


@pytest.mark.parametrize("package", house.packages(), ids=lambda path: path.name)
def test_no_replaced_name_of_a_class_or_module_is_left(package: Path) -> None:
    text = {file: file.read_text(encoding="utf-8") for file in house.modules(package).values()}
    pattern = re.compile(rf"\b({'|'.join(sorted(REPLACED))})\b")
    classes = [
        f"{file.relative_to(package)}:{line}: {name}"
        for file, source in text.items()
        for line, name in identifiers(ast.parse(source))
        if pattern.fullmatch(name)
    ]
    modules = [str(file.relative_to(package)) for file in text if file.stem in REPLACED_MODULES]

    assert (classes, modules) == ([], [])
