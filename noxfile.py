#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2026.10.20"]
# ///
"""Every check of this repository.

`nox` runs all that gates a change, `nox -t quick` what shows most mistakes within two minutes,
`nox -l` lists the sessions.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from functools import partial
from itertools import takewhile
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
# While one session installs packages or waits for sockets, another one computes.
nox.options.parallel = 2
# That a package needs core alone is shown on one Python; on the newer ones all are tested together.
nox.options.sessions = ["lint", "types", "package", "together"]

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
OLDEST = PYTHONS[0]

#: Every installable package, by the name of its folder; those whose tests take longest go first.
PACKAGES = {
    file.parent.name: file.parent.relative_to(ROOT)
    for pattern in ("core", "plugins/testing", "plugins/*", "contrib/*")
    for file in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
}
#: What the tests of every package need besides their package.
BASE = [PACKAGES[name] for name in ("core", "simulator", "testing")]
#: The packages besides core without which a package cannot be imported.
REQUIRED = {
    "cluster": ["nats"],
    "frames": ["columns"],
    "kafka": ["columns"],
    "parquet": ["columns"],
    "serve": ["columns"],
    "testing": ["simulator"],
    "top": ["screens"],
    "web": ["screens", "serve"],
}
#: The extras without which some modules of a package cannot be imported.
EXTRAS = {
    "kafka": ["arrow"],
    "metrics": ["otlp"],
    "parquet": ["sql"],
    "serve": ["arrow"],
    "simulator": ["tls"],
    "testing": ["kafka", "nats", "postgres", "redis", "samples", "stages"],
}
#: Tests of single packages that are skipped where no other package is installed.
CROSSING = [
    Path("contrib/rustybt/tests"),
    Path("plugins/bybit/tests/test_captures.py"),
    Path("plugins/bybit/tests/test_end_to_end.py"),
    Path("plugins/ccxt/tests/test_simulators.py"),
    Path("plugins/cluster/tests/test_ledger.py"),
    Path("plugins/cluster/tests/test_setup.py"),
    Path("plugins/files/tests/test_example.py"),
    Path("plugins/frames/tests/test_streams.py"),
    Path("plugins/kafka/tests/test_example.py"),
    Path("plugins/nats/tests/test_example.py"),
    Path("plugins/parquet/tests/test_example.py"),
    Path("plugins/parquet/tests/test_stream.py"),
    Path("plugins/postgres/tests/test_example.py"),
    Path("plugins/redis/tests/test_example.py"),
    Path("plugins/serve/tests/test_example.py"),
    Path("plugins/simulator/tests/test_command.py"),
    Path("plugins/top/tests"),
    Path("plugins/web/tests/test_stored.py"),
]


def newest_python() -> str:
    """Return the newest supported Python that is here."""
    return next((name for name in PYTHONS[::-1] if shutil.which(f"python{name}")), PYTHONS[-1])


def distribution(path: Path) -> str:
    """Return the distribution name of a package."""
    return str(nox.project.load_toml(path / "pyproject.toml")["project"]["name"])


def wheel(session: nox.Session, path: Path) -> str:
    """Return the file of a package's wheel, as the session `wheels` builds it."""
    name = distribution(path).replace("-", "_")
    return str(next((Path(session.cache_dir) / "wheels").glob(f"{name}-*.whl")))


def install(
    session: nox.Session, packages: Iterable[Path], *options: str, editable: bool = False
) -> None:
    """Install packages with the versions that the workspace pins, and remove all others."""
    pins = Path(session.create_tmp()) / "constraints.txt"
    pins.write_text("\n".join(PROJECT["tool"]["uv"]["constraint-dependencies"]))
    sources = [
        f"--editable=./{path}" if editable else wheel(session, path)
        for path in dict.fromkeys(packages)
    ]
    session.install("--exact", "--constraint", str(pins), *sources, *options)


def check(session: nox.Session, *paths: Path, marks: str = "", options: list[str]) -> None:
    """Run the tests that an expression of marks selects, in parallel; options are pytest's."""
    selection = ["-m", marks] if marks else []
    if missing := [str(path) for path in paths if not path.exists()]:
        session.error(f"no such tests: {', '.join(missing)}")
    workers = min(os.cpu_count() or 1, 4)  # two sessions at a time: many tests wait for a socket
    parallel = ["--numprocesses", str(workers), "--dist", "worksteal", "--durations", "15"]
    # A test that takes too long ends its worker: an exception in the midst of an event loop may leave it hanging.
    # Two sessions on two cores take their time.
    parallel += ["--timeout-method", "thread", "--timeout", "300"]
    # If bytecode is not written, every child process of a test compiles all that it imports.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    # A server that is not installed must fail its tests, not skip them.
    session.env["TAPELOOM_SERVICES"] = "required"
    session.run("pytest", *map(str, dict.fromkeys(paths)), *selection, *parallel, *options)


def touched(session: nox.Session) -> list[Path]:
    """Return the packages with files that differ from main, committed or not."""

    def git(*arguments: str) -> list[str]:
        return str(session.run("git", *arguments, external=True, silent=True)).split()

    branches = ("refs/heads/main", "refs/remotes/origin/main")
    main = ["HEAD", *git("for-each-ref", "--format=%(refname)", *branches)][-1]
    files = git("diff", "--name-only", *git("merge-base", "HEAD", main))
    files += git("ls-files", "--others", "--exclude-standard")
    return [
        path for path in PACKAGES.values() if any(Path(file).is_relative_to(path) for file in files)
    ]


#: A session of which several may run at a time, and one that installs the wheels of the packages.
gate = partial(nox.session, allow_parallel=True)
with_wheels = partial(nox.session, requires=["wheels"])


@nox.session(python=False, default=False)
def wheels(session: nox.Session) -> None:
    """Build the wheel of every package, for the sessions that install them."""
    folder = Path(session.cache_dir) / "wheels"
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--quiet", "--all-packages", "--wheel", "--out-dir", str(folder)]
    session.run_install("uv", "build", *options, external=True)


@gate(python=OLDEST, tags=["quick"])
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*PROJECT["dependency-groups"]["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@gate(python=OLDEST, tags=["quick"])
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    install(session, PACKAGES.values(), "--group", "types", editable=True)
    session.run("mypy", *(f"{path}/src" for path in PACKAGES.values()))


@gate(python=OLDEST, tags=["quick"], default=False)
def quick(session: nox.Session) -> None:
    """Run the quick tests of core and of the packages that differ from main."""
    packages = [PACKAGES["core"], *touched(session)]
    install(session, [*BASE, *packages], "--group", "tests", editable=True)
    tests = [path / "tests" for path in packages]
    check(session, *tests, marks="not slow and not thorough", options=session.posargs)


@gate(python=OLDEST, requires=["wheels"])
def package(session: nox.Session) -> None:
    """Test packages one by one with core alone; takes their names, such as `-- binance books`.

    Every module but a venue's simulated server side is imported in an environment with core and the
    package. The tests run in another one, which also has what they need: tapeloom-testing,
    tapeloom-simulator and the group `tests`; the slow ones run in `together`. Options after the names
    are given to pytest.
    """
    names = list(takewhile(lambda argument: not argument.startswith("-"), session.posargs))
    options = session.posargs[len(names) :]
    if unknown := {*names} - {*PACKAGES}:
        session.error(f"no package here: {', '.join(unknown)}; there are {', '.join(PACKAGES)}")
    venv = ["uv", "venv", "--quiet", "--allow-existing", "--python", f"{session.bin}/python"]
    session.run(*venv, f"{session.virtualenv.location}-alone", external=True)
    failed = [name for name in names or PACKAGES if not passes(session, name, options)]
    if failed:
        session.error(f"failed: {', '.join(failed)}")


def passes(session: nox.Session, name: str, options: list[str]) -> bool:
    """Return whether a package can be imported with core alone, and passes its tests."""
    path = PACKAGES[name]
    required = [PACKAGES[other] for other in ("core", *REQUIRED.get(name, []))]
    extras = [f"{distribution(path)}[{extra}]" for extra in EXTRAS.get(name, [])]
    module = distribution(path).replace("-", "_")
    python = f"{session.virtualenv.location}-alone/bin/python"
    try:
        install(session, [*required, path], *extras, "--python", python)
        session.run(python, "-I", "tests/import_package.py", module, external=True)
        install(session, [*BASE, *required, path], *extras, "--group", "tests")
        check(session, path / "tests", marks="not slow", options=options)
    except CommandFailed:
        return False
    return True


@gate(python=PYTHONS, requires=["wheels"])
def together(session: nox.Session) -> None:
    """Test what crosses packages, with all installed, on the oldest and the newest Python.

    On the oldest one also every slow test, on the newest one every quick test, on those between the
    quick tests of core.
    """
    install(session, PACKAGES.values(), "--group", "tests")
    single = [path / "tests" for path in PACKAGES.values()]
    if session.python == OLDEST:
        check(session, *CROSSING, Path("tests"), options=session.posargs)
        others = [f"--ignore={path}" for path in CROSSING]
        check(session, *single, marks="slow", options=[*others, *session.posargs])
        return
    # Slow and thorough tests are about this code, not about Python: the oldest one is enough for them.
    newest = session.python == newest_python()
    paths = [*single, Path("tests")] if newest else [PACKAGES["core"] / "tests"]
    check(session, *paths, marks="not slow and not thorough", options=session.posargs)


@with_wheels(python=OLDEST, default=False)
def fuzz(session: nox.Session) -> None:
    """Feed every venue a million broken frames, after WebSocket frames against wsproto.

    It fails if a broken frame, answer or tape raises an error, costs a good frame or takes much memory,
    or if SIGTERM does not end a run within 5 seconds.
    """
    install(session, PACKAGES.values(), "--group", "tests")
    session.run("python", "core/tests/test_frame_decoder.py")
    session.run("python", "tests/test_fuzz.py", *session.posargs)
    session.run("python", "tests/test_signals.py")


@with_wheels(python=OLDEST, default=False)
def soak(session: nox.Session) -> None:
    """Stream from six venues under every fault for ten minutes, and check the ledger."""
    install(session, PACKAGES.values(), "--group", "tests")
    session.run("python", "tests/test_soak.py", *session.posargs)


@with_wheels(python=OLDEST, default=False)
def chaos(session: nox.Session) -> None:
    """Stream from venues that share no code with tapeloom, under every fault, for ten minutes."""
    install(session, PACKAGES.values(), "--group", "tests")
    session.run("python", "tests/chaos_venue", *session.posargs)


@with_wheels(python=OLDEST, default=False)
def durability(session: nox.Session) -> None:
    """Kill processes and servers of every sink at random moments, in 100 runs, and read the store back."""
    install(session, PACKAGES.values(), "--group", "tests")
    session.env["TAPELOOM_DURABILITY_RUNS"] = "100"
    paths = [path / "tests" for path in PACKAGES.values()]
    tests = "process_is_killed or process_and_server_are_killed or 2000_events_a_second"
    options = ["-k", tests, "--timeout", "1800", *session.posargs]
    check(session, *paths, Path("tests/test_durability.py"), options=options)


@with_wheels(python=OLDEST, default=False)
def cluster(session: nox.Session) -> None:
    """Kill, pause and cut off nodes of a cluster for five minutes, and compare with the truth.

    Servers are away for a minute. With TAPELOOM_CLUSTER_SEED=N other nodes fail, in another order.
    """
    install(session, PACKAGES.values(), "--group", "tests")
    session.env["TAPELOOM_CLUSTER_SECONDS"] = "300"
    options = ["--timeout", "1800", "-s", *session.posargs]
    # One after the other: they compare what processes do in time.
    session.env["TAPELOOM_SERVICES"] = "required"
    tests = ["tests/test_cluster.py", "plugins/cluster/tests/test_ledger.py"]
    session.run("pytest", *tests, *options)


@with_wheels(python=OLDEST, default=False)
def bench(session: nox.Session) -> None:
    """Measure speed against other libraries, where `peers` has been run; gates nothing."""
    install(session, PACKAGES.values(), "--group", "tests")
    session.install("uvloop")
    session.run("python", "tests/bench/pipeline.py")
    session.run("python", "tests/bench/columns.py")
    session.run("python", "tests/bench/parquet.py")
    session.run("python", "tests/bench/run.py", *session.posargs)


#: The libraries that tapeloom is measured against, each in an environment of its own.
PEERS = {
    "cryptofeed-3.11": ["cryptofeed==2.4.1", "uvloop"],
    # On 3.13 its library for order books is newer and faster.
    "cryptofeed-3.13": ["cryptofeed==2.4.1", "uvloop"],
    "ccxt": ["ccxt==4.5.90"],
    "nautilus": ["nautilus_trader==1.221.0"],
}


@nox.session(python=False, default=False)
def peers(session: nox.Session) -> None:
    """Make the environments of the other libraries, for `bench`."""
    for peer, packages in PEERS.items():
        folder = f".nox/peer-{peer}"
        version = peer.partition("-")[2] or "3.11"
        session.run("uv", "venv", "--allow-existing", "--python", version, folder)
        session.run("uv", "pip", "install", "--python", f"{folder}/bin/python", *packages)


if __name__ == "__main__":
    nox.main()
