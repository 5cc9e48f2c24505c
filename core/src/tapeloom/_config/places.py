"""Where in a stack file a mistake stands.

`tomllib` gives values and no positions. A text that it has accepted is valid, so a small scanner is
enough to find where every key and every item of an array begins.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING

import attrs

from tapeloom.errors import Mistake

if TYPE_CHECKING:
    from collections.abc import Iterable


_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|(?!""").)*"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_LAST = re.compile(r'(?:\[\d+\]|\.?(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"))$')


def at(place: str, key: str | int) -> str:
    """Return the place of *key* inside *place*: ``feed[0]``, ``feed[0].symbols``."""
    if isinstance(key, int):
        return f"{place}[{key}]"
    word = key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)
    return f"{place}.{word}" if place else word


class Places:
    """The offset of every key and item in a TOML text that `tomllib` accepts."""

    def __init__(self, text: str = "") -> None:
        self._text = text
        self._found = _Scanner(text).scan() if text else {}

    def line(self, place: str) -> int:
        """Return the line of *place*, or of the nearest table around it; 0 where none is known."""
        offset = self._offset(place)
        return 0 if offset is None else self._text.count("\n", 0, offset) + 1

    def locate(self, mistakes: Iterable[Mistake]) -> list[Mistake]:
        """Return *mistakes* in the order of the file, each with its line where it is known."""
        end = len(self._text)
        found = [(self._offset(mistake.place), mistake) for mistake in mistakes]
        found.sort(key=lambda pair: end if pair[0] is None else pair[0])
        return [
            mistake
            if offset is None or mistake.line
            else attrs.evolve(mistake, line=self._text.count("\n", 0, offset) + 1)
            for offset, mistake in found
        ]

    def _offset(self, place: str) -> int | None:
        while place:
            if place in self._found:
                return self._found[place]
            shorter = _LAST.sub("", place)
            place = "" if shorter == place else shorter
        return None


class _LostError(Exception):
    pass


class _Scanner:
    """Walks through a valid TOML text once and notes where things begin."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._found: dict[str, int] = {}
        self._lengths: dict[str, int] = {}  # of the arrays of tables

    def scan(self) -> dict[str, int]:
        """Return the offset of every place. What a defect of ours hides is left out."""
        table = ""
        try:
            while self._skip(_BLANK) < len(self._text):
                start = self._pos
                if self._next("["):
                    table = self._header(start)
                else:
                    self._pair(table)
        except _LostError:
            pass
        return self._found

    def _header(self, start: int) -> str:
        array = self._next("[")
        keys = self._keys()
        self._expect("]]" if array else "]")
        place = ""
        for depth, key in enumerate(keys, 1):
            place = at(place, key)
            self._found.setdefault(place, start)
            if array and depth == len(keys):
                self._lengths[place] = self._lengths.get(place, 0) + 1
            if place in self._lengths:
                place = at(place, self._lengths[place] - 1)
        self._found.setdefault(place, start)
        return place

    def _pair(self, table: str) -> None:
        start = self._pos
        place = table
        for key in self._keys():
            place = at(place, key)
            self._found.setdefault(place, start)
        self._expect("=")
        self._value(place)

    def _value(self, place: str) -> None:
        self._skip(_SPACE)
        if self._next("["):
            index = 0
            while self._more("]"):
                self._found[at(place, index)] = self._pos
                self._value(at(place, index))
                index += 1
        elif self._next("{"):
            while self._more("}"):
                self._pair(place)
        elif self._text[self._pos : self._pos + 1] in {'"', "'"}:
            self._take(_STRING)
        else:
            self._take(_SCALAR)

    def _more(self, end: str) -> bool:
        """Move to the next item; False once the closing bracket is behind us."""
        self._skip(_BLANK)
        if self._next(","):
            self._skip(_BLANK)
        return not self._next(end)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            if self._text[self._pos : self._pos + 1] in {'"', "'"}:
                keys.append(str(tomllib.loads(f"key = {self._take(_STRING)}")["key"]))
            else:
                keys.append(self._take(_BARE))
            self._skip(_SPACE)
            if not self._next("."):
                return keys

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._take(pattern)
        return self._pos

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._pos)
        if match is None:
            raise _LostError
        self._pos = match.end()
        return match[0]

    def _next(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._pos):
            return False
        self._pos += len(sign)
        return True

    def _expect(self, sign: str) -> None:
        self._skip(_SPACE)
        if not self._next(sign):
            raise _LostError
