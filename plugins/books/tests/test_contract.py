"""The stage through the contract of a stage."""

from __future__ import annotations

from tapeloom_testing.contract import StageContract


class TestBooks(StageContract):
    stage = "books"
