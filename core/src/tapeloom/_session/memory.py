"""What came last of each subscription, to tell what was missed from what is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from tapeloom.events import Bar, Event, Trade
from tapeloom.feeds import LiveTrades, Subscription

__all__ = ["Memory"]


class Memory:
    """The last trade and bar of each subscription, and the last events of all.

    It works by the batch: live trades are entered in one go, by their lines.
    """

    def __init__(self) -> None:
        self._by_line: dict[int, Event] = {}
        self._last: dict[tuple[str, str], Event] = {}
        self._recent: deque[list[Event]] = deque()
        self._size = 0

    def note(self, events: list[Event]) -> None:
        """Remember a batch, as the parser gave it."""
        if type(events) is LiveTrades:
            self._by_line.update(zip(events.lines, events, strict=False))
        else:
            self._last.update(
                {
                    (event.symbol, event.channel): event
                    for event in events
                    if type(event) is Trade or type(event) is Bar
                }
            )
        self._recent.append(events)
        self._size += len(events)
        while self._size > _RECENT and len(self._recent) > 1:
            self._size -= len(self._recent.popleft())

    def last(self, one: Subscription) -> Event | None:
        """Return the last trade or bar of *one*, None where none has come."""
        found = self._last.get((one.symbol, one.channel))
        for event in self._by_line.values():
            if event.symbol == one.symbol and event.channel == one.channel:
                # By the venue's clock: ours may have been set between the two.
                return event if found is None or event.ts >= found.ts else found
        return found

    def trades(self) -> dict[tuple[str, str], Trade]:
        """Return the last trade of each symbol and channel."""
        found = {key: event for key, event in self._last.items() if type(event) is Trade}
        for event in self._by_line.values():
            older = found.get((event.symbol, event.channel))
            if type(event) is Trade and (older is None or event.recv > older.recv):
                found[event.symbol, event.channel] = event
        return found

    def known(self, one: Subscription, since: int) -> set[int | str]:
        """Return the ids of the trades of *one* at *since* and later, as far as is remembered."""
        return {
            event.id
            for events in self._recent
            for event in events
            if type(event) is Trade
            and event.ts >= since
            and event.symbol == one.symbol
            and event.channel == one.channel
        }

    def forget(self, some: Collection[Subscription]) -> None:
        """Remember nothing of these any more."""
        gone = {(one.symbol, one.channel) for one in some}
        for key in gone:
            self._last.pop(key, None)
        self._by_line = {
            line: event
            for line, event in self._by_line.items()
            if (event.symbol, event.channel) not in gone
        }


#: Events that are remembered one by one, at the least.
_RECENT = 1024
