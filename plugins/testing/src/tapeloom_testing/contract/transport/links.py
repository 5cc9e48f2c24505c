"""Dials a server on a loopback socket with a transport, on every event loop that it supports."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from tapeloom.errors import unwrap_single
from tapeloom.harness import BACKENDS, SystemClock
from tapeloom.plugin import Dial, Endpoint, Feed, Link, Network, PushLink
from wsproto import events as ws

from tapeloom_testing.contract.declared import NotApplicable
from tapeloom_testing.contract.proving import Proving
from tapeloom_testing.contract.readers import Reader
from tapeloom_testing.fakevenue import FakeClient, FakeVenue

__all__ = ["Links", "Script", "close_frame", "listening"]

#: What the venue does with a client.
Script = Callable[[FakeClient], Awaitable[Any]]


async def close_frame(client: FakeClient) -> ws.Event:
    """Wait for the client's close frame and return it."""
    while not isinstance(event := await client.receive(), ws.CloseConnection):
        pass
    return event


@asynccontextmanager
async def listening(serve: Callable[[Any], Awaitable[None]]) -> AsyncIterator[int]:
    """Run a plain TCP server and yield its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


class Links(Proving):
    """What the tests of a transport share: dialling, and reading with each of its methods."""

    transport: str  #: the name of its entry point

    @asynccontextmanager
    async def dialling(self, network: Network) -> AsyncIterator[Dial]:
        """Yield the transport's dial function, as its hook returns it."""
        registry = self.registry()
        registry.load(self.transport)
        feed = Feed("contract", "contract", clock=SystemClock(), network=network)
        yield registry.call(self.transport, "transport", feed=feed)

    def check(self, guarantee: str, place: str) -> None:
        """Test one guarantee; raise ContractViolation or NotApplicable."""
        check = getattr(self, f"_{guarantee}")
        if guarantee == "backends":
            check()
            return
        for backend in self.loops():
            if importlib.util.find_spec(backend) is None:
                raise NotApplicable(f"{backend} is not installed", here=True)
            try:
                anyio.run(check, backend=backend)
            except BaseExceptionGroup as group:
                raise unwrap_single(group) from None

    def loops(self) -> list[str]:
        """Return the event loops that the transport supports."""

        async def supported() -> frozenset[str]:
            async with self.dialling(Network()) as dial:
                return frozenset(getattr(dial, "backends", BACKENDS))

        backends = anyio.run(supported)
        return [backend for backend in BACKENDS if backend in backends]

    @asynccontextmanager
    async def dialled(
        self, venue: FakeVenue, network: Network | None = None, **more: Any
    ) -> AsyncIterator[Link]:
        """Yield a link to *venue*; *more* are further fields of its `Endpoint`."""
        async with (
            venue.serve(),
            self.dialling(network or Network()) as dial,
            dial(Endpoint(url=venue.url(), **more)) as link,
        ):
            yield link

    async def read(
        self, script: Script, inspect: Callable[[Reader, Link], Awaitable[None]], **more: Any
    ) -> None:
        """Run *inspect* on a link to a venue that runs *script*, once per read method."""
        async with self.dialled(FakeVenue(script), **more) as link:
            await inspect(Reader(link, "receive"), link)
        if isinstance(link, PushLink):
            async with self.dialled(FakeVenue(script), **more) as link:
                await inspect(Reader(link, "deliver"), link)
