"""Serve HTTP/1.1 and WebSocket on one port, or messages over TCP, and enforce the venue's limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import anyio
import h11
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener
from attrs import evolve
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from .connection import BROKEN, Connection
from .limits import BudgetUsage, Window
from .server_api import Framing, HttpRequest, HttpResponse
from .tcp import TcpConnection
from .websocket import WebSocketConnection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from anyio.abc import AnyByteStream, ByteStream, Listener

    from .hub import Hub
    from .injector import Injector
    from .server_api import VenueServer, VenueSession
    from .subscriber import Subscriber
    from .truth import Truth

__all__ = ["Server"]

_BODY = 1 << 20  # bytes of a request's body that are read


class _QuietTLSListener(TLSListener):
    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: AnyByteStream) -> None:
        """Close a failed TLS handshake without logging: the client gets the error."""
        await anyio.aclose_forcefully(stream)


class Server:
    """All endpoints of a simulated venue on one port."""

    def __init__(
        self,
        venue: VenueServer,
        hub: Hub,
        truth: Truth,
        injector: Injector | None,
        *,
        scale: float,
        enforce: bool,
    ) -> None:
        self.connections: list[Connection] = []
        self.closed = False  #: new connections are refused
        self._venue, self._hub, self._truth, self._injector = venue, hub, truth, injector
        self._scale, self._enforce = scale, enforce
        self._connection_count = 0
        self._dials = Window(venue.dial_rate, scale) if venue.dial_rate else None
        self._budget_usage: dict[str, BudgetUsage] = {}
        self._connection_added = (
            anyio.Event()
        )  # set for a new connection, whose timeouts must be scheduled

    async def listen(
        self, host: str, port: int, tls: ssl.SSLContext | None
    ) -> tuple[Listener[Any], int]:
        """Bind the port (0: any free one); return the listener and its port."""
        tcp = await anyio.create_tcp_listener(local_host=host, local_port=port)
        port = tcp.extra(SocketAttribute.local_port)
        return (_QuietTLSListener(tcp, tls, standard_compatible=False) if tls else tcp), port

    async def handle(self, stream: ByteStream) -> None:
        """Serve one TCP connection until it ends."""
        try:
            if isinstance(self._venue, Framing):
                await self._serve_tcp(stream, self._venue)
            else:
                http = h11.Connection(h11.SERVER)
                while await self._serve_request(stream, http):
                    http.start_next_cycle()
        except (*BROKEN, h11.ProtocolError):
            pass
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

    async def _serve_request(self, stream: ByteStream, http: h11.Connection) -> bool:
        """Serve one request; return whether another may follow."""
        request = await _next(stream, http)
        if not isinstance(request, h11.Request):
            return False
        call = _call(request)
        if "websocket" in call.headers.get("upgrade", "").lower():
            return await self._upgrade(stream, http, request, call)
        body = b""
        while isinstance(part := await _next(stream, http), h11.Data):
            body += part.data
            if len(body) > _BODY:
                return False
        await _reply(stream, http, self._rest(evolve(call, body=body)))
        return http.our_state is h11.DONE and http.their_state is h11.DONE

    # ----------------------------------------------------------------------------------------- REST

    def _rest(self, call: HttpRequest) -> HttpResponse:
        answer = self._rate_limit(call) or self._respond(call)
        self._truth.rest_calls.append((call.path, answer.status))
        return answer

    def _rate_limit(self, call: HttpRequest) -> HttpResponse | None:
        """Charge the request to its budget; return the refusal if the budget is exceeded."""
        cost = self._venue.request_cost(call)
        budget = cost[0] if cost else None
        if self._injector and (
            fault := self._injector.fault_due("rate_limit_rest", detail=call.path)
        ):
            seconds = int(fault.seconds if fault.seconds is not None else 1)
            return self._venue.rate_limit_response(fault.value or 429, seconds, budget)
        if cost is None:
            return None
        usage = self._budget_usage.setdefault(cost[0].name, BudgetUsage(cost[0], self._scale))
        status, seconds = usage.spend(cost[1], anyio.current_time())
        return (
            self._venue.rate_limit_response(status, seconds, budget)
            if status != 200 and self._enforce
            else None
        )

    def _respond(self, call: HttpRequest) -> HttpResponse:
        answer = self._venue.respond(call)
        if self._injector is not None:
            lag = self._injector.snapshot_lag(
                lambda n: self._venue.respond(evolve(call, book_lag=n)) != answer
            )
            answer = self._venue.respond(evolve(call, book_lag=lag)) if lag else answer
        cost = self._venue.request_cost(call)
        if cost and cost[0].header:
            used = str(self._budget_usage[cost[0].name].used)
            answer = evolve(answer, headers={**answer.headers, cost[0].header: used})
        return answer

    # --------------------------------------------------------------------------------- connections

    def _is_dial_refused(self, path: str) -> bool:
        """Count a dial and return whether it exceeds the limit."""
        injected = bool(self._injector and self._injector.fault_due("dial_limit", detail=path))
        over_limit = self._dials is not None and not self._dials.allow(anyio.current_time())
        return injected or (over_limit and self._enforce)

    async def _serve_tcp(self, stream: ByteStream, framing: Framing) -> None:
        """Serve a client that sends the venue's messages over plain TCP."""
        call = HttpRequest(method="", path="")
        if self.closed or self._is_dial_refused(call.path):
            return
        connection = self._connection(TcpConnection, framing, stream)
        session = self._venue.open_connection(call, connection)
        if not isinstance(session, HttpResponse):
            await self._serve(connection, session, call.path)

    def _connection(self, kind: Callable[..., Connection], *args: Any) -> Connection:
        self._connection_count += 1
        *before, stream = args
        return kind(
            *before, self._connection_count, stream, self._hub, self._injector, self._scale,
            enforce=self._enforce,
        )  # fmt: skip

    async def _serve(
        self, connection: Connection, session: VenueSession, path: str, handshake_response: bytes = b"",
        first: bytes = b"",
    ) -> None:  # fmt: skip
        """Send *handshake_response* and run the connection; *first* holds bytes already received."""
        connection.session = session
        opened = self._truth.record_opened(connection.number, path)
        # Added before the client learns of it, since a fault may end it at once.
        self.connections.append(connection)
        self._connection_added.set()
        try:
            if handshake_response:
                await connection.stream.send(handshake_response)
            await connection.run(first, self._truth, opened)
        finally:
            self.connections.remove(connection)

    async def _upgrade(
        self, stream: ByteStream, http: h11.Connection, request: h11.Request, call: HttpRequest
    ) -> bool:
        if self.closed:
            await _reply(stream, http, HttpResponse("", 503))
            return False
        if self._is_dial_refused(call.path):
            wait = self._dials.wait_seconds(anyio.current_time()) if self._dials else 1
            await _reply(stream, http, self._venue.rate_limit_response(429, wait, None))
            return False
        handshake = H11Handshake(ConnectionType.SERVER)
        try:
            handshake.initiate_upgrade_connection(list(request.headers), request.target)
        except RemoteProtocolError as problem:
            await _reply(stream, http, HttpResponse(f"{problem}\n", 400))
            return False
        accepted = handshake.send(AcceptConnection())
        connection = self._connection(WebSocketConnection, stream)
        session = self._venue.open_connection(call, connection)
        if isinstance(session, HttpResponse):
            await _reply(stream, http, session)
            return False
        await self._serve(connection, session, call.path, accepted, http.trailing_data[0])
        return False

    def end_connection(self, follower: Subscriber, how: str) -> None:
        """End a connection: "clean", "abrupt" or after the venue's "shutdown" notice."""
        for connection in self.connections:
            if connection is follower:
                if how == "abrupt":
                    connection.abort("abrupt")
                elif how == "shutdown":
                    connection.announce_shutdown()
                else:
                    connection.close(1000, "")

    async def enforce_timeouts(self) -> None:
        """Enforce the pings, silence timeouts and maximum ages of all connections, for ever."""
        while True:
            now = anyio.current_time()
            check_at = min(
                [
                    now + 1.0,
                    *(connection.enforce_timeouts(now) for connection in list(self.connections)),
                ]
            )
            self._connection_added = anyio.Event()
            with anyio.move_on_after(max(0.002, check_at - anyio.current_time())):
                await self._connection_added.wait()


async def _next(stream: ByteStream, http: h11.Connection) -> object:
    """Return the next event of HTTP/1.1."""
    while (event := http.next_event()) is h11.NEED_DATA:
        try:
            http.receive_data(await stream.receive())
        except anyio.EndOfStream:
            http.receive_data(b"")
    return event


def _call(request: h11.Request) -> HttpRequest:
    target = urlsplit(request.target.decode("latin-1"))
    return HttpRequest(
        method=request.method.decode("latin-1"),
        path=unquote(target.path),
        query=dict(parse_qsl(target.query, keep_blank_values=True)),
        headers={
            name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers
        },
    )


async def _reply(stream: ByteStream, http: h11.Connection, answer: HttpResponse) -> None:
    body = answer.body.encode()
    headers = {"Content-Type": "application/json;charset=UTF-8", **answer.headers}
    headers["Content-Length"] = str(len(body))
    parts = [
        http.send(h11.Response(status_code=answer.status, headers=list(headers.items()))),
        http.send(h11.Data(data=body)),
        http.send(h11.EndOfMessage()),
    ]
    await stream.send(b"".join(part or b"" for part in parts))
