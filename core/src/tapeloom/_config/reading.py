"""stack.toml into a `Stack`, with every mistake in it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import attrs

from tapeloom.errors import ConfigError, Mistake, nearest

from .places import Places, at
from .stack import (
    STAGE,
    Backend,
    FeedSpec,
    FlightSpec,
    Network,
    Process,
    QueueSpec,
    SinkSpec,
    Stack,
    StageSpec,
)
from .structure import structure
from .words import shown

T = TypeVar("T")

_TOP = ("backend", "feed", "flight", "network", "process", "queue", "sink", "stage", "venue")
_SINK = ("use", "name", "types", "queue", "on_error")
_FEED_DETAIL = re.compile(r"feed\[\d+\]\.(symbols|channels|name|market)\b")
_POSITION = re.compile(
    r"(?P<text>.*?) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)"
)
_SYNTAX = {
    "Invalid value": "A text stands in quotes; true and false are written in lower case",
    "Cannot declare": "Write [[feed]] in double brackets where there may be several of a kind",
    "Cannot overwrite": "The same key stands twice",
    "Expected '=' after a key": "Write key = value, one to a line",
    "Unclosed array": "A closing ] is missing",
}


@attrs.define
class Draft:
    """A stack as far as it could be read, and what is wrong with it.

    Where there are mistakes, `stack` holds the good parts, so that plugins can look for more; it is
    not to be run.
    """

    stack: Stack
    mistakes: list[Mistake] = attrs.Factory(list)

    def stack_or_raise(self) -> Stack:
        """Return the stack.

        Raises ConfigError with all mistakes, in the order of the file.
        """
        if self.mistakes:
            raise self.stack.error(self.mistakes)
        return self.stack


def read(path: Path | str) -> Draft:
    """Read a stack file. Relative paths in it start in its folder.

    Raises ConfigError where it is no readable TOML file at all.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        there = [file.name for file in path.parent.glob("*.toml")]
        hint = nearest(path.name, there) or " Give the path of a stack file, such as stack.toml."
        _fail(str(path), Mistake("", f"no such file.{hint}"))
    except IsADirectoryError:
        _fail(str(path), Mistake("", "this is a folder. Give the path of the stack file in it."))
    except OSError as error:
        _fail(str(path), Mistake("", f"the file cannot be read: {error.strerror}"))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = f"byte 0x{raw[error.start]:02x} is not UTF-8. Save the file as UTF-8."
        _fail(str(path), Mistake("", problem, line))
    return parse(text, str(path), folder=path.parent)


def parse(
    document: str | Mapping[str, Any], source: str = "stack", *, folder: Path | None = None
) -> Draft:
    """Read a stack from TOML text, or from tables that code has made.

    Raises ConfigError where the text is not TOML.
    """
    if not isinstance(document, str):
        return _Reading(document, folder or Path()).draft(source, Places())
    try:
        tables = tomllib.loads(document)
    except tomllib.TOMLDecodeError as error:
        _fail(source, _syntax(str(error), document))
    except RecursionError:
        _fail(source, Mistake("", "not valid TOML: nested too deep"))
    return _Reading(tables, folder or Path()).draft(source, Places(document))


def _fail(source: str, mistake: Mistake) -> NoReturn:
    raise ConfigError([mistake], source) from None


def _syntax(message: str, text: str) -> Mistake:
    match = _POSITION.fullmatch(message)
    problem = match["text"] if match else message
    hint = next((one for start, one in _SYNTAX.items() if problem.startswith(start)), "")
    problem = f"not valid TOML: {problem[:1].lower()}{problem[1:]}{f'. {hint}.' if hint else ''}"
    if match is None or match["line"] is None:
        return Mistake("", problem, text.rstrip().count("\n") + 1)
    return Mistake("", problem, int(match["line"]), int(match["column"]))


class _Reading:
    """Goes through the tables of one stack and collects what is wrong."""

    def __init__(self, tables: Mapping[str, Any], folder: Path) -> None:
        self._tables = tables
        self._folder = folder
        self._mistakes: list[Mistake] = []

    def draft(self, source: str, places: Places) -> Draft:
        """Read every part; keep the good ones."""
        self._top()
        feeds = [self._feed(index, table) for index, table in self._list("feed")]
        if not self._tables.get("feed"):
            self._wrong("", "there is no [[feed]]. Name a venue, symbols and channels in one.")
        stages = {name: self._stage(name, table) for name, table in self._named("stage")}
        venues = dict(self._named("venue"))
        self._unused(stages, "stage", "no feed names this stage", "Name it in the stages of a feed")
        self._unused(venues, "venue", "no feed is of this venue", "Add a feed")
        sinks = [self._sink(index, table) for index, table in self._list("sink")]
        parts = {
            "queue": self._one("queue", QueueSpec),
            "network": self._network(),
            "flight": self._flight(),
            "process": self._one("process", Process),
            "backend": self._backend(),
        }
        stack = Stack(
            self._distinct("feed", feeds),
            {name: stage for name, stage in stages.items() if stage is not None},
            venues,
            self._distinct("sink", sinks),
            source=source,
            places=places,
            **{key: part for key, part in parts.items() if part is not None},
        )
        return Draft(stack, self._mistakes)

    def _wrong(self, place: str, problem: str) -> None:
        self._mistakes.append(Mistake(place, problem))

    def _structure(self, cls: type[T], table: Any, place: str) -> T | None:
        thing, mistakes = structure(cls, table, place, folder=self._folder)
        self._mistakes += mistakes
        return thing

    def _top(self) -> None:
        plugins = {"stage": self._mentioned("stages"), "venue": self._mentioned("venue")}
        known = f" Known: {', '.join(_TOP)}"
        for key in self._tables:
            if key in _TOP:
                continue
            kinds = [kind for kind, names in plugins.items() if key in names]
            hint = f" Write [{at(kinds[0], key)}]" if kinds else nearest(key, _TOP)
            self._wrong(at("", key), f"unknown key.{hint or known}")

    def _list(self, kind: str) -> list[tuple[int, Any]]:
        tables = self._tables.get(kind, ())
        if isinstance(tables, list | tuple):
            return list(enumerate(tables))
        self._wrong(kind, f"expected [[{kind}]] in double brackets, got {shown(tables)}")
        return []

    def _named(self, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
        tables = self._tables.get(kind, {})
        if not isinstance(tables, Mapping):
            self._wrong(
                kind, f"expected a table for each {kind}, [{kind}.<name>], got {shown(tables)}"
            )
            return []
        for name, table in tables.items():
            if not isinstance(table, Mapping):
                place = at(kind, name)
                self._wrong(place, f"expected a table [{kind}.<name>], got {shown(table)}")
        return [(name, table) for name, table in tables.items() if isinstance(table, Mapping)]

    def _feed(self, index: int, table: Any) -> FeedSpec | None:
        place = at("feed", index)
        feed, mistakes = structure(FeedSpec, table, place, folder=self._folder)
        self._mistakes += mistakes
        if feed is None:
            return self._salvaged(table, place, mistakes)
        for key in ("symbols", "channels"):
            if not getattr(feed, key):
                self._wrong(f"{place}.{key}", f"expected at least one {key[:-1]}, got none")
        return feed

    def _salvaged(self, table: Any, place: str, mistakes: list[Mistake]) -> FeedSpec | None:
        """Return a feed of what is right in *table*, so that its plugins can be checked."""
        if not isinstance(table, Mapping):
            return None
        bad = {mistake.place for mistake in mistakes}
        good: dict[str, Any] = {"symbols": (), "channels": ()}
        for key, value in table.items():
            here = at(place, key)
            if isinstance(value, list):
                good[key] = [one for i, one in enumerate(value) if at(here, i) not in bad]
            if here in bad:
                good.pop(key, None)
            elif not isinstance(value, list):
                good[key] = value
        for key in ("symbols", "channels"):
            good.setdefault(key, ())
        return structure(FeedSpec, good, place)[0]

    def _stage(self, name: str, table: Mapping[str, Any]) -> StageSpec | None:
        own = {key: one for key, one in table.items() if key in STAGE}
        rest = {key: one for key, one in table.items() if key not in STAGE}
        return self._structure(StageSpec, {"name": name, "table": rest, **own}, at("stage", name))

    def _sink(self, index: int, table: Any) -> SinkSpec | None:
        if isinstance(table, Mapping):
            own = {key: one for key, one in table.items() if key in _SINK}
            table = {**own, "table": {k: one for k, one in table.items() if k not in _SINK}}
        return self._structure(SinkSpec, table, at("sink", index))

    def _one(self, key: str, cls: type[T]) -> T | None:
        return self._structure(cls, self._tables[key], key) if key in self._tables else None

    def _network(self) -> Network | None:
        table = self._tables.get("network")
        if isinstance(table, Mapping) and isinstance(table.get("ca"), str):
            path = self._folder / table["ca"]
            if not _is_file(path):
                self._wrong("network.ca", f"there is no file {str(path)!r}. Give a PEM file.")
            self._tables = {**self._tables, "network": {**table, "ca": str(path)}}
        return self._one("network", Network)

    def _flight(self) -> FlightSpec | None:
        table = self._tables.get("flight")
        if isinstance(table, Mapping) and isinstance(table.get("folder"), str) and table["folder"]:
            folder = str(self._folder / table["folder"])
            self._tables = {**self._tables, "flight": {**table, "folder": folder}}
        return self._one("flight", FlightSpec)

    def _backend(self) -> Any:
        backend = self._tables.get("backend", "asyncio")
        known = get_args(Backend)
        if backend in known:
            return backend
        hint = nearest(backend, known) if isinstance(backend, str) else ""
        words = " or ".join(map(repr, known))
        self._wrong("backend", f"expected {words}, got {shown(backend)}.{hint}".removesuffix("."))
        return None

    def _mentioned(self, key: str) -> set[str]:
        """Return the words that feeds have under *key*, right or wrong."""
        tables = self._tables.get("feed", ())
        some = tables if isinstance(tables, list | tuple) else ()
        feeds = [table for table in some if isinstance(table, Mapping)]
        words: set[str] = set()
        for value in (feed.get(key) for feed in feeds):
            values = value if isinstance(value, list | tuple) else [value]
            words |= {word for word in values if isinstance(word, str)}
        return words

    def _unused(self, tables: Iterable[str], kind: str, problem: str, remedy: str) -> None:
        """Report tables that nobody reads: each is misspelt, or was forgotten."""
        if any(
            mistake.place.startswith("feed") and not _FEED_DETAIL.match(mistake.place)
            for mistake in self._mistakes
        ):
            return  # the names themselves are in doubt
        mentioned = self._mentioned("stages" if kind == "stage" else "venue")
        for name in tables:
            if name not in mentioned:
                hint = nearest(name, mentioned) or f" {remedy}, or delete the table."
                self._wrong(at(kind, name), f"{problem}.{hint}")

    def _distinct(self, kind: str, specs: Iterable[Any]) -> list[Any]:
        """Leave out, as a mistake, whatever has the name of an earlier one."""
        kept: dict[object, tuple[int, Any]] = {}
        for index, spec in enumerate(specs):
            if spec is None:
                continue
            first, earlier = kept.setdefault(spec.name or index, (index, spec))
            if earlier is not spec:
                problem = f"{spec.name!r} is the name of {kind}[{first}] too. Give each its own."
                self._wrong(f"{kind}[{index}].name", problem)
        return [spec for _, spec in kept.values()]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with characters that no path may have
        return False
