"""How the gateway is reached: ib_async, kept from knowing more than it needs to."""

from __future__ import annotations

import asyncio  # noqa: TID251 ib_async runs on nothing else
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from ib_async import IB, StartupFetchNONE
from ib_async.decoder import Decoder
from tapeloom.errors import ConnectionFailed, FeedError, Throttled

from .wire import READERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .settings import Settings

__all__ = ["client", "dial", "failure", "leave"]


class _TextDecoder(Decoder):
    """ib_async's decoder, but that market data goes to *take* as text.

    What cannot be read goes to *unreadable*; ib_async would only log it.
    """

    def __init__(
        self,
        wrapper: Any,
        take: Callable[[list[str]], None],
        unreadable: Callable[[list[str]], None],
    ) -> None:
        super().__init__(wrapper, 0)
        self._take, self._unreadable = take, unreadable

    def interpret(self, fields: list[str]) -> None:
        try:
            if fields[0] in READERS:
                self._take(fields)
            else:
                self.handlers[int(fields[0])](fields)
        except Exception:  # whatever is wrong with a message, the next one is not to suffer
            self._unreadable(fields)


def client(take: Callable[[list[str]], None], unreadable: Callable[[list[str]], None]) -> IB:
    """Return a client whose market data goes to *take* as text, and what it cannot read to *unreadable*."""
    # It logs frames, accounts and all, and we tell what matters as events.
    logging.getLogger("ib_async").setLevel(logging.CRITICAL + 1)
    ib = IB()
    ib.RaiseRequestErrors = True
    ib.errorEvent.clear()  # it would ask for the account's balances after each outage
    ib.client.decoder = _TextDecoder(ib.wrapper, take, unreadable)
    return ib


async def dial(ib: IB, settings: Settings, client_id: int) -> None:
    """Connect and log in, asking for nothing of the account.

    Raises OSError or TimeoutError.
    """
    closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def failed(message: str) -> None:
        if not closed.done():
            closed.set_result(message)

    # A gateway that refuses this machine accepts and closes, of which the library says nothing.
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
            raise ConnectionResetError("it closed the connection")
        dialling.result()
    finally:
        for event in events:
            event -= failed
        dialling.cancel()
        await asyncio.gather(dialling, return_exceptions=True)


def leave(ib: IB) -> None:
    """Close the connection, whatever state it is in.

    The library says goodbye first, and closes nothing where that fails, as on a connection that the
    other side has reset; and what a peer that does not read leaves unsent would keep the socket open.
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
    """Return what a failed dial means; *busy* is the venue's word that the client id is taken."""
    place = "{}:{}".format(*settings.address)
    if busy:
        return Throttled(
            feed,
            f"{place} has a client {client_id} already: {busy} Set another client_id in [venue.ib]"
            " if that client is not an old connection of this feed.",
            0,
            settings.busy_wait,
        )
    if isinstance(problem, ConnectionRefusedError):
        why = "nobody listens there"
    elif isinstance(problem, TimeoutError):
        why = f"no answer within {settings.connect_within:g} s"
    else:
        why = str(problem) or type(problem).__name__
    return ConnectionFailed(
        feed,
        f"{place} could not be used: {why}. Start TWS or IB Gateway, log in, and allow this machine"
        " in Configuration → API → Settings.",
    )
