"""Sends on one connection: within the rate limits; the opening, subscribes and unsubscribes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import anyio
from attrs import Factory, define

from tapeloom._runtime.backoff import Backoff
from tapeloom._runtime.rate_limits import RateLimit
from tapeloom.plugin import Clock, Codec, Endpoint, Link, Message, Subscription

from .subscriptions import Subscriptions

#: Answers that wait, at most: a venue that asks faster than the limit allows gets the latest ones.
_MAX_ANSWERS = 100


class Sender:
    """Sends the messages of one connection, one at a time and within the venue's rate limits.

    *host_limit* is the message rate limit that all connections to the host share.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock, host_limit: RateLimit | None) -> None:
        rate = endpoint.message_rate
        self.link: Link | None = None  #: set while the connection is open
        self.next_id = 1  #: the id of the next message
        self._answers: deque[str] = deque(maxlen=_MAX_ANSWERS)  # to the venue's questions
        self._is_answering = False
        self._limit = RateLimit(rate, clock, host_limit) if rate else host_limit
        self._reserve = _heartbeat_reserve(endpoint)
        self._lock = anyio.Lock()

    async def send(self, messages: Sequence[Message], on_send: Callable[[Message], None]) -> None:
        """Send messages; *on_send* is called with each right before it is sent."""
        self.next_id += len(messages)
        for message in messages:
            if self._limit is not None:
                await self._limit.acquire(reserve=self._reserve)
            async with self._lock:
                if self.link is None:
                    return
                on_send(message)
                await self.link.send(message.text)

    def queue_answer(self, text: str) -> bool:
        """Queue an answer to the venue; return whether `send_answers` is to be started."""
        self._answers.append(text)
        is_answering, self._is_answering = self._is_answering, True
        return not is_answering

    async def send_answers(self) -> None:
        """Send the queued answers in order, ahead of messages that wait."""
        while self._answers:
            await self.send_urgent(self._answers.popleft())
        self._is_answering = False

    async def send_urgent(self, text: str | None) -> None:
        """Send a message ahead of those that wait; without *text*, a WebSocket ping."""
        if self._limit is not None:
            await self._limit.acquire(urgent=True)
        async with self._lock:
            if self.link is not None:
                await (self.link.ping() if text is None else self.link.send(text))


def _heartbeat_reserve(endpoint: Endpoint) -> int:
    """Return the part of the message limit to leave for heartbeats, where its window lasts long."""
    rate, heartbeat = endpoint.message_rate, endpoint.heartbeat
    if rate is None or heartbeat is None or rate.seconds < 2 * heartbeat.interval_seconds:
        return 0
    return min(int(rate.seconds / heartbeat.interval_seconds) + 1, rate.count - 1)


@define(eq=False)
class Subscriber:
    """Opens the dialogue on one connection, subscribes and unsubscribes."""

    sender: Sender
    _subscriptions: Subscriptions
    _codec: Codec
    _clock: Clock
    _endpoint: Endpoint
    #: Called with the subscriptions of a message that has no reply, when it is sent.
    _on_live: Callable[[Sequence[Subscription], int | None], None]
    _retry_backoff: Backoff
    ready: anyio.Event = Factory(anyio.Event)  #: set once all were answered, or at the end
    opening_answered: anyio.Event = Factory(anyio.Event)  #: set when a message of the opening was
    _to_retry: list[Subscription] = Factory(list)  # refused, but not permanently
    _phase: Literal["opening", "subscribing", "subscribed"] = "opening"

    async def run(self) -> None:
        """Send the opening messages, such as a login, then subscribe to everything that is wanted."""
        for message in self._endpoint.opening_messages(self._clock.time_ns()):
            self.opening_answered = anyio.Event()
            if message.id is not None:
                self._subscriptions.opening = message
            await self._send([message])
            if message.id is not None:
                await self.opening_answered.wait()
        self._phase = "subscribing"
        await self._request(self._subscriptions.wanted)
        self._phase = "subscribed"
        self.update_ready()

    def update_ready(self) -> None:
        """Set `ready` if everything was sent and answered."""
        if self._phase == "subscribed" and not self._subscriptions.has_pending:
            self.ready.set()

    async def add(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe to more, unless the initial subscribe is still to come and includes them."""
        if self._may_send and subscriptions:
            await self._request(subscriptions)

    async def drop(self, subscriptions: Sequence[Subscription]) -> None:
        """Unsubscribe."""
        if self._may_send and subscriptions:
            messages = self._codec.encode_unsubscribe(subscriptions, self.sender.next_id)
            await self._send(messages, unsubscribes=True)

    def retry_later(self, refused: Sequence[Subscription]) -> bool:
        """Subscribe again with the next `retry`; return whether that is still to be called."""
        is_first = bool(refused) and not self._to_retry
        self._to_retry += refused
        return is_first

    async def retry(self) -> None:
        """Subscribe, after a pause, to what was refused, but not permanently."""
        await self._clock.sleep(self._retry_backoff.next())
        refused, self._to_retry = self._subscriptions.still_wanted(self._to_retry), []
        await self._request(refused)

    @property
    def _may_send(self) -> bool:
        return self.sender.link is not None and self._phase != "opening"

    async def _request(self, subscriptions: Sequence[Subscription]) -> None:
        await self._send(self._codec.encode_subscribe(subscriptions, self.sender.next_id))

    async def _send(self, messages: Sequence[Message], *, unsubscribes: bool = False) -> None:
        await self.sender.send(messages, partial(self._record, unsubscribes))

    def _record(self, unsubscribes: bool, message: Message) -> None:
        due = self._clock.monotonic() + self._endpoint.ack_timeout_seconds
        self._subscriptions.sent(message, due, unsubscribes=unsubscribes)
        if message.id is None and not unsubscribes:
            self._on_live(self._subscriptions.still_wanted(message.subscriptions), None)
