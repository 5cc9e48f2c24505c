"""What core gives to pytest: the option with which contracts are written down, and the replay of a tape."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tapeloom.events import Event

__all__ = ["pytest_addoption", "replayed"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--write-contract``."""
    parser.getgroup("tapeloom").addoption(
        "--write-contract",
        action="store_true",
        help="write what the contracts have proven into the packages, instead of comparing it",
    )


@pytest.fixture
def replayed(request: pytest.FixtureRequest) -> Callable[..., Awaitable[list[Event]]]:
    """Return a function that replays a tape, or a bundle, that lies beside the test.

    ``events = await replayed("gap.jsonl.zst", stages=["quality", "books"])``: the tape says of which
    feed it is, and any key of a feed may be said otherwise. *tables* are the other tables of the
    stack: ``tables={"stage": {"bars": {"every": "1m"}}}``. The rest goes to `tapeloom.replay`.
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
