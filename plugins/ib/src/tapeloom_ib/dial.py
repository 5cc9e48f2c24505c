"""Connection to the gateway with ib_async, without its requests for account data."""

from __future__ import annotations

import asyncio  # noqa: TID251 ib_async runs on nothing else
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from ib_async import IB, StartupFetchNONE
from ib_async.decoder import Decoder
from tapeloom.errors import ConnectionFailed, FeedError, Throttled

from .wire import PARSERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .settings import Settings

__all__ = ["client", "dial", "failure", "leave"]


class _TextDecoder(Decoder):
    """ib_async's decoder, which passes market data to *on_data* as lists of texts.

    Messages that cannot be parsed go to *on_unreadable*; ib_async would only log them.
    """

    def __init__(
        self,
        wrapper: Any,
        on_data: Callable[[list[str]], None],
        on_unreadable: Callable[[list[str]], None],
    ) -> None:
        super().__init__(wrapper, 0)
        self._on_data, self._on_unreadable = on_data, on_unreadable

    def interpret(self, fields: list[str]) -> None:
        try:
            if fields[0] in PARSERS:
                self._on_data(fields)
            else:
                self.handlers[int(fields[0])](fields)
        except Exception:  # an error in one message must not affect the next
            self._on_unreadable(fields)


def client(on_data: Callable[[list[str]], None], on_unreadable: Callable[[list[str]], None]) -> IB:
    """Return a client that calls *on_data* with market data as text.

    It calls *on_unreadable* with messages that cannot be parsed.
    """
    # ib_async logs whole messages with account numbers. The session reports errors as events.
    logging.getLogger("ib_async").setLevel(logging.CRITICAL + 1)
    ib = IB()
    ib.RaiseRequestErrors = True
    ib.errorEvent.clear()  # its handler requests the balances of the account after each outage
    ib.client.decoder = _TextDecoder(ib.wrapper, on_data, on_unreadable)
    return ib


async def dial(ib: IB, settings: Settings, client_id: int) -> None:
    """Connect and log in, without requests for account data.

    Raises OSError or TimeoutError.
    """
    closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def failed(message: str) -> None:
        if not closed.done():
            closed.set_result(message)

    # A gateway that refuses this machine accepts the connection and closes it. ib_async does not
    # report that.
    events = (ib.client.apiError, ib.client.conn.disconnected)
    for event in events:
        event += failed
    dialling = asyncio.ensure_future(
        ib.connectAsync(
            *settings.address, clientId=client_id, timeout=settings.connect_within, readonly=True,
            fetchFields=StartupFetchNONE,
        )
    )  # fmt: skip
    try:
        await asyncio.wait({dialling, closed}, return_when=asyncio.FIRST_COMPLETED)
        if not dialling.done():
            raise ConnectionResetError("the gateway closed the connection")
        dialling.result()
    finally:
        for event in events:
            event -= failed
        dialling.cancel()
        await asyncio.gather(dialling, return_exceptions=True)


def leave(ib: IB) -> None:
    """Close the connection, whatever state it is in.

    ib_async sends a last message first, and closes nothing if that fails, as on a connection that the
    other side has reset. Unsent data to a peer that does not read would keep the socket open, so
    the transport is aborted.
    """
    library: Any = ib.client  # its methods have no types
    transport = library.conn.transport
    with contextlib.suppress(OSError, RuntimeError):
        ib.disconnect() if ib.isConnected() else library.disconnect()
    if transport is not None and (
        not transport.is_closing() or transport.get_write_buffer_size() > 0
    ):
        transport.abort()


def failure(
    feed: str, settings: Settings, client_id: int, problem: BaseException, busy: str
) -> FeedError:
    """Return the error of a failed dial; *busy* is the venue's message that the client id is taken."""
    address = "{}:{}".format(*settings.address)
    if busy:
        return Throttled(
            feed,
            f"{address} has a client {client_id} already: {busy} Set another client_id in [venue.ib]"
            " if that client is not an old connection of this feed.",
            0,
            settings.busy_wait,
        )
    if isinstance(problem, ConnectionRefusedError):
        reason = "no program listens there"
    elif isinstance(problem, TimeoutError):
        reason = f"no answer within {settings.connect_within:g} s"
    else:
        reason = str(problem) or type(problem).__name__
    return ConnectionFailed(
        feed,
        f"{address} could not be used: {reason}. Start TWS or IB Gateway, log in, and allow this machine"
        " in Configuration → API → Settings.",
    )
