"""Opens connections to the database, with what exactly once needs of a session."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from tapeloom import Secret
from tapeloom.errors import SinkRefused

from .settings import Settings

__all__ = ["MIN_VERSION", "connect"]

#: The oldest major version of the server: the first one whose `numeric` holds infinities.
MIN_VERSION = 14
#: Parameters of libpq that `dsn` may set otherwise: a server that is gone is noticed after half a minute.
_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 5,
    "application_name": "tapeloom",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
#: Settings of the session. The server, too, ends sessions whose client is gone: such a session could hold
#: the lock of the numbers, which is waited for at most 10 s.
_SESSION = {
    "client_encoding": "UTF8",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
#: Values of `synchronous_commit` with which a commit may be acknowledged before it is durable.
_NOT_DURABLE = frozenset({"off"})


def connect(settings: Settings) -> psycopg.Connection[tuple[Any, ...]]:
    """Return a new connection in autocommit mode. Raises psycopg.Error, or SinkRefused for an old server."""
    dsn = settings.dsn.reveal() if isinstance(settings.dsn, Secret) else settings.dsn
    parameters = _DEFAULTS | conninfo_to_dict(dsn)
    if settings.password is not None:
        parameters["password"] = settings.password.reveal()
    # Statements are not prepared: a pooler between client and server need not keep sessions apart then.
    connection = psycopg.connect(**parameters, autocommit=True, prepare_threshold=None)
    try:
        _set_up(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    version = connection.info.server_version // 10_000
    if version < MIN_VERSION:
        raise SinkRefused(
            f"the server is PostgreSQL {version}, expected {MIN_VERSION} or newer. Upgrade it, or name"
            " another server in `dsn`."
        )
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    wanted = dict(_SESSION)
    (durability,) = _row(connection, "SELECT current_setting('synchronous_commit')")
    if durability in _NOT_DURABLE:
        wanted["synchronous_commit"] = "on"
    calls = ", ".join(["set_config(%s, %s, false)"] * len(wanted))
    connection.execute(f"SELECT {calls}", [part for pair in wanted.items() for part in pair])


def _row(connection: psycopg.Connection[tuple[Any, ...]], statement: str) -> tuple[Any, ...]:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row
