"""Converters and validators of the fields of a stack. Each raises ConfigError with all mistakes it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, get_args
from urllib.parse import urlsplit

import attrs

from tapeloom.errors import ConfigError, Mistake, SymbolError, closest, nearest
from tapeloom.plugin import channel_parts
from tapeloom.symbols import resolve
from tapeloom.units import size_bytes

from .descriptions import describe
from .secret import Secret

#: The channels that mean the same at every venue. The venue decides which of them it serves and with
#: which parameter.
CHANNELS = ("trades", "agg_trades", "quotes", "book", "klines", "ticker")
#: What exchanges and other libraries call these channels, in lower case.
_OTHER_NAMES = {
    **dict.fromkeys(("candle", "candles", "ohlcv", "ohlc", "bar", "bars"), "klines"),
    **dict.fromkeys(("depth", "l2", "l2book", "orderbook", "order_book", "books"), "book"),
    **dict.fromkeys(("bbo", "bookticker", "book_ticker", "best", "l1"), "quotes"),
    **dict.fromkeys(("aggtrade", "aggtrades"), "agg_trades"),
}
#: A parameter to write after the name of a channel that needs one.
_PARAMETERS = {"klines": "1m"}
#: Prefix of a channel that only one venue has. It is required, so that a misspelt common channel is
#: reported instead of being sent to the venue as one of its own.
_VENUE_PREFIX = "x-"
#: Characters that separate the parts of a path.
_SEPARATORS = frozenset("/\\")


class _Named(Protocol):
    """A part of the stack that has a unique name."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


class _StringArray:
    """Checks the items of an array of strings and collects a mistake per item, with its index."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._mistakes: list[Mistake] = []

    def strings(self, value: str | Iterable[object]) -> Iterator[tuple[int, str]]:
        """Yield index and text of each non-empty string; a bare string counts as an array of one."""
        for index, item in enumerate((value,) if isinstance(value, str) else value):
            if isinstance(item, str) and item:
                yield index, item
            else:
                received = "an empty one" if item == "" else describe(item)
                self.add_mistake(index, f"expected a string, got {received}")

    def add_mistake(self, index: int, problem: str) -> None:
        self._mistakes.append(Mistake(f"{self._key}[{index}]", problem))

    def unique(self, items: Iterable[tuple[int, str]]) -> tuple[str, ...]:
        """Return the texts of *items*. Raises ConfigError with all mistakes, duplicates included."""
        found: list[str] = []
        for index, text in items:
            if text in found:
                self.add_mistake(index, f"{text!r} is listed twice. Delete one.")
            found.append(text)
        if self._mistakes:
            raise ConfigError(self._mistakes)
        return tuple(found)


def symbols(value: str | Iterable[object]) -> tuple[str, ...]:
    """Return *value* as unique unified symbols, with aliases resolved."""
    array = _StringArray("symbols")

    def unified() -> Iterator[tuple[int, str]]:
        for index, text in array.strings(value):
            try:
                yield index, resolve(text)
            except SymbolError as error:
                array.add_mistake(index, str(error))

    return array.unique(unified())


def channels(value: str | Iterable[object]) -> tuple[str, ...]:
    """Return *value* as unique channels: those in `CHANNELS` or with the prefix ``x-``."""
    array = _StringArray("channels")

    def known() -> Iterator[tuple[int, str]]:
        for index, channel in array.strings(value):
            if problem := _channel_problem(channel):
                array.add_mistake(index, problem)
            else:
                yield index, channel

    return array.unique(known())


def _channel_problem(channel: str) -> str:
    name, parameter = channel_parts(channel)
    is_venue_channel = name.startswith(_VENUE_PREFIX) and name != _VENUE_PREFIX
    if name not in CHANNELS and not is_venue_channel:
        meant = _OTHER_NAMES.get(name.lower()) or closest(name.lower(), CHANNELS)
        parameter = parameter or _PARAMETERS.get(meant, "")
        meant += f":{parameter}" if parameter else ""
        hint = f" Did you mean {meant!r}?" if meant else ""
        known = f" Known: {', '.join(CHANNELS)}; channels of one venue begin with '{_VENUE_PREFIX}'"
        return f"{channel!r} is not a channel.{hint or known}"
    if ":" in channel and not parameter.strip():
        return f"{channel!r} ends with a colon. Write the parameter after it, as in 'klines:1m'."
    return ""


def stages(value: str | Iterable[object]) -> tuple[str, ...]:
    """Return *value* as unique stage names."""
    return _names("stages", value)


def venues(value: str | Iterable[object]) -> tuple[str, ...]:
    """Return *value* as unique venue names."""
    return _names("venues", value)


def any_channels(value: str | Iterable[object]) -> tuple[str, ...]:
    """Return *value* as unique channels, also such as only events of stages have."""
    return _names("channels", value)


def _names(key: str, value: str | Iterable[object]) -> tuple[str, ...]:
    array = _StringArray(key)
    return array.unique(array.strings(value))


def size(value: str | int) -> int:
    """Return a number of bytes; a text such as ``500MB`` is converted. Raises ConfigError."""
    try:
        return size_bytes(value)
    except ValueError as error:
        raise ConfigError([Mistake("spool", str(error))]) from None


def types(value: str | Iterable[object]) -> tuple[str, ...]:
    """Return *value* as unique strings. Whether they are event types is known once plugins are imported."""
    array = _StringArray("types")
    return array.unique(array.strings(value))


def file_name(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Raise ConfigError unless *value* can be part of a file name: saved frames are named by it."""
    if not value.isprintable() or value.startswith(".") or _SEPARATORS.intersection(value):
        problem = (
            "expected a name of printable characters without / and \\, and no dot at its start"
        )
        raise ConfigError([Mistake(attribute.name, f"{problem}, got {value!r}")])


def not_empty(instance: object, attribute: attrs.Attribute[str], value: object) -> None:
    """Raise ConfigError unless *value* is a non-empty string."""
    if not isinstance(value, str) or not value:
        raise ConfigError([Mistake(attribute.name, f"expected a name, got {value!r}")])


def at_least_one(instance: object, attribute: attrs.Attribute[int], value: object) -> None:
    """Raise ConfigError unless *value* is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(
            [Mistake(attribute.name, f"expected a whole number from 1 on, got {value!r}")]
        )


def at_most_a_second(instance: object, attribute: attrs.Attribute[float], value: object) -> None:
    """Raise ConfigError unless *value* is a number of seconds from 0 to 1."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:  # type: ignore[operator]
        raise ConfigError(
            [Mistake(attribute.name, f"expected seconds from 0 to 1, such as 0.001, got {value!r}")]
        )


def not_negative(instance: object, attribute: attrs.Attribute[int], value: object) -> None:
    """Raise ConfigError unless *value* is a whole number of at least 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(
            [Mistake(attribute.name, f"expected a whole number from 0 on, got {value!r}")]
        )


def positive(instance: object, attribute: attrs.Attribute[float], value: object) -> None:
    """Raise ConfigError unless *value* is a finite number above 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ConfigError([Mistake(attribute.name, f"expected a number above 0, got {value!r}")])


def one_of(literal: Any) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """Return a validator that accepts the values of the `Literal` type *literal* only."""
    choices = get_args(literal)

    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in choices:
            known = ", ".join(map(repr, choices))
            hint = nearest(value, choices) if isinstance(value, str) else ""
            problem = f"expected one of {known}, got {value!r}.{hint}".removesuffix(".")
            raise ConfigError([Mistake(attribute.name, problem)])

    return check


def proxy(value: str | Secret | None) -> str | None:
    """Return the URL of a proxy, revealed if it is a secret. Raises ConfigError if it is not valid."""
    url = value.reveal() if isinstance(value, Secret) else value
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https", "socks5"} and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:  # the message does not show the URL, because it may hold a password
        raise ConfigError([Mistake("proxy", "expected an address such as 'http://127.0.0.1:3128'")])
    return url


def with_names(specs: Iterable[N], kind: str, names: Callable[[N], list[str]]) -> tuple[N, ...]:
    """Return *specs*, each with a unique name; those without a name receive one.

    A spec without a name receives the first of its *names* that no other spec has, or else its first
    name with a number, such as "binance-2". Adding an unnamed spec at the end never renames another.

    Raises ConfigError if two specs were given the same name. *kind* is the name of their table in the
    stack, such as "feed", for the message.
    """
    specs = tuple(specs)
    given = [spec.name for spec in specs]
    mistakes = [
        Mistake(
            f"{kind}[{index}].name",
            f"{name!r} is already the name of {kind}[{given.index(name)}]. Choose another.",
        )
        for index, name in enumerate(given)
        if name and name in given[:index]
    ]
    if mistakes:
        raise ConfigError(mistakes)
    taken = set(given)
    named = []
    for spec in specs:
        if not spec.name:
            spec = attrs.evolve(spec, name=_free_name(names(spec), taken))  # type: ignore[misc]
            taken.add(spec.name)
        named.append(spec)
    return tuple(named)


def _free_name(names: list[str], taken: set[str]) -> str:
    numbered = (f"{names[0]}-{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (*names, *numbered) if name not in taken)
