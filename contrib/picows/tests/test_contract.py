"""Runs the transport contract on picows."""

from __future__ import annotations

from tapeloom_testing.contract import TransportContract


class TestPicows(TransportContract):
    transport = "picows"
