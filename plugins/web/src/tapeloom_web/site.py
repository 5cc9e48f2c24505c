"""The application of the page: one in a process, since the library of the page has one.

It shows the market of the sink that runs now. A sink that is closed and opened again, as after an error, starts
a new server with the same application.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from fastapi import FastAPI
from nicegui import ui
from starlette.routing import Router
from tapeloom_serve import Hub, stream_routes
from tapeloom_serve.access import HEADERS, Access

from .login import Login
from .page import Page
from .settings import Settings
from .shown import NOTHING, Shown

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["SITE", "Site"]

#: Everything comes from the server itself. The page's library makes its templates in the browser, which
#: needs `unsafe-eval`, and has scripts and styles in the page. All that comes from venues is shown as text.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; font-src 'self' data:; connect-src 'self'; manifest-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Site:
    """The page, `/stream` beside it, and who may see them."""

    def __init__(self) -> None:
        self.shown: Shown = NOTHING
        self._in_use = threading.Lock()
        self._app: FastAPI | None = None

    def application(self, shown: Shown, hub: Hub, settings: Settings) -> ASGIApp | None:
        """Return the application for one sink; None if another one of this process has it."""
        if not self._in_use.acquire(blocking=False):
            return None
        self.shown = shown
        if self._app is None:
            self._app = self._made()
        pages, streams, path = self._app, Router(stream_routes(hub, settings)), settings.path

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            is_stream = scope["type"] != "lifespan" and scope["path"] == path
            await (streams if is_stream else pages)(scope, receive, send)

        headers = {**HEADERS, "content-security-policy": _POLICY}
        del headers["connection"]  # a browser loads some thirty files
        return Login(Access(dispatch, settings.token, settings.origins, headers), settings.token)

    def release(self) -> None:
        """Let another sink have the application."""
        self.shown = NOTHING
        self._in_use.release()

    def _made(self) -> FastAPI:
        """Return the application of the page's library."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

        def page(symbol: str = "", interval: str = "1m") -> None:
            Page(self.shown, symbol, interval)

        ui.page("/", title="tapeloom", response_timeout=10)(page)
        ui.run_with(app, title="tapeloom", reconnect_timeout=5, show_welcome_message=False)
        return app


SITE = Site()
