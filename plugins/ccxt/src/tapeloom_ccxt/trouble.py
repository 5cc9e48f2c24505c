"""What ccxt raises, and what to do about it."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from ccxt.base import errors as ccxt  # type: ignore[import-untyped]
from tapeloom.errors import ConnectionFailed, ConnectionLost, FeedError, LoginRefused, Throttled

__all__ = ["Remedy", "failure", "remedy", "throttled"]

#: What helps: log in with other keys · never ask for this again · wait · watch again at once · watch
#: again a few times · open the exchange anew.
Remedy: TypeAlias = Literal["login", "refused", "wait", "again", "retry", "reopen"]

_REMEDIES: tuple[tuple[tuple[type[Exception], ...], Remedy], ...] = (
    ((ccxt.AuthenticationError, ccxt.AccountSuspended), "login"),
    ((ccxt.BadRequest, ccxt.ArgumentsRequired, ccxt.NotSupported), "refused"),
    ((ccxt.RestrictedLocation, ccxt.InvalidProxySettings), "refused"),
    ((ccxt.RateLimitExceeded, ccxt.DDoSProtection, ccxt.OnMaintenance), "wait"),
    # ccxt has thrown the book away, and begins a new one when it is watched again.
    ((ccxt.InvalidNonce, ccxt.UnsubscribeError), "again"),
    ((ccxt.OperationFailed, ccxt.ExchangeClosedByUser), "reopen"),
    ((ccxt.BaseError,), "retry"),
)

#: Where the venue asks for a pause and does not say how long.
_PAUSE = 60.0


def remedy(error: BaseException) -> Remedy:
    """Return what helps against *error*; what is not of ccxt's tree is a defect in ccxt."""
    for classes, what in _REMEDIES:
        if isinstance(error, classes):
            return what
    return "retry"


def throttled(reason: str, headers: Any) -> Throttled:
    """Return the error for a venue that asks for a pause; *headers* are those of its last answer."""
    pause = _PAUSE
    for name, value in dict(headers or {}).items():
        if str(name).lower() == "retry-after" and str(value).isdigit():
            pause = float(value)
    return Throttled("", reason, retry_after=pause)


def failure(feed: str, error: BaseException, reason: str, headers: Any) -> FeedError:
    """Return the error to raise where the exchange of *feed* could not be opened.

    Of those that pass, core tells which feed they are of.
    """
    match remedy(error):
        case "login":
            return LoginRefused(feed, reason)
        case "wait":
            return throttled(reason, headers)
        case "refused":
            failed = ConnectionFailed(feed, f"{reason}. Correct the settings of this exchange.")
            failed.retryable = False
            return failed
        case "reopen":
            return ConnectionFailed("", reason)
    return ConnectionLost("", reason)
