#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2026.10.20"]
# ///
"""One door to every check: `nox` for all that gates a change, `nox -l` for the list."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)


def members() -> dict[str, Path]:
    """Return every installable package here, by the name of its folder."""
    return {
        file.parent.name: file.parent.relative_to(ROOT)
        for pattern in ("core", "plugins/*", "contrib/*")
        for file in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
    }


# That a package needs no other is seen on one Python; on the others all are tested together.
nox.options.sessions = [
    "lint",
    "types",
    *(f"package-{PYTHONS[0]}(package={one!r})" for one in members()),
    "together",
]


def install(session: nox.Session, group: str, *packages: Path) -> None:
    """Install packages as wheels, with the versions that the workspace pins."""
    pins = Path(session.create_tmp()) / "constraints.txt"
    pins.write_text("\n".join(PROJECT["tool"]["uv"]["constraint-dependencies"]))
    # An installed wheel of the same version would be kept although the code has changed.
    again = [f"--reinstall-package={name(path)}" for path in packages]
    session.install(
        "--constraint", str(pins), "--group", group, *again, *(f"./{path}" for path in packages)
    )


def check(session: nox.Session, *folders: Path) -> None:
    """Run the tests of some folders, side by side.

    The slow ones are left to the oldest Python: they are about our own code, not about Python.
    """
    quick = [] if session.python == PYTHONS[0] else ["-m", "not slow"]
    parallel = ["--numprocesses", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
    # Whoever forbids bytecode has every child process of a test compile all it imports.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.run("pytest", *map(str, folders), *quick, *parallel, *session.posargs)


def name(path: Path) -> str:
    """Return the distribution name of a package."""
    return str(nox.project.load_toml(path / "pyproject.toml")["project"]["name"])


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*PROJECT["dependency-groups"]["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python="3.11")
def types(session: nox.Session) -> None:
    """Check types, strictly, package by package."""
    install(session, "types", *members().values())
    for path in members().values():
        session.run("mypy", f"{path}/src", silent=True)


@nox.session(python=PYTHONS)
@nox.parametrize("package", [*members()])
def package(session: nox.Session, package: str) -> None:
    """Test one package in an environment that holds only core and itself."""
    path = members()[package]
    install(session, "tests", *dict.fromkeys([Path("core"), path]))
    check(session, path / "tests")


@nox.session(python=PYTHONS)
def together(session: nox.Session) -> None:
    """Test what crosses packages, with every package installed; on newer Pythons everything."""
    install(session, "tests", *members().values())
    alone = [] if session.python == PYTHONS[0] else [path / "tests" for path in members().values()]
    check(session, *alone, Path("tests"))


@nox.session(python="3.11", default=False)
def fuzz(session: nox.Session) -> None:
    """Feed every venue a million broken frames; fails where one escapes, or costs a good one.

    Before that, hold the WebSocket decoder against wsproto for a hundred thousand conversations.
    """
    install(session, "tests", *members().values())
    session.run("python", "core/tests/test_frame_decoder.py")
    session.run("python", "tests/test_fuzz.py", *session.posargs)


@nox.session(python="3.11", default=False)
def soak(session: nox.Session) -> None:
    """Stream from six venues under every fault for ten minutes; fails where the ledger does not balance."""
    install(session, "tests", *members().values())
    session.run("python", "tests/test_soak.py", *session.posargs)


@nox.session(python="3.11", default=False)
def bench(session: nox.Session) -> None:
    """Measure; prints ratios, gates nothing. Peers take part where `peers` has been run."""
    install(session, "tests", *members().values())
    session.install("uvloop")
    session.run("python", "tests/bench/pipeline.py")
    session.run("python", "tests/bench/run.py", *session.posargs)


#: What tapeloom is measured against, each in an environment of its own.
PEERS = {
    "cryptofeed-3.11": ["cryptofeed==2.4.1", "uvloop"],
    # There its library for books is newer, and fast.
    "cryptofeed-3.13": ["cryptofeed==2.4.1", "uvloop"],
    "ccxt": ["ccxt==4.5.90"],
    "nautilus": ["nautilus_trader==1.221.0"],
}


@nox.session(python=False, default=False)
def peers(session: nox.Session) -> None:
    """Make the environments of the peers, for `bench`."""
    for peer, packages in PEERS.items():
        folder = f".nox/peer-{peer}"
        version = peer.partition("-")[2] or "3.11"
        session.run("uv", "venv", "--allow-existing", "--python", version, folder)
        session.run("uv", "pip", "install", "--python", f"{folder}/bin/python", *packages)


if __name__ == "__main__":
    nox.main()
