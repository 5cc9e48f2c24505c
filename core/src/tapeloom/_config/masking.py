"""What must not be shown of a stack: passwords in addresses, and keys written where no secret belongs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

MASK = "***"
_SECRET = re.compile(r"key|secret|token|passw|passphrase|credential", re.IGNORECASE)


def masked_url(url: str | None) -> str:
    """Return the repr of *url* without the user and the password in it."""
    return repr(None if url is None else without_user(url))


def masked_table(table: object) -> str:
    """Return the repr of a TOML table without what looks like a secret."""
    return repr(masked(table))


def masked(value: Any) -> Any:
    """Hide plain texts under keys that look like secrets: they should not stand there at all."""
    if not isinstance(value, Mapping):
        return value
    return {
        key: MASK if isinstance(one, str) and _SECRET.search(str(key)) else masked(one)
        for key, one in value.items()
    }


def without_user(url: str) -> str:
    """Return *url* without the user and the password in it."""
    parts = urlsplit(url)
    _, user, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{MASK}@{host}")) if user else url
