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
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
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
REQUIRED = {"testing": ["simulator"]}
#: The extras without which some modules of a package cannot be imported.
EXTRAS = {"simulator": ["tls"], "testing": ["samples", "stages"]}
#: Tests of single packages that are skipped where no other package is installed.
CROSSING = [
    Path("contrib/rustybt/tests"),
    Path("plugins/bybit/tests/test_captures.py"),
    Path("plugins/bybit/tests/test_end_to_end.py"),
    Path("plugins/ccxt/tests/test_simulators.py"),
    Path("plugins/simulator/tests/test_command.py"),
]


def distribution(path: Path) -> str:
    """Return the distribution name of a package."""
    return str(nox.project.load_toml(path / "pyproject.toml")["project"]["name"])


def install(
    session: nox.Session, packages: Iterable[Path], *options: str, editable: bool = False
) -> None:
    """Install packages with the versions that the workspace pins, and remove all others."""
    pins = Path(session.create_tmp()) / "constraints.txt"
    pins.write_text("\n".join(PROJECT["tool"]["uv"]["constraint-dependencies"]))
    sources: list[str] = []
    for path in dict.fromkeys(packages):
        # uv keeps an installed wheel of the same version, even if the code has changed.
        again = f"--reinstall-package={distribution(path)}"
        sources += [f"--editable=./{path}"] if editable else [again, f"./{path}"]
    session.install("--exact", "--constraint", str(pins), *sources, *options)


def check(session: nox.Session, *paths: Path, marks: str = "", options: list[str]) -> None:
    """Run the tests that an expression of marks selects, in parallel; options are pytest's."""
    selection = ["-m", marks] if marks else []
    if missing := [str(path) for path in paths if not path.exists()]:
        session.error(f"no such tests: {', '.join(missing)}")
    workers = min((os.cpu_count() or 1) + 1, 4)  # one more than cores: many tests wait for a socket
    parallel = ["--numprocesses", str(workers), "--dist", "worksteal"]
    # If bytecode is not written, every child process of a test compiles all that it imports.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
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


@nox.session(python=OLDEST, tags=["quick"])
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*PROJECT["dependency-groups"]["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=OLDEST, tags=["quick"])
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    install(session, PACKAGES.values(), "--group", "types", editable=True)
    session.run("mypy", *(f"{path}/src" for path in PACKAGES.values()))


@nox.session(python=OLDEST, tags=["quick"], default=False)
def quick(session: nox.Session) -> None:
    """Run the quick tests of core and of the packages that differ from main."""
    packages = [PACKAGES["core"], *touched(session)]
    install(session, [*BASE, *packages], "--group", "tests", editable=True)
    tests = [path / "tests" for path in packages]
    check(session, *tests, marks="not slow and not thorough", options=session.posargs)


@nox.session(python=OLDEST)
def package(session: nox.Session) -> None:
    """Test packages one by one with core alone; takes their names, such as `-- binance books`.

    Every module but a venue's simulated server side is imported in an environment with core and the
    package. The tests run in another one, which also has what they need: tapeloom-testing,
    tapeloom-simulator and the group `tests`. Options after the names are given to pytest.
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
        install(session, [*BASE, path], *extras, "--group", "tests")
        check(session, path / "tests", options=options)
    except CommandFailed:
        return False
    return True


@nox.session(python=PYTHONS)
def together(session: nox.Session) -> None:
    """Test what crosses packages, with all installed; on newer Pythons also every package."""
    install(session, PACKAGES.values(), "--group", "tests")
    oldest = session.python == OLDEST
    paths = CROSSING if oldest else [path / "tests" for path in PACKAGES.values()]
    # The slow tests are about this code, not about Python, so the oldest Python is enough for them.
    marks = "" if oldest else "not slow"
    check(session, *paths, Path("tests"), marks=marks, options=session.posargs)


@nox.session(python=OLDEST, default=False)
def fuzz(session: nox.Session) -> None:
    """Feed every venue a million broken frames, after WebSocket frames against wsproto.

    It fails if a broken frame, answer or tape raises an error, costs a good frame or takes much memory,
    or if SIGTERM does not end a run within 5 seconds.
    """
    install(session, PACKAGES.values(), "--group", "tests")
    session.run("python", "core/tests/test_frame_decoder.py")
    session.run("python", "tests/test_fuzz.py", *session.posargs)
    session.run("python", "tests/test_signals.py")


@nox.session(python=OLDEST, default=False)
def soak(session: nox.Session) -> None:
    """Stream from six venues under every fault for ten minutes, and check the ledger."""
    install(session, PACKAGES.values(), "--group", "tests")
    session.run("python", "tests/test_soak.py", *session.posargs)


@nox.session(python=OLDEST, default=False)
def chaos(session: nox.Session) -> None:
    """Stream from venues that share no code with tapeloom, under every fault, for ten minutes."""
    install(session, PACKAGES.values(), "--group", "tests")
    session.run("python", "tests/chaos_venue", *session.posargs)


@nox.session(python=OLDEST, default=False)
def bench(session: nox.Session) -> None:
    """Measure speed against other libraries, where `peers` has been run; gates nothing."""
    install(session, PACKAGES.values(), "--group", "tests")
    session.install("uvloop")
    session.run("python", "tests/bench/pipeline.py")
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
