"""The gateway's side: TWS with protocol version 178 over TCP."""

from __future__ import annotations

import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tapeloom_simulator.server_api import HttpResponse

from .client import Client, Gateway
from .streams import ClientStream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tapeloom.units import Rate
    from tapeloom_simulator.server_api import (
        ClientConnection,
        HttpRequest,
        Market,
        RestBudget,
        VenueSession,
        VenueStream,
    )

__all__ = ["IBSide"]


#: Length above which a message is taken to be garbage, in bytes.
_MAX_MESSAGE_BYTES = 1 << 20


class IBSide:
    """The venue server: a gateway that is logged in."""

    dial_rate: Rate | None = None
    markets: Mapping[str, Sequence[str]] = MappingProxyType({"": ("AAPL/USD", "MSFT/USD")})
    faults: Mapping[str, frozenset[str]] = MappingProxyType(
        {
            "ib_1100": frozenset(),
            "ib_1101": frozenset(),
            "ib_1102": frozenset(),
            "ib_2103": frozenset(),
            "ib_317": frozenset({"book"}),
            "ib_10197": frozenset({"trades", "quotes", "book"}),
            "ib_10225": frozenset({"klines"}),
            "ib_halt": frozenset({"trades"}),
            "ib_sentinel": frozenset({"trades", "quotes"}),
        }
    )

    def __init__(self, market: Market) -> None:
        self._gateway = Gateway(market)

    def settings(self, url: str) -> dict[str, Any]:
        """Return ``[venue.ib]`` of a stack that uses the simulator at *url*."""
        host, _, port = url.partition("://")[2].rpartition(":")
        # The simulator does not limit repeated requests.
        return {"host": host.strip("[]"), "port": int(port), "repeat_after": "0s"}

    def frame(self, text: str) -> bytes:
        """Return the bytes of a message: its length, and its text."""
        payload = text.encode()
        return struct.pack(">I", len(payload)) + payload

    def new_unframer(self) -> Callable[[bytes], Sequence[str]]:
        """Return a function that splits the bytes of one client into messages.

        The first message follows on ``API`` and a NUL.
        """
        buffer, prefix_read = bytearray(), False

        def unframe_block(block: bytes) -> list[str]:
            nonlocal prefix_read
            buffer.extend(block)
            if not prefix_read:
                if not b"API\0".startswith(buffer[:4]):
                    raise ValueError("a client must start with API")
                if len(buffer) < 4:
                    return []
                del buffer[:4]
                prefix_read = True
            texts = []
            while len(buffer) >= 4:
                (size,) = struct.unpack_from(">I", buffer)
                if size > _MAX_MESSAGE_BYTES:
                    raise ValueError(f"a message of {size} bytes is too long")
                if len(buffer) < 4 + size:
                    break
                texts.append(buffer[4 : 4 + size].decode())
                del buffer[: 4 + size]
            return texts

        return unframe_block

    def open_connection(
        self, call: HttpRequest, line: ClientConnection
    ) -> VenueSession | HttpResponse:
        """Accept a client, which sends its id later."""
        clients = self._gateway.clients
        clients[:] = [client for client in clients if client.line.counts_as_open]
        client = Client(self._gateway, line)
        clients.append(client)
        return client

    def respond(self, call: HttpRequest) -> HttpResponse:
        """Return 404: the gateway has no REST interface."""
        return HttpResponse("", 404)

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        """Return None: the gateway has no REST interface."""
        return None

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        """Return *status*: the gateway has no REST interface."""
        return HttpResponse("", status)

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> list[str] | None:
        """Return the messages that a fault makes of *text*; None if it does not apply."""
        assert isinstance(stream, ClientStream)
        return stream.session.corrupt(fault, stream, text)
