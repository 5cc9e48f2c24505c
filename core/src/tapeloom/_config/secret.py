"""A text that is never shown."""

from __future__ import annotations

import hmac
import os
import re
from typing import TYPE_CHECKING, Any, NoReturn

from tapeloom.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_REMEDY = 'write { env = "NAME" } or { file = "path" }'
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Secret:
    """A text that no repr, message, log line, pickle or `asdict` shows. `reveal()` returns it.

    `origin` says where it came from, as the stack has it: ``{"env": "NAME"}``.
    """

    __slots__ = ("_text", "origin")

    def __init__(self, text: str, origin: Mapping[str, str] | None = None) -> None:
        self._text = text
        self.origin: Mapping[str, str] = dict(origin or {})

    @classmethod
    def read(cls, table: Mapping[Any, Any] | Secret, folder: Path) -> Secret:
        """Fetch the secret that *table* points to; a relative path starts in *folder*.

        Raises ValueError where there is none.
        """
        if isinstance(table, Secret):
            return table
        if unknown := [str(key) for key in table if key not in {"env", "file"}]:
            hint = nearest(unknown[0], ("env", "file"))
            raise ValueError(f"unknown key {unknown[0]!r} in a secret.{hint or f' Here {_REMEDY}'}")
        if len(table) != 1:
            raise ValueError(f"a secret has one origin: {_REMEDY}")
        ((kind, name),) = table.items()
        if not isinstance(name, str) or not name:
            raise ValueError(f"{kind} must be a name in quotes: {_REMEDY}")
        text = _from_environment(name) if kind == "env" else _from_file(folder / name)
        return cls(text, {kind: name})

    def reveal(self) -> str:
        """Return the text itself. Do not keep it, log it or put it into a message."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (one.reveal().encode(errors="surrogateescape") for one in (self, other))
        return hmac.compare_digest(mine, theirs)

    def __hash__(self) -> int:
        return hash(Secret)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: hand over its origin and read it again")


def _from_environment(name: str) -> str:
    if not _VARIABLE.fullmatch(name):  # perhaps the secret itself: not shown
        raise ValueError(f"env must be the name of an environment variable: {_REMEDY}")
    text = os.environ.get(name)
    if text is None:
        raise ValueError(f"the environment variable {name!r} is not set")
    if not text.strip():
        raise ValueError(f"the environment variable {name!r} is empty")
    return text.strip()


def _from_file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"the file {str(path)!r} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"the file {str(path)!r} cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the path
        raise ValueError(f"{str(path)!r} is no path") from None
    if not text:
        raise ValueError(f"the file {str(path)!r} is empty")
    return text
