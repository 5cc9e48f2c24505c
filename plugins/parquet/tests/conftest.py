"""What all tests of the package need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Undo what the command line configures: its log would go to a captured output that is closed."""
    yield
    structlog.reset_defaults()
