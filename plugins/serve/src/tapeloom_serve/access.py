"""Who may use the server: a token, the names and origins that browsers send, and strict headers."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tapeloom import Secret

from .settings import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADERS", "Access"]

#: Headers of every answer, unless the application sets them itself: a browser runs nothing of it, shows it
#: in no frame, guesses no type, stores nothing and tells no other site where it has been.
HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    # Each connection serves one request, so that an idle one is known to be abandoned.
    "connection": "close",
}


class Access:
    """An ASGI application that lets only permitted requests through to another one.

    A request without the token gets the status 401 and nothing else, whatever its path. Without a token
    the server is for this machine only: the name in `Host` must be one of it, so that no web page reaches
    the server by a name of its own (DNS rebinding). A request of a web page from another origin gets 403.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: Secret | None,
        origins: Iterable[str] = (),
        headers: Mapping[str, str] = HEADERS,
    ) -> None:
        self._app = app
        self._token = None if token is None else token.reveal().encode()
        self._origins = frozenset(origins)
        self._headers = [(key.encode(), value.encode()) for key, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        status = self._refusal(scope)
        if status:
            await self._refuse(scope, send, status)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                own = {name.lower() for name, _ in message.get("headers", ())}
                extra = [header for header in self._headers if header[0] not in own]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> int:
        """Return the status with which a request is refused; 0 if it is permitted."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._token is not None:
            if not any(
                hmac.compare_digest(given, self._token) for given in _tokens(scope, headers)
            ):
                return 401
        elif not is_loopback(_name(host)):
            return 403
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        is_own = not origin or origin in self._origins or urlsplit(origin).netloc == host
        return 0 if is_own else 403

    async def _refuse(self, scope: Scope, send: Send, status: int) -> None:
        prefix = "websocket.http" if scope["type"] == "websocket" else "http"
        extra = [(b"www-authenticate", b"Bearer")] if status == 401 else []
        headers = [*self._headers, *extra, (b"content-length", b"0")]
        await send({"type": f"{prefix}.response.start", "status": status, "headers": headers})
        await send({"type": f"{prefix}.response.body", "body": b""})


def _tokens(scope: Scope, headers: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the tokens that a request has: that of its header, or those of its query.

    Scripts of web pages can set no header of a WebSocket.
    """
    kind, _, value = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"bearer":
        return [value.strip()]
    query: Any = parse_qs(scope.get("query_string", b""), max_num_fields=1000)
    return list(query.get(b"token", ()))


def _name(host: str) -> str:
    """Return the name in a `Host` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
