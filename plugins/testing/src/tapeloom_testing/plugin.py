"""The pytest plugin: the option ``--write-contract`` and the fixture `replayed`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tapeloom.events import Event

__all__ = ["pytest_addoption", "pytest_configure", "replayed"]


def pytest_configure() -> None:
    """Let logged exceptions be printed plainly.

    Where rich is installed, structlog prints the values of all variables, which takes longer than a test
    may wait for what is logged often.
    """
    for processor in structlog.get_config()["processors"]:
        if isinstance(processor, structlog.dev.ConsoleRenderer):
            processor.exception_formatter = structlog.dev.plain_traceback


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--write-contract``."""
    parser.getgroup("tapeloom").addoption(
        "--write-contract",
        action="store_true",
        help="write the conformance results into the packages, instead of comparing them",
    )


@pytest.fixture
def replayed(request: pytest.FixtureRequest) -> Callable[..., Awaitable[list[Event]]]:
    """Return a function that replays a tape, or a bundle, from the folder of the test.

    ``events = await replayed("gap.jsonl.zst", stages=["quality", "books"])``: the tape's
    header configures the feed, and keyword arguments override its keys. *tables* are the other tables
    of the stack: ``tables={"stage": {"bars": {"every": "1m"}}}``.
    """

    async def replay(
        tape: Path | str, *, tables: dict[str, Any] | None = None, registry: Any = None, **feed: Any
    ) -> list[Event]:
        import tapeloom
        from tapeloom.harness import Tape

        path = request.path.parent / tape
        given = {**(Tape(path).head or {}), **feed}
        async with tapeloom.replay(
            path, {"feed": [given], **(tables or {})}, registry=registry
        ) as stream:
            return [event async for event in stream]

    return replay
