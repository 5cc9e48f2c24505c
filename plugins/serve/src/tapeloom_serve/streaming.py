"""The endpoint `/stream`: by WebSocket, or by server-sent events for a plain GET."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import anyio
from starlette.responses import PlainTextResponse
from tapeloom import Event
from tapeloom.errors import QueueOverflow

from .hub import Client, Hub, text_of
from .messages import Options, Subscribe, control
from .settings import Settings

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["Streaming"]

#: Close codes of RFC 6455 and its registry.
_GOING_AWAY, _POLICY_VIOLATION, _TRY_AGAIN_LATER = 1001, 1008, 1013
#: Seconds after which a silent stream of server-sent events gets a comment, so that a lost one is noticed.
_COMMENT_SECONDS = 15.0
#: Seconds after a message to a client, in which what comes is collected for the next one: the cost of a
#: message hardly depends on how many events it has.
_PAUSE_SECONDS = 0.005
#: How many messages a client may send in `_MESSAGES_SECONDS`.
_MAX_MESSAGES, _MESSAGES_SECONDS = 20, 10.0


class Streaming:
    """An ASGI application: each request is a client of the hub."""

    def __init__(self, hub: Hub, settings: Settings) -> None:
        self._hub = hub
        self._settings = settings
        self._count = 0  # clients so far, for their names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client until it, the stream or the server ends."""
        is_websocket = scope["type"] == "websocket"
        refuse = self._refuse_websocket if is_websocket else self._refuse_http
        if not is_websocket and scope["method"] != "GET":
            await refuse(scope, receive, send, 405, "expected GET")
            return
        if len(self._hub.clients) >= self._settings.max_clients:
            full = f"the server has {self._settings.max_clients} clients, its limit (max_clients)"
            await refuse(scope, receive, send, 503, full)
            return
        try:
            query = scope["query_string"].decode("ascii")
            values = parse_qsl(query, keep_blank_values=True, max_num_fields=1000)
            options = Options.from_query(values, self._settings)
            if options.format == "arrow":
                if not is_websocket:
                    raise ValueError("format: arrow needs a WebSocket")
                from .arrow import prepare

                await prepare()
        except ValueError as error:
            await refuse(scope, receive, send, 400, str(error))
            return
        self._count += 1
        client, states = self._hub.attach(
            None if options.wait else options.selection,
            options.queue,
            f"client {self._count}",
            snapshot=options.snapshot,
        )
        try:
            if is_websocket:
                await WebSocketClient(client, options, states, receive, send).run()
            else:
                await _send_events(client, states, receive, send)
        finally:
            client.close()

    @staticmethod
    async def _refuse_websocket(
        scope: Scope, receive: Receive, send: Send, status: int, text: str
    ) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": f"{text}\n".encode()})

    @staticmethod
    async def _refuse_http(
        scope: Scope, receive: Receive, send: Send, status: int, text: str
    ) -> None:
        await PlainTextResponse(f"{text}\n", status)(scope, receive, send)


class WebSocketClient:
    """One client on a WebSocket: sends what its queue has, and reads its messages."""

    def __init__(
        self, client: Client, options: Options, states: list[Event], receive: Receive, send: Send
    ) -> None:
        self._client = client
        self._options = options
        self._states = states
        self._receive = receive
        self._send = send
        # Held while several messages are sent that belong together, such as a reply and its states.
        self._sending = anyio.Lock(fast_acquire=True)
        self._encode: Callable[[list[list[Event]]], list[dict[str, Any]]] = _as_text
        if options.format == "arrow":
            from .arrow import messages

            self._encode, client.wants_text = messages, False

    async def run(self) -> None:
        """Serve the client until it, the stream or the server ends."""
        await self._receive()  # the request to connect
        await self._send({"type": "websocket.accept"})
        try:
            if not self._options.wait:
                await self._send_reply(None, self._states)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_messages, tasks.cancel_scope)
                await self._send_batches()
                tasks.cancel_scope.cancel()
        except* OSError:
            pass  # the client has gone

    async def _send_batches(self) -> None:
        code, reason = _GOING_AWAY, "the stream has ended"
        try:
            while batches := await self._client.get():
                async with self._sending:
                    for message in self._encode(batches):
                        await self._send(message)
                await anyio.sleep(_PAUSE_SECONDS)
        except QueueOverflow as error:
            code, reason = _TRY_AGAIN_LATER, str(error)[:120]
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _read_messages(self, scope: anyio.CancelScope) -> None:
        """Obey the client's messages; cancel *scope* when it has gone or has broken the rules."""
        times: deque[float] = deque(maxlen=_MAX_MESSAGES)
        while (message := await self._receive())["type"] == "websocket.receive":
            now = anyio.current_time()
            if len(times) == _MAX_MESSAGES and now - times[0] < _MESSAGES_SECONDS:
                await self._close(
                    f"more than {_MAX_MESSAGES} messages in {_MESSAGES_SECONDS:.0f} s"
                )
                break
            times.append(now)
            try:
                subscribe = Subscribe.from_text(message.get("text") or message.get("bytes") or b"")
            except ValueError as error:
                await self._send_text(control("error", error=str(error)))
                continue
            async with self._sending:
                states = self._client.select(subscribe.selection, snapshot=subscribe.snapshot)
                await self._send_reply(subscribe.id, states)
        scope.cancel()

    async def _send_reply(self, id: int | str | None, states: list[Event]) -> None:
        """Say what the client receives from now on, and send the latest states of it."""
        selection = self._client.selection.to_message()
        await self._send_text(control("subscribed", id=id, snapshot=len(states), **selection))
        for message in self._encode([states]) if states else ():
            await self._send(message)

    async def _send_text(self, text: str) -> None:
        await self._send({"type": "websocket.send", "text": text})

    async def _close(self, reason: str) -> None:
        await self._send(
            {"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": reason[:120]}
        )


def _as_text(batches: list[list[Event]]) -> list[dict[str, Any]]:
    """Return one message with all events of some batches."""
    return [{"type": "websocket.send", "text": "\n".join(map(text_of, batches))}]


async def _send_events(client: Client, states: list[Event], receive: Receive, send: Send) -> None:
    """Send server-sent events until the client has gone or the stream has ended."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(text: str) -> None:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def write_all() -> None:
        await write(_server_sent(text_of(states)) if states else ":\n\n")
        while True:
            with anyio.move_on_after(_COMMENT_SECONDS) as silent:
                batches = await client.get()
            if silent.cancelled_caught:
                await write(":\n\n")
            elif not batches:
                break
            else:
                await write("".join(_server_sent(text_of(batch)) for batch in batches))
                await anyio.sleep(_PAUSE_SECONDS)

    async def watch(scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, tasks.cancel_scope)
            try:
                await write_all()
            except QueueOverflow as error:
                await write(f"event: error\ndata: {control('error', error=str(error))}\n\n")
            await send({"type": "http.response.body", "body": b""})
            tasks.cancel_scope.cancel()
    except* OSError:
        pass  # the client has gone


def _server_sent(text: str) -> str:
    """Return lines as one message of server-sent events."""
    return "data: " + text.replace("\n", "\ndata: ") + "\n\n"
