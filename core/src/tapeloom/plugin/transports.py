"""What all transports share: limits and timeouts, certificates, proxies, and error messages.

Core's own transport and those of plugins use it, so that a user gets the same timeouts, certificates and
error messages with either.
"""

from __future__ import annotations

import http
import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from tapeloom.errors import (
    MAX_PAUSE_SECONDS,
    ConnectionFailed,
    FeedError,
    RequestRefused,
    Throttled,
    masked,
)
from tapeloom.units import retry_after

from .feeds import Network

__all__ = [
    "CLOSE_TIMEOUT_SECONDS", "CONNECT_TIMEOUT_SECONDS", "MAX_MESSAGE_BYTES",
    "MAX_REFUSAL_BYTES", "USER_AGENT", "bad_handshake", "check_headers", "dial_error", "handshake_refused", "invalid_address",
    "is_rate_limited", "plain_text", "proxy_for", "proxy_refused", "ssl_context", "throttled",
]  # fmt: skip

#: The largest message that is accepted, in bytes; a larger one ends the connection. Venues send less than 1 MB.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
#: How much of the body of an answer that refuses a handshake is read, in bytes.
MAX_REFUSAL_BYTES = 4096
#: The most characters of a body that a message shows.
_SHOWN_CHARACTERS = 300
#: Seconds to open a connection, and again for the answer to its handshake: enough for slow TLS and proxies.
CONNECT_TIMEOUT_SECONDS = 10.0
#: Seconds that closing a connection may take, so that a peer that does not read cannot block us.
CLOSE_TIMEOUT_SECONDS = 2.0
#: HTTP statuses with which venues report that a rate limit is exceeded.
_RATE_LIMITED = frozenset({403, 418, 429})
#: HTTP statuses that a wrong address or key causes.
_MISTAKES = frozenset({400, 401, 404})
#: The HTTP status with which a proxy requires a login.
_PROXY_LOGIN = 407
#: What to do about an untrusted certificate, by OpenSSL's verify code: 9 and 10 are its dates, 62 and 64 its host.
_RENEW = "Check the clock of this machine. If it is right, the venue has to renew its certificate."
_REMEDIES = {9: _RENEW, 10: _RENEW} | dict.fromkeys(
    (62, 64), "It is the certificate of another host: check the address, and the proxy."
)
#: The header `user-agent`, unless an endpoint sets one.
USER_AGENT = "tapeloom"
#: The text of a refused connection; an event loop that tried several addresses has a text of its own.
_REFUSED = re.compile(r"refused|attempts .*failed", re.IGNORECASE)
#: What of an HTML page is not its text. A part that was cut off reaches to the end.
_MARKUP = re.compile(
    r"<(head|script|style)\b.*?(</\1>|\Z)|<!--.*?(-->|\Z)|<[^<>]*>", re.IGNORECASE | re.DOTALL
)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?![ \t])[\t\x20-\x7e\x80-\xff]*(?<![ \t])")


def ssl_context(network: Network) -> ssl.SSLContext:
    """Return the TLS context with the trusted certificates. Raises OSError if the file `ca` cannot be read."""
    if network.ca:
        if os.path.exists(network.ca) and not os.path.isfile(network.ca):  # noqa: PTH110, PTH113
            raise OSError("it is not a regular file")
        return ssl.create_default_context(cafile=network.ca)
    return httpx.create_ssl_context()


def proxy_for(network: Network, url: str) -> str | None:
    """Return the proxy for *url* from the stack, or else from the environment; None if there is none."""
    if network.proxy is not None:
        return network.proxy
    parts = urlsplit(url)
    known = urllib.request.getproxies()
    proxy = known.get("https" if parts.scheme == "wss" else "http") or known.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def check_headers(feed: str, url: str, headers: Mapping[str, str]) -> None:
    """Raise ConnectionFailed for an invalid header; the message omits its value, which may be a key."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise _permanent(
                feed,
                f"the header {name!r} for {_host(url)} cannot be sent: its name or value has"
                " characters that are not allowed in a header. Check for a line break at the end of a key.",
            )


def invalid_address(feed: str, url: str, error: Exception, scheme: str = "ws") -> ConnectionFailed:
    """Return the error for an address that cannot be dialled with *scheme*, ws or http."""
    # The error may quote a part of the password, if that was taken for the port.
    reason = error if masked(url) == url else "characters of a password must be percent-encoded"
    return _permanent(
        feed,
        f"expected an address that begins with {scheme}:// or {scheme}s://, got {url!r}: {reason}."
        " Correct it.",
    )


def bad_handshake(
    feed: str, url: str, error: Exception, *, compressed: bool = False
) -> ConnectionFailed:
    """Return the error for an invalid answer to the WebSocket handshake."""
    return _permanent(
        feed,
        f"{url} sent an invalid answer to the WebSocket handshake: {error}."
        + (" Try it without compression under [network]." if compressed else ""),
    )


def handshake_refused(
    feed: str,
    url: str,
    status: int,
    headers: Mapping[str, str],
    now: int,
    body: bytes = b"",
    rule: str | RequestRefused = "",
) -> FeedError:
    """Return the error for a WebSocket handshake that was answered with the HTTP *status*.

    *now* is our time, in ns; it is compared with a `Retry-After` that is a date. *rule* is what
    `History.refusal_reason` returns for the answer; core sets it.
    """
    if status == _PROXY_LOGIN:
        return proxy_refused(feed, url, f"{status} {http.HTTPStatus(status).phrase}")
    by_venue = rule if isinstance(rule, RequestRefused) else RequestRefused(rule)
    reason, pause = by_venue.reason or plain_text(body), by_venue.retry_after_seconds
    error: FeedError
    if pause is not None or (by_venue is not rule and is_rate_limited(status, headers)):
        error = throttled(feed, url, status, headers, now, reason, pause)
    else:
        error = ConnectionFailed(
            feed,
            f"{url} answered the WebSocket handshake with HTTP {status}"
            f"{': ' + reason.rstrip('.') if reason else ''}."
            + (" Check the address and, if there is one, the key." if status in _MISTAKES else ""),
        )
        error.retryable = status >= 500 and by_venue is not rule
    error.http_answer = status, headers, body
    return error


def plain_text(body: bytes) -> str:
    """Return the text of an HTTP body for a message: one short line without markup."""
    import html  # its table of names takes a megabyte in every other process

    text = html.unescape(_MARKUP.sub(" ", body[:MAX_REFUSAL_BYTES].decode(errors="replace")))
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…"


def proxy_refused(feed: str, url: str, reply: str) -> ConnectionFailed:
    """Return the error for a proxy that answered instead of *url*; *reply* is its status and reason."""
    host = _host(url)
    status = int(match[0]) if (match := re.match(r"\d{3}\b", reply)) else 0
    if status == _PROXY_LOGIN:
        text = (
            f"the proxy requires a login for {host} ({reply}). Set its address"
            ' with name and password as a secret: proxy = { env = "PROXY" } under [network].'
        )
    elif status >= 500 or not status:
        text = f"the proxy cannot reach {host} ({reply}). Check the address and the proxy."
    else:
        text = (
            f"the proxy does not allow connections to {host} ({reply})."
            " Check its rules, and proxy under [network]."
        )
    failed = ConnectionFailed(feed, text)
    failed.retryable = not 400 <= status < 500 or status in (408, 425, 429)
    return failed


def is_rate_limited(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether an HTTP answer reports an exceeded rate limit, or another reason to wait."""
    names = {name.lower() for name in headers}
    return status in _RATE_LIMITED or (status >= 500 and "retry-after" in names)


def throttled(
    feed: str,
    url: str,
    status: int,
    headers: Mapping[str, str],
    now: int,
    reason: str = "",
    pause: float | None = None,
) -> Throttled:
    """Return the error for an answer that reports an exceeded rate limit.

    *reason* is the venue's text, *pause* the least pause in seconds by the venue's rule.
    """
    asked = retry_after(headers, now)
    seconds = max((time for time in (asked, pause) if time is not None), default=None)
    told = seconds is not None and seconds <= MAX_PAUSE_SECONDS
    length = f" for {seconds:g} s" if told else ""
    # A 403 may have another reason than a rate limit; the venue's text has it.
    remedy = " To avoid it, make fewer connections and requests from this address."
    return Throttled(
        feed,
        f"{_host(url)} asks for a pause{length}: HTTP {status}"
        f"{', ' + reason.rstrip('.') if reason else ''}."
        + (remedy if status != 403 or not reason else ""),
        status,
        seconds,
    )


def dial_error(feed: str, url: str, error: Exception) -> ConnectionFailed:
    """Return the error for an *error* while dialling *url*, with what it means and what to do about it."""
    host = _host(url)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError | OSError):
        cause = cause.__cause__ or cause.__context__
    text = str(cause or error) or type(error).__name__
    permanent = False
    if isinstance(cause, ssl.SSLCertVerificationError):
        permanent = True
        text = (
            f"the certificate of {host} is not trusted ({cause.verify_message}). "
            + _REMEDIES.get(
                cause.verify_code,
                'For a private certificate authority set ca = "file.pem" under [network].',
            )
        )
    elif isinstance(error, httpx.ProxyError):
        return proxy_refused(feed, url, text)
    elif isinstance(cause, ssl.SSLError):
        text = f"TLS with {host} failed: {text}. Check that this is a TLS port."
    elif isinstance(cause, socket.gaierror):
        text = (
            f"the name of {host} could not be resolved ({text}). Check the address and the network."
        )
    elif isinstance(cause, ConnectionRefusedError) or _REFUSED.search(text):
        text = (
            f"{host} refused the connection. Check the address, the venue's status page,"
            " and that the proxy runs, if there is one."
        )
    elif isinstance(error, httpx.TimeoutException | TimeoutError):
        text = (
            f"{host} did not answer in time. Check the network, the proxy and the venue's status."
        )
    else:
        text = f"could not connect to {host}: {text}"
    if permanent:
        return _permanent(feed, text)
    return ConnectionFailed(feed, text)


def _host(url: str) -> str:
    """Return host and port of *url*."""
    return urlsplit(masked(url)).netloc.rpartition("@")[2]


def _permanent(feed: str, text: str) -> ConnectionFailed:
    failed = ConnectionFailed(feed, text)
    failed.retryable = False
    return failed
