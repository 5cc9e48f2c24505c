"""The contract of this transport."""

from __future__ import annotations

from tapeloom.testing.contract import TransportContract


class TestPicows(TransportContract):
    transport = "picows"
