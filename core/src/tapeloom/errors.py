"""Everything tapeloom raises.

TapeloomError
├── ConfigError            the stack is wrong; carries every mistake with its place
├── SymbolError            a symbol that cannot be read, or that the venue does not list
├── PluginError            carries .plugin
│   ├── PluginNotFound     not installed, or misspelled
│   ├── PluginBroken       installed, but it cannot be used
│   └── BackendUnsupported needs another event loop than the one it runs on
├── TapeError              a recording that cannot be read; carries .path and .line
└── FeedError              carries .feed and .retryable
    ├── ConnectionFailed   could not be opened (refused, unknown host, certificate, HTTP status)
    ├── ConnectionLost     was open and ended; carries .code, the WebSocket close code if one came
    ├── RetriesExhausted   as many attempts as the feed may make have failed; carries .attempts
    ├── LoginRefused
    ├── SubscriptionRefused
    ├── RequestFailed      a REST request went wrong; carries .status
    │   └── Throttled      the venue asks for a pause; carries .retry_after
    ├── StageFailed        a stage raised
    └── QueueOverflow      a consumer with the policy "error" fell behind

Denied, a ValueError, is what an adapter's `History` raises for an answer that is a refusal.

Each message says what was expected, what came, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

__all__ = [
    "BackendUnsupported",
    "ConfigError",
    "ConnectionFailed",
    "ConnectionLost",
    "FeedError",
    "LoginRefused",
    "Mistake",
    "PluginBroken",
    "PluginError",
    "PluginNotFound",
    "QueueOverflow",
    "RequestFailed",
    "RequestRefused",
    "RetriesExhausted",
    "StageFailed",
    "SubscriptionRefused",
    "SymbolError",
    "TapeError",
    "TapeloomError",
    "Throttled",
    "nearest",
    "unwrap_single",
]  # fmt: skip


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known word closest to *word*, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""


def unwrap_single(error: BaseException) -> BaseException:
    """Return the one failure inside *error*: a single failure is no group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class TapeloomError(Exception):
    """The root of the tree: catch this to catch whatever tapeloom raises."""


@attrs.frozen
class Mistake:
    """One thing wrong in a stack: where it stands, and what to do about it.

    `line` and `column` are counted from 1; 0 where they are not known.
    """

    place: str  #: as in ``feed[0].symbols[1]``
    problem: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        column = f", column {self.column}" if self.column else ""
        line = f"line {self.line}{column}" if self.line else ""
        return ": ".join(part for part in (line, self.place, self.problem) if part)


class ConfigError(TapeloomError):
    """The stack is wrong. `mistakes` has all that is wrong with it, not just the first."""

    def __init__(self, mistakes: Sequence[Mistake], source: str = "stack") -> None:
        self.mistakes = tuple(mistakes)
        self.source = source
        lines = [f"{source}: {mistake}" for mistake in self.mistakes]
        super().__init__("\n".join(lines))


class SymbolError(TapeloomError):
    """A symbol that cannot be read, or that the venue does not list."""


class PluginError(TapeloomError):
    """Something about the plugin named `plugin`."""

    def __init__(self, plugin: str, message: str) -> None:
        self.plugin = plugin
        super().__init__(message)


class PluginNotFound(PluginError):
    """No installed plugin has this name."""

    def __init__(self, plugin: str, installed: Iterable[str] = ()) -> None:
        dist = f"tapeloom-{plugin.removeprefix('tapeloom-')}"
        hint = nearest(plugin, installed) or f" Try: pip install {dist}"
        super().__init__(plugin, f"no plugin named {plugin!r} is installed.{hint}")


class PluginBroken(PluginError):
    """A plugin is installed and cannot be imported, or breaks the rules of the hooks."""


class BackendUnsupported(PluginError):
    """A plugin needs another event loop than the one it is run on."""

    def __init__(self, plugin: str, running: str, supported: Iterable[str]) -> None:
        wanted = " or ".join(sorted(supported))
        super().__init__(
            plugin,
            f"plugin {plugin!r} needs {wanted} and was run on {running}."
            f' Set backend = "{wanted.split(" ")[0]}" in the stack.',
        )


class TapeError(TapeloomError):
    """A recording that cannot be read any further. What stood before `line` was delivered."""

    def __init__(self, path: Path | str, line: int, problem: str) -> None:
        self.path = str(path)
        self.line = line
        super().__init__(f"{path}: line {line}: {problem}" if line else f"{path}: {problem}")


class FeedError(TapeloomError):
    """Something went wrong in the feed named `feed`. `retryable`: trying again may help."""

    retryable = False

    def __init__(self, feed: str, message: str) -> None:
        self.feed = feed
        super().__init__(f"feed {feed!r}: {message}" if feed else message)


class ConnectionFailed(FeedError):
    """A connection could not be opened."""

    retryable = True


class ConnectionLost(FeedError):
    """A connection was open and has ended. `code` is the WebSocket close code, if one came."""

    retryable = True

    def __init__(self, feed: str, message: str, code: int | None = None) -> None:
        super().__init__(feed, message)
        self.code = code


class RetriesExhausted(FeedError):
    """All `attempts` that a feed may make in a row have failed; the last failure is chained."""

    def __init__(self, feed: str, attempts: int, reason: str) -> None:
        self.attempts = attempts
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts in a row"
        reason = reason.removeprefix(f"feed {feed!r}: ").rstrip(".")
        super().__init__(
            feed,
            f"given up after {times}. The last one: {reason}."
            " To go on for longer, raise max_attempts in [[feed]]; without it there is no end.",
        )


class LoginRefused(FeedError):
    """The venue does not accept the keys. Nothing is tried again until they are others."""

    def __init__(self, feed: str, reason: str) -> None:
        super().__init__(
            feed, f"the venue refused the login: {reason}. Check the keys of this feed."
        )


class SubscriptionRefused(FeedError):
    """The venue refused a subscription."""


class RequestFailed(FeedError):
    """A REST request went wrong. `status` is the HTTP status, or 0 where no answer came."""

    def __init__(self, feed: str, message: str, status: int = 0) -> None:
        super().__init__(feed, message)
        self.status = status
        self.retryable = status == 0 or status >= 500


class Throttled(RequestFailed):
    """The venue asks for a pause of `retry_after_seconds` (None: it does not say how long)."""

    def __init__(
        self, feed: str, message: str, status: int = 429, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(feed, message, status)
        self.retryable = True
        self.retry_after_seconds = retry_after_seconds


class StageFailed(FeedError):
    """A stage raised. `stage` is its name in the stack; the cause is chained."""

    def __init__(self, feed: str, stage: str, cause: BaseException) -> None:
        self.stage = stage
        super().__init__(
            feed,
            f"stage {stage!r} raised {type(cause).__name__}: {cause}."
            " This is a defect of that plugin; take the stage out of the stack to go on without it.",
        )


class QueueOverflow(FeedError):
    """A consumer whose queue has the policy "error" fell behind."""


class RequestRefused(ValueError):
    """The venue has answered a request with a refusal, in `reason`'s words.

    `retry_after_seconds` is how many seconds to wait, at the least, before it is worth asking again; None: it is not.
    """

    def __init__(self, reason: str, retry_after_seconds: float | None = None) -> None:
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        super().__init__(reason)
