"""Parsing of stack.toml into a `Stack`, collecting every mistake instead of stopping at the first."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import attrs

from tapeloom.errors import ConfigError, LeftOut, Mistake, nearest

from .descriptions import describe
from .places import Places, child
from .stack import (
    SINK_QUEUE,
    STAGE_KEYS,
    Backend,
    ClusterSpec,
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

T = TypeVar("T")

#: The keys that a stack may have at its top level.
_TOP_KEYS = (
    "backend",
    "cluster",
    "feed",
    "flight",
    "network",
    "process",
    "queue",
    "sink",
    "stage",
    "venue",
)
#: The keys of a sink's table that belong to core; all others are the plugin's settings.
_SINK_KEYS = frozenset(field.name for field in attrs.fields(SinkSpec)) - {"table"}
#: Mistakes at these keys of a feed leave it known which venue and which stages the feed names.
_FEED_DETAIL = re.compile(r"feed\[\d+\]\.(symbols|channels|name|market)\b")
#: A message of `tomllib` that ends with a position.
_POSITION = re.compile(
    r"(?P<text>.*?) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)"
)
#: What to do about a syntax error, by the beginning of the message of `tomllib`.
_SYNTAX_HINTS = {
    "Invalid value": "Put strings in quotes; write true and false in lower case",
    "Cannot declare": "Write tables that may be repeated, such as [[feed]], in double brackets",
    "Cannot overwrite": "The same key is given twice",
    "Expected '=' after a key": "Write key = value, one per line",
    "Unclosed array": "A closing ] is missing",
}


@attrs.define
class Draft:
    """The parts of a stack that could be read, and the mistakes in the others.

    If there are mistakes, `stack` holds the valid parts only, so that plugins can check their settings
    and report more mistakes; it must not be run.
    """

    stack: Stack
    mistakes: list[Mistake] = attrs.Factory(list)

    def stack_or_raise(self) -> Stack:
        """Return the stack.

        Raises ConfigError with all mistakes, in file order.
        """
        if self.mistakes:
            raise self.stack.error(self.mistakes)
        return self.stack


def read(path: Path | str) -> Draft:
    """Return the draft of a stack file. Relative paths in it are resolved against its folder.

    Raises ConfigError if the file cannot be read or is not TOML.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        candidates = [file.name for file in path.parent.glob("*.toml")]
        hint = (
            nearest(path.name, candidates) or " Give the path of a stack file, such as stack.toml."
        )
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
    """Return the draft of a stack from TOML text, or from tables that code has built.

    *source* names the stack in error messages; relative paths are resolved against *folder*.

    Raises ConfigError if the text is not TOML.
    """
    if not isinstance(document, str):
        return _StackParser(document, folder or Path()).draft(source, Places())
    try:
        tables = tomllib.loads(document)
    except tomllib.TOMLDecodeError as error:
        _fail(source, _syntax_mistake(str(error), document))
    except RecursionError:
        _fail(source, Mistake("", "not valid TOML: tables or arrays are nested too deeply"))
    return _StackParser(tables, folder or Path()).draft(source, Places(document))


def _fail(source: str, mistake: Mistake) -> NoReturn:
    raise ConfigError([mistake], source) from None


def _syntax_mistake(message: str, text: str) -> Mistake:
    match = _POSITION.fullmatch(message)
    problem = match["text"] if match else message
    hint = next((hint for start, hint in _SYNTAX_HINTS.items() if problem.startswith(start)), "")
    problem = f"not valid TOML: {problem[:1].lower()}{problem[1:]}{f'. {hint}.' if hint else ''}"
    if match is None or match["line"] is None:
        return Mistake("", problem, text.rstrip().count("\n") + 1)
    return Mistake("", problem, int(match["line"]), int(match["column"]))


class _StackParser:
    """Reads the tables of one stack and collects the mistakes."""

    def __init__(self, tables: Mapping[str, Any], folder: Path) -> None:
        self._tables = tables
        self._folder = folder
        self._mistakes: list[Mistake] = []

    def draft(self, source: str, places: Places) -> Draft:
        """Return the parts of the stack that are valid, and the mistakes found in the others.

        *source* names the stack in messages; *places* finds the line of each mistake.
        """
        self._check_top_keys()
        feeds = [self._feed(index, table) for index, table in self._table_array("feed")]
        if not self._tables.get("feed"):
            self._report("", "there is no [[feed]]. Add one with a venue, symbols and channels.")
        stages = {name: self._stage(name, table) for name, table in self._named_tables("stage")}
        venues = dict(self._named_tables("venue"))
        self._check_unused(stages, "stage", "Name it in the stages of a feed")
        self._check_unused(venues, "venue", "Add a feed")
        sinks = [self._sink(index, table) for index, table in self._table_array("sink")]
        parts = {
            "cluster": self._cluster(),
            "queue": self._optional("queue", QueueSpec),
            "network": self._network(),
            "flight": self._flight(),
            "process": self._optional("process", Process),
            "backend": self._backend(),
        }
        stack = Stack(
            self._deduplicate("feed", feeds),
            {name: stage for name, stage in stages.items() if stage is not None},
            venues,
            self._deduplicate("sink", sinks),
            source=source,
            places=places,
            **{key: value for key, value in parts.items() if value is not None},
        )
        return Draft(stack, self._mistakes)

    def _report(self, place: str, problem: str) -> None:
        self._mistakes.append(Mistake(place, problem))

    def _structure(self, cls: type[T], table: Any, place: str) -> T | None:
        instance, mistakes = structure(cls, table, place, folder=self._folder)
        self._mistakes += mistakes
        return instance

    def _check_top_keys(self) -> None:
        plugins = {"stage": self._mentioned("stages"), "venue": self._mentioned("venue")}
        known = f" Known: {', '.join(_TOP_KEYS)}"
        for key in self._tables:
            if key in _TOP_KEYS:
                continue
            kinds = [kind for kind, names in plugins.items() if key in names]
            hint = f" Write [{child(kinds[0], key)}]" if kinds else nearest(key, _TOP_KEYS)
            self._report(child("", key), f"unknown key.{hint or known}")

    def _table_array(self, kind: str) -> list[tuple[int, Any]]:
        tables = self._tables.get(kind, ())
        if isinstance(tables, list | tuple):
            return list(enumerate(tables))
        self._report(kind, f"expected [[{kind}]] in double brackets, got {describe(tables)}")
        return []

    def _named_tables(self, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
        tables = self._tables.get(kind, {})
        if not isinstance(tables, Mapping):
            self._report(kind, f"expected tables named [{kind}.<name>], got {describe(tables)}")
            return []
        for name, table in tables.items():
            if not isinstance(table, Mapping):
                place = child(kind, name)
                self._report(place, f"expected a table [{kind}.<name>], got {describe(table)}")
        return [(name, table) for name, table in tables.items() if isinstance(table, Mapping)]

    def _feed(self, index: int, table: Any) -> FeedSpec | None:
        place = child("feed", index)
        feed, mistakes = structure(FeedSpec, table, place, folder=self._folder)
        self._mistakes += mistakes
        if feed is None:
            return _valid_part(FeedSpec, table, place, mistakes)
        for key in ("symbols", "channels"):
            if key not in table:
                problem = f"the key {key!r} is missing; expected a string or an array of strings"
                self._mistakes.append(LeftOut(f"{place}.{key}", problem))
            elif not getattr(feed, key):
                self._report(f"{place}.{key}", f"expected at least one {key[:-1]}, got none")
        return feed

    def _stage(self, name: str, table: Mapping[str, Any]) -> StageSpec | None:
        own = {key: value for key, value in table.items() if key in STAGE_KEYS}
        rest = {key: value for key, value in table.items() if key not in STAGE_KEYS}
        table = {"name": name, "table": rest, **own}
        return self._structure(StageSpec, table, child("stage", name))

    def _sink(self, index: int, table: Any) -> SinkSpec | None:
        place = child("sink", index)
        if isinstance(table, Mapping):
            own = {key: value for key, value in table.items() if key in _SINK_KEYS}
            own["table"] = {key: value for key, value in table.items() if key not in _SINK_KEYS}
            own["spool_folder"] = self._relative(own.get("spool_folder", "spool"))
            if isinstance(queue := own.get("queue"), Mapping):
                own["queue"] = {"size": SINK_QUEUE.size, "policy": SINK_QUEUE.policy, **queue}
            table = own
        sink, mistakes = structure(SinkSpec, table, place, folder=self._folder)
        self._mistakes += mistakes
        return sink if sink is not None else _valid_part(SinkSpec, table, place, mistakes)

    def _relative(self, path: Any) -> Any:
        """Return a path of the stack file relative to its folder; anything but a text unchanged."""
        return str(self._folder / path) if isinstance(path, str) and path else path

    def _optional(self, key: str, cls: type[T]) -> T | None:
        return self._structure(cls, self._tables[key], key) if key in self._tables else None

    def _cluster(self) -> ClusterSpec | None:
        table = self._tables.get("cluster")
        if isinstance(table, Mapping):
            rest = {key: value for key, value in table.items() if key != "use"}
            own = {key: table[key] for key in ("use",) if key in table}
            self._tables = {**self._tables, "cluster": {**own, "table": rest}}
        return self._optional("cluster", ClusterSpec)

    def _network(self) -> Network | None:
        table = self._tables.get("network")
        if isinstance(table, Mapping) and isinstance(table.get("ca"), str):
            path = self._folder / table["ca"]
            if not _is_file(path):
                self._report("network.ca", f"there is no file {str(path)!r}. Give a PEM file.")
            self._tables = {**self._tables, "network": {**table, "ca": str(path)}}
        return self._optional("network", Network)

    def _flight(self) -> FlightSpec | None:
        table = self._tables.get("flight")
        if isinstance(table, Mapping) and isinstance(table.get("folder"), str) and table["folder"]:
            folder = self._relative(table["folder"])
            self._tables = {**self._tables, "flight": {**table, "folder": folder}}
        return self._optional("flight", FlightSpec)

    def _backend(self) -> Any:
        backend = self._tables.get("backend", "asyncio")
        known = get_args(Backend)
        if backend in known:
            return backend
        hint = nearest(backend, known) if isinstance(backend, str) else ""
        problem = f"expected {' or '.join(map(repr, known))}, got {describe(backend)}.{hint}"
        self._report("backend", problem.removesuffix("."))
        return None

    def _mentioned(self, key: str) -> set[str]:
        """Return the strings that the tables of the feeds have under *key*, valid or not."""
        tables = self._tables.get("feed", ())
        tables = tables if isinstance(tables, list | tuple) else ()
        feeds = [table for table in tables if isinstance(table, Mapping)]
        names: set[str] = set()
        for value in (feed.get(key) for feed in feeds):
            values = value if isinstance(value, list | tuple) else [value]
            names |= {name for name in values if isinstance(name, str)}
        return names

    def _check_unused(self, tables: Iterable[str], kind: str, remedy: str) -> None:
        """Record a mistake for each table that no feed names: it is misspelt, or left over."""
        if any(
            mistake.place.startswith("feed") and not _FEED_DETAIL.match(mistake.place)
            for mistake in self._mistakes
        ):
            return  # a feed may name it by a key that could not be read
        mentioned = self._mentioned("stages" if kind == "stage" else "venue")
        for name in tables:
            if name not in mentioned:
                hint = nearest(name, mentioned) or f" {remedy}, or delete the table."
                self._report(child(kind, name), f"no feed names this {kind}.{hint}")

    def _deduplicate(self, kind: str, specs: Iterable[Any]) -> list[Any]:
        """Return *specs* without those whose name an earlier one has; each is reported as a mistake."""
        kept: dict[object, tuple[int, Any]] = {}
        for index, spec in enumerate(specs):
            if spec is None:
                continue
            first, earlier = kept.setdefault(spec.name or index, (index, spec))
            if earlier is not spec:
                problem = f"{spec.name!r} is already the name of {kind}[{first}]. Choose another."
                self._report(f"{kind}[{index}].name", problem)
        return [spec for _, spec in kept.values()]


def _valid_part(cls: type[T], table: Any, place: str, mistakes: Sequence[Mistake]) -> T | None:
    """Return a feed or sink of the valid keys and items in *table*, so that its plugins can be checked."""
    if not isinstance(table, Mapping):
        return None
    bad = {mistake.place for mistake in mistakes}
    valid: dict[str, Any] = {"symbols": (), "channels": ()}
    for key, value in table.items():
        key_place = child(place, key)
        if key_place in bad or any(mistake.startswith(f"{key_place}.") for mistake in bad):
            continue
        if isinstance(value, list):
            value = [item for i, item in enumerate(value) if child(key_place, i) not in bad]
        valid[key] = value
    return structure(cls, valid, place)[0]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the path is too long or has characters that are not allowed
        return False
