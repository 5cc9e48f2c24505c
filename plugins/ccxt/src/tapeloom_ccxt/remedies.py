"""The errors that ccxt raises, and what the source does about each."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from ccxt.base import errors as ccxt  # type: ignore[import-untyped]
from tapeloom.errors import ConnectionFailed, ConnectionLost, FeedError, LoginRefused, Throttled
from tapeloom.units import retry_after

__all__ = ["Remedy", "failure", "remedy", "throttled"]

#: "login": end, the keys are refused · "refused": never watch this topic again · "wait": reopen the
#: exchange after a pause · "rewatch": watch again at once · "retry": watch again a few times ·
#: "reopen": open the exchange anew.
Remedy: TypeAlias = Literal["login", "refused", "wait", "rewatch", "retry", "reopen"]

#: The pause in seconds if the venue asks for one without its length.
_PAUSE_SECONDS = 60.0
#: The remedy by the class of an error; the first match counts.
_REMEDIES: tuple[tuple[tuple[type[Exception], ...], Remedy], ...] = (
    ((ccxt.AuthenticationError, ccxt.AccountSuspended), "login"),
    ((ccxt.BadRequest, ccxt.ArgumentsRequired, ccxt.NotSupported), "refused"),
    ((ccxt.RestrictedLocation, ccxt.InvalidProxySettings), "refused"),
    ((ccxt.RateLimitExceeded, ccxt.DDoSProtection, ccxt.OnMaintenance), "wait"),
    # ccxt has removed the book, and starts a new one when it is watched again.
    ((ccxt.InvalidNonce, ccxt.UnsubscribeError), "rewatch"),
    ((ccxt.OperationFailed, ccxt.ExchangeClosedByUser), "reopen"),
    ((ccxt.BaseError,), "retry"),
)


def remedy(error: BaseException) -> Remedy:
    """Return the remedy for *error*. An error of no class of ccxt's is a defect in ccxt: "retry"."""
    for classes, remedy in _REMEDIES:
        if isinstance(error, classes):
            return remedy
    return "retry"


def throttled(reason: str, headers: Any, now: int) -> Throttled:
    """Return the error for a rate limit; *headers* are those of the venue's last answer."""
    seconds = retry_after(dict(headers or {}), now)
    pause = _PAUSE_SECONDS if seconds is None else seconds
    return Throttled("", reason, retry_after_seconds=pause)


def failure(feed: str, error: BaseException, reason: str, headers: Any, now: int) -> FeedError:
    """Return the error to raise if the exchange of *feed* could not be opened.

    Core adds the name of the feed to retryable errors.
    """
    match remedy(error):
        case "login":
            return LoginRefused(feed, reason)
        case "wait":
            return throttled(reason, headers, now)
        case "refused":
            refused = ConnectionFailed(feed, f"{reason}. Correct the settings of this exchange.")
            refused.retryable = False
            return refused
        case "reopen":
            return ConnectionFailed("", reason)
    return ConnectionLost("", reason)
