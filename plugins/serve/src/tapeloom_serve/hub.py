"""Distributes the batches of one stream to any number of clients, each with a queue of its own.

Everything in a hub runs in one event loop, and nothing in it waits: what a client cannot take is dropped
from its queue and announced to it as a Gap, as core does for its consumers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from attrs import define
from tapeloom import Book, Event, Gap, Queue, QueueSpec

from .latest import Latest
from .lines import Lines, line
from .selection import Key, Selection

__all__ = ["Client", "Hub", "SharedBatch"]

#: Number of events of a message to a client, about, where more are waiting.
_MAX_MESSAGE_EVENTS = 2000
_key: Callable[[Event], Key] = attrgetter("type", "venue", "symbol", "channel")


class SharedBatch(list[Event]):
    """Events for all clients with the same selection, and their text, which is made once."""

    __slots__ = ("_lines", "_text", "messages", "serial")

    def __init__(self, events: Sequence[Event], lines: Lines, serial: int) -> None:
        super().__init__(events)
        self._lines = lines
        self._text = ""
        self.messages: Any = None  #: The batch in another form, kept by whoever made it first.
        self.serial = serial  #: The number of the batch that the hub published.

    @property
    def text(self) -> str:
        """The events as lines of JSON."""
        self.encode()
        return self._text

    def encode(self) -> None:
        """Make the text, unless it has been made."""
        if not self._text:
            self._text = "\n".join(map(self._lines.of, self))


@define
class _Published:
    """One batch of the stream: its events, and the indices of the events of each key."""

    events: Sequence[Event]
    by_key: dict[Key, list[int]]
    lines: Lines
    serial: int

    def select(self, selection: Selection) -> SharedBatch | None:
        """Return the selected events, in order; None if there are none."""
        chosen = [indices for key, indices in self.by_key.items() if selection.selects(key)]
        if not chosen:
            return None
        if len(chosen) == len(self.by_key):
            events = self.events
        else:
            indices = chosen[0] if len(chosen) == 1 else sorted(i for part in chosen for i in part)
            events = [self.events[index] for index in indices]
        return SharedBatch(events, self.lines, self.serial)


class Client:
    """One receiver of a hub's events; made by `Hub.attach`."""

    def __init__(self, hub: Hub, selection: Selection, spec: QueueSpec, name: str) -> None:
        self.selection = selection
        self.wants_text = (
            True  #: Whether it is sent lines of JSON, which are then made with the batch.
        )
        self.queue = Queue(spec, None, name)
        self._hub = hub
        self._stale_books: dict[tuple[str, str, str], int] = {}  # see `_repair_books`

    async def get(self) -> list[list[Event]]:
        """Wait for events and return those that are waiting, as batches; an empty list at the end.

        Raises QueueOverflow if the queue was full and the policy is "error".
        """
        batch = await self.queue.get()
        if not batch:
            return []
        batches, count = [self._repair_books(batch)], len(batch)
        while count < _MAX_MESSAGE_EVENTS and (batch := self.queue.get_nowait()):
            batches.append(self._repair_books(batch))
            count += len(batch)
        return batches

    def select(self, selection: Selection, *, snapshot: bool = True) -> list[Event]:
        """Change what the client receives; return the latest states that are new to it."""
        before, self.selection = self.selection, selection
        self._hub.move(self, before)
        if not snapshot:
            return []
        return [
            event for event in self._hub.latest.select(selection) if not before.selects(_key(event))
        ]

    def close(self) -> None:
        """Detach from the hub and discard what is queued."""
        self._hub.detach(self)

    def _repair_books(self, batch: list[Event]) -> list[Event]:
        """Put a snapshot after the gap of an order book, and leave out the queued updates it contains.

        Without it, a client that has lost one delta could not use those that follow.
        """
        if isinstance(batch, SharedBatch):
            if not self._stale_books:
                return batch
            serial = batch.serial
            self._stale_books = {
                key: until for key, until in self._stale_books.items() if serial <= until
            }
            return self._without_stale_books(batch) if self._stale_books else batch
        # The queue has put gaps before these events, or conflated them.
        count = next((i for i, event in enumerate(batch) if not _is_overflow(event)), len(batch))
        gaps, snapshots = batch[:count], list[Event]()
        for gap in gaps:
            key = gap.venue, gap.symbol, gap.channel
            if found := self._hub.latest.book(key):
                snapshots += found
                self._stale_books[key] = self._hub.serial
        if not self._stale_books:
            return batch
        return [*gaps, *snapshots, *self._without_stale_books(batch[count:])]

    def _without_stale_books(self, events: list[Event]) -> list[Event]:
        stale = self._stale_books
        return [
            event
            for event in events
            if type(event) is not Book or (event.venue, event.symbol, event.channel) not in stale
        ]


def _is_overflow(event: Event) -> bool:
    return type(event) is Gap and event.cause == "overflow"


def _nothing() -> None:
    """Do nothing."""


class Hub:
    """Distributes batches to clients, and keeps the latest states for those that join late."""

    def __init__(self) -> None:
        self.latest = Latest()
        self.serial = 0  #: The number of the latest batch.
        self.events = 0  #: Number of events published.
        #: Called with each batch and the indices of its events by key, before the clients get it.
        self.observers: list[Callable[[Sequence[Event], dict[Key, list[int]]], None]] = []
        self._groups: dict[Selection, dict[Client, None]] = {}
        self._closed = False
        self._on_empty: Callable[[], object] = _nothing

    @property
    def clients(self) -> list[Client]:
        """The clients that are attached."""
        return [client for group in self._groups.values() for client in group]

    @property
    def is_in_use(self) -> bool:
        """Whether anybody receives events; from any thread."""
        return bool(self._groups or self.observers)

    def publish(self, events: Sequence[Event]) -> None:
        """Put a batch into the queues of all clients that have selected some of it."""
        by_key: dict[Key, list[int]] = {}
        for index, key in enumerate(map(_key, events)):
            if key in by_key:
                by_key[key].append(index)
            else:
                by_key[key] = [index]
        self.serial += 1
        self.events += len(events)
        for key, indices in by_key.items():
            self.latest.add(key, [events[index] for index in indices])
        for observe in self.observers:
            observe(events, by_key)
        batch = _Published(events, by_key, Lines(events), self.serial)
        for selection, clients in self._groups.items():
            if selected := batch.select(selection):
                if any(client.wants_text for client in clients):
                    selected.encode()
                for client in clients:
                    client.queue.put_nowait(selected)

    def attach(
        self, selection: Selection | None, spec: QueueSpec, name: str, *, snapshot: bool = True
    ) -> tuple[Client, list[Event]]:
        """Return a new client, and the latest states that are to be sent to it first.

        Without a selection it receives nothing until it selects. A client is closed by its user.
        """
        client = Client(self, selection or NOTHING, spec, name)
        self._groups.setdefault(client.selection, {})[client] = None
        if self._closed:
            client.queue.close()
        return client, self.latest.select(client.selection) if snapshot else []

    def move(self, client: Client, before: Selection) -> None:
        """Take account of a client's new selection."""
        self._remove(client, before)
        self._groups.setdefault(client.selection, {})[client] = None

    def detach(self, client: Client) -> None:
        """Remove a client."""
        self._remove(client, client.selection)
        client.queue.close()
        if self._closed and not self._groups:
            self._on_empty()

    def _remove(self, client: Client, selection: Selection) -> None:
        group = self._groups.get(selection, {})
        group.pop(client, None)
        if not group:
            self._groups.pop(selection, None)

    def close(self, on_empty: Callable[[], object] = _nothing) -> None:
        """End all clients after what is queued, and those that come later at once.

        *on_empty* is called when the last one has detached.
        """
        self._closed, self._on_empty = True, on_empty
        for client in self.clients:
            client.queue.close()
        if not self._groups:
            on_empty()


#: Selects no event: there is no type without a name.
NOTHING = Selection(types=frozenset({""}))


def text_of(batch: list[Event]) -> str:
    """Return a batch as lines of JSON."""
    return batch.text if isinstance(batch, SharedBatch) else "\n".join(map(line, batch))
