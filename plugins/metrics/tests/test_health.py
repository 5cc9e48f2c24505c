"""What /healthz and /readyz say: nothing is wrong, or sentences that say what is and what to do."""

from __future__ import annotations

import pytest
from attrs import evolve
from tapeloom import Status
from tapeloom.plugin import ConnectionState, QueueState, StreamState
from tapeloom_metrics.counts import EventCounts
from tapeloom_metrics.health import not_alive, not_ready

from .states import BOOK, TRADES, feed_state, stream_state

NOW = 1_700_000_000_000_000_000


def counted(*states: tuple[str, str]) -> EventCounts:
    """Return counts after statuses of the book or the trades of the feed."""
    counts = EventCounts(lambda: stream_state(feed_state()))
    for channel, state in states:
        counts.add([Status("acme", "BTC/USD", NOW, NOW, state, "why", channel)])
    return counts


SYNCED = counted(("book", "synced"))


def test_a_stream_in_which_all_is_well_is_alive_and_ready() -> None:
    state = stream_state(feed_state(), QueueState("files", 0, 10, "block", 1, 0, is_sink=True))

    assert not_alive(state, None) == []
    assert not_ready(state, SYNCED) == []


def test_a_stream_whose_event_loop_does_not_answer_is_not_alive() -> None:
    (reason,) = not_alive(stream_state(feed_state()), 7.0)

    assert reason.startswith("The event loop has not answered for 7 s.")


def test_a_stream_of_which_one_feed_has_ended_is_alive_but_not_ready() -> None:
    failed = feed_state(has_ended=True, error="the venue refuses the key.")
    state = StreamState(NOW, (failed, evolve(feed_state(), name="other")))

    assert not_alive(state, None) == []
    assert not_alive(stream_state(failed), None) == [
        "The stream has ended: feed 'acme' failed: the venue refuses the key. Start it again."
    ]
    (reason,) = not_ready(state, SYNCED)

    assert reason.startswith(
        "The stream lacks a feed: feed 'acme' failed: the venue refuses the key."
    )


CLOSED = ConnectionState("acme#1", None, (TRADES, BOOK), frozenset())
DOWN = QueueState(
    "pg", 5, 10, "block", 5, 0, is_sink=True, problem="the server does not answer. Start it."
)


@pytest.mark.parametrize(
    ("state", "counts", "beginning"),
    [
        (
            stream_state(feed_state(connections=(CLOSED,))),
            SYNCED,
            "1 of 1 connections of feed 'acme' are not open: acme#1. It is tried again by itself",
        ),
        (
            stream_state(feed_state(live=frozenset({BOOK}))),
            SYNCED,
            "1 of 2 subscriptions of feed 'acme' are not live: BTC/USD trades. Wait",
        ),
        (
            stream_state(feed_state(live=frozenset({BOOK}))),
            counted(("book", "synced"), ("trades", "refused")),
            "The venue refused 1 of 2 subscriptions of feed 'acme': BTC/USD trades (why). Take",
        ),
        (
            stream_state(feed_state()),
            counted(),
            "Feed 'acme': the order book of BTC/USD book has had no snapshot yet",
        ),
        (
            stream_state(feed_state()),
            counted(("book", "synced"), ("book", "stale")),
            "Feed 'acme': the order book of BTC/USD book has lost updates",
        ),
        (
            stream_state(feed_state(), DOWN),
            SYNCED,
            "The sink 'pg' cannot write: the server does not answer. Start it.",
        ),
    ],
    ids=["closed", "not live", "refused", "no snapshot", "stale", "sink down"],
)
def test_a_stream_is_not_ready_and_says_why(
    state: StreamState, counts: EventCounts, beginning: str
) -> None:
    (reason,) = not_ready(state, counts)

    assert reason.startswith(beginning)
