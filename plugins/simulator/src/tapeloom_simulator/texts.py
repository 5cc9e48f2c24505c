"""A cache of the texts of numbers: a simulated market writes the same prices and sizes all the time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

__all__ = ["CachedTexts"]


class CachedTexts(dict[int, str], ABC):
    """Maps a number to its text in the venue's format, and keeps the text.

    A subclass says in `write` how the venue writes the number.
    """

    max_texts: ClassVar[int] = 20_000  #: how many texts it may hold; above, all are dropped

    @abstractmethod
    def write(self, number: int) -> str:
        """Return the text of *number* without caching it."""

    def __missing__(self, number: int) -> str:
        if len(self) > self.max_texts:
            self.clear()
        text = self[number] = self.write(number)
        return text
