"""For the tests of adapters, stages and stacks: venues that are faked on the wire, time, contracts.

`FakeVenue` is a server on a loopback socket, `FakeWire` the same without a socket, `VirtualClock` a
clock that moves when everybody waits, `virtual_backend` an event loop of which the same is true, with
`LoopClock` to tell its time. None of them replaces code of tapeloom: they stand where the
network and the world stand. `tapeloom.testing.contract` has the batteries that prove a venue, a
stage or a sink; it needs pytest.
"""

from __future__ import annotations

from .clock import VirtualClock
from .fakevenue import FakeClient, FakeVenue
from .fakewire import FakeWire, WireEnd
from .recordings import captures
from .virtual import LoopClock, virtual_backend

__all__ = [
    "FakeClient",
    "FakeVenue",
    "FakeWire",
    "LoopClock",
    "VirtualClock",
    "WireEnd",
    "captures",
    "virtual_backend",
]
