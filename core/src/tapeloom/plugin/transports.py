"""What every way to dial has in common: limits, trust, proxies, and the words for what goes wrong.

Core's own transport and those of plugins are one to a user: the same deadlines, the same certificates,
and the same error with the same remedy, whichever of them dials.
"""

from __future__ import annotations

import http
import re
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from tapeloom.errors import ConnectionFailed, FeedError, Throttled
from tapeloom.units import retry_after

from .feeds import Network

__all__ = [
    "AGENT", "CLOSE_WITHIN", "CONNECT_WITHIN", "MESSAGE_LIMIT", "asks_for_pause",
    "check_headers", "explain", "misunderstood", "proxy_for", "refused", "stopped", "throttled",
    "trust", "unusable",
]  # fmt: skip

#: The largest message that is read, in bytes; a larger one ends the connection.
MESSAGE_LIMIT = 16 * 1024 * 1024
#: Seconds for a connection to come about, and again for its handshake to be answered.
CONNECT_WITHIN = 10.0
#: Seconds that leaving a connection may take: a peer that reads no more must not hold us up.
CLOSE_WITHIN = 2.0
#: HTTP statuses with which venues ask for a pause; and a proxy for a login.
_THROTTLING, _PROXY_LOGIN = frozenset({403, 418, 429}), 407
#: What to do about a certificate, by OpenSSL's reason not to trust it; else: see who has signed it.
_RENEW = "Is the clock of this machine right? If it is, the venue has to renew its certificate."
_REMEDIES = {9: _RENEW, 10: _RENEW} | dict.fromkeys(
    (62, 64), "It is the certificate of another host: check the address, and the proxy."
)
#: The header `user-agent`, where an endpoint sets none.
AGENT = "tapeloom"
#: Event loops that try several addresses of a host say it in words of their own.
_REFUSED = re.compile(r"refused|attempts .*failed", re.IGNORECASE)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?![ \t])[\t\x20-\x7e\x80-\xff]*(?<![ \t])")


def trust(network: Network) -> ssl.SSLContext:
    """Return the certificates to trust. Raises OSError where the file of `ca` cannot be read."""
    if network.ca:
        return ssl.create_default_context(cafile=network.ca)
    return httpx.create_ssl_context()


def proxy_for(network: Network, url: str) -> str | None:
    """Return the proxy for *url*: the stack's, or else the environment's; None where there is none."""
    if network.proxy is not None:
        return network.proxy
    parts = urlsplit(url)
    known = urllib.request.getproxies()
    proxy = known.get("https" if parts.scheme == "wss" else "http") or known.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def check_headers(feed: str, url: str, headers: Mapping[str, str]) -> None:
    """Raise ConnectionFailed for a header that cannot be sent; its value, a key perhaps, is not told."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise _permanent(
                feed,
                f"the header {name!r} for {urlsplit(url).netloc} cannot be sent: its name or value has"
                " characters that no header may have. Is there a line break at the end of a key?",
            )


def unusable(feed: str, url: str, error: Exception) -> ConnectionFailed:
    """Return the error for an address that is none."""
    return _permanent(
        feed,
        f"{url!r} is no address to dial: {error}. Expected one that begins with ws:// or wss://.",
    )


def misunderstood(
    feed: str, url: str, error: Exception, *, compressed: bool = False
) -> ConnectionFailed:
    """Return the error for a handshake that was answered against its rules."""
    return _permanent(
        feed,
        f"{url} broke the rules of the WebSocket handshake: {error}."
        + (" Try it without compression under [network]." if compressed else ""),
    )


def refused(feed: str, url: str, status: int, headers: Mapping[str, str], now: int) -> FeedError:
    """Return the error for a WebSocket handshake that was answered with the HTTP *status*.

    *now* is our time, in ns, against which a pause that is given as a date may be measured.
    """
    if asks_for_pause(status, headers):
        return throttled(feed, url, status, headers, now)
    if status == _PROXY_LOGIN:
        return stopped(feed, url, f"{status} {http.HTTPStatus(status).phrase}")
    failed = ConnectionFailed(
        feed,
        f"{url} answered the WebSocket handshake with HTTP {status}."
        + (" Check the address and, where there is one, the key." if status < 500 else ""),
    )
    failed.retryable = status >= 500
    return failed


def stopped(feed: str, url: str, words: str) -> ConnectionFailed:
    """Return the error for a proxy that has answered in place of *url*, with a status and *words*."""
    host = urlsplit(url).netloc
    status = int(found[0]) if (found := re.match(r"\d{3}\b", words)) else 0
    if status == _PROXY_LOGIN:
        text = (
            f"the proxy wants a login before it lets us through to {host} ({words}). Give its"
            ' address with name and password, as a secret: proxy = { env = "PROXY" } under [network].'
        )
    elif status >= 500 or not status:
        text = f"the proxy cannot reach {host} ({words}). Check the address and the proxy."
    else:
        text = (
            f"the proxy does not let us through to {host} ({words})."
            " Check its rules, and proxy under [network]."
        )
    failed = ConnectionFailed(feed, text)
    failed.retryable = not 400 <= status < 500 or status in (408, 425, 429)
    return failed


def asks_for_pause(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether an answer asks us to come back later, and not at once."""
    named = {name.lower() for name in headers}
    return status in _THROTTLING or (status >= 500 and "retry-after" in named)


def throttled(
    feed: str, url: str, status: int, headers: Mapping[str, str], now: int, words: str = ""
) -> Throttled:
    """Return the error for an answer that asks for a pause; *words* are the venue's own."""
    seconds = retry_after(headers, now)
    pause = f" for {seconds:g} s" if seconds is not None else ""
    return Throttled(
        feed,
        f"{urlsplit(url).netloc} asks for a pause{pause}: HTTP {status}"
        f"{', ' + words if words else ''}."
        " Fewer connections and requests from this address keep it from happening.",
        status,
        seconds,
    )


def explain(feed: str, url: str, error: Exception) -> ConnectionFailed:
    """Return what *error*, met while dialling *url*, means and what to do about it."""
    host = urlsplit(url).netloc
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
        return stopped(feed, url, text)
    elif isinstance(cause, ssl.SSLError):
        text = f"TLS with {host} failed: {text}. Is this a TLS port?"
    elif isinstance(cause, socket.gaierror):
        text = (
            f"the name of {host} could not be resolved ({text}). Check the address and the network."
        )
    elif isinstance(cause, ConnectionRefusedError) or _REFUSED.search(text):
        text = (
            f"{host} refused the connection. Is the address right, does the venue say that it is up,"
            " and does the proxy run, where there is one?"
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


def _permanent(feed: str, text: str) -> ConnectionFailed:
    failed = ConnectionFailed(feed, text)
    failed.retryable = False
    return failed
