"""Translates the errors of PostgreSQL: unavailable, refused, or a batch that is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from tapeloom.errors import MASK, BatchRefused, SinkError, SinkRefused, SinkUnavailable

__all__ = ["translated"]

#: What libpq says of a connection that will not open as configured. It has no error code then. The
#: message of a server in another language is not among these: it is tried again.
_REFUSED_CONNECTION = re.compile(
    r"password authentication failed|no password supplied|does not exist|pg_hba\.conf"
    r"|not permitted to log in|permission denied for database|authentication failed"
    r"|invalid \w+ value|does not support SSL|certificate"
)
#: Remedies by the code of the error, or its first two characters.
_REFUSED = {
    "42501": "Grant the right to this role, or let another role create the schema and its tables",
    "42": "The tables are not those of this sink: choose another `schema`, or rename them",
    "28": "Check the user and the password",
    "3D": "Create the database, or correct its name in `dsn`",
}
_UNAVAILABLE = {
    "42P01": "A table was dropped; it is created again",
    "42703": "A column was dropped; it is created again",
    "25006": "The server is read-only, such as a standby: add target_session_attrs=read-write to `dsn`,"
    " or write to the primary",
    "53100": "Free space on the disk of the server",
    "53300": "Raise max_connections of the server, or close other sessions",
    "55P03": "Another session holds a lock for more than 10 s",
}
#: Classes of errors that the content of a batch causes: data, constraints, limits such as an index row.
_REFUSED_CONTENT = ("22", "23", "54")


@contextmanager
def translated(secrets: Sequence[str], *, writes: bool = False) -> Iterator[None]:
    """Raise errors of psycopg as SinkUnavailable or SinkRefused, or BatchRefused if a batch is written.

    The messages show no secret.
    """
    try:
        yield
    except psycopg.Error as error:
        found = _translated(error, secrets)
        if isinstance(found, BatchRefused) and not writes:
            found = SinkRefused(f"{found} Correct or rename the table that has it.")
        raise found from None


def _translated(error: psycopg.Error, secrets: Sequence[str]) -> SinkError:
    code = error.sqlstate or ""
    text = " ".join((error.diag.message_primary or str(error) or type(error).__name__).split())
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = text.rstrip(".")
    if not code and isinstance(error, psycopg.OperationalError):
        if _REFUSED_CONNECTION.search(text):
            check = "Check `dsn` and `password`, and the server's pg_hba.conf"
            if "certificate" in text:
                check = "Check sslmode, sslrootcert, sslcert and sslkey in `dsn`"
            return SinkRefused(f"{text}. {check}.")
        return SinkUnavailable(f"{text}. Check that the server runs and `dsn` names its address.")
    if code in _UNAVAILABLE:
        return SinkUnavailable(f"{text}. {_UNAVAILABLE[code]}.")
    if code[:2] in _REFUSED_CONTENT or isinstance(error, psycopg.DataError):
        return BatchRefused(f"PostgreSQL refuses a value: {text}.")
    if remedy := _REFUSED.get(code) or _REFUSED.get(code[:2]):
        return SinkRefused(f"{text}. {remedy}.")
    return SinkUnavailable(f"{text} ({code or type(error).__name__}). It is tried again.")
