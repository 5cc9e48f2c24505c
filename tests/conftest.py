"""What the tests that cross packages share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tapeloom_testing import captures

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes a minute, so that no worker is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings; the test is skipped where there is none."""
    folder = captures(ROOT)
    if folder is None:
        pytest.skip("no recordings: TAPELOOM_CAPTURES names no folder")
    return folder


@pytest.fixture(scope="session")
def oracles(recordings: Path) -> dict[str, Any]:
    """What each recording must give, computed without tapeloom."""
    found: dict[str, Any] = json.loads((recordings / "oracles/oracles.json").read_text())[
        "captures"
    ]
    return found
