"""States of streams in which all is well, and plain HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping

from tapeloom.plugin import (
    ConnectionState,
    FeedState,
    QueueState,
    StageTime,
    StreamState,
    Subscription,
)


def get(
    address: tuple[str, int], path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Return the code and the body of an answer."""
    request = urllib.request.Request(
        f"http://{address[0]}:{address[1]}{path}", headers=dict(headers or {})
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


TRADES, BOOK = Subscription("BTC/USD", "trades"), Subscription("BTC/USD", "book")


def feed_state(**changes: object) -> FeedState:
    """Return the state of a feed in which all is well, with changes."""
    fields: dict[str, object] = {
        "connections": (
            ConnectionState("acme#1", 12.0, (TRADES, BOOK), frozenset({TRADES, BOOK})),
        ),
        "live": frozenset({TRADES, BOOK}),
        "stages": {"books": StageTime()},
        **changes,
    }
    return FeedState("acme", "acme", "", ("BTC/USD",), ("trades", "book"), {}, **fields)  # type: ignore[arg-type]


def stream_state(feed: FeedState, *queues: QueueState) -> StreamState:
    return StreamState(1_700_000_000_000_000_000, (feed,), queues)
