"""The documentation is whole and true: every name stands in it, every block of it works.

Fences say what is done with them. ``python`` runs, in order, one namespace a page, in a folder of
its own; ``python no-run`` is only compiled. ``python NAME.py`` and ``toml NAME.toml`` are files of
that folder, and ``test_*.py`` files are run by pytest. Every ``toml`` must parse, and be a stack if
it has a feed. In ``console`` each ``tapeloom`` command must be one; with ``console run`` it is run,
and what it prints must be what follows ("…" stands for anything); ``text output`` is what the Python
block before it printed. The address http://127.0.0.1:9001
is that of a simulator, which is started for the pages that name it.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import inspect
import itertools
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
import pytest
import structlog
import tapeloom
from anyio.from_thread import start_blocking_portal
from tapeloom import FeedSpec, QueueSpec, Registry, SinkSpec, Stack, StageSpec, errors, hooks
from tapeloom._compose.composer import compose
from tapeloom._config import FlightSpec, Network, Process, parse, structure
from tapeloom.cli._main import _parser, main
from tapeloom.errors import TapeloomError
from tapeloom.events import BY_TYPE, Event
from tapeloom_simulator import hooks as simulator_hooks
from tapeloom_testing import VirtualClock
from test_architecture import LEVEL

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READMES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("*/README.md")),
    *sorted(ROOT.glob("*/*/README.md")),
]
SIMULATOR = "http://127.0.0.1:9001"
#: Windows' and Unix' absolute paths, as they stand on somebody's machine.
MACHINE = re.compile(r"(?<![\w.:/])/(?:home|Users|root|work|tmp|mnt|var|opt)\b|\b[A-Z]:\\")


def ids(value: object) -> str:
    if isinstance(value, Path):
        return str(value.relative_to(ROOT))
    return getattr(value, "__name__", str(value))


# ----------------------------------------------------------------------------------- reading pages


@attrs.frozen
class Block:
    """A fence: what is in it, and where."""

    page: Path
    line: int
    language: str
    label: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    fence = re.compile(r"^```(\w+) ?(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
    text = page.read_text("utf-8")
    for match in fence.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[1], match[2].strip(), match[3])


def all_blocks(*languages: str) -> list[Block]:
    return [b for page in [*PAGES, *READMES] for b in blocks(page) if b.language in languages]


def prose(page: Path) -> str:
    """Return a page without its fences."""
    return re.sub(r"^```(?:.*\n)*?```$", "", page.read_text("utf-8"), flags=re.MULTILINE)


def sections(page: Path) -> dict[str, str]:
    """Return the text under each heading of the second level, by the heading without backticks."""
    parts = re.split(r"^## (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {
        head.replace("`", ""): body for head, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def rows(section: str) -> dict[str, list[str]]:
    """Return the rows of tables whose first cell is a name in backticks."""
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and (name := re.fullmatch(r"`([\w.-]+)`", cells[0])):
            found[name[1]] = [cell.replace("\\|", "|").strip("`") for cell in cells[1:]]
    return found


def slug(heading: str) -> str:
    """Return the anchor of a heading, as the common hosts of Markdown make it."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")


# -------------------------------------------------------------------------- every name is documented

SPECS = {
    name: spec
    for module, marker in ((hooks, "tapeloom_spec"), (simulator_hooks, "tapeloom_simulator_spec"))
    for name, spec in vars(module).items()
    if hasattr(spec, marker)
}
REFERENCE = DOCS / "reference"


def test_every_hook_has_its_signature_as_a_heading() -> None:
    expected = {f"{name}{inspect.signature(spec)}".replace("'", "") for name, spec in SPECS.items()}

    assert set(sections(REFERENCE / "hooks.md")) >= expected


def test_every_error_has_a_heading_and_no_other_has_one() -> None:
    kinds = {
        name
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, TapeloomError)
    }

    assert set(sections(REFERENCE / "errors.md")) == kinds


OF_CORE = [cls for cls in BY_TYPE.values() if cls.__module__.startswith("tapeloom.")]


@pytest.mark.parametrize("cls", OF_CORE, ids=ids)
def test_every_field_of_an_event_is_documented_with_type_and_default(cls: type[Event]) -> None:
    expected = {
        field.name: [
            str(field.type),
            "" if field.default is attrs.NOTHING else repr(field.default).replace("'", '"'),
        ]
        for field in attrs.fields(cls)
    }
    documented = rows(sections(REFERENCE / "events.md")[cls.__name__])

    assert {name: cells[:2] for name, cells in documented.items()} == expected


VERBS = next(
    action.choices
    for action in _parser(())[0]._actions
    if isinstance(action, argparse._SubParsersAction)
)


def test_exactly_the_verbs_that_exist_are_documented() -> None:
    heads = sections(REFERENCE / "cli.md")
    documented = {head.removeprefix("tapeloom ") for head in heads if head.startswith("tapeloom ")}

    assert documented == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_exactly_the_arguments_of_a_verb_are_documented(verb: str) -> None:
    section = sections(REFERENCE / "cli.md")[f"tapeloom {verb}"]
    actions = [a for a in VERBS[verb]._actions if not isinstance(a, argparse._HelpAction)]
    expected = {option for action in actions for option in action.option_strings}
    positional = {str(a.metavar or a.dest) for a in actions if not a.option_strings}

    assert set(re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE)) == expected
    assert all(f"| `{name}" in section for name in positional)


def test_the_options_of_the_command_itself_are_documented() -> None:
    page = (REFERENCE / "cli.md").read_text("utf-8")
    options = {option for action in _parser(())[0]._actions for option in action.option_strings}

    assert {option for option in options if f"`{option}`" not in page} == {"-h"}


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=lambda page: str(page.relative_to(ROOT)))
def test_an_option_named_beside_a_verb_in_a_sentence_exists(page: Path) -> None:
    unknown = [
        f"{verb} {option}"
        for verb, rest in re.findall(r"`tapeloom (\w+)([^`\n]*)`", prose(page))
        for option in re.findall(r"--[\w-]+", rest)
        if verb not in VERBS or option not in VERBS[verb]._option_string_actions
    ]

    assert unknown == []


#: Where the fields of each class of the stack stand; the keys that are no keys of a file.
KEYS: list[tuple[type[Any], str, set[str]]] = [
    (Stack, "The top of the file", {"source", "places"}),
    (FeedSpec, "[[feed]]", set()),
    (StageSpec, "[stage.NAME]", {"name", "table"}),
    (SinkSpec, "[[sink]]", {"table"}),
    (QueueSpec, "[queue]", set()),
    (Network, "[network]", set()),
    (FlightSpec, "[flight]", set()),
    (Process, "[process]", set()),
]
NAMED = {"feeds": "feed", "stages": "stage", "venues": "venue", "sinks": "sink"}


@pytest.mark.parametrize(("cls", "head", "internal"), KEYS, ids=[head for _, head, _ in KEYS])
def test_every_key_of_a_stack_is_documented(cls: type[Any], head: str, internal: set[str]) -> None:
    expected = {
        NAMED.get(field.name, field.name) if cls is Stack else field.name
        for field in attrs.fields(cls)
    }

    assert set(rows(sections(REFERENCE / "stack.md")[head])) == expected - internal


REGISTRY = Registry()
SETTINGS = {
    name: cls for name in REGISTRY.installed if (cls := REGISTRY.call(name, "settings")) is not None
}


@pytest.mark.parametrize("plugin", SETTINGS)
def test_every_setting_of_a_plugin_is_documented_with_its_default(plugin: str) -> None:
    cls = SETTINGS[plugin]
    documented = rows(sections(REFERENCE / "settings.md")[plugin])
    tables = {key: tomllib.loads(f"{key} = {cells[1]}") for key, cells in documented.items()
              if cells[1] != "none"}  # fmt: skip
    read = {key: structure(cls, table, plugin)[0] for key, table in tables.items()}

    assert set(documented) == {field.name for field in attrs.fields(cls)}
    for key in documented:
        expected = getattr(cls(), key)
        assert (getattr(read[key], key) if key in read else None) == expected, key


#: The folders of plugins that share a package with another one.
FOLDERS = {"remote": "serve"}


@pytest.mark.parametrize("plugin", SETTINGS)
def test_every_setting_of_a_plugin_stands_in_its_readme(plugin: str) -> None:
    folder = FOLDERS.get(plugin, plugin)
    pages = (page for page in READMES if page.parent.name == folder and page.parent != ROOT)
    readme = next(pages).read_text("utf-8")
    missing = [
        f.name for f in attrs.fields(SETTINGS[plugin]) if not re.search(rf"\b{f.name}\b", readme)
    ]

    assert missing == []


def test_every_public_name_is_documented() -> None:
    pages = [REFERENCE / "python.md", REFERENCE / "events.md"]
    heads = {word for page in pages for head in sections(page) for word in re.findall(r"\w+", head)}

    assert set(tapeloom.__all__) - heads == set()


@pytest.mark.parametrize("cls", [tapeloom.Stream, tapeloom.Consumer, tapeloom.Registry], ids=ids)
def test_every_public_method_is_documented(cls: type[Any]) -> None:
    section = sections(REFERENCE / "python.md")[cls.__name__]
    public = {name for name in vars(cls) if not name.startswith("_")}

    assert {name for name in public if f"`{name}" not in section} == set()


CORE = ROOT / "core/src/tapeloom"


def test_every_entry_of_core_is_on_the_page_of_the_architecture_with_its_level() -> None:
    tree = rows(sections(DOCS / "explanation/architecture.md")["The tree of core"])

    assert {entry: int(cells[0]) - 1 for entry, cells in tree.items()} == LEVEL


@pytest.mark.parametrize("folder", [p.parent for p in sorted(CORE.glob("*/__init__.py"))], ids=ids)
def test_every_module_of_a_package_of_core_is_on_that_page_too(folder: Path) -> None:
    tree = rows(sections(DOCS / "explanation/architecture.md")["The tree of core"])
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}

    assert modules
    assert {name for name in modules if f"`{name}`" not in f"`{tree[folder.name][1]}`"} == set()


def test_every_module_of_core_that_a_page_names_is_there() -> None:
    named = {
        name
        for page in [*PAGES, *READMES]
        for name in re.findall(r"`(_[\w/]+/\w+)`", page.read_text("utf-8"))
    }

    assert named
    assert {name for name in named if not (CORE / f"{name}.py").is_file()} == set()


def test_the_picture_of_the_architecture_is_what_its_script_draws() -> None:
    script = DOCS / "explanation/architecture.py"
    draw = runpy.run_path(str(script))["draw"]

    assert script.with_suffix(".svg").read_text("utf-8") == draw()


@pytest.mark.slow
def test_the_picture_of_the_table_shows_what_the_demo_shows() -> None:
    """Numbers differ from run to run; titles, symbols and their colours do not."""
    script = DOCS / "tutorial/table.py"
    picture = script.with_suffix(".svg").read_text("utf-8")
    functions = runpy.run_path(str(script))
    drawn = functions["draw"](functions["screen"](8))
    shown = ElementTree.fromstring(picture).itertext()
    words = {word for text in shown for word in text.split() if word.isupper() or "/" in word}

    assert {"SYMBOL", "OPEN", "HIGH", "LOW", "CLOSE", "LAG", "GAPS", "BTC/USDT:USDT"} <= words
    assert {word for word in words if f">{word}<" not in drawn} == set()
    assert all(glyph in picture for glyph in "▁█")


def test_every_event_that_core_logs_is_on_the_page_about_trouble() -> None:
    page = (DOCS / "howto/troubleshoot.md").read_text("utf-8")
    logged = {
        name
        for file in CORE.rglob("*.py")
        for name in re.findall(r'\blog\.\w+\(\s*"(\w+)"', file.read_text("utf-8"))
    }

    assert logged
    assert {name for name in logged if f"`{name}`" not in page} == set()


# --------------------------------------------------------------------------------- every page is sound


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=ids)
def test_internal_links_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if not other.exists():
            broken.append(target)
        elif anchor:
            heads = re.findall(r"^#+ (.+)$", other.read_text("utf-8"), re.MULTILINE)
            if anchor not in map(slug, heads):
                broken.append(target)

    assert broken == []


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=ids)
def test_no_page_names_a_path_of_a_machine(page: Path) -> None:
    assert MACHINE.findall(page.read_text("utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_a_line_holds_one_sentence(page: Path) -> None:
    lines = [line for line in prose(page).splitlines() if not line.startswith("|")]

    assert [line for line in lines if re.search(r"[a-z`)\"][.!?] [A-Z`\[]", line)] == []


def test_every_page_can_be_reached_from_the_map() -> None:
    text = (DOCS / "index.md").read_text("utf-8")
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", text)}

    assert {p for p in PAGES if p.name != "index.md"} - linked == set()


# ------------------------------------------------------------------------------------ every block works


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every tapeloom command in the lines of a console, without its name."""
    for line in text.replace("\\\n", " ").splitlines():
        if not line.startswith("$ "):
            continue
        words = shlex.shlex(line[2:], posix=True, punctuation_chars=True)
        words.whitespace_split = True
        ended = lambda word: set(word) <= set("&|;<>()")  # noqa: E731
        for stops, group in itertools.groupby(words, ended):
            part = [] if stops else list(group)
            while part[:2] in (["uv", "run"], ["python", "-m"]):
                part = part[2:]
            if part[:1] == ["tapeloom"]:
                yield part[1:]


@pytest.mark.parametrize("block", all_blocks("console"), ids=lambda block: block.place)
def test_commands_are_understood(block: Block) -> None:
    parser = _parser(())[0]  # it ends the process with a word on what is wrong
    for words in commands(block.text):
        parser.parse_args(words)


@pytest.mark.parametrize("block", all_blocks("toml"), ids=lambda block: block.place)
def test_toml_parses_and_a_feed_makes_it_a_stack(block: Block) -> None:
    if "feed" not in tomllib.loads(block.text):
        return
    text = re.sub(r"\{ (env|file) = .*\}", '{ env = "PATH" }', block.text)
    draft = parse(text, block.place)
    stack, mistakes = draft.stack, draft.mistakes
    plugins = {feed.venue for feed in stack.feeds} | {one.use for one in stack.stages.values()}
    if plugins <= set(REGISTRY.installed):
        compose(stack, Registry(), VirtualClock(), mistakes=mistakes).or_raise()
    else:  # it is about a plugin that is made up
        draft.stack_or_raise()


def run_commands(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for part in re.split(r"^(?=\$ )", block.text, flags=re.MULTILINE)[1:]:
        _, _, expected = part.replace("\\\n", " ").partition("\n")
        capsys.readouterr()
        for words in commands(part):
            assert main(words) == 0, block.place
        printed = capsys.readouterr().out
        if expected.strip():
            assert_alike(printed, expected, block)


def assert_alike(printed: str, expected: str, block: Block) -> None:
    pattern = re.sub(r"([\[\]*?])", r"[\1]", expected.strip()).replace("…", "*")

    assert fnmatch.fnmatchcase(printed.strip(), pattern), f"{block.place} prints:\n{printed}"


def run_page(page: Path, url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        text = block.text.replace(SIMULATOR, url)
        if "." in block.label:
            (folder / block.label).write_text(text, "utf-8")
            if block.label.startswith("test_"):
                subprocess.run(
                    [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", block.label],
                    cwd=folder, check=True,
                )  # fmt: skip
        elif block.language == "python":
            # As many lines before it as the page has, so that a traceback names the right one.
            code = compile("\n" * block.line + text, str(page), "exec")
            if block.label != "no-run":
                exec(code, namespace)
        elif block.language == "console" and block.label == "run":
            run_commands(block, capsys)
        elif block.language == "text" and block.label == "output":
            assert_alike(capsys.readouterr().out, text, block)


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=ids)
def test_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(sys.modules)
    monkeypatch.setenv("TAPELOOM_DURABILITY_RUNS", "1")  # the contract of a sink on a page
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        if SIMULATOR not in page.read_text("utf-8"):
            run_page(page, "", tmp_path, capsys)
            return
        serve = importlib.import_module("tapeloom_simulator").serve
        symbols = ["BTC/USDT", "ETH/USDT", "BTC/USDT:USDT"]
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(
                portal.call(lambda: serve("binance", symbols=symbols, seed=7, rate=200, speed=10))
            ) as simulator,
        ):
            run_page(page, simulator.url, tmp_path, capsys)
    finally:
        structlog.reset_defaults()  # the command line has configured it
        for name in set(sys.modules) - before:
            if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
