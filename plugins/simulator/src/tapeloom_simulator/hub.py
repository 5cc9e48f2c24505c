"""Route the market's steps through the subscribed streams to the connections' send buffers.

Each text is encoded and framed once, and the bytes are shared by all subscribers.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .injector import Injector
    from .server_api import MarketStep, VenueStream
    from .subscriber import Subscriber
    from .truth import SentStream, Truth

__all__ = ["Hub"]


class _Live:
    """A stream with at least one subscriber."""

    __slots__ = ("groups", "sent", "stream")

    def __init__(self, stream: VenueStream) -> None:
        self.stream = stream
        self.groups: dict[tuple[str, str], list[Subscriber]] = {}
        self.sent: dict[Subscriber, SentStream] = {}


class Hub:
    """All subscribed streams. `frame` returns the wire bytes of a text."""

    def __init__(
        self, truth: Truth, injector: Injector | None, frame: Callable[[str], bytes]
    ) -> None:
        self.frame = frame
        self._truth, self._injector = truth, injector
        self._live: dict[VenueStream, _Live] = {}
        self._stepping: defaultdict[str, list[_Live]] = defaultdict(list)
        self._ticking: dict[int, list[_Live]] = {}
        self.subscription_count = 0  #: subscriptions made so far

    # --------------------------------------------------------------------------- subscriptions

    def subscribe(self, stream: VenueStream, follower: Subscriber, before: str, after: str) -> None:
        """Send *stream* to *follower* from now on, each message as *before* + message + *after*."""
        live = self._live.get(stream)
        if live is None:
            live = self._live[stream] = _Live(stream)
            stream.start()
            self._streams_like(live).append(live)
        if follower in live.sent:
            self._ungroup(live, follower)
        else:
            live.sent[follower] = self._truth.record_subscribed(
                follower.number, stream.name, stream.symbol, stream.channel
            )
            self.subscription_count += 1
        live.groups.setdefault((before, after), []).append(follower)

    def unsubscribe(self, stream: VenueStream, follower: Subscriber) -> None:
        """Stop sending *stream* to *follower*."""
        live = self._live[stream]
        self._truth.record_unsubscribed(live.sent.pop(follower))
        self._ungroup(live, follower)
        if not live.groups:
            del self._live[stream]
            self._streams_like(live).remove(live)
            if stream.interval_ns and not self._ticking[stream.interval_ns]:
                del self._ticking[stream.interval_ns]

    def _streams_like(self, live: _Live) -> list[_Live]:
        if live.stream.interval_ns:
            return self._ticking.setdefault(live.stream.interval_ns, [])
        return self._stepping[live.stream.symbol]

    @staticmethod
    def _ungroup(live: _Live, follower: Subscriber) -> None:
        for envelope, followers in live.groups.items():
            if follower in followers:
                followers.remove(follower)
                if not followers:
                    del live.groups[envelope]
                return

    # ------------------------------------------------------------------------- publishing

    def publish_steps(self, steps: Iterable[MarketStep]) -> None:
        """Send the texts of each step to the subscribers of its symbol and of all symbols."""
        stepping = self._stepping
        all_symbol_streams = stepping.get("", ())
        for step in steps:
            for live in stepping.get(step.symbol, ()):
                texts = live.stream.encode_step(step)
                if texts:
                    self._push(live, texts)
            for live in all_symbol_streams:
                texts = live.stream.encode_step(step)
                if texts:
                    self._push(live, texts)

    def next_tick(self, now: int) -> int | None:
        """Return when the next timed message is due after *now*; None without timed streams."""
        return min((now // every + 1) * every for every in self._ticking) if self._ticking else None

    def publish_tick(self, now: int) -> None:
        """Send the timed messages that are due at *now*."""
        for live in list(self._due(now)):
            texts = live.stream.encode_tick(now)
            if texts:
                self._push(live, texts)

    def _due(self, now: int) -> Iterator[_Live]:
        for every, streams in self._ticking.items():
            if now % every == 0:
                yield from streams

    def _push(self, live: _Live, texts: Sequence[str]) -> None:
        if self._injector is not None:
            self._push_with_faults(live, texts, self._injector)
            return
        frame = self.frame
        for (before, after), followers in live.groups.items():
            if before or after:
                frames = [frame(before + text + after) for text in texts]
            else:
                frames = [frame(text) for text in texts]
            for follower in followers:
                follower.queue(frames)
        for sent in live.sent.values():
            sent.count += len(texts)
            if sent.texts is not None:
                sent.texts += texts

    def _push_with_faults(self, live: _Live, texts: Sequence[str], injector: Injector) -> None:
        """Like `_push`, but apply faults, which may change the texts for each subscriber."""
        frame = self.frame
        # A fault may close a connection, which removes it from these lists during the loop.
        groups = [(envelope, list(followers)) for envelope, followers in live.groups.items()]
        for (before, after), followers in groups:
            for follower in followers:
                sent_texts = [
                    out for text in texts for out in injector.corrupt(follower, live.stream, text)
                ]
                follower.queue(
                    [frame(text if bare else before + text + after) for text, bare in sent_texts]
                )
                if sent := live.sent.get(follower):
                    sent.count += len(sent_texts)
                    if sent.texts is not None:
                        sent.texts += [text for text, _ in sent_texts]
