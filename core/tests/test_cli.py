"""The command line: exit codes, outputs, signals, and no traceback for user mistakes."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib.util
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import pytest
import structlog
import tapeloom
from anyio.from_thread import start_blocking_portal
from attrs import evolve
from tapeloom import Gap, Quote, Trade, decode
from tapeloom._tape.compression import read_whole
from tapeloom.cli._main import main
from tapeloom.cli._output import Summary
from tapeloom.cli._table import Table
from tapeloom_testing import FakeClient, FakeVenue

ACME = f"""\
import importlib.util

spec = importlib.util.spec_from_file_location("acme_of_the_tests", {str(Path(__file__).with_name("conftest.py"))!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
acme, marker = module.Acme(), module.Marker()
"""
VERB = """\
from tapeloom.hooks import hookimpl

@hookimpl
def commands(verbs):
    parser = verbs.add_parser("hello")
    parser.add_argument("--code", type=int, default=0)
    parser.set_defaults(run=lambda args: print("hello") or args.code)
"""
FROZEN = """\
import ctypes
from tapeloom.hooks import hookimpl

class Sink:
    backends = frozenset({"asyncio", "trio"})

    guarantee = "at_most_once"

    async def open(self, run):
        pass

    async def write(self, batch):
        ctypes.CDLL(None).sleep(60)  # it neither runs signal handlers nor lets the event loop go on

    async def close(self):
        pass

@hookimpl
def sink(settings):
    return Sink()
"""
CHATTY = """\
import logging, os, sys, warnings
from tapeloom.hooks import hookimpl

warnings.simplefilter("default")
logger = logging.getLogger("chatty")
logger.addHandler(logging.StreamHandler(sys.stdout))
logger.addHandler(logging.StreamHandler(sys.__stdout__))
kept = sys.__stdout__

class Sink:
    backends = frozenset({"asyncio", "trio"})

    guarantee = "at_most_once"

    async def open(self, run):
        pass

    async def write(self, batch):
        print("printed")
        kept.write("written")
        logger.warning("logged")
        warnings.warn("warned")
        os.write(1, b"from C")

    async def close(self):
        pass

@hookimpl
def sink(settings):
    return Sink()
"""
SILENT = """\
import anyio
from tapeloom import Status
from tapeloom.hooks import hookimpl

class Source:
    backends = frozenset({"asyncio", "trio"})
    channels = frozenset({"trades"})
    resumes = False

    async def run(self, deliver):
        await anyio.sleep_forever()

    def symbols_changed(self):
        pass

@hookimpl
def connect(feed):
    return Source()
"""
STUCK = """\
import anyio
from tapeloom.hooks import hookimpl

class Sink:
    backends = frozenset({"asyncio", "trio"})

    guarantee = "at_most_once"

    async def open(self, run):
        pass

    async def write(self, batch):
        await anyio.sleep_forever()

    async def close(self):
        pass

@hookimpl
def sink(settings):
    return Sink()
"""


CVD = """\
from decimal import Decimal
from tapeloom import Trade
from tapeloom.events import BaseEvent, event_class
from tapeloom.hooks import hookimpl

@event_class
class Cvd(BaseEvent):
    type = "made_cvd"
    venue: str
    symbol: str
    ts: int
    recv: int
    delta: Decimal
    sides: list[Decimal]
    note: str | None = None
    channel: str = "made_cvd"

@hookimpl
def aggregate(feed):
    def stage(events):
        out = []
        for event in events:
            out.append(event)
            if type(event) is Trade:
                delta, note = event.size * event.id, "a\\x1b[2Jb"
                own = Cvd(feed.venue, event.symbol, event.ts, event.recv, delta, [delta], note)
                out.append(own)
        return out
    return stage

class Sink:
    guarantee = "at_least_once"

    def open(self, run):
        pass

    def write(self, batch):
        with open("stored", "a") as file:
            file.writelines(f"{event.type} {event.delta}\\n" for event in batch.events)

    def close(self):
        pass

@hookimpl
def sink(settings):
    return Sink()
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to install plugins into; no other plugin is visible, here and in child processes."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.delenv("TERM", raising=False)
    install(folder, "acme", ACME, {"acme": "acme", "marker": "marker"})
    monkeypatch.setenv(
        "TAPELOOM_PLUGINS", "acme,marker,hello,broken,stuck,frozen,chatty,silent,keeper"
    )
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("made_")]:
        del sys.modules[name]
    structlog.reset_defaults()


def install(site: Path, name: str, source: str, entries: dict[str, str] | None = None) -> None:
    (site / f"made_{name}.py").write_text(source)
    info = site / f"tapeloom_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tapeloom-{name}\nVersion: 1.0\n")
    points = [
        f"{entry} = made_{name}{':' + attribute if attribute else ''}"
        for entry, attribute in (entries or {name: ""}).items()
    ]
    (info / "entry_points.txt").write_text("\n".join(["[tapeloom.plugins]", *points, ""]))


def trade(n: int) -> str:
    return json.dumps({"s": "BTCUSD", "t": n, "p": f"{n}.50", "q": "2", "i": n})


async def busy(client: FakeClient) -> None:
    """Acknowledge the subscription, then send trades until the client disconnects."""
    await client.send(json.dumps({"ok": json.loads(await client.receive_text())["id"]}))
    n = 0
    while True:
        await client.send(*(trade(n + k) for k in range(5)))
        n += 5
        await anyio.sleep(0.005)


@pytest.fixture
def serving() -> Iterator[Callable[[FakeVenue], FakeVenue]]:
    """Serve a venue in another thread, because the command line blocks this one."""
    with start_blocking_portal() as portal:
        contexts: list[Any] = []

        def serve(venue: FakeVenue) -> FakeVenue:
            context = portal.wrap_async_context_manager(venue.serve())
            context.__enter__()
            contexts.append(context)
            return venue

        yield serve
        for context in contexts:
            context.__exit__(None, None, None)


Stacked = Callable[..., str]


@pytest.fixture
def stack(site: Path, tmp_path: Path) -> Stacked:
    def write(url: str = "ws://127.0.0.1:9", more: str = "", top: str = "", **feed: Any) -> str:
        fields = {
            "venue": "acme",
            "symbols": ["BTC/USD"],
            "channels": ["trades"],
            "stages": ["marker"],
            **feed,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
        text = "\n".join([top, "[[feed]]", *lines, "[venue.acme]", f'url = "{url}"', dedent(more)])
        (tmp_path / "stack.toml").write_text(text)
        return "stack.toml"

    return write


@pytest.fixture
def running(stack: Stacked, serving: Any) -> str:
    """The stack of a venue that sends trades all the time."""
    return stack(serving(FakeVenue(busy)).url())


@pytest.fixture
def tape(tmp_path: Path, site: Path) -> str:
    lines = [json.dumps({"ts": n / 10, "frame": trade(n)}) for n in range(1, 41)]
    (tmp_path / "day.ws.jsonl").write_text("\n".join([*lines, ""]))
    return "day.ws.jsonl"


REPLAY = ["--venue", "acme", "--symbols", "BTC/USD", "--channels", "trades"]


def summary(err: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(err.rstrip("\n").rpartition("\n")[2])
    return found


def child(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tapeloom", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# -------------------------------------------------------------------------------------------- check


def test_check_prints_what_a_stack_will_do_without_connecting(
    stack: Stacked, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["check", stack(symbols=["BTC/USD", "ETH/USD"])])
    out, err = capsys.readouterr()

    assert (code, err) == (0, "")
    for part in (
        "plugin acme: tapeloom-acme 1.0",
        "plugin marker: tapeloom-acme 1.0",
        "BTC/USD, ETH/USD",
        "parse → marker",
        "ws://127.0.0.1:9: 2 subscriptions in 1 message(s)",
        "nothing is wrong",
    ):
        assert part in out


def test_check_reports_every_mistake_with_its_line(
    stack: Stacked, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["check", stack(more='silence = "long"\nper_conection = 3')])
    out, err = capsys.readouterr()

    assert (code, out) == (2, "")
    assert "silence" in err
    assert "Did you mean 'per_connection'?" in err


def test_check_finds_certificates_that_are_none(
    stack: Stacked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ca.pem").write_text("this is no certificate")
    code = main(["check", stack(top='[network]\nca = "ca.pem"\n')])

    assert code == 2
    assert "cannot be read as PEM certificates" in capsys.readouterr().err


SINK = """\
from tapeloom.errors import SinkUnavailable
from tapeloom.hooks import hookimpl

class Sink:
    guarantee = "at_least_once"

    def open(self, run): ...
    def write(self, batch): ...
    def close(self): ...

    def check(self):
        if {is_down}:
            raise SinkUnavailable("no server at redis://user:word@localhost:1. Start one.")
        return ["server 7.2", "may write"]

@hookimpl
def sink(settings):
    return Sink()
"""


@pytest.mark.parametrize("is_down", [True, False])
def test_check_connect_prints_what_a_store_says_and_hides_its_password(
    site: Path, stack: Stacked, capsys: pytest.CaptureFixture[str], is_down: bool
) -> None:
    install(site, "keeper", SINK.format(is_down=is_down))
    code = main(["check", "--connect", stack(more='[[sink]]\nuse = "keeper"')])
    out = capsys.readouterr().out

    assert "sink keeper: keeper, at least once, queue of 100000, drop_oldest" in out
    if is_down:
        assert code == 1
        assert "sink keeper: no server at redis://***@localhost:1. Start one.\n1 sink(s)" in out
    else:
        assert code == 0
        assert "sink keeper: server 7.2\nsink keeper: may write\nnothing is wrong" in out


def test_check_rejects_what_run_rejects(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.toml").write_text('backend = "asyncio"\n')
    codes = [main(["check", "empty.toml"]), main(["run", "empty.toml"])]

    assert codes == [2, 2]
    assert "nothing is wrong" not in capsys.readouterr().out


def test_check_says_that_a_plain_write_runs_in_a_thread(
    site: Path, stack: Stacked, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "keeper", SINK.format(is_down=False))
    install(site, "stuck", STUCK)
    code = main(["check", stack(more='[[sink]]\nuse = "keeper"\n[[sink]]\nuse = "stuck"')])
    lines = capsys.readouterr().out.splitlines()

    assert code == 0
    assert (
        "sink keeper: keeper, at least once, queue of 100000, drop_oldest, writes in a worker thread"
        in lines
    )
    assert "sink stuck: stuck, at most once, queue of 100000, drop_oldest" in lines


TEXT_ERRORS = """\
from tapeloom.errors import ConfigError
from tapeloom.hooks import hookimpl

@hookimpl
def {hook}({argument}):
    raise ConfigError("no key is given. Write key = 'k'.")
"""


@pytest.mark.parametrize(
    ("name", "hook", "argument", "table", "place"),
    [
        ("silent", "connect", "feed", "", "line 2: feed[0]"),
        ("keeper", "sink", "settings", '[[sink]]\nuse = "keeper"', "line 9: sink[0]"),
    ],
)
def test_a_config_error_of_a_text_is_shown_as_one_mistake_with_its_place(
    site: Path,
    stack: Stacked,
    capsys: pytest.CaptureFixture[str],
    name: str,
    hook: str,
    argument: str,
    table: str,
    place: str,
) -> None:
    install(site, name, TEXT_ERRORS.format(hook=hook, argument=argument))
    if hook == "connect":
        Path("stack.toml").write_text('\n[[feed]]\nvenue = "silent"\nsymbols = ["BTC/USD"]\nchannels = ["trades"]\n')  # fmt: skip
    else:
        stack(more=table)
    code = main(["check", "stack.toml"])
    err = capsys.readouterr().err

    assert code == 2
    assert err == f"tapeloom: stack.toml: {place}: no key is given. Write key = 'k'.\n"


@pytest.mark.parametrize("by_stack", [True, False], ids=["stack", "environment"])
def test_a_socks_proxy_without_its_package_is_a_sentence(
    stack: Stacked,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    by_stack: bool,
) -> None:
    assert importlib.util.find_spec("socksio") is None, "the test is for a machine without it"
    if by_stack:
        code = main(["check", stack(top='[network]\nproxy = "socks5://127.0.0.1:9"\n')])
    else:
        monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:9")
        code = main(["run", stack("ws://venue.invalid/ws"), "--for", "5", "--out", "none"])
    err = capsys.readouterr().err

    assert code == 2
    assert "a SOCKS proxy needs the package socksio. Run: pip install socksio" in err
    assert "Traceback" not in err


# ----------------------------------------------------------------------------------------- commands


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])

    assert caught.value.code == 0
    assert capsys.readouterr().out == f"tapeloom {tapeloom.__version__}\n"


@pytest.mark.parametrize("verb", ["demo", "simulate", "chaos", "parquet"])
def test_a_command_of_a_package_that_is_not_installed_says_what_to_install(
    site: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    code = main([verb, "--for", "10"])
    folder = "simulator" if verb in ("demo", "simulate") else verb

    assert code == 2
    assert capsys.readouterr().err == (
        f"tapeloom: the command {verb!r} is part of the package tapeloom-{folder}, which is not"
        f" installed. In a clone of tapeloom: pip install ./plugins/{folder}\n"
    )


def test_an_unknown_command_proposes_a_known_one(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [main(["rum"]), main(["--debug", "zzz"])] == [2, 2]
    assert capsys.readouterr().err == (
        "tapeloom: there is no command 'rum'. Did you mean 'run'?\n"
        "tapeloom: there is no command 'zzz'. There are run, record, replay, check, plugins.\n"
    )


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("--outt=none", "there is no option '--outt'. Did you mean '--out'?"),
        ("--zzz", "there is no option '--zzz'."),
        ("more", "expected no more arguments, got 'more'."),
    ],
)
def test_an_unknown_option_proposes_one_of_its_command_and_shows_how_that_is_used(
    site: Path, capsys: pytest.CaptureFixture[str], argument: str, problem: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "stack.toml", argument])
    err = capsys.readouterr().err

    assert ended.value.code == 2
    assert err.startswith("usage: tapeloom run")
    assert err.endswith(f"tapeloom run: error: {problem}\n")


# ---------------------------------------------------------------------------------------------- run


def test_run_writes_events_as_lines_and_ends_with_its_summary(
    running: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["run", running, "--for", "0.4", "--out", "jsonl"])
    out, err = capsys.readouterr()
    events = [decode(line) for line in out.splitlines()]
    trades = [event.id for event in events if isinstance(event, Trade)]
    totals = summary(err)

    assert code == 0
    assert trades == list(range(len(trades)))
    assert totals["events"]["trade"] == len(trades) > 10
    assert totals["events"]["status"] == len(events) - len(trades)
    assert (totals["rejects"], totals["gaps"], totals["errors"]) == ({}, 0, [])
    assert totals["frames"] > len(trades)
    assert 0.4 <= totals["seconds"] < 5
    assert events[-1].state == "ended"  # type: ignore[union-attr]


@pytest.mark.parametrize(("format", "shows"), [("none", ""), ("table", "BTC/USD")])
def test_run_writes_a_table_or_nothing(
    running: str, capsys: pytest.CaptureFixture[str], format: str, shows: str
) -> None:
    code = main(["run", running, "--for", "0.4", "--out", format])
    out, err = capsys.readouterr()

    assert code == 0
    assert shows in out
    assert bool(out) is bool(shows)
    assert "\x1b" not in out
    assert summary(err)["events"]["trade"] > 10


def test_run_uses_the_event_loop_of_the_stack(
    stack: Stacked, serving: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stack(serving(FakeVenue(busy)).url(), top='backend = "trio"')
    code = main(["run", path, "--for", "0.3", "--out", "none"])

    assert code == 0
    assert summary(capsys.readouterr().err)["events"]["trade"] > 5


def test_a_failed_feed_is_exit_code_1_with_the_reason(
    stack: Stacked, serving: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stack(serving(FakeVenue(busy, upgrade=(404, {}, b""))).url())
    code = main(["run", path, "--out", "none", "--for", "20"])
    err = capsys.readouterr().err

    assert code == 1
    assert "HTTP 404" in summary(err)["errors"][0]
    assert "Traceback" not in err


@pytest.mark.parametrize("reports", [True, False])
def test_a_source_that_is_silent_is_exit_code_1_unless_it_reports_a_connection(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], reports: bool
) -> None:
    report = 'await deliver([Status("silent", "", 1, 1, "connected")])' if reports else "pass"
    install(
        site, "silent", SILENT.replace("await anyio.sleep", f"{report}\n        await anyio.sleep")
    )
    feed = '[[feed]]\nvenue = "silent"\nsymbols = ["BTC/USD"]\nchannels = ["trades"]\n'
    (tmp_path / "stack.toml").write_text(feed)
    code = main(["run", "stack.toml", "--for", "0.3", "--out", "none"])
    problem = "no connection was established. No event came, and no source reported one."

    assert summary(capsys.readouterr().err)["errors"] == ([] if reports else [problem])
    assert code == (0 if reports else 1)


@pytest.mark.parametrize("out", ["jsonl", "none"])
def test_a_run_that_never_connected_is_exit_code_1_with_the_reason(
    stack: Stacked, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # it does not listen: connections are refused
        path = stack(f"ws://127.0.0.1:{unused.getsockname()[1]}")
        code = main(["run", path, "--out", out, "--for", "0.5"])
    (error,) = summary(capsys.readouterr().err)["errors"]

    assert code == 1
    assert error.startswith("no connection was established.")
    assert "refused the connection" in error


def test_a_symbol_that_the_venue_does_not_list_is_exit_code_2(
    stack: Stacked, serving: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    venue = serving(FakeVenue(busy, http={"/symbols": (200, {}, b'["BTC/USDC"]')}))
    path = stack(venue.url(), more=f'rest = "{venue.url("http")}"')
    code = main(["run", path, "--out", "none", "--for", "20"])
    err = capsys.readouterr().err

    assert code == 2
    assert "Did you mean 'BTC/USDC'?" in summary(err)["errors"][0]


PASSWORDS = ["hunter2", "hun@ter2", "h/unter2"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("answer", ["refused", "404", "429", "502", "works"])
def test_a_password_in_an_address_is_shown_nowhere(
    stack: Stacked, serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    password: str, answer: str,
) -> None:  # fmt: skip
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        if answer != "refused":
            http = {"/symbols": (200, {}, b'["BTC/USD"]')} if answer == "works" else {}
            upgrade = None if answer == "works" else (int(answer), {}, b"")
            host = serving(FakeVenue(busy, upgrade=upgrade, http=http)).url().removeprefix("ws://")
        address = f"me:{password}@{host}"
        path = stack(f"ws://{address}", more=f'rest = "http://{address}"\n[flight]\nfolder = "f"')
        main(["check", path, "--resolved"])
        main(["--debug", "record", path, "--to", "tapes", "--out", "jsonl", "--for", "0.5"])
        main(
            [
                "replay",
                "tapes/acme.jsonl.zst",
                "--out",
                "jsonl",
                "--set",
                f"acme.url=ftp://{address}",
            ]
        )
    out, err = capsys.readouterr()
    shown = out + err + read_whole(tmp_path / "tapes/acme.jsonl.zst", 1 << 20).decode()

    assert host in out
    assert not [part for part in (password, "unter2", "ter2") if part in shown]


#: What a hostile venue may send: it sets the title, clears the screen and begins a line of its own.
HOSTILE = "\x1b]0;owned\x07\x1b[2Jall is well\r\nfake line\x9b1m"


async def hostile(client: FakeClient) -> None:
    """Send texts with escape sequences in each kind of message, then close with one."""
    request = json.loads(await client.receive_text())["id"]
    await client.send(json.dumps({"ok": request}), json.dumps({"notice": HOSTILE}))
    await client.send(json.dumps({"error": HOSTILE, "id": 99}), HOSTILE, trade(1))
    await client.close(1008, HOSTILE)


@pytest.mark.parametrize("out", ["table", "jsonl"])
def test_the_texts_of_a_venue_are_shown_with_escapes(
    stack: Stacked, serving: Any, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    venue = serving(FakeVenue(hostile, http={"/symbols": (400, {}, HOSTILE.encode())}))
    more = f'rest = "{venue.url("http")}"'
    path = stack(venue.url(), more=more, max_attempts=1, stages=[])
    code = main(["--debug", "run", path, "--out", out, "--for", "20"])
    shown, err = capsys.readouterr()

    assert code == 1
    for text in (shown, err):
        assert not [char for char in text if not char.isprintable() and char != "\n"]
        assert "\nfake line" not in text
        assert "all is well" in text


def test_the_table_shows_an_empty_side_of_a_quote() -> None:
    out = io.StringIO()
    table = Table(out)
    head = ("acme", "BTC/USD", 1, 2)
    table.write([Quote(*head, Decimal(10), Decimal(1), Decimal(11), Decimal(1))])
    table.write([Quote(*head, Decimal(10), Decimal(1), None, None)])
    table.refresh({})

    assert "bid 10 ask none" in out.getvalue()


def test_the_table_counts_a_gap_once_however_often_it_is_reported() -> None:
    out = io.StringIO()
    table = Table(out)
    gap = Gap("acme", "BTC/USD", 9, 9, 1, 9, "disconnect", 3, "open", "trades", 4, 8)
    table.write([gap, evolve(gap, until=10, before_id=9), evolve(gap, state="filled")])
    table.write([evolve(gap, since=9, after_id=8)])
    table.refresh({})

    assert "gaps 2 rejects 0" in out.getvalue()


def test_the_summary_counts_gaps_and_not_their_reports(capsys: pytest.CaptureFixture[str]) -> None:
    gap = Gap("acme", "BTC/USD", 9, 9, 1, 9, "disconnect", 3, "open", "trades", 4, 8)
    totals = Summary()
    totals.add([gap, evolve(gap, state="filled")])
    totals.print({"gaps": 1}, [])
    shown = summary(capsys.readouterr().err)

    assert (shown["gaps"], shown["events"]) == (1, {"gap": 2})


# ------------------------------------------------------------------------------------------- replay


def test_replay_runs_the_pipeline_over_a_recording(
    tape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["replay", tape, *REPLAY, "--stages", "marker", "--out", "jsonl", "--batch", "7"])
    out, err = capsys.readouterr()
    types = [json.loads(line)["type"] for line in out.splitlines()]
    totals = summary(err)

    assert code == 0
    assert types.count("trade") == 40
    assert totals["rejects"] == {}
    assert (totals["frames"], totals["errors"]) == (40, [])


GC_SEEN = """\
import gc, sys
from tapeloom.hooks import hookimpl

@hookimpl
def aggregate(feed):
    def stage(events):
        sys.stderr.write(f"threshold={gc.get_threshold()[0]}\\n")
        return events
    return stage
"""


def test_a_command_has_the_garbage_collector_run_less_often_and_leaves_it_as_it_was(
    tape: str, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "seen", GC_SEEN)
    monkeypatch.setenv("TAPELOOM_PLUGINS", "acme,marker,seen")
    before = gc.get_threshold()
    code = main(["replay", tape, *REPLAY, "--stages", "seen", "--out", "none"])

    assert code == 0
    assert "threshold=50000" in capsys.readouterr().err
    assert gc.get_threshold() == before


def test_replay_shows_its_progress_on_a_terminal_and_not_in_a_file(tape: str) -> None:
    """The tape has 4 s, which is shown for half a second at this speed."""
    command = ["replay", tape, *REPLAY, "--out", "none", "--speed", "2.5x"]
    ours, theirs = os.openpty()
    process = subprocess.Popen([sys.executable, "-m", "tapeloom", *command], stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)

    assert process.wait(20) == 0
    assert "\rreplay ████████████████████ 100%" in shown.decode()
    assert summary(shown.decode().rpartition("\x1b[K")[2])["events"]["trade"] == 40

    file = child(*command)
    assert "replay" not in file.communicate()[1]


@pytest.fixture
def cvd(site: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Install a stage with an event class of its own; return the arguments for a replay with it."""
    install(site, "cvd", CVD)
    monkeypatch.setenv("TAPELOOM_PLUGINS", "acme,marker,cvd")
    return [*REPLAY, "--stages", "marker,cvd"]


def test_a_plugins_own_event_is_in_the_json_lines_and_in_the_summary(
    tape: str, cvd: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["replay", tape, *cvd, "--out", "jsonl"])
    out, err = capsys.readouterr()
    own = [event for event in map(decode, out.splitlines()) if event.type == "made_cvd"]

    assert code == 0
    assert [event.delta for event in own] == [2 * n for n in range(1, 41)]  # type: ignore[attr-defined]
    assert summary(err)["events"]["made_cvd"] == summary(err)["events"]["trade"] == 40


def test_the_table_has_a_line_for_the_latest_of_a_plugins_own_events(
    tape: str, cvd: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["replay", tape, *cvd])
    out, _ = capsys.readouterr()

    assert code == 0
    assert [line for line in out.splitlines() if "made_cvd" in line][-1] == (
        "acme BTC/USD made_cvd delta 80 sides [80] note a\\x1b[2Jb"
    )
    assert out.count("made_cvd") <= 2  # one line a refresh, not one an event


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_plugins_own_event_has_a_row_in_the_live_table(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    install(site, "cvd", CVD)
    own = importlib.import_module("made_cvd").Cvd
    out = Terminal()
    table = Table(out)
    table.write([own("acme", "", 1, 2, Decimal(n), [], "-" * 60) for n in range(3)])
    table.write([own("acme", "BTC/USD", 1, 2, Decimal("0.50"), [])])
    table.refresh({})
    lines = [line.strip() for line in out.getvalue().replace("\x1b[K", "").splitlines()]
    assert "-" * 51 in "".join(lines).replace(" ", "")

    assert [line for line in lines if "made_cvd" in line] == [
        "acme made_cvd delta 2 sides [] note -----------------------",  # it goes on below
        "acme BTC/USD made_cvd delta 0.5 sides [] note None",
    ]


def test_a_sink_selects_a_plugins_own_type(
    stack: Stacked, serving: Any, cvd: list[str], tmp_path: Path
) -> None:
    sink = '[[sink]]\nuse = "cvd"\ntypes = ["made_cvd"]\n'
    path = stack(serving(FakeVenue(busy)).url(), more=sink, stages=["cvd"])

    assert main(["check", path]) == 0
    assert main(["run", path, "--for", "0.4", "--out", "none"]) == 0
    stored = (tmp_path / "stored").read_text().splitlines()
    assert stored[:3] == ["made_cvd 0", "made_cvd 2", "made_cvd 4"]


def test_a_misspelt_type_of_a_plugin_is_reported_with_its_line(
    stack: Stacked, cvd: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = stack(more='[[sink]]\nuse = "cvd"\ntypes = ["trade", "made_cdv"]\n', stages=["cvd"])

    assert main(["check", path]) == 2
    assert (
        "line 11: sink[0].types[1]: 'made_cdv' is not an event type. Did you mean 'made_cvd'?"
        in capsys.readouterr().err
    )


def test_a_folder_of_tapes_is_replayed_as_several_feeds(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tapes").mkdir()
    for name in ("majors", "minors"):
        feed = {"name": name, "venue": "acme", "symbols": ["BTC/USD"], "channels": ["trades"]}
        lines = [{"ts": 1, "feed": feed}, *({"ts": n, "frame": trade(n)} for n in range(1, 6))]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (tmp_path / "tapes" / f"{name}.jsonl").write_text(text)
    code = main(["replay", "tapes", "--stages", "marker", "--out", "jsonl"])
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]

    assert code == 0
    assert summary(err)["events"]["trade"] == 10
    assert [event["id"] for event in events if event["type"] == "trade"] == [
        n for n in range(1, 6) for _ in ("majors", "minors")
    ]
    assert {event["detail"] for event in events if event.get("state") == "ended"} == {
        "feed majors",
        "feed minors",
    }


def test_a_second_recording_into_a_folder_gets_a_new_name_and_both_are_replayed(
    running: str, capsys: pytest.CaptureFixture[str]
) -> None:
    totals = []
    for _ in range(2):
        assert main(["record", running, "--to", "tapes", "--for", "0.4", "--out", "none"]) == 0
        totals.append(summary(capsys.readouterr().err)["events"]["trade"])
    code = main(["replay", "tapes", "--out", "jsonl"])
    out, err = capsys.readouterr()

    assert {file.name for file in Path("tapes").iterdir()} == {"acme.jsonl.zst", "acme.2.jsonl.zst"}
    assert code == 0
    assert summary(err)["events"]["trade"] == sum(totals)
    ended = [
        event["detail"]
        for event in map(json.loads, out.splitlines())
        if event.get("state") == "ended"
    ]
    assert ended == ["feed acme", "feed acme.2"]


def test_a_corrupt_line_of_a_recording_is_a_reject_and_exit_code_1(
    tape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / tape
    path.write_bytes(path.read_bytes().replace(b'{"ts": 2.0', b'\x7b"ts\xa2: 2.0'))
    code = main(["replay", tape, *REPLAY, "--out", "none"])
    totals = summary(capsys.readouterr().err)

    assert code == 1
    assert totals["rejects"] == {"corrupt_record": 1}
    assert totals["events"]["trade"] == 39


def test_saved_messages_are_replayed_after_the_conversion_that_the_error_names(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw.jsonl").write_text("".join(f"{trade(n)}\n" for n in range(5)))
    code = main(["replay", "raw.jsonl", *REPLAY, "--out", "none"])
    (error,) = summary(capsys.readouterr().err)["errors"]
    _, found, command = error.partition("convert the file: ")

    assert (code, bool(found)) == (1, True)
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    subprocess.run(command.replace("FILE", "raw.jsonl"), shell=True, check=True)
    code = main(["replay", "day.jsonl", *REPLAY, "--out", "none"])
    totals = summary(capsys.readouterr().err)

    assert (code, totals["events"]["trade"], totals["rejects"]) == (0, 5, {})


def test_replay_gives_the_same_lines_every_time(
    tape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = []
    for batch in ("1", "256", "256"):
        main(["replay", tape, *REPLAY, "--stages", "marker", "--out", "jsonl", "--batch", batch])
        outs.append(capsys.readouterr().out)

    assert outs[0] == outs[1] == outs[2] != ""


def test_replay_runs_at_the_chosen_speed(tape: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["replay", tape, *REPLAY, "--out", "none", "--speed", "10x"])

    assert summary(capsys.readouterr().err)["seconds"] >= 0.39


def test_settings_reach_the_venue_from_the_command_line(
    tape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = main(["replay", tape, *REPLAY, "--out", "none", "--set", "acme.silence=5"])
    bad = main(["replay", tape, *REPLAY, "--out", "none", "--set", "acme.silense=5"])

    assert (good, bad) == (0, 2)
    assert "Did you mean 'silence'?" in capsys.readouterr().err


def test_a_truncated_recording_is_exit_code_1_after_its_readable_part(
    tape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import gzip

    whole = gzip.compress((tmp_path / tape).read_bytes())
    (tmp_path / "cut.ws.jsonl.gz").write_bytes(whole[: len(whole) * 2 // 3])
    code = main(["replay", "cut.ws.jsonl.gz", *REPLAY, "--out", "none"])
    err = capsys.readouterr().err

    assert code == 1
    assert 0 < summary(err)["events"]["trade"] < 40
    assert "cut.ws.jsonl.gz" in summary(err)["errors"][0]


# -------------------------------------------------------------------------------- mistakes of users


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nothing.toml"], 2, "no such file"),
        (["check", "nothing.toml"], 2, "no such file"),
        (["check", "."], 2, "folder"),
        (["check", "bad.toml"], 2, "bad.toml"),
        (["check", "latin.toml"], 2, "UTF-8"),
        (["check", "key.toml"], 2, "Did you mean 'symbols'?"),
        (["check", "plugin.toml"], 2, "Did you mean 'acme'?"),
        (["run", "plugin.toml"], 2, "Did you mean 'acme'?"),
        (["run", "ca.toml", "--for", "1"], 2, "ca.toml"),
        (["replay", "nothing.jsonl", *REPLAY], 1, "no such file"),
        (["replay", "bad.toml", *REPLAY], 1, "Is this a recording?"),
        (["replay", "day.ws.jsonl", *REPLAY, "--set", "acme"], 2, "NAME.KEY=VALUE"),
        (["replay", "day.ws.jsonl", *REPLAY, "--speed", "fast"], 2, "--speed"),
        (["replay", "day.ws.jsonl", *REPLAY, "--speed", "nan"], 2, "--speed"),
        (["replay", "day.ws.jsonl", *REPLAY, "--batch", "0"], 2, "--batch"),
        (["replay", "day.ws.jsonl", *REPLAY, "--stages", "acme"], 2, "is not a stage"),
        (["replay", "day.ws.jsonl", *REPLAY[:2], "--symbols", "B", "--channels", "trades"], 2,
         "unified symbol"),
    ],
)  # fmt: skip
def test_a_user_mistake_is_one_message_without_traceback(
    tape: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    feed = '[[feed]]\nvenue = "{}"\n{} = ["BTC/USD"]\nchannels = ["trades"]\n'
    (tmp_path / "bad.toml").write_text("[[feed\n")
    (tmp_path / "latin.toml").write_bytes(b'# caf\xe9\n[[feed]]\nvenue = "acme"\n')
    (tmp_path / "key.toml").write_text(feed.format("acme", "symbol"))
    (tmp_path / "plugin.toml").write_text(feed.format("akme", "symbols"))
    (tmp_path / "ca.toml").write_text(
        feed.format("acme", "symbols") + '[network]\nca = "bad.toml"\n'
    )
    found = main(arguments)
    err = capsys.readouterr().err

    assert found == code
    assert message in err
    assert err.startswith("tapeloom: ") or summary(err)["errors"]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["run"],
        ["run", "stack.toml", "--out", "xml"],
        ["run", "stack.toml", "--for", "soon"],
        ["run", "stack.toml", "--for", "nan"],
        ["run", "stack.toml", "--for", "-1"],
        ["replay"],
        ["record", "stack.toml"],
    ],
)
def test_an_invalid_command_line_is_exit_code_2(
    stack: Stacked, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    stack()
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "usage: tapeloom" in capsys.readouterr().err


def test_a_recording_without_a_head_needs_symbols_and_channels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text('{"ts": 1, "frame": "{}"}\n')

    assert main(["replay", str(path), "--venue", "acme"]) == 2
    err = capsys.readouterr().err
    assert "--symbols: the recording does not contain it. Give this option." in err
    assert "--channels" in err
    assert "--venue" not in err


def test_an_event_loop_that_is_not_installed_is_reported(
    stack: Stacked, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stack(top='backend = "trio"')
    program = (
        "import sys; sys.modules['trio'] = None; from tapeloom.cli._main import main;"
        f"sys.exit(main(['run', {path!r}, '--for', '1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 2
    assert "pip install trio" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------ plugins


def test_a_broken_plugin_does_not_affect_other_commands(
    site: Path, stack: Stacked, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "broken", "import nothing_of_that_name")
    install(site, "hello", VERB)
    listed = main(["plugins"])
    out = capsys.readouterr().out
    greeted = main(["hello", "--code", "7"])
    hello = capsys.readouterr()
    checked = main(["check", stack()])
    quiet = capsys.readouterr()

    assert listed == 1
    assert "broken, see below" in out
    assert "acme " in out
    assert "needs 'nothing_of_that_name'" in out
    assert greeted == 7
    assert hello.out == "hello\n"
    assert "'broken'" in hello.err
    assert "Traceback" not in hello.err
    assert (checked, quiet.err) == (0, "")


def test_plugins_are_listed_with_their_hooks(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["plugins"])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}

    assert code == 0
    assert set(rows) == {"NAME", "acme", "marker"}
    for part in ("1.0", "connect", "subscribe", "parse", "history", "asyncio trio"):
        assert part in rows["acme"]


def test_plugins_are_listed_with_their_conformance_results(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = site / "made_proven"
    home.mkdir()
    (home / "__init__.py").write_text("raise AssertionError('imported')")
    (home / "conformance.json").write_text(
        '{"kind": "venue", "name": "hello", "proven": {"spot": {"channels": ["trades"],'
        ' "history": [], "guarantees": ["truth", "times"], "without": {"sides": "not told"}}}}'
    )
    info = site / "tapeloom_hello-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tapeloom-hello\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tapeloom.plugins]\nhello = made_proven\n")
    code = main(["plugins", "--conformance"])
    proven = capsys.readouterr().out
    main(["plugins"])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}

    assert code == 0
    assert proven.splitlines() == [
        "venue hello spot",
        "  channels: trades",
        "  guarantees: truth times",
        "  not sides: not told",
    ]
    assert "2 guarantees, channels: 1, markets: 1" in rows["hello"]
    assert "guarantees" not in rows["acme"]


def test_core_commands_import_no_plugin(
    site: Path, tape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "broken", "raise SystemExit('this was imported')")
    code = main(["replay", tape, *REPLAY, "--out", "none"])

    assert code == 0
    assert "imported" not in capsys.readouterr().err


# ----------------------------------------------------------------------- in a process of its own


@pytest.mark.slow
def test_ctrl_c_once_delivers_queued_events_and_exits_with_0(running: str) -> None:
    process = child("run", running, "--out", "jsonl")
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGINT)
    lines = [*first, *process.stdout]
    _, err = process.communicate(timeout=15)
    trades = [json.loads(line)["id"] for line in lines if '"trade"' in line]

    assert process.returncode == 0
    assert trades == list(range(len(trades)))
    assert json.loads(lines[-1])["state"] == "ended"
    assert summary(err)["events"]["trade"] == len(trades)
    assert "Traceback" not in err


@pytest.mark.slow
def test_sigterm_stops_like_ctrl_c(running: str) -> None:
    process = child("run", running, "--out", "jsonl")
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    _, err = process.communicate(timeout=15)

    assert process.returncode == 0
    assert summary(err)["errors"] == []


@pytest.mark.slow
def test_ctrl_c_twice_exits_without_waiting_for_sinks(
    site: Path, stack: Stacked, serving: Any
) -> None:
    install(site, "stuck", STUCK)
    path = stack(serving(FakeVenue(busy)).url(), more='[[sink]]\nuse = "stuck"\n')
    process = child("run", path, "--out", "jsonl")
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if '"ended"' in line:
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=15)

    assert process.returncode == 130
    assert time.monotonic() - began < 3
    assert "Traceback" not in err


def blocked(*arguments: str, **options: Any) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command whose output is a pipe that nobody reads; return it when the pipe is full."""
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(
        [sys.executable, "-m", "tapeloom", *arguments], stdout=writer, **options
    )
    os.close(writer)
    waiting, before, deadline = 0, -1, time.monotonic() + 60
    while (waiting < size / 2 or waiting != before) and time.monotonic() < deadline:
        time.sleep(0.5)
        before = waiting
        waiting = int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder)
    return process, reader


@pytest.mark.slow
@pytest.mark.parametrize("out", ["jsonl", "table"])
@pytest.mark.parametrize("stderr", ["file", "the same pipe"])
def test_one_signal_ends_a_command_with_a_blocked_output_within_5_seconds(
    running: str, tmp_path: Path, out: str, stderr: str
) -> None:
    told = tmp_path / "err"
    with told.open("wb") as file:
        error = subprocess.STDOUT if stderr == "the same pipe" else file
        process, reader = blocked("run", running, "--out", out, stderr=error)
    try:
        began = time.monotonic()
        process.terminate()
        code = process.wait(timeout=15)
    finally:
        process.kill()
        os.close(reader)

    assert time.monotonic() - began < 5.5
    assert code == 130
    assert b"Traceback" not in told.read_bytes()
    if stderr == "file":
        assert b"ended before all events were delivered" in told.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "backend"), [(signal.SIGTERM, "asyncio"), (signal.SIGINT, "trio")]
)
def test_the_second_signal_ends_a_command_with_a_blocked_output_at_once(
    stack: Stacked, serving: Any, number: signal.Signals, backend: str
) -> None:
    path = stack(serving(FakeVenue(busy)).url(), top=f'backend = "{backend}"')
    process, reader = blocked("run", path, "--out", "jsonl", stderr=subprocess.DEVNULL)
    try:
        process.send_signal(number)
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(number)
        code = process.wait(timeout=15)
    finally:
        process.kill()
        os.close(reader)

    assert time.monotonic() - began < 3
    assert code == 130


@pytest.mark.slow
def test_a_signal_ends_a_command_in_which_a_plugin_waits_in_a_library_written_in_c(
    site: Path, stack: Stacked, serving: Any
) -> None:
    install(site, "frozen", FROZEN)
    path = stack(serving(FakeVenue(busy)).url(), more='[[sink]]\nuse = "frozen"\n')
    process = child("run", path, "--out", "jsonl")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1)
    began = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=15)

    assert time.monotonic() - began < 5.5
    assert process.returncode == 130
    assert "ended before all events were delivered" in err


@pytest.mark.slow
def test_standard_output_has_only_events_whatever_libraries_print(
    site: Path, stack: Stacked, serving: Any
) -> None:
    install(site, "chatty", CHATTY)
    path = stack(serving(FakeVenue(busy)).url(), more='[[sink]]\nuse = "chatty"\n')
    process = child("run", path, "--out", "jsonl", "--for", "1")
    out, err = process.communicate(timeout=30)

    assert process.returncode == 0
    assert {json.loads(line)["type"] for line in out.splitlines()} == {"status", "trade"}
    for text in ("printed", "written", "logged", "warned", "from C"):
        assert text in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["run", "stack.toml", "--for", "20"], ["check", "stack.toml"], ["plugins"]]
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_for_the_output_is_exit_code_1_and_a_sentence(
    running: str, arguments: list[str]
) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "tapeloom", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
        )  # fmt: skip

    assert done.returncode == 1
    assert "standard output cannot be written: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_log_lines_that_cannot_be_written_do_not_end_the_run(
    stack: Stacked, serving: Any, tmp_path: Path
) -> None:
    async def dropping(client: FakeClient) -> None:
        await client.send(json.dumps({"ok": json.loads(await client.receive_text())["id"]}))
        await client.send(trade(1))

    path = stack(serving(FakeVenue(dropping)).url())
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "tapeloom", "run", path, "--for", "2", "--out", "jsonl"],
            stdout=subprocess.PIPE, stderr=full, text=True, timeout=30, check=False,
        )  # fmt: skip

    states = [json.loads(line).get("state") for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert "reconnecting" in states
    assert states[-1] == "ended"


@pytest.mark.slow
def test_a_closed_standard_output_is_exit_code_1_and_a_sentence(running: str) -> None:
    process = child("run", running, "--out", "jsonl", "--for", "20", preexec_fn=lambda: os.close(1))
    _, err = process.communicate(timeout=30)

    assert process.returncode == 1
    assert err.startswith("tapeloom: standard output cannot be written: it is closed.")
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_closed_pipe_ends_the_run_without_error(running: str) -> None:
    process = child("run", running, "--out", "jsonl", "--for", "20")
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    code = process.wait(timeout=15)
    process.stderr.close()

    assert json.loads(line)["type"] == "status"
    assert code == 0
    assert "Traceback" not in err
    assert "Exception" not in err
    assert "BrokenPipe" not in err


@pytest.mark.slow
def test_a_pipe_closed_before_the_first_line_is_no_error(site: Path) -> None:
    process = child("plugins")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()

    assert process.wait(timeout=15) == 0
    assert err == ""


@pytest.mark.slow
def test_characters_that_the_terminal_cannot_encode_are_escaped(stack: Stacked) -> None:
    process = child("check", stack(), env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=15)

    assert process.returncode == 0
    assert "Traceback" not in err
    assert "marker" in out


def test_json_lines_are_utf_8_in_any_terminal(site: Path, tmp_path: Path) -> None:
    frame = json.dumps("café")
    (tmp_path / "odd.ws.jsonl").write_text(f'{{"ts": 1, "frame": {frame}}}\n', "utf-8")
    process = subprocess.run(
        [sys.executable, "-m", "tapeloom", "replay", "odd.ws.jsonl", *REPLAY, "--out", "jsonl"],
        capture_output=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )

    assert process.returncode == 0
    assert "café" in json.loads(process.stdout.splitlines()[0].decode())["evidence"]


@pytest.mark.slow
def test_a_replay_can_be_interrupted(site: Path, tmp_path: Path) -> None:
    lines = [
        json.dumps({"ts": n / 100, "frame": f'{{"s":"BTCUSD","t":{n},"p":"1","q":"1","i":{n}}}'})
        for n in range(100_000)
    ]
    (tmp_path / "long.ws.jsonl").write_text("\n".join(lines))
    process = child("replay", "long.ws.jsonl", *REPLAY, "--out", "jsonl")
    assert process.stdout is not None
    process.stdout.readline()  # the replay is running, so its signal handler is installed
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=15)

    assert process.returncode == 0
    assert summary(err)["frames"] < 100_000
