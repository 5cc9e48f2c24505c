"""What each word of a stack may be. Each check raises ConfigError with all that is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, get_args
from urllib.parse import urlsplit

import attrs

from tapeloom.errors import ConfigError, Mistake, SymbolError, nearest
from tapeloom.events import BY_TYPE
from tapeloom.plugin import channel_parts
from tapeloom.symbols import resolve

from .secret import Secret
from .words import shown

#: The channels that have one meaning at every venue. Which of them a venue serves, and with which
#: parameter, is for the venue to say. What only one venue has is written with the prefix ``x-``, so
#: that a misspelt word is never taken for a word of a venue's own.
CHANNELS = ("trades", "agg_trades", "quotes", "book", "klines", "ticker")
_OWN = "x-"


class _Named(Protocol):
    """A part of the stack that has a name of its own."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


class _Words:
    """Goes through the words of an array and notes what is wrong with each, by its index."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._mistakes: list[Mistake] = []

    def each(self, value: str | Iterable[object]) -> Iterator[tuple[int, str]]:
        """Yield what are words; one alone counts as an array of one."""
        for index, word in enumerate((value,) if isinstance(value, str) else value):
            if isinstance(word, str) and word:
                yield index, word
            else:
                came = "an empty one" if word == "" else shown(word)
                self.wrong(index, f"expected a string, got {came}")

    def wrong(self, index: int, problem: str) -> None:
        self._mistakes.append(Mistake(f"{self._key}[{index}]", problem))

    def once(self, words: Iterable[tuple[int, str]]) -> tuple[str, ...]:
        """Return the words. Raises ConfigError where anything is wrong."""
        found: list[str] = []
        for index, word in words:
            if word in found:
                self.wrong(index, f"{word!r} stands there twice. Delete one.")
            found.append(word)
        if self._mistakes:
            raise ConfigError(self._mistakes)
        return tuple(found)


def symbols(value: str | Iterable[object]) -> tuple[str, ...]:
    """Return unified symbols, each once."""
    words = _Words("symbols")

    def unified() -> Iterator[tuple[int, str]]:
        for index, text in words.each(value):
            try:
                yield index, resolve(text)
            except SymbolError as error:
                words.wrong(index, str(error))

    return words.once(unified())


def channels(value: str | Iterable[object]) -> tuple[str, ...]:
    """Return channels that are known, or a venue's own, each once."""
    words = _Words("channels")

    def known() -> Iterator[tuple[int, str]]:
        for index, channel in words.each(value):
            if problem := _channel_problem(channel):
                words.wrong(index, problem)
            else:
                yield index, channel

    return words.once(known())


def _channel_problem(channel: str) -> str:
    word, parameter = channel_parts(channel)
    own = word.startswith(_OWN) and word != _OWN
    if word not in CHANNELS and not own:
        colon = f":{parameter}" if parameter else ""
        hint = nearest(channel, [f"{one}{colon}" for one in CHANNELS])
        listed = f" Known: {', '.join(CHANNELS)}; those of one venue alone begin with '{_OWN}'"
        return f"{channel!r} is no channel.{hint or listed}"
    if ":" in channel and not parameter.strip():
        return f"{channel!r} ends with a colon. Write the parameter after it, as in 'klines:1m'."
    return ""


def stages(value: str | Iterable[object]) -> tuple[str, ...]:
    """Return names of stages, each once."""
    words = _Words("stages")
    return words.once(words.each(value))


def types(value: str | Iterable[object]) -> tuple[str, ...]:
    """Return types of events, each once."""
    words = _Words("types")
    listed = f" Known: {', '.join(sorted(BY_TYPE))}"

    def known() -> Iterator[tuple[int, str]]:
        for index, word in words.each(value):
            if word in BY_TYPE:
                yield index, word
            else:
                hint = nearest(word, BY_TYPE) or listed
                words.wrong(index, f"{word!r} is no type of event.{hint}")

    return words.once(known())


def filled(instance: object, attribute: attrs.Attribute[str], value: object) -> None:
    """Check that *value* is a name."""
    if not isinstance(value, str) or not value:
        raise ConfigError([Mistake(attribute.name, f"expected a name, got {value!r}")])


def at_least_one(instance: object, attribute: attrs.Attribute[int], value: object) -> None:
    """Check that *value* counts something."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(
            [Mistake(attribute.name, f"expected a whole number from 1 on, got {value!r}")]
        )


def at_most_a_second(instance: object, attribute: attrs.Attribute[float], value: object) -> None:
    """Check that *value* is a time in seconds, and a short one."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:  # type: ignore[operator]
        raise ConfigError(
            [Mistake(attribute.name, f"expected seconds from 0 to 1, such as 0.001, got {value!r}")]
        )


def not_negative(instance: object, attribute: attrs.Attribute[int], value: object) -> None:
    """Check that *value* counts something, or nothing."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(
            [Mistake(attribute.name, f"expected a whole number from 0 on, got {value!r}")]
        )


def positive(instance: object, attribute: attrs.Attribute[float], value: object) -> None:
    """Check that *value* is a number above 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ConfigError([Mistake(attribute.name, f"expected a number above 0, got {value!r}")])


def one_of(words: Any) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """Return a check that a value is one of a `Literal`'s words."""
    words = get_args(words)

    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in words:
            known = ", ".join(map(repr, words))
            hint = nearest(value, words) if isinstance(value, str) else ""
            problem = f"expected one of {known}, got {value!r}.{hint}".removesuffix(".")
            raise ConfigError([Mistake(attribute.name, problem)])

    return check


def proxy(value: str | Secret | None) -> str | None:
    """Return the address of a proxy, out of a secret too."""
    url = value.reveal() if isinstance(value, Secret) else value
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https", "socks5"} and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:  # the address is not shown: it may hold a password
        raise ConfigError([Mistake("proxy", "expected an address such as 'http://127.0.0.1:3128'")])
    return url


def named(specs: Iterable[N], kind: str, wishes: Callable[[N], Iterable[str]]) -> tuple[N, ...]:
    """Give a name of its own to every one of *specs* that has none.

    The first of *wishes* that is free is taken, and the first of all with a number where none is, so
    that adding one at the end never renames another.

    Raises ConfigError where two were given the same name.
    """
    specs = tuple(specs)
    given = [spec.name for spec in specs]
    mistakes = [
        Mistake(
            f"{kind}[{index}].name",
            f"{name!r} is the name of {kind}[{given.index(name)}] too. Give each its own.",
        )
        for index, name in enumerate(given)
        if name and name in given[:index]
    ]
    if mistakes:
        raise ConfigError(mistakes)
    taken = set(given)
    out = []
    for spec in specs:
        if not spec.name:
            spec = attrs.evolve(spec, name=_free(list(wishes(spec)), taken))  # type: ignore[misc]
            taken.add(spec.name)
        out.append(spec)
    return tuple(out)


def _free(wishes: list[str], taken: set[str]) -> str:
    numbered = (f"{wishes[0]}-{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (*wishes, *numbered) if name not in taken)
