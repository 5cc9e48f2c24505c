"""`Secret`: a credential that no repr, log line or pickle shows, read from the environment or a file."""

from __future__ import annotations

import errno
import hmac
import os
import re
from typing import TYPE_CHECKING, Any, NoReturn

from tapeloom.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


#: What an error message tells the user to write.
_REMEDY = 'write { env = "NAME" } or { file = "path" }'
#: A valid name of an environment variable.
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Secret:
    """A credential. `reveal()` returns its text; repr, messages, logs, pickle and `asdict` hide it.

    `origin` is the table in the stack that it was read from, such as ``{"env": "NAME"}``.
    """

    __slots__ = ("_text", "origin")

    def __init__(self, text: str, origin: Mapping[str, str] | None = None) -> None:
        self._text = text
        self.origin: Mapping[str, str] = dict(origin or {})

    @classmethod
    def read(cls, table: Mapping[Any, Any] | Secret, folder: Path) -> Secret:
        """Return the secret that *table* refers to; a relative path is resolved against *folder*.

        Raises ValueError if *table* is malformed, or the variable or file is missing or empty.
        """
        if isinstance(table, Secret):
            return table
        if unknown := [str(key) for key in table if key not in {"env", "file"}]:
            hint = nearest(unknown[0], ("env", "file")) or f" Please {_REMEDY}"
            raise ValueError(f"unknown key {unknown[0]!r} in a secret.{hint}")
        if len(table) != 1:
            raise ValueError(f"a secret has one origin: {_REMEDY}")
        ((kind, name),) = table.items()
        if not isinstance(name, str) or not name:
            raise ValueError(f"{kind} must be a name in quotes: {_REMEDY}")
        text = _from_environment(name) if kind == "env" else _from_file(folder / name)
        return cls(text, {kind: name})

    def reveal(self) -> str:
        """Return the text of the secret. Callers must not store it, log it or put it into a message."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        texts = (secret.reveal().encode(errors="surrogateescape") for secret in (self, other))
        return hmac.compare_digest(*texts)

    def __hash__(self) -> int:
        return hash(Secret)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: pass its origin on and read it again")


def _from_environment(name: str) -> str:
    # The message does not show the name: it may be the secret itself.
    if not _VARIABLE.fullmatch(name):
        raise ValueError(f"env must be the name of an environment variable: {_REMEDY}")
    text = os.environ.get(name)
    if text is None:
        raise ValueError(f"the environment variable {name!r} is not set")
    if not text.strip():
        raise ValueError(f"the environment variable {name!r} is empty")
    return text.strip()


def _from_file(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # reading a pipe or device may never end
            raise OSError(errno.EINVAL, "it is not a regular file")
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"the file {str(path)!r} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"the file {str(path)!r} cannot be read: {error.strerror}") from None
    except ValueError:  # the path contains a NUL character
        raise ValueError(f"{str(path)!r} is not a path") from None
    if not text:
        raise ValueError(f"the file {str(path)!r} is empty")
    return text
