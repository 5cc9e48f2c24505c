"""The sources of core and of the official plugins use only words of the closed sets.

Checked is every literal that reaches `Gap.cause`, `Gap.state`, `Status.state`, `Reject.rule` or an `origin`: as
an argument of the event itself or of any function that has a parameter of that name, or as a value
assigned to a variable of that name. A plugin's own word begins with ``x-`` and is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import attrs
import house
import pytest
from tapeloom.events import (
    Gap,
    GapCause,
    GapState,
    Origin,
    QueuePolicy,
    Reject,
    RejectRule,
    Side,
    Status,
    StatusState,
)

OFFICIAL = [package for package in house.packages() if "contrib" not in package.parts]
#: The words that a parameter of this name takes; `state` of a Gap is checked at the calls of Gap.
SETS = {
    "cause": frozenset(get_args(GapCause)),
    "state": frozenset(get_args(StatusState)),
    "rule": frozenset(get_args(RejectRule)),
    "origin": frozenset(get_args(Origin)),
}


class Use(NamedTuple):
    """A literal that must be a word of a closed set."""

    place: str
    name: str
    word: str


def literals(node: ast.expr | None) -> Iterator[str]:
    """Yield the strings that an expression can have as its value, as far as they are literals."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from literals(value)


def parameters(trees: dict[Path, ast.Module]) -> dict[str, dict[str, set[int]]]:
    """Return, by function name, the positions of parameters that are named like a closed set."""
    found: dict[str, dict[str, set[int]]] = {}
    for cls in (Gap, Status, Reject):
        names = [field.name for field in attrs.fields(cls)]
        found[cls.__name__] = {
            name: {names.index(name)} for name in SETS if name in names and cls is not Gap
        }
    found["Gap"] = {"cause": {6}}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
                names = names[1:] if names[:1] == ["self"] else names
                for name in SETS:
                    if name in names:
                        positions = found.setdefault(node.name, {}).setdefault(name, set())
                        positions.add(names.index(name))
    return found


def assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that a statement assigns to, each with the value it gets."""
    if not isinstance(node, ast.Assign):
        return
    value = node.value
    values = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
    for target in node.targets:
        for item in values:
            if isinstance(target, ast.Tuple) and isinstance(item, ast.Tuple):
                pairs = list(zip(target.elts, item.elts, strict=False))
            else:
                pairs = [(target, item)]
            for single, part in pairs:
                if isinstance(single, ast.Name | ast.Attribute):
                    yield (single.id if isinstance(single, ast.Name) else single.attr), part


def uses(package: Path) -> Iterator[Use]:
    """Yield every literal of a package that must be a word of a closed set."""
    trees = {file: ast.parse(file.read_text()) for file in house.modules(package).values()}
    known = parameters(trees)
    for file, tree in trees.items():
        for node in ast.walk(tree):
            place = f"{file.relative_to(house.ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call):
                called = node.func
                callee = called.attr if isinstance(called, ast.Attribute) else ""
                callee = called.id if isinstance(called, ast.Name) else callee
                given = [
                    (name, node.args[position])
                    for name, positions in known.get(callee, {}).items()
                    for position in positions
                    if position < len(node.args)
                    and not any(isinstance(item, ast.Starred) for item in node.args[:position])
                ]
                given += [
                    (word.arg, word.value)
                    for word in node.keywords
                    if word.arg in known.get(callee, {})
                ]
            elif isinstance(node, ast.stmt):
                given = [(name, value) for name, value in assigned(node) if name in SETS]
            else:
                continue
            for name, value in given:
                for word in literals(value):
                    if not word.startswith("x-"):
                        yield Use(place, name, word)


@pytest.mark.parametrize("package", OFFICIAL, ids=lambda path: path.name)
def test_the_sources_use_only_words_of_the_closed_sets(package: Path) -> None:
    assert [use for use in uses(package) if use.word not in SETS[use.name]] == []


def test_literals_are_found_in_the_sources_of_core() -> None:
    found = {use.word for use in uses(house.CORE)}

    assert {"overflow", "reconnecting", "failed", "ended", "stage_failed"} <= found


def test_the_rules_of_the_quality_stage_are_in_the_closed_set() -> None:
    file = house.ROOT / "plugins/quality/src/tapeloom_quality/_settings.py"
    rules: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RULES":
            rules = set(ast.literal_eval(node.value))

    assert rules
    assert rules - set(get_args(RejectRule)) == {"sequence"}, "it gives a Gap, and rejects nothing"


@pytest.mark.parametrize(
    "words",
    [Side, Origin, GapState, GapCause, StatusState, RejectRule, QueuePolicy],
    ids=["Side", "Origin", "GapState", "GapCause", "StatusState", "RejectRule", "QueuePolicy"],
)
def test_every_word_of_a_closed_set_is_used_somewhere(words: object) -> None:
    constants = {
        node.value
        for package in OFFICIAL
        for file in house.modules(package).values()
        if file.name != "closed_sets.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert set(get_args(words)) - constants == set()
