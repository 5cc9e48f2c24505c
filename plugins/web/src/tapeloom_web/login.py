"""Lets a browser in that was given the token once: it keeps a cookie, since it cannot send a header."""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send
    from tapeloom import Secret

__all__ = ["Login"]

_COOKIE = "tapeloom"


class Login:
    """An ASGI application before `Access`: exchanges the token in an address for a cookie.

    The cookie has a hash of the token. A request with it is passed on as one with the token; so the token
    itself stands in no page, and after the first visit in no address.
    """

    def __init__(self, app: ASGIApp, token: Secret | None) -> None:
        self._app = app
        self._token = "" if token is None else token.reveal()
        self._pass = hashlib.sha256(f"tapeloom-web {self._token}".encode()).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a visit with the right token by a redirect; pass anything else on."""
        if not self._token or scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        given = dict(query).get("token")
        is_visit = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        if is_visit and given is not None and self._is_token(given):
            await self._enter([(key, value) for key, value in query if key != "token"], send)
            return
        if self._has_cookie(scope):
            bearer = (b"authorization", f"Bearer {self._token}".encode())
            scope = {**scope, "headers": [*scope["headers"], bearer]}
        await self._app(scope, receive, send)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())

    def _has_cookie(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name.lower() != b"cookie":
                continue
            try:
                cookie = SimpleCookie(value.decode("latin-1")).get(_COOKIE)
            except CookieError:
                continue
            if cookie is not None and hmac.compare_digest(
                cookie.value.encode(), self._pass.encode()
            ):
                return True
        return False

    async def _enter(self, query: list[tuple[str, str]], send: Send) -> None:
        rest = f"/?{urlencode(query)}" if query else "/"
        cookie = f"{_COOKIE}={self._pass}; HttpOnly; SameSite=Strict; Path=/"
        headers = [
            (b"location", rest.encode()),
            (b"set-cookie", cookie.encode()),
            (b"referrer-policy", b"no-referrer"),
            (b"cache-control", b"no-store"),
            (b"content-length", b"0"),
        ]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
