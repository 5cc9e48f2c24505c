"""Judges a stream: whether it is alive, and whether it is ready, with sentences that say why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tapeloom.plugin import FeedState, StreamState, Subscription

from .books import book_states
from .counts import EventCounts

#: How many subscriptions or books a sentence names.
_MAX_NAMED = 3
_BOOKS = {
    "waiting": "has had no snapshot yet; if it stays so, see the statuses of its channel",
    "stale": "has lost updates and is loaded again; if it stays so, see the venue's REST limits",
    "crossed": "had its best bid above its best ask and is loaded again",
}


def not_alive(state: StreamState, loop_seconds: float | None) -> list[str]:
    """Return why a stream is not alive; nothing if it is.

    *loop_seconds*: for how long its event loop has not answered; None if it has.
    """
    if loop_seconds is not None:
        reason = f"The event loop has not answered for {loop_seconds:.0f} s. Something blocks it"
        return [f"{reason}: look for a callback or stage that waits without await, or restart it."]
    if state.feeds and all(feed.has_ended for feed in state.feeds):
        return [f"The stream has ended: {_ends(state.feeds)}. Start it again."]
    return []


def _ends(feeds: Sequence[FeedState]) -> str:
    return "; ".join(
        f"feed {feed.name!r} {'failed: ' + feed.error.rstrip('.') if feed.error else 'ended'}"
        for feed in feeds
    )


def not_ready(state: StreamState, counts: EventCounts) -> list[str]:
    """Return why a stream cannot be trusted now, and what to do; nothing if it can.

    Ready means: all feeds run and are connected, their subscriptions are live, their order books are
    synced, and all sinks can write.
    """
    reasons: list[str] = []
    for feed in state.feeds:
        reasons += [] if state.is_replay else _feed_problems(feed, counts)
    for queue in state.queues:
        if queue.problem:
            reasons.append(f"The sink {queue.name!r} cannot write: {queue.problem}")
    return reasons


def _feed_problems(feed: FeedState, counts: EventCounts) -> Iterator[str]:
    if feed.has_ended:
        yield f"The stream lacks a feed: {_ends([feed])}. Mend what it names, and restart."
        return
    closed = [
        connection.label for connection in feed.connections if connection.connected_seconds is None
    ]
    if closed:
        yield (
            f"{len(closed)} of {len(feed.connections)} connections of feed {feed.name!r} are not open:"
            f" {_named(closed)}. It is tried again by itself; the log says why it fails (feed_reconnecting)."
        )
    yield from _not_live(feed, counts)
    for book_state, advice in _BOOKS.items():
        books = [
            f"{symbol} {channel}"
            for (_, symbol, channel), known in book_states(feed, counts.books)
            if known == book_state
        ]
        if books:
            yield f"Feed {feed.name!r}: the order book of {_named(books)} {advice}."


def _not_live(feed: FeedState, counts: EventCounts) -> Iterator[str]:
    wanted = [Subscription(symbol, channel) for symbol in feed.symbols for channel in feed.channels]
    missing: list[Subscription] = []
    refused: list[Subscription] = []
    for subscription in wanted:
        if subscription in feed.live:
            continue
        key = feed.venue, subscription.symbol, subscription.channel
        (refused if key in counts.refused else missing).append(subscription)
    if refused:
        detail = counts.refused.get((feed.venue, refused[0].symbol, refused[0].channel), "")
        yield (
            f"The venue refused {len(refused)} of {len(wanted)} subscriptions of feed {feed.name!r}:"
            f" {_named(refused)} ({detail.rstrip('.')}). Take them out of the stack."
        )
    if missing:
        yield (
            f"{len(missing)} of {len(wanted)} subscriptions of feed {feed.name!r} are not live:"
            f" {_named(missing)}. Wait until the venue acknowledges them; if it does not, check"
            " that it has these channels for these symbols."
        )


def _named(items: Sequence[object]) -> str:
    names = ", ".join(map(str, items[:_MAX_NAMED]))
    more = len(items) - _MAX_NAMED
    return f"{names} and {more} more" if more > 0 else names
