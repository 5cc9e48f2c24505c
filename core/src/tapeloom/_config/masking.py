"""Masking of secrets in reprs and printed stacks: passwords in URLs, and values under secret-looking keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tapeloom import errors
from tapeloom.errors import MASK

#: Keys whose plain-text values are masked.
_SECRET_KEY = re.compile(r"key|secret|token|passw|passphrase|credential", re.IGNORECASE)


def masked_url(url: str | None) -> str:
    """Return the repr of *url* with its user and password masked."""
    return repr(None if url is None else errors.masked(url))


def masked_table(table: object) -> str:
    """Return the repr of a TOML table with values under secret-looking keys masked."""
    return repr(masked(table))


def masked(value: Any) -> Any:
    """Return *value* with plain strings under secret-looking keys masked, in nested tables too.

    Such keys should hold a `Secret`, which masks itself; this covers secrets that a user wrote into
    the stack file as plain text. The secrets of URLs are masked under any key.
    """
    if isinstance(value, str):
        return errors.masked(value)
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: MASK if isinstance(item, str) and _SECRET_KEY.search(str(key)) else masked(item)
        for key, item in value.items()
    }
