"""What ccxt raises, and what to do about it."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from ccxt.base import errors as ccxt  # type: ignore[import-untyped]
from tapeloom.errors import ConnectionFailed, ConnectionLost, FeedError, LoginRefused, Throttled
from tapeloom.units import retry_after

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


def throttled(reason: str, headers: Any, now: int) -> Throttled:
    """Return the error for a venue that asks for a pause; *headers* are those of its last answer."""
    pause = retry_after(dict(headers or {}), now)
    return Throttled("", reason, retry_after_seconds=_PAUSE if pause is None else pause)


def failure(feed: str, error: BaseException, reason: str, headers: Any, now: int) -> FeedError:
    """Return the error to raise where the exchange of *feed* could not be opened.

    Of those that pass, core tells which feed they are of.
    """
    match remedy(error):
        case "login":
            return LoginRefused(feed, reason)
        case "wait":
            return throttled(reason, headers, now)
        case "refused":
            failed = ConnectionFailed(feed, f"{reason}. Correct the settings of this exchange.")
            failed.retryable = False
            return failed
        case "reopen":
            return ConnectionFailed("", reason)
    return ConnectionLost("", reason)
