"""A TCP proxy before a server, which loses answers and connections when told."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from attrs import define, field

from .service import HOST, ServiceFailed, free_port
from .wire import Dialogue, RawDialogue

__all__ = ["TcpProxy"]

#: How many bytes are read at once, and how many may wait for a side that does not read.
READ_BYTES, BUFFER_BYTES = 65_536, 1_048_576
#: How long the server may take to accept a connection, and a method to take effect.
CONNECT_SECONDS, CALL_SECONDS = 5.0, 10.0
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@define(eq=False)
class _Connection:
    """Two sockets, and the bytes that wait for each of them."""

    client: socket.socket
    server: socket.socket
    dialogue: Dialogue
    to_client: bytearray = field(factory=bytearray)
    to_server: bytearray = field(factory=bytearray)
    awaited: Hashable = None  #: the key of the request whose answer is lost
    ended: bool = False  #: a side has closed; what was read of it is still sent

    def waiting_for(self, receiver: socket.socket) -> bytearray:
        """Return the bytes that were read of the other side."""
        return self.to_client if receiver is self.client else self.to_server

    def other(self, side: socket.socket) -> socket.socket:
        """Return the other side's socket."""
        return self.server if side is self.client else self.client


@define
class _Rule:
    """Which answers are lost."""

    matches: Callable[[bytes], bool]
    nth: int
    every: bool
    matched: int = 0

    def applies(self, request: bytes) -> bool:
        """Count the request if it matches, and return whether its answer is to be lost."""
        if not self.matches(request):
            return False
        self.matched += 1
        return self.matched == self.nth or (self.every and self.matched > self.nth)


class TcpProxy:
    """A context manager that listens on a free loopback port and forwards to a server.

    *dialogue* is the protocol, one of `tapeloom_testing.services.wire`; without it
    `drop_answers_after` cannot tell requests apart. Everything runs in a thread of its own;
    when a method returns, it has taken effect.
    """

    host = HOST

    def __init__(
        self, host: str, port: int, dialogue: Callable[[], Dialogue] = RawDialogue
    ) -> None:
        self.port = 0  #: where the proxy listens; 0 until the context is entered
        self.connections = 0  #: how many connections were accepted
        self.matched = 0  #: how many requests matched the last rule
        self.eaten = 0  #: how many answers the server gave and the client did not get
        self._target = host, port
        self._dialogue = dialogue
        self._rule: _Rule | None = None
        self._listener: socket.socket | None = None
        self._open: set[_Connection] = set()
        self._orders: SimpleQueue[tuple[Callable[[], None], Future[None]]] = SimpleQueue()
        self._running = self._stalled = False
        self._failure: Exception | None = None

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    def __enter__(self) -> Self:
        self.port = free_port()
        self._selector, self._orders_only = selectors.DefaultSelector(), selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        for selector in (self._selector, self._orders_only):
            selector.register(self._woken, READ, self._obey)
        self._listen()
        self._running = True
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not `_call`: a thread that has failed answers no order, and what is open must be closed still.
        self._orders.put((self._finish, Future()))
        self._waker.send(b"!")
        self._thread.join()
        for resource in (self._selector, self._orders_only, self._waker, self._woken):
            resource.close()
        self._raise_failure()

    def drop_answers_after(
        self, request: Callable[[bytes], bool] | bytes, *, nth: int = 1, every: bool = False
    ) -> None:
        """Lose the answer to a request: forward it, read the server's answer, and close both sides.

        *request* tells whether a request matches, or is a part of its bytes. The answer to the *nth*
        match from now on is lost, over all connections; with *every*, also those to all later ones.
        Answers to earlier requests that are still under way on that connection are lost with it. This
        replaces an earlier rule.
        """
        pattern = request
        matches = pattern if callable(pattern) else lambda data: pattern in data
        self._call(lambda: self._set_rule(_Rule(matches, nth, every)))

    def refuse(self) -> None:
        """Refuse new connections, as if no server listened; open ones go on."""
        self._call(self._refuse)

    def cut(self) -> None:
        """Close all open connections; what was not yet forwarded is lost."""
        self._call(self._cut)

    def stall(self) -> None:
        """Forward nothing; connections stay open, and new ones are neither refused nor served."""
        self._call(lambda: self._set_stalled(True))

    def heal(self) -> None:
        """End what `drop_answers_after`, `refuse` and `stall` have set."""
        self._call(self._heal)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise ServiceFailed(
                "the proxy ended; expected bytes of the protocol that it was given"
            ) from self._failure

    def _call(self, order: Callable[[], None]) -> None:
        """Run a function in the proxy's thread, and wait for it."""
        self._raise_failure()
        done: Future[None] = Future()
        self._orders.put((order, done))
        self._waker.send(b"!")
        done.result(CALL_SECONDS)

    # What follows runs in the proxy's thread.

    def _run(self) -> None:
        try:
            while self._running:
                selector = self._orders_only if self._stalled else self._selector
                for key, events in selector.select():
                    key.data(events)
        except Exception as error:
            self._failure = error
            self._finish()

    def _obey(self, _: int) -> None:
        self._woken.recv(READ_BYTES)
        while not self._orders.empty():
            order, done = self._orders.get()
            try:
                order()
            except BaseException as error:  # it is raised where the order was given
                done.set_exception(error)
            else:
                done.set_result(None)

    def _set_rule(self, rule: _Rule | None) -> None:
        self._rule = rule
        self.matched = 0

    def _set_stalled(self, stalled: bool) -> None:
        self._stalled = stalled

    def _refuse(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _cut(self) -> None:
        for connection in list(self._open):
            self._close(connection)

    def _heal(self) -> None:
        self._set_rule(None)
        self._set_stalled(False)
        self._listen()

    def _finish(self) -> None:
        self._refuse()
        self._cut()
        self._running = False

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((self.host, self.port))
            self._selector.register(self._listener, READ, self._accept)

    def _accept(self, _: int) -> None:
        assert self._listener is not None
        client, _address = self._listener.accept()
        self.connections += 1
        try:
            server = socket.create_connection(self._target, CONNECT_SECONDS)
        except OSError:
            client.close()
            return
        connection = _Connection(client, server, self._dialogue())
        self._open.add(connection)
        for side in (client, server):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch(connection)

    def _watch(self, connection: _Connection) -> None:
        """Wait for what each side can do next: be read if the other keeps up, be written to."""
        for side in (connection.client, connection.server):
            unsent = len(connection.waiting_for(connection.other(side)))
            events = READ if unsent < BUFFER_BYTES and not connection.ended else 0
            events |= WRITE if connection.waiting_for(side) else 0
            registered = side in self._selector.get_map()
            if not events:
                if registered:
                    self._selector.unregister(side)
                continue
            change = self._selector.modify if registered else self._selector.register
            change(side, events, self._handler(connection, side))

    def _handler(self, connection: _Connection, side: socket.socket) -> Callable[[int], None]:
        def handle(events: int) -> None:
            if connection not in self._open:
                return  # closed by an earlier event of the same round
            try:
                if events & READ:
                    self._read(connection, side)
                if events & WRITE and connection in self._open:
                    waiting = connection.waiting_for(side)
                    del waiting[: side.send(waiting)]
            except BlockingIOError:
                pass
            except OSError:
                self._close(connection)
            self._settle(connection)

        return handle

    def _settle(self, connection: _Connection) -> None:
        """Close a connection that has ended and has nothing left to send; wait for others."""
        if connection not in self._open:
            return
        if connection.ended and not connection.to_client and not connection.to_server:
            self._close(connection)
        else:
            self._watch(connection)

    def _read(self, connection: _Connection, side: socket.socket) -> None:
        data = side.recv(READ_BYTES)
        if not data:
            connection.ended = True
            connection.waiting_for(side).clear()  # nobody reads it any more
        elif side is connection.client:
            for key, request in connection.dialogue.requests(data):
                if self._is_doomed(request) and connection.awaited is None:
                    connection.awaited = key
            connection.to_server += data
        else:
            answered = list(connection.dialogue.answers(data))
            if connection.awaited is None:
                connection.to_client += data
            elif connection.awaited in answered:
                self.eaten += 1
                self._close(connection)

    def _is_doomed(self, request: bytes) -> bool:
        if self._rule is None:
            return False
        doomed = self._rule.applies(request)
        self.matched = self._rule.matched
        return doomed

    def _close(self, connection: _Connection) -> None:
        self._open.discard(connection)
        for side in (connection.client, connection.server):
            if side in self._selector.get_map():
                self._selector.unregister(side)
            side.close()
