"""The settings of ``[[sink]] use = "postgres"``."""

from __future__ import annotations

from typing import Any

import psycopg
from attrs import Attribute, field, frozen
from attrs.validators import ge
from psycopg.conninfo import conninfo_to_dict
from tapeloom import Secret
from tapeloom.units import duration_ns

__all__ = ["Settings"]

#: PostgreSQL cuts longer names in silence.
MAX_NAME_BYTES = 63
_SCHEMA_REMEDY = 'Write a name of letters, digits and _, such as schema = "tapeloom".'


def _is_dsn(_: object, attribute: Attribute[Any], value: str | Secret) -> None:
    # No message shows the value or what libpq says of it: it may hold a password.
    text = value.reveal() if isinstance(value, Secret) else value
    try:
        parts = conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        raise ValueError(
            "expected an address such as 'postgresql://user@host:5432/database' or"
            " 'host=... dbname=...', with % and what else is special in a URL percent-encoded"
        ) from None
    if not isinstance(value, Secret) and "password" in parts:
        raise ValueError(
            "a password must not be in the stack itself: write the address without it and"
            ' password = { env = "NAME" }, or the whole address as dsn = { env = "NAME" }'
        )


def _is_name(_: object, attribute: Attribute[str], value: str) -> None:
    if not value.isidentifier() or len(value.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{value!r} is no name for a schema. {_SCHEMA_REMEDY}")
    if value.lower().startswith("pg_"):
        raise ValueError(f"{value!r} begins with pg_, as only PostgreSQL's own schemas do.")


@frozen(kw_only=True)
class Settings:
    """Where the events are stored. Durations are stored in nanoseconds."""

    #: Address of the database: a URL or ``key=value`` pairs, without a password, or a secret; what it
    #: lacks is taken from the variables ``PGHOST``, ``PGDATABASE`` and so on.
    dsn: str | Secret = field(default="", validator=_is_dsn)
    password: Secret | None = None  #: password of the user, if it is not in `dsn`
    #: The PostgreSQL schema with the tables; it is created if it is missing.
    schema: str = field(default="tapeloom", validator=_is_name)
    #: Time range of a chunk of a hypertable, where the database has TimescaleDB; 0: plain tables.
    chunk: int = field(default=86_400_000_000_000, converter=duration_ns, validator=ge(0))

    @property
    def secrets(self) -> list[str]:
        """The texts that no message may show."""
        found = [self.password.reveal()] if self.password else []
        if isinstance(self.dsn, Secret):
            found += [
                self.dsn.reveal(),
                str(conninfo_to_dict(self.dsn.reveal()).get("password", "")),
            ]
        return [text for text in found if text]
