"""Applies the facts of a tape to the parts of a feed, in the order in which they were recorded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from attrs import define

from tapeloom._compose.plan import FeedPlan
from tapeloom._connection.handover import Handover
from tapeloom._connection.subscription_monitor import SubscriptionMonitor
from tapeloom._connection.subscriptions import Subscriptions
from tapeloom._history.query_queue import HistoryClient
from tapeloom._stream.sinks.positions import parse, resume
from tapeloom._tape.reader import RecordedAnswer, RecordedFact
from tapeloom.errors import masked
from tapeloom.events import Event, Status
from tapeloom.plugin import Request, Subscription
from tapeloom.plugin.bounds import reject_out_of_bounds

from .monitor import FeedMonitor


@define(eq=False)
class _Supervised:
    """The connections of one recorded supervisor, by their numbers; 0 is none."""

    current: int = 0
    successor: int = 0
    handover: Handover | None = None


class FactReplay:
    """Takes the place of the supervisors, the history client and the timer of one feed.

    It tells the gap tracker, the monitors and the handovers what they were told while the tape was
    recorded. `read`, for the events of frames, and `apply`, for a fact, return what to emit.
    """

    def __init__(self, plan: FeedPlan, history_client: HistoryClient) -> None:
        self.symbols: Sequence[str] = ()  #: those of the recorded feed
        self.replies: deque[list[Status]] = deque()  #: the statuses in place of the next replies
        self.answer: RecordedAnswer | None = None  #: the last answer; the fact after it uses it
        self._plan, self._feed, self._gaps = plan, plan.feed, plan.gaps
        self._history_client = history_client
        self._monitor = SubscriptionMonitor(plan.gaps, plan.feed.clock)
        self._none_pending = Subscriptions([])
        self._feed_monitor: FeedMonitor | None = None
        self._supervised: dict[str, _Supervised] = {}  # by label
        self._by_connection: dict[int, _Supervised] = {}
        self._held: dict[int, tuple[Handover, list[Event]]] = {}  # reads during a handover
        self._requests: dict[Subscription, Request | None] = {}
        self._from_history: deque[list[Event]] = deque()  # until the fact "history_emitted"

    def read(self, connection: int, events: list[Event]) -> list[Event]:
        """Return what to emit for the events of one read."""
        supervised = self._by_connection.get(connection)
        if supervised is None or supervised.handover is None:
            return self._process(events)
        self._held[connection] = supervised.handover, events  # until the fact "handover_read"
        return []

    def _process(self, events: list[Event]) -> list[Event]:
        return self._monitor.process(events, self._none_pending)

    def apply(self, fact: RecordedFact) -> list[Event]:
        """Return what to emit for a fact; nothing for one of an unknown name.

        Raises any exception for a fact with malformed fields, or for an answer that cannot be read.
        """
        fields, gaps = fact.fields, self._gaps
        of: Any = fields.get("of")
        match fact.name:
            case "opened" | "handover" | "handover_read":
                return self._handover(fact.name, fields)
            case "reply":
                self.replies.append([self._status(fact.recv, status) for status in of])
            case "status":
                return [self._status(fact.recv, of)]
            case "live":
                symbols, channels = self._feed.symbols, self._feed.channels
                live = [
                    key for key in _subscriptions(of) if key[0] in symbols and key[1] in channels
                ]
                self._monitor.live(live, fields["replied_at"])
            case "refused":
                self._monitor.refused(_subscriptions(of), fact.recv)
            case "resumed":
                return resume(gaps, Subscription(*of), parse(fields["position"]))
            case "lost":
                stalled = {Subscription(*key): int(at) for key, at in fields["maybe_stalled"]}
                gaps.connection_lost(_subscriptions(of), int(fields["last_recv"]), stalled)
            case "stalled" if Subscription(*of) in gaps.live:
                gaps.stalled(Subscription(*of), fact.recv, min(float(fields["seconds"]), 1e9))
            case "leaving":
                return gaps.report_now({*map(str, of)})
            case "dropped":
                return gaps.close_all(fact.recv, {*map(str, of)})
            case "forgotten":
                self._monitor.forget(_subscriptions(of))
            case "stalls_checked":
                gaps.last_seen.pop_active(())
            case "feed_checked":
                self._feed_monitor = self._feed_monitor or FeedMonitor(self._plan)
                return self._feed_monitor.check()
            case "symbols":
                self._set_symbols(of, fields["unlisted"])
            case "listing":
                if (answer := self._take_answer()) and self._plan.history is not None:
                    self._feed.listing.update(self._plan.history.read_listing(answer.body))
            case "answered" | "requested" | "filled" | "given_up":
                if events := self._from_answer(fact.name, of):
                    self._from_history.append(events)
            case "history_emitted":
                return self._from_history.popleft() if self._from_history else []
        return []

    def _status(self, ts: int, of: Iterable[str]) -> Status:
        state, detail, symbol, channel = map(str, of)
        return Status(self._feed.venue, symbol, ts, ts, state, detail, channel)

    def _handover(self, name: str, fields: Any) -> list[Event]:
        connection = fields["connection"]
        if name == "handover_read":
            supervised = self._by_connection.get(connection, _Supervised())
            handover, events = self._held.pop(connection, (supervised.handover, []))
            if handover is not None and connection == supervised.successor:
                handover.buffer(events)
            elif handover is not None and connection == supervised.current:
                return self._process(handover.accept(events))
            return []
        supervised = self._supervised.setdefault(fields["label"], _Supervised())
        self._by_connection[connection] = supervised
        if name == "opened" and supervised.handover is not None:
            supervised.successor = connection
            return []
        supervised.current, supervised.successor = connection, 0
        if name == "opened":
            return []
        if fields["step"] in {"begun", "over"}:
            supervised.handover = Handover() if fields["step"] == "begun" else None
        elif supervised.handover is not None and fields["step"] == "switched":
            return self._process(supervised.handover.switch())
        elif supervised.handover is not None:
            supervised.handover.clear()
        return []

    def _set_symbols(self, symbols: Sequence[str], unlisted: Iterable[str]) -> None:
        """Add and remove the symbols that the recorded feed added and removed."""
        feed, before, self.symbols = self._feed, self.symbols, symbols
        new = [symbol for symbol in symbols if symbol not in (*before, *feed.symbols)]
        if not set(before) <= set(feed.symbols):
            new = []  # the replay is of some of the recorded symbols
        self._plan.add_symbols(new)
        feed.symbols[:] = [name for name in feed.symbols if name in symbols or name not in before]
        feed.symbols += new
        for symbol in unlisted:
            feed.listing.remove(symbol)

    def read_answer(self, answer: RecordedAnswer) -> list[Event]:
        """Return the events in an answer over REST. Raises whatever the adapter raises."""
        history, request = self._plan.history, Request(url=answer.url, body=answer.request)
        if history is None:
            return []
        return reject_out_of_bounds(history.read_answer(request, answer.body, answer.recv))

    def _take_answer(self) -> RecordedAnswer | None:
        """Return the last answer; an answer is used once, the next one may be missing on the tape."""
        answer, self.answer = self.answer, None
        return answer

    def _from_answer(self, name: str, of: Any) -> list[Event]:
        """Return what comes of an answer to a query, or to a request that is to fill gaps."""
        client = self._history_client
        if name == "answered":
            return self.read_answer(answer) if (answer := self._take_answer()) else []
        subscription = Subscription(*of)
        watched = self._gaps.watched.get(subscription)
        if watched is None:
            return []
        if name == "requested":
            self._requests[subscription] = client.request(watched.fill.next_query())
            return []
        request = self._requests.pop(subscription, None)
        if name == "given_up":
            return client.give_up(watched.fill)
        answer = self._take_answer()
        if request is None or answer is None or not is_same(request, answer):
            return []
        return client.fill(watched.fill, self.read_answer(answer), request, answer.recv)


def is_same(request: Request, answer: RecordedAnswer) -> bool:
    """Return whether *answer* is that to *request*; tapes hold no secrets of addresses."""
    return (masked(request.url), request.body) == (masked(answer.url), answer.request)


def _subscriptions(of: Iterable[Iterable[str]]) -> list[Subscription]:
    return [Subscription(str(symbol), str(channel)) for symbol, channel in of]
