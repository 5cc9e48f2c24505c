"""The contract of a transport: tests that dial a server on a loopback socket.

The server sends valid, fragmented, broken and refused traffic; each guarantee is one method.
"""

from __future__ import annotations

import pytest

from tapeloom_testing.contract.declared import TRANSPORT

from .failures import Failures
from .traffic import Traffic

__all__ = ["TransportContract"]


class TransportContract(Traffic, Failures):
    """Tests of every guarantee of a transport. Subclass it with a name that begins with ``Test``.

    Links are read with `receive` and, where offered, with `push_to`, on every supported event loop.
    """

    kind = "transport"
    guarantees = TRANSPORT

    @pytest.mark.parametrize("guarantee", TRANSPORT)
    def test_it_keeps(self, guarantee: str) -> None:
        """Test one guarantee."""
        self.prove(guarantee, "")

    def test_the_committed_conformance_equals_the_results(
        self, request: pytest.FixtureRequest
    ) -> None:
        """The conformance file of the package equals what was proven in this run."""
        self.level(request)
