"""All exceptions that tapeloom raises.

TapeloomError
├── ConfigError            the stack is invalid; has .mistakes, each with its place
├── SymbolError            a symbol is invalid, or the venue does not list it
├── PluginError            has .plugin
│   ├── PluginNotFound     the plugin is not installed, or misspelled
│   ├── PluginBroken       the plugin is installed, but cannot be used
│   └── BackendUnsupported the plugin needs another event loop
├── TapeError              a recording cannot be read; has .path and .line
├── SinkError              a sink cannot write
│   ├── SinkUnavailable    the store cannot be reached now; it is tried again
│   ├── SinkRefused        the store cannot be used as configured
│   └── BatchRefused       the store refuses the content of a batch
└── FeedError              has .feed and .retryable
    ├── ConnectionFailed   a connection could not be opened (refused, DNS, certificate, HTTP status)
    ├── ConnectionLost     a connection ended; has .code, the WebSocket close code if there is one
    ├── RetriesExhausted   the maximum number of attempts failed; has .attempts
    ├── LoginRefused       the venue refused the login
    ├── SubscriptionRefused  the venue refused a subscription
    ├── RequestFailed      a REST request failed; has .status
    │   └── Throttled      a rate limit was exceeded; has .retry_after_seconds
    ├── StageFailed        a stage raised an exception
    └── QueueOverflow      the queue of a consumer with the policy "error" was full

RequestRefused, a ValueError, is raised by an adapter's `History` for an answer that is a refusal.

Each message says what was expected, what was received, and what to do next. Texts of a venue in it are
made `printable`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs

__all__ = [
    "BackendUnsupported", "BatchRefused", "ConfigError", "ConnectionFailed", "ConnectionLost", "FeedError",
    "LoginRefused", "Mistake", "PluginBroken", "PluginError", "PluginNotFound", "QueueOverflow",
    "RequestFailed", "RequestRefused", "RetriesExhausted", "SinkError", "SinkRefused", "SinkUnavailable",
    "StageFailed", "SubscriptionRefused", "SymbolError", "TapeError", "TapeloomError", "Throttled", "closest",
    "masked", "nearest", "printable", "unwrap_single",
]  # fmt: skip

#: Replaces every masked text.
MASK = "***"
#: What is secret in a URL: user and password, also with characters in it that should be percent-encoded,
#: and parameters of the query that are secret by their names.
_URL_SECRETS = re.compile(
    r"(?P<user>://)(?:[^\s/?#:@\[]*:(?!\d*(?:[/?#\s]|$))\S*|[^\s/?#]*)@"
    r"|(?P<key>[?&](?:key|token|auth|sig|[\w-]*(?:secret|passw|signature|credential|api[_-]?key"
    r"|access[_-]?token|listen[_-]?key)[\w-]*)=)[^\s&#'\"]+",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """Return *text* with ``***`` for the user, the password and the secret parameters of URLs in it."""
    return _URL_SECRETS.sub(
        lambda match: f"://{MASK}@" if match["user"] else f"{match['key']}{MASK}", text
    )


#: Maximum number of characters of a text from a venue or a file that is shown to people.
MAX_TEXT = 1000


def printable(text: str) -> str:
    r"""Return *text* on one line, with escapes such as ``\x1b`` for characters that are not printable.

    A venue's text could otherwise control the terminal that it is shown in, or look like another line
    of the log. Texts of more than 1,000 characters are cut.
    """
    if len(text) <= MAX_TEXT and text.isprintable():
        return text
    shown = "".join(
        char if char.isprintable() else repr(char)[1:-1] for char in text[: MAX_TEXT + 1]
    )
    return shown if len(shown) <= MAX_TEXT else f"{shown[: MAX_TEXT - 1]}…"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the known name closest to *name*, or an empty string."""
    match = closest(name, known)
    return f" Did you mean {match!r}?" if match else ""


def closest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is similar to *name*, or an empty string."""
    import difflib  # only mistakes need it

    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), "")


def unwrap_single(error: BaseException) -> BaseException:
    """Return the exception inside groups of one exception each; any other *error* unchanged."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class TapeloomError(Exception):
    """The base class of all exceptions that tapeloom raises. The secrets of URLs are `masked`."""

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(message))


@attrs.frozen
class Mistake:
    """One mistake in a stack: its place, and what to do about it."""

    place: str  #: The key, as in ``feed[0].symbols[1]``.
    #: What was expected, what was found, and what to write.
    problem: str = attrs.field(converter=masked)
    line: int = 0  #: The line in the file, from 1; 0 if not known.
    column: int = 0  #: The column in the line, from 1; 0 if not known.

    def __str__(self) -> str:
        column = f", column {self.column}" if self.column else ""
        line = f"line {self.line}{column}" if self.line else ""
        return ": ".join(part for part in (line, self.place, self.problem) if part)


@attrs.frozen
class LeftOut(Mistake):
    """A key that was left out, which is a mistake unless the feed relays another stream."""


class ConfigError(TapeloomError):
    """The stack is invalid. `mistakes` has all mistakes, not just the first; a text is one without a place."""

    def __init__(self, mistakes: Sequence[Mistake | str] | str, source: str = "stack") -> None:
        given = [mistakes] if isinstance(mistakes, str) else mistakes
        self.mistakes = tuple(
            Mistake("", mistake) if isinstance(mistake, str) else mistake for mistake in given
        )
        self.source = source
        lines = [f"{source}: {mistake}" for mistake in self.mistakes]
        super().__init__("\n".join(lines))


class SymbolError(TapeloomError):
    """A symbol is invalid, or the venue does not list it."""


class PluginError(TapeloomError):
    """The plugin named `plugin` cannot be used."""

    def __init__(self, plugin: str, message: str) -> None:
        self.plugin = plugin
        super().__init__(message)


class PluginNotFound(PluginError):
    """No plugin of this name is installed."""

    def __init__(self, plugin: str, installed: Iterable[str] = ()) -> None:
        names = sorted(installed)
        others = f"; installed are: {', '.join(names)}" if names else ""
        hint = nearest(plugin, names) or f" Install the package that has it{others}."
        super().__init__(plugin, f"no plugin named {plugin!r} is installed.{hint}")


class PluginBroken(PluginError):
    """A plugin cannot be imported, or violates the hook specifications."""


class BackendUnsupported(PluginError):
    """A plugin needs another event loop than the one that runs."""

    def __init__(self, plugin: str, running: str, supported: Iterable[str]) -> None:
        wanted = " or ".join(sorted(supported))
        super().__init__(
            plugin,
            f"plugin {plugin!r} needs {wanted} and was run on {running}."
            f' Set backend = "{wanted.split(" ")[0]}" in the stack.',
        )


class TapeError(TapeloomError):
    """A recording cannot be read beyond `line`; everything before it was delivered."""

    def __init__(self, path: Path | str, line: int, problem: str) -> None:
        self.path = str(path)
        self.line = line
        problem = printable(problem)
        super().__init__(f"{path}: line {line}: {problem}" if line else f"{path}: {problem}")


class SinkError(TapeloomError):
    """A sink cannot write. Sinks raise its subclasses; the message names the remedy, without secrets."""


class SinkUnavailable(SinkError):
    """The store cannot be reached now, such as a server that is down or a full disk. It is tried again."""


class SinkRefused(SinkError):
    """The store cannot be used as configured, such as a wrong password or an incompatible table."""


class BatchRefused(SinkError):
    """The store refuses the content of a batch, such as a number that it cannot represent."""


class FeedError(TapeloomError):
    """The feed named `feed` failed. `retryable` says whether trying again may help."""

    retryable = False
    #: Status, headers and the start of the body of the answer that refused a WebSocket handshake.
    http_answer: tuple[int, Mapping[str, str], bytes] | None = None

    def __init__(self, feed: str, message: str) -> None:
        self.feed = feed
        message = printable(message)
        super().__init__(f"feed {feed!r}: {message}" if feed else message)


class ConnectionFailed(FeedError):
    """A connection could not be opened."""

    retryable = True


class ConnectionLost(FeedError):
    """An open connection ended. `code` is the WebSocket close code, or None."""

    retryable = True

    def __init__(self, feed: str, message: str, code: int | None = None) -> None:
        super().__init__(feed, message)
        self.code = code


class RetriesExhausted(FeedError):
    """The maximum number of consecutive `attempts` failed; the last failure is chained."""

    def __init__(self, feed: str, attempts: int, reason: str) -> None:
        self.attempts = attempts
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts in a row"
        reason = reason.removeprefix(f"feed {feed!r}: ").rstrip(".")
        super().__init__(
            feed,
            f"given up after {times}. The last one: {reason}."
            " To try more often, raise max_attempts in [[feed]], or remove it to try for ever.",
        )


class LoginRefused(FeedError):
    """The venue refused the login. It is not tried again with the same keys."""

    def __init__(self, feed: str, reason: str) -> None:
        super().__init__(
            feed, f"the venue refused the login: {reason}. Check the keys of this feed."
        )


class SubscriptionRefused(FeedError):
    """The venue refused a subscription."""


class RequestFailed(FeedError):
    """A REST request failed. `status` is the HTTP status, or 0 without an answer."""

    def __init__(self, feed: str, message: str, status: int = 0) -> None:
        super().__init__(feed, message)
        self.status = status
        self.retryable = status == 0 or status >= 500


#: The longest pause that is kept, in seconds. Venues ban for days at most; more is a mistake.
MAX_PAUSE_SECONDS = 7 * 86_400.0


class Throttled(RequestFailed):
    """A rate limit was exceeded. `retry_after_seconds` is the pause the venue requires, or None.

    It is at most 7 days; the message says so if the venue requires more.
    """

    def __init__(
        self, feed: str, message: str, status: int = 429, retry_after_seconds: float | None = None
    ) -> None:
        if retry_after_seconds is not None and retry_after_seconds > MAX_PAUSE_SECONDS:
            retry_after_seconds = MAX_PAUSE_SECONDS
            message += (
                " The venue asks for a pause of more than 7 days, which is most likely a mistake:"
                " it is tried again after 7 days. Restart the feed to try sooner."
            )
        super().__init__(feed, message, status)
        self.retryable = True
        self.retry_after_seconds = retry_after_seconds


class StageFailed(FeedError):
    """The stage named `stage` raised an exception, which is chained."""

    def __init__(self, feed: str, stage: str, cause: BaseException) -> None:
        self.stage = stage
        super().__init__(
            feed,
            f"stage {stage!r} raised {type(cause).__name__}: {cause}."
            " This is a defect of that plugin; remove the stage from the stack to run without it.",
        )


class QueueOverflow(FeedError):
    """The queue of a consumer with the policy "error" was full."""


class RequestRefused(ValueError):
    """The venue refused a request; `reason` has its text.

    `retry_after_seconds` is the minimum time to wait before trying again; None: trying again is pointless.
    """

    def __init__(self, reason: str, retry_after_seconds: float | None = None) -> None:
        self.reason = printable(reason)
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.reason)
