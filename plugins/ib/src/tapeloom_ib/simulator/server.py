"""The gateway's side: what TWS answers a client that speaks protocol version 178, over TCP."""

from __future__ import annotations

import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tapeloom_simulator.server_api import HttpResponse

from .client import Client, Gateway
from .streams import Feedline

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


class IBSide:
    """A gateway that is logged in."""

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
        # Nobody counts how often the same is asked for here.
        return {"host": host.strip("[]"), "port": int(port), "repeat_after": "0s"}

    def frame(self, text: str) -> bytes:
        """Return a message: its length, and its fields, each ended by a NUL."""
        payload = text.encode()
        return struct.pack(">I", len(payload)) + payload

    def new_unframer(self) -> Callable[[bytes], Sequence[str]]:
        """Return what reads the messages of one client; the first follow on ``API`` and a NUL."""
        held, greeted = bytearray(), False

        def take(block: bytes) -> list[str]:
            nonlocal greeted
            held.extend(block)
            if not greeted:
                if not b"API\0".startswith(held[:4]):
                    raise ValueError("a client begins with API")
                if len(held) < 4:
                    return []
                del held[:4]
                greeted = True
            texts = []
            while len(held) >= 4:
                (size,) = struct.unpack_from(">I", held)
                if size > 1 << 20:
                    raise ValueError(f"no message has {size} bytes")
                if len(held) < 4 + size:
                    break
                texts.append(held[4 : 4 + size].decode())
                del held[: 4 + size]
            return texts

        return take

    def open_connection(
        self, call: HttpRequest, line: ClientConnection
    ) -> VenueSession | HttpResponse:
        """Take a client; who it is, it says later."""
        clients = self._gateway.clients
        clients[:] = [one for one in clients if one.line.counts_as_open]
        client = Client(self._gateway, line)
        clients.append(client)
        return client

    def respond(self, call: HttpRequest) -> HttpResponse:
        """There is no REST."""
        return HttpResponse("", 404)

    def request_cost(self, call: HttpRequest) -> tuple[RestBudget, int] | None:
        """There is no REST."""
        return None

    def rate_limit_response(
        self, status: int, retry_after: int, budget: RestBudget | None
    ) -> HttpResponse:
        """There is no REST."""
        return HttpResponse("", status)

    def corrupt(self, fault: str, stream: VenueStream, text: str) -> list[str] | None:
        """Return what the gateway says in place of *text*."""
        assert isinstance(stream, Feedline)
        return stream.session.corrupt(fault, stream, text)
