"""Test tools for adapters, stages and stacks: fake venues, virtual time and contracts.

`FakeVenue` is a server on a loopback socket; `FakeWire` is the same without a socket. `VirtualClock`
is a clock that jumps ahead when all tasks wait; `virtual_backend` is an event loop that does so, and
`LoopClock` reads its time. None of them replaces code of tapeloom: they replace the network and
the system clock. `tapeloom_testing.contract` has the test classes that check a venue, a stage, a sink or
a transport; it needs pytest.
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
