"""What core gives to pytest: the option with which contracts are written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_addoption"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--write-contract``."""
    parser.getgroup("tapeloom").addoption(
        "--write-contract",
        action="store_true",
        help="write what the contracts have proven into the packages, instead of comparing it",
    )
