"""The ASGI application: `/stream` and what else is served of one hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from . import udf
from .access import Access
from .hub import Hub
from .selection import Selection
from .settings import Settings
from .streaming import Streaming
from .window import Window

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["application", "routes", "stream_routes"]

#: The media type of an Arrow IPC stream.
_ARROW = "application/vnd.apache.arrow.stream"


def stream_routes(hub: Hub, settings: Settings) -> list[BaseRoute]:
    """Return the routes of the stream alone. They let everybody in: wrap the application in `Access`."""
    streaming = Streaming(hub, settings)
    return [WebSocketRoute(settings.path, streaming), Route(settings.path, streaming)]


def routes(hub: Hub, settings: Settings) -> list[BaseRoute]:
    """Return all routes of a hub, for an application that has others besides.

    They let everybody in: wrap the application in `Access`.
    """
    window = Window(settings.window)
    hub.observers.append(window.add)

    async def trades(request: Request) -> Response:
        from .arrow import prepare, to_table  # pyarrow takes time and memory

        try:
            await prepare()
            selection = Selection.from_query(request.query_params.multi_items())
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", 400)
        body, refused = to_table(window.trades(selection))
        return Response(body, media_type=_ARROW, headers={"tapeloom-refused": str(refused)})

    return [*stream_routes(hub, settings), Route("/trades.arrow", trades), *udf.routes(window)]


def application(hub: Hub, settings: Settings, extra: Sequence[BaseRoute] = ()) -> ASGIApp:
    """Return the application that serves a hub, with access control. *extra* are more routes."""
    app = Starlette(routes=[*routes(hub, settings), *extra])
    return Access(app, settings.token, settings.origins)
